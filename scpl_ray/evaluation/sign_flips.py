"""Sign-flip tests of differences between seeds: is the mean of S paired differences 0?

Where treatment and control are exchangeable (the null of a paired comparison), a difference is as likely as its
negative, so all 2^S sign patterns are equally likely and the test is exact (Fisher 1935). The mean of differences that
are *not* symmetric can be 0 too: a test of that wider null errs where a long tail points towards 0, because few seeds
rarely show it. A second p-value, of Johnson's t (1978) corrected for such a tail, therefore has to be small as well.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from scpl_ray import seeds
from scpl_ray.shares import FloatArray

FEWEST = 6
"""Fewest seeds that can reject at 5%: the smallest two-sided p-value of S sign flips is 2^(1 - S)."""
EXACT_UP_TO = 14
"""Up to this many seeds all sign patterns are enumerated; beyond, :data:`DRAWN` of them are drawn."""
DRAWN = 9_999
ROUNDING = 1e-12
TAIL, REACH = 1.25, 1.5
"""Johnson's correction: the sample's skewness is enlarged by ``TAIL``, because few seeds understate it, and a mean of
more than ``REACH`` standard deviations is corrected as one of ``REACH``: beyond, no tail of that size explains it.
Both were set by simulation (``python -m tests.theory.calibration``)."""
REACHES = np.geomspace(0.1, 1e4, 26)
"""Offsets of a bound from the mean, in standard deviations, among which it is searched first."""
GRID, REFINED = 32, 5
"""Offsets per step of that search, and steps."""
CHUNK = 4_000_000
"""Number of flipped sums, and of signs, in memory at once."""


def n_patterns(n_seeds: int) -> int:
    """Number of sign patterns F: half of all, since a pattern and its negative have the same size of mean."""
    return 2 ** (n_seeds - 1) if n_seeds <= EXACT_UP_TO else DRAWN + 1


def patterns(n_seeds: int) -> Iterator[FloatArray]:
    """The sign patterns in blocks of shape (f, S), at most :data:`CHUNK` signs at once.

    The first pattern changes no sign. Beyond :data:`EXACT_UP_TO` seeds the others are drawn with a fixed seed.
    """
    if n_seeds <= EXACT_UP_TO or n_patterns(n_seeds) * n_seeds <= CHUNK:
        yield _all_patterns(n_seeds)
    else:
        yield from _drawn(n_seeds, max(1, CHUNK // n_seeds))


@functools.lru_cache(maxsize=64)
def _all_patterns(n_seeds: int) -> FloatArray:
    if n_seeds <= EXACT_UP_TO:
        bits = (np.arange(2 ** (n_seeds - 1))[:, None] >> np.arange(n_seeds)) & 1
        return np.asarray(1.0 - 2.0 * bits)
    return np.concatenate([*_drawn(n_seeds, DRAWN)])


def _drawn(n_seeds: int, rows: int) -> Iterator[FloatArray]:
    """The pattern that changes no sign, and those drawn, so many at once; they do not depend on how many."""
    rng = seeds.generator(n_seeds, "sign patterns")
    yield np.ones((1, n_seeds))
    for first in range(0, DRAWN, rows):
        bits = rng.integers(2, size=(min(rows, DRAWN - first), n_seeds))
        yield np.asarray(1.0 - 2.0 * bits, dtype=np.float64)


def smallest_p(n_seeds: int) -> float:
    """The smallest two-sided p-value that a sign-flip test of so many seeds can have."""
    return 1.0 / n_patterns(n_seeds)


def flip_p(differences: ArrayLike) -> FloatArray:
    """Two-sided sign-flip p-values, shape (...) for differences (..., S); 1 where all differences are 0."""
    d = np.asarray(differences, dtype=np.float64)
    flat = d.reshape(-1, d.shape[-1])
    observed, as_large = np.full(len(flat), np.nan), np.zeros(len(flat), dtype=np.int64)
    slack = ROUNDING * np.abs(flat).sum(axis=1)
    for number, signs in enumerate(patterns(d.shape[-1])):
        rows = max(1, CHUNK // len(signs))
        for first in range(0, len(flat), rows):
            of = slice(first, first + rows)
            sums = np.abs(flat[of] @ signs.T)
            if number == 0:
                observed[of] = sums[:, 0]
            as_large[of] += (sums >= (observed[of] - slack[of])[:, None]).sum(axis=1)
    return (as_large / n_patterns(d.shape[-1])).reshape(d.shape[:-1])


def skewness(differences: ArrayLike) -> FloatArray:
    """Sample skewness, corrected for S, shape (...) for differences (..., S); 0 with fewer than 3 seeds."""
    d = np.asarray(differences, dtype=np.float64)
    n = d.shape[-1]
    if n < 3:
        return np.zeros(d.shape[:-1])
    centred = d - d.mean(axis=-1, keepdims=True)
    sd = centred.std(axis=-1, ddof=1)
    third = (centred**3).sum(axis=-1) * n / ((n - 1) * (n - 2))
    spread = sd > ROUNDING * np.abs(d).max(axis=-1)
    return np.asarray(np.divide(third, sd**3, out=np.zeros_like(sd), where=spread))


def tail_p(differences: ArrayLike) -> FloatArray:
    """Two-sided p-values of Student's t, lowered where the differences have a tail towards 0 (Johnson 1978).

    Johnson's t is sqrt(S) (w - g (1 / (6 S) + w^2 / 3)) with w = |mean| / sd and g the skewness towards 0; it is kept
    from falling where w grows. 0 where all differences agree, and 1 where all are 0. Shapes as in :func:`flip_p`.
    """
    d = np.asarray(differences, dtype=np.float64)
    n = d.shape[-1]
    mean, sd = d.mean(axis=-1), d.std(axis=-1, ddof=1)
    agree = sd <= ROUNDING * np.abs(d).max(axis=-1)
    w = np.divide(np.abs(mean), sd, out=np.zeros_like(sd), where=~agree)
    g = TAIL * np.clip(-skewness(d) * np.sign(mean), 0.0, None)
    top = np.minimum(np.minimum(w, REACH), 1.5 / np.maximum(g, ROUNDING))
    corrected = np.maximum(top - g * top**2 / 3.0, w - g * REACH**2 / 3.0) - g / (6.0 * n)
    p = 2.0 * stats.t.sf(np.maximum(corrected, 0.0) * np.sqrt(n), n - 1)
    return np.asarray(np.where(agree, np.where(mean == 0, 1.0, 0.0), p))


def two_sided_p(differences: ArrayLike) -> FloatArray:
    """P-values that the mean between seeds is 0, shape (...) for differences (..., S): the larger of both tests.

    Raises:
        ValueError: fewer than :data:`FEWEST` seeds, or a number that is not finite.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim == 0 or d.shape[-1] < FEWEST:
        raise ValueError(f"differences: shape {d.shape} holds fewer than {FEWEST} seeds, which cannot reject at 5%")
    if not np.all(np.isfinite(d)):
        raise ValueError(f"differences: {d.tolist()} holds a number that is not finite")
    return np.asarray(np.maximum(flip_p(d), tail_p(d)))


def joint_p(differences: ArrayLike) -> FloatArray:
    """P-values of V means of the same seeds, adjusted so that any false one has at most the level's chance, shape (V,).

    The signs of a seed are flipped in all V together, and each size |t| is compared with the largest of all V
    (Westfall and Young 1993): dependence between them costs nothing, and the smallest p-value stays 2^(1 - S).

    Args:
        differences: shape (V, S), S >= :data:`FEWEST`.
    """
    d = np.asarray(differences, dtype=np.float64)
    squares = np.sqrt(d.shape[1] * (d**2).sum(axis=1))
    # |mean| / sd grows with |sum| / sqrt(S sum of squares), in which flips leave the denominator alone
    sizes, as_large = np.empty(len(d)), np.zeros(len(d), dtype=np.int64)
    for number, signs in enumerate(patterns(d.shape[1])):
        largest = np.zeros(len(signs))
        rows = max(1, CHUNK // len(signs))
        for first in range(0, len(d), rows):
            of = slice(first, first + rows)
            relative = np.divide(
                np.abs(d[of] @ signs.T),
                squares[of, None],
                out=np.zeros((len(d[of]), len(signs))),
                where=squares[of, None] > 0,
            )
            if number == 0:
                sizes[of] = relative[:, 0]
            largest = np.maximum(largest, relative.max(axis=0))
        as_large += (largest[None] >= sizes[:, None] - ROUNDING).sum(axis=1)
    return np.asarray(np.maximum(as_large / n_patterns(d.shape[1]), tail_p(d)))


def confidence_bounds(differences: ArrayLike, confidence: float) -> tuple[float, float]:
    """The means that :func:`two_sided_p` does not reject at ``1 - confidence``: bounds that agree with the test.

    Raises:
        ValueError: as :func:`two_sided_p`, or a confidence that so few seeds cannot have.
    """
    d = np.asarray(differences, dtype=np.float64)
    level = 1.0 - confidence
    if smallest_p(len(d)) > level:
        raise ValueError(f"confidence: {confidence} needs more than {len(d)} seeds")
    mean, sd = float(d.mean()), float(d.std(ddof=1))
    if sd <= ROUNDING * np.abs(d).max(initial=0.0):
        return mean, mean
    bounds = []
    for side in (-1.0, 1.0):
        # the offset of the bound in standard deviations, searched among ever closer ones
        low, high = 0.0, REACHES[-1]
        offsets = REACHES
        for _ in range(REFINED):
            rejected = two_sided_p(d - mean - side * sd * offsets[:, None]) <= level
            first = int(np.argmax(rejected)) if rejected.any() else len(offsets) - 1
            low, high = float(offsets[first - 1]) if first else low, float(offsets[first])
            offsets = np.linspace(low, high, GRID + 1)[1:]
        bounds.append(mean + side * sd * high)
    return bounds[0], bounds[1]
