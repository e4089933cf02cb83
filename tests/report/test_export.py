"""What a paper takes from a report."""

import csv
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from scpl_ray.report import export, text

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert runner.invoke(app, ["compare", "--simulate", "--study-dir", "s", "loop.rounds=2"]).exit_code == 0
        result = runner.invoke(app, ["report", "s", "--csv", "--latex"])
        assert result.exit_code == 0, result.output
    return place / "s/report"


def test_the_table_has_a_row_per_claim(folder: Path) -> None:
    with (folder / "claims.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == export.COLUMNS and row["seeds"] == "6" and row["verdict"] == "cannot tell"
    assert float(row["low"]) <= float(row["estimate"]) <= float(row["high"])
    table = (folder / "claims.tex").read_text()
    assert row["estimate"] in table and table.count(r"\\") == 2 and not re.search(r"(?<!\\)[_#]", table)


def test_the_methods_say_what_was_run(folder: Path) -> None:
    said = (folder / "methods.tex").read_text()
    for fact in (
        "2 arms with 6 seeds each and 2 self-consuming rounds",
        "the analytic mode",
        "256 queries",
        "north, south",
    ):
        assert fact in said
    assert "the rule retention or static" in said and "1 claim was fixed" in said
    assert "2601.05184" in (folder / "references.bib").read_text()


def test_characters_of_latex_are_text() -> None:
    row = ("", r"50% of a_b & c\d", f"a {text.MINUS} b", "", "", "", "", "0", "", "not enough seeds")
    assert r"50\% of a\_b \& c\textbackslash{}d & a - b & -- & -- & not enough seeds \\" in export.as_latex([row])
