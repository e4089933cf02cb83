"""The last round of a run as orders for the scripts of the chain: the same prompts, lengths, models and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs.benchmark.peers.comparison import Step
from scpl_ray.config import Experiment
from scpl_ray.config.schema import MODEL_TERM
from scpl_ray.records import Completion, Example, Query
from scpl_ray.storage.run_directory import Store

CACHE_BYTES = 2**31
"""Memory for keys and values of the plain vLLM script on a CPU."""


@dataclasses.dataclass(frozen=True)
class Order(Step):
    """One process of the chain, and what it is told."""

    order: dict[str, Any]
    """Its input, as JSON values."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where the chain works, and with what beside the records of the run."""

    base: Path
    """Folder of the base model."""
    reward_model: Path | None
    """Folder of the reward model; ``None``: rule terms only."""
    task: Path
    """File with the pickled task."""
    tuned: Path
    """Folder that the trained policy is written to."""
    dtype: str
    """Number format of all models."""
    on_gpu: bool


def orders(store: Store, experiment: Experiment, setting: Setting) -> Iterator[Order]:
    """The processes of the chain, in the order in which they run.

    Args:
        store: a finished run.
        experiment: its config.
        setting: where the chain works.
    """
    last = experiment.loop.rounds
    start = store.policy(experiment, setting.base, last - 1).model
    queries = {q.query_id: q for q in store.read(last, "queries", "queries", Query)}
    drawn = store.read(last, "completions", "completions", Completion)
    yield _drawing("completions", "plain vLLM", experiment, start, drawn, setting)
    yield from _scoring(experiment, queries, drawn, setting)
    begin = setting.base if experiment.loop.starts_from_base else start
    yield _training(experiment, begin, store.read(last, "dataset", "dataset", Example), setting)
    asked = {q.query_id: q for q in store.read(last, "evaluation", "prompts", Query)}
    answers = store.read(last, "evaluation", "completions", Completion)
    yield _drawing("evaluation", "plain vLLM on held-out prompts", experiment, setting.tuned, answers, setting)
    yield Order(
        "evaluation",
        "likelihoods",
        "likelihoods by transformers, base and policy",
        2 * _read(answers),
        {
            "models": [str(setting.base), str(setting.tuned)],
            "dtype": setting.dtype,
            "pairs": [[c.prompt_token_ids, c.token_ids] for c in answers],
        },
    )
    yield _by_task("evaluation", "the task's judge", asked, answers, setting, judge=True)


def _drawing(
    phase: str, what: str, experiment: Experiment, model: Path, drawn: Sequence[Completion], setting: Setting
) -> Order:
    generation = experiment.generation
    order = {
        "model": str(model),
        "dtype": setting.dtype,
        "positions": experiment.task.max_prompt_tokens + generation.max_new_tokens,
        "eager": not setting.on_gpu,
        # on a CPU vLLM would otherwise want nearly all of the machine's memory, and start only where that is free
        "cache_bytes": None if setting.on_gpu else CACHE_BYTES,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "requests": [{"prompt": c.prompt_token_ids, "length": len(c.token_ids)} for c in drawn],
    }
    return Order(phase, "draw", what, sum(len(c.token_ids) for c in drawn), order)


def _scoring(
    experiment: Experiment, queries: dict[str, Query], drawn: Sequence[Completion], setting: Setting
) -> Iterator[Order]:
    if setting.reward_model is not None:
        pairs = [[queries[c.query_id].prompt, c.text] for c in drawn]
        order = {"model": str(setting.reward_model), "dtype": setting.dtype, "pairs": pairs}
        yield Order("scores", "rewards", "reward loop of transformers", _read(drawn), order)
    if any(weight for name, weight in experiment.reward.terms.items() if name != MODEL_TERM):
        yield _by_task("scores", "the task's rule terms", queries, drawn, setting, judge=False)


def _training(experiment: Experiment, start: Path, examples: Sequence[Example], setting: Setting) -> Order:
    training, lora = experiment.training, experiment.model.lora
    lengths = [len(e.prompt_token_ids) + len(e.token_ids) for e in examples]
    rows_per_step = max(1, round(training.tokens_per_step * len(lengths) / sum(lengths)))
    passes = training.epochs if training.steps is None else training.steps * rows_per_step / len(lengths)
    order = {
        "model": str(start),
        "tokenizer": str(setting.base),
        "output": str(setting.tuned),
        "dtype": setting.dtype,
        "rows": [{"prompt": e.prompt_token_ids, "answer": e.token_ids} for e in examples],
        "rows_per_step": rows_per_step,
        "epochs": training.epochs,
        "steps": training.steps,
        "learning_rate": training.learning_rate,
        "warmup_fraction": training.warmup_fraction,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "seed": 0,
        "lora": lora and {"rank": lora.rank, "alpha": lora.alpha, "targets": "all-linear"},
    }
    return Order("weights", "tune", "TRL's SFTTrainer, merged and saved", round(passes * sum(lengths)), order)


def _by_task(
    phase: str, what: str, queries: dict[str, Query], drawn: Sequence[Completion], setting: Setting, *, judge: bool
) -> Order:
    texts = [{"query": dataclasses.asdict(queries[c.query_id]), "id": c.completion_id, "text": c.text} for c in drawn]
    order = {"task": str(setting.task), "judge": judge, "texts": texts}
    return Order(phase, "texts", what, sum(len(c.token_ids) for c in drawn), order)


def _read(drawn: Sequence[Completion]) -> int:
    return sum(len(c.prompt_token_ids) + len(c.token_ids) for c in drawn)
