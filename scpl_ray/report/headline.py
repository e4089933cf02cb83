"""The first sentences of a page: what was found, in words that claim no more than the verdicts do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scpl_ray.evaluation.catalogue import PREFERENCE, kind_of
from scpl_ray.evaluation.disparity import ALL_LOST
from scpl_ray.evaluation.sign_flips import FEWEST
from scpl_ray.report.data import Part
from scpl_ray.report.text import cut_name, number, short_names, signed
from scpl_ray.shares import FloatArray
from scpl_ray.studies.verdicts import ArmFlags, Family, Judged

MAX_NAMES = 3
"""Largest number of claims that are named of each verdict."""
GAP, WORST, MEAN = "disparate_gap", "quality_worst", "quality_mean"
SINCE = f"{PREFERENCE}_round0"
"""The change of preference since round 0, whose interval within a run pairs the prompts."""
MOVED = {"amplified": "moved away from balance", "reduced": "moved towards balance", "turned": "moved"}
"""What is said of preference where several seeds show that it moved."""


def of_claims(family: Family) -> str:
    """What became of the claims of a study."""
    count = len(family.judged)
    supported, opposite, open_, unjudged = (
        [judged for judged in family.judged if judged.outcome == outcome]
        for outcome in ("supported", "opposite", "cannot tell", "not enough seeds")
    )
    parts = [f"{len(supported)} of {count} claims {_is(len(supported))} supported{_named(supported)}."]
    if count == 1:
        said = (
            "is supported"
            if supported
            else "is false, the opposite is supported"
            if opposite
            else "can be told neither way"
        )
        if family.judged[0].reason:
            said = f"{'is not judged' if unjudged else said}: {family.judged[0].reason}"
        parts = [f"The claim “{family.judged[0].name}” {said}."]
    elif opposite:
        parts.append(f"Of {len(opposite)} the opposite is supported{_named(opposite)}.")
    if count > 1 and open_:
        parts.append(
            f"{len(open_)} cannot be told either way, which is no evidence that there is nothing{_named(open_)}."
        )
    if count > 1 and unjudged:
        parts.append(f"{len(unjudged)} {_is(len(unjudged))} not judged; the table says why{_named(unjudged)}.")
    if any(judged.cause == ALL_LOST for judged in family.judged):
        parts.append(
            "Where a gap is smaller than in the other arm, look at the quality behind it: no group is shown to be "
            "served better."
        )
    return " ".join(parts)


def of_changes(part: Part, flags: ArmFlags) -> str:
    """What changed in one arm from its first round, or model, to its last."""
    names = short_names(part.checkpoints)
    ends = [cut_name(names[t]) if names else f"round {t}" for t in (0, max(flags.last, 0))]
    if flags.last < 1:
        return f"Only {ends[0]} was measured, so nothing can be said of a change."
    parts = []
    if PREFERENCE in flags.ends:
        first, last = flags.ends[PREFERENCE]
        parts.append(
            f"the kind of text that the model chooses by itself {_preference(part, flags)} (log-odds {signed(first)}, "
            f"then {signed(last)})"
        )
    if GAP in flags.ends:
        first, last = flags.ends[GAP]
        chance = _chance(part, flags.arm)
        beside = f"; chance alone makes about {number(chance)}" if chance is not None else ""
        word = _changed(part, flags, GAP, "grew", "shrank")
        parts.append(f"the gap in quality between groups {word} ({number(first)}, then {number(last)}{beside})")
    if {WORST, MEAN} <= flags.ends.keys():
        (worst, worst_last), (mean, mean_last) = flags.ends[WORST], flags.ends[MEAN]
        word = _changed(part, flags, WORST, "is served better", "is served worse")
        parts.append(
            f"the worst-served group {word} (quality {number(worst)}, then {number(worst_last)}; all groups "
            f"{number(mean)}, then {number(mean_last)})"
        )
    if not parts:
        return f"Neither preference nor quality was measured in both {ends[0]} and {ends[1]}."
    whose = f" in {flags.arm}" if len(part.series.arms) > 1 else ""
    return f"From {ends[0]} to {ends[1]}{whose}: {'; '.join(parts)}."


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _named(claims: Sequence[Judged]) -> str:
    """The first claims by name, after a colon; empty where there are none."""
    if not claims:
        return ""
    more = f"; and {len(claims) - MAX_NAMES} more" if len(claims) > MAX_NAMES else ""
    return ": " + "; ".join(judged.name for judged in claims[:MAX_NAMES]) + more


def _preference(part: Part, flags: ArmFlags) -> str:
    """Whether preference is shown to have moved, and where to: between seeds, or by the prompts of a single run."""
    still = "is not shown to have moved"
    if flags.amplified is not None:
        return MOVED.get(flags.amplified.word, still)
    since = _within(part, flags, SINCE)
    if since is None or not _excludes_0(*since[flags.last]):
        return still
    first, last = flags.ends[PREFERENCE]
    if len(part.series.groups(flags.arm, "share")) != 2 or first * last < 0:
        # of more groups, and across balance, a change of the log-odds of one is no change of the distance
        return MOVED["turned"]
    return MOVED["amplified" if abs(last) > abs(first) else "reduced"]


def _changed(part: Part, flags: ArmFlags, metric: str, up: str, down: str) -> str:
    """Whether a metric is shown to have changed: between seeds, or by the prompts of a single run."""
    still = "is not shown to have changed"
    change = flags.changes.get(metric)
    if change is not None:
        shown = change.n >= FEWEST and _excludes_0(change.low, change.high)
        return still if not shown else up if change.estimate > 0 else down
    bounds = _within(part, flags, metric)
    if bounds is None:
        return still
    (low, high), (last_low, last_high) = bounds[0], bounds[flags.last]
    return up if last_low > high else down if last_high < low else still


def _within(part: Part, flags: ArmFlags, metric: str) -> FloatArray | None:
    """The within-run bounds of the only seed that has the metric in the last round, shape (T + 1, 2)."""
    found = part.series.within.get(flags.arm, {}).get((metric, None))
    if found is None:
        return None
    there = [seed for seed in found if not np.isnan(seed[flags.last]).any()]
    return there[0] if len(there) == 1 else None


def _excludes_0(low: float, high: float) -> bool:
    return low > 0 or high < 0


def _chance(part: Part, arm: str) -> float | None:
    """How large the gap of the last round is by chance alone, mean over seeds; ``None`` where it is not known."""
    kind = kind_of(GAP)
    path = part.series.path(arm, kind.chance) if kind is not None and kind.chance else np.empty((0, 0))
    last = part.series.last(arm)
    found = path[:, last] if path.shape[1] > last else np.empty(0)
    found = found[np.isfinite(found)]
    return float(found.mean()) if len(found) else None
