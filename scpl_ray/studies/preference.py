"""Preference bias between seeds on scales that chance alone does not move.

Without any preference a loop resamples what it wrote: the expected share of a kind stays what it was, but its log-odds
move away from 0, and the distance of any one run from where it began grows. So shares are averaged over seeds first,
and the log-odds, the distance and its direction are those of the mean.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from scipy.special import expit, logit

from scpl_ray.evaluation import sign_flips
from scpl_ray.evaluation.catalogue import PREFERENCE
from scpl_ray.evaluation.metric_kind import DriftNeutral
from scpl_ray.shares import FloatArray
from scpl_ray.studies.series import Series
from scpl_ray.studies.statistics import Interval, mean_interval

Word = Literal["amplified", "reduced", "turned", "not shown", "cannot tell"]


def share_paths(series: Series, arm: str, shares: str = "kind_share") -> FloatArray | None:
    """Shares of the K kinds in an arm, shape (S, T + 1, K) in the order of :meth:`Series.groups`; NaN where absent.

    A table of two groups that holds the log-odds above balance alone has the shares in them, which are those of the
    advantaged kind and of the other. ``None``: the table has no shares.
    """
    if series.groups(arm, shares):
        return series.paths(arm, shares)
    if (
        shares != "kind_share"
        or len(series.groups(arm, "share")) > 2
        or (PREFERENCE, None) not in series.values.get(arm, {})
    ):
        return None
    first = expit(series.path(arm, PREFERENCE) + logit(0.5))
    return np.stack([first, 1.0 - first], axis=-1)


def kind_names(series: Series, arm: str, shares: str = "kind_share") -> tuple[str, ...]:
    """Groups whose kinds the last axis of :func:`share_paths` holds."""
    if groups := series.groups(arm, shares):
        return groups
    groups = series.groups(arm, "share")
    first = advantaged(series, arm)
    return (first, *(g for g in groups if g != first)) if first else ("the largest group", "the other group")


def advantaged(series: Series, arm: str) -> str | None:
    """The group that was largest in round 1, whose share round 0 repeats; ``None`` if the table has no shares."""
    groups = series.groups(arm, "share")
    if not groups:
        return None
    return groups[int(np.nan_to_num(series.paths(arm, "share")[:, 0], nan=0.0).sum(axis=0).argmax())]


def share_of(series: Series, arm: str, neutral: DriftNeutral, group: str | None) -> FloatArray | None:
    """Path of the share that a log-odds is of, shape (S, T + 1); ``None`` if the table does not hold it.

    Args:
        series: the results.
        arm: label of the arm.
        neutral: how the metric is tested.
        group: the group of a metric per group; ``None``: the advantaged one.
    """
    paths = share_paths(series, arm, neutral.shares)
    if paths is None:
        return None
    wanted = group or advantaged(series, arm)
    names = kind_names(series, arm, neutral.shares)
    if wanted is None:
        wanted = names[0]
    return np.asarray(paths[..., names.index(wanted)]) if wanted in names else None


def distance_parts(shares: FloatArray, reference: FloatArray) -> FloatArray:
    """Per seed, a number whose mean is the total variation of the mean shares from the reference, shape (S,).

    The total variation of the mean is half the sum of |mean difference|. Each seed's differences are taken with the
    signs of the other seeds' means, so that where there is no distance the mean is 0 and not above it.

    Args:
        shares: shape (S, K), S >= 2.
        reference: shape (K,), or per seed (S, K).
    """
    d = shares - reference
    others = d.sum(axis=0, keepdims=True) - d
    return np.asarray((np.sign(others) * d).sum(axis=-1) / 2.0)


def moved_p(differences: FloatArray) -> float:
    """P-value that no kind's mean share differs, jointly over kinds; differences of shape (S, K).

    Raises:
        ValueError: fewer seeds than :data:`scpl_ray.evaluation.sign_flips.FEWEST`.
    """
    if len(differences) < sign_flips.FEWEST:
        raise ValueError(f"differences: {len(differences)} seeds; a p-value needs {sign_flips.FEWEST}")
    # with two kinds the second share is 1 minus the first
    kinds = differences[:, :1] if differences.shape[1] == 2 else differences
    return float(sign_flips.joint_p(kinds.T).min())


@dataclasses.dataclass(frozen=True, eq=False)
class Amplification:
    """Whether preference bias, a distance, grew or shrank in an arm since round 0, and towards whom shares moved."""

    word: Word
    """``amplified`` and ``reduced``: the mean shares moved, and their distance from equal shares grew or shrank;
    ``turned``: they moved, and no change of the distance is shown; ``not shown``: no move is."""
    seeds: int
    p: float
    """Two-sided p-value of the word: that the mean shares did not move, and for the first two words that their distance
    did not change; NaN with too few seeds."""
    before: float
    """Total variation distance of the mean shares from equal ones in round 0."""
    after: float
    """The same in the last round."""
    change: Interval
    """``after - before`` with its interval."""
    moved: float
    """Total variation distance of the mean shares of the last round from those of round 0."""
    towards: str
    """The group whose kind gained most."""
    gained: float
    """By how much its mean share rose."""


def amplification(series: Series, arm: str, *, level: float = 0.05) -> Amplification | None:
    """Describe how preference bias changed in an arm from round 0 to its last round; ``None`` with fewer than 2 seeds.

    The word is at the level ``level``, for this arm alone, and two-sided. Within one arm a change may be unrelated to
    feedback; only a claim compares it with a control.
    """
    paths = share_paths(series, arm)
    last = series.last(arm)
    if paths is None or last < 1 or paths.shape[1] <= last:
        return None
    both = paths[~np.isnan(paths[:, [0, last]]).any(axis=(1, 2))][:, [0, last]]
    if len(both) < 2:
        return None
    first, final = both[:, 0], both[:, 1]
    equal = np.full(first.shape[1], 1.0 / first.shape[1])
    distance = distance_parts(final, equal) - distance_parts(first, equal)
    change = mean_interval(distance)
    rise = (final - first).mean(axis=0)
    word: Word = "cannot tell"
    p = float("nan")
    if len(both) >= sign_flips.FEWEST:
        p, word = moved_p(final - first), "not shown"
        if p < level:
            word = "turned"
            of_distance = float(sign_flips.two_sided_p(distance))
            if of_distance < level:
                p, word = max(p, of_distance), "amplified" if change.estimate > 0 else "reduced"
    return Amplification(
        word=word,
        seeds=len(both),
        p=p,
        before=float(distance_parts(first, equal).mean()),
        after=float(distance_parts(final, equal).mean()),
        change=change,
        moved=float(distance_parts(final, first).mean()),
        towards=kind_names(series, arm)[int(rise.argmax())],
        gained=float(rise.max()),
    )
