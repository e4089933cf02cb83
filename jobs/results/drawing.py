"""Figures of the pages on results, as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jobs.results.gap import REACTING, Diagram
from scpl_ray.report.axes import COLOURS, LINES, MARKERS

WORDS = {
    "+": ("wider", "#D55E00"),
    "=": ("the same", "#EEEEEE"),
    "g": ("narrower by gain", "#0072B2"),
    "u": ("narrower, unclear why", "#56B4E9"),
    "m": ("narrower, the worst-served gained, the mean fell", "#CC79A7"),
    "l": ("narrower because all lost", "#000000"),
}
"""Words and colour of every letter of a diagram; the colours suit all kinds of colour vision."""
WIDTH_INCHES, HEIGHT_INCHES, LEGEND_INCHES = 2.6, 2.3, 0.7
DOTS = 110


def phases(diagram: Diagram, facts: Mapping[str, Any]) -> bytes:
    """A diagram: a column per panel, and a row per round and comparison."""
    rows = [(t, name) for name in ("since", "static") for t in diagram.rounds]
    with matplotlib.rc_context({"font.size": 8.0}):
        size = (WIDTH_INCHES * len(diagram.panels) + 0.6, HEIGHT_INCHES * len(rows) + LEGEND_INCHES)
        canvas = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(len(rows), len(diagram.panels), squeeze=False, sharex=True, sharey=True)
        for row, (t, name) in zip(axes, rows, strict=True):
            compared = f"since round {diagram.since}" if name == "since" else "against the static control"
            for axis, panel in zip(row, diagram.panels, strict=True):
                _panel(axis, facts, facts["panels"][panel][str(t)][name])
                axis.set_title(f"{panel}\nround {t}, {compared}", fontsize=8)
                if diagram is REACTING:
                    _borders(axis, facts, panel)
        for axis in axes[-1]:
            axis.set_xlabel(diagram.x.label if len(diagram.x.label) < 45 else diagram.x.label.replace(" (", "\n("))
        canvas.supylabel(diagram.y.label, fontsize=9)
        canvas.suptitle(f"{diagram.title}: what becomes of the disparate gap", fontsize=10, fontweight="bold")
        used = {
            cell for panel in facts["panels"].values() for at in panel.values() for _, x in _letters(at) for cell in x
        }
        handles = [Patch(color=colour, label=word) for letter, (word, colour) in WORDS.items() if letter in used]
        canvas.legend(
            handles=handles, loc="outside lower center", ncols=min(2 * len(diagram.panels) - 2, 4), frameon=False
        )
        return _png(canvas)


def _letters(at: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, "".join(at[name])) for name in ("since", "static")]


def _panel(axis: Axes, facts: Mapping[str, Any], rows: Sequence[str]) -> None:
    order = list(WORDS)
    cells = np.array([[order.index(cell) for cell in row] for row in rows])
    colours = ListedColormap([colour for _, colour in WORDS.values()])
    x, y = (np.array(facts[name]) for name in ("x", "y"))
    axis.pcolormesh(x, y, cells, cmap=colours, norm=BoundaryNorm(np.arange(len(order) + 1) - 0.5, len(order)))


def _borders(axis: Axes, facts: Mapping[str, Any], panel: str) -> None:
    """Where equal shares stop attracting by the closed form: dashed while the kinds stand still, solid when not."""
    for name, line in (("shares", "--"), ("all", "-")):
        known = [
            (at[name], y) for at, y in zip(facts["borders"][panel], facts["y"], strict=True) if at[name] is not None
        ]
        if known:
            axis.plot(*zip(*known, strict=True), color="white", linewidth=1.8, linestyle=line)
    axis.set_xlim(facts["x"][0] - 0.5, facts["x"][-1] + 0.5)


def lean(measured: Mapping[str, Any]) -> bytes:
    """Preference of neutral answers over the rounds under each remedy, shifted users and nobody's move side by side."""
    with matplotlib.rc_context({"font.size": 8.0}):
        canvas = Figure(figsize=(7.6, 4.4), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(1, 2, sharey=True)
        for axis, users in zip(axes, ("static", "shifted"), strict=True):
            for i, (name, found) in enumerate(measured.items()):
                path = found["lean"][users]
                axis.plot(
                    range(len(path)),
                    path,
                    color=COLOURS[i % len(COLOURS)],
                    linestyle=LINES[(i // len(COLOURS)) % len(LINES)],
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=3,
                    linewidth=1.2,
                    label=name,
                )
            axis.axhline(0.0, color="#777777", linewidth=0.8)
            axis.set_title("nobody moves" if users == "static" else "users are shifted", fontsize=9, loc="left")
            axis.set_xlabel("round")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].set_ylabel("preference log-odds of the majority's kind")
        handles, labels = axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
        return _png(canvas)


def _png(canvas: Figure) -> bytes:
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=DOTS, metadata={"Software": None})
    return file.getvalue()
