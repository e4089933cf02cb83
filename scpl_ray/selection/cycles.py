"""Data cycles: how a round's training data are composed of synthetic and real examples.

A cycle is one function and one record in :data:`CYCLES`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from scpl_ray.config import Cycle
from scpl_ray.records import Example
from scpl_ray.seeds import derive_seed, uniforms

Real = Callable[[int, int], Sequence[Example]]
"""``real(count, seed)`` returns ``count`` real examples; with one seed, fewer are the first ones of more."""

Pool = Callable[[Sequence[Sequence[Example]], Cycle, int, int], list[Example]]
"""The synthetic examples of a round from (history, cycle, round, seed)."""


def _replace(history: Sequence[Sequence[Example]], cycle: Cycle, round_: int, seed: int) -> list[Example]:
    return list(history[round_ - 1])


def _accumulate(history: Sequence[Sequence[Example]], cycle: Cycle, round_: int, seed: int) -> list[Example]:
    return [example for i in range(round_) for example in history[i]]


def _subsample(history: Sequence[Sequence[Example]], cycle: Cycle, round_: int, seed: int) -> list[Example]:
    pool = _accumulate(history, cycle, round_, seed)
    chance = uniforms(seed, "subsample", round_, [example.example_id for example in pool])
    rows = np.sort(np.argsort(chance, kind="stable")[: cycle.size])
    return [pool[row] for row in rows]


def _window(history: Sequence[Sequence[Example]], cycle: Cycle, round_: int, seed: int) -> list[Example]:
    return [example for i in range(max(0, round_ - cycle.window_rounds), round_) for example in history[i]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataCycle:
    """A registered cycle."""

    meaning: str
    """The data on which a round trains, in a few words."""
    pool: Pool


CYCLES: dict[str, DataCycle] = {
    "replace": DataCycle(meaning="only the newest kept data", pool=_replace),
    "accumulate": DataCycle(meaning="all kept data so far", pool=_accumulate),
    "subsample": DataCycle(meaning="a sample of size rows of all so far", pool=_subsample),
    "window": DataCycle(meaning="the kept data of the last window_rounds rounds", pool=_window),
}


def compose(history: Sequence[Sequence[Example]], real: Real, cycle: Cycle, *, round_: int, seed: int) -> list[Example]:
    """D_t, the training data of a round: synthetic examples chosen by the cycle, then real ones.

    Weights have mean 1 over all data, and also over the synthetic and the real part separately, so that ``real_share``
    is the share of the loss as well. A subsample has ``size`` rows, or all rows if there are fewer.

    Args:
        history: kept examples of rounds 1..t; only the rounds that the cycle needs are read.
        real: called once, for the number of rows that :func:`real_rows_needed` gives, and only if it is above 0.
            ``anchored`` rows come from the same seed every round, ``fresh`` rows from a new seed each round.
        cycle: the settings.
        round_: t >= 1.
        seed: the run's seed.

    Raises:
        ValueError: a history whose length is not t, nothing kept, too few real rows, weights that are negative or
            not finite or all 0, an example that occurs twice, or both ``real_share`` and ``real_rows``.
    """
    if round_ < 1 or len(history) != round_:
        raise ValueError(f"history: {len(history)} rounds for round {round_}; give the kept examples of rounds 1..t")
    synthetic = CYCLES[cycle.kind].pool(history, cycle, round_, seed)
    if not synthetic:
        raise ValueError(f"history: cycle {cycle.kind} finds nothing kept for round {round_}; keep more in selection")
    needed = real_rows_needed(len(synthetic), cycle)
    rows: list[Example] = []
    if needed:
        key = () if cycle.real == "anchored" else (round_,)
        rows = list(real(needed, derive_seed(seed, "real", *key)))
        if len(rows) != needed:
            raise ValueError(
                f"cycle: {needed} real rows are needed in round {round_} but the task gave {len(rows)}; "
                "lower cycle.real_share or cycle.real_rows, or give the task more data"
            )
    ids = {example.example_id for example in (*synthetic, *rows)}
    if len(ids) != len(synthetic) + len(rows):
        raise ValueError(f"history: {len(synthetic) + len(rows) - len(ids)} examples of round {round_} occur twice")
    return _mean_one(synthetic) + _mean_one(rows)


def real_rows_needed(synthetic_rows: int, cycle: Cycle) -> int:
    """Real rows to add to ``synthetic_rows``: ``real_rows``, or a / (1 - a) of them for ``real_share`` a, rounded.

    Raises:
        ValueError: both ``real_share`` and ``real_rows`` are given.
    """
    if cycle.real_share and cycle.real_rows:
        raise ValueError(
            f"cycle.real_share: {cycle.real_share} given together with cycle.real_rows: {cycle.real_rows}; give one"
        )
    if cycle.real_rows:
        return cycle.real_rows
    return math.floor(synthetic_rows * cycle.real_share / (1.0 - cycle.real_share) + 0.5)


def _mean_one(examples: Sequence[Example]) -> list[Example]:
    if not examples:
        return []
    weights = [example.weight for example in examples]
    mean = math.fsum(weights) / len(weights)
    if not (math.isfinite(mean) and mean > 0 and min(weights) >= 0):
        raise ValueError(f"weight: mean {mean}, smallest {min(weights)}; weights are finite, >= 0, and not all 0")
    return [dataclasses.replace(example, weight=example.weight / mean) for example in examples]
