"""Figures of the paths over rounds: bands between seeds, bars within runs. Those of claims are drawn elsewhere."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scpl_ray.evaluation.catalogue import CATALOGUE, kind_of
from scpl_ray.evaluation.metric_kind import Figure as Drawing
from scpl_ray.evaluation.metric_kind import MetricKind
from scpl_ray.report import forest
from scpl_ray.report.axes import (
    COLOURS,
    LINES,
    MARKERS,
    PANEL_INCHES,
    SOFT,
    Figure,
    clipped,
    drawing,
    dress,
    file_name,
    legend,
    legend_inches,
    limits,
)
from scpl_ray.report.data import Part
from scpl_ray.report.text import cut_name, metric_name, number, short_names, visible
from scpl_ray.shares import FloatArray, IntArray
from scpl_ray.studies.series import MeanPath, mean_path
from scpl_ray.studies.verdicts import Family

MAX_ARMS = 14
"""Largest number of arms in one figure."""
MAX_POINTS = 200
"""Largest number of rounds that are drawn; of longer paths, evenly spaced rounds are drawn."""
MAX_GROUPS = 4
"""Largest number of groups whose shares get a separate panel."""
BARS_UP_TO = 12
"""Largest number of rounds that all have an error bar."""
BANDS_UP_TO = 4
"""With more arms in a figure, shaded bands would hide each other, so that intervals are drawn as bars."""
MAX_NAMES = 12
"""Largest number of checkpoints whose names stand below an axis."""

Panel = tuple[str, str | None]
"""The metric and the group of a panel."""
Paths = Mapping[Panel, Mapping[str, MeanPath]]
"""The paths of a figure, by panel and arm."""

TITLES: Mapping[Drawing, str] = {
    "preference": "Preference bias on neutral prompts",
    "disparity": "Disparate gap, with the quality behind it",
    "diversity": "Diversity on neutral prompts",
    "perplexity": "Perplexity on neutral prompts",
}
"""Titles of the figures of metrics over all groups."""


def draw_all(part: Part, arms: Sequence[str], family: Family | None = None) -> list[Figure]:
    """Draw the figures of a part; panels for which no arm has a number are left out.

    Args:
        part: the results.
        arms: the arms to draw, at most ``MAX_ARMS``.
        family: the claims with their verdicts; ``None``: there are none.
    """
    figures = [_draw(part, name, title, paths, arms) for name, title, paths in _plans(part, arms)]
    return [*figures, *(forest.draw_all(part.series, family) if family else [])]


def described(part: Part, arms: Sequence[str]) -> str:
    """What bands and bars of these figures are, as far as they are drawn."""
    drawn = [
        (path, _within_rounds(path, part.series.within_run(arm, *panel), len(arms)))
        for _, _, paths in _plans(part, arms)
        for panel, by_arm in paths.items()
        for arm, path in by_arm.items()
        if not np.isnan(path.mean).all()
    ]
    several = [path for path, _ in drawn if not _single(path)]
    said = "Mean between seeds per round"
    if not several:
        said += "; there are no intervals between seeds, as no arm has two"
    else:
        band = len(arms) <= BANDS_UP_TO
        said += f"; {'shaded bands' if band else 'bars without caps'}: 95% t-intervals between seeds"
        if not band and any(len(_drawn_rounds(len(path.mean))) > BARS_UP_TO for path in several):
            said += f", in the last round where there are more than {BARS_UP_TO}"
        if len(several) < len(drawn):
            said += " (none where an arm has one seed)"
    return " ".join([f"{said}.", *_described_within(part, drawn, len(arms))])


def _described_within(part: Part, drawn: Sequence[tuple[MeanPath, IntArray]], n_arms: int) -> list[str]:
    """The same of the intervals within runs, in a sentence or none."""
    lone = [rounds for path, rounds in drawn if len(rounds) and _single(path)]
    beside = [rounds for path, rounds in drawn if len(rounds) and not _single(path)]
    said = []
    if lone or beside:
        of_lone = (
            f"in up to {BARS_UP_TO} rounds"
            if any(len(rounds) == BARS_UP_TO for rounds in lone)
            else "in every round that has one"
        )
        where = "mean over seeds, in the last round; they say nothing of other seeds"
        if not beside:
            where = f"{of_lone}; another seed may differ by more"
        elif lone:
            where = f"of an arm with one seed {of_lone}, of others {where}"
        said.append(f"Capped error bars: 95% intervals of one run over its prompts, {where}.")
    if n_arms > BANDS_UP_TO and any(part.series.within.values()) and any(not _single(path) for path, _ in drawn):
        said.append(
            f"With more than {BANDS_UP_TO} arms, intervals of one run are drawn for no arm with several seeds; they "
            "are in report.json."
        )
    return said


def _share_title(groups: Sequence[str]) -> str:
    """The title of the figure of shares, which says what it leaves out."""
    if len(groups) == 2:
        return f"Share of queries ({groups[1]}: the rest)"
    if len(groups) > MAX_GROUPS:
        return f"Share of queries (the first {MAX_GROUPS} of {len(groups)} groups; all are in report.json)"
    return "Share of queries"


def _plans(part: Part, arms: Sequence[str]) -> list[tuple[str, str, Paths]]:
    """Name, title and paths of every figure in which any arm has a number."""
    series = part.series
    groups = list(dict.fromkeys(g for arm in arms for g in series.groups(arm, "share")))
    # with two groups the second share is 1 minus the first
    shares: list[Panel] = [("share", g) for g in (groups[:1] if len(groups) == 2 else groups[:MAX_GROUPS])]
    plans: list[tuple[str, str, list[Panel]]] = [
        ("shares", _share_title(groups), shares),
        *((name, title, _overall(name)) for name, title in TITLES.items()),
    ]
    drawn = {panel for _, _, panels in plans for panel in panels}
    for claim in part.study.claims if part.study else ():
        panel = (claim.metric, claim.group)
        if panel not in drawn:
            drawn.add(panel)
            name = file_name(["claim", *(p for p in panel if p)])
            numbered = (f"{name}-{i}" for i in itertools.count(2))
            taken = {plan[0] for plan in plans}
            free = next(one for one in itertools.chain([name], numbered) if one not in taken)
            plans.append((free, "Metric of a claim", [panel]))
    found: list[tuple[str, str, Paths]] = []
    for name, title, panels in plans:
        there = [p for p in panels if any(not np.isnan(series.path(arm, *p)).all() for arm in arms)]
        if there:
            found.append((name, title, {p: {arm: _path(part, arm, p) for arm in arms} for p in there}))
    return found


def _overall(name: Drawing) -> list[Panel]:
    return [(kind.name, None) for kind in CATALOGUE if kind.figure == name]


def _path(part: Part, arm: str, panel: Panel) -> MeanPath:
    """The mean between seeds with its interval, clipped to what the metric can be."""
    path = mean_path(part.series.path(arm, *panel))
    kind = kind_of(panel[0])
    return dataclasses.replace(path, low=clipped(path.low, kind), high=clipped(path.high, kind))


def _draw(part: Part, name: str, title: str, paths: Paths, arms: Sequence[str]) -> Figure:
    height = PANEL_INCHES * len(paths) + legend_inches(arms) + 0.4
    names = short_names(part.checkpoints)
    with drawing(name, title, _alt(title, paths, names), height) as (canvas, done):
        axes = canvas.subplots(len(paths), 1, squeeze=False, sharex=True)[:, 0]
        named = [_panel(part, axis, panel, by_arm) for axis, (panel, by_arm) in zip(axes, paths.items(), strict=True)]
        if names:
            axes[-1].set_xlabel("checkpoint")
            if len(names) <= MAX_NAMES:
                shown = [visible(cut_name(one)) for one in names]
                axes[-1].set_xticks(range(len(names)), shown, rotation=30, ha="right", fontsize=7)
        else:
            axes[-1].set_xlabel("round")
            axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(canvas, named[0])
    return done[0]


def _panel(part: Part, axis: Axes, panel: Panel, by_arm: Mapping[str, MeanPath]) -> dict[str, Artist]:
    """Draw one panel; returns what it shows by its name in the legend."""
    ends, named = [], {}
    for row, (arm, path) in enumerate(by_arm.items()):
        named[visible(arm)] = _line(axis, path, row, len(by_arm))
        ends.append(_within_run(axis, path, part.series.within_run(arm, *panel), row, len(by_arm), kind_of(panel[0])))
    return named | _dress(part, axis, panel, by_arm, ends)


def _line(axis: Axes, path: MeanPath, row: int, n_arms: int) -> Artist:
    rounds = _drawn_rounds(len(path.mean))
    colour = COLOURS[row % len(COLOURS)]
    low, high = path.low[rounds], path.high[rounds]
    x = rounds.astype(np.float64)
    if n_arms > BANDS_UP_TO:
        # side by side within a round, so that no bar hides another
        x += (row - (n_arms - 1) / 2) * 0.6 / n_arms * max(1.0, rounds[-1] / MAX_POINTS)
    (drawn,) = axis.plot(
        x,
        path.mean[rounds],
        color=colour,
        linestyle=LINES[row % len(LINES)],
        linewidth=1.5,
        marker=MARKERS[row % len(MARKERS)],
        markersize=3.5,
        markevery=max(1, len(rounds) // 12),
    )
    if n_arms <= BANDS_UP_TO:
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    else:
        there = np.flatnonzero(~np.isnan(low))
        bars = there if len(rounds) <= BARS_UP_TO else there[-1:]
        axis.vlines(x[bars], low[bars], high[bars], color=colour, linewidth=1.0, alpha=0.8)
    return drawn


def _single(path: MeanPath) -> bool:
    """Whether no round has two seeds, so that there is no interval between seeds."""
    return bool((path.seeds <= 1).all())


def _within_rounds(path: MeanPath, sides: FloatArray | None, n_arms: int) -> IntArray:
    """The rounds with an error bar of what one evaluation leaves open.

    Of single runs these are evenly spaced ones; with several seeds it is the last one, and none beside bars.
    """
    if sides is None:
        return np.empty(0, dtype=np.int64)
    there = np.flatnonzero(~np.isnan(sides).any(axis=-1) & ~np.isnan(path.mean))
    if not _single(path):
        return there[-1:] if n_arms <= BANDS_UP_TO else there[:0]
    if len(there) > BARS_UP_TO:
        there = there[np.unique(np.linspace(0, len(there) - 1, BARS_UP_TO).round().astype(np.int64))]
    return there


def _within_run(
    axis: Axes, path: MeanPath, sides: FloatArray | None, row: int, n_arms: int, kind: MetricKind | None
) -> FloatArray:
    """Draw the error bars of what one evaluation leaves open; returns all their ends."""
    there = _within_rounds(path, sides, n_arms)
    if sides is None or not len(there):
        return np.empty(0)
    mean = path.mean[there]
    low, high = clipped(mean - sides[there, 0], kind), clipped(mean + sides[there, 1], kind)
    beside = 0.0 if _single(path) else 0.02 * (row + 1) * len(path.mean)
    axis.errorbar(
        there + beside,
        mean,
        # a number outside its interval has a bar on one side only
        yerr=np.maximum(0.0, [mean - low, high - mean]),
        fmt="none",
        ecolor=COLOURS[row % len(COLOURS)],
        elinewidth=0.8,
        capsize=2.0,
    )
    return np.concatenate([low, high])


def _drawn_rounds(n: int) -> IntArray:
    return np.unique(np.linspace(0, n - 1, min(n, MAX_POINTS)).round().astype(np.int64))


def _dress(
    part: Part, axis: Axes, panel: Panel, by_arm: Mapping[str, MeanPath], ends: Sequence[FloatArray]
) -> dict[str, Artist]:
    """Title, grid and ends of a panel, and what chance alone makes of its metric, which is returned by its name."""
    metric, group = panel
    named: dict[str, Artist] = {}
    dress(axis, metric_name(metric, group))
    axis.grid(axis="y", color="#dddddd", lw=0.6)
    kind = kind_of(metric)
    shown = [np.concatenate([path.mean, path.low, path.high]) for path in by_arm.values()] + list(ends)
    if kind is not None and kind.chance and group is None:
        chance = _chance(part, by_arm, kind.chance)
        shown.append(chance)
        if np.isfinite(chance).any():
            rounds = _drawn_rounds(len(chance))
            (drawn,) = axis.plot(rounds, chance[rounds], color=SOFT, lw=1.0, ls=(0, (1, 1.5)))
            named["by chance alone"] = drawn
    finite = np.concatenate(shown)
    finite = finite[np.isfinite(finite)]
    if len(finite):
        span, lowest, highest = (kind.span, kind.low, kind.high) if kind is not None else (0.0, None, None)
        axis.set_ylim(*limits(float(finite.min()), float(finite.max()), span=span, lowest=lowest, highest=highest))
    if kind is not None and kind.unit == "log-odds":
        axis.axhline(0.0, color=SOFT, lw=0.8)
    return named


def _chance(part: Part, arms: Mapping[str, MeanPath], metric: str) -> FloatArray:
    """How large a metric is by chance alone, per round: the mean over arms and seeds, which differ by little."""
    paths = [part.series.path(arm, metric) for arm in arms]
    rounds = max((path.shape[1] for path in paths), default=0)
    whole = np.concatenate(
        [np.pad(path, ((0, 0), (0, rounds - path.shape[1])), constant_values=np.nan) for path in paths]
    )
    return mean_path(whole).mean


def _alt(title: str, paths: Paths, names: Sequence[str]) -> str:
    parts = []
    for (metric, group), by_arm in paths.items():
        ends = []
        for arm, path in by_arm.items():
            there = np.flatnonzero(~np.isnan(path.mean))
            if len(there):
                where = [names[t] if names else f"round {t}" for t in (there[0], there[-1])]
                first, last = (number(float(path.mean[t])) for t in (there[0], there[-1]))
                ends.append(f"{arm} from {first} in {where[0]} to {last} in {where[1]}")
        parts.append(f"{metric_name(metric, group)}: {'; '.join(ends)}")
    return f"Line chart. {title}. {'. '.join(parts)}."
