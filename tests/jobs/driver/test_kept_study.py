"""What a study's folder keeps, so that a study that is resumed is the one that was begun."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from jobs import cli
from jobs.configs import CONFIGS
from jobs.driver import study as sweep
from jobs.driver import study_identity
from scpl_ray.config import loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.report import data
from scpl_ray.storage import consent
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies import results, study
from tests.support import own_code
from tests.support.finished_runs import finished

STUDY = "name: s\nmode: analytic\nbase: base.yaml\nseeds: 2\narms: {a: {}, b: {feedback.rule: static}}\n"


def scpl(*words: str) -> str:
    result = CliRunner().invoke(cli.app, list(words))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("seed: 3\nloop: {rounds: 2}\n")
    Path("s.yaml").write_text(STUDY)
    scpl("sweep", "s.yaml", "--study-dir", "s")
    return tmp_path / "s"


def test_a_base_that_is_edited_changes_no_study_that_was_begun_from_it(begun: Path) -> None:
    Path("base.yaml").write_text("seed: 5\nloop: {rounds: 4}\n")
    scpl("sweep", "--resume", "s", "seeds=3")
    found = results.read(begun)
    assert set(found["round"].to_pylist()) == {0, 1, 2}
    assert set(found["seed"].to_pylist()) == {3, 4, 5}, "the run's seed, as the documentation says"


def test_a_study_needs_no_base_any_more_once_it_was_begun(begun: Path) -> None:
    Path("base.yaml").unlink()
    assert "results are there" in scpl("status", "s")
    scpl("sweep", "--resume", "s")
    (part,) = data.load([begun], CONFIGS)
    assert part.gaps == () and part.notes == ()
    assert {label: one.loop.rounds for label, one in part.experiments.items()} == {"a": 2, "b": 2}
    # what was kept begins the same study again
    scpl("sweep", "s/study.yaml", "--study-dir", "again")
    assert results.read(Path("again")).equals(results.read(begun))


def test_a_study_may_extend_one_that_was_begun_and_name_another_base(begun: Path) -> None:
    Path("own.yaml").write_text("loop: {rounds: 1}\n")
    Path("t.yaml").write_text("extends: s/study.yaml\nbase: own.yaml\n")
    plan = study.load(Path("t.yaml"), CONFIGS)
    assert study.base_values(plan, CONFIGS) == {"loop": {"rounds": 1}}


OWN = "name: s\nmode: analytic\nseeds: 2\nset: {loop.rounds: 1, feedback.function: 'hooks.py:crowding'}\n"


def refused(*words: str) -> str:
    result = CliRunner().invoke(cli.app, list(words))
    assert result.exit_code == 2, (result.output, result.exception)
    return result.output


def test_a_study_that_names_code_goes_on_where_its_folder_was_moved_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_code.write(tmp_path / "mine"))
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    Path("s.yaml").write_text(OWN)
    scpl("sweep", "s.yaml", "--study-dir", "s")
    Path("s").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    scpl("sweep", "--resume", "moved", "seeds=3")
    # who received it was never asked
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "another user's"))
    assert "was not begun here, and its config names code" in refused("sweep", "--resume", "moved")
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    # neither an id of nobody's, nor one that cannot be read, nor the place of a study that was begun here is enough
    Path("moved").rename("mine/s")
    for text in (json.dumps({"id": "another"}), "[]", "{"):
        Path("mine/s", study_identity.FILE).write_text(text)
        assert "was not begun here" in refused("sweep", "--resume", "mine/s")
    Path("mine/s", study_identity.FILE).unlink()
    assert "was not begun here" in refused("sweep", "--resume", "mine/s")
    # a study that an earlier version began is known by its place
    plan = study.load(Path("mine/s/study.yaml"), CONFIGS)
    consent.give(f"study {tmp_path / 'mine/s'}", study.trials(plan, CONFIGS)[0].experiment)
    scpl("sweep", "--resume", "mine/s")
    own_code.forget("hooks", "helpers")


def test_a_folder_left_by_a_study_that_died_before_it_began_is_used(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    study_identity.new(tmp_path / "s")
    sweep.create(tmp_path / "s", study.Study(name="s", mode="analytic", seeds=2))
    assert study_identity.of(tmp_path / "s") == study_identity.of(tmp_path / "s")
    with pytest.raises(StoreError, match="not empty"):
        sweep.create(tmp_path / "s", study.Study(name="s", mode="analytic", seeds=2))


def test_finished_trials_are_not_mixed_with_others_of_an_edited_study(tmp_path: Path) -> None:
    plan = study.Study(name="s", seeds=1, set={"loop.rounds": 2})
    sweep.create(tmp_path / "s", plan)
    (trial,) = study.trials(plan, CONFIGS)
    finished(tmp_path / "s" / trial.folder, trial.experiment)
    file = tmp_path / "s" / study.STUDY_FILE
    assert sweep.open_study(tmp_path / "s", {"seeds": 2}).seeds == 2
    # how its work is done may be another
    file.write_text(study.dump(plan.model_copy(update={"set": {"loop.rounds": 2, "training.workers": 2}})))
    assert sweep.open_study(tmp_path / "s", {"seeds": 2}).seeds == 2
    # where files lie may be another place
    file.write_text(study.dump(plan.model_copy(update={"set": {"loop.rounds": 2, "task.data": "moved.jsonl"}})))
    assert sweep.open_study(tmp_path / "s", {"seeds": 2}).seeds == 2
    file.write_text(study.dump(plan.model_copy(update={"set": {"loop.rounds": 2, "reward.terms": {"finished": 1.0}}})))
    with pytest.raises(StoreError, match=r"reward.terms.model = 1.0, now null; reward.terms.finished = null, now 1.0"):
        sweep.open_study(tmp_path / "s", {"seeds": 2})
    file.write_text(study.dump(plan.model_copy(update={"set": {"loop.rounds": 3, "selection.beta": 2.0}})))
    with pytest.raises(StoreError, match=r"seed-000.*loop.rounds = 2, now 3; selection.beta = 0.5, now 2.0"):
        sweep.open_study(tmp_path / "s", {"seeds": 2})


def test_only_seeds_are_added_and_none_to_a_search(tmp_path: Path) -> None:
    text = (
        "name: s\nmode: search\nsearch: {metric: quality_mean}\naxes: {feedback.beta: [1.0, 2.0]}\nbase:\n"
        "  loop: {rounds: 2}\n"
    )
    (tmp_path / "s.yaml").write_text(text)
    plan = study.load(tmp_path / "s.yaml", CONFIGS)
    assert loading.overlay(study.base_values(plan, CONFIGS), {}) == {"loop": {"rounds": 2}}
    sweep.create(tmp_path / "s", plan)
    with pytest.raises(ConfigError, match=r"a search has no seeds.*search.trials"):
        sweep.open_study(tmp_path / "s", {"seeds": 20})
    with pytest.raises(ConfigError, match=r"a search has no seeds.*search.trials"):
        study.load(tmp_path / "s.yaml", CONFIGS, keys={"seeds": 20})


def test_a_dry_run_counts_the_settings_of_a_search(tmp_path: Path) -> None:
    text = "name: s\nmode: search\nset: {loop.rounds: 2}\naxes: {feedback.beta: [1.0, 2.0]}\n"
    (tmp_path / "s.yaml").write_text(f"{text}search: {{metric: quality_mean, trials: 7}}\n")
    plan = study.load(tmp_path / "s.yaml", CONFIGS)
    console = Console(width=200, record=True, file=io.StringIO())
    sweep.print_plan(console, plan, study.trials(plan, CONFIGS), None)
    said = " ".join(console.export_text().split())
    assert "study s: search, 7 settings" in said and "at most 7 trials, 14 rounds" in said and "seeds" not in said
