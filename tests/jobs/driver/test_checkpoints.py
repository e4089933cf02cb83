"""``scpl measure --checkpoints``: the numbers of a run from its policies alone, and what is refused at once."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.driver import checkpoints
from jobs.driver.checkpoints import measured, rounds
from scpl_ray.config import Experiment, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.models import checkpoints as models
from scpl_ray.models.checkpoints import Checkpoint
from scpl_ray.protocols import SAMPLING_BOUND
from scpl_ray.records import Metric
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.storage.run_facts import CHECKPOINTS
from tests.support import fakes, news_data
from tests.support.commands import finish, scpl
from tests.support.finished_runs import finished
from tests.support.loops import SMALL, Silent, small
from tests.support.tiny_models import save_adapter, save_model

OF_THE_LOOP = {
    *("share", "reward", "win_rate", "kept_share", "kept_fraction", "effective_sample_size", "duplicate_fraction"),
    *("loss_share", "loss_share_real"),
}
"""What is told of users, selection and training, which measured checkpoints have not."""


class Generator(fakes.FakeGenerator):
    sampling_bound = SAMPLING_BOUND


class Fleet:
    def __init__(self) -> None:
        self.served: list[int] = []

    def measuring(self, experiment: Experiment, task: fakes.FakeTask) -> tuple[Generator, fakes.FakeScorer, Experiment]:
        return Generator(experiment.seed), fakes.FakeScorer(task), experiment


def compare(run: Path, folder: Path, served: list[int]) -> None:
    """The folder holds the run's own numbers of these rounds, to the last digit, and nothing of a loop."""
    own, there = Reader.open(run)[0], Reader.open(folder)[0]
    for t, round_ in enumerate(served):
        before = {(m.metric, m.group): m.value for m in own.read(round_, "evaluation", "metrics", Metric)}
        now = {(m.metric, m.group): m.value for m in there.read(t, "evaluation", "metrics", Metric)}
        assert now == {key: before[key] for key in now}
        assert {metric for metric, _ in before.keys() - now.keys()} <= OF_THE_LOOP
        assert {"disparate_gap", "preference_log_odds_round0", "perplexity_round0"} <= {metric for metric, _ in now}


def measure(run: Path, folder: Path, served: list[int], *, upto: int | None = None) -> Store:
    """Measure policies of a run that was done with fakes as whole models."""
    reader, experiment = Reader.open(run)
    base = run.parent / f"base of {run.name}"
    found = [Checkpoint(str(t), reader.policy(experiment, base, t).model) for t in served]
    asked = measured(experiment, base, found)
    began = {CHECKPOINTS: [one.name for one in found]}
    store = Store.create(folder, asked, {}, began) if not (folder / "run.json").exists() else Store.open(folder)[0]
    task = fakes.FakeTask(asked.groups.names)
    done = rounds(store, asked, task, found, base, Fleet(), Silent())
    for _ in range(len(served) if upto is None else upto):
        next(done)
    done.close()
    return store


def test_policies_of_a_run_give_its_own_numbers_and_an_interrupted_measurement_is_continued(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=3", "model.lora=null"))
    measure(run, tmp_path / "m", [0, 1, 3], upto=2).close()
    (tmp_path / "m/merged-left").mkdir()  # by a process that was killed
    store = measure(run, tmp_path / "m", [0, 1, 3])
    assert store.checkpoints == ("0", "1", "3")
    compare(run, tmp_path / "m", [0, 1, 3])
    assert not list((tmp_path / "m").glob("merged-*"))
    store.close()
    with pytest.raises(AssertionError):
        compare(run, tmp_path / "m", [0, 2, 3])


def test_settings_of_the_loop_do_not_stand_in_the_way(tmp_path: Path) -> None:
    one, other = Checkpoint("a", tmp_path / "a"), Checkpoint("b", tmp_path / "b", "base", 8)
    # as they stand in the config of a run whose files are gone
    keys = [
        "reward.model=gone",
        "feedback.function=gone.py:rule",
        "loop.on_round=gone.py:f",
        "preset=retraining-reused-prompts",
    ]
    given = loading.load(None, [*SMALL, *keys])
    asked = measured(given, tmp_path, [one, other])
    assert asked.reward.model is None and asked.feedback.function is None and asked.loop.on_round is None
    assert asked.model.name == str(tmp_path) and asked.model.lora is not None and asked.model.lora.rank == 8
    assert asked.evaluation == given.evaluation and asked.generation == given.generation and asked.seed == given.seed
    with pytest.raises(ConfigError, match="and a is a whole model; leave it at reload"):
        measured(small("generation.refresh=adapter"), tmp_path, [one, other])
    assert checkpoints.OPTION == "--checkpoints"


def test_adapters_that_would_leave_biases_behind_are_not_served(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "llama")
    adapters = [save_adapter(base, tmp_path / f"a{seed}", seed) for seed in (1, 2)]
    path = adapters[1] / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bias": "lora_only"}))
    found = models.found([str(base), *map(str, adapters)])
    assert [one.bias for one in found] == ["none", "none", "lora_only"]
    served = small("generation.refresh=adapter")
    with pytest.raises(ConfigError, match=r"a2 has biases \(bias = 'lora_only'\).*leave it at reload"):
        measured(served, base, found)
    measured(served, base, found[:2])
    measured(small(), base, found)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give what is to be measured"),
        (["--log", "x.csv", "--checkpoints", "a,b"], "and not both"),
        (["--log", "x.csv", "--task", "news"], "--task: says nothing beside --log"),
        (["--checkpoints", "a,b", "--fit"], "--fit: says nothing beside --checkpoints"),
        (["--checkpoints", "BASE,ADAPTER"], "give --task NAME with --data FILE"),
        (["--checkpoints", "BASE,ADAPTER", "--task", "news"], "its judge come from data; give --data FILE"),
        (["--checkpoints", "BASE,ADAPTER", "--task", "news", "--data", "gone.jsonl"], "gone.jsonl"),
        (["--checkpoints", "BASE,ADAPTER", "--task", "newz"], "the nearest is news"),
        (["--checkpoints", "BASE,gone/ckpt", "--task", "language"], "gone/ckpt: no such folder"),
        (["--checkpoints", "BASE,COPY", "--task", "language"], "holds the same weights as"),
    ],
)
def test_what_cannot_be_measured_is_one_message_and_starts_nothing(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    places = {"BASE": save_model(tmp_path / "base", "llama"), "COPY": save_model(tmp_path / "copy", "llama")}
    if "BASE,ADAPTER" in words:
        places["ADAPTER"] = save_adapter(places["BASE"], tmp_path / "adapter", seed=1)
    given = [",".join(str(places.get(part, part)) for part in word.split(",")) for word in words]
    short = ["generation.engine=transformers", "generation.max_new_tokens=8"] if "--checkpoints" in words else []
    result = CliRunner().invoke(app, ["measure", *given, *short])
    assert result.exit_code == 2 and said in " ".join(result.output.split()), (result.output, result.exception)
    assert "Traceback" not in result.output and not (tmp_path / "measured").exists()


@pytest.mark.engines
def test_the_command_gives_the_numbers_of_a_real_run_to_the_last_digit(
    reference: Path, shared_cache: Path, tmp_path: Path
) -> None:
    reader, _ = Reader.open(reference)
    folders = [reader.base(), *(reader.folder(t, "weights") / "adapter" for t in (1, 2))]
    words = ["measure", "--checkpoints", ",".join(map(str, folders)), str(reference / "config.yaml"), "--output", "m"]
    output = finish(scpl(tmp_path, *words, cache=shared_cache))
    assert "each checkpoint: how it answers the same held-out prompts" in output and "002/weights/adapter" in output
    compare(reference, tmp_path / "m", [0, 1, 2])
    for t in range(3):
        for name in ("prompts", "completions", "judgements"):
            file = f"rounds/{t:03d}/evaluation/{name}.parquet"
            assert (tmp_path / "m" / file).read_bytes() == (reference / file).read_bytes(), file
    facts = Reader(tmp_path / "m").facts
    assert facts["command"].startswith("scpl measure --checkpoints ")
    result = CliRunner().invoke(app, ["report", str(tmp_path / "m")])
    assert result.exit_code == 0, result.output
    assert "002/weights/adapter" in (tmp_path / "m/report/report.html").read_text()


@pytest.mark.parametrize(
    ("keys", "names", "shares"),
    [
        ([], ("center", "left", "right"), (1 / 3, 1 / 3, 1 / 3)),
        (["groups.shares=[0.5, 0.3, 0.2]"], ("center", "left", "right"), (0.5, 0.3, 0.2)),
        (["groups={shares: [0.5, 0.3, 0.2]}"], ("center", "left", "right"), (0.5, 0.3, 0.2)),
        (["groups.names=[right, left]", "groups.shares=[0.7, 0.3]"], ("right", "left"), (0.7, 0.3)),
    ],
)
def test_groups_are_the_labels_of_the_data_unless_they_are_named(
    keys: list[str], names: tuple[str, ...], shares: tuple[float, ...], tmp_path: Path
) -> None:
    rows = news_data.rows()
    more = [{**row, "label": "center", "text": f"x {row['text']}", "id": f"c{row['id']}"} for row in rows]
    news_data.write_jsonl(tmp_path / "d.jsonl", rows + [row for row in more if row["id"].startswith("cleft")])
    data = ["task.name=news", f"task.data={tmp_path / 'd.jsonl'}"]
    groups = checkpoints._experiment(None, [*keys, *data]).groups
    assert groups.names == names and groups.shares == pytest.approx(shares)
    with pytest.raises(ConfigError, match=r"shares: 2 numbers for 3 groups; give one per group"):
        checkpoints._experiment(None, ["groups.shares=[0.7, 0.3]", *data])
    with pytest.raises(ConfigError, match=r"groups.share: unknown key; the nearest is groups.shares"):
        checkpoints._experiment(None, ["groups.share=[0.7, 0.3]", *data])
