"""The pair of ``prior_rows`` and ``spillover`` that explains a run's kinds, and which other pairs explain them as well.

Own-kind shares and log-odds of preference of every round are taken as normal with the mean and variance of simulated
seeds (synthetic likelihood, Wood 2010). Numbers of different rounds depend on each other, which that likelihood leaves
out, so that the difference at which a pair is excluded is not taken from a table: it is the one that 95% of the seeds
simulated with the best pair stay below when they are judged in the place of the run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from scpl_ray.analytic import model
from scpl_ray.analytic.loop import Start, simulate_grid
from scpl_ray.analytic.paths import Paths
from scpl_ray.config import Experiment
from scpl_ray.shares import FloatArray

PRIOR_ROWS = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0)
SPILLOVERS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
SMALLEST_VARIANCE = 1e-6
"""Added to the variance of simulated own-kind shares and log-odds, which is 0 where all seeds agree."""


@dataclasses.dataclass(frozen=True, eq=False)
class Explained:
    """The most likely pair of :data:`PRIOR_ROWS` and :data:`SPILLOVERS`, and what is as likely at 95% confidence."""

    values: dict[str, float]
    ranges: dict[str, tuple[float, float]]
    """For each of the two, from the largest value below to the smallest value above all that are not excluded."""
    law: FloatArray
    """Mean P(kind | group) over a group's prompts under that pair, in rounds 0..h, shape (h + 1, K, K)."""


def explain(
    seen: FloatArray,
    at: Callable[[dict[str, float]], Experiment],
    start: Start,
    *,
    confidence: float = 0.95,
) -> Explained:
    """Compare all pairs of the grid.

    Args:
        seen: measured own-kind shares and log-odds of preference in rounds 1..h, shape (h, K + 1); NaN where missing.
        at: the experiment of h rounds with these values of ``prior_rows`` and ``spillover``.
        start: the kinds that the base model writes.
        confidence: of the ranges.
    """
    pairs = [{"prior_rows": n, "spillover": s} for n in PRIOR_ROWS for s in SPILLOVERS]
    simulated = simulate_grid([at(pair) for pair in pairs], start=start)
    kinds = [_kinds(paths) for paths in simulated]
    means = np.stack([one.mean(axis=0) for one in kinds])
    variances = np.stack([one.var(axis=0) for one in kinds]) + SMALLEST_VARIANCE

    def scores(one: FloatArray) -> FloatArray:
        """-2 ln L of every pair, shape (pairs, ...), for numbers of shape (..., h, K + 1) that exist as in the run."""
        mean, variance = (x.reshape(len(pairs), *[1] * (one.ndim - 2), *seen.shape) for x in (means, variances))
        return np.asarray(np.nansum((one - mean) ** 2 / variance + np.log(variance), axis=(-2, -1)))

    there = ~np.isnan(seen)
    own = scores(np.where(there, seen, np.nan))
    best = int(np.argmin(own))
    again = scores(np.where(there, kinds[best], np.nan))
    excluded_above = float(np.quantile(again[best] - again.min(axis=0), confidence))
    likely = [pair for pair, score in zip(pairs, own, strict=True) if score - own[best] <= excluded_above]
    ranges = {
        name: _around([pair[name] for pair in likely], grid)
        for name, grid in (("prior_rows", PRIOR_ROWS), ("spillover", SPILLOVERS))
    }
    return Explained(pairs[best], ranges, mean_law(simulated[best]))


def mean_law(paths: Paths) -> FloatArray:
    """Mean P(kind | group) over seeds and over a group's prompts, in rounds 0..T, shape (T + 1, K, K)."""
    experiment = paths.experiment
    temperature = experiment.generation.temperature
    law = model.asked_law(
        model.tempered(paths.revealing_law, temperature),
        model.tempered(paths.neutral_law, temperature),
        experiment.task.marker_strength,
    )
    return np.asarray(law.mean(axis=0))


def _kinds(paths: Paths) -> FloatArray:
    """Own-kind shares and log-odds of preference in rounds 1..h, shape (S, h, K + 1)."""
    odds = paths.preference("balanced").log_odds[:, 1:, None]
    return np.concatenate([paths.own_kind[:, 1:], odds], axis=-1)


def _around(values: Sequence[float], grid: Sequence[float]) -> tuple[float, float]:
    """The neighbours of the smallest and the largest value on the grid: what lies between is not excluded."""
    low, high = grid.index(min(values)), grid.index(max(values))
    return grid[max(0, low - 1)], grid[min(len(grid) - 1, high + 1)]
