"""Figures of the paths over rounds with bands between seeds and bars within runs, as SVG and PNG."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from scpl_ray.evaluation.catalogue import CATALOGUE, kind_of
from scpl_ray.evaluation.catalogue import Figure as Drawing
from scpl_ray.report.data import Part
from scpl_ray.report.text import metric_name, number, visible
from scpl_ray.shares import FloatArray, IntArray
from scpl_ray.studies.series import MeanPath, Series, mean_path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette, which suits all kinds of colour vision, without yellow, which is too light for lines."""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
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
WIDTH_INCHES, PANEL_INCHES, LEGEND_INCHES = 4.6, 2.5, 0.19

MARGIN = 0.02

Panel = tuple[str, str | None]
"""The metric and the group of a panel."""

TITLES: Mapping[Drawing, str] = {
    "preference": "Preference bias on neutral prompts",
    "disparity": "Disparate gap, with the quality behind it",
    "diversity": "Diversity on neutral prompts",
    "perplexity": "Perplexity on neutral prompts",
}
"""Titles of the figures of metrics over all groups."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure."""

    name: str
    """Name of its files, without the extension."""
    title: str
    alt: str
    """Description of the figure in words."""
    svg: bytes
    png: bytes


def draw_all(part: Part, arms: Sequence[str]) -> list[Figure]:
    """Draw the figures of a part; panels for which no arm has a number are left out.

    Args:
        part: the results.
        arms: the arms to draw, at most ``MAX_ARMS``.
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
            name = "claim-" + "-".join(str(p) for p in panel if p).replace("_", "-")
            plans.append(("".join(c if c.isalnum() or c == "-" else "_" for c in name), "Metric of a claim", [panel]))
    figures = []
    for name, title, panels in plans:
        there = [p for p in panels if any(not np.isnan(series.path(arm, *p)).all() for arm in arms)]
        if there:
            figures.append(_draw(series, name, title, there, arms))
    return figures


def _overall(name: Drawing) -> list[Panel]:
    return [(kind.name, None) for kind in CATALOGUE if kind.figure == name]


def _draw(series: Series, name: str, title: str, panels: Sequence[Panel], arms: Sequence[str]) -> Figure:
    paths = {panel: {arm: mean_path(series.path(arm, *panel)) for arm in arms} for panel in panels}
    columns = 1 if max(map(len, arms), default=0) > 26 else 2
    height = PANEL_INCHES * len(panels) + LEGEND_INCHES * -(-len(arms) // columns) + 0.4
    with (
        matplotlib.rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False, "font.size": 9.0}
        ),
        warnings.catch_warnings(),
    ):
        # the SVG contains text as text; only the PNG may lack a glyph
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas = Canvas(figsize=(WIDTH_INCHES, height), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for axis, panel in zip(axes, panels, strict=True):
            for row, arm in enumerate(arms):
                _line(axis, paths[panel][arm], row, visible(arm), len(arms))
                _within_run(axis, paths[panel][arm], series.within_run(arm, *panel), row, len(arms))
            _dress(axis, panel)
        axes[-1].set_xlabel("round")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        canvas.suptitle(visible(title), fontsize=10, fontweight="bold", x=0.02, ha="left")
        handles, labels = axes[0].get_legend_handles_labels()
        canvas.legend(
            handles, labels, loc="outside lower left", ncols=columns, fontsize=8, frameon=False, handlelength=3.2
        )
        svg, png = io.BytesIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        canvas.savefig(png, format="png", dpi=160)
    return Figure(name, title, _alt(title, paths), svg.getvalue(), png.getvalue())


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


def _within_run(axis: Axes, path: MeanPath, sides: FloatArray | None, row: int, n_arms: int) -> None:
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
        yerr=sides[there].T,
        fmt="none",
        ecolor=COLOURS[row % len(COLOURS)],
        elinewidth=0.8,
        capsize=2.0,
    )


def _drawn_rounds(n: int) -> IntArray:
    return np.unique(np.linspace(0, n - 1, min(n, MAX_POINTS)).round().astype(np.int64))


def _dress(axis: Axes, panel: Panel) -> None:
    metric, group = panel
    axis.set_title(visible(metric_name(metric, group)), fontsize=9, loc="left")
    axis.grid(axis="y", color="#dddddd", lw=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    kind = kind_of(metric)
    if kind is not None and kind.is_fraction:
        # a t-interval of few seeds may extend beyond the possible values
        low, high = axis.get_ylim()
        axis.set_ylim(max(low, -MARGIN), min(high, 1.0 + MARGIN))
    if kind is not None and kind.unit == "log-odds":
        axis.axhline(0.0, color="#777777", lw=0.8)


def _alt(title: str, paths: dict[Panel, dict[str, MeanPath]]) -> str:
    parts = []
    for (metric, group), by_arm in paths.items():
        ends = []
        for arm, path in by_arm.items():
            there = np.flatnonzero(~np.isnan(path.mean))
            if len(there):
                first, last = there[0], there[-1]
                ends.append(
                    f"{arm} from {number(float(path.mean[first]))} in round {first} to "
                    f"{number(float(path.mean[last]))} in round {last}"
                )
        parts.append(f"{metric_name(metric, group)}: {'; '.join(ends)}")
    return f"Line chart. {title}. {'. '.join(parts)}."
