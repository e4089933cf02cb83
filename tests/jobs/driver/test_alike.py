"""Trials that are added to a study read and start from what those that were begun earlier did."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

from jobs.configs import CONFIGS
from jobs.driver import alike, inputs, run, tuning
from jobs.driver import own_code as driver
from jobs.driver import study as sweep
from jobs.driver.trial import open_or_create
from scpl_ray.config import Experiment
from scpl_ray.storage import upgrades
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import sha256
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.studies import study
from scpl_ray.studies.study import Study
from tests.support import fakes, own_code
from tests.support.configs import defaults
from tests.support.finished_runs import begun
from tests.support.loops import Silent


class FittedAnew:
    """A judge's card, of which only the files of the judge are asked."""

    def __init__(self, digest: str) -> None:
        self.fitted_files = {"judge.safetensors": digest}


def task_with(digest: str) -> fakes.FakeTask:
    task = fakes.FakeTask(("north", "south"))
    task.judge_card = FittedAnew(digest)
    return task


def of_data(tmp_path: Path) -> tuple[Path, Study, Path]:
    """A study on a file of data, of whose three trials two were begun; its folder and the file."""
    data = tmp_path / "d.jsonl"
    data.write_text("{}\n")
    plan = Study(name="s", seeds=3, set={"loop.rounds": 2, "task.data": str(data)})
    sweep.create(tmp_path / "s", plan)
    for trial in study.trials(plan, CONFIGS)[:2]:
        begun(tmp_path / "s" / trial.folder, trial.experiment).close()
    return tmp_path / "s", plan, data


def test_what_the_analytic_mode_assumes_keeps_no_run_out_of_its_study() -> None:
    now = defaults([])
    assert alike.other_keys(defaults(["analytic.own_kind_weight=0.3333333333333333"]), now) == []
    assert alike.other_keys(defaults(["selection.beta=2.0", "analytic.prior_rows=5"]), now) == ["selection.beta"]


def test_data_that_changed_since_trials_were_begun_are_refused(tmp_path: Path) -> None:
    folder, plan, data = of_data(tmp_path)
    assert sweep.open_study(folder) == plan
    assert sweep.open_study(folder, {"seeds": 5}).seeds == 5
    data.write_text("{}\n{}\n")
    for keys in (None, {"seeds": 5}):
        with pytest.raises(
            StoreError, match=r"task.data = .*not what this trial began with \(SHA-256 differs\)"
        ) as told:
            sweep.open_study(folder, keys)
    assert "seed-000" in str(told.value) and "study.yaml where it lies now, or begin a new study" in str(told.value)


def test_data_may_lie_elsewhere_if_they_are_the_same(tmp_path: Path) -> None:
    folder, plan, data = of_data(tmp_path)
    data.rename(tmp_path / "moved.jsonl")
    moved = plan.model_copy(update={"set": {"loop.rounds": 2, "task.data": str(tmp_path / "moved.jsonl")}})
    (folder / study.STUDY_FILE).write_text(study.dump(moved))
    assert sweep.open_study(folder) == moved
    (tmp_path / "moved.jsonl").write_text("others\n")
    with pytest.raises(StoreError, match="SHA-256 differs"):
        sweep.open_study(folder)


def test_every_file_is_hashed_once_however_many_trials_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, plan, data = of_data(tmp_path)
    hashed = []
    monkeypatch.setattr(alike, "sha256", lambda path: hashed.append(path) or sha256(path))
    alike.check_inputs(folder, plan)
    assert hashed == [data]


def test_the_trials_of_a_search_are_compared_with_what_their_own_configs_name(tmp_path: Path) -> None:
    data = tmp_path / "d.jsonl"
    data.write_text("{}\n")
    text = "name: s\nmode: search\nsearch: {metric: quality_mean}\naxes: {feedback.beta: [1.0, 2.0]}\n"
    (tmp_path / "s.yaml").write_text(f"{text}set: {{loop.rounds: 2, task.data: {data}}}\n")
    plan = study.load(tmp_path / "s.yaml", CONFIGS)
    sweep.create(tmp_path / "s", plan)
    experiment = study.trials(plan, CONFIGS)[0].experiment
    begun(tmp_path / "s" / study.SAMPLED / "abc", experiment).close()
    assert sweep.open_study(tmp_path / "s") == plan
    data.write_text("others\n")
    with pytest.raises(StoreError, match=r"abc: task.data = .*SHA-256 differs"):
        sweep.open_study(tmp_path / "s")


def started(root: Path, experiment: Experiment, weights: dict[str, str], judge: dict[str, str]) -> None:
    """A trial that has noted its base model, and its judge unless an earlier version began it."""
    store = Store.create(root, experiment, {})
    with store.phase(0, "base") as phase:
        phase.write_json("base", weights)
        phase.write_json(inputs.FILE, {})
        if judge:
            phase.write_json(inputs.JUDGE, judge)
    store.close()


def test_no_trial_starts_from_another_model_than_those_that_were_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Study(name="s", seeds=2, set={"loop.rounds": 2}, arms={"a": {}, "b": {"feedback.rule": "static"}})
    trials, base = study.trials(plan, CONFIGS), tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"first")
    started(tmp_path / "s" / trials[0].folder, trials[0].experiment, inputs.weights(base), {})
    monkeypatch.setattr(tuning, "base_model", lambda *_: base)

    def prepared() -> int:
        known = alike.Beginnings(alike.begun(tmp_path / "s", plan))
        return len(tuning.prepare(trials[1:], Console(quiet=True), known))

    assert prepared() == 3
    (base / "model.safetensors").write_bytes(b"another")
    with pytest.raises(
        StoreError, match=r"a/seed-000: began with the weights .*trials of one study start from the same"
    ):
        prepared()


def test_no_trial_starts_with_another_judge_and_other_models_are_no_matter(tmp_path: Path) -> None:
    experiment = defaults([])
    started(tmp_path / "one", experiment, {}, {"judge.safetensors": "a"})
    started(tmp_path / "two", defaults(["seed=1"]), {}, {})
    pairs = [(Store.open(tmp_path / name)[0], defaults([f"seed={s}"])) for s, name in enumerate(("one", "two"))]
    known = alike.Beginnings(pairs)
    known.check(defaults(["seed=9", "feedback.rule=static"]), task_with("a"), tmp_path)
    with pytest.raises(
        StoreError, match=r"one: began with the judge .*'a'.* is .*'b'.* now; .*same judge; it was fitted anew"
    ):
        known.check(defaults(["seed=9"]), task_with("b"), tmp_path)
    known.check(defaults(["seed=9", "model.base_seed=5"]), task_with("b"), tmp_path)
    for store, _ in pairs:
        store.close()


def test_a_run_notes_its_judge_with_its_base_model_and_refuses_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, experiment = fakes.make_base(tmp_path / "base", 2), defaults([])
    monkeypatch.setattr(run, "base_model", lambda *_: base)
    store = Store.create(tmp_path / "run", experiment, {})
    assert run._base(store, experiment, task_with("a"), Silent(), None) == base
    assert inputs.began_with(store, inputs.JUDGE) == {"judge.safetensors": "a"}
    assert run._base(store, experiment, task_with("a"), Silent(), None) == base
    with pytest.raises(StoreError, match="began with the judge"):
        run._base(store, experiment, task_with("b"), Silent(), None)
    store.close()


def test_a_run_goes_on_with_the_judge_that_it_began_with(tmp_path: Path) -> None:
    for name, judge in (("noted", {"judge.safetensors": "a"}), ("by an earlier version", {})):
        started(tmp_path / name, defaults([]), {}, judge)
        store, _ = Store.open(tmp_path / name)
        inputs.check_judge(store, task_with("a"))
        if judge:
            with pytest.raises(StoreError, match=r"noted: began with the judge .*'a'.*SCPL_CACHE"):
                inputs.check_judge(store, task_with("b"))
            with pytest.raises(StoreError, match="began with the judge"):
                inputs.check_judge(store, fakes.FakeTask(("north", "south")))
        else:
            inputs.check_judge(store, task_with("b"))
        store.close()


def test_own_code_that_changed_since_trials_were_begun_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for hooks, which are told of rounds and change none."""
    mine = own_code.write(tmp_path / "mine")
    (mine / "told.py").write_text("def after(done):\n    return None\n")
    monkeypatch.chdir(mine)
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    code = {"loop.on_round": f"{mine}/told.py:after"}
    arms = {"a": {"reward.function": f"{mine}/hooks.py:brevity"}, "b": {}}
    plan = Study(name="s", seeds=1, set={"loop.rounds": 2, **code}, arms=arms)
    sweep.create(tmp_path / "s", plan)
    for trial in study.trials(plan, CONFIGS):
        store = begun(tmp_path / "s" / trial.folder, trial.experiment)
        driver.keep(store, trial.experiment, pytest.fail)
        store.close()
    assert sweep.open_study(tmp_path / "s") == plan
    (mine / "told.py").write_text("def after(done):\n    return done\n")
    assert sweep.open_study(tmp_path / "s", {"seeds": 2}).seeds == 2
    (mine / "helpers.py").write_text("LONG = 30\n")
    with pytest.raises(StoreError, match=r"runs/a.*: helpers.py: not what this trial was made with .*first one back"):
        sweep.open_study(tmp_path / "s")
    (mine / "helpers.py").write_text(own_code.HELPERS)
    assert sweep.open_study(tmp_path / "s") == plan
    own_code.forget("hooks", "helpers", "told")


def test_a_trial_in_flight_goes_on_where_its_data_moved_and_with_what_may_change(tmp_path: Path) -> None:
    data, moved = tmp_path / "d.jsonl", tmp_path / "moved.jsonl"
    data.write_text("{}\n")
    keys = ["task.name=maths", "generation.engine=transformers", "loop.rounds=2"]
    began = defaults([*keys, f"task.data={data}", "generation.replicas=2"])
    begun(tmp_path / "t", began).close()
    data.rename(moved)
    now = defaults([*keys, f"task.data={moved}", "generation.replicas=1", "training.workers=1"])
    open_or_create(tmp_path / "t", now, {}).close()
    assert Reader.open(tmp_path / "t")[1] == now
    for other, said in (
        (["loop.rounds=3"], "loop.rounds = 2, now 3; undo"),
        (["selection.beta=2.0", "reward.replicas=1"], "of another config: selection.beta = 0.5, now 2.0; undo"),
        (["reward.model=elsewhere"], "reward.model = elsewhere: not known to be what the run began with"),
    ):
        with pytest.raises(StoreError, match=said):
            open_or_create(tmp_path / "t", defaults([*keys, f"task.data={moved}", *other]), {})
    moved.write_text("others\n")
    with pytest.raises(StoreError, match=r"task.data = .*not what the run began with \(SHA-256 differs\)"):
        open_or_create(tmp_path / "t", defaults([*keys, f"task.data={moved}"]), {})
    assert Reader.open(tmp_path / "t")[1] == now


def test_a_study_says_which_packages_are_others_than_those_of_its_trials(tmp_path: Path) -> None:
    folder, plan, _ = of_data(tmp_path)
    assert alike.upgraded(folder, plan, {"ray": "2.2"}) == [], "these trials noted no versions"
    for trial, version in zip(study.trials(plan, CONFIGS), ("2.1", "2.2"), strict=False):
        upgrades.note(Store.open(folder / trial.folder)[0], 1, {"ray": version})
    assert alike.upgraded(folder, plan, {"ray": "2.1"}) == [
        "package versions changed since trials of this study ran: ray 2.2 (now 2.1); the page shows both"
    ]
