"""A run's paths as one figure: ``python -m jobs.figure RUN_DIR FILE.png``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import typer

from jobs.cli import fail
from scpl_ray.records import Metric
from scpl_ray.store import Reader, StoreError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colour-blind-safe palette."""


def draw(rows: Sequence[Metric], groups: Sequence[str], path: Path) -> None:
    """Four panels: shares, preference bias, disparate bias, quality; one line per group where there are groups."""
    figure, panels = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
    per_group = {0: "share", 3: "quality"}
    overall = {1: (("preference_log_odds_balanced", "log-odds above balance"),), 2: (
        ("disparate_gap", "gap"), ("disparate_gap_null", "gap by chance"))}  # fmt: skip
    titles = ("share of queries", "preference bias (neutral prompts)", "disparate bias (quality)", "quality per group")
    for panel, axis in enumerate(panels):
        lines = [(g, per_group[panel], g) for g in groups] if panel in per_group else [
            (None, metric, label) for metric, label in overall[panel]
        ]  # fmt: skip
        for number, (group, metric, label) in enumerate(lines):
            points = [(r.round, r.value) for r in rows if (r.group, r.metric) == (group, metric)]
            axis.plot(*zip(*points, strict=True), marker="o", ms=3, color=COLOURS[number % len(COLOURS)], label=label)
        axis.set(title=titles[panel], xlabel="round")
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    panels[1].axhline(0.0, color="grey", lw=0.8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(
    run_dir: Annotated[Path, typer.Argument(help="A run directory.")],
    output: Annotated[Path, typer.Argument(help="Image file to write: .png, .svg or .pdf.")],
) -> None:
    """Draw the paths of a run."""
    try:
        reader, experiment = Reader.open(run_dir)
        rows: list[Metric] = []
        for t in range(experiment.loop.rounds + 1):
            if reader.manifest(t, "evaluation") is not None:
                rows += reader.read(t, "evaluation", "metrics", Metric)
    except StoreError as error:
        raise fail(error) from error
    draw(rows, experiment.groups.names, output)


if __name__ == "__main__":
    typer.run(main)
