"""The answers to evaluation prompts: drawn by the engines, read by judge and models while the rest is being drawn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from scpl_ray import records
from scpl_ray.protocols import Background, Engines, Scorer
from scpl_ray.records import Completion, Judgement, Query, Weights

Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """The answers to some prompts, in the order of prompts and samples."""

    completions: list[Completion]
    judgements: list[Judgement]
    """What the task's judge says of each."""
    likelihoods: list[list[tuple[float, int]]]
    """For each model that was asked for: negative log-likelihood of each answer (nats), and its number of tokens."""
    seconds: dict[str, float]
    """``generation_seconds``, and the seconds for which nothing was left but to wait for the readers:
    ``waited_for_judge_seconds`` and ``waited_for_likelihoods_seconds``."""


def answered(
    engines: Engines,
    prompts: Sequence[Query],
    samples: int,
    report: Callable[[Sequence[Completion]], None],
    under: Sequence[Weights] = (),
) -> Answered:
    """Draw answers from the policy that is served, and have them judged and read by models.

    Args:
        engines: the generator, and the scorer, which reads.
        prompts: the evaluation prompts; with none, nothing is asked.
        samples: number of answers to each.
        report: is given each piece of the answers as it arrives.
        under: the models whose likelihoods are asked for.
    """
    if not prompts:
        return Answered([], [], [[] for _ in under], {})
    judging = engines.scorer.judging(prompts)
    passes = [engines.scorer.likelihoods(weights) for weights in under]
    every = [samples] * len(prompts)
    drawn: list[Completion] = []
    started = time.monotonic()
    for piece in engines.generator.stream(prompts, samples=every, purpose="evaluation"):
        drawn += piece
        for reading in (judging, *passes):
            reading.submit(piece)
        report(piece)
    seconds = {"generation_seconds": time.monotonic() - started}
    completions = records.in_order(drawn, prompts, every)

    def collected(reading: Background[Answer], name: str) -> list[Answer]:
        begun = time.monotonic()
        found = reading.collect()
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - begun
        return [found[c.completion_id] for c in completions]

    judged = collected(judging, "waited_for_judge_seconds")
    return Answered(completions, judged, [collected(one, "waited_for_likelihoods_seconds") for one in passes], seconds)


def judged(scorer: Scorer, queries: Sequence[Query], completions: pa.Table) -> list[Judgement]:
    """What the task's judge says of a round's completions, in their order."""
    judging = scorer.judging(queries)
    for piece in records.in_pieces(completions):
        judging.submit(records.from_table(piece, Completion))
    found = judging.collect()
    return [found[completion_id] for completion_id in completions["completion_id"].to_pylist()]
