"""A layout's GPUs as Ray gives them out. Ray only counts GPUs, so the same happens on a machine without any."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actors import bundles
from actors.bundles import NODE_LABEL, Reservation
from actors.cluster import Cluster, Node
from actors.placement import Layout, PlacementError, layout
from actors.pool import Pool, Replica
from scpl_ray import configfile

pytestmark = pytest.mark.engines


class Holder(Replica):
    """Says which GPUs it was given."""

    def gpus(self) -> list[int]:
        import ray

        return [int(gpu) for gpu in ray.get_gpu_ids()]

    def die(self) -> None:
        os._exit(1)


def placed_on_ray(*overrides: str) -> Layout:
    import ray

    (facts,) = ray.nodes()
    node = Node("here", 8, 64, int(facts["Resources"]["GPU"]), 80.0, facts["NodeID"])
    return layout(configfile.load(None, overrides), Cluster((node,)))


def held(placed: Layout, name: str, places: Sequence[Any], logs: Path) -> Pool:
    (role,) = [role for role in placed.roles if role.name == name]
    return Pool(Holder, role, (), environment={}, logs=logs, deadline_s=120.0, places=places)


def test_pairs_share_a_gpu_and_leave_room_for_a_worker_each_through_restarts(ray_local: None, tmp_path: Path) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    placed = placed_on_ray("placement.gpus=colocated", "generation.replicas=2", "training.workers=2")
    free = ray.available_resources()["GPU"]
    reserved = Reservation(placed)
    engines = held(placed, "engine", reserved.places("engine"), tmp_path)
    scorers = held(placed, "scorer", reserved.places("scorer"), tmp_path)
    first, second = (gpus for (gpus,) in engines.everywhere("gpus", what="asking"))
    assert first != second and scorers.everywhere("gpus", what="asking") == [[first]]
    # as Ray Train asks
    group = placement_group(
        [{"CPU": 1, "GPU": placed.worker.gpus}] * 2,
        bundle_label_selector=[{NODE_LABEL: seat.node.id} for seat in placed.of(placed.worker)],
    )
    assert group.wait(60)
    places = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i) for i in range(2)]
    workers = held(placed, "training worker", places, tmp_path)
    assert sorted(workers.everywhere("gpus", what="asking")) == sorted([[first], [second]])
    workers.close()
    remove_placement_group(group)
    # almost half a GPU is free on each now, half of one where an engine ends, and still it comes back to its own
    with pytest.raises(RuntimeError, match="engine 0 is gone"):
        engines.results([engines.submit("die", replica=0)], "dying")
    assert engines.everywhere("gpus", what="asking") == [[first], [second]]
    assert [process.restarts > 0 for process in engines.processes()] == [True, False]
    for pool in (engines, scorers):
        pool.close()
    reserved.close()
    reserved.close()
    assert ray.available_resources()["GPU"] == pytest.approx(free)


def test_an_engine_over_two_gpus_has_two(ray_local: None, tmp_path: Path) -> None:
    placed = placed_on_ray("generation.tensor_parallel=2")
    reserved = Reservation(placed)
    engines = held(placed, "engine", reserved.places("engine"), tmp_path)
    scorers = held(placed, "scorer", reserved.places("scorer"), tmp_path)
    (pair,) = engines.everywhere("gpus", what="asking")
    (own,) = scorers.everywhere("gpus", what="asking")
    assert len({*pair, *own}) == 3
    for pool in (engines, scorers):
        pool.close()
    reserved.close()


def test_what_is_not_free_is_said(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "RESERVE_S", 0.5)
    all_of_it = placed_on_ray("generation.tensor_parallel=2")
    first = Reservation(all_of_it)
    try:
        with pytest.raises(PlacementError, match=r"2 bundles of 2 GPUs were not free for 0.5 s; free are"):
            Reservation(all_of_it)
    finally:
        first.close()
