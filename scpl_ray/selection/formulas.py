"""The effect of selection on rewards and group shares, in closed form.

Array functions: groups are the last axis, and axes for settings or seeds come first and broadcast. The strategies of
:mod:`scpl_ray.selection.strategies` use the same acceptance, weights and multipliers; the tests compare the
two. Closed forms that only the tests need are in ``tests/theory``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scpl_ray.shares import FloatArray, normalise

NUMBERS_AT_ONCE = 50_000
"""Numbers that an integral holds at once, few enough to fit into a processor's cache."""


def _array(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def _check_beta(beta: ArrayLike) -> FloatArray:
    beta = _array(beta)
    if not np.all(beta > 0):
        raise ValueError(f"beta: {beta.tolist()} must be above 0; a small beta keeps only the best")
    return beta


# rejection sampling -----------------------------------------------------------------------------------------------


def vrs_acceptance(rewards: ArrayLike, beta: ArrayLike, r_max: ArrayLike) -> FloatArray:
    """Probability exp((r - r_max) / beta) to accept each reward, same shape as ``rewards``.

    What is accepted follows the exact tilt pi exp(r / beta) only if one r_max bounds all rewards.

    Raises:
        ValueError: beta <= 0, or a reward above r_max.
    """
    rewards, beta = _array(rewards), _check_beta(beta)
    excess = rewards - _array(r_max)
    if not np.all(excess <= 0):
        raise ValueError(
            f"r_max: {_array(r_max).tolist()} does not bound the rewards, the largest is {rewards.max():g}"
        )
    return np.asarray(np.exp(excess / beta))


def accepted_shares(shares: ArrayLike, acceptance: ArrayLike) -> FloatArray:
    """Group shares p_g Z_g / sum p Z of the accepted, shape (..., K); the acceptance rate is sum p Z."""
    return normalise("acceptance", _array(shares) * _array(acceptance))


# best of n and top fraction ---------------------------------------------------------------------------------------


def best_of_n_shares(shares: ArrayLike, means: ArrayLike, sds: ArrayLike, n: int) -> FloatArray:
    """Group shares of the best of n draws from the mixture of N(mu_g, sd_g^2), shape (..., K): p_g E_g[n F(r)^(n-1)].

    Uses the trapezoid rule with steps of 1/8 of the smallest sd, over 10 sd on either side: exact to about 1e-12.
    """
    from scipy.special import ndtr  # half a second that checking a config need not wait

    shares, means, sds = np.broadcast_arrays(_array(shares), _array(means), _array(sds))
    low, high = (means - 10.0 * sds).min(), (means + 10.0 * sds).max()
    grid, step = np.linspace(low, high, 2 + int(np.ceil(8.0 * (high - low) / sds.min())), retstep=True)
    total = np.zeros(shares.shape)
    slab = max(1, NUMBERS_AT_ONCE // shares.size)
    for first in range(0, len(grid), slab):
        z = (grid[first : first + slab].reshape(-1, *[1] * shares.ndim) - means) / sds
        below = (shares * ndtr(z)).sum(axis=-1, keepdims=True)
        total += (np.exp(-(z**2) / 2.0) * below ** (n - 1)).sum(axis=0)
    return np.asarray(total * shares * n * step / (np.sqrt(2.0 * np.pi) * sds))


def top_fraction(
    shares: ArrayLike, means: ArrayLike, sds: ArrayLike, kappa: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """The threshold tau that keeps the best fraction kappa of a mixture of N(mu_g, sd_g^2), and the shares above it.

    Solves sum_g p_g P(r > tau | g) = kappa by bisection, to machine precision.

    Args:
        shares: p_g, shape (..., K).
        means: mu_g, shape (..., K).
        sds: sd_g > 0, shape (..., K).
        kappa: fraction in (0, 1], shape (...).

    Returns:
        tau, shape (...); shares among the kept, shape (..., K).
    """
    from scipy.special import ndtr  # half a second that checking a config need not wait

    shares, means, sds, kept = np.broadcast_arrays(_array(shares), _array(means), _array(sds), _array(kappa)[..., None])
    low, high = (means - 40.0 * sds).min(axis=-1), (means + 40.0 * sds).max(axis=-1)
    for _ in range(120):
        middle = (low + high) / 2.0
        above = (shares * ndtr((means - middle[..., None]) / sds)).sum(axis=-1) > kept[..., 0]
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    tau = np.asarray((low + high) / 2.0)
    return tau, accepted_shares(shares, ndtr((means - tau[..., None]) / sds))


# group-aware ------------------------------------------------------------------------------------------------------


def importance_weights(shares: ArrayLike, target: ArrayLike) -> FloatArray:
    """w_g = tau_g / p_g, shape (..., K); 0 for a group that is neither present nor wanted.

    Raises:
        ValueError: a group that is wanted has no rows.
    """
    shares, target = np.broadcast_arrays(_array(shares), _array(target))
    if np.any((shares == 0) & (target > 0)):
        raise ValueError(
            f"target: asks for shares {target.tolist()} but the groups have {shares.tolist()}; "
            "an empty group cannot be weighted up, draw more of it"
        )
    return np.asarray(np.divide(target, shares, out=np.zeros(shares.shape), where=shares > 0))


def effective_sample_size(weights: ArrayLike) -> float:
    """(sum w)^2 / sum w^2 (Kish)."""
    weights = _array(weights)
    return float(weights.sum() ** 2 / (weights**2).sum())


def calibrated_multipliers(shares: ArrayLike, target: ArrayLike, acceptance: ArrayLike) -> FloatArray:
    """c_g ~ tau_g / (p_g Z_g) with maximum 1, shape (..., K): accepting with a(r) c_g gives shares tau exactly.

    Raises:
        ValueError: a wanted group that is empty or never accepted.
    """
    mass, target = np.broadcast_arrays(_array(shares) * _array(acceptance), _array(target))
    if np.any((mass == 0) & (target > 0)):
        raise ValueError(
            f"target: asks for shares {target.tolist()} but the groups' accepted mass is {mass.tolist()}; "
            "draw more of the empty group, or raise beta"
        )
    supply = np.divide(mass, target, out=np.full(mass.shape, np.inf), where=target > 0)
    return np.asarray(supply.min(axis=-1, keepdims=True) / supply)


def penalised_shares(
    shares: ArrayLike, rewards: ArrayLike, target: ArrayLike, beta: ArrayLike, penalty: ArrayLike, form: str = "log"
) -> FloatArray:
    """One round of selection by reward minus lambda excess: s'_g ~ s_g exp((q_g - lambda excess_g) / beta), (..., K).

    Args:
        shares: s_g.
        rewards: q_g, the group's mean reward.
        target: tau_g > 0.
        beta: temperature.
        penalty: lambda.
        form: ``log`` excess ln(s_g / tau_g), or ``linear`` excess s_g - tau_g.

    Raises:
        ValueError: an unknown form, or beta <= 0.
    """
    shares, target, beta = _array(shares), _array(target), _check_beta(beta)
    match form:
        case "log":
            excess = np.log(np.divide(shares, target, out=np.ones_like(shares), where=shares > 0))
        case "linear":
            excess = shares - target
        case _:
            raise ValueError(f"form: {form!r} is neither log nor linear")
    exponent = (_array(rewards) - _array(penalty) * excess) / beta
    return accepted_shares(shares, np.exp(exponent - exponent.max(axis=-1, keepdims=True)))
