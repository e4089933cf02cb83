"""The first sentences of a page: what was found, in words that claim no more than the verdicts do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scpl_ray.evaluation.catalogue import PREFERENCE, kind_of
from scpl_ray.report.data import Part
from scpl_ray.report.text import cut_name, number, short_names, signed
from scpl_ray.studies.verdicts import ArmFlags, Family, Judged

MAX_NAMES = 3
"""Largest number of claims that are named of each verdict."""
GAP, WORST, MEAN = "disparate_gap", "quality_worst", "quality_mean"
SAME = 0.005
"""A smaller change of a number is not called one."""


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
        said = "cannot be judged with so few seeds" if unjudged else said
        parts = [f"The claim {said}{_named(family.judged)}."]
    elif opposite:
        parts.append(f"Of {len(opposite)} the opposite is supported{_named(opposite)}.")
    if count > 1 and open_:
        parts.append(
            f"{len(open_)} cannot be told either way, which is no evidence that there is nothing{_named(open_)}."
        )
    if count > 1 and unjudged:
        parts.append(f"{len(unjudged)} {_is(len(unjudged))} not judged, for want of seeds.")
    if any(judged.levelled_down for judged in family.judged):
        parts.append("Where a gap is smaller, look at the quality behind it: a group behind did not gain.")
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
        word = _moved(abs(last) - abs(first), "moved away from balance", "moved towards balance", "stayed where it was")
        parts.append(
            f"the kind of text that the model chooses by itself {word} (log-odds {signed(first)}, then {signed(last)})"
        )
    if GAP in flags.ends:
        first, last = flags.ends[GAP]
        chance = _chance(part, flags.arm)
        beside = f"; chance alone makes about {number(chance)}" if chance is not None else ""
        word = _moved(last - first, "grew", "shrank", "stayed")
        parts.append(f"the gap in quality between groups {word} ({number(first)}, then {number(last)}{beside})")
    if {WORST, MEAN} <= flags.ends.keys():
        (worst, worst_last), (mean, mean_last) = flags.ends[WORST], flags.ends[MEAN]
        word = _moved(worst_last - worst, "is served better", "is served worse", "is served alike")
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


def _moved(by: float, up: str, down: str, same: str) -> str:
    return same if abs(by) < SAME else up if by > 0 else down


def _chance(part: Part, arm: str) -> float | None:
    """How large the gap of the last round is by chance alone, mean over seeds; ``None`` where it is not known."""
    kind = kind_of(GAP)
    path = part.series.path(arm, kind.chance) if kind is not None and kind.chance else np.empty((0, 0))
    last = part.series.last(arm)
    found = path[:, last] if path.shape[1] > last else np.empty(0)
    found = found[np.isfinite(found)]
    return float(found.mean()) if len(found) else None
