"""How fast deviations from a rest point grow, from the periods of one log."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from scpl_ray.feedback.stability import FARTHEST_FIXED_POINT, GroupMap, Part, estimate_loop_map
from scpl_ray.logs.reading import Log
from scpl_ray.shares import FloatArray
from scpl_ray.tasks.tally import DataError

TRANSITIONS_PER_BLOCK = 3
FEWEST_BLOCKS = 6
FEWEST_PERIODS = TRANSITIONS_PER_BLOCK * FEWEST_BLOCKS + 1
MORE = "give more or shorter periods, or more rows in each"
CARRIED = "a pipeline in use carries more from period to period than its log holds"


def group_map(log: Log) -> GroupMap:
    """Estimate rho(J) of the map from one period's shares (and kinds, where they are logged) to the next one's.

    A log is one path. It is cut into blocks of three transitions, of which one at a time is left out for the interval
    (delete-a-block jackknife, Kuensch 1989). Because a policy remembers more than its log shows, nothing is called
    stable: an interval below 1 says that the shares showed no growth of their own.

    Raises:
        DataError: there are fewer than 19 periods, or a group or kind is missing from one of them.
    """
    if len(log.periods) < FEWEST_PERIODS:
        raise DataError(
            f"--fit: {len(log.periods)} periods; at least {FEWEST_PERIODS} are needed, so give shorter ones with --by"
        )
    parts = [_part("shares", log.group, np.ones(len(log.group), dtype=bool), len(log.groups), log)]
    if len(log.kinds) > 1:
        parts.append(_part("kinds", log.kind, log.kind >= 0, len(log.kinds), log))
    found = estimate_loop_map(parts, carried=CARRIED)
    return dataclasses.replace(found, reason=_reason(found))


def _reason(found: GroupMap) -> str:
    """Why a log cannot tell whether deviations grow, and what would help; empty where it can tell."""
    if found.verdict != "cannot tell":
        return ""
    if math.isnan(found.rho):
        return f"the {found.state} moved too little beside what counting makes; {MORE}"
    if found.low <= 1.0 <= found.high:
        return f"the interval holds 1; {MORE}"
    if found.distance > FARTHEST_FIXED_POINT:
        return (
            f"the fitted rest point is {found.distance:.1f} standard deviations from what was seen, so the periods "
            "show a transient; give more periods"
        )
    return f"the interval shows no growth, but {CARRIED}"


def _part(name: str, labels: np.ndarray, known: np.ndarray, size: int, log: Log) -> Part:
    counts = np.zeros((len(log.periods), size))
    np.add.at(counts, (log.period[known], labels[known]), 1.0)
    draws = counts.sum(axis=1)
    if not draws.all():
        empty = log.periods[int(np.argmin(draws))]
        raise DataError(f"--fit: no {name} are logged in period {empty}; give longer periods, or leave that one out")
    return Part(name, _blocks(counts / draws[:, None]), draws=_blocks(draws[:, None])[..., 0])


def _blocks(path: FloatArray) -> FloatArray:
    """A path (T + 1, K) as blocks (B, 4, K) that share their ends, without the first periods if they fill none."""
    count = (len(path) - 1) // TRANSITIONS_PER_BLOCK
    starts = len(path) - 1 - count * TRANSITIONS_PER_BLOCK + np.arange(count) * TRANSITIONS_PER_BLOCK
    return path[starts[:, None] + np.arange(TRANSITIONS_PER_BLOCK + 1)]
