"""``scpl compare``: from the command to the printed answer, in the analytic mode."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.terminal.verdicts import BARS, sparkline

runner = CliRunner()
LOOP = [
    "feedback.rule=retention",
    "feedback.sensitivity=[0.2, 2.0]",
    "feedback.arrivals=1.0",
    "groups.shares=[0.5, 0.5]",
]
STRONG = ["loop.rounds=8", "analytic.choice_gain=2.0"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_loop_that_amplifies_is_said_to(tmp_path: Path) -> None:
    result = runner.invoke(app, ["compare", "--simulate", "--study-dir", "c", *LOOP, *STRONG])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "● does it amplify?: preference bias ends further from equal shares than under static: supported" in said
    assert "Supported: the mean difference in the distance of the mean shares over 6 seeds is +" in said
    assert "▁" in said and "█" in said and "disparate gap" in said and "Between seeds of the analytic model" in said
    assert (tmp_path / "c/study.yaml").is_file()
    again = runner.invoke(app, ["sweep", "--resume", "c"])
    assert again.exit_code == 0 and "supported" in again.output


def test_a_loop_beside_its_like_is_not_said_to_amplify() -> None:
    same = ["--against", "analytic.kind_advantage=0.0001"]
    result = runner.invoke(app, ["compare", "--simulate", *same, "feedback.rule=static"])
    assert result.exit_code == 0 and "cannot tell" in result.output and "supported" not in result.output


def test_few_seeds_get_no_verdict() -> None:
    result = runner.invoke(app, ["compare", "--simulate", "--seeds", "3", *LOOP])
    assert result.exit_code == 0 and "3 seeds give an interval and no verdict" in result.output


def test_what_cannot_be_compared_starts_nothing(tmp_path: Path) -> None:
    result = runner.invoke(app, ["compare", "--simulate", "--against", "selection.betta=3"])
    assert result.exit_code == 2 and "the nearest is selection.beta" in result.output
    assert not list(tmp_path.iterdir())


def test_a_path_is_one_bar_per_round() -> None:
    assert sparkline(np.array([0.0, 1.0, np.nan, 2.0]), 0.0, 2.0) == f"{BARS[0]}{BARS[4]} {BARS[-1]}"
    assert sparkline(np.array([3.0, 3.0]), 3.0, 3.0) == BARS[0] * 2
