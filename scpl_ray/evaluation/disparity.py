"""Disparate bias: how unequal the quality is that groups receive, the gap expected by chance, and levelling down.

A gap is never reported alone: it comes with the mean, the worst group, the gap expected by chance, and whether the gap
fell because quality fell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from scpl_ray import seeds
from scpl_ray.evaluation import sign_flips
from scpl_ray.shares import FloatArray, IntArray, check_fraction

CHUNK = 4_000_000
"""Number of values in memory at once while resampling."""
ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class DisparateBias:
    """How unequal the quality of the groups is; every field has the shape of the leading axes."""

    gap: FloatArray
    """Largest minus smallest quality."""
    std: FloatArray
    """Population standard deviation over groups (divided by K)."""
    ratio: FloatArray
    """Smallest divided by largest quality, in [0, 1]; 1 where all are 0."""
    worst: FloatArray
    """Quality of the worst-served group."""
    mean: FloatArray
    """Mean over groups, each with equal weight."""


def disparate_bias(quality: ArrayLike) -> DisparateBias:
    """Disparate bias of per-group quality.

    The gap of noisy means is biased upwards even if all groups are equal: report :func:`gap_null` beside it.

    Args:
        quality: q_k in [0, 1], shape (..., K), K >= 2.

    Raises:
        ValueError: fewer than two groups, or a quality outside [0, 1].
    """
    q = _check_quality("quality", quality)
    if q.ndim == 0 or q.shape[-1] < 2:
        raise ValueError(f"quality: {q.tolist()} holds fewer than 2 groups; give one number per group")
    worst, best = q.min(axis=-1), q.max(axis=-1)
    ratio = np.divide(worst, best, out=np.ones_like(worst), where=best > 0)
    return DisparateBias(
        gap=np.asarray(best - worst),
        std=np.asarray(q.std(axis=-1)),
        ratio=np.asarray(ratio),
        worst=np.asarray(worst),
        mean=np.asarray(q.mean(axis=-1)),
    )


def group_means(quality: ArrayLike, groups: ArrayLike, n_groups: int) -> FloatArray:
    """Mean quality per group, shape (K,).

    Args:
        quality: one number per completion or prompt, in [0, 1], shape (N,).
        groups: index of the group of each completion or prompt, 0..K-1, shape (N,).
        n_groups: K.

    Raises:
        ValueError: shapes that differ, a quality outside [0, 1], an index outside 0..K-1, or a group without any value.
    """
    q = _check_quality("quality", quality)
    labels = _check_groups(groups, q.shape, n_groups)
    return np.asarray(np.bincount(labels, weights=q, minlength=n_groups) / np.bincount(labels, minlength=n_groups))


@dataclasses.dataclass(frozen=True)
class GapNull:
    """The gap between groups, and the gap expected by chance alone."""

    gap: float
    """Observed max - min of group means."""
    null_mean: float
    """Mean gap by chance: of groups that are served alike, given how difficult their prompts are."""
    null_95: float
    """95% quantile of that gap."""
    p: float
    """P(groups that are served alike differ at least as much), (1 + exceedances) / (1 + permutations) (Phipson and
    Smyth 2010)."""
    permutations: int
    difficulty: Literal["equal", "base"]
    """How difficult the groups' prompts are taken to be: ``equal``ly, or as they were for the base model."""


def gap_null(
    quality: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
    *,
    seed: int,
    base: ArrayLike | None = None,
    permutations: int = 2000,
) -> GapNull:
    """The gap that chance shows among groups that are served alike.

    Without ``base`` the groups' prompts are taken to be equally difficult: their labels are shuffled over the prompts,
    which keeps the group sizes. Prompts of one group may be harder for any model, though, and then that null is too
    small. With ``base``, the quality of the base model's answers to the same prompts, served alike means that every
    group's quality has changed alike since then:

    - the gap by chance is that of d_k + noise, with d_k the base's group means. These are noisy themselves: they are
      drawn towards their mean by the part of their variance that noise makes (empirical Bayes, Efron and Morris 1973).
      The noise of either round is the variance between a group's prompts less what both rounds have in common, which
      belongs to the prompts;
    - p is of the *changes* since the base model, whose labels are shuffled over the prompts: how often do the groups'
      mean changes then differ by as much as was measured? It finds a gap that turned round as well as one that grew.

    What the base model cannot do for a group counts as difficulty: a disparity of its own is not seen here.

    Args:
        quality: one number per *prompt*, shape (N,). Completions of one prompt are not exchangeable with those of
            others: average them first.
        groups: index of each prompt's group, 0..K-1, shape (N,).
        n_groups: K >= 2.
        seed: seed of the shuffles; the same seed gives the same null.
        base: the base model's quality on the same prompts, shape (N,); ``None``: equal difficulty.
        permutations: number of shuffles and of draws.

    Raises:
        ValueError: as :func:`group_means`; fewer than two groups; fewer than one permutation.
    """
    if permutations < 1:
        raise ValueError(f"permutations: {permutations} must be at least 1")
    observed = float(disparate_bias(group_means(quality, groups, n_groups)).gap)
    q, labels = np.asarray(quality, dtype=np.float64), np.asarray(groups, dtype=np.int64)
    rng = seeds.generator(seed, "permutation null of the gap")
    if base is None:
        gaps = by_chance = _shuffled_gaps(q, labels, n_groups, rng, permutations)
        exceedances = int((gaps >= observed - ROUNDING).sum())
    else:
        before = group_means(base, groups, n_groups)
        changes = q - np.asarray(base, dtype=np.float64)
        moved = np.bincount(labels, weights=changes, minlength=n_groups) / np.bincount(labels, minlength=n_groups)
        gaps = _shuffled_gaps(changes, labels, n_groups, rng, permutations)
        exceedances = int((gaps >= np.ptp(moved) - ROUNDING).sum())
        by_chance = _gaps_at(before, *_noise(q, q - changes, labels, n_groups), rng, permutations)
    return GapNull(
        gap=observed,
        null_mean=float(by_chance.mean()),
        null_95=float(np.quantile(by_chance, 0.95)),
        p=(1 + exceedances) / (1 + permutations),
        permutations=permutations,
        difficulty="equal" if base is None else "base",
    )


def _shuffled_gaps(
    values: FloatArray, labels: IntArray, n_groups: int, rng: np.random.Generator, permutations: int
) -> FloatArray:
    """Max - min of group means after the labels are shuffled over the prompts, shape (permutations,)."""
    sizes = np.bincount(labels, minlength=n_groups)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    gaps = np.empty(permutations)
    rows = max(1, CHUNK // len(values))
    for first in range(0, permutations, rows):
        block = gaps[first : first + rows]
        shuffled = rng.permuted(np.broadcast_to(values, (len(block), len(values))), axis=1)
        means = np.add.reduceat(shuffled, starts, axis=1) / sizes
        block[:] = means.max(axis=1) - means.min(axis=1)
    return gaps


def _noise(now: FloatArray, base: FloatArray, labels: IntArray, n_groups: int) -> tuple[FloatArray, FloatArray]:
    """Variances of the groups' means of both rounds over other answers to the same prompts, shape (K,) each."""
    sizes = np.bincount(labels, minlength=n_groups)
    a, b = (x - (np.bincount(labels, weights=x, minlength=n_groups) / sizes)[labels] for x in (now, base))
    freedom = max(1, len(now) - n_groups)
    common = np.clip(float(a @ b), 0.0, min(float(a @ a), float(b @ b)))
    return (float(a @ a) - common) / freedom / sizes, (float(b @ b) - common) / freedom / sizes


def _gaps_at(
    before: FloatArray, noise_now: FloatArray, noise_base: FloatArray, rng: np.random.Generator, draws: int
) -> FloatArray:
    """Gaps of groups as difficult as the base model found them, shape (draws,)."""
    spread = float(before.var(ddof=1))
    kept = max(0.0, 1.0 - float(noise_base.mean()) / spread) if spread > 0 else 0.0
    difficulty = before.mean() + kept * (before - before.mean())
    sd = np.sqrt(kept * noise_base + noise_now)
    return np.asarray(np.ptp(difficulty + sd * rng.standard_normal((draws, len(before))), axis=1))


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """A change since the first round with its two-sided interval; all arrays have the same shape."""

    estimate: FloatArray
    low: FloatArray
    high: FloatArray


ALL_LOST, WORST_GAINED, GAIN, UNCLEAR = "all lost", "worst gained, mean fell", "gain", "unclear"


@dataclasses.dataclass(frozen=True, eq=False)
class LevelledDown:
    """Whether a gap became smaller, and whether that is because quality fell."""

    gap: Change
    mean: Change
    worst: Change
    cause: NDArray[np.str_]
    """Why the gap is smaller (:func:`cause_of`); empty where that it is smaller is not shown."""
    flag: NDArray[np.bool_]
    """Levelled down: the gap is smaller, and the mean or the worst-served group's quality is lower."""
    seen: bool = True
    """Whether there are seeds enough to show anything."""


def cause_of(gap: ArrayLike, mean: ArrayLike, worst: ArrayLike, gained: ArrayLike, rise: ArrayLike) -> NDArray[np.str_]:
    """Why a gap is smaller, from what is shown to have moved; all arguments have the same shape.

    ``all lost``: the mean or the worst-served group lost and no group gained. ``worst gained, mean fell``: what the
    words say. ``gain``: the worst-served group gained and the mean did not fall. ``unclear``: the gap is smaller, and
    none of these is shown.

    Args:
        gap: -1 where it is shown to be smaller, 1 larger, 0 neither.
        mean: the same of the mean quality.
        worst: the same of the quality of the worst-served group.
        gained: whether any group is shown to have gained.
        rise: the estimated change of the mean.
    """
    gap, mean, worst = (np.asarray(sign) for sign in (gap, mean, worst))
    lost = (mean < 0) | (worst < 0)
    why = np.select(
        [(worst > 0) & (mean < 0), (worst > 0) & (np.asarray(rise) >= 0), lost & ~np.asarray(gained)],
        [WORST_GAINED, GAIN, ALL_LOST],
        UNCLEAR,
    )
    return np.asarray(np.where(gap < 0, why, ""))


def levelled_down_between_seeds(quality: ArrayLike, *, confidence: float = 0.95) -> LevelledDown:
    """Levelling down in rounds 1..T relative to round 0; fields have shape (T,).

    What moved is told by one family of sign-flip tests of the gap, the mean, the worst-served group and every group in
    all rounds (:func:`.sign_flips.joint_p`): over *all* rounds the chance of any false word is at most
    1 - confidence. The intervals are Student's, each by itself. With fewer than 6 seeds nothing can be told.

    Args:
        quality: q_k of every seed and round, shape (S, T + 1, K) with S >= 2, T >= 1 and K >= 2.
        confidence: confidence level of the two-sided intervals, and 1 minus the level of the family.

    Raises:
        ValueError: a wrong shape, fewer than two seeds, a quality outside [0, 1], or a confidence outside (0, 1).
    """
    q = _check_quality("quality", quality)
    if q.ndim != 3 or q.shape[0] < 2 or q.shape[1] < 2:
        raise ValueError(f"quality: shape {q.shape} must be (seeds, rounds, groups) with 2 or more seeds and rounds")
    check_fraction("confidence", confidence)
    half_widths = stats.t.ppf(0.5 + confidence / 2.0, len(q) - 1) / np.sqrt(len(q))
    told = _three(q)
    moved = told[:, 1:] - told[:, :1]
    estimate, half = moved.mean(axis=0), half_widths * moved.std(axis=0, ddof=1)
    changes = [Change(e, e - h, e + h) for e, h in zip(estimate.T, half.T, strict=True)]
    signs = np.zeros(estimate.shape)
    if seen := len(q) >= sign_flips.FEWEST:
        p = sign_flips.joint_p(moved.reshape(len(q), -1).T).reshape(estimate.shape)
        signs = np.sign(estimate) * ((p <= 1.0 - confidence) & (np.abs(estimate) > ROUNDING))
    return _told(changes, signs, seen)


def levelled_down_within_run(
    before: ArrayLike,
    after: ArrayLike,
    groups: ArrayLike,
    n_groups: int,
    *,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> LevelledDown:
    """Levelling down between two rounds of *one* run; fields have shape ().

    Prompts are resampled within their group, the same ones in both rounds, as the held-out prompts are the same;
    intervals are percentiles. They cover the noise of this evaluation only: another seed of the loop may differ more.

    Args:
        before: quality per held-out prompt in the earlier round, shape (P,).
        after: the same prompts in the later round, shape (P,).
        groups: index of each prompt's group, 0..K-1, shape (P,).
        n_groups: K >= 2.
        seed: seed of the resampling.
        resamples: number of bootstrap resamples.
        confidence: confidence level of the two-sided intervals.

    Raises:
        ValueError: as :func:`group_means`; fewer than one resample; a confidence outside (0, 1).
    """
    check_fraction("confidence", confidence)
    if resamples < 1:
        raise ValueError(f"resamples: {resamples} must be at least 1")
    means = np.stack([group_means(before, groups, n_groups), group_means(after, groups, n_groups)])
    pair = np.stack([np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)], axis=-1)
    labels = np.asarray(groups, dtype=np.int64)
    rng = seeds.generator(seed, "levelled down within a run")
    drawn = np.empty((resamples, 2, n_groups))
    for k in range(n_groups):
        own = pair[labels == k]
        rows = max(1, CHUNK // len(own))
        for first in range(0, resamples, rows):
            size = min(rows, resamples - first)
            weights = rng.multinomial(len(own), np.full(len(own), 1.0 / len(own)), size=size)
            drawn[first : first + size, :, k] = weights @ own / len(own)
    # rounding errors may put sums of floats slightly outside [0, 1]
    observed, resampled = _three(means), _three(np.clip(drawn, 0.0, 1.0))
    tails = [0.5 - confidence / 2.0, 0.5 + confidence / 2.0]
    estimate = observed[1] - observed[0]
    low, high = np.quantile(resampled[:, 1] - resampled[:, 0], tails, axis=0)
    changes = [Change(np.asarray(e), np.asarray(a), np.asarray(b)) for e, a, b in zip(estimate, low, high, strict=True)]
    return _told(changes, np.where(high < -ROUNDING, -1.0, np.where(low > ROUNDING, 1.0, 0.0)), seen=True)


def _three(quality: FloatArray) -> FloatArray:
    """Gap, mean, worst and every group's quality, shape (..., 3 + K) for quality (..., K)."""
    bias = disparate_bias(quality)
    return np.concatenate([np.stack([bias.gap, bias.mean, bias.worst], axis=-1), quality], axis=-1)


def _told(changes: Sequence[Change], signs: FloatArray, seen: bool) -> LevelledDown:
    """From the changes of gap, mean, worst and groups, and what is shown of them, shape (..., 3 + K)."""
    gap, mean, worst = changes[:3]
    of_gap, of_mean, of_worst = (signs[..., i] for i in range(3))
    cause = cause_of(of_gap, of_mean, of_worst, (signs[..., 3:] > 0).any(axis=-1), mean.estimate)
    return LevelledDown(gap, mean, worst, cause, np.asarray((of_gap < 0) & ((of_mean < 0) | (of_worst < 0))), seen)


def _check_quality(name: str, values: ArrayLike) -> FloatArray:
    q = np.asarray(values, dtype=np.float64)
    if not np.all((q >= 0) & (q <= 1 + ROUNDING)):
        raise ValueError(f"{name}: {q.tolist()} holds a number outside [0, 1]; quality is a fraction")
    return q


def _check_groups(groups: ArrayLike, shape: tuple[int, ...], n_groups: int) -> IntArray:
    labels = np.asarray(groups)
    if len(shape) != 1 or labels.shape != shape:
        raise ValueError(f"groups: shape {labels.shape} for quality of shape {shape}; both are (N,)")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0 or labels.max(initial=0) >= n_groups:
        raise ValueError(f"groups: {labels.tolist()} holds no indices from 0 to {n_groups - 1}")
    empty = np.flatnonzero(np.bincount(labels, minlength=n_groups) == 0).tolist()
    if empty:
        raise ValueError(f"groups: groups {empty} have no quality; measure every group or leave it out of the config")
    return labels.astype(np.int64)
