"""Group shares: checking vectors of shares, and dividing a whole number of items by them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SUM_TOLERANCE = 1e-6
ROUNDING = 9
"""Remainders are compared after rounding to this many decimals, so that equal ones tie in floating point too."""


def check_shares(name: str, values: ArrayLike, n_groups: int | None = None) -> FloatArray:
    """Check shares and return them as an array of shape (..., K).

    Args:
        name: the field in which the values were given, for the error message.
        values: shape (..., K), K >= 2; each row >= 0 and summing to 1 within 1e-6.
        n_groups: the required K; ``None``: any K is allowed.

    Raises:
        ValueError: wrong length, a negative or not finite entry, or a sum other than 1.
    """
    shares = np.asarray(values, dtype=np.float64)
    if shares.ndim == 0 or shares.shape[-1] < 2:
        raise ValueError(f"{name}: {shares.tolist()} holds fewer than 2 groups; give one share per group")
    if n_groups is not None and shares.shape[-1] != n_groups:
        raise ValueError(f"{name}: {shares.shape[-1]} shares for {n_groups} groups; give one per group")
    if not np.all(np.isfinite(shares)) or np.any(shares < 0):
        raise ValueError(f"{name}: {shares.tolist()} holds a negative or not finite share; shares are >= 0")
    sums = shares.sum(axis=-1)
    if np.any(np.abs(sums - 1.0) > SUM_TOLERANCE):
        worst = float(sums.flat[np.abs(sums - 1.0).argmax()])
        raise ValueError(f"{name}: {shares.tolist()} sums to {worst:g}; shares sum to 1")
    return shares


def check_fraction(name: str, value: float) -> None:
    """Raise :class:`ValueError` unless a level, power or confidence lies between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}: {value} must lie between 0 and 1, both excluded")


def normalise(name: str, masses: FloatArray) -> FloatArray:
    """Divide masses by their sum to get shares, shape (..., K).

    Raises:
        ValueError: the masses of a row are all 0, so it has no shares.
    """
    totals = masses.sum(axis=-1, keepdims=True)
    if np.any(totals <= 0):
        raise ValueError(f"{name}: every group's mass is 0, so there are no shares; keep at least one group above 0")
    return np.asarray(masses / totals)


def largest_remainder(shares: ArrayLike, total: int) -> IntArray:
    """Divide ``total`` items into whole counts by shares, shape (K,); each count is within 1 of ``share * total``.

    Hamilton's method: every group gets the whole part of its quota, and the largest remainders get the rest. Equal
    remainders go to the group of lower index.

    Raises:
        ValueError: invalid shares or a negative total.
    """
    if total < 0:
        raise ValueError(f"total: {total} is negative; give 0 or more")
    quotas = check_shares("shares", shares) * total
    counts = np.floor(quotas).astype(np.int64)
    remainders = np.round(quotas - counts, ROUNDING)
    order = np.argsort(-remainders, kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return counts
