"""Studies as a user runs them."""

import json
import signal
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray.tune.error import TuneError
from rich.console import Console
from transformers import Qwen2Config
from typer.testing import CliRunner

from actors.fleet import asks
from actors.placement.cluster import Cluster, Node
from actors.placement.disk import disk
from actors.placement.layout import PlacementError, layout
from actors.placement.memory import Sizes, model_size
from jobs import cli
from jobs.configs import CONFIGS
from jobs.driver import study as sweep
from jobs.driver import tuning
from jobs.driver.dry_run import StudyPlan
from jobs.driver.trial import task_key, trial_folder
from jobs.driver.tuning import concurrent_trials, trial_share, unused_gpus
from scpl_ray.config import Experiment
from scpl_ray.config.errors import ConfigError
from scpl_ray.storage.errors import InUseError
from scpl_ray.storage.run_directory import Store
from scpl_ray.studies import results, study
from tests.support.commands import SMALL, finish, records, scpl
from tests.support.configs import defaults
from tests.support.model_cards import QWEN_7B


def yaml_of(*keys: str) -> str:
    """Keys as the inside of a YAML map in one line."""
    return ", ".join(key.replace("=", ": ", 1) for key in keys)


def test_an_analytic_study_makes_its_table(tmp_path: Path, shared_cache: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "name: a\nmode: analytic\nseeds: 5\nset: {loop.rounds: 3}\narms: {x: {}, y: {feedback.rule: static}}\n"
        "axes: {selection.beta: [0.2, 0.5]}\n"
    )
    output = finish(scpl(tmp_path, "sweep", str(path), "--study-dir", "a", cache=shared_cache))
    assert "4 arms x 5 seeds" in output and "scpl report a" in output
    found = results.read(tmp_path / "a")
    assert sorted(set(found["arm"].to_pylist())) == [f"{a} selection.beta={b}" for a in "xy" for b in (0.2, 0.5)]
    assert set(found["seed"].to_pylist()) == set(range(5)) and set(found["round"].to_pylist()) == set(range(4))
    code, output = sweep_of(tmp_path, path.read_text(), folder="a")
    assert code == 2 and "not empty; if it holds a study, continue that with: scpl sweep --resume" in output
    assert json.loads((tmp_path / "a/failed.json").read_text()) == {}


def test_runs_share_what_they_agree_on() -> None:
    one = asks(Experiment())
    for keys, changed in (
        (["seed=3", "loop.kind=retraining", "selection.beta=0.1", "generation.samples_per_prompt=2"], set()),
        (["training.epochs=2"], {"trainer"}),
        (["reward.terms={well_formed: 1.0}"], {"scorer"}),
        (["task.marker_strength=0.5"], {"scorer"}),
        (["generation.temperature=0.5"], {"generator"}),
        (["generation.refresh=adapter"], {"generator", "scorer"}),
        (["reward.choices=balanced", "reward.choices_per_round=64", "generation.top_p=1.0"], set()),
        (["groups.names=[east, west]"], {"generator", "scorer"}),
        (["model.family=gpt2"], {"generator", "scorer", "trainer"}),
    ):
        other = asks(defaults(keys))
        assert {name for name in one if one[name] != other[name]} == changed


def test_a_task_is_shared_by_trials_that_build_it_alike() -> None:
    one = task_key(Experiment())
    for keys, shared in (
        (["seed=3", "selection.beta=0.1", "training.learning_rate=0.1"], True),
        (["reward.terms={own_preference: 1.0}"], False),
        (["task.marker_strength=0.5"], False),
    ):
        assert (task_key(defaults(keys)) == one) == shared


def test_a_task_of_ones_own_may_read_any_key_so_trials_share_it_only_where_all_are_alike(tmp_path: Path) -> None:
    """Also the seed and the shares; what changes no task is how a run is called, where it works and what it keeps."""
    (tmp_path / "mine.py").write_text("def build(experiment):\n    return experiment.seed\n")
    own = f"task.name={tmp_path}/mine.py:build"
    one = defaults([own])
    for keys, shared in (
        (["name=other", "store.keep=all", "placement.gpus=dedicated"], True),
        (["seed=3"], False),
        (["groups.shares=[0.5, 0.5]"], False),
        (["queries.prompts_per_round=7"], False),
    ):
        other = defaults([own, *keys])
        assert (task_key(other) == task_key(one)) == shared
        changed = {name for name, asked in asks(one).items() if asks(other)[name] != asked}
        assert changed == (set() if shared else {"scorer"})


def machine(cpus: float, gpus: int = 0) -> Cluster:
    return Cluster((Node("one", cpus, 64.0, gpus, 80.0),))


def test_as_many_trials_side_by_side_as_fit() -> None:
    trial = study.Trial("a", (), 0, Experiment())
    assert concurrent_trials([trial] * 9, machine(2)) == 2
    assert concurrent_trials([trial] * 2, machine(64)) == 2
    assert concurrent_trials([trial] * 9, machine(64, 8)) == 8
    with pytest.raises(PlacementError):
        concurrent_trials([trial], machine(0.5))


def test_a_study_says_which_gpus_its_trials_leave_unused() -> None:
    """Of nodes with one GPU each no trial can get a part, so they are all one trial's, which may not use them all."""
    nodes = Cluster(tuple(Node(f"node {i}", 8, 64.0, 1, 80.0) for i in range(4)))
    keys = ["placement.gpus=colocated", "reward.replicas=1", "generation.replicas=1"]
    one, all_ = (study.Trial("a", (), 0, defaults(keys[:count])) for count in (3, 1))
    assert concurrent_trials([one] * 9, nodes) == 1
    (said,) = unused_gpus([one] * 9, nodes, 1)
    assert said.startswith("3 of 4 GPUs stay unused while 8 trials wait: 1 at a time gets an equal part of every node")
    assert "generation.replicas=auto" in said and "training.workers" in said and "more GPUs each" in said
    assert unused_gpus([all_] * 9, nodes, 1) == [], "auto counts take them all"
    assert unused_gpus([one], nodes, 1) == [], "nobody waits for them"
    (said,) = unused_gpus([all_] * 9, machine(64, 8), 3)
    assert said.startswith("2 of 8 GPUs stay unused while 6 trials wait: 3 at a time get")
    assert unused_gpus([all_] * 9, machine(64, 8), 8) == unused_gpus([all_] * 9, machine(64), 8) == []


def test_the_own_processes_of_trials_are_left_room_for_where_layouts_take_every_cpu() -> None:
    assert [node.cpus for node in trial_share(machine(8, 8), 2).nodes] == [4.0 - tuning.TRIAL_CPUS]
    assert [node.cpus for node in trial_share(machine(8), 2).nodes] == [4.0]


def test_memory_counts_for_trials_too() -> None:
    """CPUs and GPUs are enough for four trials of a model of 7B; the memory of the host is not."""
    experiment = defaults(
        [
            *("model.dtype=bfloat16", "placement.gpus=colocated", "training.worker_lifetime=round"),
            "reward.terms={well_formed: 1.0}",
        ],
    )
    size = model_size(Qwen2Config(**QWEN_7B), experiment.model.lora)
    trials, sizes = [study.Trial("a", (), 0, experiment)] * 4, [Sizes(size, None)] * 4
    assert concurrent_trials(trials, machine(16, 4)) == 4
    alone = layout(experiment, machine(16, 4), sizes[0]).estimates
    assert alone is not None
    host = sum(estimate.host for estimate in alone.values())
    for fit in (1, 2, 3):
        roomy = Cluster((Node("one", 16, (fit + 0.5) * host, 4, 80.0),))
        assert concurrent_trials(trials, roomy, sizes) == fit
    with pytest.raises(PlacementError, match="GiB"):
        concurrent_trials(trials, Cluster((Node("one", 16, host / 2, 4, 80.0),)), sizes)


def test_a_dry_run_says_what_fills_the_disk() -> None:
    plan = study.Study(name="s", arms={"a": {}, "b": {"store.keep": "all"}}, seeds=3, set={"loop.rounds": 2})
    trials = study.trials(plan, CONFIGS)
    sizes = Sizes(model_size(Qwen2Config(**QWEN_7B), None), None)
    written = [disk(trial.experiment, sizes, on_gpu=True) for trial in trials]
    assert sorted(one.keep for one in written) == ["all"] * 3 + ["last"] * 3
    for found, said in (
        (StudyPlan({}, written), "disk: 6 runs hold "),
        (StudyPlan(), "disk: unknown until"),
        (None, ""),
    ):
        console = Console(record=True, width=200)
        sweep.print_plan(console, plan, trials, found)
        printed = console.export_text()
        assert said in printed and ("disk" in printed) == bool(said)


def test_sampled_settings_name_their_directory() -> None:
    trial = {"folder": "runs/a/seed-000", "experiment": ""}
    assert trial_folder({"trial": trial}) == "runs/a/seed-000"
    names = {trial_folder({"trial": trial, "sampled": {"b": x}}) for x in (0.1, 0.2, 0.1)}
    assert len(names) == 2 and all(name.startswith("runs/sampled/") for name in names)


SEARCH = "name: s\nmode: search\nsearch: {metric: quality_mean, direction: max}\naxes: {feedback.beta: [1.0, 2.0]}\n"


def sweep_of(root: Path, text: str, *arguments: str, folder: str = "s") -> tuple[int, str]:
    (root / "s.yaml").write_text(text)
    result = CliRunner().invoke(cli.app, ["sweep", str(root / "s.yaml"), "--study-dir", str(root / folder), *arguments])
    assert "Traceback" not in result.output, result.output
    return result.exit_code, result.output


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_what_a_study_lacks_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    nodes = "4x32cpu:256gib:1gpu:44gib"
    for text in (f"name: s\nset: {{placement.cluster: '{nodes}'}}", f"{SEARCH}set: {{placement.cluster: '{nodes}'}}"):
        code, output = sweep_of(tmp_path, text, *arguments)
        assert code == 2 and "start them first" in output and "leave placement.cluster out" in output
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "optuna" else name)
    code, output = sweep_of(tmp_path, SEARCH.replace("max}", "max, sampler: optuna}"), *arguments)
    assert code == 2 and "pip install scpl_ray[search]" in output
    assert not (tmp_path / "s").exists()
    # without a language model there is nothing to place
    text = f"name: s\nmode: analytic\nseeds: 2\nset: {{placement.cluster: '{nodes}'}}"
    assert sweep_of(tmp_path, text, *arguments)[0] == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TuneError("Traceback:\n  File x\nValueError: no key-of-mine"), "TuneError: ValueError: no ***"),
        (ray.exceptions.RaySystemError("the GCS is gone"), "the GCS is gone"),
        (RuntimeError("no room"), "scpl: no room"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_what_stops_a_study_is_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    message: str,
) -> None:
    def stopped(*_: object) -> None:
        raise error

    monkeypatch.setattr(tuning, "_grid", stopped)
    monkeypatch.setenv("MY_API_KEY", "key-of-mine")
    code, output = sweep_of(tmp_path, "name: s\nseeds: 1\n")
    assert code == 1 and message in output
    assert f"continue with: scpl sweep --resume {tmp_path / 's'}" in output
    # in a process of its own, to output.log
    assert "the study stopped\nTraceback" in caplog.text


def test_a_study_that_goes_on_and_stops_puts_its_older_table_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a report would read the seeds of before, and a later look at more seeds would be taken for one that was."""
    plan = study.Study(name="s", seeds=2)
    folder = tmp_path / "s"
    sweep.create(folder, plan)
    for name in (results.FILE, study.FAILED_FILE):
        (folder / name).write_text("of before")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "run", stopped)
    assert sweep.run(folder, plan, study.trials(plan, CONFIGS)) == 130
    assert not (folder / results.FILE).exists() and not (folder / study.FAILED_FILE).exists()
    assert (folder / results.BEFORE).read_text() == "of before"
    assert sweep.open_study(folder, {"seeds": 4}).interim == ()
    monkeypatch.setattr(tuning, "run", lambda *_: {})
    assert sweep.run(folder, plan, study.trials(plan, CONFIGS)) == 0
    assert (folder / results.FILE).is_file() and not (folder / results.BEFORE).exists()


def test_seeds_are_not_added_under_the_hands_of_a_study_that_runs(tmp_path: Path) -> None:
    plan = study.Study(name="s", mode="analytic", seeds=2)
    sweep.create(tmp_path / "s", plan)
    more = plan.model_copy(update={"seeds": 4})
    with sweep._locked(tmp_path / "s"), pytest.raises(InUseError, match="in use by process"):
        sweep.extend(tmp_path / "s", more)
    assert sweep.open_study(tmp_path / "s").seeds == 2
    sweep.extend(tmp_path / "s", more)
    assert sweep.open_study(tmp_path / "s").seeds == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "arms: {a: {}, b: {}}\nclaims: [{name: c, metric: distinct_2, contrast: {a: 1, b: -1}}]\n",
            "the analytic mode does not have it",
        ),
        (
            "arms: {a: {}, b: {'groups.names': [x, y, z], 'groups.shares': [0.4, 0.3, 0.3]}}\n"
            "claims: [{name: c, metric: total_variation_balanced, contrast: {a: 1, b: -1}}]\n",
            "arm a has north, south; arm b has x, y, z: shares of kinds are compared between equal groups only",
        ),
        (
            "arms: {a: {loop.rounds: 2}, b: {loop.rounds: 4}}\naxes: {selection.beta: [0.5, 1.0]}\n"
            "claims: [{name: c, metric: disparate_gap, contrast: {a: 1, b: -1}}]\n",
            "arm a has loop.rounds = 2; arm b has loop.rounds = 4: arms are compared after the same number of rounds",
        ),
        (
            "arms: {a: {}, b: {seed: 100}}\nclaims: [{name: c, metric: disparate_gap, contrast: {a: 1, b: -1}}]\n",
            "a has seed = 0; b has seed = 100: arms are compared seed by seed",
        ),
        (
            "arms: {a: {}}\naxes: {seed: [0, 100]}\n",
            "a seed=0 has seed = 0; a seed=100 has seed = 100: arms are compared seed by seed",
        ),
    ],
)
def test_claims_that_nothing_could_decide_are_refused(text: str, said: str, tmp_path: Path) -> None:
    code, output = sweep_of(tmp_path, f"name: s\nmode: analytic\nseeds: 2\n{text}", "--dry-run")
    assert code == 2 and said in " ".join(output.split())
    shares = text.replace("distinct_2", "kl_balanced")
    if shares != text:
        assert sweep_of(tmp_path, f"name: s\nmode: analytic\nseeds: 2\n{shares}", "--dry-run")[0] == 0


@pytest.mark.parametrize(
    ("metric", "way_out"),
    [
        ("preference_log_odds_balanced", "kind_log_odds_balanced"),
        ("preference_log_odds_round0", "kind_log_odds_round0"),
        ("preference_log_odds_balanced_corrected", "kind_share_corrected"),
        ("preference_soft_round0", "kind_soft_round0"),
    ],
)
def test_the_kind_of_the_largest_group_is_compared_where_arms_agree_which_that_is(metric: str, way_out: str) -> None:
    arms = {"even": {"groups.shares": [0.5, 0.5]}, "skewed": {"groups.shares": [0.2, 0.8]}}

    def plan(**keys: object) -> study.Study:
        claim = {"name": "c", "contrast": {"even": 1.0, "skewed": -1.0}, **keys}
        return study.Study.model_validate({"name": "s", "seeds": 1, "arms": arms, "claims": (claim,)})

    asked = plan(metric=metric)
    with pytest.raises(ConfigError) as caught:
        sweep.check(asked, study.trials(asked, CONFIGS))
    assert "the group that is largest in round 1, in arm even north, in arm skewed south" in str(caught.value)
    assert f"name one kind: metric = {way_out!r} with a group" in str(caught.value)
    for other in ({"metric": way_out, "group": "north"}, {"metric": "kl_balanced"}, {"metric": "disparate_gap"}):
        sweep.check(plan(**other), study.trials(plan(**other), CONFIGS))
    arms["skewed"]["groups.shares"] = [0.8, 0.2]
    sweep.check(plan(metric=metric), study.trials(plan(metric=metric), CONFIGS))


def test_axes_take_lists_and_mappings(tmp_path: Path) -> None:
    text = (
        "name: s\nmode: analytic\nseeds: 6\nset: {loop.rounds: 1, queries.prompts_per_round: 32}\n"
        "arms: {a: {}, b: {feedback.rule: static}}\n"
        "axes: {groups.shares: [[0.5, 0.5], [0.8, 0.2]], reward.terms: [{model: 1.0}, {model: 0.5}]}\n"
        "claims: [{name: c, metric: total_variation_balanced, contrast: {a: 1, b: -1}}]\n"
    )
    code, output = sweep_of(tmp_path, text)
    assert code == 0 and "c groups.shares=[0.5, 0.5] reward.terms={'model': 0.5}" in " ".join(output.split()), output
    assert CliRunner().invoke(cli.app, ["report", str(tmp_path / "s"), "--csv", "--latex"]).exit_code == 0


def test_names_in_brackets_are_printed_as_they_are(tmp_path: Path) -> None:
    text = (
        "name: s\nmode: analytic\nseeds: 6\nset: {'groups.names': ['[bold]', '[/x]'], loop.rounds: 1}\n"
        "arms: {a: {}, b: {feedback.rule: static}}\n"
        "claims: [{name: 'gap [worst] falls [/x]', metric: disparate_gap, contrast: {a: 1, b: -1}}]\n"
    )
    for arguments in ("--dry-run",), ():
        code, output = sweep_of(tmp_path, text, *arguments)
        assert code == 0 and "gap [worst] falls [/x]" in " ".join(output.split())
    code = CliRunner().invoke(
        cli.app, ["simulate", "loop.rounds=1", "analytic.seeds=2", "groups.names=['[bold]', '[/x]']"]
    )
    assert code.exit_code == 0 and "[bold]" in code.output and "[/x]" in code.output


def test_a_table_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    sweep.create(tmp_path / "t", study.Study(name="s", mode="analytic", seeds=2))
    (tmp_path / "t/results.parquet").mkdir()
    result = CliRunner().invoke(cli.app, ["sweep", "--resume", str(tmp_path / "t")])
    assert result.exit_code == 1 and "Is a directory" in result.output and "continue with: scpl sweep" in result.output


def sampled(folder: Path, name: str, beta: float, metrics: dict[str, float] | None) -> None:
    """The run directory of a trial; without metrics, one that was stopped."""
    store = Store.create(folder / "runs/sampled" / name, defaults([f"feedback.beta={beta}"]), {})
    if metrics is not None:
        store.finish([], {"metrics": metrics})
    store.close()


def test_the_best_of_a_search_went_to_the_end(tmp_path: Path) -> None:
    search = study.Search(metric="quality_mean", direction="max")
    with pytest.raises(RuntimeError, match="no trial of the search reached its last round"):
        sweep.best(tmp_path, search, ["feedback.beta"])
    sampled(tmp_path, "a", 1.0, None)
    sampled(tmp_path, "b", 2.0, {"quality_mean": 0.5, "kl_round0": 0.1})
    sampled(tmp_path, "c", 3.0, {"quality_mean": 0.7, "kl_round0": 0.2})
    best = sweep.best(tmp_path, search, ["feedback.beta"])
    assert best == {"metric": "quality_mean", "value": 0.7, "keys": {"feedback.beta": 3.0}}
    search = study.Search(metric="kl_round0", direction="min")
    assert sweep.best(tmp_path, search, ["feedback.beta"])["keys"] == {"feedback.beta": 2.0}
    with pytest.raises(
        RuntimeError, match=r"search\.metric = 'self_bleu': no trial has it .*: kl_round0, quality_mean"
    ):
        sweep.best(tmp_path, study.Search(metric="self_bleu"), ["feedback.beta"])


def test_optuna_copes_with_rounds_and_trials_without_the_metric() -> None:
    sampler = tuning._sampling(study.Search(metric="kept_fraction", sampler="optuna"), 0, 2)
    sampler.set_search_properties("kept_fraction", "min", {"x": ray.tune.uniform(0.0, 1.0)})
    for trial, rounds in (("a", [{}, {"kept_fraction": 0.5}]), ("b", [{"error": "it broke"}])):
        assert 0.0 <= sampler.suggest(trial)["x"] <= 1.0
        for step, result in enumerate(rounds):
            sampler.on_trial_result(trial, {"training_iteration": step + 1, **result})
        sampler.on_trial_complete(trial, rounds[-1])
    assert 0.0 <= sampler.suggest("c")["x"] <= 1.0


@pytest.mark.engines
@pytest.mark.long
def test_a_search_goes_on_without_a_trial_that_fails(tmp_path: Path, shared_cache: Path) -> None:
    path = tmp_path / "search.yaml"
    # rules score: no reward model is fitted; the other engine than in the grid; two trials fit side by side
    small = [key for key in SMALL if not key.startswith("loop.rounds")]
    keys = yaml_of(*small, "loop.rounds=1", "reward.terms={well_formed: 1.0}", "generation.engine=transformers")
    # round 0 keeps nothing: the metric begins in round 1
    path.write_text(
        f"name: search\nmode: search\nset: {{{keys}}}\n"
        "arms: {only: {selection.strategy: threshold}}\naxes: {selection.threshold: [0.0, 1.0e+9]}\n"
        "search: {metric: kept_fraction, direction: max, trials: 2, scheduler: asha, sampler: optuna}\n"
    )
    output = finish(scpl(tmp_path, "sweep", str(path), "--study-dir", "s", cache=shared_cache), 1)
    assert "1 of 2 trials failed" in output and "no reward reaches 1000000000.0" in output
    (broken,) = (Path(folder).name for folder in json.loads((tmp_path / "s/failed.json").read_text()))
    best = json.loads((tmp_path / "s/search.json").read_text())
    assert best["metric"] == "kept_fraction" and best["keys"] == {"selection.threshold": 0.0}
    rounds: dict[str, set[int]] = {}
    for arm, _, row in results.records(results.read(tmp_path / "s")):
        rounds.setdefault(arm, set()).add(row.round)
    assert rounds.pop(broken) == {0} and list(rounds.values()) == [{0, 1}]


STUDY = """
name: small
set: {{{keys}}}
seeds: 1
arms:
  performative: {{}}
  broken: {{selection.strategy: threshold, selection.threshold: 1.0e+9}}
"""


@pytest.mark.engines
@pytest.mark.long
def test_a_study_killed_and_resumed_has_the_records_of_an_undisturbed_run(
    tmp_path: Path, shared_cache: Path, reference: Path
) -> None:
    """With two engines and two scorers where that run had one; on two cores the trials share them in turn."""
    path = tmp_path / "small.yaml"
    path.write_text(STUDY.format(keys=yaml_of(*SMALL, "generation.replicas=2", "reward.replicas=2")))
    process = scpl(tmp_path, "sweep", str(path), "--study-dir", "killed", cache=shared_cache)
    deadline = time.monotonic() + 900
    while not (tmp_path / "killed/runs/performative/seed-000/rounds/001/completions").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    output = finish(scpl(tmp_path, "sweep", "--resume", "killed", cache=shared_cache), 1)
    assert "1 of 2 trials failed" in output and "no reward reaches 1000000000.0" in output
    assert list(json.loads((tmp_path / "killed/failed.json").read_text())) == ["runs/broken/seed-000"]
    assert (tmp_path / "killed/logs/ray/raylet.out").exists()
    assert records(tmp_path / "killed/runs/performative/seed-000") == records(reference)
    undisturbed = results.run_rows(reference)
    begun = [row for row in undisturbed if row.round == 0]
    whole = results.table([("performative", 0, undisturbed), ("broken", 0, begun)])
    assert results.read(tmp_path / "killed") == whole
    psutil.wait_procs(children, timeout=30)
    assert [p.name() for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
