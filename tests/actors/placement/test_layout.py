"""Layouts: pure functions of a config and a described cluster."""

import dataclasses
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.placement.cluster import Cluster, Node, described
from actors.placement.layout import Layout, PlacementError, layout, on_fewest_nodes
from actors.placement.memory import ModelSize, Sizes, estimates
from actors.placement.reservation import bundles
from jobs.driver import experiments
from scpl_ray.config import Experiment
from scpl_ray.config.errors import ConfigError

QWEN_7B = Sizes(ModelSize(7_615_616_512, 40_370_176, 28, 3584, 152_064, 28, 4, 18_944, 28_672), None)
"""Qwen2.5-7B with a LoRA adapter of rank 16."""
RULES = "reward.terms={well_formed: 1.0}"
BIG_ADAPTER = [
    *(RULES, "generation.refresh=adapter", "training.worker_lifetime=round", "generation.engine=vllm"),
    "training.tokens_per_micro_batch=4096",
]
SHARED = "placement.gpus=colocated"
WHOLE = "training.gradient_checkpointing=false"


def experiment(*overrides: str) -> Experiment:
    return experiments.load(None, ["generation.engine=transformers", *overrides])


def numbers(replicas: int, scorers: int, workers: int) -> list[str]:
    return [f"generation.replicas={replicas}", f"reward.replicas={scorers}", f"training.workers={workers}"]


def split(gpus: int) -> list[str]:
    return ["generation.engine=vllm", f"generation.tensor_parallel={gpus}"]


def where(placed: Layout) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    return {role.name: [(seat.node.name, seat.gpus) for seat in placed.of(role)] for role in placed.roles}


def cpus(count: float) -> Cluster:
    return Cluster((Node("one", count, 24.0),))


def test_the_quick_start_fits_one_core() -> None:
    placed = layout(experiment(), cpus(1))
    assert sum(role.count * role.cpus for role in placed.roles) <= 1
    assert placed.worker.threads == 1
    assert placed.mode == "cpu" and not any(role.gpus or role.sleeps for role in placed.roles)
    assert bundles(placed) == ()


def test_two_of_each_fit_two_cores_and_engines_keep_one_thread() -> None:
    placed = layout(experiment(*numbers(2, 1, 2)), cpus(2))
    assert [(role.count, role.cpus) for role in placed.roles] == [(2, 0.4), (1, 0.15), (2, 0.4)]
    assert (placed.engine.threads, placed.worker.threads) == (1, 1)
    assert layout(experiment(), cpus(8)).worker.threads == 8


def counts(placed: Layout) -> tuple[int, int, int]:
    engine, scorer, worker = (role.count for role in placed.roles)
    return engine, scorer, worker


@pytest.mark.parametrize(
    ("cluster", "keys", "expected"),
    [
        ("1cpu:8gib", [], (1, 1, 1)),
        ("2cpu:8gib", [], (2, 2, 1)),
        ("16cpu:64gib", [], (16, 16, 1)),
        ("4x32cpu:256gib", [], (128, 128, 1)),
        # memory carries fewer
        ("64cpu:16gib", [], (5, 5, 1)),
        ("16cpu:64gib", ["generation.replicas=2"], (2, 16, 1)),
        ("16cpu:64gib", ["reward.replicas=3"], (16, 3, 1)),
        ("4cpu:64gib", ["training.workers=4"], (4, 4, 4)),
        ("16cpu:64gib:1gpu:80gib", [], (1, 1, 1)),
        ("96cpu:1024gib:8gpu:80gib", [], (6, 1, 1)),
        ("96cpu:1024gib:8gpu:80gib", ["training.workers=4"], (3, 1, 4)),
        ("96cpu:1024gib:8gpu:80gib", ["placement.gpus=colocated", "training.workers=8"], (8, 8, 8)),
        ("96cpu:1024gib:8gpu:80gib", ["training.workers=8"], (8, 8, 8)),
        ("96cpu:1024gib:8gpu:80gib", split(2), (3, 1, 1)),
        ("96cpu:1024gib:8gpu:80gib", ["placement.gpus=colocated", "reward.replicas=1"], (8, 1, 1)),
    ],
)
def test_auto_takes_what_the_machine_carries(cluster: str, keys: list[str], expected: tuple[int, int, int]) -> None:
    assert counts(layout(experiment(*keys), described(cluster))) == expected


def test_auto_counts_the_models_memory_where_it_is_known() -> None:
    small = Sizes(dataclasses.replace(QWEN_7B.policy, parameters=500_000_000), None)
    placed = layout(experiment(RULES, "model.dtype=float32"), described("32cpu:96gib"), small)
    engines, scorers, _ = counts(placed)
    assert engines == scorers and 1 < engines < 32
    needed = sum(placed.estimates[role.name].host * role.count for role in placed.roles)  # type: ignore[index]
    assert needed <= 96 < needed + sum(placed.estimates[role.name].host for role in placed.roles[:2])  # type: ignore[index]


def test_each_of_several_trials_has_its_share_of_the_cores() -> None:
    for trials, engines in ((1, 4), (2, 2), (4, 1)):
        share = described("4cpu:32gib").share(trials, cpus_aside=0.05)
        assert counts(layout(experiment(), share))[0] in (engines, max(1, engines - 1))


def test_too_many_processes_name_the_key_to_lower() -> None:
    with pytest.raises(PlacementError, match=r"generation.replicas=9 x 0.4.*lower generation.replicas to 3"):
        layout(experiment("generation.replicas=9"), cpus(2))
    with pytest.raises(PlacementError, match=r"but there are 2; lower training.workers to 3"):
        layout(experiment("training.workers=64"), cpus(2))
    with pytest.raises(
        PlacementError, match=r"but there are 2; one of each fits: lower all of them, or run on a larger"
    ):
        layout(experiment("training.workers=64", "generation.replicas=5"), cpus(2))
    with pytest.raises(PlacementError, match=r"but there are 0.5; one of each needs 0.95 already: run on a larger"):
        layout(experiment(), cpus(0.5))


def test_processes_spread_over_nodes_without_gpus_and_none_sits_on_a_head_without_cpus() -> None:
    placed = layout(experiment(*numbers(2, 1, 2)), described("0cpu:32gib,2x8cpu:32gib"))
    for nodes in ("engine", "training worker"):
        assert sorted(name for name, _ in where(placed)[nodes]) == ["node 1", "node 2"]
    assert placed.worker.threads == 8


def test_nodes_hold_whole_processes() -> None:
    """Each of ten nodes has a third of a core: enough in all for one process of each role, but for none on a node."""
    with pytest.raises(PlacementError, match=r"engine 0 asks for 0.4 CPUs.*on one node; left are a: 0.3 CPUs"):
        layout(experiment(), Cluster(tuple(Node(name, 0.3, 8.0) for name in "abcdefghij")))


def test_one_gpu_is_shared() -> None:
    placed = layout(experiment(), described("16cpu:64gib:1gpu:80gib"))
    assert placed.mode == "colocated"
    assert [role.gpus for role in placed.roles] == pytest.approx([0.5, 0.1, 0.4])
    assert where(placed) == {key: [("node 0", (0,))] for key in ("engine", "scorer", "training worker")}
    assert [role.sleeps for role in placed.roles] == [True, True, False]
    # workers that live on keep their memory while the engine writes
    assert placed.engine.memory_share == 0.3
    briefly = layout(experiment("training.worker_lifetime=round"), described("16cpu:64gib:1gpu:80gib"))
    assert briefly.engine.memory_share == 0.6
    with pytest.raises(
        PlacementError,
        match=r"auto'.*: 4 GPUs are asked for \(generation.replicas=1 x 1, .*there are 1; one of each needs 3 "
        r"already: run on .*colocated: 2 GPUs are asked for \(training.workers=2, .*lower training.workers to 1 or run",
    ):
        layout(experiment("training.workers=2"), described("16cpu:64gib:1gpu:80gib"))


@pytest.mark.parametrize("nodes", ["2cpu:64gib:1gpu:24gib", "1cpu:64gib:1gpu:24gib", "8cpu:256gib:4gpu:24gib"])
def test_what_takes_turns_on_a_gpu_takes_turns_on_few_cores_too(nodes: str) -> None:
    (node,) = described(nodes).nodes
    assert node.gpus > 1 or layout(experiment(), Cluster((node,))).mode == "colocated"
    placed = layout(experiment(SHARED), Cluster((node,)))
    assert placed.mode == "colocated" and counts(placed) == (node.gpus, node.gpus, 1)
    assert [role.cpus for role in placed.roles] == [0.4, 0.15, 0.4]
    assert sum(bundle.cpus for bundle in bundles(placed)) <= node.cpus
    assert placed.worker.threads == node.cpus
    enough = dataclasses.replace(node, cpus=3.0 * node.gpus)
    assert [role.cpus for role in layout(experiment(SHARED), Cluster((enough,))).roles] == [1.0, 1.0, 1.0]
    with pytest.raises(PlacementError, match=r"one of each needs 0\.95 already"):
        layout(experiment(SHARED), Cluster((dataclasses.replace(node, cpus=0.5),)))


def test_eight_gpus_dedicated_and_colocated() -> None:
    node = described("96cpu:1024gib:8gpu:80gib")
    own = layout(experiment(*numbers(4, 1, 3)), node)
    assert own.mode == "dedicated" and [role.gpus for role in own.roles] == [1, 1, 1]
    taken = sorted(device for seats in where(own).values() for _, devices in seats for device in devices)
    assert taken == list(range(8)) and not any(role.sleeps for role in own.roles)
    assert own.worker.threads == 32
    shared = layout(experiment(*numbers(8, 2, 8), "placement.gpus=colocated"), node)
    assert where(shared)["engine"] == [("node 0", (i,)) for i in range(8)] == where(shared)["training worker"]
    assert where(shared)["scorer"] == [("node 0", (0,)), ("node 0", (1,))]
    # what does not fit dedicated is shared by itself
    assert layout(experiment(*numbers(8, 2, 8)), node) == shared
    with pytest.raises(PlacementError, match=r"18 GPUs are asked for .* but there are 8"):
        layout(experiment(*numbers(8, 2, 8), "placement.gpus=dedicated"), node)


def test_four_nodes_of_eight() -> None:
    placed = layout(experiment(*numbers(14, 2, 16)), described("0cpu:32gib,4x96cpu:1024gib:8gpu:80gib"))
    assert placed.mode == "dedicated" and len(placed.seats) == 32
    assert len({(seat.node.name, seat.gpus) for seat in placed.seats}) == 32
    # sixteen workers sit on two whole nodes
    assert len({name for name, _ in where(placed)["training worker"]}) == 2
    assert placed.worker.threads == 12


def test_an_engine_over_two_gpus_has_them_on_one_node() -> None:
    placed = layout(experiment(*split(2), *numbers(2, 1, 1)), described("2x16cpu:64gib:3gpu:80gib"))
    assert placed.engine.gpus == 2
    assert [len(devices) for _, devices in where(placed)["engine"]] == [2, 2]
    assert sorted(name for name, _ in where(placed)["engine"]) == ["node 0", "node 1"]
    # eight GPUs are enough in number, but an odd one is left over on each node
    with pytest.raises(
        PlacementError, match=r"engine 2 asks for 1 CPUs.*2 GPUs on one node.* the first 2 of engine fit"
    ):
        layout(experiment(*split(2), *numbers(3, 1, 1)), described("2x16cpu:64gib:3gpu:80gib,2x8cpu:9gib:1gpu:80gib"))


def test_unlike_nodes() -> None:
    cluster = described("0cpu:32gib,96cpu:1024gib:8gpu:80gib,2x48cpu:512gib:4gpu:80gib")
    placed = layout(experiment(*split(4), *numbers(3, 1, 3)), cluster)
    assert sorted(name for name, _ in where(placed)["engine"]) == ["node 1", "node 2", "node 3"]
    assert {name for name, _ in where(placed)["training worker"] + where(placed)["scorer"]} == {"node 1"}
    with pytest.raises(PlacementError, match="8 GPUs on one node; left are"):
        layout(experiment(*split(8), *numbers(1, 1, 1)), described("4x48cpu:512gib:4gpu:80gib"))


def test_small_gpus_are_left_to_who_fits_them() -> None:
    """The engine needs 17 GiB, a worker without checkpointing more than 24: only large GPUs carry workers, anywhere."""
    found = estimates(experiment(*BIG_ADAPTER, WHOLE), QWEN_7B, "dedicated")
    assert found["engine"].total / 0.9 < 24 < found["training worker"].total < 80
    for text in (
        "2x16cpu:128gib:1gpu:24gib,64cpu:512gib:2gpu:80gib",
        "64cpu:512gib:2gpu:80gib,2x16cpu:128gib:1gpu:24gib",
    ):
        placed = layout(experiment(*BIG_ADAPTER, WHOLE, *numbers(1, 1, 2)), described(text), QWEN_7B)
        assert all(seat.node.gpu_memory_gib == 80 for seat in placed.of(placed.worker))
        assert all(seat.node.gpu_memory_gib == 24 for seat in placed.of(placed.engine) + placed.of(placed.scorer))


def test_what_no_gpu_holds_is_refused_with_its_parts_and_a_way_out() -> None:
    full = ["model.lora=null", "generation.engine=vllm", RULES, "training.worker_lifetime=round"]
    with pytest.raises(
        PlacementError,
        match=r"training worker: holds about .* GiB on each of its GPUs \(weights 14.2, gradients .*, optimizer 85.1, "
        r".*but the largest have 80; train an adapter .*, set training.zero_stage=3",
    ):
        layout(
            experiment(*full, "placement.gpus=dedicated"),
            described("96cpu:1024gib:8gpu:80gib"),
            Sizes(ModelSize(7_615_616_512, 0, 28, 3584, 152_064, 28, 4, 18_944, 28_672), None),
        )
    with pytest.raises(
        PlacementError, match=r"engine 0 asks for 1 CPUs, .* GiB, 1 GPUs of .* on one node; left are node 0"
    ):
        layout(experiment(*BIG_ADAPTER, "placement.gpus=dedicated"), described("96cpu:0gib:8gpu:80gib"), QWEN_7B)


def refused(size: Sizes, gpu_gib: int, *overrides: str) -> str:
    """The refusal of a layout on one GPU that all share, with reward terms that need no model."""
    keys = [RULES, "generation.engine=vllm", "placement.gpus=colocated", *overrides]
    with pytest.raises(PlacementError) as error:
        layout(experiment(*keys), described(f"16cpu:512gib:1gpu:{gpu_gib}gib"), size)
    return str(error.value)


def test_on_a_shared_gpu_it_is_said_where_workers_that_live_for_a_round_would_help() -> None:
    lives = "training.worker_lifetime"
    engine = refused(QWEN_7B, 48)
    assert engine.startswith("engine: ") and "(engines use 0.3 of it), but the largest have 48; set " in engine
    assert f"{lives}=round (all of it then needs GPUs of" in engine and "raise generation.tensor_parallel" in engine
    (needs,) = re.findall(r"then needs GPUs of ([\d.]+) GiB", engine)
    keys = [RULES, "generation.engine=vllm", "placement.gpus=colocated", f"{lives}=round"]
    layout(experiment(*keys), described(f"16cpu:512gib:1gpu:{math.ceil(float(needs))}gib"), QWEN_7B)
    # it is not said where it is so already, or where workers have the GPU to themselves anyway
    assert lives not in refused(QWEN_7B, 24, f"{lives}=round")
    whole = Sizes(dataclasses.replace(QWEN_7B.policy, adapter_parameters=0), None)
    worker = refused(whole, 80, "model.lora=null", f"{lives}=round")
    assert worker.startswith("training worker: ") and "train an adapter" in worker and lives not in worker


def test_on_a_shared_gpu_a_scorer_is_not_told_what_cannot_help() -> None:
    size = Sizes(dataclasses.replace(QWEN_7B.policy, adapter_parameters=0, parameters=2 * 10**9), None)
    crowded = refused(size, 40, "model.lora=null")
    assert crowded.startswith("scorer: ") and "training.worker_lifetime=round" in crowded
    assert "train an adapter" in crowded and "tokens_per_batch" not in crowded, "workers wait beside it"
    full = refused(QWEN_7B, 80, "training.worker_lifetime=round", "reward.tokens_per_batch=2000000")
    assert full.startswith("scorer: ") and "lower reward.tokens_per_batch, or use a smaller reward.model" in full
    assert "generation.refresh=adapter" not in full, "one model is on the GPU at a time either way"


def test_an_engine_that_sleeps_beside_an_adapter_keeps_its_weights_in_host_memory() -> None:
    shared = [*BIG_ADAPTER, "placement.gpus=colocated"]
    weights = 2 * (7_615_616_512 + 40_370_176) / 2**30
    found = layout(experiment(*shared), described("16cpu:128gib:1gpu:80gib"), QWEN_7B).estimates
    assert found is not None and found["engine"].host == pytest.approx(weights + 1)
    assert found["engine"].idle == 1.0
    with pytest.raises(PlacementError, match=r"GiB, 1 GPUs"):
        layout(experiment(*shared), described("16cpu:30gib:1gpu:80gib"), QWEN_7B)


@pytest.mark.parametrize(
    ("model", "gpus", "possible"),
    [
        # query heads, key-value heads, width of the feed-forward layers, vocabulary
        ((28, 4, 18_944, 152_064), 3, "1, 2, 4"),  # Qwen2.5-7B, whose 28 heads 7 would divide
        ((28, 4, 18_944, 152_064), 7, "1, 2, 4"),
        ((24, 8, 8_192, 128_256), 3, "1, 2, 4, 8"),  # Llama-3.2-3B
        ((24, 8, 8_192, 128_256), 6, "1, 2, 4, 8"),
        ((12, 2, 8_960, 151_936), 3, "1, 2, 4"),  # Qwen2.5-1.5B, whose key-value heads two GPUs each can hold
        ((24, 24, 0, 50_257), 16, "1, 2, 3, 4, 6, 8, 12, 24"),  # filled up to 50,304 = 64 x 786
        ((24, 24, 0, 50_305), 3, "1, 2, 4, 8"),  # filled up to 64 x 787
        ((24, 24, 8_192, 50_257), 3, "1, 2, 4, 8"),  # by the feed-forward layers alone
    ],
)
def test_all_that_vllm_splits_is_split_evenly(model: tuple[int, int, int, int], gpus: int, possible: str) -> None:
    heads, key_values, width, vocabulary = model
    numbers = {"attention_heads": heads, "key_value_heads": key_values, "feed_forward": width}
    size = Sizes(dataclasses.replace(QWEN_7B.policy, vocabulary=vocabulary, **numbers), None)
    nodes = described("2x96cpu:1024gib:24gpu:80gib")
    with pytest.raises(
        PlacementError, match=rf"tensor_parallel = {gpus}: the model has {heads} attention heads, .*one of {possible}$"
    ):
        layout(experiment(*split(gpus)), nodes, size)
    for number in possible.split(", ")[1:]:
        layout(experiment(*split(int(number)), RULES, "training.worker_lifetime=round"), nodes, size)


def test_gpus_that_are_asked_for_must_be_there() -> None:
    for overrides, key in (
        (["placement.gpus=dedicated"], "placement.gpus = 'dedicated'"),
        (split(2), "tensor_parallel = 2"),
    ):
        with pytest.raises(PlacementError, match=rf"{key}: there are no GPUs"):
            layout(experiment(*overrides), cpus(64))


def test_a_cluster_that_may_grow_is_asked_to_say_so() -> None:
    """As ``ray up cluster.yaml`` leaves it: a head without CPUs, and no worker before one is asked for."""
    fresh = Cluster((Node("10.0.0.1", 0.0, 20.0, id="a"),), connected=True)
    advice = "; if this cluster can grow, say to what: placement.cluster=4x32cpu:256gib:1gpu:44gib"
    for cluster, keys in (
        (fresh, []),
        (fresh, ["placement.gpus=colocated"]),
        (fresh.share(2), []),
        (dataclasses.replace(described("16cpu:64gib:1gpu:24gib"), connected=True), ["placement.gpus=dedicated"]),
    ):
        with pytest.raises(PlacementError) as error:
            layout(experiment(*keys), cluster)
        assert str(error.value).endswith(advice)
        (said,) = re.findall(r"placement\.cluster=(\S+)", str(error.value))
        layout(experiment(), described(said))
        for other, more in (
            (dataclasses.replace(cluster, connected=False), []),
            (cluster, [f"placement.cluster={said}"]),
        ):
            with pytest.raises(PlacementError) as error:
                layout(experiment(*keys, *more), other)
            assert advice not in str(error.value)


def test_conflicts_between_keys() -> None:
    with pytest.raises(
        ConfigError, match=r"tensor_parallel = 2: generation.engine = 'transformers' holds a model on one"
    ):
        experiment("generation.tensor_parallel=2")


def test_a_split_engine_shares_each_of_its_gpus() -> None:
    placed = layout(experiment(*split(2), SHARED, "training.workers=8"), described("96cpu:1024gib:8gpu:80gib"))
    assert placed.mode == "colocated" and counts(placed) == (4, 8, 8)
    assert where(placed)["engine"] == [("node 0", (i, i + 1)) for i in range(0, 8, 2)]
    assert where(placed)["scorer"] == where(placed)["training worker"] == [("node 0", (i,)) for i in range(8)]
    assert placed.engine.sleeps and placed.scorer.sleeps
    # of each of its two GPUs it uses a part, and Ray, which gives parts of one GPU only, is asked for none
    assert (placed.engine.gpus, placed.engine.shares, placed.engine.asked_gpus) == (0.5, 2, 0.0)
    assert (placed.scorer.shares, placed.scorer.asked_gpus) == (1, 0.1)


def test_split_engines_have_their_gpus_on_one_node_and_others_take_what_is_left() -> None:
    nodes = described("2x16cpu:64gib:3gpu:80gib")
    placed = layout(experiment(*split(2), SHARED, "training.workers=6"), nodes)
    assert counts(placed) == (2, 6, 6)
    assert sorted(where(placed)["engine"]) == [("node 0", (0, 1)), ("node 1", (0, 1))]
    assert {seat for seat, _ in where(placed)["scorer"][4:]} == {"node 0", "node 1"}, "beside no engine"
    with pytest.raises(PlacementError, match=r"engine 2 \+ scorer 4 .*asks for .* 2 GPUs on one node; left are"):
        layout(experiment(*split(2), SHARED, *numbers(3, 6, 6)), nodes)
    with pytest.raises(
        PlacementError,
        match=r"8 GPUs are asked for \(generation.replicas=4, each on 2 GPUs that no other .* lower "
        r"generation.replicas to 3 and training.workers to 6 or run on",
    ):
        layout(experiment(*split(2), SHARED, *numbers(4, 6, 7)), nodes)
    with pytest.raises(PlacementError, match=r"8 GPUs are asked for .*lower generation.tensor_parallel to 3 or run"):
        layout(experiment(*split(8), SHARED), nodes)


def test_what_does_not_fit_on_gpus_of_its_own_is_shared_split_or_not() -> None:
    node = described("96cpu:1024gib:4gpu:80gib")
    assert layout(experiment(*split(2), *numbers(1, 1, 1)), node).mode == "dedicated"
    assert layout(experiment(*split(2), *numbers(2, 4, 4)), node).mode == "colocated"


def test_bundles_are_whole_gpus_with_all_that_runs_on_them() -> None:
    placed = layout(experiment(*numbers(1, 2, 3), "placement.gpus=colocated"), described("16cpu:64gib:4gpu:80gib"))
    reserved = bundles(placed)
    assert [bundle.members for bundle in reserved] == [
        (("engine", 0), ("scorer", 0), ("training worker", 0)),
        (("scorer", 1), ("training worker", 1)),
        (("training worker", 2),),
    ]
    assert [bundle.resources() for bundle in reserved] == [{"CPU": n, "GPU": 1.0} for n in (3, 2, 1)]
    assert sum(role.gpus for role in placed.roles) == pytest.approx(1.0)
    halved = bundles(layout(experiment(*split(2), *numbers(1, 2, 3), SHARED), described("16cpu:64gib:4gpu:80gib")))
    assert [(bundle.members, bundle.used_by) for bundle in halved] == [
        ((("engine", 0), ("scorer", 0), ("training worker", 0)), ()),
        ((("scorer", 1), ("training worker", 1)), (("engine", 0),)),
        ((("training worker", 2),), ()),
    ]
    assert [bundle.resources() for bundle in halved] == [{"CPU": n, "GPU": 1.0} for n in (3, 2, 1)]
    alone = bundles(layout(experiment(*split(4), *numbers(1, 1, 1), SHARED), described("16cpu:64gib:4gpu:80gib")))
    assert [bundle.resources() for bundle in alone] == [{"CPU": 3, "GPU": 1.0}, *[{"GPU": 1.0}] * 3]
    own = bundles(layout(experiment(*split(2), *numbers(2, 1, 1)), described("2x16cpu:64gib:3gpu:80gib")))
    assert [(bundle.gpus, bundle.members) for bundle in own] == [
        (2.0, (("engine", 0),)),
        (2.0, (("engine", 1),)),
        (1.0, (("scorer", 0),)),
        (1.0, (("training worker", 0),)),
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 24), st.integers(0, 8), st.sampled_from([16.0, 24.0, 80.0])), min_size=1, max_size=6
    ),
    st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 9)),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["auto", "dedicated", "colocated"]),
    st.sampled_from([None, QWEN_7B]),
)
def test_no_node_is_over_its_capacity(
    nodes: list[tuple[int, int, float]], counts: tuple[int, int, int], gpus: int, how: str, sizes: Sizes | None
) -> None:
    cluster = Cluster(tuple(Node(f"n{i}", c, 256.0, g, m if g else 0.0, f"id{i}") for i, (c, g, m) in enumerate(nodes)))
    overrides = [*BIG_ADAPTER, *numbers(*counts)]
    if gpus > 1:
        overrides += split(gpus)
    asked = experiment(*overrides, f"placement.gpus={how}")
    try:
        placed = layout(asked, cluster, sizes)
    except PlacementError as error:
        assert len(str(error)) > 40
        return
    assert [role.count for role in placed.roles] == list(counts)
    assert [(s.role, s.index) for s in placed.seats] == [(r.name, i) for r in placed.roles for i in range(r.count)]
    by_name = {role.name: role for role in placed.roles}
    for node in cluster.nodes:
        here = [seat for seat in placed.seats if seat.node == node]
        assert sum(by_name[seat.role].cpus for seat in here) <= node.cpus + 1e-6
        use = dict.fromkeys(range(node.gpus), 0.0)
        for seat in here:
            role = by_name[seat.role]
            wanted = max(1, role.gpus) * role.shares if placed.mode != "cpu" else 0
            assert len(set(seat.gpus)) == len(seat.gpus) == wanted
            for device in seat.gpus:
                use[device] += min(1.0, role.gpus)
        assert all(used <= 1 + 1e-6 for used in use.values())
        if placed.mode == "colocated":
            for device in use:
                roles = [seat.role for seat in here if device in seat.gpus]
                assert len(set(roles)) == len(roles)
        if sizes is not None:
            assert placed.estimates is not None
            assert sum(placed.estimates[seat.role].host for seat in here) <= node.memory_gib + 1e-6
            assert all(placed.estimates[s.role].total <= node.gpu_memory_gib for s in here if s.gpus)
    if placed.mode == "dedicated":
        assert sum(len(seat.gpus) for seat in placed.seats) == counts[0] * asked.generation.tensor_parallel + sum(
            counts[1:]
        )
    needed = on_fewest_nodes(placed, cluster)
    assert len(needed) <= len({seat.node for seat in placed.seats})
    assert sorted((s.role, s.index) for seats in needed for s in seats) == sorted(
        (s.role, s.index) for s in placed.seats
    )
    in_bundles = [member for bundle in bundles(placed) for member in bundle.members]
    assert sorted(in_bundles) == ([] if placed.mode == "cpu" else sorted((s.role, s.index) for s in placed.seats))
