"""95% intervals of what was measured on a sample of prompts, by resampling the prompts.

The prompt is the unit: its answers enter together, however many there are. Every metric of a set of prompts is a
function of sums over prompts. A resample gives each prompt a multiplicity, and weights the sums by it. Of each resample
the distance from the estimate is taken in units of the resample's own standard error (bootstrap-t, Efron and Tibshirani
1993, chapter 12), and no quantile of it is taken to be smaller than Student's, which a few resampled prompts would
promise. Fractions are treated on the scale of their log-odds, where half an answer of each sort is added to the counts
and to their variance (Gart 1966), so that an interval exists at 0 and at 1 as well. Linear combinations of groups get
their bounds from those of the groups (Zou and Donner 2008).

How often these intervals cover is simulated by ``tests/theory/within_run.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import expit

from scpl_ray import seeds
from scpl_ray.shares import FloatArray

RESAMPLES = 2000
CONFIDENCE = 0.95
TAILS = (0.5 - CONFIDENCE / 2.0, 0.5 + CONFIDENCE / 2.0)
HALF = 0.5
"""Answers of each sort that are added to the counts of a fraction."""
MOST = 1000
"""Most units that are resampled: more prompts are dealt out over so many, whose sums are resampled in their place."""
FEWEST = 10
"""Fewest prompts whose resamples say more about the law of an estimate than Student's law does."""
WIDEST = 2.0
"""Largest quantile of the resamples, in Student's quantiles."""
NEAR = 3.0
"""Standard errors within which a number may be the largest of several."""
FAR = 2.0
"""A distance so many times as large as chance makes it is taken to be none of chance, and then has a normal law."""
ROUNDING = 1e-12
_STEP = 1e-5
_Z = float(stats.norm.ppf(TAILS[1]))
_EITHER = np.array([[1.0, 1.0], [0.0, 1.0]])
"""Sum and count of an answer that is of a sort, and of one that is not."""

Statistic = Callable[[FloatArray], FloatArray]
"""Maps sums over prompts, shape (..., Q, P), to Q quantities, shape (..., Q)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Estimates:
    """Q estimates from one sample of prompts, with their intervals; arrays of shape (Q,) unless they say otherwise."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    draws: FloatArray
    """Estimates of the resamples minus the estimate, spread as widely as so few prompts ask for, shape (B, Q)."""

    def __getitem__(self, chosen: int | slice) -> Estimates:
        part = slice(chosen, chosen + 1) if isinstance(chosen, int) else chosen
        return Estimates(self.value[part], self.low[part], self.high[part], self.draws[:, part])


class Prompts:
    """A sample of prompts and its resamples.

    Args:
        n: number of prompts, at least 2.
        seed: the run's seed.
        name: what they are asked for; samples of other names are resampled independently.
    """

    def __init__(self, n: int, seed: int, name: str) -> None:
        if n < 2:
            raise ValueError(f"n: {n} prompt; an interval takes at least 2")
        self.n = n
        self._units = min(n, MOST)
        self._weights = _multiplicities(self._units, seed, name)
        self._student = float(stats.t.ppf(TAILS[1], self._units - 1))

    def fractions(self, sums: ArrayLike, counts: ArrayLike, roughness: ArrayLike = 1.0) -> Estimates:
        """Means of numbers in [0, 1], as :func:`expit` of :meth:`log_odds`.

        Args:
            sums: sum over each prompt's answers, shape (n, Q).
            counts: number of those answers, shape (n,).
            roughness: variance of the numbers in units of the largest that their mean allows, shape (Q,): 1 where they
                are 0 or 1, and less where half an answer would be more than chance is.
        """
        found = self.log_odds(sums, counts, roughness)
        value, draws = self._ratios(sums, counts)
        # the smoothed estimate is never 0 or 1, the fraction may be
        low, high = np.minimum(expit(found.low), value), np.maximum(expit(found.high), value)
        return Estimates(value, low, high, draws)

    def log_odds(self, sums: ArrayLike, counts: ArrayLike, roughness: ArrayLike = 1.0) -> Estimates:
        """Smoothed log-odds ln((S + 1/2) / (N - S + 1/2)) of the same fractions S / N."""
        columns = _side_by_side(sums, counts)
        half = HALF * np.broadcast_to(np.asarray(roughness, dtype=np.float64), columns.shape[1:2])

        def statistic(totals: FloatArray) -> FloatArray:
            total, count = totals[..., 0], totals[..., 1]
            return np.asarray(np.log((total + half) / (count - total + half)))

        return self.studentised(columns, statistic, _EITHER, half)

    def log_odds_changes(self, sums: ArrayLike, counts: ArrayLike, first: ArrayLike, before: ArrayLike) -> Estimates:
        """Changes of the smoothed log-odds of fractions since another round, on the same prompts.

        Args:
            sums: answers of each sort now, shape (n, Q).
            counts: answers that were counted now, shape (n,).
            first: ``sums`` in the other round.
            before: ``counts`` in the other round.
        """

        def statistic(totals: FloatArray) -> FloatArray:
            now, all_now, then, all_then = np.moveaxis(totals, -1, 0)
            odds = np.log((now + HALF) / (all_now - now + HALF)) - np.log((then + HALF) / (all_then - then + HALF))
            return np.asarray(odds)

        columns = np.concatenate([_side_by_side(sums, counts), _side_by_side(first, before)], axis=-1)
        return self.studentised(columns, statistic, np.kron(np.eye(2), _EITHER), HALF)

    def means(self, sums: ArrayLike, counts: ArrayLike) -> Estimates:
        """Means S / N of any numbers; arguments as in :meth:`fractions`."""
        return self.studentised(_side_by_side(sums, counts), lambda totals: _over(totals[..., 0], totals[..., 1]))

    def changes(
        self, sums: ArrayLike, counts: ArrayLike, first: ArrayLike, before: ArrayLike, *, counted: bool = False
    ) -> Estimates:
        """Changes of means since another round, on the same prompts; arguments as in :meth:`log_odds_changes`.

        Args:
            sums: as there.
            counts: as there.
            first: as there.
            before: as there.
            counted: whether the means are fractions of counted answers, to whose variance half an answer is added.
        """
        columns = np.concatenate([_side_by_side(sums, counts), _side_by_side(first, before)], axis=-1)

        def statistic(totals: FloatArray) -> FloatArray:
            return _over(totals[..., 0], totals[..., 1]) - _over(totals[..., 2], totals[..., 3])

        return self.studentised(columns, statistic, np.kron(np.eye(2), _EITHER) if counted else None, HALF)

    def studentised(
        self, sums: FloatArray, statistic: Statistic, added: FloatArray | None = None, weight: ArrayLike = 0.0
    ) -> Estimates:
        """Bootstrap-t intervals of any smooth functions of sums over prompts.

        Standard errors are those of the function's linear part at the sums (the infinitesimal jackknife, Efron 1982).

        Args:
            sums: sums over each prompt's answers, shape (n, Q, P).
            statistic: the functions.
            added: answers that are added to the variance, as a prompt would enter ``sums``, shape (R, P).
            weight: the part of such an answer that is added, shape (Q,) or one number.
        """
        sums = self._dealt(sums)
        squares = np.einsum("nqi,nqj->nqij", sums, sums)
        totals, resampled = sums.sum(axis=0), self._totals(sums)
        value, again = statistic(totals), statistic(resampled)
        spread = self._spread(statistic, totals, squares.sum(axis=0), added, weight)
        spreads = self._spread(statistic, resampled, self._totals(squares), added, weight)
        up = down = np.full(value.shape, self._student)
        if self._units >= FEWEST:
            far = np.where(again > value, np.inf, np.where(again < value, -np.inf, 0.0))
            t = np.divide(again - value, spreads, out=far, where=spreads > 0)
            most = WIDEST * self._student
            below, above = np.quantile(np.clip(t, -most, most), TAILS, axis=0)
            up, down = np.maximum(-below, self._student), np.maximum(above, self._student)
        return Estimates(value, value - down * spread, value + up * spread, self._widened(again - value))

    def _ratios(self, sums: ArrayLike, counts: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """S / N and how far the resamples are from it, shapes (Q,) and (B, Q)."""
        columns = self._dealt(_side_by_side(sums, counts))
        totals, resampled = columns.sum(axis=0), self._totals(columns)
        value = _over(totals[..., 0], totals[..., 1])
        return value, self._widened(_over(resampled[..., 0], resampled[..., 1]) - value)

    def _dealt(self, sums: FloatArray) -> FloatArray:
        """Sums over the units that are resampled, shape (units, ...) for sums (n, ...)."""
        if self._units == self.n:
            return sums
        found = np.zeros((self._units, *sums.shape[1:]))
        np.add.at(found, np.arange(self.n) % self._units, sums)
        return found

    def _widened(self, draws: FloatArray) -> FloatArray:
        """Resamples spread as widely as Student's law asks for, and without the shortfall of a resample's variance."""
        return np.asarray(draws * (self._student / _Z) * np.sqrt(self._units / (self._units - 1.0)))

    def _totals(self, sums: FloatArray) -> FloatArray:
        """Sums of the resamples, shape (B, ...) for sums (n, ...); the same bytes for any number of threads."""
        columns = sums.reshape(self._units, -1)
        # whole numbers add up exactly in any order, and so the order that threads take does not matter
        whole = np.array_equal(columns, np.rint(columns)) and np.abs(columns).max(initial=0.0) * self.n < 2**53
        flat = self._weights @ columns if whole else np.einsum("bn,nc->bc", self._weights, columns)
        return np.asarray(flat.reshape(-1, *sums.shape[1:]))

    def _spread(
        self, statistic: Statistic, totals: FloatArray, squares: FloatArray, added: FloatArray | None, weight: ArrayLike
    ) -> FloatArray:
        """Standard errors, shape (..., Q), from the sums and the sums of products over prompts."""
        slopes = _gradient(statistic, totals)
        about = np.einsum("...i,...ij,...j->...", slopes, squares, slopes)
        variance = about - np.einsum("...i,...i->...", slopes, totals) ** 2 / self._units
        variance = np.where(variance > ROUNDING * about, variance, 0.0) * self._units / (self._units - 1.0)
        if added is not None:
            variance = variance + np.asarray(weight) * (np.einsum("...i,ri->...r", slopes, added) ** 2).sum(axis=-1)
        return np.asarray(np.sqrt(variance))


def _multiplicities(units: int, seed: int, name: str) -> FloatArray:
    """How often each unit is in each resample, shape (RESAMPLES, units)."""
    rng = seeds.generator(seed, "within-run interval", name)
    drawn = rng.integers(units, size=(RESAMPLES, units)) + units * np.arange(RESAMPLES)[:, None]
    counted = np.bincount(drawn.ravel(), minlength=RESAMPLES * units)
    return counted.reshape(RESAMPLES, units).astype(np.float64)


def _over(totals: FloatArray, counts: FloatArray) -> FloatArray:
    """Their ratio; 0 where nothing was counted."""
    return np.asarray(np.divide(totals, counts, out=np.zeros(totals.shape), where=counts != 0))


def _side_by_side(sums: ArrayLike, counts: ArrayLike) -> FloatArray:
    """Sums (n, Q) and counts (n,) as columns, shape (n, Q, 2)."""
    total = np.asarray(sums, dtype=np.float64)
    count = np.broadcast_to(np.asarray(counts, dtype=np.float64)[:, None], total.shape)
    return np.stack([total, count], axis=-1)


def _gradient(statistic: Statistic, totals: FloatArray) -> FloatArray:
    """Derivatives by central differences, shape (..., Q, P)."""
    found = np.empty(totals.shape)
    for i in range(totals.shape[-1]):
        step = _STEP * np.maximum(1.0, np.abs(totals[..., i]))
        moved = [totals.copy() for _ in range(2)]
        moved[0][..., i] += step
        moved[1][..., i] -= step
        found[..., i] = (statistic(moved[0]) - statistic(moved[1])) / (2.0 * step)
    return found


def combined(contrast: ArrayLike, parts: Estimates) -> tuple[float, float]:
    """The interval of one linear combination of independent estimates, from their own bounds (Zou and Donner 2008).

    Args:
        contrast: weight of each, shape (Q,).
        parts: the estimates.
    """
    low, high = _sides(np.asarray(contrast, dtype=np.float64)[None], parts)
    value = float(np.asarray(contrast) @ parts.value)
    return value - float(low[0]), value + float(high[0])


def largest(contrasts: FloatArray, parts: Estimates) -> tuple[float, float]:
    """The interval of the largest of several linear combinations, such as a gap: it covers also where they are equal.

    The largest of noisy numbers is too large. So the lower bound is that of the combinations which may be the largest
    *jointly*: those within :data:`NEAR` standard errors of it (moment selection, Andrews and Soares 2010). The upper
    bound is the largest of their own; where it can hardly fail, because several would have to fall short together, the
    lower one takes over its part of the error.

    Args:
        contrasts: weights of the estimates in each combination, shape (J, Q).
        parts: independent estimates.
    """
    value = np.einsum("jq,q->j", contrasts, parts.value)
    below, above = _sides(contrasts, parts)
    draws = np.einsum("bq,jq->bj", parts.draws, contrasts)
    first = int(value.argmax())
    apart = (draws[:, [first]] - draws).std(axis=0)
    near = value >= value[first] - NEAR * apart
    spread = draws[:, near].std(axis=0)
    z = np.divide(draws[:, near], spread, out=np.zeros((len(draws), int(near.sum()))), where=spread > 0).max(axis=1)
    error = 1.0 - CONFIDENCE
    all_short = min(float((z < -_Z).mean()), error / 2.0)
    jointly = max(1.0, float(np.quantile(z, 1.0 - (error - all_short))) / _Z)
    return float((value - jointly * below).max()), float((value + above).max())


def distance(
    value: float,
    norm: Callable[[FloatArray], FloatArray],
    from_zero: FloatArray,
    draws: FloatArray,
    along: FloatArray,
) -> tuple[float, float]:
    """The interval of a distance: a norm of differences that are 0 where there is no distance.

    Near 0 its estimate is pushed away from 0 by chance, and its law is that of the norm of noise: by the triangle
    inequality the distance is no further from the estimate than the noise is long. Far from 0 it is normal.

    Args:
        value: the estimate, in its own units.
        norm: the norm, of shape (..., K) to (...).
        from_zero: the differences, shape (K,).
        draws: how far those of the resamples are from them, shape (B, K).
        along: how far the distances of the resamples are from the estimate by its linear part, shape (B,); it is used
            only far from 0.

    Returns:
        The bounds; NaN where all answers agree, so that resamples cannot say how far the distance may be from this one.
    """
    if not np.any(np.abs(draws) > ROUNDING):
        return float("nan"), float("nan")
    reach = float(np.quantile(norm(draws), CONFIDENCE))
    found = float(norm(from_zero))
    if found <= FAR * reach:
        return max(0.0, found - reach), found + reach
    low, high = np.quantile(along, TAILS)
    return value - float(high), value - float(low)


def _sides(contrasts: FloatArray, parts: Estimates) -> tuple[FloatArray, FloatArray]:
    """How far the bounds of linear combinations are below and above them, shape (J,) each."""
    low, high = parts.value - parts.low, parts.high - parts.value
    below = np.where(contrasts > 0, low, high) * contrasts
    above = np.where(contrasts > 0, high, low) * contrasts
    return np.sqrt((below**2).sum(axis=-1)), np.sqrt((above**2).sum(axis=-1))
