"""The end of a run in words: what was seen, what that is worth, and the command that asks further."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from jobs.terminal.display import lookup
from scpl_ray.records import Metric

CAVEAT = "One seed without a control shows what is measured and supports no claim."


def seen(first: Sequence[Metric], last: Sequence[Metric], groups: Sequence[str]) -> str:
    """What changed between two rounds: who asked, where the answers to neutral prompts moved, who is served worst.

    That answers moved, and who is served worst, is said only where the within-run intervals of the last round show it.

    Args:
        first: the metrics of round 0.
        last: those of the last round.
        groups: names of the groups.
    """
    shares = {group: (lookup(first, "share", group), lookup(last, "share", group)) for group in groups}
    group = min(groups, key=lambda name: shares[name][1] - shares[name][0])
    before, after = shares[group]
    parts = [
        "as many of each group ask as in round 0"
        if math.isclose(before, after, abs_tol=0.005)
        else f"{group} asks less ({before:.2f} of the queries, then {after:.2f})"
    ]
    moved = lookup(last, "preference_log_odds_round0")
    if math.isfinite(moved):
        largest = max(groups, key=lambda name: shares[name][0])
        where = f"moved {'towards' if moved > 0 else 'away from'} what {largest} prefers"
        low, high = _bounds(last, "preference_log_odds_round0")
        shown = where if low > 0 or high < 0 else "are not shown to have moved"
        parts.append(f"answers to neutral prompts {shown} (log-odds {round(moved, 2) + 0.0:+.2f} since round 0)")
    quality = {name: (lookup(first, "quality", name), lookup(last, "quality", name)) for name in groups}
    worst = min(groups, key=lambda name: quality[name][1])
    numbers = f"quality {quality[worst][0]:.2f}, then {quality[worst][1]:.2f}"
    parts.append(
        f"{worst} is served worst ({numbers})"
        if _is_worst(last, worst, groups)
        else f"no group is shown to be served worst (lowest is {worst}: {numbers})"
    )
    return "; ".join(parts)


def _is_worst(last: Sequence[Metric], worst: str, groups: Sequence[str]) -> bool:
    """Whether a group is shown to be served worse than every other; of two, the interval of their gap says so."""
    if len(groups) == 2:
        return _bounds(last, "disparate_gap")[0] > 0
    highest = _bounds(last, "quality", worst)[1]
    return all(highest < _bounds(last, "quality", name)[0] for name in groups if name != worst)


def _bounds(rows: Sequence[Metric], metric: str, group: str | None = None) -> tuple[float, float]:
    """The within-run interval of a number; NaN where it has none."""
    found = next((row for row in rows if row.metric == metric and row.group == group), None)
    if found is None or found.low is None or found.high is None:
        return math.nan, math.nan
    return found.low, found.high


def closing_words(first: Sequence[Metric], last: Sequence[Metric], groups: Sequence[str], config: str) -> str:
    """The last lines of a run.

    Args:
        first: the metrics of round 0.
        last: those of the last round.
        groups: names of the groups.
        config: the path of the run's config.
    """
    return (
        f"seen: {seen(first, last, groups)}\n{CAVEAT} The loop beside its control, over 6 seeds: "
        f"scpl compare {shlex.quote(config)}"
    )
