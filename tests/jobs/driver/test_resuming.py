"""`--resume`: from any folder, with data that moved, with the keys that a message names, and of what is finished."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.placement.cluster import Cluster, Node
from actors.placement.layout import ADVICE
from jobs.cli import app
from jobs.driver import advice, experiments, inputs, run
from scpl_ray.config import Experiment, code, loading
from scpl_ray.config.errors import all_keys
from scpl_ray.config.schema import MAY_CHANGE
from scpl_ray.protocols import TrainingJob, TrainingResult
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.studies import study
from scpl_ray.studies.study import Study
from scpl_ray.tasks import TASKS
from tests.support import fakes, news_data
from tests.support.finished_runs import begun, finished
from tests.support.loops import small

NEWS = [
    *("task.name=news", "groups.names=[left, right]", "model.name=tiny", "evaluation.prompts_per_group=3"),
    *("evaluation.neutral_prompts=4", "generation.engine=transformers", "generation.max_new_tokens=16"),
    *("task.max_prompt_tokens=256", "reward.terms={length: 1.0}"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Store, Experiment]]]:
    """An empty working folder that is home too; yields the runs that would have been started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SCPL_CACHE", "~/cache")
    monkeypatch.setattr(run, "local_cluster", lambda: Cluster((Node("this machine", 2, 24.0),)))
    started: list[tuple[Store, Experiment]] = []
    monkeypatch.setattr(
        run, "supervise", lambda store, experiment, task, *, verbose: started.append((store, experiment))
    )
    yield started
    for store, _ in started:
        store.close()


def scpl(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def articles(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    return news_data.write_jsonl(path, news_data.rows(words=60, seed=seed))


def test_home_and_relative_paths_mean_the_same_from_every_folder(
    tmp_path: Path, here: list[tuple[Store, Experiment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    articles(tmp_path / "données/d é.jsonl")
    for given in ("~/données/d é.jsonl", "données/d é.jsonl"):
        scpl("run", *NEWS, f"task.data={given}", "--run-dir", f"~/runs/é {len(here)}")
        store, experiment = here[-1]
        assert store.root == tmp_path / f"runs/é {len(here) - 1}"
        assert experiment.task.data == str(tmp_path / "données/d é.jsonl")
        store.close()
    assert (tmp_path / "cache").is_dir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    scpl("run", "--resume", "~/runs/é 1")
    scpl("run", "--resume", "../runs/é 0", "loop.rounds=7")
    assert here[-1][1].task.data == str(tmp_path / "données/d é.jsonl") and here[-1][1].loop.rounds == 7


def test_names_that_are_no_paths_stay(tmp_path: Path) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "model").mkdir()
    found = experiments.load(None, ["reward.model=model"])
    assert inputs.anchored(found).model.name == "tiny"
    assert inputs.anchored(found).reward.model == str(tmp_path / "model")
    assert inputs.anchored(experiments.load(None, ["reward.model=a/b"])).reward.model == "a/b"


def test_a_study_keeps_the_paths_of_its_base_too(tmp_path: Path) -> None:
    articles(tmp_path / "d.jsonl")
    (tmp_path / "other").mkdir()
    (tmp_path / "base.yaml").write_text("task: {name: news, data: d.jsonl}\nmodel: {name: tiny}\n")
    plan = Study(name="s", base="base.yaml", arms={"a": {"reward.model": "other"}, "b": {"task": {"data": "d.jsonl"}}})
    kept = inputs.anchored_study(plan, {})
    assert kept.base == {"task": {"name": "news", "data": str(tmp_path / "d.jsonl")}, "model": {"name": "tiny"}}
    assert kept.arms["a"] == {"reward.model": str(tmp_path / "other")}
    assert kept.arms["b"] == {"task": {"data": str(tmp_path / "d.jsonl")}}
    (tmp_path / "base.yaml").unlink()
    assert study.base_values(kept, {}) == kept.base


def test_data_that_moved_may_be_named_again_if_it_is_the_same(
    tmp_path: Path, here: list[tuple[Store, Experiment]]
) -> None:
    data = articles(tmp_path / "d.jsonl")
    begun(tmp_path / "r 1", experiments.load(None, [*NEWS, f"task.data={data}"])).close()
    again = f"scpl run --resume {shlex.quote('r 1')} task.data="
    data.rename(tmp_path / "moved.jsonl")
    assert again in scpl("run", "--resume", "r 1", code=2)
    scpl("run", "--resume", "r 1", "task.data=moved.jsonl")
    assert here[-1][1].task.data == str(tmp_path / "moved.jsonl")
    here[-1][0].close()
    articles(tmp_path / "moved.jsonl", seed=1)
    for named in ([], ["task.data=moved.jsonl"]):
        refused = scpl("run", "--resume", "r 1", *named, code=2)
        assert "not what the run began with (SHA-256 differs)" in refused and again in refused
    articles(tmp_path / "moved.jsonl")
    refused = scpl("run", "--resume", "r 1", "reward.model=cache", code=2)
    assert "reward.model = " in refused and "only what has moved may be named again" in refused


def test_a_judge_that_is_fitted_anew_and_comes_out_otherwise_is_refused_before_anything_starts(
    tmp_path: Path, here: list[tuple[Store, Experiment]]
) -> None:
    experiment = experiments.load(None, [*NEWS, f"task.data={articles(tmp_path / 'd.jsonl')}"])
    files = inputs.judge_files(TASKS["news"].build(experiment))
    assert set(files) == {"judge.safetensors", "judge.json"}, "its card may get more rows"
    for name, judge in (("same", files), ("earlier version", None), ("other", {**files, "judge.json": "0" * 64})):
        store = Store.create(tmp_path / name, inputs.anchored(experiment), {})
        with store.phase(0, "base") as phase:
            phase.write_json("base", {})
            if judge is not None:
                phase.write_json(inputs.JUDGE, judge)
        store.close()
        if name != "other":
            scpl("run", "--resume", name)
            here[-1][0].close()
    refused = scpl("run", "--resume", "other", code=2)
    assert "other: began with the judge" in refused and "it was fitted anew" in refused and len(here) == 2


def test_a_finished_run_is_made_smaller_when_it_is_told_to_keep_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trainer(fakes.FakeTrainer):
        def train(self, job: TrainingJob) -> TrainingResult:
            result = super().train(job)
            (job.output / "model").mkdir(exist_ok=True)
            (job.output / "model" / "model.safetensors").write_bytes(bytes(100))
            return result

    monkeypatch.setattr(fakes, "FakeTrainer", Trainer)
    folder = finished(tmp_path / "r", small("loop.rounds=2", "store.keep=all"))

    def left() -> list[str]:
        there = (
            *folder.glob("rounds/*/weights/model/*.safetensors"),
            *folder.glob("rounds/*/reward_model/*.safetensors"),
        )
        return sorted(str(path.relative_to(folder / "rounds")) for path in there)

    model = "{:03}/weights/model/model.safetensors"
    assert {model.format(1), model.format(2)} <= set(left())
    scpl("run", "--resume", "r", "store.keep=last")
    assert left() == [model.format(2)]
    assert "finished before, nothing was started" in scpl("run", "--resume", "r", "store.keep=none")
    assert left() == [] and Reader.open(folder)[1].store.keep == "none"
    scpl("run", "--resume", "r", "store.keep=none")


@pytest.mark.parametrize("key", MAY_CHANGE)
def test_what_cannot_change_a_finished_round_may_change(
    key: str, tmp_path: Path, here: list[tuple[Store, Experiment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "checked_plan", lambda experiment: (object(), None))
    value = {
        **{"placement.gpus": "dedicated", "placement.cluster": "2x8cpu:32gib", "training.worker_lifetime": "round"},
        **{
            "tracking.to": "mlflow",
            "tracking.project": "p",
            "training.zero_stage": "3",
            "loop.rounds": "6",
            "store.keep": "all",
            "training.gradient_checkpointing": "true",
        },
    }.get(key, "4096")
    if key == "generation.tensor_parallel":
        value = "1"
    begun(tmp_path / "r", experiments.load(None, ["generation.tensor_parallel=2"])).close()
    scpl("run", "--resume", "r", f"{key}={value}")
    ((_, experiment),) = here
    assert experiment == loading.load(tmp_path / "r/config.yaml")
    assert str(loading.overlay(experiment.model_dump(), {})[key.split(".")[0]][key.split(".")[1]]).lower() == value


def test_no_other_key_may_change(tmp_path: Path) -> None:
    begun(tmp_path / "r", Experiment()).close()
    known = {key for key, _, _ in all_keys(Experiment)}
    assert set(MAY_CHANGE) <= known
    for key in ("seed", "training.tokens_per_step", "generation.max_new_tokens", "model.dtype", "generation.refresh"):
        assert f"{key} cannot change in a run, only loop.rounds" in scpl("run", "--resume", "r", f"{key}=3", code=2)


def test_a_key_may_be_given_again_with_the_value_that_the_run_has(
    tmp_path: Path, here: list[tuple[Store, Experiment]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a script of the user's does that registers a strategy of its own and names it in every command."""
    monkeypatch.setattr(run, "checked_plan", lambda experiment: (object(), None))
    keys = ["selection.strategy=top", "reward.terms={length: 1, well_formed: 0.5}", "groups.names=[a, b]", "seed=3"]
    began = experiments.load(None, keys)
    begun(tmp_path / "r", began).close()
    scpl("run", "--resume", "r", *keys, "model.revision=null")
    assert here[-1][1] == began
    here[-1][0].close()
    for other in ("selection.strategy=none", "reward.terms={length: 1}", "seed=4", "seed.x=3", "reward.terms.x=1"):
        refused = scpl("run", "--resume", "r", *keys[1:3], other, code=2)
        assert f"{other.partition('=')[0]} cannot change in a run" in refused


@pytest.mark.parametrize("key", code.KEYS)
def test_code_may_be_said_to_be_none_where_a_run_has_none(
    tmp_path: Path, here: list[tuple[Store, Experiment]], monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr(run, "checked_plan", lambda experiment: (object(), None))
    begun(tmp_path / "r", Experiment()).close()
    for other in ("3", "[f.py:g]") + (("null",) if key == "task.name" else ()):
        assert f"{key} cannot change in a run" in scpl("run", "--resume", "r", f"{key}={other}", code=2)
    if key != "task.name":
        scpl("run", "--resume", "r", f"{key}=null")
        assert here[-1][1] == Experiment()


def test_a_message_offers_only_what_resume_takes(tmp_path: Path) -> None:
    known = {key for key, _, _ in all_keys(Experiment)}
    for text in (*ADVICE.values(), "training.learning_rate", "lower training.tokens_per_micro_batch (now 8)."):
        offered, _, kept = advice.resumed_with(text, "runs/é 1").partition("\nthis run keeps its ")
        assert shlex.split(offered.splitlines()[0])[:4] == ["scpl", "run", "--resume", "runs/é 1"]
        for key in known & set(re.findall(r"[\w.]+\w", text)):
            assert (key in offered) == (key in MAY_CHANGE or key in inputs.DATA), key
            assert key in offered or key in kept
    assert advice.resumed_with("no key at all", "r") == "scpl run --resume r"
    assert (
        advice.resumed_with("raise reward.tokens_per_batch", "r") == "scpl run --resume r reward.tokens_per_batch=VALUE"
    )


def test_code_of_ones_own_that_failed_is_to_be_mended_and_no_key_of_it_is_offered() -> None:
    for key, who in (("reward.function", "'f.py:g'"), ("task.name", "judge of 'pets.py:build'")):
        said = advice.resumed_with(f"{key}: {who} failed: KeyError: 'task.data' (/a/f.py:3)", "r")
        assert said.startswith("scpl run --resume r task.data=VALUE\n")
        assert said.endswith(f"\nafter mending, or bringing back, the code that {key} names")
    assert "this run keeps its task.name" in advice.resumed_with("task.name = 'maths': has no such term", "r")


def test_a_plan_that_does_not_fit_says_with_which_keys_the_run_continues(tmp_path: Path) -> None:
    begun(tmp_path / "r", Experiment()).close()
    refused = scpl("run", "--resume", "r", "training.workers=64", code=2)
    assert "scpl run --resume r KEY=VALUE\nwhere KEY may be generation.replicas, reward.replicas or training" in refused
    refused = scpl("run", "--resume", "r", "training.tokens_per_micro_batch=8", code=2)
    assert "scpl run --resume r training.tokens_per_micro_batch=VALUE" in refused


def test_tables_and_reports_of_what_is_finished_need_nothing_else(tmp_path: Path) -> None:
    """Neither the rule, nor the data, nor the model of a finished run has to exist where it is looked at."""
    (tmp_path / "own_rule_p15.py").write_text(
        "def rule(shares, measured, *, initial_shares, round_, seed):\n    return shares\n"
    )
    articles(tmp_path / "d.jsonl")
    sys.path.append(str(tmp_path))
    try:
        experiment = small(
            *("feedback.rule=custom", "feedback.function=own_rule_p15:rule", "groups.names=[nord, süd]")
        ).model_copy(update={"name": "é"})
        folder = finished(tmp_path / "runs é", experiment)
        values = experiment.model_dump(mode="json")
        values["task"] |= {"name": "news", "data": str(tmp_path / "d.jsonl")}
        values["model"]["name"] = str(tmp_path / "gone")
        (folder / "config.yaml").write_text(loading.dump(loading.build(values, "gone")), encoding="utf-8")
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["own_rule_p15"]
    (tmp_path / "own_rule_p15.py").unlink()
    (tmp_path / "d.jsonl").unlink()
    output = scpl("run", "--resume", "runs é")
    assert "süd" in output and "seconds per phase" in output and "finished before, nothing was started" in output
    assert "report.html written" in scpl("report", "runs é", "--output", "~/out")
    assert "süd" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "own_rule_p15" not in sys.modules
    refused = scpl("run", "--resume", "runs é", "loop.rounds=9", code=2)
    assert "own_rule_p15:rule' cannot be imported" in refused
    assert Reader.open(folder)[1].loop.rounds == 3
