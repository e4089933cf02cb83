"""The generation pool with real Ray actors; engines are vLLM, or transformers where the engine does not matter."""

import dataclasses
import gc
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.engines.base import Engine, EngineSettings, Held, Probe, Request, Sampled
from actors.engines.registry import ENGINES
from actors.engines.thread import EngineThread
from actors.engines.transformers import TransformersEngine
from actors.engines.vllm import VllmEngine
from actors.generation import RayGenerator
from actors.placement.role import Role
from scpl_ray.config import Experiment
from scpl_ray.models.likelihood import negative_log_likelihood
from scpl_ray.models.tokens import encode_prompt
from scpl_ray.records import Completion, Query, Weights
from scpl_ray.seeds import derive_seed
from tests.support.tiny_models import VOCABULARY, config, save_adapter, save_model

pytestmark = pytest.mark.engines

Start = Callable[..., RayGenerator]


def tied(family: str, folder: Path) -> Path:
    """An untrained model whose output layer is its input embedding."""
    save_model(folder, family)
    settings = config(family)
    settings.tie_word_embeddings = True
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    return folder


def disturbed(model: Path, folder: Path, seed: int) -> Path:
    """The model with other weights."""
    torch.manual_seed(seed)
    changed = AutoModelForCausalLM.from_pretrained(model)
    for parameter in changed.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    changed.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def llama_changed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return disturbed(llama, tmp_path_factory.mktemp("changed"), 1)


@pytest.fixture(scope="module")
def start(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts pools; ends them after the module."""
    pools = []

    def new(replicas: int = 1, deadline_s: float = 300.0, **keys: object) -> RayGenerator:
        experiment = Experiment.model_validate({"seed": 5, "generation": {"max_new_tokens": 20, **keys}})
        role = Role("engine", replicas, 0.2, 0.0, 1)
        pool = RayGenerator(experiment, role, tmp_path_factory.mktemp("logs"), deadline_s=deadline_s)
        pools.append(pool)
        return pool

    yield new
    for pool in pools:
        pool.close()


@pytest.fixture(scope="module")
def two(start: Start) -> RayGenerator:
    """vLLM, two replicas."""
    return start(2)


@pytest.fixture(scope="module")
def one(start: Start) -> RayGenerator:
    """vLLM, one replica, which writes few completions at the same time."""
    return start(1, max_sequences=40)


def queries(count: int, words: int = 60) -> list[Query]:
    """Prompts of 1 to ``words`` words, every third one shared."""
    draw = np.random.default_rng(3)
    prompts = [" ".join(f"w{w}" for w in draw.integers(2, VOCABULARY, draw.integers(1, words))) for _ in range(count)]
    return [Query(f"q{i}", "a", prompts[i // 3 * 3], None, None) for i in range(count)]


def complete(pool: RayGenerator, asked: Sequence[Query], samples: Sequence[int]) -> dict[str, Completion]:
    """All completions by id; fails where one came twice."""
    drawn = [c for chunk in pool.stream(asked, samples=samples, purpose="test") for c in chunk]
    by_id = {c.completion_id: c for c in drawn}
    assert len(by_id) == len(drawn)
    return by_id


def test_one_or_two_replicas_any_company(one: RayGenerator, two: RayGenerator, llama: Path) -> None:
    asked = queries(300)
    samples = [1 + i % 4 for i in range(300)]
    for pool in (one, two):
        pool.refresh(Weights(0, llama))
    # 740 prompts of up to 60 tokens at once are more than vLLM reads in one step.
    first = complete(one, asked, samples)
    assert complete(two, asked, samples) == first
    assert first.keys() == {f"q{i}-s{j}" for i in range(300) for j in range(samples[i])}
    assert len({c.token_ids for c in first.values()}) > 700
    tokenizer = AutoTokenizer.from_pretrained(llama)
    reasons = set()
    for completion in first.values():
        query = asked[int(completion.query_id[1:])]
        assert completion.seed == derive_seed(5, "generation", "test", query.query_id, completion.sample_index)
        assert completion.policy_version == 0
        assert completion.prompt_token_ids == encode_prompt(tokenizer, query.prompt, 64)
        assert completion.text == tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        ended = completion.token_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in completion.token_ids[:-1]
        assert completion.finish_reason == ("stop" if ended else "length")
        assert ended or len(completion.token_ids) == 20
        reasons.add(completion.finish_reason)
    assert reasons == {"stop", "length"}


def test_samples_follow_the_model(one: RayGenerator, llama: Path) -> None:
    one.refresh(Weights(0, llama))
    asked = [Query("q", None, "w7 w8 w9", None, None)]
    firsts = [c.token_ids[0] for c in complete(one, asked, [4000]).values()]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(llama)(torch.tensor([[7, 8, 9]])).logits[0, -1]
    expected = 4000 * torch.softmax(logits.double(), -1).numpy()
    # chi-square with 199 degrees of freedom: mean 199, standard deviation 20
    assert ((np.bincount(firsts, minlength=VOCABULARY) - expected) ** 2 / expected).sum() < 199 + 4 * 20


def test_engines_outlive_refreshes(two: RayGenerator, llama: Path, llama_changed: Path) -> None:
    asked = queries(40)
    two.refresh(Weights(0, llama))
    before = two.processes()
    assert len({p.pid for p in before}) == len({p.actor_id for p in before}) == 2
    old = complete(two, asked, [1] * 40)
    two.refresh(Weights(1, llama_changed))
    new = complete(two, asked, [1] * 40)
    assert {c.policy_version for c in new.values()} == {1}
    assert sum(old[i].token_ids != new[i].token_ids for i in old) > 30
    two.refresh(Weights(0, llama))
    assert complete(two, asked, [1] * 40) == old
    assert two.processes() == before
    with pytest.raises(RuntimeError, match="policy versions 0 and 2 are the same bytes"):
        two.refresh(Weights(2, llama))
    two.refresh(Weights(0, llama))


def test_killed_engine_comes_back(one: RayGenerator, two: RayGenerator, llama: Path, llama_changed: Path) -> None:
    asked = queries(300, words=12)
    for pool in (one, two):
        pool.refresh(Weights(0, llama))
        pool.refresh(Weights(4, llama_changed))
    expected = complete(one, asked, [2] * 300)
    before = two.processes()
    drawn = []
    for number, chunk in enumerate(two.stream(asked, samples=[2] * 300, purpose="test")):
        drawn += chunk
        if number == 2:
            os.kill(before[0].pid, signal.SIGKILL)
    assert len(drawn) == len(expected)
    assert {c.completion_id: c for c in drawn} == expected
    after = two.processes()
    assert after[0].pid != before[0].pid
    assert after == [dataclasses.replace(before[0], pid=after[0].pid, restarts=1), before[1]]


# --- vLLM without Ray around it: a process with vLLM takes long to start, so all of these share one


class Forgetful(VllmEngine):
    """vLLM without what makes a refresh safe."""

    def _reset_prefix_cache(self) -> None:
        return


@dataclasses.dataclass(frozen=True)
class Case:
    """An engine of its own, which loads some weights one after the other."""

    settings: EngineSettings
    weights: Sequence[Weights]
    engine: type[VllmEngine] = VllmEngine


ELSEWHERE = "models that vLLM looked at in another process"
Answer = tuple[Probe, list[Request], list[Sampled]]
"""To the probe prompt, and to all queries, which are given too."""


def served(cases: dict[str, Case], asked: Sequence[Query]) -> dict[str, list[Answer] | str]:
    """For every case, what each weights answer, or the error of the probe that ended the case."""
    found: dict[str, list[Answer] | str] = {}
    for name, case in cases.items():
        engine = case.engine(case.settings)
        answers = []
        try:
            for weights in case.weights:
                engine.load(weights)
                probe = engine.probe()
                tokenizer = AutoTokenizer.from_pretrained(weights.model)
                requests = [Request(encode_prompt(tokenizer, q.prompt, 64), 0) for q in asked]
                answers.append((probe, requests, engine.generate(requests)))
            found[name] = answers
        except RuntimeError as error:
            found[name] = str(error)
    return found


def in_orders(dtype: str, weights: Weights, asked: Sequence[Query]) -> list[list[Sampled]]:
    """What the calls of a phase give in three orders: as one engine, or any of several, could get them."""
    keys = {"model": {"dtype": dtype}, "task": {"max_prompt_tokens": 200}}
    settings = EngineSettings.of(Experiment.model_validate(keys), 0.0)
    engine = VllmEngine(settings)
    engine.load(weights)
    thread = EngineThread(engine, together=settings.together)
    tokenizer = AutoTokenizer.from_pretrained(weights.model)
    # a common beginning of more than a block, which the prefix cache may hold or not
    common = tuple(range(5, 5 + 140))
    requests = [Request((*common, *encode_prompt(tokenizer, q.prompt, 40)), i) for i, q in enumerate(asked)]
    calls = [requests[i : i + 7] for i in range(0, len(requests), 7)]

    def write(call: Sequence[Request]) -> list[Sampled]:
        return thread.write(call, is_ready=lambda: True, make_ready=lambda: None)

    with ThreadPoolExecutor(len(calls)) as callers:
        forwards = [write(call) for call in calls]
        backwards = [write(call) for call in reversed(calls)][::-1]
        at_once = list(callers.map(write, calls))
    return [[one for call in order for one in call] for order in (forwards, backwards, at_once)]


def greedy(**keys: object) -> EngineSettings:
    return EngineSettings.of(
        Experiment.model_validate({"generation": {"temperature": 0.0, "max_new_tokens": 20, **keys}}), 0.0
    )


def everything(cases: dict[str, Case], asked: Sequence[Query]) -> dict[str, Any]:
    """All that is asked of vLLM, one engine after the other: one that goes takes what they share in a process along."""
    from vllm.model_executor.models import registry

    elsewhere: list[int] = []
    look = registry._run_in_subprocess
    registry._run_in_subprocess = lambda asked: elsewhere.append(1) or look(asked)
    found: dict[str, Any] = served(cases, asked) | {ELSEWHERE: elsewhere}
    for dtype in ("float32", "bfloat16"):
        gc.collect()
        found[dtype] = in_orders(dtype, cases["careful"].weights[0], asked)
    return found


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    root = tmp_path_factory.mktemp("cases")
    made = {}
    for family in ("llama", "qwen2"):
        base = save_model(root / family, family)
        adapters = [save_adapter(base, root / f"{family}-{seed}", seed) if seed else None for seed in (0, 1, 2, 0)]
        weights = [Weights(version, base, adapter) for version, adapter in enumerate(adapters)]
        made[f"adapters of {family}"] = Case(greedy(refresh="adapter"), weights)
    for family in ("llama", "gpt2"):
        base = tied(family, root / f"tied-{family}")
        models = [base, disturbed(base, root / f"changed-{family}", 2)]
        made[f"weights of {family}"] = Case(greedy(), [Weights(i, model) for i, model in enumerate(models)])
    # Blocks of 128 tokens are cached: the context must hold more.
    torch.manual_seed(0)
    long = config("llama")
    long.max_position_embeddings = 256
    save_model(root / "long", "llama")
    AutoModelForCausalLM.from_config(long).save_pretrained(root / "long")
    weights = [Weights(0, root / "long"), Weights(1, disturbed(root / "long", root / "long-changed", 1))]
    sharp = {"task": {"max_prompt_tokens": 200}, "generation": {"temperature": 0.6, "top_p": 0.8}}
    settings = EngineSettings.of(Experiment.model_validate(sharp), 0.0)
    return made | {"forgetful": Case(settings, weights, Forgetful), "careful": Case(settings, weights)}


@pytest.fixture(scope="module")
def answers(ray_local: None, cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vLLM answers in every case, and in every order, on a machine where it has never run."""
    cache = str(tmp_path_factory.mktemp("vllm"))
    environment = {**ENGINES["vllm"].environment(0.0), "OMP_NUM_THREADS": "1", "VLLM_CACHE_ROOT": cache}
    remote = ray.remote(max_calls=1)(everything).options(num_cpus=0.2, runtime_env={"env_vars": environment})
    return ray.get(remote.remote(cases, queries(24)), timeout=600)


def test_a_first_start_does_not_import_everything_twice(answers: dict[str, Any]) -> None:
    assert answers[ELSEWHERE] == []


def assert_as_by_transformers(found: list[Answer], case: Case) -> None:
    """The same tokens as by the other engine, and probabilities but for rounding in other kernels."""
    wanted = served({"": dataclasses.replace(case, engine=TransformersEngine)}, queries(24))[""]
    assert len(found) == len(wanted)
    for (probe, asked, sampled), (other, _, others), weights in zip(found, wanted, case.weights, strict=True):
        assert [s.token_ids for s in sampled] == [s.token_ids for s in others] and probe.agrees(other, 1e-4)
        assert_log_probabilities(asked, sampled, weights)


def assert_log_probabilities(asked: list[Request], sampled: list[Sampled], weights: Weights) -> None:
    """They are those of a separate pass under the weights themselves."""
    model = AutoModelForCausalLM.from_pretrained(weights.model)
    if weights.adapter is not None:
        model = PeftModel.from_pretrained(model, weights.adapter).merge_and_unload()
    texts = [(request.prompt_token_ids, one.token_ids) for request, one in zip(asked, sampled, strict=True)]
    for one, (nats, tokens) in zip(sampled, negative_log_likelihood(model.eval(), texts, 4096), strict=True):
        assert one.log_probability == pytest.approx(-nats, abs=1e-3) and tokens == len(one.token_ids)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_adapters_are_swapped(family: str, cases: dict[str, Case], answers: dict[str, list[Answer]]) -> None:
    found = answers[f"adapters of {family}"]
    assert_as_by_transformers(found, cases[f"adapters of {family}"])
    assert found[0] == found[3]
    assert len({tuple(one.token_ids for one in sampled) for _, _, sampled in found}) == 3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_are_reloaded(family: str, cases: dict[str, Case], answers: dict[str, list[Answer]]) -> None:
    found = answers[f"weights of {family}"]
    assert_as_by_transformers(found, cases[f"weights of {family}"])
    # these models repeat their last token, which hides in the tokens that the weights are others
    (before, *_), (after, *_) = found
    assert not before.agrees(after, 1e-3)


def test_log_probabilities_are_those_before_temperature_and_nucleus(
    cases: dict[str, Case], answers: dict[str, Any]
) -> None:
    for (_, asked, sampled), weights in zip(answers["careful"], cases["careful"].weights, strict=True):
        assert_log_probabilities(asked, sampled, weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_completions_do_not_depend_on_which_engine_gets_which_call_when(dtype: str, answers: dict[str, Any]) -> None:
    forwards, backwards, at_once = answers[dtype]
    assert forwards == backwards == at_once and len(forwards) == 24
    assert len({one.token_ids for one in forwards}) > 20
    assert all(one.log_probability < 0 for one in forwards)


def test_stale_prefix_cache_is_caught(answers: dict[str, Any]) -> None:
    assert "the prefix cache is stale" in answers["forgetful"]
    assert len(answers["careful"]) == 2


# --- engines that misbehave


class Scripted(Engine):
    """Loads anything, answers with its process id, and misbehaves as the model's folder is called."""

    @classmethod
    def held(cls, positions: int, *, on_gpu: bool) -> Held:
        return Held(cached_tokens=positions, read_tokens=positions, rows=1)

    def check(self, weights: Weights) -> None:
        return

    def load(self, weights: Weights) -> None:
        if weights.model.name == "lacks":
            raise ModuleNotFoundError("No module named 'kernels'")
        self.weights = weights

    def _read_model(self, folder: Path, config: object) -> None:
        raise NotImplementedError

    def _serve_adapter(self, adapter: Path | None) -> None:
        raise NotImplementedError

    def _fall_asleep(self) -> None:
        raise NotImplementedError

    def _wake_weights(self) -> None:
        raise NotImplementedError

    def _wake_cache(self) -> None:
        raise NotImplementedError

    def probe(self) -> Probe:
        assert self.weights is not None
        differs = self.weights.model.name == "differs"
        return Probe((1,), (-float(os.getpid() if differs else self.weights.policy_version),))

    def generate(self, requests: Sequence[Request]) -> list[Sampled]:
        assert self.weights is not None
        marker = self.weights.model / "broke"
        if self.weights.model.name == "breaks" and not marker.exists():
            marker.touch()
            raise RuntimeError("the engine core died")
        return [Sampled((os.getpid() % 100 + 2, 1), "stop", -1.0) for _ in requests]


def test_misbehaving_engines(start: Start, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("works", "differs", "breaks", "lacks"):
        AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path / name)
    scripted = dataclasses.replace(ENGINES["transformers"], engine=f"{__name__}:Scripted")
    monkeypatch.setitem(ENGINES, "transformers", scripted)
    pool = start(2, engine="transformers")
    with pytest.raises(RuntimeError, match="call refresh first"):
        next(pool.stream(queries(1), samples=[1], purpose="test"))

    pool.refresh(Weights(0, tmp_path / "works"))
    drawn = complete(pool, queries(40), [1] * 40)
    assert len({c.token_ids for c in drawn.values()}) == 2  # both replicas worked

    stream = pool.stream(queries(40), samples=[1] * 40, purpose="test")
    next(stream)
    stream.close()
    assert pool._pool.least_load == 0

    with pytest.raises(RuntimeError, match="engines 0 and 1 disagree"):
        pool.refresh(Weights(1, tmp_path / "differs"))

    pool.refresh(Weights(2, tmp_path / "breaks"))
    assert len(complete(pool, queries(40), [1] * 40)) == 40
    assert sorted(p.restarts for p in pool.processes()) in ([0, 1], [1, 1])

    processes = pool.processes()
    with pytest.raises(
        RuntimeError, match="No module named 'kernels'; a new process would lack the same; `scpl doctor"
    ):
        pool.refresh(Weights(3, tmp_path / "lacks"))
    assert pool.processes() == processes


def test_callers_errors_come_back_as_they_are(one: RayGenerator, start: Start, llama: Path, tmp_path: Path) -> None:
    one.refresh(Weights(0, llama))
    (before,) = one.processes()
    with pytest.raises(ValueError, match=r"nowhere holds no config\.json"):
        one.refresh(Weights(9, tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="prompt '' has no tokens"):
        complete(one, [Query("q", None, "", None, None)], [1])
    assert complete(one, [Query("q", None, "w5", None, None)], [0]) == {}
    assert one.processes() == [before]


def test_close_ends_processes_and_logs_stay(
    ray_local: None, llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = Experiment.model_validate({"generation": {"engine": "transformers"}})
    pool = RayGenerator(experiment, Role("engine", 1, 0.2, 0.0, 1), tmp_path)
    pool.refresh(Weights(0, llama))
    (process,) = pool.processes()
    pool.close()
    assert not psutil.pid_exists(process.pid)
    text = (tmp_path / "engine-0.log").read_text()
    assert f"process {process.pid} started" in text
    assert "loading policy version 0" in text
    assert "Loading weights" in text
    assert "Loading weights" not in "".join(capfd.readouterr())
