"""A cluster that grows, with an autoscaler that brings a node per look."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import ray

from actors.placement.autoscaling import Demand, grown
from actors.placement.cluster import Cluster, described, ray_cluster
from actors.placement.layout import PlacementError
from jobs.driver import experiments
from scpl_ray.config import Experiment

HEAD = described("0cpu:16gib")


class Autoscaler:
    """Gives one node of a kind at each look, once it was asked."""

    def __init__(self, node: str, most: int) -> None:
        self.node, self.most = described(node), most
        self.asked: list[list[dict[str, float]]] = []
        self.looks = 0

    def ask(self, bundles: Sequence[Mapping[str, float]]) -> None:
        self.asked.append([dict(bundle) for bundle in bundles])

    def look(self) -> Cluster:
        self.looks += bool(self.asked)
        return Cluster(HEAD.nodes + self.node.nodes * min(self.looks, self.most))


def experiment(*overrides: str) -> Experiment:
    return experiments.load(None, ["generation.engine=transformers", *overrides])


def grow(it: Experiment, autoscaler: Autoscaler, start: Cluster = HEAD, **how: Any) -> Cluster:
    return grown(it, start, None, look=autoscaler.look, ask=autoscaler.ask, poll_s=0.0, **how)


def test_without_the_key_the_cluster_is_what_it_is() -> None:
    autoscaler = Autoscaler("1cpu:8gib", 4)
    assert grow(experiment(), autoscaler) == HEAD and not autoscaler.asked


def test_it_waits_for_as_many_nodes_as_it_needs(caplog: pytest.LogCaptureFixture) -> None:
    autoscaler = Autoscaler("1cpu:8gib", 4)
    two_of_each = experiment(
        "placement.cluster=4x1cpu:8gib", "generation.replicas=2", "reward.replicas=1", "training.workers=2"
    )
    with caplog.at_level(logging.WARNING):
        assert len(grow(two_of_each, autoscaler).nodes) == 3
    assert autoscaler.asked == [[{"CPU": 0.4}] * 2 + [{"CPU": 0.15}] + [{"CPU": 0.4}] * 2]
    assert "waiting for nodes" in caplog.text and "there are 0" in caplog.text


def test_what_is_there_already_is_not_asked_for() -> None:
    autoscaler = Autoscaler("1cpu:8gib", 4)
    start = described("8cpu:32gib")
    assert grow(experiment("placement.cluster=4x1cpu:8gib"), autoscaler, start) is start and not autoscaler.asked


def test_as_many_engines_as_the_grown_cluster_carries_are_waited_for() -> None:
    autoscaler = Autoscaler("2cpu:16gib", 4)
    # two nodes would do for some of them, and the processes are counted once
    assert len(grow(experiment("placement.cluster=4x2cpu:16gib"), autoscaler).nodes) == 1 + 3
    assert autoscaler.asked == [[{"CPU": 0.4}] * 8 + [{"CPU": 0.15}] * 8 + [{"CPU": 0.4}]]


def test_cpus_of_the_head_do_not_stand_in_for_gpus() -> None:
    autoscaler = Autoscaler("8cpu:64gib:1gpu:80gib", 4)
    found = grow(
        experiment("placement.cluster=4x8cpu:64gib:1gpu:80gib", "generation.replicas=2", "training.workers=1"),
        autoscaler,
        described("16cpu:64gib"),
    )
    # dedicated, as on the whole cluster: two engines, a scorer and a worker; one shared GPU would come sooner
    assert found.gpus == 4
    assert autoscaler.asked[0] == [{"CPU": 1.0, "GPU": 1.0}] * 4


def test_processes_that_share_gpus_ask_for_whole_ones() -> None:
    autoscaler = Autoscaler("4cpu:64gib:1gpu:80gib", 8)
    found = grow(
        experiment(
            "placement.cluster=8x4cpu:64gib:1gpu:80gib",
            "placement.gpus=colocated",
            "generation.replicas=8",
            "reward.replicas=1",
            "training.workers=8",
        ),
        autoscaler,
    )
    # fractions would fit on seven
    assert found.gpus == 8
    assert autoscaler.asked == [[{"CPU": 3.0, "GPU": 1.0}] + [{"CPU": 2.0, "GPU": 1.0}] * 7]


def test_split_engines_that_share_gpus_ask_for_theirs_on_one_node() -> None:
    autoscaler = Autoscaler("8cpu:64gib:3gpu:80gib", 2)
    keys = ["generation.engine=vllm", "generation.tensor_parallel=2", "placement.gpus=colocated"]
    numbers = ["generation.replicas=2", "reward.replicas=1", "training.workers=5"]
    found = grow(experiment("placement.cluster=2x8cpu:64gib:3gpu:80gib", *keys, *numbers), autoscaler)
    assert found.gpus == 6
    assert autoscaler.asked == [
        [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 3.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}],
    ]


def test_nodes_that_do_not_come_are_an_error_that_says_what_is_missing() -> None:
    with pytest.raises(
        PlacementError, match=r"placement.cluster = 4x1cpu:8gib: .* within 0 s: .*there are 0.*ray status"
    ):
        grow(experiment("placement.cluster=4x1cpu:8gib"), Autoscaler("1cpu:8gib", 0), grow_s=0.0)


def test_what_would_never_fit_is_not_waited_for() -> None:
    autoscaler = Autoscaler("1cpu:8gib", 9)
    with pytest.raises(PlacementError, match=r"lower generation\.replicas"):
        grow(experiment("placement.cluster=1cpu:8gib", "generation.replicas=9"), autoscaler)
    assert not autoscaler.asked


def test_a_description_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="cluster 'four big ones'"):
        grow(experiment("placement.cluster=four big ones"), Autoscaler("1cpu:8gib", 1))


def reserved(states: tuple[str, ...]) -> list[list[dict[str, float]]]:
    """Bundles of the placement groups in these states."""
    groups = ray.util.placement_group_table().values()
    return [list(group["bundles"].values()) for group in groups if group["state"] in states]


@pytest.mark.engines
def test_what_is_asked_for_is_pending_and_what_is_kept_is_reserved(ray_local: None) -> None:
    demand = Demand()
    demand.ask([{"CPU": 1000.0}, {"CPU": 0.4}])
    assert reserved(("PENDING",)) == [[{"CPU": 1000.0}, {"CPU": 0.4}]]
    demand.keep(ray_cluster())
    until = time.monotonic() + 30
    while (reserved(("PENDING",)) or not reserved(("CREATED",))) and time.monotonic() < until:
        time.sleep(0.05)
    assert reserved(("CREATED",)) == [[{"memory": 1.0}]] and reserved(("PENDING",)) == []
    demand.close()
    demand.close()
    assert reserved(("PENDING", "CREATED")) == []
