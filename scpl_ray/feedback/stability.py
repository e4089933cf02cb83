"""Estimate from a few rounds of several seeds how fast deviations from a fixed point of a loop grow.

A share that rises for five rounds may be a transient of a stable loop or the start of a runaway. They are told apart by
rho(J), the spectral radius of the Jacobian of the map from one round's state to the next: below 1 deviations die out.

Two things make a loop look more stable than it is. The groups' shares are the whole state only where the next round
depends on nothing else: a policy also carries the kinds of text that it writes from round to round, so that the map of
the shares alone may be stable while the kinds, and with them the shares, drift away. And what is measured on a finite
number of draws has noise, which pulls slopes towards 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from scpl_ray.config import Experiment
from scpl_ray.feedback import linear_map
from scpl_ray.feedback.linear_map import SMALLEST_SPREAD, LinearMap
from scpl_ray.feedback.rules import RULES
from scpl_ray.shares import FloatArray, check_fraction, check_shares

FARTHEST_FIXED_POINT = 2.0
"""A fixed point counts as visited within this many standard deviations of the visited states."""
SMOOTHING = 0.5
"""Added to counts before their logarithm is taken (Haldane 1956)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A part of a loop's state: the groups' users, or the kinds of text that the policy writes."""

    name: str
    """What it is, in the plural, such as ``shares``."""
    values: FloatArray
    """Shape (S, T + 1, K): shares that sum to 1, or the groups' user masses where ``total_moves``."""
    draws: ArrayLike = np.inf
    """Number of draws on which each row was measured, shape (S, T + 1) or one number; infinite: known exactly."""
    total_moves: bool = False
    """Whether the values are masses, whose total changes, and not shares."""


@dataclasses.dataclass(frozen=True, eq=False)
class GroupMap:
    """The estimated linear map of a loop's state around its fixed point."""

    rho: float
    """Spectral radius of the Jacobian, corrected for bias; NaN where it cannot be estimated."""
    low: float
    high: float
    confidence: float
    verdict: Literal["stable", "unstable", "cannot tell"]
    reason: str
    """Why stability cannot be decided; empty otherwise."""
    fixed_point: FloatArray
    """Fitted fixed point of the groups, shape (K,), in the units of their paths; NaN if there is none or it cannot be
    estimated."""
    distance: float
    """Distance of the fixed point from the mean of the visited states, in their standard deviations (Mahalanobis)."""
    jacobian: FloatArray
    """J, shape (D, D), in log ratios to the last share of each part, or in log masses; without bias correction."""
    rounds: int
    seeds: int
    state: str
    """What the state holds, such as ``shares and kinds``."""

    def __str__(self) -> str:
        if self.verdict == "cannot tell":
            return f"cannot tell in {self.rounds} rounds: {self.reason}"
        return (
            f"{self.verdict}: rho(J) = {self.rho:.3f} [{self.low:.3f}, {self.high:.3f}] of {self.state}, "
            f"{self.seeds} seeds"
        )


def carried_on(experiment: Experiment, *, whole_policy: bool, shares_alone: bool = False) -> str:
    """What a loop of this config carries from round to round beside its users and kinds; empty: nothing.

    Only without it can deviations of users and kinds that die out show that the loop is stable.

    Args:
        experiment: the config.
        whole_policy: whether the kinds are all that there is to the policy, as in the analytic mode.
        shares_alone: whether the users are given as shares also under rules to which their total number matters.
    """
    known = RULES.built_in(experiment.feedback.rule)
    if shares_alone and (known is None or known.total_moves):
        passes = "may pass" if known is None else "passes"  # a package's own rule is not imported to read results
        return f"feedback.rule={experiment.feedback.rule} {passes} on how many users there are, and not shares alone"
    if experiment.cycle.keeps_earlier:
        return f"cycle.kind={experiment.cycle.kind} trains on the data of earlier rounds too"
    if not (whole_policy or experiment.loop.starts_from_base):
        return f"with loop.kind={experiment.loop.kind} the weights remember more than what is measured"
    return ""


def estimate_group_map(
    paths: ArrayLike, *, state: Literal["shares", "arrivals"], draws: float | None = None, confidence: float = 0.95
) -> GroupMap:
    """Estimate rho(J) from the paths of several seeds, where the groups are the whole state of the loop.

    See :func:`estimate_loop_map`. The state is ``shares`` for rules that see shares only, and ``arrivals`` for
    retention, where totals matter.

    Args:
        paths: shape (S, T + 1, K): S >= 2 seeds, T >= 1 rounds, K >= 2 groups, all above 0.
        state: whether the numbers are shares or arrivals.
        draws: the number of draws on which shares were measured, infinite where they are known exactly. ``None``: not
            known; then ``stable`` must also hold with each state represented by the one before (instrumental
            variables), whose slopes white noise does not pull towards 0.
        confidence: confidence level of the two-sided interval.

    Raises:
        ValueError: a wrong shape, a number that is not above 0, shares that do not sum to 1, an unknown state, draws
            below 1, or a confidence outside (0, 1).
    """
    if state not in ("shares", "arrivals"):
        raise ValueError(f"state: {state!r} must be 'shares' or 'arrivals'")
    part = Part(
        state, np.asarray(paths, dtype=np.float64), np.inf if draws is None else draws, total_moves=state == "arrivals"
    )
    return _estimate([part], confidence, noise_known=draws is not None, carried="")


def estimate_loop_map(parts: Sequence[Part], *, carried: str = "", confidence: float = 0.95) -> GroupMap:
    """Estimate rho(J) of the joint map of all parts of a loop's state from the paths of several seeds.

    Method: :mod:`scpl_ray.feedback.linear_map`, in log ratios to the last share of each part (in logs for masses). rho
    does not depend on the coordinates, so that a judge who errs at constant rates changes nothing but the noise.
    Directions in which no seed ever moves are left out. Users react to what was measured, noise included, and through
    it to what it measures; which of the two a number is cannot be told. So the interval holds three: of the fit with
    the noise taken out, of that in which users react to it, and of the fit to the numbers as they are. What intervals
    and verdicts are worth is simulated by ``python -m tests.theory.stability_calibration``.

    ``stable`` needs the whole interval below 1 and ``unstable`` above 1, and both need a fitted fixed point within two
    standard deviations of the states that were visited: elsewhere the fit describes a transient far from equilibrium,
    and its slope is not the Jacobian at a fixed point.

    Assumptions: the parts are all that a round passes on to the next, or ``carried`` says what else; the map is smooth
    and nearly linear over the rounds given, so pass a window around one fixed point; all seeds follow the same map; the
    noise of different rounds is independent. A run breaks the last: all rounds ask the same prompts from the same
    seeds, and answers that stay the same keep their noise. What stays looks like a slope of 1, so rho comes out too
    large: more stable loops read "cannot tell", and loops that grow are called stable no more often.

    Args:
        parts: the parts, the groups' users first, with the same S >= 2 seeds and T >= 1 rounds.
        carried: what the loop carries on beside the parts; where it is not empty, nothing is called stable.
        confidence: confidence level of the two-sided interval.

    Raises:
        ValueError: no part, shapes that differ or are too small, shares that do not sum to 1, a 0 that is known
            exactly, draws below 1, or a confidence outside (0, 1).
    """
    return _estimate(parts, confidence, noise_known=True, carried=carried)


def _estimate(parts: Sequence[Part], confidence: float, *, noise_known: bool, carried: str) -> GroupMap:
    check_fraction("confidence", confidence)
    columns = [_coordinates(part) for part in parts]
    shapes = {x.shape[:2] for x, _ in columns}
    if len(shapes) != 1:
        raise ValueError(f"parts: {sorted(shapes)} seeds and rounds; give one part or more, all alike")
    x, noise = _joined(columns)
    own = columns[0][0].shape[-1]
    moves = np.ptp(x, axis=(0, 1)) > SMALLEST_SPREAD
    moves[:own] = True
    x, noise = x[..., moves], noise[..., moves, :][..., moves]
    fitted = linear_map.fit(x, noise if noise.any() else None, reacting=own)
    names = list(dict.fromkeys(part.name for part in parts))
    nan, d, n_groups = float("nan"), x.shape[-1], parts[0].values.shape[-1]
    found = GroupMap(
        rho=nan,
        low=nan,
        high=nan,
        confidence=confidence,
        verdict="cannot tell",
        reason=fitted if isinstance(fitted, str) else "",
        fixed_point=np.full(n_groups, nan),
        distance=nan,
        jacobian=np.full((d, d), nan),
        rounds=x.shape[1] - 1,
        seeds=len(x),
        state=" and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names),
    )
    if isinstance(fitted, str):
        return found
    radius = fitted.radius(confidence)
    point, distance = fitted.rest()
    # a very distant point may overflow; it is then reported as infinite, and its distance says why
    with np.errstate(over="ignore"):
        groups = np.exp(point[:own]) if parts[0].total_moves else softmax(np.append(point[:own], 0.0))
    found = dataclasses.replace(
        found,
        rho=radius.value,
        low=radius.low,
        high=radius.high,
        fixed_point=groups,
        distance=distance,
        jacobian=fitted.jacobian,
    )
    if reason := _doubt(found, fitted, noise_known=noise_known, carried=carried):
        return dataclasses.replace(found, reason=reason)
    return dataclasses.replace(found, verdict="stable" if found.rho < 1.0 else "unstable")


def _doubt(found: GroupMap, fitted: LinearMap, *, noise_known: bool, carried: str) -> str:
    """The reason why the interval of rho(J) decides nothing; empty where it decides."""
    told = f"the interval of rho(J), {found.low:.3f} to {found.high:.3f},"
    if found.low <= 1.0 <= found.high:
        return f"{told} holds 1; give more seeds or rounds"
    if found.distance > FARTHEST_FIXED_POINT:
        return (
            f"the fitted fixed point is {found.distance:.1f} standard deviations from the states that were visited, so "
            "they show a transient; give more rounds"
        )
    if found.low > 1.0:
        return ""
    if carried:
        return f"{told} of {found.state} shows no growth, but {carried}"
    if not noise_known:
        if fitted.lagged is None:
            return f"{told} may be pulled below 1 by noise, which one transition does not show; give more rounds"
        lagged = linear_map.spectral_radius(fitted.lagged, found.confidence)
        if lagged.high >= 1.0:
            return (
                f"{told} may be pulled below 1 by noise: with lagged values it is {lagged.low:.3f} to "
                f"{lagged.high:.3f}; give the number of draws, or more seeds or rounds"
            )
    return ""


def _joined(columns: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray]:
    """The coordinates of all parts side by side, and the block-diagonal covariances of their noise."""
    x = np.concatenate([own for own, _ in columns], axis=-1)
    noise = np.zeros((*x.shape, x.shape[-1]))
    first = 0
    for own, covariance in columns:
        last = first + own.shape[-1]
        noise[..., first:last, first:last] = covariance
        first = last
    return x, noise


def _coordinates(part: Part) -> tuple[FloatArray, FloatArray]:
    """Logs of masses, or log ratios to the last share, shape (S, T + 1, D), and the covariances of their noise.

    Counts of n draws have log ratios with variances 1 / (n s_k) + 1 / (n s_K) and covariances 1 / (n s_K).
    """
    values = np.asarray(part.values, dtype=np.float64)
    if values.ndim != 3 or min(values.shape) < 2:
        raise ValueError(f"paths: shape {values.shape} must be (seeds, rounds, groups) with 2 or more of each")
    draws = np.broadcast_to(np.asarray(part.draws, dtype=np.float64), values.shape[:2])[..., None]
    if not np.all(draws >= 1):
        raise ValueError(f"draws: of {part.name} hold {np.min(draws):g}; a share is measured on 1 draw or more")
    exact = np.isinf(draws)
    if not np.all(np.isfinite(values)) or np.any(values < 0) or np.any((values == 0) & exact):
        raise ValueError("paths: a number is 0, negative or not finite; a group that has died out has no logarithm")
    if part.total_moves:
        return np.log(values), np.zeros((*values.shape, values.shape[-1]))
    k = values.shape[-1]
    check_shares("paths", values)
    n = np.where(exact, 1.0, draws)
    shares = np.where(exact, values, (values * n + SMOOTHING) / (n + SMOOTHING * k))
    inverse = np.where(exact, 0.0, 1.0 / (shares * (n + SMOOTHING * k)))
    noise = inverse[..., -1:, None] + np.eye(k - 1) * inverse[..., :-1, None]
    logs = np.log(shares)
    return np.asarray(logs[..., :-1] - logs[..., -1:]), np.asarray(noise)
