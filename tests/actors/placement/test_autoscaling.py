"""A cluster that grows, with an autoscaler that brings a node per look."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import ray

from actors.placement.autoscaling import Demand, grown
from actors.placement.cluster import Cluster, described, ray_cluster
from actors.placement.layout import PlacementError, layout
from actors.placement.memory import ModelSize, Sizes
from jobs.driver import experiments
from scpl_ray.config import Experiment

HEAD = described("0cpu:16gib")
RULES = "reward.terms={well_formed: 1.0}"
SMALL_MODEL = Sizes(ModelSize(360_000_000, 4_000_000, 32, 960, 49_152, 15, 5, 2_560, 40_960), None)


class Autoscaler:
    """Gives one node of a kind at each look, until there is one for each bundle that it was asked for."""

    def __init__(self, node: str, most: int) -> None:
        self.node, self.most = described(node), most
        self.asked: list[list[dict[str, float]]] = []
        self.given = 0

    def ask(self, bundles: Sequence[Mapping[str, float]]) -> None:
        self.asked.append([dict(bundle) for bundle in bundles])

    def look(self) -> Cluster:
        self.given = min(self.given + 1, self.most, len(self.asked[-1]))
        return Cluster(HEAD.nodes + self.node.nodes * self.given)


def experiment(*overrides: str) -> Experiment:
    return experiments.load(None, ["generation.engine=transformers", *overrides])


def grow(
    it: Experiment, autoscaler: Autoscaler, start: Cluster = HEAD, sizes: Sizes | None = None, **how: Any
) -> Cluster:
    return grown(it, start, sizes, look=autoscaler.look, ask=autoscaler.ask, poll_s=0.0, **how)


def with_head(nodes: str) -> Cluster:
    """A cluster of these nodes beside the head."""
    return Cluster(HEAD.nodes + described(nodes).nodes)


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
    assert autoscaler.asked == [[{"CPU": 0.95}, {"CPU": 0.8}]]
    assert "waiting for nodes" in caplog.text and "there are 0" in caplog.text


def test_what_is_there_already_is_not_asked_for() -> None:
    autoscaler = Autoscaler("1cpu:8gib", 4)
    start = described("8cpu:32gib")
    assert grow(experiment("placement.cluster=4x1cpu:8gib"), autoscaler, start) is start and not autoscaler.asked


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        # one GPU is shared, four are enough for GPUs of their own
        ("1x32cpu:256gib:1gpu:44gib", "4x32cpu:256gib:1gpu:44gib"),
        # a layout takes GPUs where there are some
        ("2x16cpu:64gib", "2x16cpu:64gib,16cpu:64gib:1gpu:44gib"),
        ("2x16cpu:64gib", "8x16cpu:64gib"),
    ],
)
def test_a_larger_cluster_is_used_at_once(wanted: str, there: str) -> None:
    autoscaler, start = Autoscaler("1cpu:8gib", 0), with_head(there)
    it = experiment(f"placement.cluster={wanted}")
    assert grow(it, autoscaler, start, grow_s=0.0) is start and not autoscaler.asked
    layout(it, start)


def test_nodes_with_less_memory_than_described_are_used_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    keys = [RULES, "model.dtype=float32", "placement.cluster=2x16cpu:64gib"]
    it, autoscaler = experiment(*keys), Autoscaler("16cpu:40gib", 2)
    with caplog.at_level(logging.WARNING):
        found = grow(it, autoscaler, sizes=SMALL_MODEL, grow_s=2.0)
    assert len(found.nodes) == 3 and "all nodes have joined, but not with the memory" in caplog.text
    # memory fills up first: the processes have fewer cores than one node
    assert len(autoscaler.asked[0]) == 2
    assert sum(bundle["CPU"] for bundle in autoscaler.asked[0]) < 16
    engines, planned = (layout(it, on, SMALL_MODEL).engine.count for on in (found, described("2x16cpu:64gib")))
    assert 1 < engines < planned


def test_what_does_not_fit_nodes_with_less_memory_is_refused_once_all_have_joined() -> None:
    large = Sizes(dataclasses.replace(SMALL_MODEL.policy, parameters=7_000_000_000), None)
    for there, why in (("8cpu:64gib:1gpu:20gib", "the largest have 20"), ("8cpu:9gib:1gpu:80gib", "GiB, 1 GPUs of")):
        it = experiment("placement.cluster=3x8cpu:64gib:1gpu:80gib", "placement.gpus=dedicated", RULES)
        found = grow(it, Autoscaler(there, 3), sizes=large, grow_s=2.0)
        assert found.gpus == 3
        with pytest.raises(PlacementError, match=why):
            layout(it, found, large)


def test_more_nodes_are_asked_for_where_the_needed_ones_have_too_little_memory() -> None:
    autoscaler = Autoscaler("16cpu:40gib", 4)
    keys = ["generation.replicas=8", "reward.replicas=8", "model.dtype=float32", RULES]
    it = experiment("placement.cluster=4x16cpu:64gib", *keys)
    assert len(grow(it, autoscaler, sizes=SMALL_MODEL, grow_s=2.0).nodes) == 1 + 3
    assert [len(bundles) for bundles in autoscaler.asked] == [2, 4]
    assert autoscaler.asked[1] == [{"CPU": 16.0}] * 4


def test_as_many_engines_as_the_grown_cluster_carries_are_waited_for() -> None:
    autoscaler = Autoscaler("2cpu:16gib", 4)
    # two nodes would do for some of them, and the processes are counted once
    assert len(grow(experiment("placement.cluster=4x2cpu:16gib"), autoscaler).nodes) == 1 + 3
    assert autoscaler.asked == [[{"CPU": 2.0}, {"CPU": 1.95}, {"CPU": 0.85}]]


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
    assert autoscaler.asked == [[{"CPU": 5.0, "GPU": 3.0}, {"CPU": 3.0, "GPU": 2.0}]]


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
