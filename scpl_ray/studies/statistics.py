"""What may be claimed from a few seeds: intervals, paired differences, verdicts.

The independent unit of a loop is its seed. Rounds of one run depend on each other and completions of one round share a
policy, so intervals are taken between seeds, never between generations of one run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from scpl_ray import seeds
from scpl_ray.evaluation import sign_flips
from scpl_ray.shares import FloatArray, check_fraction
from scpl_ray.studies.power import minimum_detectable_effect

SKEWED = 1.0
"""Skewness between seeds above which a t-interval is said to be short on one side."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with a two-sided interval."""

    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    """Number of independent units in the estimate: seeds, or completions for a share."""

    @property
    def negative(self) -> Interval:
        """The interval of the estimate with its sign changed."""
        return dataclasses.replace(self, estimate=-self.estimate, low=-self.high, high=-self.low)


def wilson_interval(count: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Score interval of one share (Wilson 1927): it stays in [0, 1] and has a positive width even at a count of 0.

    Raises:
        ValueError: total < 1, a count outside 0..total, or a confidence outside (0, 1).
    """
    _check_share_of("count", count, "total", total)
    z = _normal_quantile(confidence)
    share, shrink = count / total, 1.0 + z**2 / total
    centre = (share + z**2 / (2.0 * total)) / shrink
    half = z * np.sqrt(share * (1.0 - share) / total + z**2 / (4.0 * total**2)) / shrink
    # at a count of 0 the lower bound is 0, and at a count of ``total`` the upper one is 1, up to rounding
    low = 0.0 if count == 0 else float(centre - half)
    high = 1.0 if count == total else float(centre + half)
    return Interval(share, low, high, confidence, total)


def share_difference(count_a: int, total_a: int, count_b: int, total_b: int, *, confidence: float = 0.95) -> Interval:
    """Share a minus share b of two independent samples, with its large-sample interval; ``n`` is the smaller total.

    Use it for two evaluations of *one* run: it covers the noise of the completions, not that of the loop.

    Raises:
        ValueError: as :func:`wilson_interval`.
    """
    _check_share_of("count_a", count_a, "total_a", total_a)
    _check_share_of("count_b", count_b, "total_b", total_b)
    a, b = count_a / total_a, count_b / total_b
    half = _normal_quantile(confidence) * float(np.sqrt(a * (1.0 - a) / total_a + b * (1.0 - b) / total_b))
    return Interval(a - b, a - b - half, a - b + half, confidence, min(total_a, total_b))


def t_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Student's t-interval of the mean over seeds.

    Args:
        values: one number per seed, shape (S,), S >= 2.
        confidence: confidence level of the two-sided interval.

    Raises:
        ValueError: fewer than two seeds, a number that is not finite, or a confidence outside (0, 1).
    """
    x = _check_seeds(values)
    check_fraction("confidence", confidence)
    half = stats.t.ppf(0.5 + confidence / 2.0, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean() - half), float(x.mean() + half), confidence, len(x))


def _mean(resampled: FloatArray) -> FloatArray:
    return np.asarray(resampled.mean(axis=1))


def bootstrap_interval(
    values: ArrayLike,
    *,
    seed: int,
    statistic: Callable[[FloatArray], FloatArray] = _mean,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic when whole seeds are resampled (Efron and Tibshirani 1993).

    Use it for statistics without a formula. It is too short for few seeds (for a mean over 5 seeds, about a third
    shorter than Student's): prefer :func:`t_interval` for means.

    Args:
        values: one row per seed, shape (S, ...), S >= 2.
        seed: seed of the resampling.
        statistic: maps resamples of shape (B, S, ...) to (B,); the mean over seeds by default.
        resamples: B, the number of resamples.
        confidence: confidence level of the two-sided interval.

    Raises:
        ValueError: fewer than two seeds, a number that is not finite, fewer than one resample, or a confidence outside
            (0, 1).
    """
    x = _check_seeds(values, one_row=False)
    check_fraction("confidence", confidence)
    if resamples < 1:
        raise ValueError(f"resamples: {resamples} must be at least 1")
    rows = seeds.generator(seed, "bootstrap of seeds").integers(len(x), size=(resamples, len(x)))
    low, high = np.quantile(statistic(x[rows]), [0.5 - confidence / 2.0, 0.5 + confidence / 2.0])
    return Interval(float(statistic(x[None])[0]), float(low), float(high), confidence, len(x))


@dataclasses.dataclass(frozen=True, eq=False)
class PairedDifferences:
    """Differences between treatment and control for the same seeds."""

    seeds: tuple[int, ...]
    """Seeds that both arms have, ascending."""
    differences: FloatArray
    """Treatment minus control, in the order of ``seeds``, shape (S,)."""
    without_control: tuple[int, ...] = ()
    """Seeds that only the treatment has; they are not in the differences."""
    without_treatment: tuple[int, ...] = ()
    """Seeds that only the control has; they are not in the differences."""


def paired_differences(treatment: Mapping[int, float], control: Mapping[int, float]) -> PairedDifferences:
    """Join two arms by seed; the result lists the seeds that cannot be joined.

    Raises:
        ValueError: no seed in common, or a number that is not finite.
    """
    for name, arm in (("treatment", treatment), ("control", control)):
        broken = {seed: value for seed, value in arm.items() if not np.isfinite(value)}
        if broken:
            raise ValueError(f"{name}: seeds {broken} are not finite; leave these runs out of both arms, by name")
    both = sorted(treatment.keys() & control.keys())
    if not both:
        raise ValueError(
            f"control: seeds {sorted(control)} and treatment seeds {sorted(treatment)} have none in common; "
            "run the control with the treatment's seeds"
        )
    return PairedDifferences(
        seeds=tuple(both),
        differences=np.array([treatment[seed] - control[seed] for seed in both], dtype=np.float64),
        without_control=tuple(sorted(treatment.keys() - control.keys())),
        without_treatment=tuple(sorted(control.keys() - treatment.keys())),
    )


def slopes_per_round(values: ArrayLike) -> FloatArray:
    """Least-squares slope of every seed's path over its rounds, shape (S,); pass it to :func:`t_interval`.

    Args:
        values: e.g. smoothed log-odds, shape (S, T + 1) with T >= 1, per round.

    Raises:
        ValueError: fewer than two rounds, or a number that is not finite (smooth log-odds of counts of 0 or all).
    """
    y = np.asarray(values, dtype=np.float64)
    if y.ndim != 2 or y.shape[1] < 2:
        raise ValueError(f"values: shape {y.shape} must be (seeds, rounds) with 2 or more rounds")
    if not np.all(np.isfinite(y)):
        raise ValueError("values: a number is not finite; use smoothed log-odds, which are finite at shares of 0 and 1")
    rounds = np.arange(y.shape[1]) - (y.shape[1] - 1) / 2.0
    return np.asarray(y @ rounds / (rounds @ rounds))


def holm(p: ArrayLike) -> FloatArray:
    """P-values adjusted for a family of M claims, shape (M,): at 0.05, any false one has at most 5% chance (Holm 1979).

    Raises:
        ValueError: ``p`` is not one-dimensional, or a number is outside [0, 1].
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"p: {values.tolist()} must be one row of numbers in [0, 1]")
    order = np.argsort(values, kind="stable")
    stepped = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return adjusted


@dataclasses.dataclass(frozen=True, eq=False)
class Claim:
    """The hypothesis that the mean of paired differences is on one side of 0, or no further from it than a margin."""

    name: str
    """Name of the claim, e.g. ``preference log-odds rise``."""
    paired: PairedDifferences
    direction: Literal["above 0", "below 0"] = "above 0"
    margin: float = 0.0
    """Above 0: a non-inferiority claim, that the mean lies above ``-margin`` (``below 0``: below ``margin``)."""
    beside_p: float = 0.0
    """P-value of a wider null that has to be rejected too; 0 where there is none."""
    detectable: bool = True
    """Whether the test of the mean says which difference is found: not where rejecting that null is as hard."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The statistical conclusion on a claim."""

    claim: Claim
    """The claim, with its seeds and those that had no partner."""
    estimate: float
    """Mean difference, treatment minus control."""
    interval: Interval
    """Two-sided interval of that mean: of the sign-flip test, or Student's with fewer seeds than that needs."""
    p: float
    """Two-sided p-value that the mean is 0 (with a margin: the margin); NaN where the seeds only give an interval."""
    p_adjusted: float
    """The p-value after Holm's correction over the family."""
    minimum_detectable_effect: float
    """Mean difference that as many seeds detect with ``power`` at the family's strictest level, level / M; infinite
    where so few seeds can support none of so many claims, or give an interval alone; NaN where the claim is not
    ``detectable``, so that it is not known."""
    power: float
    verdict: Literal["supported", "opposite", "cannot tell"]
    skewness: float = 0.0
    """Skewness of the differences between seeds."""

    @property
    def skewed(self) -> bool:
        """Whether the differences are so skewed that an interval is short on the side of the tail."""
        return abs(self.skewness) > SKEWED


def judge_claims(
    claims: Sequence[Claim], *, level: float = 0.05, power: float = 0.8, confidence: float = 0.95
) -> tuple[Verdict, ...]:
    """Verdicts of a family of claims that are published together.

    All claims with ``sign_flips.FEWEST`` seeds or more are one two-sided family: ``supported`` if the
    adjusted p-value is below ``level`` and the mean is on the claimed side, ``opposite`` if it is on the other side.
    Otherwise, and with fewer seeds always, ``cannot tell``, which is no evidence of absence: see the interval and the
    minimum detectable effect.

    Args:
        claims: all claims of the family; leaving some out understates the p-values.
        level: chance of any false verdict, for the whole family.
        power: power at which the minimum detectable effect is computed.
        confidence: confidence level of each single two-sided interval.

    Raises:
        ValueError: no claim, a repeated name, an unknown direction, a negative margin, fewer than two paired seeds, or
            a number out of range.
    """
    names = [claim.name for claim in claims]
    if not claims or len(set(names)) != len(names):
        raise ValueError(f"claims: {names} must be one or more claims of distinct names")
    check_fraction("level", level)
    check_fraction("confidence", confidence)
    for claim in claims:
        if claim.direction not in ("above 0", "below 0"):
            raise ValueError(f"direction: {claim.direction!r} of {claim.name!r} must be 'above 0' or 'below 0'")
        if not (np.isfinite(claim.margin) and claim.margin >= 0):
            raise ValueError(f"margin: {claim.margin} of {claim.name!r} must be a finite number >= 0")
    tested = {i: _p(claim) for i, claim in enumerate(claims) if len(claim.paired.seeds) >= sign_flips.FEWEST}
    adjusted = dict(zip(tested, holm(list(tested.values())).tolist(), strict=True))
    verdicts = []
    for i, claim in enumerate(claims):
        d = claim.paired.differences
        interval = mean_interval(d, confidence=confidence)
        says: Literal["supported", "opposite", "cannot tell"] = "cannot tell"
        if adjusted.get(i, 1.0) < level:
            says = "supported" if _towards(claim).mean() > 0 else "opposite"
        smallest = float("inf")
        if i in tested:
            smallest = minimum_detectable_effect(float(d.std(ddof=1)), len(d), level=level / len(tested), power=power)
            if not claim.detectable and np.isfinite(smallest):
                smallest = float("nan")
        verdicts.append(
            Verdict(
                claim=claim,
                estimate=interval.estimate,
                interval=interval,
                p=tested.get(i, float("nan")),
                p_adjusted=adjusted.get(i, float("nan")),
                minimum_detectable_effect=smallest,
                power=power,
                verdict=says,
                skewness=float(sign_flips.skewness(d)),
            )
        )
    return tuple(verdicts)


def _towards(claim: Claim) -> FloatArray:
    """The differences, with what is claimed above 0."""
    side = 1.0 if claim.direction == "above 0" else -1.0
    return np.asarray(side * claim.paired.differences + claim.margin)


def _p(claim: Claim) -> float:
    return max(float(sign_flips.two_sided_p(_towards(claim))), claim.beside_p)


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Interval of the mean over seeds: the means that the sign-flip test does not reject, or Student's for few seeds.

    Raises:
        ValueError: as :func:`t_interval`.
    """
    x = _check_seeds(values)
    check_fraction("confidence", confidence)
    if len(x) < sign_flips.FEWEST or sign_flips.smallest_p(len(x)) > 1.0 - confidence:
        return t_interval(x, confidence=confidence)
    low, high = sign_flips.confidence_bounds(x, confidence)
    return Interval(float(x.mean()), low, high, confidence, len(x))


def _check_seeds(values: ArrayLike, *, one_row: bool = True) -> FloatArray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim == 0 or len(x) < 2 or (one_row and x.ndim != 1):
        raise ValueError(f"values: shape {x.shape} must be a number for each of 2+ seeds; one seed has no interval")
    if not np.all(np.isfinite(x)):
        raise ValueError(f"values: {x.tolist()} holds a number that is not finite")
    return x


def _check_share_of(name: str, count: int, total_name: str, total: int) -> None:
    if total < 1:
        raise ValueError(f"{total_name}: {total} must be at least 1")
    if not 0 <= count <= total:
        raise ValueError(f"{name}: {count} must lie between 0 and {total_name} = {total}")


def _normal_quantile(confidence: float) -> float:
    check_fraction("confidence", confidence)
    return float(stats.norm.ppf(0.5 + confidence / 2.0))
