"""`model.dtype: auto`: decided when a run or study begins, noted, and kept wherever it goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.placement.cluster import Cluster, Node
from jobs.configs import CONFIGS
from jobs.driver import alike, checkpoints, inputs, resuming, run, trial, tuning
from scpl_ray.config import Experiment, loading
from scpl_ray.feedback.population import PopulationSimulator
from scpl_ray.models import precision
from scpl_ray.models.checkpoints import Checkpoint
from scpl_ray.protocols import SAMPLING_BOUND, Engines
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Store
from scpl_ray.storage.run_facts import CHECKPOINTS
from scpl_ray.studies import study
from scpl_ray.studies.study import Study
from tests.support import fakes
from tests.support.configs import defaults
from tests.support.loops import Silent, small

HUB = "model.name=someone/model"


class Fleet:
    """Fakes that compute in the format that they are asked for, or in that of their machine.

    Args:
        machine: what ``auto`` means there.
    """

    def __init__(self, machine: precision.Format) -> None:
        self.machine: precision.Format = machine
        self.asked: list[str] = []

    def engines(self, experiment: Experiment, task: fakes.FakeTask) -> Engines:
        self.asked.append(experiment.model.dtype)
        dtype = experiment.model.dtype
        return Engines(
            fakes.FakeGenerator(experiment.seed),
            fakes.FakeScorer(task),
            fakes.FakeTrainer(),
            PopulationSimulator(experiment, task),
            dtype=self.machine if dtype == "auto" else dtype,
        )

    def queues(self) -> dict[str, int]:
        return {}


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Goes on with a run, with fakes, for some rounds on a machine; returns the formats that it asked for."""
    base = fakes.make_base(tmp_path / "base", 2)
    monkeypatch.setattr(run, "base_model", lambda *_: base)
    monkeypatch.setattr(run, "encoder", lambda *_: fakes.encode)
    monkeypatch.setattr(run, "WatchedProgress", lambda progress, *_: progress)

    def played(store: Store, experiment: Experiment, machine: precision.Format, **how: Any) -> list[str]:
        fleet = Fleet(machine)
        going: Iterator[Any] = run.rounds(
            store, experiment, fakes.FakeTask(experiment.groups.names), fleet, Silent(), **how
        )
        next(going)
        going.close()
        return fleet.asked

    return played


def test_a_run_goes_on_in_the_format_that_it_began_with(play: Any, tmp_path: Path) -> None:
    experiment = small("loop.rounds=2")
    for began, elsewhere in (("float32", "bfloat16"), ("bfloat16", "float32")):
        store = Store.create(tmp_path / began, experiment, {})
        assert play(store, experiment, began) == ["auto"]
        assert inputs.began_with(store, inputs.FORMAT) == {"model.dtype": began}
        assert play(store, experiment, elsewhere) == [began]
        assert inputs.in_its_format(store, experiment).model.dtype == began
        store.close()


def test_a_run_of_an_earlier_version_goes_on_as_its_machine_says(play: Any, tmp_path: Path) -> None:
    experiment = small("loop.rounds=2")
    store = Store.create(tmp_path / "run", experiment, {})
    with store.phase(0, "base") as phase:
        phase.write_json("base", inputs.weights(tmp_path / "base"))
        phase.write_json(inputs.FILE, {})
    assert play(store, experiment, "bfloat16") == ["auto"]
    assert inputs.in_its_format(store, experiment) == experiment
    store.close()


def begun(root: Path, experiment: Experiment, dtype: str | None) -> Store:
    store = Store.create(root, experiment, {})
    with store.phase(0, "base") as phase:
        phase.write_json("base", {})
        if dtype:
            phase.write_json(inputs.FORMAT, {"model.dtype": dtype})
    return store


def test_a_run_that_is_resumed_is_planned_in_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[Experiment] = []
    monkeypatch.setattr(run, "checked_plan", lambda experiment: (planned.append(experiment), None))
    monkeypatch.setattr(inputs, "check_judge", lambda *_: None)
    begun(tmp_path / "run", defaults([]), "bfloat16").close()
    store, after, _ = resuming.reopen(str(tmp_path / "run"), [])
    store.close()
    assert [one.model.dtype for one in planned] == ["bfloat16"] and after.model.dtype == "auto"


def test_trials_that_are_added_to_a_study_compute_in_the_format_of_those_that_were_begun(tmp_path: Path) -> None:
    plan = Study(name="s", seeds=3, set={"loop.rounds": 2}, arms={"a": {}, "b": {"model.dtype": "float32"}})
    trials = study.trials(plan, CONFIGS)
    begun(tmp_path / "s" / trials[0].folder, trials[0].experiment, "bfloat16").close()
    known = alike.Beginnings(alike.begun(tmp_path / "s", plan))
    found = {(one.arm, known.in_format(one.experiment).model.dtype) for one in trials}
    assert found == {("a", "bfloat16"), ("b", "float32")}
    assert known.in_format(defaults([HUB])).model.dtype == "auto", "another model"


def test_trials_of_two_formats_are_refused(tmp_path: Path) -> None:
    stores = [begun(tmp_path / dtype, defaults([]), dtype) for dtype in ("float32", "bfloat16")]
    stores.append(begun(tmp_path / "earlier version", defaults([]), None))
    pairs = [(store, defaults([])) for store in stores]
    alike.Beginnings(pairs[1:])
    with pytest.raises(StoreError, match=r"bfloat16: computes in bfloat16, but .*/float32 in float32; .*model\.dtype"):
        alike.Beginnings(pairs)
    for store in stores:
        store.close()


def test_the_driver_decides_for_all_trials_whatever_the_nodes_of_a_cluster_would_say() -> None:
    trials = study.trials(Study(name="s", set={"model.name": "someone/model"}), CONFIGS)
    for gpus, dtype in ((1, "bfloat16"), (0, precision.computed_in(defaults([HUB]), None, on_gpu=False))):
        cluster = Cluster((Node("one", 8, 64.0, gpus, 80.0 * gpus),))
        (one,) = tuning.in_format(trials[:1], cluster, [None], alike.Beginnings())
        assert one.experiment.model.dtype == dtype
        assert tuning.formats(trials[:1], [one]) == {alike.machine_key(trials[0].experiment): dtype}


def test_a_measurement_of_checkpoints_goes_on_in_the_format_that_it_began_with(tmp_path: Path) -> None:
    base = fakes.make_base(tmp_path / "base", 2)
    both = [Checkpoint(name, base) for name in ("a", "b")]
    experiment = checkpoints.measured(small(), base, both)
    store, asked = Store.create(tmp_path / "m", experiment, {}, {CHECKPOINTS: ["a", "b"]}), []

    class Measuring:
        def measuring(self, given: Experiment, task: fakes.FakeTask) -> tuple[Any, Any, Experiment]:
            asked.append(given.model.dtype)
            generator = fakes.FakeGenerator(given.seed)
            generator.sampling_bound = SAMPLING_BOUND
            return generator, fakes.FakeScorer(task), precision.in_format(given, "bfloat16")

    task = fakes.FakeTask(experiment.groups.names)
    for _ in range(2):
        next(checkpoints.rounds(store, experiment, task, both, base, Measuring(), Silent()))
    assert asked == ["auto", "bfloat16"] and store.base() == base
    store.close()


def test_a_trial_begins_in_the_format_of_its_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, asked = small("loop.rounds=2"), []
    monkeypatch.setattr(run, "log_to", lambda *_, **__: None)
    monkeypatch.setattr(trial.LoopTrial, "_task_of", lambda self, of: fakes.FakeTask(of.groups.names))
    monkeypatch.setattr(run, "rounds", lambda *_, dtype: iter([asked.append(dtype)]))
    one = object.__new__(trial.LoopTrial)
    one._study, one._fleet, one._peaks, one._began, one._task = tmp_path, None, None, {}, None
    for number, formats in enumerate(({alike.machine_key(experiment): "float32"}, {})):
        one._formats = formats
        list(one._play(tmp_path / str(number), loading.dump(experiment), {}))
        one._store.close()
    assert asked == ["float32", None]
