"""What data cycles do to a distribution that is fitted to its own samples, in closed form.

A model is the maximum-likelihood fit to n draws per round; a_t is the expected variance it has left and v_t the
expected squared drift of its mean, both in units of the initial variance. Array functions: arguments broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma

from scpl_ray.shares import FloatArray


def _array(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def replaced_variance(draws: ArrayLike, rounds: ArrayLike) -> FloatArray:
    """a_t = (1 - 1/n)^t where each round trains on the newest n draws only: collapse (Shumailov et al. 2024).

    The drift is v_t = 1 - a_t. The same factor holds for p (1 - p) of a share under pure sampling noise, whose mean
    stays: the null model of every claim about bias.
    """
    return np.asarray((1.0 - 1.0 / _array(draws)) ** _array(rounds))


def typical_decay(draws: ArrayLike) -> FloatArray:
    """E ln(variance' / variance) per round on the newest n draws with the unbiased estimate of the variance, below 0.

    digamma((n - 1) / 2) - ln((n - 1) / 2): the mean variance stays, the typical chain collapses all the same.
    """
    half = (_array(draws) - 1.0) / 2.0
    return np.asarray(digamma(half) - np.log(half))


def accumulated_variance(draws: float, rounds: int) -> FloatArray:
    """a_0..a_t, shape (t + 1,), with a_t = prod_{i <= t} (1 - 1 / (n i^2)) where each round trains on all draws so far.

    Its limit is :func:`accumulated_variance_limit` (Gerstgrasser et al. 2024); v_t = 1 - a_t.
    """
    factors = 1.0 - 1.0 / (draws * np.arange(1, rounds + 1, dtype=np.float64) ** 2)
    return np.concatenate([[1.0], np.cumprod(factors)])


def accumulated_variance_limit(draws: ArrayLike) -> FloatArray:
    """sin(x) / x with x = pi / sqrt(n)."""
    return np.asarray(np.sinc(1.0 / np.sqrt(_array(draws))), dtype=np.float64)


def anchored_moments(real_share: float, draws: float, rounds: int) -> FloatArray:
    """(a, v) at t = 0..T, shape (T + 1, 2), where every draw is real with probability alpha, from the model otherwise.

    V = alpha + (1 - alpha) a + alpha (1 - alpha) v is the variance of what is drawn; v' = (1 - alpha)^2 v + V / n and
    a' = (1 - 1/n) V.
    """
    moments = [(1.0, 0.0)]
    for _ in range(rounds):
        a, v = moments[-1]
        drawn = real_share + (1.0 - real_share) * a + real_share * (1.0 - real_share) * v
        moments.append(((1.0 - 1.0 / draws) * drawn, (1.0 - real_share) ** 2 * v + drawn / draws))
    return np.array(moments)


def anchored_moments_limit(real_share: ArrayLike, draws: ArrayLike) -> FloatArray:
    """(a, v) that :func:`anchored_moments` tends to, shape (..., 2): real data gives a floor.

    Raises:
        ValueError: a real share outside (0, 1].
    """
    alpha, n = _array(real_share), _array(draws)
    if not np.all((alpha > 0) & (alpha <= 1)):
        raise ValueError(f"real_share: {alpha.tolist()} must lie in (0, 1]; without real data the variance goes to 0")
    # v = V / (n (1 - (1 - alpha)^2)) and a = (1 - 1/n) V put into the definition of V
    drift = 1.0 / (n * (1.0 - (1.0 - alpha) ** 2))
    drawn = alpha / (1.0 - (1.0 - alpha) * (1.0 - 1.0 / n) - alpha * (1.0 - alpha) * drift)
    return np.stack(np.broadcast_arrays((1.0 - 1.0 / n) * drawn, drift * drawn), axis=-1)


def anchored_share_variance(real: ArrayLike, real_share: ArrayLike, draws: ArrayLike) -> FloatArray:
    """Stationary variance of a group share that is redrawn from n rows per round, a fraction alpha of them real.

    [q (1 - q) / n] / [1 - (1 - alpha)^2 (1 - 1/n)] with q the real share of the group.
    """
    q, alpha, n = _array(real), _array(real_share), _array(draws)
    return np.asarray(q * (1.0 - q) / n / (1.0 - (1.0 - alpha) ** 2 * (1.0 - 1.0 / n)))


def drift_sd(share: ArrayLike, draws: ArrayLike, rounds: ArrayLike) -> FloatArray:
    """Standard deviation of a share after t rounds of pure sampling noise, sqrt(p (1 - p) (1 - (1 - 1/n)^t)).

    About sqrt(t p (1 - p) / n) for t much below n: how far shares move with no preference at all.
    """
    p = _array(share)
    return np.asarray(np.sqrt(p * (1.0 - p) * (1.0 - replaced_variance(draws, rounds))))


def accumulated_bias(initial: float, real: float, synthetic: float, rounds: int, shift: float = 1.0) -> FloatArray:
    """Bias of the data at t = 0..T, shape (T + 1,), when each round adds ``real`` rows and ``synthetic`` model outputs.

    Data starts as ``initial`` rows of bias 1; real rows have bias 1 and model outputs exceed the data they were trained
    on by ``shift``. The limit is 1 + shift * synthetic / real (after Taori and Hashimoto 2023).
    """
    bias = [1.0]
    for t in range(rounds):
        size = initial + t * (real + synthetic)
        bias.append((size * bias[-1] + real + synthetic * (bias[-1] + shift)) / (size + real + synthetic))
    return np.array(bias)
