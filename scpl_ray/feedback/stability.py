"""Estimate from a few rounds of several seeds how fast deviations from a fixed point of the groups' shares grow.

A share that rises for five rounds may be a transient of a stable loop or the start of a runaway. They are told apart by
rho(J), the spectral radius of the Jacobian of the map from one round's groups to the next: below 1 deviations die out.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import softmax

from scpl_ray.shares import FloatArray, check_shares

LARGEST_CONDITION = 1e10
"""Largest condition number of the regressors' Gram matrix; above it some direction of the state never varied."""
FARTHEST_FIXED_POINT = 2.0
"""A fixed point counts as visited within this many standard deviations of the visited states."""
SMALLEST_SPREAD = 1e-12
"""Smallest spread of log states; smaller differences are rounding errors."""


@dataclasses.dataclass(frozen=True, eq=False)
class GroupMap:
    """The estimated linear map of the groups' state around its fixed point."""

    rho: float
    """Spectral radius of the Jacobian, corrected for bias; NaN where it cannot be estimated."""
    low: float
    high: float
    confidence: float
    verdict: Literal["stable", "unstable", "cannot tell"]
    reason: str
    """Why stability cannot be decided; empty otherwise."""
    fixed_point: FloatArray
    """Fitted fixed point, shape (K,), in the units of the paths; NaN if there is none or it cannot be estimated."""
    distance: float
    """Distance of the fixed point from the mean of the visited states, in their standard deviations (Mahalanobis)."""
    jacobian: FloatArray
    """J in log ratios to the last group, (K-1, K-1), or in log arrivals, (K, K); without bias correction."""
    rounds: int
    seeds: int

    def __str__(self) -> str:
        if self.verdict == "cannot tell":
            return f"cannot tell in {self.rounds} rounds: {self.reason}"
        return f"{self.verdict}: rho(J) = {self.rho:.3f} [{self.low:.3f}, {self.high:.3f}], {self.seeds} seeds"


def estimate_group_map(paths: ArrayLike, *, state: Literal["shares", "arrivals"], confidence: float = 0.95) -> GroupMap:
    """Estimate rho(J) from the paths of several seeds.

    Method: x_{t+1} = c + J x_t + noise is fitted by least squares to the transitions of all seeds together, in log
    ratios to the last group (``shares``) or in logs (``arrivals``); rho does not depend on the coordinates. Seeds are
    left out one at a time: the jackknife (Efron and Tibshirani 1993) corrects the bias of rho, which short paths pull
    down and repeated eigenvalues push up, and gives its standard error, to which that bias is added in quadrature. The
    interval is Student's with S - 1 degrees of freedom.

    On simulated first-order paths of 5 to 20 seeds and 5 or 20 rounds, nominal 95% intervals contained the true value
    in 94-98% of cases for two groups and in 89-99% for three and five, repeated eigenvalues included, but in as few as
    85% for a strongly non-normal Jacobian; at rho = 1 each wrong verdict appeared in at most 5%. Percentiles of a
    bootstrap of the seeds contained it in 62-91% for two groups.

    ``stable`` needs the whole interval below 1 and ``unstable`` above 1, and both that the fitted fixed point lies
    within two standard deviations of the states that were visited: elsewhere the fit describes a transient far from
    equilibrium, and its slope is not the Jacobian at a fixed point.

    Assumptions: the state is all that a round passes on to the next (``shares`` for rules that see shares only;
    ``arrivals`` for retention, where totals matter); the map is smooth and nearly linear over the rounds given, so pass
    a window around one fixed point; all seeds follow the same map; noise enters the path itself, not its measurement.

    Args:
        paths: shape (S, T + 1, K): S >= 2 seeds, T >= 1 rounds, K >= 2 groups, all above 0.
        state: whether the numbers are shares or arrivals.
        confidence: confidence level of the two-sided interval.

    Raises:
        ValueError: a wrong shape, a number that is not above 0, shares that do not sum to 1, an unknown state, or a
            confidence outside (0, 1).
    """
    values = _check(paths, state, confidence)
    logs = np.log(values)
    x = logs if state == "arrivals" else logs[..., :-1] - logs[..., -1:]
    n_seeds, n_rounds = len(x), x.shape[1] - 1
    centre, spread = x.mean(axis=(0, 1)), x[:, :-1].std(axis=(0, 1))
    scale = np.where(spread > SMALLEST_SPREAD, spread, 1.0)
    z = (x - centre) / scale
    regressors = np.concatenate([np.ones_like(z[:, :-1, :1]), z[:, :-1]], axis=-1)
    grams = _all_and_without_each(np.einsum("sti,stj->sij", regressors, regressors))
    crosses = _all_and_without_each(np.einsum("sti,stj->sij", regressors, z[:, 1:]))
    shape = (n_rounds, n_seeds, confidence, values.shape[-1], x.shape[-1])
    if np.ptp(x, axis=0).max() < SMALLEST_SPREAD:
        return _unknown("the seeds repeat one path, which shows no uncertainty; give different starts or noise", *shape)
    if np.linalg.cond(grams).max() > LARGEST_CONDITION:
        return _unknown("the paths leave a direction of the state untried; give more rounds or other starts", *shape)

    fitted = np.linalg.solve(grams, crosses)
    radii = np.abs(np.linalg.eigvals(fitted[:, 1:])).max(axis=-1)
    bias = (n_seeds - 1) * float(radii[1:].mean() - radii[0])
    rho = float(radii[0]) - bias
    error = float(np.sqrt((n_seeds - 1) * radii[1:].var() + bias**2))
    half = float(stats.t.ppf(0.5 + confidence / 2.0, n_seeds - 1)) * error

    slope = fitted[0, 1:].T
    fixed_point, distance = np.full(values.shape[-1], np.nan), float("inf")
    if np.linalg.svd(np.eye(len(slope)) - slope, compute_uv=False).min() > 1.0 / LARGEST_CONDITION:
        rest = np.linalg.solve(np.eye(len(slope)) - slope, fitted[0, 0])
        visited = z.reshape(-1, len(slope))
        distance = float(np.sqrt(rest @ np.linalg.solve(np.atleast_2d(np.cov(visited.T)), rest)))
        rest = rest * scale + centre
        # a very distant point may overflow; it is then reported as infinite, and its distance says why
        with np.errstate(over="ignore"):
            fixed_point = np.exp(rest) if state == "arrivals" else softmax(np.append(rest, 0.0))

    verdict: Literal["stable", "unstable", "cannot tell"] = "cannot tell"
    reason = ""
    if rho - half <= 1.0 <= rho + half:
        reason = f"the interval of rho(J), {rho - half:.3f} to {rho + half:.3f}, holds 1; give more seeds or rounds"
    elif distance > FARTHEST_FIXED_POINT:
        reason = (
            f"the fitted fixed point is {distance:.1f} standard deviations from the states that were visited, so they "
            "show a transient; give more rounds"
        )
    else:
        verdict = "stable" if rho < 1.0 else "unstable"
    return GroupMap(
        rho=rho,
        low=rho - half,
        high=rho + half,
        confidence=confidence,
        verdict=verdict,
        reason=reason,
        fixed_point=fixed_point,
        distance=distance,
        jacobian=slope * scale[:, None] / scale,
        rounds=n_rounds,
        seeds=n_seeds,
    )


def _all_and_without_each(sums: FloatArray) -> FloatArray:
    """The total over seeds, then the totals without each seed, shape (S + 1, ...)."""
    total = sums.sum(axis=0)
    return np.concatenate([total[None], total - sums])


def _unknown(reason: str, n_rounds: int, n_seeds: int, confidence: float, n_groups: int, n_directions: int) -> GroupMap:
    nan = float("nan")
    return GroupMap(
        rho=nan,
        low=nan,
        high=nan,
        confidence=confidence,
        verdict="cannot tell",
        reason=reason,
        fixed_point=np.full(n_groups, nan),
        distance=nan,
        jacobian=np.full((n_directions, n_directions), nan),
        rounds=n_rounds,
        seeds=n_seeds,
    )


def _check(paths: ArrayLike, state: str, confidence: float) -> FloatArray:
    values = np.asarray(paths, dtype=np.float64)
    if values.ndim != 3 or values.shape[0] < 2 or values.shape[1] < 2 or values.shape[2] < 2:
        raise ValueError(f"paths: shape {values.shape} must be (seeds, rounds, groups) with 2 or more of each")
    if not np.all(np.isfinite(values)) or np.any(values <= 0):
        raise ValueError("paths: a number is 0, negative or not finite; a group that has died out has no logarithm")
    if state not in ("shares", "arrivals"):
        raise ValueError(f"state: {state!r} must be 'shares' or 'arrivals'")
    if state == "shares":
        check_shares("paths", values)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} must lie between 0 and 1, both excluded")
    return values
