"""Verdicts on the claims of a study, from its results table, and descriptions of single arms.

All claims of a study, at every point of its axes, are one family. A claim that cannot be judged is reported as such;
the changes within an arm over its rounds are described with intervals and flags and are not claims.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from scpl_ray.config import Experiment
from scpl_ray.evaluation import sign_flips
from scpl_ray.evaluation.catalogue import CATALOGUE, kind_of
from scpl_ray.evaluation.disparity import ROUNDING, LevelledDown, levelled_down_between_seeds
from scpl_ray.feedback.stability import GroupMap
from scpl_ray.studies.contrasts import Contrast, Served, Weights, contrast_of, served
from scpl_ray.studies.power import seeds_needed
from scpl_ray.studies.preference import Amplification, amplification
from scpl_ray.studies.series import Series
from scpl_ray.studies.stability import arm_stability
from scpl_ray.studies.statistics import Claim, Interval, PairedDifferences, Verdict, judge_claims, mean_interval
from scpl_ray.studies.study import Study, StudyClaim, arm_label, points

CHANGES = tuple(kind.name for kind in CATALOGUE if kind.change)
"""Metrics whose change since round 0 is described for every arm."""
QUALITY = next(kind.quality_behind.per_group for kind in CATALOGUE if kind.change and kind.quality_behind is not None)
"""The quality per group behind the gap that is described for every arm."""


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """A claim at one point of the axes, and its verdict."""

    name: str
    """Name of the claim, followed by the point where the study has axes."""
    claim: StudyClaim
    cell: tuple[tuple[str, Any], ...]
    """The point on the axes."""
    contrast: tuple[tuple[str, float], ...]
    """Arms of the results table with their weights."""
    round: int | None
    """The round that is compared, or the last one for ``at: mean``; ``None`` where no arm has any result."""
    numbers: Contrast
    """The numbers per seed, and on which scale they are tested."""
    verdict: Verdict | None
    """The verdict; ``None``: fewer than two seeds can be compared."""
    reason: str
    """Why there is no verdict; empty otherwise."""
    served: Served | None
    """The differences in quality; only for claims about gaps."""
    side: Literal[-1, 0, 1] = 0
    """On which side of 0 the contrast is shown to lie, in the family of all claims; 0: on neither."""
    stands: bool | None = None
    """Whether a verdict is the same whatever the seeds that are not compared would have shown; ``None``: all are
    compared, there is no verdict to change, the metric has no bounds, or it is a distance that they might undo."""

    @property
    def left_out(self) -> Mapping[int, tuple[str, ...]]:
        """Seeds that are not compared, each with the arms in which it has no number."""
        return self.numbers.left_out

    @property
    def outcome(self) -> Literal["supported", "opposite", "cannot tell", "not enough seeds"]:
        """The verdict in words."""
        if self.verdict is None:
            return "cannot tell" if self.numbers.infinite else "not enough seeds"
        return self.verdict.verdict

    @property
    def smaller_gap(self) -> tuple[str, str] | None:
        """The arm whose gap is shown to be smaller, and the other one; only for claims about the gaps of two arms."""
        if self.served is None or len(self.contrast) != 2 or self.side == 0:
            return None
        subtracted, other = sorted(self.claim.contrast, key=self.claim.contrast.__getitem__)
        return (other, subtracted) if self.side < 0 else (subtracted, other)

    @property
    def _served_there(self) -> Served | None:
        """The differences in quality between the arm whose gap is smaller and the other one."""
        if self.served is None or self.smaller_gap is None:
            return None
        return self.served if self.side < 0 else self.served.turned()

    @property
    def cause(self) -> str:
        """Why the gap of one arm is smaller than the other's; empty where :attr:`smaller_gap` is ``None``."""
        return "" if self._served_there is None else self._served_there.cause()

    @property
    def levelled_down(self) -> bool:
        """Whether the gap of one arm is smaller, and the quality of the worst-served group or of all lower there."""
        return self._served_there is not None and self._served_there.fell()


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """All claims of a study with their verdicts."""

    judged: tuple[Judged, ...]
    level: float
    power: float

    @property
    def size(self) -> int:
        """Number of claims that have an interval at least."""
        return sum(one.verdict is not None for one in self.judged)

    @property
    def tested(self) -> int:
        """Number of claims that have seeds enough for a verdict; p-values are adjusted for this number."""
        return sum(one.verdict is not None and not np.isnan(one.verdict.p) for one in self.judged)

    @property
    def seeds_needed(self) -> int | None:
        """Fewest seeds with which the first of these claims can be supported; ``None``: no number is enough."""
        return seeds_needed(self.tested, self.level)


def judge(series: Series, study: Study, *, level: float = 0.05, power: float = 0.8) -> Family:
    """Judge every claim at every point of the axes, as one family.

    Which seeds are compared, and on which scale, says :func:`scpl_ray.studies.contrasts.contrast_of`. Seeds that are
    not compared are listed with the arms that lack them. A claim with an infinite number is not judged.

    Args:
        series: the results; its seeds hold the planned ones, so that those that all arms lack are listed too.
        study: its claims and axes.
        level: chance of any false verdict in the whole family.
        power: power at which the minimum detectable effect is computed.

    Raises:
        ValueError: a level or power out of range.
    """
    found = [_prepare(series, study, claim, cell, level) for cell in points(study) for claim in study.claims]
    whole = [one for one in found if not one.reason]
    claims = [
        Claim(
            one.name,
            one.numbers.paired,
            one.claim.direction,
            one.claim.margin or 0.0,
            one.numbers.beside_p,
            one.numbers.detectable,
        )
        for one in whole
    ]
    verdicts = judge_claims(claims, level=level, power=power) if claims else ()
    by_name = {one.name: verdict for one, verdict in zip(whole, verdicts, strict=True)}
    tested = max(1, sum(not np.isnan(verdict.p) for verdict in verdicts))
    judged = []
    for one in found:
        verdict = by_name.get(one.name)
        if verdict is not None:
            stands, side = _stands(one.numbers, verdict, level / tested), _side(verdict, level / tested)
            one = dataclasses.replace(one, verdict=verdict, stands=stands, side=side)
        judged.append(one)
    return Family(tuple(judged), level, power)


def _prepare(
    series: Series, study: Study, claim: StudyClaim, cell: tuple[tuple[str, Any], ...], level: float
) -> Judged:
    weights = tuple((arm_label(arm, cell), weight) for arm, weight in claim.contrast.items())
    numbers = contrast_of(series, weights, claim)
    seeds = numbers.paired.seeds
    kind = kind_of(claim.metric)
    last = series.last(*(label for label, _ in weights))
    behind = kind.quality_behind if kind is not None else None
    return Judged(
        name=" ".join([claim.name, *(f"{key}={value}" for key, value in cell)]),
        claim=claim,
        cell=cell,
        contrast=weights,
        round=last if last >= 0 else None,
        numbers=numbers,
        verdict=None,
        reason=_why_not(series, numbers, claim, weights),
        served=None if behind is None else served(series, weights, behind, claim.at, seeds, level),
    )


def _why_not(series: Series, numbers: Contrast, claim: StudyClaim, weights: Weights) -> str:
    """Why a claim cannot be judged; empty if it can."""
    what = claim.metric if claim.group is None else f"{claim.metric} of {claim.group}"
    if numbers.infinite:
        seeds = "; ".join(f"seed {seed} ({', '.join(arms)})" for seed, arms in numbers.infinite.items())
        return f"{what} is infinite in {seeds}: a failed measurement is not left out, and no mean has it"
    n = len(numbers.paired.seeds)
    if n >= 2:
        return ""
    missing = [set(arms) for arms in numbers.left_out.values()]
    everywhere = len(missing) == len(series.seeds)
    empty = [label for label, _ in weights if everywhere and all(label in arms for arms in missing)]
    reason = f"{n} seed{'' if n == 1 else 's'} with {what} in every arm; at least 2 are needed"
    return reason + (f" ({', '.join(empty)}: no seed has it)" if empty else "")


def _side(verdict: Verdict, level: float) -> Literal[-1, 0, 1]:
    """On which side of 0 a contrast is shown to lie. The verdict on a claim with a margin is one on the margin, so that
    0 has to be rejected too, at the level of the first of all claims."""
    d, interval = verdict.claim.paired.differences, verdict.interval
    if verdict.verdict == "cannot tell" or (verdict.claim.margin and sign_flips.two_sided_p(d) >= level):
        return 0
    return -1 if interval.high < -ROUNDING else 1 if interval.low > ROUNDING else 0


def _stands(numbers: Contrast, verdict: Verdict, level: float) -> bool | None:
    """Whether a verdict would be the same if the seeds that are not compared had gone against it as far as they can."""
    if not numbers.left_out or numbers.span is None or verdict.verdict == "cannot tell":
        return None
    side = 1.0 if (verdict.verdict == "supported") == (verdict.claim.direction == "above 0") else -1.0
    shift = verdict.claim.margin * (1.0 if verdict.claim.direction == "above 0" else -1.0)
    against = np.full(len(numbers.left_out), -side * numbers.span)
    d = np.concatenate([verdict.claim.paired.differences, against]) + shift
    same = bool(d.mean() * side > 0 and sign_flips.two_sided_p(d) < level)
    # further seeds change the signs that all seeds of a distance enter with, and the test that the shares moved
    return None if same and numbers.scale == "distance" else same


@dataclasses.dataclass(frozen=True, eq=False)
class ArmFlags:
    """The changes of one arm over its rounds; every test is at its own level, without a multiplicity correction."""

    arm: str
    last: int
    """The last round that any seed reached; -1 if there are no results."""
    changes: Mapping[str, Interval]
    """Mean change from round 0 to the last round, by metric; only metrics that two or more seeds have in both."""
    ends: Mapping[str, tuple[float, float]]
    """Means in round 0 and in the last round, by metric, over the seeds that have both."""
    amplified: Amplification | None
    """Whether preference bias grew or shrank since round 0; ``None``: fewer than two seeds, or no shares of kinds."""
    levelled_down: LevelledDown | None
    """Whether the gap closed since round 0, and why; ``None``: fewer than 2 complete seeds or groups."""
    stability: GroupMap | None
    """Stability of shares and kinds; ``None``: see ``unknown``."""
    unknown: str
    """Why the stability was not estimated; empty otherwise."""


def flags(series: Series, arm: str, experiment: Experiment | None = None) -> ArmFlags:
    """Describe one arm; without its config, nothing is called stable."""
    last = series.last(arm)
    changes, ends = {}, {}
    for metric in CHANGES:
        moved = _since_round_0(series, arm, metric)
        if moved.seeds:
            both = series.path(arm, metric)[[series.seeds.index(seed) for seed in moved.seeds]]
            ends[metric] = (float(both[:, 0].mean()), float(both[:, last].mean()))
        if len(moved.seeds) >= 2:
            changes[metric] = mean_interval(moved.differences)
    stable, unknown = arm_stability(series, arm, experiment)
    return ArmFlags(arm, last, changes, ends, amplified(series, arm), _levelled_down(series, arm), stable, unknown)


def amplified(series: Series, arm: str, *, level: float = 0.05) -> Amplification | None:
    """Whether preference bias grew or shrank in an arm; see :func:`scpl_ray.studies.preference.amplification`."""
    return amplification(series, arm, level=level)


def _since_round_0(series: Series, arm: str, metric: str) -> PairedDifferences:
    path = series.path(arm, metric)
    last = series.last(arm)
    if last < 1:
        return PairedDifferences((), np.empty(0))
    with np.errstate(invalid="ignore"):
        moved = path[:, last] - path[:, 0]
    whole = np.isfinite(moved)
    return PairedDifferences(tuple(seed for seed, ok in zip(series.seeds, whole, strict=True) if ok), moved[whole])


def _levelled_down(series: Series, arm: str) -> LevelledDown | None:
    """The flag, from the seeds that have every group in every round."""
    quality = series.paths(arm, QUALITY)
    quality = quality[~np.isnan(quality).any(axis=(1, 2))]
    return None if min(quality.shape) < 2 else levelled_down_between_seeds(quality)
