"""``scpl sample``, ``scpl status`` and ``scpl list`` on what is on disk, without a model."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.engines.registry import ENGINES
from jobs.cli import app
from jobs.configs import CONFIGS, STUDIES
from jobs.driver import experiments
from scpl_ray.registries import CHOICES
from scpl_ray.storage.run_directory import Store
from tests.support.finished_runs import begun, finished
from tests.support.loops import SMALL


def scpl(*words: str, code: int = 0, typed: str | None = None) -> str:
    result = CliRunner().invoke(app, list(words), input=typed)
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("runs") / "done", experiments.load(None, SMALL))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_everything_that_can_be_named_is_listed_with_its_meaning() -> None:
    said = scpl("list")
    for name in ("quickstart", *CONFIGS, *STUDIES, *ENGINES, *(n for choices in CHOICES.values() for n in choices)):
        lines = [line for line in said.splitlines() if line.split()[:1] == [name]]
        assert lines and all(len(line.split()) > 1 for line in lines), name
    assert scpl("list", "rules").count("\n") == 1 + len(CHOICES["feedback.rule"])
    assert "the nearest is presets" in scpl("list", "preset", code=2)


def test_recorded_answers_stand_side_by_side(run: Path) -> None:
    said = scpl("sample", str(run))
    assert "round 0 (base model)" in said and "round 3" in said and "round 1" not in said
    assert "north: to north" in said and "neutral: to all" in said and "[" in said
    assert scpl("sample", str(run), "--round", "1", "--number", "1").count("to all") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--round", "9"], "round 9 is not there; the run has rounds 0 to 3"),
        (
            ["--prompt", "x", "loop.rounds=2"],
            "loop.rounds: cannot be changed for a sample, only generation.temp",
        ),
        (["generation.temperature=0"], "changes how a policy is asked; give --prompt too"),
        (["--seed", "0"], "--seed: changes how a policy is asked; give --prompt too"),
        (["--raw"], "--raw: changes how a policy is asked; give --prompt too"),
        (["--prompt", "x"], "does not say where its base model lies"),
    ],
)
def test_what_cannot_be_asked_is_one_message(run: Path, words: list[str], message: str) -> None:
    assert message in scpl("sample", str(run), *words, code=2)


def test_no_run_is_a_message() -> None:
    assert "not a run directory" in scpl("sample", "nowhere", code=2)
    assert "neither a run nor a study" in scpl("status", "nowhere", code=2)


def test_texts_of_others_do_nothing_to_the_terminal(run: Path) -> None:
    from jobs.sample import _safe

    assert _safe("a\x1b[31m [bold]b[/] \u202ec") == r"a⟨U+001B⟩\[31m \[bold]b\[/] ⟨U+202E⟩c".replace(r"⟩\[31m", "⟩[31m")


def test_the_state_of_a_run(run: Path, tmp_path: Path) -> None:
    said = scpl("status", str(run))
    assert "quickstart: finished" in said and "round 3 of 3; last done: round 3 feedback" in said
    assert "shares north" in said and f"scpl report {run}" in said
    store = begun(tmp_path / "busy", experiments.load(None, SMALL))
    assert "quickstart: running: process" in scpl("status", "busy")
    assert "round 0 of 3; last done: round 0 base" in scpl("status", "busy") and store.root.is_dir()
    store.close()
    said = scpl("status", "busy")
    assert "stopped" in said and "scpl run --resume busy" in said and "next: round 0 evaluation" in said
    Store.open(tmp_path / "busy")[0].close()


def test_the_state_of_a_study(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "study.yaml").write_text("name: s\nseeds: 2\nset: {loop.rounds: 1}\narms: {a: {}, b: {}}\n")
    assert "s: stopped; 0 of 4 trials finished\n  not begun: 4 (a seed 0, ...)" in scpl("status", "s")
    experiment = experiments.load(None, [*SMALL, "loop.rounds=1"])
    (tmp_path / "s" / "runs" / "a").mkdir(parents=True)
    finished(tmp_path / "s" / "runs" / "a" / "seed-000", experiment)
    begun(tmp_path / "s" / "runs" / "a" / "seed-001", experiment).close()
    said = scpl("status", "s")
    assert "1 of 4 trials finished" in said and "stopped, round 0 of 1: 1 (a seed 1)" in said
    assert "scpl sweep --resume s" in said


def test_names_of_configs_and_studies_are_told_when_nearly_right() -> None:
    assert "the nearest is news_tiny" in scpl("run", "news_tyny", "--dry-run", code=2)
    assert "the nearest is study_drift_null" in scpl("sweep", "study_drift", "--dry-run", code=2)
    assert "the nearest is maths" in scpl("data", "check", "x.jsonl", "--task", "math", code=2)
    assert "the nearest is retraining" in scpl("run", "--dry-run", "preset=retrain", code=2)
    assert "nothing was started" in scpl("run", "quickstart", "--dry-run", "generation.engine=transformers")
