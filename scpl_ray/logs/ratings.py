"""Whether groups are rated alike, however few ratings some of them have beside others, and whatever their law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from scpl_ray import seeds
from scpl_ray.shares import FloatArray, IntArray

MANY_RATINGS = 1_000
"""Ratings of every group and period from which on the statistic has the law of many; few ratings that nearly all agree,
as stars do, have a mean and a variance that err together."""
DRAWN, NUMBERS, NUMBERS_AT_ONCE = (999, 9_999), 20_000_000, 2_000_000
"""Fewest and most times that ratings are shuffled instead, numbers in all, and in memory."""
PLENTY = 100
"""Shuffles with as large a statistic after which no more are drawn: the p-value is known well enough, and not small
(Besag and Clifford 1991)."""
BORROWED = 1
"""Degrees of freedom with which the variance of all ratings enters that of each group, so that few that happen to agree
are not for that without error."""
ROUNDING = 1e-9
"""Largest part of a statistic that may be nothing but rounding."""


def alike(*periods: Sequence[FloatArray]) -> float:
    """P-value that groups' mean ratings are alike in one period, or change alike from a first to a second one.

    The test of Alexander and Govern (1994) of means with unequal variances: how far each lies from their weighted mean
    is a t of Welch-Satterthwaite degrees of freedom, and becomes the normal number of the same chance. Where a group
    has fewer than :data:`MANY_RATINGS`, the sum of their squares is held against those of shuffled ratings, with a
    fixed seed (Pauly, Brunner and Konietschke 2015).

    Args:
        periods: one or two periods, each with the ratings of every group, at least two.
    """
    sizes = np.array([[len(one) for one in period] for period in periods])
    rows = np.concatenate([one for period in periods for one in period])
    if not np.ptp(rows):
        return 1.0
    rows = rows - rows.mean()
    observed = float(_unlike(rows[None], sizes)[0])
    if sizes.min() >= MANY_RATINGS:
        return float(stats.chi2.sf(observed, sizes.shape[1] - 1))
    most = int(np.clip(NUMBERS // rows.size, *DRAWN))
    at_once = int(np.clip(NUMBERS_AT_ONCE // rows.size, 1, DRAWN[0]))
    rng, as_large, drawn = seeds.generator(0, "shuffled ratings"), 1, 0
    while drawn < most and as_large <= PLENTY:
        shuffled = rng.permuted(np.broadcast_to(rows, (min(at_once, most - drawn), rows.size)), axis=1)
        drawn += len(shuffled)
        as_large += int((_unlike(shuffled, sizes) >= observed * (1.0 - ROUNDING)).sum())
    return as_large / (drawn + 1)


def _unlike(rows: FloatArray, sizes: IntArray) -> FloatArray:
    """The statistic of each of B sets of ratings.

    Args:
        rows: ratings by period and group, less the mean of all, shape (B, N).
        sizes: how many ratings each has, shape (T, K).
    """
    n = sizes.ravel()
    starts = np.cumsum(n) - n
    means = np.add.reduceat(rows, starts, axis=1) / n
    squares = np.add.reduceat(rows**2, starts, axis=1) - n * means**2
    spread = (squares + BORROWED * rows[:1].var()) / (n - 1 + BORROWED)
    variances, means = (spread / n).reshape(-1, *sizes.shape), means.reshape(-1, *sizes.shape)
    change, variance = means[:, -1] - (means[:, 0] if len(sizes) > 1 else 0.0), variances.sum(axis=1)
    weights = 1.0 / variance
    middle = (change * weights).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
    freedom = variance**2 / (variances**2 / (sizes - 1)).sum(axis=1)
    tails = special.stdtr(freedom, -np.abs(change - middle) / np.sqrt(variance))
    return np.asarray((special.ndtri(tails) ** 2).sum(axis=1))
