"""The user's own code in configs, in a run that is resumed, in a study, in the analytic mode, and in consent."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.driver import experiments, inputs, resuming
from jobs.driver import own_code as driver
from scpl_ray.config import Experiment, Feedback, Selection, code, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.feedback.population import PopulationSimulator
from scpl_ray.feedback.rules import advance, try_custom
from scpl_ray.own import functions
from scpl_ray.own.references import NotFoundError
from scpl_ray.protocols import Engines
from scpl_ray.records import Query
from scpl_ray.selection.candidates import Candidates
from scpl_ray.selection.strategies import select
from scpl_ray.storage import consent
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.studies import study
from tests.support import fakes, finished_runs, own_code
from tests.support.loops import SMALL, Silent
from tests.support.own_code import scpl


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(own_code.write(tmp_path / "mine"))
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield tmp_path / "mine"
    own_code.forget("hooks", "helpers", "pets", "more")


def test_a_function_alone_is_used_and_another_rule_beside_it_wins() -> None:
    e = experiments.load(None, own_code.KEYS)
    assert (e.feedback.rule, e.selection.strategy, e.reward.terms) == ("custom", "custom", {"function": 1.0})
    assert code.references(e) == own_code.NAMES
    assert loading.loads(loading.dump(e), "again") == e
    control = experiments.load(None, [*own_code.KEYS, "feedback.rule=static", "selection.strategy=none"])
    assert set(code.references(control)) == {"reward.function", "training.callback", "loop.on_round"}
    assert code.references(Experiment()) == {}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["selection.strategy=custom"], "selection.function = null; name it"),
        (["reward.terms={function: 1.0}"], "reward.function = null; name it"),
        (["feedback.rule=custom"], "feedback.function: null"),
        (["selection.function=hooks.py:shrt"], "hooks has no shrt; it has crowding, short"),
        (["training.callback=nowhere.py:f"], "nowhere.py is not there"),
        (["loop.on_round=after"], "is not of the form"),
        (["task.name=hooks.py:nothing"], "hooks has no nothing"),
        (["task.name=pets"], "unknown; one of language, maths, news, preference, or your own, FILE.py:build"),
        (["task.name=nws"], "the nearest is news"),
        (["selection.strategy=quota"], "the nearest is quotas"),
        (["feedback.rule=sofmax"], "the nearest is softmax"),
        (["generation.engine=vlm"], "the nearest is vllm"),
        (["preset=retrainin"], "the nearest is retraining"),
    ],
)
def test_a_wrong_name_is_found_before_anything_starts(keys: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        experiments.load(None, keys)
    assert said in str(error.value)


def test_all_wrong_names_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match="3 problems"):
        experiments.load(None, ["selection.function=x:y", "loop.on_round=x:y", "training.callback=x:y"])


def test_the_plan_names_the_code_that_will_run_and_that_will_not() -> None:
    said = scpl("run", "--dry-run", *own_code.KEYS, "feedback.rule=static")
    for key, name in own_code.NAMES.items():
        if key == "feedback.function":
            assert f"code of yours that will not run: {key}, because feedback.rule = 'static'" in said
        else:
            assert f"code of yours that will run: {key} = {name}" in said
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1.0]", "returned 1 numbers for 2 texts"),
        ("return [float('nan')] * len(texts)", "rewards are finite numbers"),
        ("return ['x'] * len(texts)", "could not convert string to float"),
        ("return None", "reward.function: 'more.py:f' failed: TypeError"),
        ("return queries[0].no_such", "failed: AttributeError"),
    ],
)
def test_a_reward_function_is_tried_before_the_run(here: Path, body: str, said: str) -> None:
    (here / "more.py").write_text(f"def f(queries, texts):\n    {body}\n")
    assert said in scpl("run", "--dry-run", "reward.function=more.py:f", code=2)


def test_a_strategy_gets_the_texts_and_returns_positions(here: Path) -> None:
    texts = ["a long answer", "short", "the longest answer of all", "mid one"]
    rows = Candidates([f"s{i}" for i in range(4)], np.arange(4), np.arange(4) % 2, np.zeros(4), 2, texts=texts)
    common = {"round_": 1, "seed": 0, "initial_shares": [0.5, 0.5]}
    kept = select(rows, Selection(function="hooks.py:short"), **common)
    assert kept.indices.tolist() == [1, 3] and kept.strategy == "custom"
    control = select(rows, Selection(function="hooks.py:short", matched_control=True), **common)
    assert len(control.indices) == 2
    for body, said in (
        ("return []", "at least one"),
        ("return [0, 0]", "1 of them different"),
        ("return [4]", "lies in 0 to 3"),
        ("return [-1]", "lies in 0 to 3"),
        ("return [0.5]", "whole numbers from 0 to 3"),
        ("return None", "whole numbers"),
        ("return 1 / 0", "ZeroDivisionError"),
    ):
        (here / "more.py").write_text(f"def f(candidates, *, selection, chance):\n    {body}\n")
        with pytest.raises(ValueError, match=r"selection.function: ") as error:
            select(rows, Selection(function="more.py:f"), **common)
        assert said in str(error.value), body


def test_what_a_strategy_does_to_its_arguments_stays_its_own(here: Path) -> None:
    rows = Candidates(["a", "b"], np.arange(2), np.arange(2), np.array([0.0, 1.0]), 2, texts=["x", "y"])
    (here / "more.py").write_text(
        "def f(candidates, *, selection, chance):\n"
        "    candidates.rewards[:] = 9\n    candidates.groups[:] = 0\n    candidates.texts[0] = 'z'\n    return [0]\n"
    )
    kept = select(rows, Selection(function="more.py:f"), round_=1, seed=0, initial_shares=[0.5, 0.5])
    assert rows.rewards.tolist() == [0.0, 1.0] and rows.groups.tolist() == [0, 1] and rows.texts == ["x", "y"]
    assert kept.shares_before.tolist() == [0.5, 0.5]


def test_what_a_rule_raises_in_a_later_round_is_told_with_its_key_and_line(here: Path) -> None:
    (here / "more.py").write_text("def f(shares, measured, *, round_, **_):\n    return {1: shares}[round_]\n")
    feedback = Feedback(rule="custom", function="more.py:f")
    groups = Experiment().groups
    try_custom(feedback, groups)
    with pytest.raises(ValueError, match=r"feedback.function: 'more.py:f' failed: KeyError: 4 \(.*more.py:2\)"):
        advance(groups.shares, [0.5, 0.5], feedback, initial_shares=groups.shares, round_=4, seed=0)


def test_rewards_are_one_number_per_text() -> None:
    queries = [Query("q", "north", "to"), Query("q", "north", "to")]
    assert functions.rewards("hooks.py:brevity", queries, ["a b", "a"]) == [0.9, 0.95]


def test_a_file_with_the_name_of_an_installed_module_beside_the_code_is_refused(here: Path) -> None:
    for name in ("queue.py", "datasets/__init__.py"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("")
        said = scpl("run", "--dry-run", "reward.function=hooks.py:brevity", code=2)
        assert f"{here}/{name.partition('/')[0]}: " in said and "put your code into a folder of its own" in said
        (here / name).unlink()
    (here / "tests").mkdir()
    (here / "tests/__init__.py").write_text("")
    scpl("run", "--dry-run", "reward.function=hooks.py:brevity")


def test_paths_of_code_are_absolute_in_a_run_and_in_a_study(here: Path) -> None:
    kept = inputs.anchored(experiments.load(None, own_code.KEYS))
    assert kept.feedback.function == f"{here}/hooks.py:crowding" and kept.selection.function == "hooks:short"
    arms = "arms: {a: {}, b: {feedback: {function: 'hooks.py:crowding'}}}\n"
    (here / "s.yaml").write_text(f"name: s\nset: {{reward.function: 'hooks.py:brevity'}}\n{arms}")
    anchored = inputs.anchored_study(study.load(here / "s.yaml", {}), {})
    assert anchored.set == {"reward.function": f"{here}/hooks.py:brevity"}
    assert anchored.arms["b"] == {"feedback": {"function": f"{here}/hooks.py:crowding"}}


BESIDE = [
    *("feedback.function=hooks.py:crowding", "feedback.rule=static"),
    *("selection.function=hooks.py:short", "selection.strategy=top"),
    *("reward.function=hooks.py:brevity", "reward.terms={function: 1.0, model: 0.5}"),
]
"""Functions of one's own, and what is used beside or instead of them."""


def test_absolute_paths_change_nothing_else(here: Path) -> None:
    given = experiments.load(None, BESIDE)
    kept = inputs.anchored(given)
    assert kept.reward.function == f"{here}/hooks.py:brevity"
    assert (kept.feedback.rule, kept.selection.strategy) == ("static", "top")
    assert kept.reward.terms == given.reward.terms == {"function": 1.0, "model": 0.5}
    (here / "base.yaml").write_text(loading.dump(given))
    (here / "s.yaml").write_text(
        "name: s\nbase: base.yaml\narms: {a: {}, b: {feedback.function: 'hooks.py:crowding'}}\n"
    )
    anchored = inputs.anchored_study(study.load(here / "s.yaml", {}), {})
    for trial in study.trials(anchored, {}, experiments.build):
        assert (trial.experiment.selection.strategy, trial.experiment.reward.terms) == ("top", given.reward.terms)
        # an arm that names a function means it
        assert trial.experiment.feedback.rule == ("static" if trial.label == "a" else "custom")


def test_a_run_that_is_told_again_where_its_code_lies_stays_what_it_is(here: Path) -> None:
    experiment = inputs.anchored(experiments.load(None, [*BESIDE, "generation.engine=transformers"]))
    finished_runs.begun(here / "run", experiment).close()
    store, after, _ = resuming.reopen("run", ["reward.function=hooks.py:brevity", "loop.rounds=9"])
    store.close()
    assert after.reward.terms == experiment.reward.terms and after.loop.rounds == 9
    assert after.model_copy(update={"loop": experiment.loop}) == experiment


def test_the_analytic_mode_takes_a_rule_and_says_what_has_no_effect(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = ["feedback.function=hooks.py:crowding", "loop.rounds=2", "analytic.seeds=4"]
    assert "rounds simulated" in scpl("simulate", *rule)
    said = scpl("simulate", *rule, "reward.function=hooks.py:brevity", "loop.on_round=hooks:after")
    assert "without effect in the analytic mode: reward.function=hooks.py:brevity, loop.on_round=hooks:after" in said
    refused = scpl("simulate", "selection.function=hooks.py:short", code=2)
    assert "'custom' is not modelled in the analytic mode" in refused
    (here / "s.yaml").write_text(
        "name: s\nmode: analytic\nseeds: 2\nset: {loop.rounds: 1, feedback.function: 'hooks.py:crowding'}\n"
        "arms: {mine: {}, static: {feedback.rule: static}}\n"
    )
    assert "2 arms x 2 seeds simulated" in scpl("sweep", "s.yaml", "--study-dir", "s")
    monkeypatch.chdir(here.parent)
    assert "2 arms x 2 seeds simulated" in scpl("sweep", "--resume", str(here / "s"))
    monkeypatch.chdir(here)
    scpl("report", "s")


def begun(run: Path, *keys: str) -> Store:
    experiment = inputs.anchored(experiments.load(None, [*own_code.KEYS, *keys]))
    store = Store.create(run, experiment, {})
    driver.keep(store, experiment, lambda text: pytest.fail(text))
    return store


def test_sources_are_kept_and_a_change_is_named_when_the_run_is_resumed(tmp_path: Path, here: Path) -> None:
    begun(tmp_path / "run").close()
    ((entry),) = Reader(tmp_path / "run").code
    assert entry["from_round"] == 0 and set(entry["files"]) == {"hooks.py", "helpers.py"}
    assert entry["code"]["reward.function"] == f"{here}/hooks.py:brevity"
    store, experiment = Store.open(tmp_path / "run")
    said: list[str] = []
    driver.keep(store, experiment, said.append)
    assert said == [] and len(store.code) == 1
    (here / "helpers.py").write_text("LONG = 40\n")
    driver.keep(store, experiment, said.append)
    assert len(said) == 1 and "changed since this run began: helpers.py" in said[0] and "from round 0 on" in said[0]
    assert [e["files"]["helpers.py"]["text"] for e in store.code] == [own_code.HELPERS, "LONG = 40\n"]
    store.close()
    (tmp_path / "run" / "code.json").write_text('[{"files": 3}]')
    with pytest.raises(Exception, match=r"code.json: cannot be read"):
        _ = Reader(tmp_path / "run").code


def test_a_run_that_was_begun_here_finds_its_modules_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.driver import run as loop

    seen: list[Experiment] = []
    monkeypatch.setattr(
        loop, "supervise", lambda store, experiment, task, *, verbose: seen.append(experiment) or store.close() or 0
    )
    begun(tmp_path / "run").close()
    own_code.forget("hooks", "helpers")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    scpl("run", "--resume", str(tmp_path / "run"))
    assert seen and sys.modules["hooks"].__file__ == str(tmp_path / "mine" / "hooks.py")


def test_a_received_run_asks_for_every_key_that_runs_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    from jobs.driver import run as loop

    begun(tmp_path / "run").close()
    own_code.forget("hooks", "helpers")
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "another user's"))
    for command in (["run", "--resume"], ["simulate", "--from"]):
        refused = scpl(*command, str(tmp_path / "run"), code=2)
        assert "was not begun here, and its config names code that would run" in refused
        for key in own_code.NAMES:
            assert f"{key} = " in refused
    CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    scpl("status", str(tmp_path / "run"))
    assert "hooks" not in sys.modules, "readers import nothing that a config names"
    # the user says the keys; the file may lie elsewhere here
    seen = []
    monkeypatch.setattr(loop, "supervise", lambda store, *_, verbose: seen.append(store.close()) or 0)
    moved = own_code.write(tmp_path / "moved")
    monkeypatch.chdir(moved)
    stated = [f"{key}={name}" for key, name in own_code.NAMES.items()]
    wrong = [*stated[:-1], "loop.on_round=hooks:tell"]
    assert "loop.on_round cannot change in a run" in scpl("run", "--resume", str(tmp_path / "run"), *wrong, code=2)
    scpl("run", "--resume", str(tmp_path / "run"), *stated)
    assert seen and sys.modules["hooks"].__file__ == str(moved / "hooks.py")
    assert Reader.open(tmp_path / "run")[1].feedback.function == f"{moved}/hooks.py:crowding"


def test_consent_is_for_this_run_and_this_code(tmp_path: Path) -> None:
    e = experiments.load(None, own_code.KEYS)
    consent.give("a", e)
    assert consent.folder("a", e) == Path.cwd() and consent.folder("b", e) is None
    assert consent.folder("a", Experiment()) is None and consent.folder(None, e) is None
    assert json.dumps(consent.code_of(e)) == json.dumps(own_code.NAMES)


def test_two_files_of_one_name_in_one_study_are_refused(tmp_path: Path, here: Path) -> None:
    other = own_code.write(tmp_path / "b")
    both = [experiments.load(None, [f"reward.function={folder}/hooks.py:brevity"]) for folder in (here, other)]
    with pytest.raises(NotFoundError, match="two modules of one name"):
        driver.luggage(both)


def test_hooks_are_called_after_every_round_and_for_rounds_on_disk(
    tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fakes in the place of engines; ``tests/jobs/test_own_code_run.py`` has the real ones."""
    from jobs.driver import run as loop

    class Fleet:
        def engines(self, experiment: Experiment, task: fakes.FakeTask) -> Engines:
            population = PopulationSimulator(experiment, task)
            return Engines(
                fakes.FakeGenerator(experiment.seed), fakes.FakeScorer(task), fakes.FakeTrainer(), population
            )

        def queues(self) -> dict[str, int]:
            return {}

    base = fakes.make_base(tmp_path / "base", 2)
    monkeypatch.setattr(loop, "base_model", lambda *_: base)
    monkeypatch.setattr(loop, "encoder", lambda *_: fakes.encode)
    monkeypatch.setattr(loop, "WatchedProgress", lambda progress, *_: progress)
    experiment = experiments.load(None, [*SMALL, "loop.rounds=1", "loop.on_round=hooks.py:after"])
    store = Store.create(tmp_path / "run", experiment, {})
    task, told = fakes.FakeTask(experiment.groups.names), []
    list(loop.rounds(store, experiment, task, Fleet(), Silent(), callbacks=[told.append]))
    assert [(done.round, done.from_disk, done.run_dir) for done in told] == [(t, False, store.root) for t in (0, 1)]
    assert told[1].value("share", "north") == told[1].shares["north"]
    assert np.isnan(told[1].value("nothing"))
    (here / "hooks.py").write_text((here / "hooks.py").read_text() + "# another\n")
    more = experiment.model_copy(update={"loop": experiment.loop.model_copy(update={"rounds": 2})})
    list(loop.rounds(store, more, task, Fleet(), Silent(), callbacks=[told.append]))
    assert [done.from_disk for done in told[2:]] == [True, True, False]
    assert len((here / "rounds.txt").read_text().splitlines()) == 5
    assert [entry["from_round"] for entry in store.code] == [0, 2]
    assert store.base() == base
    (here / "hooks.py").write_text("def after(done):\n    raise KeyError('mine')\n")
    with pytest.raises(ValueError, match=r"loop.on_round: 'hooks.py:after' failed: KeyError: 'mine' \(.*hooks.py:2\)"):
        list(loop.rounds(store, more, task, Fleet(), Silent()))
    store.close()
