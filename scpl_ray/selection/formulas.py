"""What selection does to rewards and group shares, in closed form.

Array functions: groups are the last axis, any settings or seeds stand in front and broadcast. The strategies of
:mod:`scpl_ray.selection.strategies` use the same acceptance, weights and multipliers; the tests hold the two against
each other."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import comb, ndtr
from scipy.stats import norm

from scpl_ray.shares import FloatArray, normalise

NUMBERS_AT_ONCE = 50_000
"""In a slab of an integral: what fits into a processor's cache."""


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


def group_acceptance(laws: ArrayLike, values: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Z_g = E[exp((r - max value) / beta)] under discrete reward laws, shape (..., K).

    Args:
        laws: P(reward | group), shape (..., K, V), rows summing to 1.
        values: the V rewards.
        beta: temperature, a scalar.
    """
    values = _array(values)
    return np.asarray((_array(laws) * vrs_acceptance(values, beta, values.max())).sum(axis=-1))


def prompt_max_acceptance(
    shares: ArrayLike, laws: ArrayLike, values: ArrayLike, beta: ArrayLike, candidates: int
) -> FloatArray:
    """Z_g under each prompt's own maximum among n candidates of mixed groups, shape (K,).

    With F the pooled distribution function, the n - 1 others have their maximum at value m with probability
    F_m^(n-1) - F_(m-1)^(n-1), and reward i is accepted with exp(min(r_i - r_m, 0) / beta). A lone candidate is always
    accepted; only many come near the exact tilt of :func:`group_acceptance`.

    Args:
        shares: p_g, shape (K,).
        laws: P(reward | group), shape (K, V).
        values: the V rewards, strictly ascending.
        beta: temperature, a scalar.
        candidates: n >= 1 per prompt.

    Raises:
        ValueError: values that do not ascend, or beta <= 0.
    """
    values, laws, beta = _array(values), _array(laws), _check_beta(beta)
    if np.any(np.diff(values) <= 0):
        raise ValueError(f"values: {values.tolist()} must ascend strictly")
    others_maximum = np.diff(np.cumsum(_array(shares) @ laws) ** (candidates - 1), prepend=0.0)
    gaps = np.minimum(values[:, None] - values[None, :], 0.0)
    return np.asarray(laws @ (np.exp(gaps / beta) @ others_maximum))


def accepted_shares(shares: ArrayLike, acceptance: ArrayLike) -> FloatArray:
    """Group shares p_g Z_g / sum p Z among the accepted, shape (..., K); the rate is sum p Z."""
    return normalise("acceptance", _array(shares) * _array(acceptance))


def tilted_gaussian_shares(shares: ArrayLike, means: ArrayLike, sds: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Shares after rejection sampling with r | g ~ N(mu_g, sd_g^2): p_g exp(mu_g / beta + sd_g^2 / (2 beta^2)).

    Shape (..., K); ``beta`` broadcasts against it. Variance alone moves shares.

    Raises:
        ValueError: beta <= 0.
    """
    beta = _check_beta(beta)
    exponent = _array(means) / beta + _array(sds) ** 2 / (2.0 * beta**2)
    return accepted_shares(shares, np.exp(exponent - exponent.max(axis=-1, keepdims=True)))


def luce_shares(share: ArrayLike, rewards: ArrayLike, candidates: int) -> FloatArray:
    """Share of the first of two kinds when a user picks one of n candidates with odds exp(reward), shape (...).

    E[a e^rA / (a e^rA + (n - a) e^rB)] with a ~ Binomial(n, p); n -> infinity is the exact tilt (Ferbach et al. 2024).

    Args:
        share: p of the first kind, shape (...).
        rewards: of the two kinds, shape (2,).
        candidates: n >= 1.
    """
    share = _array(share)[..., None]
    first = np.arange(candidates + 1)
    count_law = comb(candidates, first) * share**first * (1.0 - share) ** (candidates - first)
    odds = np.exp(_array(rewards) - np.max(rewards))
    return np.asarray((count_law * (first * odds[0] / (first * odds[0] + (candidates - first) * odds[1]))).sum(axis=-1))


# best of n and top fraction ---------------------------------------------------------------------------------------


def best_of_n_law(law: ArrayLike, n: int) -> FloatArray:
    """Law of the best of n draws, P_i = F_i^n - F_(i-1)^n, shape (..., V); ``law`` in ascending order of reward."""
    return np.asarray(np.diff(np.cumsum(_array(law), axis=-1) ** n, prepend=0.0, axis=-1))


def best_of_n_divergence(law: ArrayLike, n: int) -> FloatArray:
    """KL(best of n || one draw) in nats, shape (...); at most :func:`best_of_n_divergence_bound`, less with ties."""
    law, best = _array(law), best_of_n_law(law, n)
    ratio = np.divide(best, law, out=np.ones_like(best), where=best > 0)
    return np.asarray((best * np.log(ratio)).sum(axis=-1))


def best_of_n_divergence_bound(n: int) -> float:
    """ln n - (n - 1) / n nats, reached by rewards without ties."""
    return float(np.log(n) - (n - 1) / n)


def best_of_n_shares(shares: ArrayLike, means: ArrayLike, sds: ArrayLike, n: int) -> FloatArray:
    """Group shares of the best of n draws from the mixture of N(mu_g, sd_g^2), shape (..., K): p_g E_g[n F(r)^(n-1)].

    The trapezoid rule with steps of an 8th of the smallest sd over 10 sd on either side: exact to about 1e-12.
    """
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

    Solves sum_g p_g P(r > tau | g) = kappa by bisection, to the last bit.

    Args:
        shares: p_g, shape (..., K).
        means: mu_g, shape (..., K).
        sds: sd_g > 0, shape (..., K).
        kappa: fraction in (0, 1], shape (...).

    Returns:
        tau, shape (...); shares among the kept, shape (..., K).
    """
    shares, means, sds, kept = np.broadcast_arrays(_array(shares), _array(means), _array(sds), _array(kappa)[..., None])
    low, high = (means - 40.0 * sds).min(axis=-1), (means + 40.0 * sds).max(axis=-1)
    for _ in range(120):
        middle = (low + high) / 2.0
        above = (shares * norm.sf(middle[..., None], means, sds)).sum(axis=-1) > kept[..., 0]
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    tau = np.asarray((low + high) / 2.0)
    return tau, accepted_shares(shares, norm.sf(tau[..., None], means, sds))


def top_fraction_mean(shares: ArrayLike, means: ArrayLike, sds: ArrayLike, kappa: ArrayLike) -> FloatArray:
    """Mean reward of the best fraction kappa of a mixture, shape (...); arguments as :func:`top_fraction`."""
    tau, _ = top_fraction(shares, means, sds, kappa)
    return np.asarray((_array(shares) * _mean_above(tau[..., None], means, sds)).sum(axis=-1) / _array(kappa))


def quota_mean(shares: ArrayLike, means: ArrayLike, sds: ArrayLike, kappa: ArrayLike, target: ArrayLike) -> FloatArray:
    """Mean reward when the best fraction kappa is kept under quotas ``target``, shape (...): what quotas cost.

    Raises:
        ValueError: a quota kappa tau_g above the group's share p_g.
    """
    shares, target, kept = _array(shares), _array(target), _array(kappa)[..., None]
    if np.any(kept * target > shares):
        raise ValueError(
            f"target: a fraction {_array(kappa).tolist()} in shares {target.tolist()} exceeds what the groups have, "
            f"{shares.tolist()}; keep a smaller fraction"
        )
    tau = norm.isf(kept * target / shares, means, sds)
    return np.asarray((shares * _mean_above(tau, means, sds)).sum(axis=-1) / kept[..., 0])


def _mean_above(tau: FloatArray, means: ArrayLike, sds: ArrayLike) -> FloatArray:
    """E[r; r > tau] of N(mu, sd^2)."""
    return np.asarray(_array(means) * norm.sf(tau, means, sds) + _array(sds) ** 2 * norm.pdf(tau, means, sds))


# group-aware ------------------------------------------------------------------------------------------------------


def importance_weights(shares: ArrayLike, target: ArrayLike) -> FloatArray:
    """w_g = tau_g / p_g, shape (..., K); 0 for a group that is neither there nor wanted.

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


def importance_efficiency(shares: ArrayLike, target: ArrayLike) -> FloatArray:
    """min_g p_g / tau_g over wanted groups, the acceptance rate of the weights done by rejection, shape (...)."""
    return np.asarray(1.0 / importance_weights(shares, target).max(axis=-1))


def importance_sample_size(shares: ArrayLike, target: ArrayLike) -> FloatArray:
    """Effective sample size per row, 1 / sum_g tau_g^2 / p_g, shape (...)."""
    return np.asarray(1.0 / (_array(target) * importance_weights(shares, target)).sum(axis=-1))


def effective_sample_size(weights: ArrayLike) -> float:
    """(sum w)^2 / sum w^2 (Kish)."""
    weights = _array(weights)
    return float(weights.sum() ** 2 / (weights**2).sum())


def calibrated_multipliers(shares: ArrayLike, target: ArrayLike, acceptance: ArrayLike) -> FloatArray:
    """c_g ~ tau_g / (p_g Z_g), largest 1, shape (..., K): accepting with a(r) c_g gives shares tau exactly.

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


@dataclasses.dataclass(frozen=True)
class WorstCase:
    """The worst mean loss within a chi-square ball of group shares."""

    primal: float
    """sum_g q_g loss_g at the worst shares q."""
    dual: float
    """min over eta of sqrt(1 + r) sqrt(E (loss - eta)_+^2) + eta."""
    shares: tuple[float, ...]
    """q, K numbers."""


def chi_square_worst_case(shares: ArrayLike, losses: ArrayLike, radius: float) -> WorstCase:
    """max_q sum q loss over sum (q - p)^2 / p <= r, and its dual (Hashimoto et al. 2018).

    q ~ p (loss - eta)_+, where eta solves (E (loss - eta)_+)^2 (1 + r) = E (loss - eta)_+^2. Where the ball reaches all
    the mass on the largest loss, that is the worst.

    Args:
        shares: p_g > 0, shape (K,).
        losses: shape (K,).
        radius: r > 0 of the chi-square divergence (twice it for the convention with a factor 1/2).

    Raises:
        ValueError: a radius that is not above 0.
    """
    p, loss = _array(shares), _array(losses)
    if not radius > 0:
        raise ValueError(f"radius: {radius} must be above 0")
    largest = loss == loss.max()
    if p[largest].sum() * (1.0 + radius) >= 1.0:
        worst = normalise("shares", np.where(largest, p, 0.0))
        return WorstCase(float(loss.max()), float(loss.max()), tuple(worst.tolist()))

    def slack(eta: float) -> float:
        over = np.maximum(loss - eta, 0.0)
        return float((1.0 + radius) * (p @ over) ** 2 - p @ over**2)

    # with all losses above eta the slack is r (m - eta)^2 - var, positive far enough below the mean m
    mean, sd = float(p @ loss), float(np.sqrt(p @ loss**2 - (p @ loss) ** 2))
    below = min(float(loss.min()), mean - sd / np.sqrt(radius)) - sd
    second = float(loss[~largest].max())
    eta = float(brentq(slack, below, second, xtol=1e-15))
    over = np.maximum(loss - eta, 0.0)
    worst = normalise("shares", p * over)
    return WorstCase(float(worst @ loss), float(np.sqrt((1.0 + radius) * (p @ over**2)) + eta), tuple(worst.tolist()))


def exponentiated_weights(weights: ArrayLike, losses: ArrayLike, rate: ArrayLike) -> FloatArray:
    """One step a_g ~ a_g exp(eta loss_g) of group DRO's weights, shape (..., K) (Sagawa et al. 2020)."""
    exponent = _array(rate) * _array(losses)
    return accepted_shares(weights, np.exp(exponent - exponent.max(axis=-1, keepdims=True)))
