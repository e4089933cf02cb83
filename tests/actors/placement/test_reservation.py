"""A layout's GPUs as Ray gives them out. Ray only counts GPUs, so the same happens on a machine without any."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.placement import reservation
from actors.placement.cluster import Cluster, Node
from actors.placement.layout import Layout, PlacementError, layout
from actors.placement.reservation import Reservation
from actors.pool import Pool
from jobs.driver import experiments
from tests.support.actors import Holder, Told, tell_gpus

pytestmark = pytest.mark.engines

Start = Callable[..., Pool]
Reserve = Callable[[Layout], Reservation]


def placed_on_ray(*overrides: str) -> Layout:
    import ray

    (facts,) = ray.nodes()
    node = Node("here", 8, 64, int(facts["Resources"]["GPU"]), 80.0, facts["NodeID"])
    return layout(experiments.load(None, overrides), Cluster((node,)))


@pytest.fixture
def start(ray_local: None, tmp_path: Path) -> Iterator[Start]:
    """Reserves layouts and starts the pools of their roles; ends them after the test."""
    with contextlib.ExitStack() as open_:

        def new(placed: Layout, name: str, places: Sequence[Any], devices: Sequence[str] = ()) -> Pool:
            (role,) = [role for role in placed.roles if role.name == name]
            pool = Pool(
                Holder, role, (), environment={}, logs=tmp_path, deadline_s=120.0, places=places, devices=devices
            )
            open_.callback(pool.close)
            return pool

        yield new


@pytest.fixture
def reserve(ray_local: None) -> Iterator[Reserve]:
    """Reserves layouts; gives them back after the test."""
    with contextlib.ExitStack() as open_:

        def new(placed: Layout) -> Reservation:
            reserved = Reservation(placed)
            open_.callback(reserved.close)
            return reserved

        yield new


def test_an_engine_a_scorer_and_a_worker_share_a_gpu_through_restarts(reserve: Reserve, start: Start) -> None:
    import ray

    placed = placed_on_ray(
        "placement.gpus=colocated", "generation.replicas=2", "reward.replicas=1", "training.workers=2"
    )
    reserved = reserve(placed)
    engines = start(placed, "engine", reserved.places("engine"))
    scorers = start(placed, "scorer", reserved.places("scorer"))
    (first,), (second,) = engines.everywhere("gpus", what="asking")
    assert first != second and scorers.everywhere("gpus", what="asking") == [[first]]
    workers = start(placed, "training worker", reserved.places("training worker"))
    assert workers.everywhere("gpus", what="asking") == [[first], [second]]
    # the reservation stays when an engine ends: it comes back to its own
    with pytest.raises(RuntimeError, match="engine 0 is gone"):
        engines.results([engines.submit("die", replica=0)], "dying")
    assert engines.everywhere("gpus", what="asking") == [[first], [second]]
    assert [process.restarts > 0 for process in engines.processes()] == [True, False]
    # engines, scorers and bundles are gone before what they had is counted again
    for pool in (engines, scorers, workers):
        pool.close()
    reserved.close()
    until = time.monotonic() + 30
    while ray.available_resources()["GPU"] < 4 and time.monotonic() < until:
        time.sleep(0.1)
    assert ray.available_resources()["GPU"] == 4


def test_an_engine_over_two_gpus_has_two(reserve: Reserve, start: Start) -> None:
    placed = placed_on_ray("generation.tensor_parallel=2")
    reserved = reserve(placed)
    (pair,) = start(placed, "engine", reserved.places("engine")).everywhere("gpus", what="asking")
    (own,) = start(placed, "scorer", reserved.places("scorer")).everywhere("gpus", what="asking")
    assert len({*pair, *own}) == 3


def test_a_split_engine_is_told_the_gpus_that_it_shares(reserve: Reserve, start: Start) -> None:
    """Ray gives parts of one GPU only, so it gives the engine none, and its scorers one each."""
    placed = placed_on_ray(
        *("generation.tensor_parallel=2", "placement.gpus=colocated"),
        *("generation.replicas=1", "reward.replicas=2", "training.workers=2"),
    )
    reserved = reserve(placed)
    scorers = start(placed, "scorer", reserved.places("scorer"))
    (first,), (second,) = scorers.everywhere("gpus", what="asking")
    assert first != second
    assert reserved.devices("engine") == [f"{first},{second}"] and reserved.devices("scorer") == []
    engines = start(placed, "engine", reserved.places("engine"), reserved.devices("engine"))
    assert engines.everywhere("visible", what="asking") == [f"{first},{second}"]
    assert engines.everywhere("gpus", what="asking") == [[]]


def test_ray_train_keeps_to_the_gpus_of_its_trial(
    reserve: Reserve, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trials with a GPU each on one node. The worker of the second is started first, when Ray Train, left to
    itself, would take the first GPU that has room, which is that of the first trial."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from actors.reserved_training import Trainer
    from actors.training import RAY_TRAIN_SETTINGS

    for name, value in {**RAY_TRAIN_SETTINGS, "RAY_CHDIR_TO_TRIAL_DIR": "0"}.items():
        monkeypatch.setenv(name, value)
    placed = placed_on_ray("placement.gpus=colocated", "generation.replicas=1", "reward.replicas=1")
    first, second = reserve(placed), reserve(placed)
    own = [start(placed, "engine", r.places("engine")).everywhere("gpus", what="asking") for r in (first, second)]
    assert own[0] != own[1]
    told = ray.remote(num_cpus=0)(Told).remote()
    Trainer(
        tell_gpus,
        places=second.places("training worker"),
        train_loop_config={"told": told},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(
            num_workers=1, use_gpu=True, resources_per_worker={"CPU": 1, "GPU": placed.worker.gpus}
        ),
        run_config=RunConfig(
            name="second", storage_path=str(tmp_path), failure_config=FailureConfig(controller_failure_limit=0)
        ),
    ).fit()
    assert ray.get(told.all.remote(), timeout=60) == own[1]
    # what was reserved is still there, with the engines in it
    assert start(placed, "scorer", second.places("scorer")).everywhere("gpus", what="asking") == own[1]


def test_what_is_not_free_is_said(reserve: Reserve, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = placed_on_ray("generation.tensor_parallel=2")
    reserve(placed)
    monkeypatch.setattr(reservation, "RESERVE_S", 0.5)
    with pytest.raises(PlacementError, match=r"3 bundles of 2 GPUs were not free for 0.5 s; free are"):
        reserve(placed)
