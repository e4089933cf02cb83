"""Scorers leave a GPU that they share before a worker trains on it, and hold one language model there at a time."""

import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, Qwen2Config

from actors import reward, training
from actors.file_transfer import SHARED_DISK
from actors.fleet import Fleet, seat_places
from actors.placement.cluster import Cluster, Node, described
from actors.placement.layout import layout
from actors.placement.memory import Sizes, model_size
from actors.reward import ScoringActor
from actors.training import RayTrainer
from jobs.driver import experiments
from scpl_ray.config import Lora
from scpl_ray.protocols import TrainingResult
from scpl_ray.records import Weights
from tests.support.model_cards import QWEN_7B
from tests.support.training_jobs import ADAPTER, SMALL


class Moved:
    """Stands for a model: where it is."""

    def __init__(self, name: str, said: list[str]) -> None:
        self.name, self.said, self.device = name, said, "cpu"

    def to(self, device: str) -> "Moved":
        if device != self.device:
            self.said.append(f"{self.name} to {device}")
        self.device = device
        return self

    def eval(self) -> "Moved":
        return self


class Scorer(ScoringActor):
    """The actor, without a process, on a share of a GPU."""

    def __init__(self, gpus: float) -> None:
        self._files, self._device, self._shares_gpu = SHARED_DISK, "cuda" if gpus else "cpu", 0 < gpus < 1
        self._dtype, self._trust_remote_code, self._tokens_per_batch = None, False, 64
        self._language_models, self._reward_model, self._adapters_are_served = {}, None, False
        self._read_before = {}
        self._groups = ()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    moves: list[str] = []
    monkeypatch.setattr(reward, "load_model", lambda folder, *_, **__: Moved(folder.name, moves))
    monkeypatch.setattr(reward, "negative_log_likelihood", lambda model, *_: moves.append(f"ask {model.name}"))
    return moves


def test_one_language_model_is_on_a_shared_gpu_and_none_while_workers_train(said: list[str]) -> None:
    scorer = Scorer(0.1)
    base, policy = Weights(0, Path("/base")), Weights(1, Path("/policy"))
    for weights in (base, policy):
        scorer.likelihoods(weights, [])
    assert said == ["base to cuda", "ask base", "base to cpu", "policy to cuda", "ask policy"]
    said.clear()
    scorer._reward_model = (Path("/r"), SimpleNamespace(sequence=SimpleNamespace(model=Moved("rewards", said))))
    scorer._reward_model[1].sequence.model.device = "cuda"
    scorer.sleep()
    assert said == ["policy to cpu", "rewards to cpu"]
    scorer.likelihoods(policy, [])
    assert said[2:] == ["policy to cuda", "ask policy"], "and it is not read from disk again"


def test_a_scorer_with_a_gpu_of_its_own_keeps_both_there(said: list[str]) -> None:
    scorer = Scorer(1.0)
    for folder in ("/base", "/policy", "/base"):
        scorer.likelihoods(Weights(0, Path(folder)), [])
    assert said == ["base to cuda", "ask base", "policy to cuda", "ask policy", "ask base"]


def test_on_a_cpu_the_base_model_keeps_the_prompts_that_it_has_read_until_it_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=32, num_key_value_heads=1, **shape)).eval()
    monkeypatch.setattr(reward, "load_model", lambda *_, **__: network)
    texts = [((*range(30), 3, 4, 5), (6, 7)), ((1, 2), (3,))]
    small = Scorer(0.0)
    expected = small.likelihoods(Weights(0, Path("/base")), texts)
    assert small._read_before == {Path("/base"): None}, "a small model reads them again"
    monkeypatch.setattr(reward.kept_prompts, "LARGE", 1)
    scorer = Scorer(0.0)
    for version, folder in enumerate(("/base", "/one", "/base", "/two")):
        found = scorer.likelihoods(Weights(0 if folder == "/base" else version, Path(folder)), texts)
        assert [count for _, count in found] == [2, 1]
        assert [nats for nats, _ in found] == pytest.approx([nats for nats, _ in expected], rel=1e-5)
    assert {folder: len(kept) for folder, kept in scorer._read_before.items()} == {Path("/base"): 1}
    for folder in ("/three", "/four"):
        scorer.likelihoods(Weights(3, Path(folder)), texts)
    assert not scorer._read_before


def test_a_scorer_trains_the_reward_model_in_passes_of_as_many_tokens_as_it_scores_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(reward.reward_model, "fit", lambda _, **settings: given.update(settings) or {})
    scorer = Scorer(1.0)
    scorer._tokens_per_batch = 77
    scorer.fit([], tmp_path, tmp_path / "output", 0)
    assert given["effort"].tokens_per_pass == given["tokens_per_batch"] == 77


def test_a_reader_is_on_the_node_of_its_scorer_and_none_on_a_head_without_cpus() -> None:
    """Readers reserve nothing, so Ray would put them anywhere, on the head too."""
    nodes = (
        Node("head", 0.0, 32.0, id="c" * 56),
        *(Node(id_, 16.0, 128.0, 2, 80.0, id_) for id_ in ("a" * 56, "b" * 56)),
    )
    placed = layout(experiments.load(None, ["placement.gpus=colocated", "reward.replicas=4"]), Cluster(nodes))
    places = seat_places(placed, placed.scorer)
    assert sorted(place.node_id[0] for place in places) == ["a", "a", "b", "b"]
    assert [place.node_id for place in places] == [seat.node.id for seat in placed.of(placed.scorer)]
    assert all(place.soft for place in places), "a reader whose node was lost starts elsewhere"


def test_without_gpus_processes_sit_on_the_nodes_whose_memory_they_were_counted_in(tmp_path: Path) -> None:
    """Half of a node's cores are too many engines for its memory, but Ray counts cores alone."""
    small, large = Node("small", 8.0, 8.0, id="a" * 56), Node("large", 16.0, 128.0, id="b" * 56)
    half = Sizes(dataclasses.replace(seven_billion(None).policy, parameters=500_000_000), None)
    asked = experiments.load(None, ["reward.terms={well_formed: 1.0}", "model.dtype=float32"])
    placed = layout(asked, Cluster((small, large)), half)
    unreserved: Any = SimpleNamespace(places=lambda role: [])
    fleet = Fleet(tmp_path, Cluster((small, large), connected=True))
    for role in (placed.engine, placed.scorer):
        found = [place.node_id for place in fleet._places(placed, unreserved, role)]
        assert found == [seat.node.id for seat in placed.of(role)] and len(found) > 5
        assert found.count(small.id) <= 1, role.name
    ids = [seat.node.id for seat in placed.of(placed.worker)]
    (selector,) = training.where([small.id, large.id], ids) or [{}]
    assert list(selector.values()) == ids
    assert training.where([small.id], [large.id, small.id])[0] == {}, "a node that was lost binds nobody"  # type: ignore[index]
    assert training.where([small.id], []) is None
    one = Fleet(tmp_path, Cluster((large,), connected=True))
    assert one._places(placed, unreserved, placed.engine) == [], "on one machine there is nothing to say"


def test_a_trainer_makes_room_before_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    run = SimpleNamespace(alive=True, close=lambda: order.append("close"))
    run.train = lambda *_: order.append("train") or TrainingResult(1, 1, 1.0, 1.0, 1.0, 0.0, 0.0)
    works = RayTrainer(
        SMALL, ADAPTER, folder=tmp_path, resources_per_worker={"CPU": 1.0}, make_room=lambda: order.append("room")
    )
    monkeypatch.setattr(works, "_run", run)
    monkeypatch.setattr(training, "_absolute", lambda job: job)
    works.train(SimpleNamespace(round=1))  # type: ignore[arg-type]
    assert order[:2] == ["room", "train"]


ALL_WEIGHTS, ADAPTERS = ["model.lora=null", "generation.refresh=reload"], ["generation.refresh=adapter"]


@functools.cache
def seven_billion(lora: Lora | None) -> Sizes:
    return Sizes(model_size(Qwen2Config(**QWEN_7B), lora), None)


@pytest.mark.parametrize("split", [1, 2, 4])
@pytest.mark.parametrize(("keys", "gpu_gib"), [(ALL_WEIGHTS, 80), (ADAPTERS, 80)], ids=["all weights", "adapter"])
def test_seven_billion_weights_fit_eight_shared_gpus(keys: list[str], gpu_gib: int, split: int) -> None:
    """Of all weights and of an adapter, with engines on one GPU or split over several, what is on a GPU while each of
    its processes works adds up to less than it has."""
    settings: Any = experiments.load(
        None,
        [
            *("model.dtype=bfloat16", "placement.gpus=colocated", "training.worker_lifetime=round", *keys),
            *("generation.engine=vllm", f"generation.tensor_parallel={split}", f"generation.replicas={8 // split}"),
            *("reward.replicas=8", "training.workers=8", "training.zero_stage=3"),
            *("reward.terms={well_formed: 1.0}", "task.max_prompt_tokens=128", "generation.max_new_tokens=128"),
        ],
    )
    placed = layout(settings, described(f"96cpu:1024gib:8gpu:{gpu_gib}gib"), seven_billion(settings.model.lora))
    assert placed.mode == "colocated" and placed.estimates is not None
    engine, scorer, worker = (placed.estimates[role.name] for role in placed.roles)
    assert engine.idle + scorer.idle + worker.total < gpu_gib
    assert placed.engine.memory_share * gpu_gib + scorer.total + worker.idle < gpu_gib
    assert scorer.idle <= 1.0 and scorer.working["weights"] < 15, "one model of 14.2 GiB, and none while it sleeps"
    assert scorer.host > 14 * (1 if settings.model.lora else 2), "which waits in host memory"
    weights = engine.working["weights"]
    assert weights == pytest.approx(2 * 7_615_616_512 / 2**30 / split, rel=0.01), "an engine's part of the model"
    assert {len(seat.gpus) for seat in placed.of(placed.engine)} == {split}
    assert sum(placed.estimates[seat.role].host for seat in placed.seats) < 1024
