"""Axes of the figures: where they end, how a band is clipped, and the canvas on which they are drawn."""

from __future__ import annotations

import dataclasses
import io
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from scpl_ray.evaluation.metric_kind import MetricKind
from scpl_ray.report.text import visible
from scpl_ray.shares import FloatArray

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
"""Okabe and Ito's palette, which suits all kinds of colour vision, without yellow, which is too light for lines."""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p")
WIDTH_INCHES, PANEL_INCHES = 4.6, 2.5
LINE_INCHES = 0.19
"""Height of a line of a legend or of a title."""
TITLE_CHARACTERS, PANEL_CHARACTERS, LEGEND_CHARACTERS = 48, 56, 52
"""Characters that a line holds: of a figure's title, of a panel's, and of a legend in one column."""
COLUMN_CHARACTERS = 22
"""Longest label of a legend in two columns."""
MARGIN = 0.04
"""Room above and below what is drawn, as a part of the height of an axis."""
SOFT = "#777777"
"""The colour of lines that are no data."""


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


def clipped(values: FloatArray, kind: MetricKind | None) -> FloatArray:
    """Bounds of an interval without what the metric cannot be: a t-interval of few seeds may extend beyond it."""
    if kind is None or (kind.low is None and kind.high is None):
        return values
    return np.clip(values, kind.low, kind.high)


def limits(
    low: float, high: float, *, span: float = 0.0, lowest: float | None = None, highest: float | None = None
) -> tuple[float, float]:
    """Where an axis ends that shows values from ``low`` to ``high``.

    Args:
        low: smallest value that is shown.
        high: largest value that is shown.
        span: smallest height of the axis, so that noise is not drawn as large as an effect.
        lowest: smallest possible value, below which the axis has only a margin; ``None``: there is none.
        highest: largest possible value.
    """
    span = max(high - low, span) or 1.0
    below, above = (low + high - span) / 2.0, (low + high + span) / 2.0
    # an axis that would leave what is possible moves back into it
    if lowest is not None and below < lowest:
        below, above = lowest, max(high, lowest + span)
    if highest is not None and above > highest:
        below, above = min(low, highest - span), highest
        below = below if lowest is None else max(below, lowest)
    return below - MARGIN * span, above + MARGIN * span


def lines(text: str, characters: int) -> list[str]:
    """The lines of a text that is wrapped to a width; at least one."""
    return textwrap.wrap(visible(text), characters) or [""]


def dress(axis: Axes, title: str) -> None:
    """The look of every panel; a long title takes several lines."""
    axis.set_title("\n".join(lines(title, PANEL_CHARACTERS)), fontsize=9, loc="left")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def legend_inches(labels: Sequence[str]) -> float:
    """Height of a legend with these labels."""
    if _columns(labels) == 2:
        return LINE_INCHES * -(-len(labels) // 2)
    return LINE_INCHES * sum(len(lines(label, LEGEND_CHARACTERS)) for label in labels)


def legend(canvas: Canvas, shown: Mapping[str, Artist]) -> None:
    """The names of what one panel shows, below all of them; a long name takes several lines.

    They are given with what is drawn, as Matplotlib itself leaves out names that begin with an underscore.
    """
    labels = list(shown)
    canvas.legend(
        list(shown.values()),
        ["\n".join(lines(label, LEGEND_CHARACTERS)) for label in labels],
        loc="outside lower left",
        ncols=_columns(labels),
        fontsize=8,
        frameon=False,
        handlelength=3.2,
    )


def _columns(labels: Sequence[str]) -> int:
    return 1 if max(map(len, labels), default=0) > COLUMN_CHARACTERS else 2


@contextmanager
def drawing(name: str, title: str, alt: str, height: float) -> Iterator[tuple[Canvas, list[Figure]]]:
    """Inside, draw on the canvas; afterwards the list holds the figure.

    Args:
        name: see :attr:`Figure.name`; it also makes the ids in the SVG, so that equal figures are equal bytes.
        title: stands above the panels.
        alt: see :attr:`Figure.alt`.
        height: in inches, with a title of one line.
    """
    done: list[Figure] = []
    with (
        matplotlib.rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False, "font.size": 9.0}
        ),
        warnings.catch_warnings(),
    ):
        # the SVG contains text as text; only the PNG may lack a glyph
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        shown = lines(title, TITLE_CHARACTERS)
        canvas = Canvas(figsize=(WIDTH_INCHES, height + LINE_INCHES * (len(shown) - 1)), layout="constrained")
        FigureCanvasAgg(canvas)
        yield canvas, done
        canvas.suptitle("\n".join(shown), fontsize=10, fontweight="bold", x=0.02, ha="left")
        svg, png = io.BytesIO(), io.BytesIO()
        canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        canvas.savefig(png, format="png", dpi=160)
        done.append(Figure(name, title, alt, svg.getvalue(), png.getvalue()))


def file_name(parts: Sequence[str]) -> str:
    """A name of a figure's files from words."""
    return "".join(c if c.isalnum() or c == "-" else "_" for c in "-".join(parts).replace("_", "-"))
