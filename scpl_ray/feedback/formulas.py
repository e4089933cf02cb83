"""The feedback rules as formulas: array functions on (..., K) with plain numbers for settings.

Settings broadcast against the shares, so that one call serves a whole grid of them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from scpl_ray.shares import SUM_TOLERANCE, FloatArray, normalise

WHOLE = 1e-9
"""A number of users that exceeds a whole number by less than this is that whole number."""


def schedule(initial_shares: ArrayLike, change: ArrayLike, rounds: int) -> FloatArray:
    """Linear path s_t = clip(s_0 + t * change, 0, 1), renormalised, shape (..., K); used as a control without feedback.

    Raises:
        ValueError: ``change`` does not sum to 0 within 1e-6.
    """
    change = np.asarray(change, dtype=np.float64)
    if np.any(np.abs(change.sum(axis=-1)) > 1e-6):
        raise ValueError(f"feedback.step: {change.tolist()} sums to {change.sum():g}; changes of shares sum to 0")
    path = np.asarray(initial_shares, dtype=np.float64) + rounds * change
    return normalise("shares", np.clip(path, 0.0, 1.0))


def linear_response(shares: ArrayLike, measured: ArrayLike, alpha: ArrayLike, floor: ArrayLike = 0.0) -> FloatArray:
    """s'_k = s_k + alpha (q_k - sum_j s_j q_j), cut at 0 and renormalised, then :func:`at_least`; shape (..., K)."""
    shares, measured = np.asarray(shares, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    mean = (shares * measured).sum(axis=-1, keepdims=True)
    return at_least(normalise("shares", np.maximum(shares + np.asarray(alpha) * (measured - mean), 0.0)), floor)


def at_least(shares: ArrayLike, floor: ArrayLike) -> FloatArray:
    """s'_k = max(floor, c s_k) with the c for which the shares sum to 1, shape (..., K): water filling.

    Cutting at the floor and dividing by the new sum would push shares below it again. Shares that all reach the floor
    stay as they are, and shares above it keep their ratios.

    Args:
        shares: s, shape (..., K).
        floor: the smallest share, shape (...) broadcast against one number per row.

    Raises:
        ValueError: K floors exceed 1 in total.
    """
    shares = np.asarray(shares, dtype=np.float64)
    n_groups = shares.shape[-1]
    smallest = np.broadcast_to(np.asarray(floor, dtype=np.float64)[..., None], (*shares.shape[:-1], 1))
    if np.any(smallest * n_groups > 1.0 + SUM_TOLERANCE):
        raise ValueError(
            f"feedback.floor: {np.asarray(floor).tolist()} for each of {n_groups} groups exceeds 1 in total; give at "
            f"most {math.floor(1e4 / n_groups) / 1e4:g}"
        )
    lifted, low = shares, np.zeros(shares.shape, dtype=bool)
    # each pass lifts one group or more, or is the last
    while np.any(below := ~low & (lifted < smallest)):
        low |= below
        rest = 1.0 - smallest * low.sum(axis=-1, keepdims=True)
        free = np.where(low, 0.0, shares).sum(axis=-1, keepdims=True)
        scale = np.divide(np.maximum(rest, 0.0), free, out=np.zeros_like(free), where=free > 0)
        lifted = np.where(low.any(axis=-1, keepdims=True), np.where(low, smallest, scale * shares), shares)
    return np.asarray(lifted)


def whole_at_least(users: ArrayLike, floor: float) -> FloatArray:
    """The fewest whole users to add so that every group has a share of ``floor`` or more, shape (..., K).

    Each group below gets N_k = ceil(floor sum N), again until no group is below. Whole users are added and not moved,
    since a share of few users may have no whole number of them.

    Raises:
        ValueError: K floors exceed 1 in total.
    """
    found = np.asarray(users, dtype=np.float64)
    at_least(np.full(found.shape[-1], 1.0 / found.shape[-1]), floor)
    # a floor that is 1/K but for rounding is reached by no number of users
    floor = min(floor, 1.0 / found.shape[-1])
    while True:
        total = found.sum(axis=-1, keepdims=True)
        more = np.maximum(found, np.ceil(floor * total - WHOLE))
        if np.array_equal(more, found):
            return found
        found = more


def retention_rate(risk: ArrayLike, form: str, sensitivity: ArrayLike) -> FloatArray:
    """Fraction of a group's users that stay, nu(R) in [0, 1], shape (..., K) (Hashimoto et al. 2018).

    Args:
        risk: R = 1 - measure, shape (..., K).
        form: ``constant`` nu = 1 - c; ``linear`` nu = 1 - c R clipped to [0, 1]; ``exponential`` nu = exp(-c R).
        sensitivity: c >= 0, broadcast against ``risk``.

    Raises:
        ValueError: an unknown form.
    """
    risk, sensitivity = np.asarray(risk, dtype=np.float64), np.asarray(sensitivity, dtype=np.float64)
    match form:
        case "constant":
            return np.asarray(np.clip(np.broadcast_to(1.0 - sensitivity, risk.shape), 0.0, 1.0))
        case "linear":
            return np.asarray(np.clip(1.0 - sensitivity * risk, 0.0, 1.0))
        case "exponential":
            return np.asarray(np.exp(-sensitivity * risk))
    raise ValueError(f"feedback.retention: {form!r} is none of constant, linear, exponential")


def retention(masses: ArrayLike, rate: ArrayLike, newcomers: ArrayLike) -> FloatArray:
    """Expected users lambda'_k = lambda_k nu_k + b_k, shape (..., K) (Hashimoto et al. 2018)."""
    return np.asarray(np.asarray(masses) * np.asarray(rate) + np.asarray(newcomers), dtype=np.float64)


def retention_agents(
    masses: ArrayLike, rate: ArrayLike, newcomers: ArrayLike, draws: np.random.Generator
) -> FloatArray:
    """Whole users N'_k ~ Binomial(N_k, nu_k) + Poisson(b_k), shape (..., K); masses are rounded to whole users.

    With a constant rate the stationary law is Poisson(b / (1 - nu)).
    """
    users = np.rint(np.asarray(masses, dtype=np.float64)).astype(np.int64)
    stayed = draws.binomial(users, np.broadcast_to(rate, users.shape))
    return np.asarray(stayed + draws.poisson(np.broadcast_to(newcomers, users.shape)), dtype=np.float64)


def replicator_ratio(shares: ArrayLike, fitness: ArrayLike) -> FloatArray:
    """p'_k = p_k f_k / sum_j p_j f_j, shape (..., K). Zeros stay 0; the mean fitness rises by Var_p(f) / mean.

    A group of fitness 0 dies out.

    Raises:
        ValueError: a fitness below 0, or one of 0 in every group that there is.
    """
    fitness = np.asarray(fitness, dtype=np.float64)
    if np.any(fitness < 0):
        raise ValueError(
            f"measured: the ratio replicator needs fitness of 0 or more, got {fitness.min():g}; "
            "use feedback.ratio: false, the exponential form"
        )
    masses = np.asarray(shares, dtype=np.float64) * fitness
    if np.any(masses.sum(axis=-1) <= 0):
        raise ValueError(
            f"measured: the ratio replicator needs one group above 0, got {fitness.tolist()!s:.200}, where every group "
            "that is there has 0; use feedback.ratio: false, the exponential form"
        )
    return normalise("shares", masses)


def replicator_exponential(shares: ArrayLike, fitness: ArrayLike, beta: ArrayLike) -> FloatArray:
    """p'_k ~ p_k exp(beta f_k), shape (..., K). Zeros stay 0."""
    shares = np.asarray(shares, dtype=np.float64)
    exponent = np.asarray(beta) * np.asarray(fitness, dtype=np.float64)
    present = np.where(shares > 0, exponent, -np.inf)
    # shifted by the largest exponent among groups that exist, so that nothing overflows and not all underflows
    return normalise("shares", shares * np.exp(present - present.max(axis=-1, keepdims=True)))


def softmax_choice(
    shares: ArrayLike, utility: ArrayLike, beta: ArrayLike, inertia: ArrayLike = 0.0, noise: ArrayLike = 0.0
) -> FloatArray:
    """s' = (1 - eta) s + eta [(1 - eps) softmax(beta u) + eps / K], shape (..., K).

    Args:
        shares: s, shape (..., K).
        utility: u, shape (..., K).
        beta: sensitivity; negative for users who avoid the crowd.
        inertia: 1 - eta, the weight of the old shares.
        noise: eps, the share of users who choose at random.
    """
    shares = np.asarray(shares, dtype=np.float64)
    exponent = np.asarray(beta) * np.asarray(utility, dtype=np.float64)
    choice = normalise("shares", np.exp(exponent - exponent.max(axis=-1, keepdims=True)))
    inertia, noise = np.asarray(inertia), np.asarray(noise)
    chosen = (1.0 - noise) * choice + noise / shares.shape[-1]
    return np.asarray(inertia * shares + (1.0 - inertia) * chosen)
