"""Each file of examples/ does what its docstring says."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from typer.testing import CliRunner

from examples import own_hooks, own_reward, own_strategy
from jobs.cli import app
from scpl_ray.config import Experiment, Selection
from scpl_ray.protocols import RoundDone
from scpl_ray.records import Metric, Query
from scpl_ray.selection.candidates import Candidates
from scpl_ray.selection.strategies import STRATEGIES, select
from scpl_ray.tasks import TASKS

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
SCPL = ("-c", "from jobs.cli import main; main()")


def python(folder: Path, *arguments: str) -> str:
    """What a process in this folder prints; it imports the package and, as the docstrings say, the examples."""
    path = os.pathsep.join([str(REPOSITORY), str(EXAMPLES)])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("own_*")), ids=lambda file: file.name)
def test_an_example_is_short_and_says_how_to_run_it(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= 70
    assert f"examples/{file.name}" in text or "PYTHONPATH=examples scpl simulate feedback.rule=custom" in text


def test_the_rule_is_simulated(tmp_path: Path) -> None:
    rule = ["feedback.rule=custom", "feedback.function=own_rule:imitate"]
    said = python(tmp_path, *SCPL, "simulate", *rule, "loop.rounds=2", "analytic.seeds=4")
    assert "rounds simulated" in said


@pytest.mark.parametrize("name", ["own_strategy", "own_reward", "own_task"])
def test_an_example_is_accepted_by_scpl_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(EXAMPLES / f"{name}.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [file, "--dry-run", "generation.engine=transformers", "loop.rounds=1"])
    with patch.dict(TASKS), patch.dict(STRATEGIES), pytest.raises(SystemExit) as end:
        runpy.run_path(file, run_name="__main__")
    said = capsys.readouterr()
    assert end.value.code == 0, said
    assert "training" in said.out


def test_the_strategy_keeps_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "median", own_strategy.MEDIAN)
    rewards = np.array([0.0, 9.0, 5.0, 4.0, 6.0, -8.0])
    rows = Candidates([f"s{i}" for i in range(6)], np.arange(6), np.arange(6) % 2, rewards, 2)
    settings = Selection(strategy="median", keep_fraction=0.5)
    kept = select(rows, settings, round_=1, seed=0, initial_shares=[0.5, 0.5])
    assert kept.indices.tolist() == [2, 3, 4]


def test_the_reward_term_prefers_short_sentences() -> None:
    task = own_reward.build(Experiment())
    query: Query = task.group_prompts(1)[0]
    short, long = (task.rule_terms(query, " ".join(["a"] * n)) for n in (5, 15))
    assert (short["brevity"], long["brevity"]) == (0.75, 0.25)
    assert "on_topic" in short


def test_the_hook_writes_a_line_for_a_round_that_nobody_was_told_of_and_none_twice(tmp_path: Path) -> None:
    """A run that is stopped between the end of a round and its hooks tells of it when it is resumed, as from disk."""
    (tmp_path / "logs").mkdir()
    for round_, from_disk in ((0, False), (0, True), (1, True), (10, False), (1, True)):
        rows = (Metric(round_, "north", "share", 0.5), Metric(round_, None, "disparate_gap", 0.1))
        own_hooks.told(RoundDone(round_, 10, tmp_path, rows, from_disk))
    said = (tmp_path / "logs/rounds.txt").read_text().splitlines()
    assert said == [f"{t}: {{'north': 0.5}}, gap 0.100" for t in (0, 1, 10)]


def test_the_study_is_simulated_and_reaches_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["sweep", str(EXAMPLES / "own_study.yaml")])
    assert done.exit_code == 0 and "4 arms x 10 seeds simulated" in done.output, done.output
    (folder,) = (tmp_path / "studies").iterdir()
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert "quotas lower it" in (folder / "report" / "report.json").read_text()
