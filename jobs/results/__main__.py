"""Write the numbers and figures of ``docs/results/``: ``python -m jobs.results gap``, ``remedy`` and ``study``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.results import drawing, gap, published, remedy
from jobs.terminal.command import fail
from scpl_ray.storage.files import write_atomically

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

Folder = Annotated[Path, typer.Option("--folder", help="The folder of the pages on results.")]
RESULTS = Path("docs/results")


@app.callback()
def results() -> None:
    """Compute what the pages on results show of the analytic mode, and keep what they show of studies that were run."""


@app.command("gap")
def write_gap(folder: Folder = RESULTS) -> None:
    """Where the disparate gap narrows and where it widens: gap.json and its figures."""
    facts: dict[str, Any] = {diagram.name: gap.computed(diagram) for diagram in gap.DIAGRAMS}
    reacting = gap.REACTING
    facts[reacting.name]["borders"] = {
        panel: [gap.borders(panel, y) for y in reacting.y.values] for panel in reacting.panels
    }
    facts["points"] = gap.points(reacting.panels)
    _write(folder / "gap.json", facts)
    for diagram in gap.DIAGRAMS:
        write_atomically(folder / f"gap_{diagram.name}.png", drawing.phases(diagram, facts[diagram.name]))
    print(gap.table(facts["points"]))


@app.command("remedy")
def write_remedy(folder: Folder = RESULTS) -> None:
    """What each remedy pulls, which was found best, and whether that holds on new seeds: remedy.json and its figure."""
    facts = remedy.computed(folder)
    _write(folder / "remedy.json", facts)
    write_atomically(folder / "remedy.png", drawing.lean(facts["measured"]))
    for table in remedy.tables(facts).values():
        print(table, end="\n\n")


@app.command("study")
def write_study(
    study_dir: Annotated[Path, typer.Argument(help="Folder of a study in which no run is missing.")],
    folder: Folder = RESULTS,
) -> None:
    """What a study that was run has found: its table on the page with a place for it, the rest in a folder beside."""
    try:
        print(published.publish(study_dir, folder))
    except (ValueError, RuntimeError, OSError) as error:
        raise fail(error) from error


def _write(file: Path, facts: Mapping[str, Any]) -> None:
    write_atomically(file, (json.dumps(facts, separators=(",", ":")) + "\n").encode())
    print(f"{file} written")


if __name__ == "__main__":
    app()
