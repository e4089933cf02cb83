"""Figures of claims: all estimates with their intervals, and how each difference came about round by round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scpl_ray.evaluation.catalogue import kind_of
from scpl_ray.report import words
from scpl_ray.report.axes import (
    LINE_INCHES,
    PANEL_CHARACTERS,
    PANEL_INCHES,
    SOFT,
    Figure,
    drawing,
    dress,
    limits,
    lines,
)
from scpl_ray.report.text import interval, metric_name, signed, visible
from scpl_ray.shares import FloatArray
from scpl_ray.studies.contrasts import contrast_of
from scpl_ray.studies.series import MeanPath, Series, mean_path
from scpl_ray.studies.statistics import mean_interval
from scpl_ray.studies.verdicts import Family, Judged

COLOURS = {"supported": "#0072B2", "opposite": "#b34700", "cannot tell": "#555555"}
"""Colours of the verdicts, as on the page."""
MAX_ROWS = 40
"""Largest number of claims in the figure of all estimates."""
MAX_PATHS = 8
"""Largest number of claims whose differences are drawn round by round."""
MAX_POINTS = 25
"""Largest number of rounds of such a path; of longer ones, evenly spaced rounds are drawn."""
MAX_SEEDS = 20
"""Largest number of seeds that are drawn one by one."""
ROW_INCHES = 0.42
NAME_CHARACTERS, LEAST_CHARACTERS = 64, 16
"""Longest name of a claim with its point, and how much of the claim's own name is left beside a long point."""


def draw_all(series: Series, family: Family) -> list[Figure]:
    """The figures of a study's claims; none where no claim has an interval."""
    there = [judged for judged in family.judged if judged.verdict is not None]
    return [_estimates(there), *_differences(series, there)] if there else []


def _of(there: Sequence[Judged], most: int) -> str:
    """What a title adds where not all claims are drawn."""
    return f" (the first {most} of {len(there)})" if len(there) > most else ""


def _estimates(there: Sequence[Judged]) -> Figure:
    title = f"Claims: mean differences, 95% intervals{_of(there, MAX_ROWS)}"
    there = there[:MAX_ROWS]
    by_unit: dict[str, list[Judged]] = {}
    for judged in there:
        by_unit.setdefault(_unit(judged), []).append(judged)
    said = "; ".join(f"{judged.name}: {_numbers(judged)}, {judged.outcome}" for judged in there)
    heights = [ROW_INCHES * len(members) + 0.5 for members in by_unit.values()]
    with drawing("claims", title, f"Line chart. {title}. {said}.", sum(heights) + 0.4) as (canvas, done):
        axes = canvas.subplots(len(by_unit), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (unit, members) in zip(axes, by_unit.items(), strict=True):
            _rows(axis, unit, members)
    return done[0]


def _rows(axis: Axes, unit: str, members: Sequence[Judged]) -> None:
    dress(axis, f"mean difference, {unit}")
    axis.spines["left"].set_visible(False)
    axis.set_yticks([])
    axis.axvline(0.0, color=SOFT, lw=0.8)
    ends = [0.0]
    for row, judged in enumerate(members):
        verdict = judged.verdict
        assert verdict is not None
        low, high = _possible(judged, np.array([verdict.interval.low, verdict.interval.high]))
        colour = COLOURS[judged.outcome]
        axis.hlines(-row, low, high, color=colour, lw=1.6, linestyles="-" if verdict.p == verdict.p else ":")
        face = colour if judged.outcome != "cannot tell" else "white"
        axis.plot(verdict.estimate, -row, marker="s", ms=5, mfc=face, mec=colour)
        ends += [low, high]
        if judged.claim.margin is not None:
            bound = -judged.claim.margin if judged.claim.direction == "above 0" else judged.claim.margin
            axis.plot(bound, -row, marker="|", ms=9, color=SOFT)
            ends.append(bound)
        said = visible(f"{words.SYMBOLS[judged.outcome]} {_short(judged)}")
        axis.text(0.0, -row + 0.3, said, transform=axis.get_yaxis_transform(), fontsize=7.5, va="bottom", ha="left")
    finite = [end for end in ends if np.isfinite(end)]
    axis.set_xlim(*limits(min(finite), max(finite), span=_span(members)))
    axis.set_ylim(-len(members) + 0.5, 0.95)


def _differences(series: Series, there: Sequence[Judged]) -> list[Figure]:
    paths = {judged.name: (judged, *_path(series, judged)) for judged in there[:MAX_PATHS]}
    paths = {name: found for name, found in paths.items() if len(found[1]) > 1}
    if not paths:
        return []
    title = f"Claims: differences, round by round{_of(there, MAX_PATHS)}"
    said = "; ".join(
        f"{name}: {signed(float(path.mean[0]))} in round {rounds[0]} to {signed(float(path.mean[-1]))} in round "
        f"{rounds[-1]}"
        for name, (_, rounds, path, _) in paths.items()
    )
    titles = [_title(judged) for judged, *_ in paths.values()]
    more = sum(len(lines(one, PANEL_CHARACTERS)) - 1 for one in titles)
    height = PANEL_INCHES * 0.8 * len(paths) + LINE_INCHES * more + 0.4
    with drawing("differences", title, f"Line chart. {title}. {said}.", height) as (canvas, done):
        axes = canvas.subplots(len(paths), 1, squeeze=False, sharex=True)[:, 0]
        for axis, heading, (judged, rounds, path, seeds) in zip(axes, titles, paths.values(), strict=True):
            colour = COLOURS[judged.outcome]
            dress(axis, heading)
            axis.grid(axis="y", color="#dddddd", lw=0.6)
            axis.axhline(0.0, color=SOFT, lw=0.8)
            for one in seeds[:MAX_SEEDS]:
                axis.plot(rounds, one, color=colour, lw=0.6, alpha=0.35)
            low, high = _possible(judged, path.low), _possible(judged, path.high)
            axis.fill_between(rounds, low, high, color=colour, alpha=0.15, linewidth=0)
            axis.plot(rounds, path.mean, color=colour, lw=1.6, marker="o", ms=3.0)
            shown = np.concatenate([path.mean, low, high, *seeds[:MAX_SEEDS], [0.0]])
            shown = shown[np.isfinite(shown)]
            axis.set_ylim(*limits(float(shown.min()), float(shown.max()), span=_span([judged])))
        axes[-1].set_xlabel("round")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return [done[0]]


def _path(series: Series, judged: Judged) -> tuple[list[int], MeanPath, FloatArray]:
    """The number that decides a claim, had the study ended after each round.

    Returns:
        The rounds; mean and interval in each; and the numbers of the seeds that have one in all of them, shape (S, T).
        The last mean is the estimate of the verdict.
    """
    last = judged.round or 0
    rounds = np.unique(np.linspace(judged.claim.at == "mean", last, MAX_POINTS).round().astype(int)).tolist()
    found = np.full((len(series.seeds), len(rounds)), np.nan)
    for column, t in enumerate(rounds):
        paired = contrast_of(_until(series, judged, t), judged.contrast, judged.claim).paired
        found[[series.seeds.index(seed) for seed in paired.seeds], column] = paired.differences
    there = [column for column in range(len(rounds)) if np.isfinite(found[:, column]).sum() >= 2]
    found = found[:, there]
    if not there:
        return [], mean_path(found), found
    intervals = [mean_interval(column[np.isfinite(column)]) for column in found.T]
    mean, low, high = (np.array(ends) for ends in zip(*((i.estimate, i.low, i.high) for i in intervals), strict=True))
    path = MeanPath(mean, low, high, np.isfinite(found).sum(axis=0))
    return [rounds[column] for column in there], path, found[~np.isnan(found).any(axis=1)]


def _until(series: Series, judged: Judged, t: int) -> Series:
    """The results of the claim's arms up to a round."""
    values = {
        arm: {key: path[:, : t + 1] for key, path in series.values.get(arm, {}).items()} for arm, _ in judged.contrast
    }
    return Series(tuple(values), series.seeds, values)


def _possible(judged: Judged, bounds: FloatArray) -> FloatArray:
    """Bounds of an interval without what the contrast cannot be, where that is known."""
    span = judged.numbers.span
    return bounds if span is None else np.clip(bounds, -span, span)


def _unit(judged: Judged) -> str:
    """What the numbers of a claim count."""
    kind = kind_of(judged.claim.metric)
    if judged.numbers.scale != "metric" or (kind is not None and kind.unit == "fraction"):
        return "in parts of a whole"
    return f"in {kind.unit if kind is not None else metric_name(judged.claim.metric)}"


def _title(judged: Judged) -> str:
    """What a claim compares and where, which no two claims about different numbers have alike."""
    mean = ", mean of the rounds so far" if judged.claim.at == "mean" else ""
    point = f", at {words.point(judged)}" if judged.cell else ""
    return f"{words.contrast(judged)}: {_what(judged)}{mean}{point}"


def _what(judged: Judged) -> str:
    """What a claim is tested on."""
    kind = kind_of(judged.claim.metric)
    neutral = kind.drift_neutral if kind is not None else None
    since = neutral is not None and neutral.since_round_0
    corrected = ", corrected for the judge's errors" if neutral is not None and neutral.corrected else ""
    match judged.numbers.scale:
        case "share":
            whose = f"{judged.claim.group}'s" if judged.claim.group else "the"
            return f"share of {whose} kind{' since round 0' if since else ''}{corrected}"
        case "distance":
            return f"distance of the mean shares from {'round 0' if since else 'equal ones'}{corrected}"
        case _:
            return metric_name(judged.claim.metric, judged.claim.group)


def _short(judged: Judged) -> str:
    """The name of a claim, cut so that the point stays, which is what tells the claims of one name apart."""
    name, point = judged.claim.name, judged.name[len(judged.claim.name) :]
    if len(point) > NAME_CHARACTERS - LEAST_CHARACTERS:
        point = f" …{point[LEAST_CHARACTERS + 2 - NAME_CHARACTERS :]}"
    room = NAME_CHARACTERS - len(point)
    return f"{name if len(name) <= room else f'{name[: room - 1]}…'}{point}"


def _span(members: Sequence[Judged]) -> float:
    """Smallest extent of an axis of differences: half of that of the metric itself; 0.1 of shares and distances."""
    kinds = [kind_of(judged.claim.metric) for judged in members if judged.numbers.scale == "metric"]
    spans = [kind.span / 2.0 for kind in kinds if kind is not None]
    return max([*spans, 0.1 if len(kinds) < len(members) else 0.0], default=0.0)


def _numbers(judged: Judged) -> str:
    verdict = judged.verdict
    assert verdict is not None
    return f"{signed(verdict.estimate)} ({interval(verdict.interval.low, verdict.interval.high, signed=True)})"
