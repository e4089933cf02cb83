"""The training objectives by name, and their properties that are known without importing torch.

An objective is one function in :mod:`scpl_ray.training.losses` and one record in :data:`OBJECTIVES`.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from scpl_ray.config import Experiment, Training
from scpl_ray.records import Example
from scpl_ray.selection.pairs import RULES
from scpl_ray.selection.strategies import STRATEGIES

if TYPE_CHECKING:
    from scpl_ray.training.losses import Loss


def _sft_part(example: Example, training: Training) -> float:
    prompt = len(example.prompt_token_ids)
    first = max(prompt if training.loss_on == "completion" else 0, 1)  # nothing predicts the first token
    tokens = max(0, prompt + len(example.token_ids) - first)
    return example.weight * (tokens if training.normalise == "tokens" else tokens > 0)


def _pair_part(example: Example, training: Training) -> float:
    return example.weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A registered objective and its properties."""

    name: str
    """Its value of ``training.objective``."""
    meaning: str
    """What the objective makes more likely, in a few words."""
    builder: str
    """``module:function`` that maps :class:`~scpl_ray.config.Training` to the loss; it is imported when called."""
    part: Callable[[Example, Training], float]
    """The part of the loss that an example has, up to a constant factor."""
    pairs: bool = False
    """Whether the objective uses pairs of a chosen and a rejected completion."""
    modelled: bool = False
    """Whether the analytic mode models training with this objective."""

    @property
    def fewest_samples(self) -> int:
        """Fewest completions of one query that an example is made of."""
        return 2 if self.pairs else 1

    def loss(self, training: Training) -> Loss:
        """The loss for these settings."""
        built: Loss = pkgutil.resolve_name(self.builder)(training)
        return built

    def about(self, training: Training) -> str:
        """What the loss is computed on, as text for the plan of a run."""
        if self.pairs:
            return f"{self.name.upper()} against the {training.dpo_reference}"
        return f"loss on {training.loss_on}, {training.normalise} count equally"

    def loss_shares(self, examples: Sequence[Example], training: Training) -> dict[str, dict[str, float]]:
        """Shares of the loss by ``origin`` (``real`` or ``synthetic``) and by ``group`` of the examples.

        Every term of the loss is one example's; shares are those of the weights that the terms have in it, however
        large they are. Examples of no group are left out of the shares by group.
        """
        origins: dict[str, float] = {"real": 0.0, "synthetic": 0.0}
        groups: dict[str, float] = {}
        for example in examples:
            part = self.part(example, training)
            origins["real" if example.origin == "real" else "synthetic"] += part
            if example.group is not None:
                groups[example.group] = groups.get(example.group, 0.0) + part
        return {
            name: {key: part / total for key, part in parts.items()}
            for name, parts in (("origin", origins), ("group", groups))
            if (total := sum(parts.values()))
        }

    def conflicts(self, experiment: Experiment) -> Iterator[str]:
        """Settings that conflict with this objective, each as the text ``key = value: rule and way out``."""
        if not self.pairs:
            return
        this = f"training.objective = {self.name!r}"
        if experiment.generation.samples_per_prompt < 2:
            yield (
                f"generation.samples_per_prompt = 1: {this} pairs two answers to one prompt; draw at least 2, or "
                "use sft"
            )
        elif experiment.generation.temperature == 0:
            yield f"generation.temperature = 0: {this} pairs two answers to one prompt, which are the same; raise it"
        for key, value in (("real_share", experiment.cycle.real_share), ("real_rows", experiment.cycle.real_rows)):
            if value:
                yield (
                    f"cycle.{key} = {value:g}: {this}, and a real answer has no rejected one beside it; set 0, "
                    "or use sft"
                )
        if experiment.training.normalise != "examples":
            yield f"training.normalise = 'tokens': {this} is a mean over pairs, whatever their length; leave it out"
        if experiment.training.loss_on == "all":
            yield f"training.loss_on = 'all': {this} compares two completions of one prompt; set completion, or use sft"
        strategy, rule = experiment.selection.strategy, RULES[experiment.training.dpo_pairs]
        if strategy in STRATEGIES and STRATEGIES[strategy].rejects != rule.needs:
            yield f"selection.strategy = {strategy!r}: {rule.otherwise}"


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(
            name="sft",
            meaning="likelihood of what was kept",
            builder="scpl_ray.training.losses:sft",
            part=_sft_part,
            modelled=True,
        ),
        Objective(
            name="dpo",
            meaning="preference of what was chosen over what was rejected",
            builder="scpl_ray.training.losses:dpo",
            part=_pair_part,
            pairs=True,
        ),
    )
}
"""Objectives by ``training.objective``."""


def dataset_facts(examples: Sequence[Example], training: Training) -> dict[str, object]:
    """What a round trains on, in numbers: its examples, the real ones, and the shares of the loss."""
    return {
        "examples": len(examples),
        "real": sum(example.origin == "real" for example in examples),
        "loss_shares": OBJECTIVES[training.objective].loss_shares(examples, training),
    }
