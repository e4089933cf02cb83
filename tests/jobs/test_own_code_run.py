"""A user's folder outside of the checkout: a task, every hook, a run from Python, and what one looks at afterwards."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import scpl_ray as scpl
from jobs.cli import app
from tests.support import own_code

pytestmark = [pytest.mark.engines, pytest.mark.long]

SCRIPT = """
import io, json, sys
import scpl_ray as scpl

cell, shown = io.StringIO(), sys.stdout
sys.stdout = cell  # as in a notebook, whose prints go to no file descriptor
told = []
experiment = scpl.load(keys=json.loads(sys.argv[1]))
run = scpl.run(experiment, run_dir="run", callbacks=[lambda done: told.append((done.round, done.from_disk))])
again = scpl.resume("run")
sys.stdout = shown
print(json.dumps({"told": told, "cell": cell.getvalue(), "run": repr(run), "again": again.finished}))
"""
KEYS = {
    "task.name": "pets.py:build",
    **own_code.NAMES,
    "reward.terms": {"function": 1.0, "pet": 0.5},
    "loop.rounds": 1,
    "generation.engine": "transformers",
    "generation.samples_per_prompt": 2,
    "generation.max_new_tokens": 12,
    "queries.prompts_per_round": 16,
    "evaluation.prompts_per_group": 4,
    "evaluation.neutral_prompts": 8,
    "model.base_training_sentences": 400,
    "model.vocabulary": 512,
}


@pytest.fixture(scope="module")
def folder(shared: Path, shared_cache: Path) -> Path:
    """The folder with its finished run ``run``, made once, and what the script printed in ``said.json``."""
    folder = own_code.write(shared / "own code")
    with (shared / "own-code.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "said.json").exists():
            assert CliRunner().invoke(app, ["init", "--task", str(folder / "pets.py")]).exit_code == 0
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, json.dumps(KEYS)],
                cwd=folder,
                env={**os.environ, "SCPL_CACHE": str(shared_cache)},
                capture_output=True,
                text=True,
                timeout=900,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            (folder / "said.json").write_text(done.stdout)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCPL_CACHE", str(shared_cache))


def test_every_hook_was_called_and_a_cell_showed_the_rounds(folder: Path) -> None:
    said = json.loads((folder / "said.json").read_text())
    assert said["told"] == [[0, False], [1, False]] and said["again"] is True
    assert said["run"] == "Run('run': 1 of 1 rounds)"
    assert "round 1/1  shares north" in said["cell"] and "seconds per phase" in said["cell"]
    rounds = (folder / "rounds.txt").read_text().splitlines()
    assert rounds == ["0/1 ['north', 'south'] True False", "1/1 ['north', 'south'] True False"]
    steps = [line.split() for line in (folder / "steps.txt").read_text().splitlines()]
    assert steps and steps[-1][:2] == ["1", f"{len(steps)}/{len(steps)}"] and all(float(s[2]) > 0 for s in steps)
    run = scpl.Run(folder / "run")
    answers = run.completions(1)
    assert len(answers) == 32 and answers.kept.sum() == 16
    assert answers[answers.kept].text.str.len().max() <= answers[~answers.kept].text.str.len().min()
    words = answers.text.str.split().str.len()
    assert ((1 - words / 20) - answers.term_function).abs().max() < 1e-9
    assert ((answers.term_function + 0.5 * answers.term_pet) - answers.reward).abs().max() < 1e-9


def test_the_sources_are_in_the_run_and_readers_import_none_of_them(folder: Path) -> None:
    run = scpl.Run(folder / "run")
    (entry,) = run.code
    assert entry["from_round"] == 0 and set(entry["files"]) == {"helpers.py", "hooks.py", "pets.py"}
    assert entry["files"]["pets.py"]["text"] == (folder / "pets.py").read_text()
    assert entry["code"]["task.name"] == f"{folder}/pets.py:build" == run.experiment.task.name
    status = CliRunner().invoke(app, ["status", str(folder / "run")])
    assert "quickstart: finished" in status.output and "task.name = " in status.output
    report = CliRunner().invoke(app, ["report", str(folder / "run"), "--output", "page"])
    assert report.exit_code == 0 and "pets.py:build" in Path("page/report.html").read_text()
    assert not {"pets", "hooks", "helpers"} & set(sys.modules)


def test_policies_are_folders_that_peft_and_transformers_load(folder: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    run = scpl.Run(folder / "run")
    model = AutoPeftModelForCausalLM.from_pretrained(run.policy(1))
    base = AutoModelForCausalLM.from_pretrained(run.policy(0))
    assert model.get_base_model().config.vocab_size == base.config.vocab_size


def test_policies_answer_side_by_side_without_ray(folder: Path) -> None:
    asked = ["sample", str(folder / "run"), "--prompt", "A line about a cat:", "--round", "0", "--round", "1"]
    first, again = (CliRunner().invoke(app, [*asked, "--number", "2"]) for _ in range(2))
    assert first.exit_code == 0, (first.output, first.exception)
    assert "round 0 (base model)" in first.output and "round 1" in first.output and first.output == again.output
    talked = CliRunner().invoke(
        app, ["sample", str(folder / "run"), "generation.temperature=0", "--prompt", "-"], input="A cat:\n\nA dog:\n"
    )
    assert talked.exit_code == 0 and "A cat:" in talked.output and "A dog:" in talked.output
    assert not {"pets", "hooks"} & set(sys.modules)
