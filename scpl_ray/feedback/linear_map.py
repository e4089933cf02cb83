"""The linear map from one state to the next that the paths of several seeds follow, with the noise of measuring them.

x_{t+1} = c + J x_t + noise, fitted by least squares to the transitions of all seeds together. Where the states were
measured with a known variance, that variance is taken out of the regressors' moments (Fuller 1987): otherwise noise
pulls J towards 0. The uncertainty comes from leaving out one seed at a time.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scpl_ray.shares import FloatArray

LARGEST_CONDITION = 1e10
"""Largest condition number of the regressors' Gram matrix; above it some direction of the state never varied."""
SMALLEST_SPREAD = 1e-12
"""Smallest spread of a state; smaller differences are rounding errors."""
SMALLEST_RELIABILITY = 0.1
"""Smallest part of the variation in any direction of the state that must be left after the noise is taken out."""


@dataclasses.dataclass(frozen=True)
class Radius:
    """A spectral radius with its interval."""

    value: float
    """Corrected for bias."""
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap:
    """The fit with all seeds, and without each of the S seeds; states of D numbers are standardised."""

    slopes: FloatArray
    """J of all seeds, then without each, shape (S + 1, D, D)."""
    plain: FloatArray
    """The same without the noise taken out."""
    seen: FloatArray
    """The same with the noise left in where it has effects: what reacts to measured numbers reacts to their noise."""
    lagged: FloatArray | None
    """The same with x_{t-1} as instruments, which white noise of any size does not pull; ``None``: not identified."""
    constant: FloatArray
    """c of all seeds, shape (D,)."""
    visited: FloatArray
    """The standardised states, shape (S (T + 1), D)."""
    centre: FloatArray
    scale: FloatArray

    def radius(self, confidence: float) -> Radius:
        """The spectral radius of ``seen``, with an interval that holds those of all three fits."""
        fits = [spectral_radius(slopes, confidence) for slopes in (self.seen, self.slopes, self.plain)]
        return Radius(fits[0].value, min(f.low for f in fits), max(f.high for f in fits))

    @property
    def jacobian(self) -> FloatArray:
        """J in the units of the states, shape (D, D)."""
        return np.asarray(self.seen[0] * self.scale[:, None] / self.scale)

    def rest(self) -> tuple[FloatArray, float]:
        """The fixed point in the units of the states, shape (D,), and its distance from the mean of the visited states.

        The distance is in standard deviations (Mahalanobis). Without a fixed point they are NaN and infinite.
        """
        away = np.eye(len(self.constant)) - self.seen[0]
        if np.linalg.svd(away, compute_uv=False).min() <= 1.0 / LARGEST_CONDITION:
            return np.full(len(away), np.nan), float("inf")
        point = np.linalg.solve(away, self.constant)
        spread = np.atleast_2d(np.cov(self.visited.T))
        return point * self.scale + self.centre, float(np.sqrt(point @ np.linalg.solve(spread, point)))


def fit(x: FloatArray, noise: FloatArray | None = None, reacting: int = 0) -> LinearMap | str:
    """Fit the map, or say why it cannot be fitted.

    Args:
        x: states, shape (S, T + 1, D) with S >= 2 and T >= 1.
        noise: covariances of the measurement of each state, shape (S, T + 1, D, D); ``None``: there is no noise.
        reacting: the first so many directions react to what was measured, with its noise.
    """
    centre, spread = x.mean(axis=(0, 1)), x[:, :-1].std(axis=(0, 1))
    scale = np.where(spread > SMALLEST_SPREAD, spread, 1.0)
    z = (x - centre) / scale
    one = np.concatenate([np.ones_like(z[..., :1]), z], axis=-1)
    raw = _moments(one[:, :-1], one[:, :-1])
    if np.ptp(x, axis=0).max() < SMALLEST_SPREAD:
        return "the seeds repeat one path, which shows no uncertainty; give different starts or noise"
    if np.linalg.cond(raw).max() > LARGEST_CONDITION:
        return "the paths leave a direction of the state untried; give more rounds or other starts"
    crosses = _moments(one[:, :-1], z[:, 1:])
    plain = np.linalg.solve(raw, crosses)
    fitted = plain
    if noise is not None:
        grams = raw.copy()
        grams[:, 1:, 1:] -= _all_and_without_each((noise[:, :-1] / (scale[:, None] * scale)).sum(axis=1))
        if _reliability(raw, grams) < SMALLEST_RELIABILITY:
            return (
                "the noise of the measurements is nearly as large as all that moved; give more rounds, or raise "
                "evaluation.neutral_prompts and evaluation.prompts_per_group"
            )
        fitted = np.linalg.solve(grams, crosses)
    lagged = None
    if x.shape[1] > 2:
        grams = _moments(one[:, :-2], one[:, 1:-1])
        if np.linalg.cond(grams).max() < LARGEST_CONDITION:
            lagged = np.linalg.solve(grams, _moments(one[:, :-2], z[:, 2:]))
    return LinearMap(
        slopes=_transposed(fitted),
        plain=_transposed(plain),
        seen=_transposed(np.concatenate([plain[..., :reacting], fitted[..., reacting:]], axis=-1)),
        lagged=None if lagged is None else _transposed(lagged),
        constant=np.concatenate([plain[0, 0, :reacting], fitted[0, 0, reacting:]]),
        visited=z.reshape(-1, z.shape[-1]),
        centre=centre,
        scale=scale,
    )


def spectral_radius(slopes: FloatArray, confidence: float) -> Radius:
    """The spectral radius of ``slopes[0]`` with a jackknife interval from those without each seed, (S + 1, D, D).

    The bias that the jackknife finds is taken off and added in quadrature to the standard error (Efron and Tibshirani
    1993); the interval is Student's with S - 1 degrees of freedom.
    """
    n_seeds = len(slopes) - 1
    radii = np.abs(np.linalg.eigvals(slopes)).max(axis=-1)
    bias = (n_seeds - 1) * float(radii[1:].mean() - radii[0])
    error = float(np.sqrt((n_seeds - 1) * radii[1:].var() + bias**2))
    half = float(stats.t.ppf(0.5 + confidence / 2.0, n_seeds - 1)) * error
    value = float(radii[0]) - bias
    return Radius(value, value - half, value + half)


def _moments(left: FloatArray, right: FloatArray) -> FloatArray:
    return _all_and_without_each(np.einsum("sti,stj->sij", left, right))


def _all_and_without_each(sums: FloatArray) -> FloatArray:
    """The total over seeds, then the totals without each seed, shape (S + 1, ...)."""
    total = sums.sum(axis=0)
    return np.concatenate([total[None], total - sums])


def _transposed(fitted: NDArray[np.floating]) -> FloatArray:
    """J without the constant, shape (S + 1, D, D)."""
    return np.asarray(fitted[:, 1:].transpose(0, 2, 1))


def _reliability(raw: FloatArray, grams: FloatArray) -> float:
    """The smallest part of the variation around the mean that noise leaves, over all directions and left-out seeds."""

    def centred(moments: FloatArray) -> FloatArray:
        return np.asarray(moments[:, 1:, 1:] - moments[:, 1:, :1] * moments[:, :1, 1:] / moments[:, :1, :1])

    inverse = np.linalg.inv(np.linalg.cholesky(centred(raw)))
    return float(np.linalg.eigvalsh(inverse @ centred(grams) @ inverse.transpose(0, 2, 1)).min())
