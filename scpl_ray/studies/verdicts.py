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
from scpl_ray.evaluation.catalogue import CATALOGUE, PREFERENCE, kind_of
from scpl_ray.evaluation.disparity import ROUNDING, levelled_down_between_seeds
from scpl_ray.feedback.stability import GroupMap
from scpl_ray.shares import FloatArray
from scpl_ray.studies.series import Series
from scpl_ray.studies.stability import arm_stability
from scpl_ray.studies.statistics import Claim, Interval, PairedDifferences, Verdict, judge_claims, t_interval
from scpl_ray.studies.study import Study, StudyClaim, arm_label, points

CHANGES = tuple(kind.name for kind in CATALOGUE if kind.change)
"""Metrics whose change since round 0 is described for every arm."""


@dataclasses.dataclass(frozen=True)
class Served:
    """Differences in quality beside a difference in gap: the contrast of the mean and of the worst-served group."""

    mean: Interval | None
    """Contrast of the mean quality; ``None`` where fewer than two seeds have it."""
    worst: Interval | None

    def fell(self) -> bool:
        """Whether the interval of the mean or of the worst-served group lies below 0."""
        return any(found is not None and found.high < -ROUNDING for found in (self.mean, self.worst))


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
    left_out: Mapping[int, tuple[str, ...]]
    """Seeds that are not compared, each with the arms in which it has no number."""
    verdict: Verdict | None
    """The verdict; ``None``: fewer than two seeds can be compared."""
    reason: str
    """Why there is no verdict; empty otherwise."""
    served: Served | None
    """The differences in quality; only for claims about gaps."""

    @property
    def outcome(self) -> Literal["supported", "opposite", "cannot tell", "not enough seeds"]:
        """The verdict in words."""
        return "not enough seeds" if self.verdict is None else self.verdict.verdict

    @property
    def levelled_down(self) -> bool:
        """Whether the gap is smaller while the quality of the worst-served group or of all is significantly lower."""
        fell = self.verdict is not None and self.verdict.estimate < -ROUNDING
        return fell and self.served is not None and self.served.fell()


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """All claims of a study with their verdicts."""

    judged: tuple[Judged, ...]
    level: float
    power: float

    @property
    def size(self) -> int:
        """Number of claims that could be judged; p-values are adjusted for this number."""
        return sum(one.verdict is not None for one in self.judged)


def judge(series: Series, study: Study, *, level: float = 0.05, power: float = 0.8) -> Family:
    """Judge every claim at every point of the axes, as one family.

    A seed is compared if all arms of the contrast have a finite number in the last round that any of them reached, or
    (``at: mean``) in all rounds from 1 on. The other seeds are listed, with the arms that lack them.

    Args:
        series: the results.
        study: its claims and axes.
        level: significance level of the one-sided tests, for the whole family.
        power: power at which the minimum detectable effect is computed.

    Raises:
        ValueError: a level or power out of range.
    """
    found = [_prepare(series, study, claim, cell) for cell in points(study) for claim in study.claims]
    whole = [one for one, paired in found if len(paired.seeds) >= 2]
    claims = [Claim(one.name, pairs, one.claim.direction) for one, pairs in found if len(pairs.seeds) >= 2]
    verdicts = judge_claims(claims, level=level, power=power) if claims else ()
    by_name = {one.name: verdict for one, verdict in zip(whole, verdicts, strict=True)}
    judged = tuple(dataclasses.replace(one, verdict=by_name.get(one.name)) for one, _ in found)
    return Family(judged, level, power)


def _prepare(
    series: Series, study: Study, claim: StudyClaim, cell: tuple[tuple[str, Any], ...]
) -> tuple[Judged, PairedDifferences]:
    contrast = tuple((arm_label(arm, cell), weight) for arm, weight in claim.contrast.items())
    numbers = {label: _numbers(series, label, contrast, claim.metric, claim.group, claim.at) for label, _ in contrast}
    paired = _differences(series, contrast, numbers)
    left_out = {
        seed: tuple(label for label, values in numbers.items() if np.isnan(values[row]))
        for row, seed in enumerate(series.seeds)
        if seed not in paired.seeds
    }
    reason = ""
    kind = kind_of(claim.metric)
    if len(paired.seeds) < 2:
        what = claim.metric if claim.group is None else f"{claim.metric} of {claim.group}"
        empty = [label for label, values in numbers.items() if np.isnan(values).all()]
        n = len(paired.seeds)
        reason = f"{n} seed{'' if n == 1 else 's'} with {what} in every arm; at least 2 are needed"
        if empty:
            reason += f" ({', '.join(empty)}: no seed has it)"
    last = max((int(series.reached(label).max(initial=-1)) for label, _ in contrast), default=-1)
    judged = Judged(
        name=" ".join([claim.name, *(f"{key}={value}" for key, value in cell)]),
        claim=claim,
        cell=cell,
        contrast=contrast,
        round=last if last >= 0 else None,
        left_out=left_out,
        verdict=None,
        reason=reason,
        served=_served(series, contrast, claim, paired) if kind is not None and kind.is_gap else None,
    )
    return judged, paired


def _numbers(
    series: Series,
    label: str,
    contrast: tuple[tuple[str, float], ...],
    metric: str,
    group: str | None,
    at: Literal["last", "mean"],
) -> FloatArray:
    """One number per seed, shape (S,); NaN where it does not exist."""
    last = max(int(series.reached(other).max(initial=-1)) for other, _ in contrast)
    path = series.path(label, metric, group)
    if last < 0 or path.shape[1] <= last or (at == "mean" and last < 1):
        return np.full(len(series.seeds), np.nan)
    return np.asarray(path[:, last] if at == "last" else path[:, 1 : last + 1].mean(axis=1))


def _differences(
    series: Series, contrast: tuple[tuple[str, float], ...], numbers: Mapping[str, FloatArray]
) -> PairedDifferences:
    total = np.zeros(len(series.seeds))
    for label, weight in contrast:
        total = total + weight * numbers[label]
    whole = ~np.isnan(total)
    return PairedDifferences(tuple(seed for seed, ok in zip(series.seeds, whole, strict=True) if ok), total[whole])


def _served(
    series: Series, contrast: tuple[tuple[str, float], ...], claim: StudyClaim, paired: PairedDifferences
) -> Served:
    found: dict[str, Interval | None] = {}
    for metric in ("quality_mean", "quality_worst"):
        numbers = {label: _numbers(series, label, contrast, metric, None, claim.at) for label, _ in contrast}
        other = _differences(series, contrast, numbers)
        shared = [d for seed, d in zip(other.seeds, other.differences, strict=True) if seed in paired.seeds]
        found[metric] = t_interval(shared) if len(shared) >= 2 else None
    return Served(found["quality_mean"], found["quality_worst"])


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
    amplified: Verdict | None
    """Whether preference bias rose since round 0; ``None``: fewer than two seeds."""
    levelled_down: tuple[int, ...] | None
    """Rounds whose gap fell since round 0 because quality fell; ``None``: fewer than 2 complete seeds or groups."""
    stability: GroupMap | None
    """Stability of shares and kinds; ``None``: see ``unknown``."""
    unknown: str
    """Why the stability was not estimated; empty otherwise."""


def flags(series: Series, arm: str, experiment: Experiment | None = None) -> ArmFlags:
    """Describe one arm; without its config, nothing is called stable."""
    last = int(series.reached(arm).max(initial=-1))
    changes, ends = {}, {}
    for metric in CHANGES:
        moved = _since_round_0(series, arm, metric)
        if moved.seeds:
            both = series.path(arm, metric)[[series.seeds.index(seed) for seed in moved.seeds]]
            ends[metric] = (float(both[:, 0].mean()), float(both[:, last].mean()))
        if len(moved.seeds) >= 2:
            changes[metric] = t_interval(moved.differences)
    stable, unknown = arm_stability(series, arm, experiment)
    return ArmFlags(arm, last, changes, ends, amplified(series, arm), _levelled_down(series, arm), stable, unknown)


def amplified(series: Series, arm: str, *, metric: str = PREFERENCE, level: float = 0.05) -> Verdict | None:
    """One-sided test whether a bias rose from round 0 to the last round; ``None`` with fewer than two seeds.

    A rise within one arm may be unrelated to feedback; only a claim compares it with a control.
    """
    moved = _since_round_0(series, arm, metric)
    if len(moved.seeds) < 2:
        return None
    return judge_claims([Claim(f"{metric} of {arm} rises", moved)], level=level)[0]


def _since_round_0(series: Series, arm: str, metric: str) -> PairedDifferences:
    path = series.path(arm, metric)
    last = int(series.reached(arm).max(initial=-1))
    if last < 1:
        return PairedDifferences((), np.empty(0))
    moved = path[:, last] - path[:, 0]
    whole = ~np.isnan(moved)
    return PairedDifferences(tuple(seed for seed, ok in zip(series.seeds, whole, strict=True) if ok), moved[whole])


def _per_group(series: Series, arm: str, metric: str) -> FloatArray:
    """Paths of the seeds that have every group in every round, shape (S, T + 1, K)."""
    groups = series.groups(arm, metric)
    if not groups:
        return np.empty((0, 1, 0))
    paths = np.stack([series.path(arm, metric, group) for group in groups], axis=-1)
    return np.asarray(paths[~np.isnan(paths).any(axis=(1, 2))])


def _levelled_down(series: Series, arm: str) -> tuple[int, ...] | None:
    quality = _per_group(series, arm, "quality")
    if min(quality.shape) < 2:
        return None
    return tuple((np.flatnonzero(levelled_down_between_seeds(quality).flag) + 1).tolist())
