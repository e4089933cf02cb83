"""Engines that share a GPU with training give its memory back for the weights phase, and take it again in two steps."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors import pool
from actors.engines import gpu_memory
from actors.engines.base import Engine, EngineSettings, Held, Probe, Request, Sampled
from actors.engines.proof import Checksums
from actors.engines.thread import EngineThread
from actors.engines.transformers import TransformersEngine
from actors.engines.vllm import VllmEngine, free_in_worker
from actors.file_transfer import SHARED_DISK
from actors.generation import Chunk, GenerationActor
from scpl_ray.config import Experiment
from scpl_ray.controller import Loop
from scpl_ray.feedback.population import PopulationSimulator
from scpl_ray.protocols import Choice, Engines, Task, TrainingJob, TrainingResult
from scpl_ray.records import Weights
from scpl_ray.storage.run_directory import Store
from tests.support import fakes
from tests.support.loops import Silent, small
from tests.support.tiny_models import save_model

SHARED = EngineSettings.of(Experiment(), 0.5, memory_share=0.6, sleeps=True)
ADAPTERS = dataclasses.replace(SHARED, adapter_rank=16)


class Told(Engine):
    """Writes down what it is told to do with memory."""

    def __init__(self, settings: EngineSettings, said: list[str]) -> None:
        super().__init__(settings)
        self.said = said

    @classmethod
    def held(cls, positions: int, *, on_gpu: bool) -> Held:
        return Held(cached_tokens=positions, read_tokens=positions, rows=1)

    def check(self, weights: Weights) -> None:
        return

    def _prepare(self, folder: Path) -> Any:
        return None

    def _read_model(self, folder: Path, config: Any) -> None:
        self.said.append("read model")

    def _serve_adapter(self, adapter: Path | None) -> None:
        if self.settings.adapter_rank:
            self.said.append(f"serve {adapter.name if adapter else None}")

    def _fall_asleep(self) -> None:
        self.said.append(f"sleep at level {self.settings.sleep_level}")

    def _wake_weights(self) -> None:
        self.said.append("wake weights")

    def _wake_cache(self) -> None:
        self.said.append("wake keys and values")

    def generate(self, requests: Sequence[Request]) -> list[Sampled]:
        self.said.append("generate")
        return [Sampled((2, 1), "stop") for _ in requests]

    def probe(self) -> Probe:
        return Probe((1,), (0.0,))


class SharingGenerator(fakes.FakeGenerator):
    """The fake pool, with an engine beside it that shares a GPU."""

    def __init__(self, seed: int, engine: Engine) -> None:
        super().__init__(seed)
        self.engine = engine

    def refresh(self, weights: Weights) -> None:
        super().refresh(weights)
        self.engine.load(weights)

    def sleep(self) -> None:
        super().sleep()
        self.engine.sleep()


class SharingTrainer(fakes.FakeTrainer):
    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said = said

    @classmethod
    def held(cls, positions: int, *, on_gpu: bool) -> Held:
        return Held(cached_tokens=positions, read_tokens=positions, rows=1)

    def train(self, job: TrainingJob) -> TrainingResult:
        self.said.append("train")
        return super().train(job)


def played(root: Path, settings: EngineSettings) -> list[str]:
    """What an engine and a trainer on one GPU do in a run of two rounds."""
    said: list[str] = []
    experiment = small("loop.rounds=2")
    task = fakes.FakeTask(experiment.groups.names)
    engines = Engines(
        SharingGenerator(experiment.seed, Told(settings, said)),
        fakes.FakeScorer(task),
        SharingTrainer(said),
        PopulationSimulator(experiment, task),
    )
    base = fakes.make_base(root / "base", 2)
    store = Store.create(root / "run", experiment, {})
    Loop(experiment, task, store, engines, base, fakes.encode, Silent()).run()
    store.close()
    return said


def test_a_round_puts_engines_to_sleep_before_training_and_wakes_them_in_two_steps(tmp_path: Path) -> None:
    one_round = ["sleep at level 2", "train", "wake weights", "read model", "wake keys and values"]
    assert played(tmp_path, SHARED) == ["read model", *one_round, *one_round]


def test_where_nothing_is_shared_nothing_sleeps(tmp_path: Path) -> None:
    alone = EngineSettings.of(Experiment(), 1.0)
    assert played(tmp_path, alone) == ["read model", "train", "read model", "train", "read model"]


def test_beside_adapters_the_weights_are_kept_and_not_read_again(tmp_path: Path) -> None:
    said: list[str] = []
    engine = Told(ADAPTERS, said)
    engine.sleep()  # nothing is in memory yet
    engine.load(Weights(0, tmp_path))
    engine.load(Weights(1, tmp_path, tmp_path / "one"))
    engine.sleep()
    engine.sleep()
    assert engine.asleep
    engine.load(Weights(2, tmp_path, tmp_path / "two"))
    assert not engine.asleep
    assert said == [
        *("read model", "serve None", "serve one"),
        *("sleep at level 1", "wake weights", "serve two", "wake keys and values"),
    ]


class StartsSlowly(fakes.FakeGenerator):
    """Takes its time to start, or until a reward model is being fitted."""

    def __init__(self, seed: int, said: list[str], fitting: threading.Event) -> None:
        super().__init__(seed)
        self.said, self.fitting = said, fitting

    def refresh(self, weights: Weights) -> None:
        super().refresh(weights)
        self.fitting.wait(0.5)
        self.said.append(f"serve {weights.policy_version}")


class Fitting(fakes.FakeScorer):
    def __init__(self, task: Task, said: list[str], fitting: threading.Event) -> None:
        super().__init__(task)
        self.said, self.fitting = said, fitting

    def fit(self, choices: Sequence[Choice], *, base: Path, output: Path, seed: int) -> dict[str, float]:
        self.said.append("fit")
        self.fitting.set()
        return super().fit(choices, base=base, output=output, seed=seed)


@pytest.mark.parametrize(
    ("shares_gpus", "resumed"), [(True, ["serve 0", "fit", "serve 1"]), (False, ["fit", "serve 0", "serve 1"])]
)
def test_where_gpus_are_shared_engines_start_before_a_reward_model_is_fitted_beside_them(
    tmp_path: Path, shares_gpus: bool, resumed: list[str]
) -> None:
    """A run that was killed in its first completions is resumed, so that no engine is up when round 1 goes on."""
    experiment = small("loop.rounds=1")
    task = fakes.FakeTask(experiment.groups.names)
    base = fakes.make_base(tmp_path / "base", 2)

    def begun(store: Store, said: list[str]) -> Loop:
        fitting = threading.Event()
        generator, scorer = StartsSlowly(experiment.seed, said, fitting), Fitting(task, said, fitting)
        population = PopulationSimulator(experiment, task)
        engines = Engines(generator, scorer, fakes.FakeTrainer(), population, shares_gpus=shares_gpus)
        return Loop(experiment, task, store, engines, base, fakes.encode, Silent())

    store = Store.create(tmp_path / "run", experiment, {})
    begun(store, []).evaluation(0)
    store.close()
    store, _ = Store.open(tmp_path / "run")
    begun(store, said := []).run()
    store.close()
    assert said == resumed


def test_an_engine_that_cannot_load_stays_asleep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    engine = Told(SHARED, said)
    engine.load(Weights(0, tmp_path))
    engine.sleep()

    def refuse(folder: Path) -> None:
        raise ValueError("too few positions")

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="positions"):
        patch.setattr(engine, "_prepare", refuse)
        engine.load(Weights(1, tmp_path))
    assert said == ["read model", "sleep at level 2"] and engine.asleep
    engine.load(Weights(1, tmp_path))
    assert said[2:] == ["wake weights", "read model", "wake keys and values"]


class Measured(Told):
    """Its GPU has as much free memory as the next of these numbers says, in GiB."""

    def __init__(self, said: list[str], free: list[float]) -> None:
        super().__init__(SHARED, said)
        self.free = free

    def _free_bytes(self) -> int:
        self.said.append(f"{self.free[0]:g} free")
        return int(self.free.pop(0) * gpu_memory.GIB)


def test_a_wake_waits_until_what_was_given_back_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """40 GiB are given back; the memory of a worker that was killed comes back in steps."""
    monkeypatch.setattr(gpu_memory.time, "sleep", lambda seconds: said.append("wait"))
    said: list[str] = []
    engine = Measured(said, [8, 48, 20, 20, 47.95])
    engine.load(Weights(0, tmp_path))
    engine.sleep()
    assert said == ["read model", "8 free", "sleep at level 2", "48 free"]
    engine.load(Weights(1, tmp_path))
    waited = ["20 free", "wait", "20 free", "wait", "47.95 free"]
    assert said[4:] == [*waited, "wake weights", "read model", "wake keys and values"]
    assert caplog.text.count("40.00 GiB of the shared GPU are needed to wake and 20.00 are free; waiting") == 1


def test_a_wake_that_never_finds_room_says_who_to_look_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr(gpu_memory.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(gpu_memory.time, "monotonic", lambda: float(next(clock)))
    said: list[str] = []
    engine = Measured(said, [8, 48, *[20.0] * 20])
    engine.load(Weights(0, tmp_path))
    engine.sleep()
    with pytest.raises(RuntimeError, match=r"40.00 GiB .* 20.00 are free after 120 s: another process .*nvidia-smi"):
        engine.load(Weights(1, tmp_path))
    assert "wake weights" not in said and engine.asleep


def test_without_a_gpu_nothing_is_waited_for(tmp_path: Path) -> None:
    assert gpu_memory.free_bytes() is None
    gpu_memory.wait_until_free(2**40, gpu_memory.free_bytes)


class InThisProcess(GenerationActor):
    """The actor, without a process and a log of its own."""

    def __init__(self, engine: Engine) -> None:
        self._settings = engine.settings
        self._engine = engine
        self._thread = EngineThread(engine, together=True)
        self._files = SHARED_DISK
        self._checksums = Checksums()
        self._served = None
        self._lock = threading.Lock()
        self._tokenizer = None


def test_an_engine_that_finds_no_room_says_so_and_stays_for_when_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is intact, so its process goes on; a new one would fail too, with words that say nothing of the GPU."""

    def ended(status: int) -> None:
        raise AssertionError("the process ended")

    monkeypatch.setattr(pool.os, "_exit", ended)
    monkeypatch.setattr(pool.logging, "shutdown", lambda: None)
    monkeypatch.setattr(gpu_memory, "wait_until_free", functools.partial(gpu_memory.wait_until_free, wait_s=0.0))
    said: list[str] = []
    actor = InThisProcess(Measured(said, [8, 48, 20, 48]))
    actor.refresh(Weights(0, tmp_path))
    actor.sleep()
    with pytest.raises(RuntimeError, match=r"20\.00 are free after 0 s: another process still holds the rest"):
        actor.refresh(Weights(1, tmp_path))
    assert "wake weights" not in said and actor._engine.asleep
    actor.refresh(Weights(1, tmp_path))
    assert said[-3:] == ["wake weights", "read model", "wake keys and values"]


def test_completions_asked_of_a_sleeping_engine_wake_it(tmp_path: Path) -> None:
    said: list[str] = []
    model = save_model(tmp_path, "llama", hidden=32)
    actor = InThisProcess(Told(SHARED, said))
    weights = Weights(0, model)
    for _ in range(2):
        actor.refresh(weights)
        actor.sleep()
        assert len(actor.generate(weights, Chunk(0, "test", (("q", "w5 w6", 3),)))) == 3
    assert said[-5:] == ["sleep at level 2", "wake weights", "read model", "wake keys and values", "generate"]


class Recorded:
    """Stands for ``vllm.LLM``: what it is asked, and its answer to ``wake_up`` at the end."""

    def __init__(self, awake: bool = True) -> None:
        self.asked: list[tuple[str, object]] = []
        self.awake = awake

    def sleep(self, level: int) -> None:
        self.asked.append(("sleep", level))

    def wake_up(self, tags: list[str]) -> bool:
        self.asked.append(("wake", *tags))
        return self.awake and tags == ["kv_cache"]

    def collective_rpc(self, method: str, kwargs: dict[str, str]) -> None:
        self.asked.append((method, Path(kwargs["weights_path"]).name))

    def apply_model(self, function: Callable[..., None]) -> None:
        return

    def reset_prefix_cache(self) -> bool:
        return True


def sharing_vllm(llm: Recorded, folder: Path) -> VllmEngine:
    engine = VllmEngine(dataclasses.replace(SHARED, dtype="float32"))
    engine._llm, engine.weights = llm, Weights(0, folder)
    return engine


def test_what_vllm_is_told(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    model = save_model(tmp_path / "next", "llama", hidden=32)
    llm = Recorded()
    engine = sharing_vllm(llm, tmp_path)
    engine.sleep()
    engine.load(Weights(1, model))
    assert llm.asked == [("sleep", 2), ("wake", "weights"), ("reload_weights", "next"), ("wake", "kv_cache")]
    broken = sharing_vllm(Recorded(awake=False), tmp_path)
    broken.sleep()
    with pytest.raises(RuntimeError, match="still asleep"):
        broken.load(Weights(1, model))


class Split(Recorded):
    """A model over several GPUs, each of which has as much free memory as the next of these lists says, in GiB."""

    def __init__(self, free: list[list[float]]) -> None:
        super().__init__()
        self.free = free

    def collective_rpc(self, method: Any, kwargs: Any = None) -> Any:
        if method is not free_in_worker:
            return super().collective_rpc(method, kwargs)
        self.asked.append(("free", *self.free[0]))
        return [int(gib * gpu_memory.GIB) for gib in self.free.pop(0)]


def test_a_split_engine_waits_for_the_gpu_that_has_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model is in processes of vLLM's own, and this process has no memory on any GPU."""
    pytest.importorskip("vllm")
    monkeypatch.setattr(gpu_memory.time, "sleep", lambda seconds: None)
    model = save_model(tmp_path / "next", "llama", hidden=32)
    llm = Split([[8, 9], [48, 49], [48, 20], [48, 48]])
    engine = VllmEngine(dataclasses.replace(SHARED, dtype="float32", tensor_parallel=2))
    engine._llm, engine.weights = llm, Weights(0, tmp_path)
    engine.sleep()
    assert engine.gave_back == 40 * gpu_memory.GIB
    engine.load(Weights(1, model))
    assert llm.asked == [
        *(("free", 8, 9), ("sleep", 2), ("free", 48, 49), ("free", 48, 20), ("free", 48, 48)),
        *(("wake", "weights"), ("reload_weights", "next"), ("wake", "kv_cache")),
    ]
    assert free_in_worker(None) is None, "no GPU is in use here"


@pytest.mark.parametrize("kept", [1, 2])
def test_transformers_leaves_its_device_and_comes_back(tmp_path: Path, kept: int) -> None:
    """On a machine without GPUs its device is the CPU; what is kept, and that the answer is the same, can be seen."""
    model = save_model(tmp_path, "llama", hidden=32)
    settings = dataclasses.replace(SHARED, dtype="float32", gpus=0.0, adapter_rank=16 if kept == 1 else None)
    engine = TransformersEngine(settings)
    engine.load(Weights(0, model))
    before = engine.probe()
    engine.sleep()
    assert (engine._model is None) == (kept == 2)
    engine.load(Weights(0, model))
    assert engine.probe() == before
