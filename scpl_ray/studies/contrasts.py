"""From a claim of a study to numbers per seed: on which scale it is tested, for which seeds, within which bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scpl_ray.evaluation import sign_flips
from scpl_ray.evaluation.catalogue import kind_of
from scpl_ray.evaluation.disparity import ROUNDING, cause_of
from scpl_ray.evaluation.metric_kind import DriftNeutral, QualityBehind
from scpl_ray.shares import FloatArray
from scpl_ray.studies import preference
from scpl_ray.studies.series import Series
from scpl_ray.studies.statistics import Interval, PairedDifferences, mean_interval
from scpl_ray.studies.study import StudyClaim

Weights = Sequence[tuple[str, float]]
"""Labels of the arms of a contrast with their weights."""
At = Literal["last", "mean"]
Scale = Literal["metric", "share", "distance"]


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast:
    """A claim's contrast, seed by seed."""

    scale: Scale
    """``share``: the difference in the share of the kind; ``distance``: in the distance of the mean shares."""
    drifts: bool
    """Whether chance alone can move it: a metric of preference whose table holds no shares."""
    paired: PairedDifferences
    """The differences of the seeds that have all numbers."""
    left_out: Mapping[int, tuple[str, ...]]
    """Seeds without a number, each with the arms in which it has none."""
    infinite: Mapping[int, tuple[str, ...]]
    """Seeds with an infinite number, each with the arms: measurements that failed, which may not be dropped."""
    beside_p: float
    """P-value that the mean shares do not differ at all; 0 where the scale is not ``distance``."""
    detectable: bool
    """Whether the spread of the differences tells which difference would have been found: not of a distance of three or
    more kinds, whose verdict rests as much on the test that the mean shares differ at all."""
    own: Interval | None
    """The contrast in the metric's own units, where it is tested on another scale."""
    bounds: tuple[float, float] | None
    """Between which means the undecided answers leave the contrast, whatever kinds they are of; ``None``: there are
    none, or nothing bounds what they leave open."""
    undecided: Mapping[str, float]
    """Mean fraction of undecided answers by arm, where there are any and no bounds."""
    span: float | None
    """Largest size that the contrast of one seed can have; ``None``: there is no largest."""


def contrast_of(series: Series, weights: Weights, claim: StudyClaim) -> Contrast:
    """The numbers that decide a claim at one point of the axes.

    A seed is compared if all arms have a number in the last round that any of them reached, or (``at: mean``) in all
    rounds from 1 on. Metrics of preference are tested on shares (:mod:`scpl_ray.studies.preference`).
    """
    kind = kind_of(claim.metric)
    neutral = kind.drift_neutral if kind is not None else None
    own = {label: _numbers(series, label, weights, claim.metric, claim.group, claim.at) for label, _ in weights}
    scale: Scale = "metric"
    numbers = own
    moved: FloatArray | None = None
    if neutral is not None:
        vectors = {label: _vectors(series, label, weights, neutral, claim.at) for label, _ in weights}
        if neutral.scale == "share":
            found = {label: _share(series, label, weights, neutral, claim) for label, _ in weights}
            if all(values is not None for values in found.values()):
                scale, numbers = "share", {label: np.asarray(values) for label, values in found.items()}
        elif all(vector is not None for vector in vectors.values()):
            scale = "distance"
            numbers, moved = _distances({k: np.asarray(v) for k, v in vectors.items()}, weights, neutral)
    total = _weighted(numbers, weights)
    whole = np.isfinite(total)
    seeds = tuple(seed for seed, ok in zip(series.seeds, whole, strict=True) if ok)
    beside = 0.0
    if moved is not None and whole.sum() >= sign_flips.FEWEST:
        beside = preference.moved_p(moved[whole])
    bounds = None
    share = neutral if scale == "share" else kind.of_share if kind is not None else None
    if share is not None:
        bounds = _bounds_of_share(series, weights, share, claim)
    elif neutral is not None and scale == "distance" and whole.any():
        bounds = _bounds_of_distance(series, weights, neutral, claim.at, float(total[whole].mean()))
    of_kinds = neutral is not None or share is not None
    return Contrast(
        scale=scale,
        drifts=neutral is not None and scale == "metric",
        paired=PairedDifferences(seeds, total[whole]),
        left_out=_listed(series, numbers, np.isnan),
        infinite=_listed(series, numbers, np.isinf),
        beside_p=beside,
        detectable=moved is None or moved.shape[1] < 3,
        own=None if scale == "metric" else _interval(_weighted(own, weights)[whole]),
        bounds=bounds,
        undecided=_undecided(series, weights, claim.at) if of_kinds and bounds is None else {},
        span=None if neutral is not None and scale == "metric" else claim.span,
    )


def _listed(
    series: Series, numbers: Mapping[str, FloatArray], test: Callable[[FloatArray], NDArray[np.bool_]]
) -> dict[int, tuple[str, ...]]:
    marked = {label: test(values) for label, values in numbers.items()}
    found = {
        seed: tuple(label for label, there in marked.items() if there[row]) for row, seed in enumerate(series.seeds)
    }
    return {seed: labels for seed, labels in found.items() if labels}


def _interval(values: FloatArray) -> Interval | None:
    return mean_interval(values) if len(values) >= 2 and np.isfinite(values).all() else None


def _weighted(numbers: Mapping[str, FloatArray], weights: Weights) -> FloatArray:
    with np.errstate(invalid="ignore"):
        return np.asarray(sum(weight * numbers[label] for label, weight in weights))


def _last(series: Series, weights: Weights) -> int:
    return series.last(*(label for label, _ in weights))


def _in_rounds(path: FloatArray, last: int, at: At) -> FloatArray:
    """Of paths (S, T + 1, ...) the last round, or the mean of rounds 1 to the last; NaN where it does not exist."""
    if last < 0 or path.shape[1] <= last or (at == "mean" and last < 1):
        return np.full((path.shape[0], *path.shape[2:]), np.nan)
    return np.asarray(path[:, last] if at == "last" else path[:, 1 : last + 1].mean(axis=1))


def _numbers(series: Series, label: str, weights: Weights, metric: str, group: str | None, at: At) -> FloatArray:
    """One number per seed in the metric's units, shape (S,)."""
    return _in_rounds(series.path(label, metric, group), _last(series, weights), at)


def _share(series: Series, label: str, weights: Weights, neutral: DriftNeutral, claim: StudyClaim) -> FloatArray | None:
    """The share of the kind that the claim is about, above round 0 where that is the reference, shape (S,)."""
    path = preference.share_of(series, label, neutral, claim.group)
    if path is None:
        return None
    found = _in_rounds(path, _last(series, weights), claim.at)
    return found - path[:, 0] if neutral.since_round_0 else found


def _vectors(series: Series, label: str, weights: Weights, neutral: DriftNeutral, at: At) -> FloatArray | None:
    """Shares of all kinds above the reference, shape (S, K)."""
    paths = preference.share_paths(series, label, neutral.shares)
    if paths is None:
        return None
    found = _in_rounds(paths, _last(series, weights), at)
    return np.asarray(found - (paths[:, 0] if neutral.since_round_0 else 1.0 / paths.shape[-1]))


def _distances(
    vectors: Mapping[str, FloatArray], weights: Weights, neutral: DriftNeutral
) -> tuple[dict[str, FloatArray], FloatArray]:
    """Per seed and arm, a number whose mean is the arm's distance; and the contrast of the shares, shape (S, K)."""
    whole = np.all([~np.isnan(values).any(axis=1) for values in vectors.values()], axis=0)
    numbers = {}
    for label, values in vectors.items():
        found = np.where(np.isnan(values).any(axis=1), np.nan, 0.0)
        if whole.sum() >= 2:
            found[whole] = preference.distance_parts(values[whole], np.zeros(values.shape[1]))
        numbers[label] = found
    return numbers, _weighted(vectors, weights)


def _bounds_of_share(
    series: Series, weights: Weights, neutral: DriftNeutral, claim: StudyClaim
) -> tuple[float, float] | None:
    """The smallest and largest mean contrast of shares that undecided answers allow, over all seeds that have answers.

    ``None`` too for shares that are corrected for the judge's error: the ends of the raw ones do not bound them.
    """
    if neutral.corrected:
        return None
    last = _last(series, weights)
    ends = {}
    for label, _ in weights:
        group = claim.group or preference.advantaged(series, label)
        low, high = (series.path(label, f"kind_share_{end}", group) for end in ("low", "high"))
        least, most = _in_rounds(low, last, claim.at), _in_rounds(high, last, claim.at)
        ends[label] = (least - high[:, 0], most - low[:, 0]) if neutral.since_round_0 else (least, most)
    least = _weighted({label: ends[label][weight < 0] for label, weight in weights}, weights)
    most = _weighted({label: ends[label][weight > 0] for label, weight in weights}, weights)
    there = ~np.isnan(least)
    if not there.any() or np.all(np.abs(most - least)[there] <= ROUNDING):
        return None
    return float(least[there].mean()), float(most[there].mean())


def _bounds_of_distance(
    series: Series, weights: Weights, neutral: DriftNeutral, at: At, estimate: float
) -> tuple[float, float] | None:
    """The same of distances of the mean shares, from those that each kind has at least.

    Undecided answers may be of any kinds. The distance is convex in how they are divided, so that it is largest where
    all are of one kind; it is smallest where they fill up what a kind has less than in the reference. The estimate,
    from which chance is taken, may lie outside by as much as that, and is held too.
    """
    last, low, start = _last(series, weights), {}, {}
    for label, _ in weights:
        least = series.paths(label, "kind_share_low")
        if least.shape[-1] < 2:
            return None
        low[label] = _in_rounds(least, last, at)
        start[label] = least[:, 0] if neutral.since_round_0 else np.full(low[label].shape, 1.0 / least.shape[-1])
    there = np.all([~np.isnan(shares).any(axis=1) for shares in (*low.values(), *start.values())], axis=0)
    if not there.any():
        return None
    bounds = np.zeros(2)
    undecided = 0.0
    for label, weight in weights:
        one, other = low[label][there].mean(axis=0), start[label][there].mean(axis=0)
        ends = [shares + (1.0 - shares.sum()) * np.eye(len(shares)) for shares in (one, other)]
        nearest = max(0.0, float(np.maximum(one, other).sum()) - 1.0)
        furthest = float(np.abs(ends[0][:, None] - ends[1]).sum(axis=-1).max()) / 2.0
        bounds += weight * np.array([nearest, furthest] if weight > 0 else [furthest, nearest])
        undecided = max(undecided, 1.0 - float(one.sum()), 1.0 - float(other.sum()))
    if undecided <= ROUNDING:
        return None
    return float(min(bounds[0], estimate)), float(max(bounds[1], estimate))


def _undecided(series: Series, weights: Weights, at: At) -> dict[str, float]:
    """Mean fraction of undecided answers in the rounds that are compared, by arm; of arms that have any."""
    found = {}
    for label, _ in weights:
        low, high = (series.paths(label, f"kind_share_{end}")[..., :1] for end in ("low", "high"))
        if low.shape == high.shape and low.shape[-1]:
            of_seeds = _in_rounds(high - low, _last(series, weights), at)
            found[label] = float(of_seeds[~np.isnan(of_seeds)].mean()) if np.isfinite(of_seeds).any() else 0.0
    return {label: fraction for label, fraction in found.items() if fraction > ROUNDING}


@dataclasses.dataclass(frozen=True)
class Served:
    """Differences in quality beside a difference in gap."""

    mean: Interval | None
    """Contrast of the mean quality; ``None`` where fewer than two seeds have it."""
    worst: Interval | None
    """Contrast of the quality of the worst-served group."""
    signs: tuple[float, float]
    """What is shown of the two: -1 lower, 1 higher, 0 neither; jointly with the groups, at the level of the family."""
    gained: bool
    """Whether any group is shown to be served better."""
    lost: bool
    """Whether any group is shown to be served worse."""

    def fell(self) -> bool:
        """Whether the mean or the quality of the worst-served group is shown to be lower."""
        return min(self.signs) < 0

    def turned(self) -> Served:
        """The same of the contrast with all its weights negated."""
        mean, worst = (None if one is None else one.negative for one in (self.mean, self.worst))
        return Served(mean, worst, (-self.signs[0], -self.signs[1]), self.lost, self.gained)

    def cause(self) -> str:
        """Why a gap that is smaller is smaller; see :func:`scpl_ray.evaluation.disparity.cause_of`."""
        rise = 0.0 if self.mean is None else self.mean.estimate
        return str(cause_of(-1.0, *self.signs, self.gained, rise))


def served(
    series: Series, weights: Weights, behind: QualityBehind, at: At, seeds: Sequence[int], level: float
) -> Served:
    """The quality behind a contrast of gaps, for the seeds that are compared."""
    rows = [series.seeds.index(seed) for seed in seeds]

    def contrast(metric: str, group: str | None) -> FloatArray:
        numbers = {label: _numbers(series, label, weights, metric, group, at) for label, _ in weights}
        return _weighted(numbers, weights)[rows]

    groups = series.groups(weights[0][0], behind.per_group)
    moved = [contrast(behind.mean, None), contrast(behind.worst, None)]
    moved += [contrast(behind.per_group, group) for group in groups]
    intervals = [_interval(d[~np.isnan(d)]) for d in moved[:2]]
    signs = np.zeros(len(moved))
    there = [i for i, d in enumerate(moved) if np.isfinite(d).all()]
    if there and len(rows) >= sign_flips.FEWEST:
        whole = np.stack([moved[i] for i in there])
        estimate = whole.mean(axis=1)
        signs[there] = np.sign(estimate) * ((sign_flips.joint_p(whole) < level) & (np.abs(estimate) > ROUNDING))
    gained, lost = bool((signs[2:] > 0).any()), bool((signs[2:] < 0).any())
    return Served(intervals[0], intervals[1], (float(signs[0]), float(signs[1])), gained, lost)
