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
        where = f"{'towards' if moved > 0 else 'away from'} what {largest} prefers"
        parts.append(
            "answers to neutral prompts lean as in round 0"
            if math.isclose(moved, 0.0, abs_tol=0.005)
            else f"answers to neutral prompts moved {where} (log-odds {moved:+.2f} since round 0)"
        )
    quality = {name: (lookup(first, "quality", name), lookup(last, "quality", name)) for name in groups}
    worst = min(groups, key=lambda name: quality[name][1])
    parts.append(f"{worst} is served worst (quality {quality[worst][0]:.2f}, then {quality[worst][1]:.2f})")
    return "; ".join(parts)


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
