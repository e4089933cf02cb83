"""The answers to evaluation prompts: drawn by the engines, read by judge and models while the rest is being drawn."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from scpl_ray import records
from scpl_ray.records import Completion, Judgement, Query

Answer = TypeVar("Answer")


class Reading(Protocol[Answer]):
    """What reads completions in the background."""

    def submit(self, completions: Sequence[Completion]) -> None:
        """Begin with these."""
        ...

    def collect(self) -> dict[str, Answer]:
        """Wait for all that was submitted; returns the answers by completion id."""
        ...


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
    prompts: Sequence[Query],
    samples: int,
    pieces: Iterable[Sequence[Completion]],
    judging: Reading[Judgement],
    passes: Sequence[Reading[tuple[float, int]]],
    report: Callable[[Sequence[Completion]], None],
) -> Answered:
    """Have answers judged and read by models while they are being drawn.

    Args:
        prompts: the evaluation prompts.
        samples: number of answers to each.
        pieces: the answers as they are drawn, in any order.
        judging: the task's judge.
        passes: the models whose likelihoods are asked for.
        report: is given each piece of the answers as it arrives.
    """
    drawn: list[Completion] = []
    readings: list[Reading[Any]] = [judging, *passes]
    started = time.monotonic()
    for piece in pieces:
        drawn += piece
        for reading in readings:
            reading.submit(piece)
        report(piece)
    seconds = {"generation_seconds": time.monotonic() - started}
    completions = records.in_order(drawn, prompts, [samples] * len(prompts))

    def collected(reading: Reading[Answer], name: str) -> list[Answer]:
        begun = time.monotonic()
        found = reading.collect()
        seconds[name] = seconds.get(name, 0.0) + time.monotonic() - begun
        return [found[c.completion_id] for c in completions]

    judged = collected(judging, "waited_for_judge_seconds")
    return Answered(completions, judged, [collected(one, "waited_for_likelihoods_seconds") for one in passes], seconds)


def judged(judging: Reading[Judgement], completions: pa.Table) -> list[Judgement]:
    """What the task's judge says of a round's completions, in their order."""
    for piece in records.in_pieces(completions):
        judging.submit(records.from_table(piece, Completion))
    found = judging.collect()
    return [found[completion_id] for completion_id in completions["completion_id"].to_pylist()]
