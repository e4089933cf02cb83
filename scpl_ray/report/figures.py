"""Figures of the paths over rounds: bands between seeds, bars within runs. Those of claims are drawn elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from scpl_ray.evaluation.catalogue import CATALOGUE, kind_of
from scpl_ray.evaluation.metric_kind import Figure as Drawing
from scpl_ray.evaluation.metric_kind import MetricKind
from scpl_ray.report import forest
from scpl_ray.report.axes import (
    COLOURS,
    LEGEND_INCHES,
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
    series = part.series
    groups = list(dict.fromkeys(g for arm in arms for g in series.groups(arm, "share")))
    # with two groups the second share is 1 minus the first
    shares: list[Panel] = [("share", g) for g in (groups[:1] if len(groups) == 2 else groups[:MAX_GROUPS])]
    share_title = "Share of queries" + (f" ({groups[1]}: the rest)" if len(groups) == 2 else "")
    plans: list[tuple[str, str, list[Panel]]] = [
        ("shares", share_title, shares),
        *((name, title, _overall(name)) for name, title in TITLES.items()),
    ]
    drawn = {panel for _, _, panels in plans for panel in panels}
    for claim in part.study.claims if part.study else ():
        panel = (claim.metric, claim.group)
        if panel not in drawn:
            drawn.add(panel)
            plans.append((file_name(["claim", *(p for p in panel if p)]), "Metric of a claim", [panel]))
    figures = []
    for name, title, panels in plans:
        there = [p for p in panels if any(not np.isnan(series.path(arm, *p)).all() for arm in arms)]
        if there:
            paths = {p: {arm: _path(part, arm, p) for arm in arms} for p in there}
            figures.append(_draw(part, name, title, paths, arms))
    return [*figures, *(forest.draw_all(part.series, family) if family else [])]


def _overall(name: Drawing) -> list[Panel]:
    return [(kind.name, None) for kind in CATALOGUE if kind.figure == name]


def _path(part: Part, arm: str, panel: Panel) -> MeanPath:
    """The mean between seeds with its interval, clipped to what the metric can be."""
    path = mean_path(part.series.path(arm, *panel))
    kind = kind_of(panel[0])
    return dataclasses.replace(path, low=clipped(path.low, kind), high=clipped(path.high, kind))


def _draw(part: Part, name: str, title: str, paths: Paths, arms: Sequence[str]) -> Figure:
    columns = 1 if max(map(len, arms), default=0) > 26 else 2
    height = PANEL_INCHES * len(paths) + LEGEND_INCHES * -(-len(arms) // columns) + 0.4
    names = short_names(part.checkpoints)
    with drawing(name, title, _alt(title, paths, names), height) as (canvas, done):
        axes = canvas.subplots(len(paths), 1, squeeze=False, sharex=True)[:, 0]
        for axis, (panel, by_arm) in zip(axes, paths.items(), strict=True):
            for row, arm in enumerate(arms):
                _line(axis, by_arm[arm], row, visible(arm), len(arms))
                _within_run(axis, by_arm[arm], part.series.within_run(arm, *panel), row, len(arms), kind_of(panel[0]))
            _dress(part, axis, panel, by_arm)
        if names:
            axes[-1].set_xlabel("checkpoint")
            if len(names) <= MAX_NAMES:
                shown = [visible(cut_name(one)) for one in names]
                axes[-1].set_xticks(range(len(names)), shown, rotation=30, ha="right", fontsize=7)
        else:
            axes[-1].set_xlabel("round")
            axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(canvas, axes[0], columns)
    return done[0]


def _line(axis: Axes, path: MeanPath, row: int, label: str, n_arms: int) -> None:
    rounds = _drawn_rounds(len(path.mean))
    colour = COLOURS[row % len(COLOURS)]
    low, high = path.low[rounds], path.high[rounds]
    x = rounds.astype(np.float64)
    if n_arms > BANDS_UP_TO:
        # side by side within a round, so that no bar hides another
        x += (row - (n_arms - 1) / 2) * 0.6 / n_arms * max(1.0, rounds[-1] / MAX_POINTS)
    axis.plot(
        x,
        path.mean[rounds],
        color=colour,
        label=label,
        linestyle=LINES[row % len(LINES)],
        linewidth=1.5,
        marker=MARKERS[row % len(MARKERS)],
        markersize=3.5,
        markevery=max(1, len(rounds) // 12),
    )
    if n_arms <= BANDS_UP_TO:
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    else:
        bars = slice(None) if len(rounds) <= 12 else slice(-1, None)
        axis.vlines(x[bars], low[bars], high[bars], color=colour, linewidth=1.0, alpha=0.8)


def _within_run(
    axis: Axes, path: MeanPath, sides: FloatArray | None, row: int, n_arms: int, kind: MetricKind | None
) -> None:
    """Error bars of what one evaluation leaves open: of single runs in every round, beside a band in the last one."""
    if sides is None:
        return
    single = bool((path.seeds <= 1).all())
    if not single and n_arms > BANDS_UP_TO:
        return
    there = np.flatnonzero(~np.isnan(sides).any(axis=-1) & ~np.isnan(path.mean))
    if single and len(there) > BARS_UP_TO:
        there = there[np.unique(np.linspace(0, len(there) - 1, BARS_UP_TO).round().astype(np.int64))]
    if not single:
        there = there[-1:]
    beside = 0.0 if single else 0.02 * (row + 1) * len(path.mean)
    axis.errorbar(
        there + beside,
        path.mean[there],
        yerr=[
            path.mean[there] - clipped(path.mean[there] - sides[there, 0], kind),
            clipped(path.mean[there] + sides[there, 1], kind) - path.mean[there],
        ],
        fmt="none",
        ecolor=COLOURS[row % len(COLOURS)],
        elinewidth=0.8,
        capsize=2.0,
    )


def _drawn_rounds(n: int) -> IntArray:
    return np.unique(np.linspace(0, n - 1, min(n, MAX_POINTS)).round().astype(np.int64))


def _dress(part: Part, axis: Axes, panel: Panel, by_arm: Mapping[str, MeanPath]) -> None:
    metric, group = panel
    dress(axis, metric_name(metric, group))
    axis.grid(axis="y", color="#dddddd", lw=0.6)
    kind = kind_of(metric)
    shown = [np.concatenate([path.mean, path.low, path.high]) for path in by_arm.values()]
    if kind is not None and kind.chance and group is None:
        chance = _chance(part, by_arm, kind.chance)
        shown.append(chance)
        if np.isfinite(chance).any():
            rounds = _drawn_rounds(len(chance))
            axis.plot(rounds, chance[rounds], color=SOFT, lw=1.0, ls=(0, (1, 1.5)), label="by chance alone")
    finite = np.concatenate(shown)
    finite = finite[np.isfinite(finite)]
    if len(finite):
        span, lowest, highest = (kind.span, kind.low, kind.high) if kind is not None else (0.0, None, None)
        ends = float(finite.min()), float(finite.max())
        axis.set_ylim(*limits(*ends, span=span, lowest=lowest, highest=highest))
    if kind is not None and kind.unit == "log-odds":
        axis.axhline(0.0, color=SOFT, lw=0.8)


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
