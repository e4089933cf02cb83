"""How many bytes a run writes to its disk or object store, and how many stay: what a dry run says before any is paid.

Weights are counted from the sizes of the models; records are bounded from above by their numbers of tokens, at
``TOKEN_BYTES`` each uncompressed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from actors.placement.memory import FLOAT32, Sizes
from scpl_ray.config import Experiment
from scpl_ray.models import precision

TOKEN_BYTES = 8
"""An id of 4 bytes and about 4 characters of text."""
ROW_BYTES = 256
"""Names, groups, seeds and scores of a row."""
ROWS_PER_COMPLETION = 4
"""A completion, its score, and the examples of ``kept`` and ``dataset`` that may be made of it."""
UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """Bytes of a run, by what they are."""

    rounds: int
    stays: Mapping[str, float]
    """What a round writes that always stays, by kind."""
    policy: float
    """Whole weights of one policy, rounded and in float32."""
    reward_model: float
    """The reward model of one round."""
    keep: str
    """``store.keep``."""

    @property
    def a_round(self) -> float:
        """Bytes that a round writes."""
        return sum(self.stays.values()) + self.policy + self.reward_model

    @property
    def at_end(self) -> float:
        """Bytes that are left when the run is done."""
        left = {"all": self.rounds * (self.policy + self.reward_model), "last": self.policy, "none": 0.0}
        return self.rounds * sum(self.stays.values()) + left[self.keep]

    @property
    def at_most(self) -> float:
        """Bytes that there are while the last round is evaluated: its policy, the one before it, and a reward model."""
        policies = min(2, self.rounds)
        while_it_runs = self.rounds * sum(self.stays.values()) + policies * self.policy + self.reward_model
        return max(self.at_end, while_it_runs)


def disk(experiment: Experiment, sizes: Sizes, *, on_gpu: bool) -> Disk:
    """The bytes of a run.

    Args:
        experiment: the config.
        sizes: sizes of its models.
        on_gpu: whether it runs on GPUs.
    """
    e, size = experiment, sizes.policy
    width = 2 if precision.computed_in(e, size.parameters, on_gpu=on_gpu) == "bfloat16" else FLOAT32
    stays = {"records": _records(e)}
    policy = 0.0
    if e.model.lora is not None:
        stays["adapter"] = float(FLOAT32 * size.adapter_parameters)
    if e.model.lora is None or e.generation.refresh == "reload":
        policy += width * size.parameters
    if e.model.lora is None and width < FLOAT32 and not e.loop.starts_from_base:
        policy += FLOAT32 * size.parameters
    fitted = e.reward.model is None and bool(e.reward.terms.get("model"))
    return Disk(e.loop.rounds, stays, policy, float(FLOAT32 * size.parameters * fitted), e.store.keep)


def _records(e: Experiment) -> float:
    """Bytes of the tables of one round; where data accumulate, of an average one."""
    completions = e.queries.prompts_per_round * e.generation.samples_per_prompt
    evaluated = e.evaluation.samples_per_prompt * (
        len(e.groups.names) * e.evaluation.prompts_per_group + e.evaluation.neutral_prompts
    )
    tokens = e.task.max_prompt_tokens + e.generation.max_new_tokens
    earlier = completions * (e.loop.rounds - 1) / 2 if e.cycle.keeps_earlier else 0.0
    rows = ROWS_PER_COMPLETION * (completions + evaluated) + earlier
    return rows * (TOKEN_BYTES * tokens + ROW_BYTES)


def run_line(found: Disk) -> str:
    """What a run writes and keeps, in words."""
    parts = {**found.stays, "whole weights": found.policy, "reward model": found.reward_model}
    made = ", ".join(f"{name} {shown(size)}" for name, size in parts.items() if size)
    return (
        f"disk: a round writes {shown(found.a_round)} at most ({made}); with store.keep={found.keep} the run holds "
        f"{shown(found.at_most)} while it works and {shown(found.at_end)} when its {found.rounds} rounds are done"
    )


def study_line(trials: Iterable[Disk]) -> str:
    """What all runs of a study keep, in words; beside that each trial at work holds what it will delete."""
    every = list(trials)
    extra = max(found.at_most - found.at_end for found in every)
    return (
        f"disk: {len(every)} runs hold {shown(sum(found.at_end for found in every))} at most when they are done, and "
        f"{shown(extra)} more for each that is at work; a round writes up to "
        f"{shown(max(found.a_round for found in every))}"
    )


def shown(size: float) -> str:
    """Bytes as text for people, in powers of 1000: ``1.5 GB``."""
    for unit, scale in UNITS:
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} bytes"
