"""What selection does to rewards and group shares where the product needs no formula, in closed form.

Array functions: groups are the last axis, any settings or seeds stand in front and broadcast. The product's own
formulas are in :mod:`scpl_ray.selection.formulas`; the tests hold the strategies against both.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, gammaln, logit, xlog1py, xlogy
from scipy.stats import norm

from scpl_ray.selection.formulas import accepted_shares, importance_weights, top_fraction, vrs_acceptance
from scpl_ray.shares import FloatArray, normalise

LUCE_TERMS = 200_001
"""Largest number of counts that the sum of :func:`luce_shares` holds."""


def _array(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def _above_0(beta: ArrayLike) -> FloatArray:
    beta = _array(beta)
    if not np.all(beta > 0):
        raise ValueError(f"beta: {beta.tolist()} must be above 0; a small beta keeps only the best")
    return beta


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
    values, laws, beta = _array(values), _array(laws), _above_0(beta)
    if np.any(np.diff(values) <= 0):
        raise ValueError(f"values: {values.tolist()} must ascend strictly")
    others_maximum = np.diff(np.cumsum(_array(shares) @ laws) ** (candidates - 1), prepend=0.0)
    gaps = np.minimum(values[:, None] - values[None, :], 0.0)
    return np.asarray(laws @ (np.exp(gaps / beta) @ others_maximum))


def tilted_gaussian_shares(shares: ArrayLike, means: ArrayLike, sds: ArrayLike, beta: ArrayLike) -> FloatArray:
    """Shares after rejection sampling with r | g ~ N(mu_g, sd_g^2): p_g exp(mu_g / beta + sd_g^2 / (2 beta^2)).

    Shape (..., K); ``beta`` broadcasts against it. Variance alone moves shares.

    Raises:
        ValueError: beta <= 0.
    """
    beta = _above_0(beta)
    exponent = _array(means) / beta + _array(sds) ** 2 / (2.0 * beta**2)
    return accepted_shares(shares, np.exp(exponent - exponent.max(axis=-1, keepdims=True)))


def luce_shares(share: ArrayLike, rewards: ArrayLike, candidates: float) -> FloatArray:
    """Share of the first of two kinds when a user picks one of n candidates with odds exp(reward), shape (...).

    E[a e^rA / (a e^rA + (n - a) e^rB)] with a ~ Binomial(n, p), which is E[expit(logit(a / n) + rA - rB)]; n = infinity
    is the exact tilt (Ferbach et al. 2024). Everything is in logarithms, so that no n and no reward overflows. The sum
    holds the counts within 12 standard deviations of the mean, and where those are more than :data:`LUCE_TERMS`, the
    law of the counts is so smooth that the trapezoid rule on equally spaced counts is exact to rounding.

    Args:
        share: p of the first kind, in [0, 1], shape (...).
        rewards: of the two kinds, shape (..., 2); one of them may be infinite.
        candidates: n >= 1, a whole number or infinity.

    Raises:
        ValueError: a share outside [0, 1], rewards without a difference (NaN, or both infinite alike), or another n.
    """
    share, rewards = _array(share), _array(rewards)
    if not np.all((share >= 0) & (share <= 1)):
        raise ValueError(f"share: {share.tolist()} holds a number outside [0, 1]")
    if not candidates >= 1 or (np.isfinite(candidates) and candidates != int(candidates)):
        raise ValueError(f"candidates: {candidates} must be a whole number from 1 on, or infinity")
    if rewards.shape[-1:] != (2,):
        raise ValueError(f"rewards: shape {rewards.shape} must end with the 2 kinds")
    with np.errstate(invalid="ignore"):
        advantage = rewards[..., 0] - rewards[..., 1]
    if np.isnan(advantage).any():
        raise ValueError(f"rewards: {rewards.tolist()} leave the difference of the two kinds undefined")
    share, advantage = np.broadcast_arrays(share, advantage)
    flat = [_luce(float(p), float(d), candidates) for p, d in zip(share.ravel(), advantage.ravel(), strict=True)]
    return np.array(flat).reshape(share.shape)


def _luce(p: float, advantage: float, candidates: float) -> float:
    if p in (0.0, 1.0):
        return p
    if np.isinf(candidates):
        return float(expit(logit(p) + advantage))
    n = int(candidates)
    reach = 12.0 * np.sqrt(n * p * (1.0 - p)) + 200.0
    low, high = max(0, int(n * p - reach)), min(n, int(n * p + reach) + 1)
    first = np.arange(low, high + 1) if high - low < LUCE_TERMS else np.linspace(low, high, LUCE_TERMS)
    log_law = gammaln(n + 1.0) - gammaln(first + 1.0) - gammaln(n - first + 1.0) + xlogy(first, p)
    log_law += xlog1py(n - first, -p)
    law = np.exp(log_law - log_law.max())
    inside = (first > 0) & (first < n)
    picked = np.where(first == n, 1.0, 0.0)
    picked[inside] = expit(np.log(first[inside]) - np.log(n - first[inside]) + advantage)
    return float((law * picked).sum() / law.sum())


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


def importance_efficiency(shares: ArrayLike, target: ArrayLike) -> FloatArray:
    """min_g p_g / tau_g over wanted groups, the acceptance rate of the weights done by rejection, shape (...)."""
    return np.asarray(1.0 / importance_weights(shares, target).max(axis=-1))


def importance_sample_size(shares: ArrayLike, target: ArrayLike) -> FloatArray:
    """Effective sample size per row, 1 / sum_g tau_g^2 / p_g, shape (...)."""
    return np.asarray(1.0 / (_array(target) * importance_weights(shares, target)).sum(axis=-1))


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
