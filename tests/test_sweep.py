"""Studies as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from actors.cluster import Cluster, Node
from actors.house import asks
from actors.placement import PlacementError
from jobs.trial import trial_folder
from jobs.tuning import concurrent_trials
from scpl_ray import configfile, results, study
from scpl_ray.config import Experiment
from tests.test_end_to_end import SMALL

STUDY = """
name: small
set: {{{keys}}}
seeds: 1
arms:
  performative: {{}}
  broken: {{training.learning_rate: 1.0e+30}}
"""


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    code = "import sys; sys.argv[0] = 'scpl'; from jobs.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "sweep", *arguments],
        cwd=folder,
        env={**os.environ, "SCPL_CACHE": str(folder / "cache")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == code, output
    return output


def test_an_analytic_study_makes_its_table(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a\nmode: analytic\nseeds: 5\nset: {loop.rounds: 3}\narms: {x: {}, y: {feedback.rule: static}}\n"
        "axes: {selection.beta: [0.2, 0.5]}\n"
    )
    output = finish(command(tmp_path, str(path), "--study-dir", "a"))
    assert "4 arms x 5 seeds" in output and "scpl report a" in output
    found = results.read(tmp_path / "a")
    assert sorted(set(found["arm"].to_pylist())) == [f"{a} selection.beta={b}" for a in "xy" for b in (0.2, 0.5)]
    assert set(found["seed"].to_pylist()) == set(range(5)) and set(found["round"].to_pylist()) == set(range(4))
    assert "not empty; go on with that study" in finish(command(tmp_path, str(path), "--study-dir", "a"), 2)
    assert json.loads((tmp_path / "a/failed.json").read_text()) == {}


def test_runs_share_what_they_agree_on() -> None:
    one = asks(Experiment())
    for keys, changed in (
        (["seed=3", "loop.kind=retraining", "selection.beta=0.1", "generation.samples_per_prompt=2"], set()),
        (["training.epochs=2"], {"trainer"}),
        (["reward.terms={well_formed: 1.0}"], {"scorer"}),
        (["task.marker_strength=0.5"], {"scorer"}),
        (["generation.temperature=0.5"], {"generator", "scorer"}),
        (["model.family=gpt2"], {"generator", "scorer", "trainer"}),
    ):
        other = asks(configfile.load(None, keys))
        assert {name for name in one if one[name] != other[name]} == changed


def machine(cpus: float, gpus: int = 0) -> Cluster:
    return Cluster((Node("one", cpus, 64.0, gpus, 80.0),))


def test_as_many_trials_side_by_side_as_fit() -> None:
    trial = study.Trial("a", (), 0, Experiment())
    assert concurrent_trials([trial] * 9, machine(2)) == 2
    assert concurrent_trials([trial] * 2, machine(64)) == 2
    assert concurrent_trials([trial] * 9, machine(64, 8)) == 8
    with pytest.raises(PlacementError):
        concurrent_trials([trial], machine(0.5))


def test_sampled_settings_name_their_directory() -> None:
    trial = {"folder": "runs/a/seed-000", "experiment": ""}
    assert trial_folder({"trial": trial}) == "runs/a/seed-000"
    names = {trial_folder({"trial": trial, "sampled": {"b": x}}) for x in (0.1, 0.2, 0.1)}
    assert len(names) == 2 and all(name.startswith("runs/sampled/") for name in names)


@pytest.mark.engines
def test_a_study_killed_and_resumed_has_the_table_of_an_undisturbed_one(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    # rules score: no reward model is fitted
    keys = [*SMALL, "reward.terms={well_formed: 1.0}"]
    path.write_text(STUDY.format(keys=", ".join(key.replace("=", ": ", 1) for key in keys)))
    output = finish(command(tmp_path, str(path), "--study-dir", "whole"), 1)
    assert "1 of 2 trials failed" in output and "lower training.learning_rate" in output
    failed = json.loads((tmp_path / "whole/failed.json").read_text())
    assert list(failed) == ["runs/broken/seed-000"]
    assert (tmp_path / "whole/logs/ray/raylet.out").exists()

    process = command(tmp_path, str(path), "--study-dir", "killed")
    deadline = time.monotonic() + 300
    while not (tmp_path / "killed/runs/performative/seed-000/rounds/001/completions").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    output = finish(command(tmp_path, "--resume", "killed"), 1)
    assert results.read(tmp_path / "killed") == results.read(tmp_path / "whole")
    psutil.wait_procs(children, timeout=30)
    assert [p.name() for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
