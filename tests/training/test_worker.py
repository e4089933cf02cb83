"""The DeepSpeed worker against plain PyTorch, and the Ray Train actor around it."""

import concurrent.futures
import dataclasses
import functools
import logging
import math
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import psutil
import pytest
import torch
import torch.nn.functional as F
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from actors.training import RayTrainer
from scpl_ray.config import Lora, Model, Training
from scpl_ray.models.adapters import add_adapter, fresh_adapter, load_model, read_adapter
from scpl_ray.protocols import TrainingError, TrainingJob
from scpl_ray.records import Weights
from scpl_ray.training.batches import TrainingSequence, plan_steps, training_pairs, training_sequences, unit_lengths
from scpl_ray.training.worker import learning_rates
from tests.support.rounding import AdamBound, Tensors
from tests.support.tiny_models import FAMILIES, examples, pairs, save_examples, save_model
from tests.support.training_group import join, run, run_group

pytestmark = pytest.mark.engines

ADAPTER, FULL = Model(lora=Lora(rank=4, alpha=8.0)), Model(lora=None)
SMALL = Training(zero_stage=2, learning_rate=1e-2, epochs=2, tokens_per_step=200, tokens_per_micro_batch=64)
DPO = {"objective": "dpo", "dpo_beta": 0.3}
TOKENS = torch.tensor([[3, 14, 15, 92, 65, 35]])


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory) -> Iterator[None]:
    """This process as a group of one; its environment is as before afterwards."""
    with patch.dict(os.environ):
        join(0, 1, tmp_path_factory.mktemp("group") / "rendezvous")
        yield
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: save_model(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return save_examples(tmp_path_factory.mktemp("data") / "examples.parquet", pairs(60))


@pytest.fixture
def job(bases, dataset, tmp_path):
    """Makes jobs: ``job(round)`` starts from the base, ``job(round, after=earlier)`` where an earlier one ended."""

    def make(round_: int, *, after: TrainingJob | None = None, family="llama", name="", **changes) -> TrainingJob:
        base = bases[family]
        start = Weights(0, base)
        if after is not None:
            adapter, model = after.output / "adapter", after.output / "model"
            start = Weights(after.round, model if model.exists() else base, adapter if adapter.exists() else None)
        output = tmp_path / f"{name}round{round_}"
        output.mkdir()
        settings = {"base": base, "start": start, "dataset": dataset, "output": output, "merge": False, "seed": round_}
        return TrainingJob(round=round_, **(settings | changes))

    return make


def written(job: TrainingJob) -> dict[str, bytes]:
    """Every weight file of a finished job."""
    return {str(f.relative_to(job.output)): f.read_bytes() for f in sorted(job.output.rglob("*.safetensors"))}


def tensors(job: TrainingJob) -> dict[str, torch.Tensor]:
    (file,) = job.output.rglob("*.safetensors")
    return load_file(file)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=TOKENS).logits


@dataclasses.dataclass(frozen=True)
class Reference:
    """What a job must give, however it is spread over workers, and how far rounding may carry it from that."""

    weights: Tensors
    bound: Tensors
    """Of the same shapes: how far each weight may be off."""
    losses: list[float]
    norms: list[float]
    """Of every step's gradient, before clipping."""
    loss_bounds: tuple[float, float]
    """How far the first and the last loss may be off."""


def reference(training: Training, model: Model, job: TrainingJob) -> Reference:
    alone = training.model_copy(update={"zero_stage": 0, "workers": 1})
    return _reference(alone, model, job.base, job.start, job.seed)


Unit = list[TrainingSequence]


def as_planned(units: list[Unit]) -> list[Unit]:
    return units


def network(model: Model, base: Path, policy: Weights, seed: int) -> nn.Module:
    if model.lora is None:
        return load_model(policy.model, torch.float32).eval()
    made = add_adapter(load_model(base, torch.float32), model.lora)
    shapes = {name: tuple(p.shape) for name, p in made.named_parameters() if p.requires_grad}
    start = fresh_adapter(shapes, seed) if policy.adapter is None else read_adapter(policy.adapter, shapes, model.lora)
    made.load_state_dict(start, strict=False)
    return made.eval()


def log_p(policy: nn.Module, sequence: TrainingSequence) -> torch.Tensor:
    ids = torch.tensor([sequence.token_ids])
    nll = F.cross_entropy(policy(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="none")
    return -nll[sequence.first_target - 1 :].sum()


@functools.cache
def _reference(
    training: Training,
    model: Model,
    base: Path,
    start: Weights,
    seed: int,
    change: Callable[[list[Unit]], list[Unit]] = as_planned,
) -> Reference:
    """The same job in plain PyTorch, one sequence at a time, without padding or packing.

    ``change`` does something to the units of every step.
    """
    dpo = training.objective == "dpo"
    sequences = training_pairs(pairs(60)) if dpo else training_sequences(pairs(60), training.loss_on)
    size = 2 if dpo else 1
    units = [sequences[i : i + size] for i in range(0, len(sequences), size)]
    steps = plan_steps(
        unit_lengths(sequences, size, True),
        epochs=training.epochs,
        tokens_per_step=training.tokens_per_step,
        tokens_per_micro_batch=10_000,
        workers=1,
        packed=False,
        seed=seed,
        steps=training.steps,
    )
    policy = network(model, base, start, seed)
    other = network(model, base, Weights(0, base) if training.dpo_reference == "base" else start, seed)
    parameters = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=training.weight_decay)
    losses, norms, loss_bounds, apart = [], [], [], AdamBound()
    rates = learning_rates(len(steps), training.learning_rate, training.warmup_fraction)
    for step, rate in zip(steps, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        total, mass = torch.tensor(0.0), 0.0
        members = change([units[member] for member in step.members])
        for unit in members:
            if dpo:
                chosen, rejected = (log_p(policy, s) - log_p(other, s).detach() for s in unit)
                weight = unit[0].weight
                total = total - weight * F.logsigmoid(training.dpo_beta * (chosen - rejected))
                mass += weight
            else:
                (sequence,) = unit
                terms = sequence.target_tokens if training.normalise == "examples" else 1
                total = total - sequence.weight * log_p(policy, sequence) / terms
                mass += sequence.weight * sequence.target_tokens / terms
        loss = total / mass
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        tokens = sum(len(s.token_ids) for unit in members for s in unit)
        moved = sum(float((g.double().abs() * apart.far[name]).sum()) for name, g in gradients.items() if apart.far)
        loss_bounds.append(moved + tokens * torch.finfo(torch.float32).eps * max(loss.item(), 1.0))
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), training.max_grad_norm)))
        apart.step(gradients, {name: p.detach() for name, p in parameters.items()}, rate, tokens)
        optimizer.step()

    def saved(tensors: Tensors) -> Tensors:
        return {name.replace(".default.", "."): t.detach() for name, t in tensors.items()}

    return Reference(saved(parameters), saved(apart.far), losses, norms, (loss_bounds[0], loss_bounds[-1]))


def comparable(model: Model, job: TrainingJob, **changes) -> Training:
    """Settings under which a wrong scale of the gradients shows.

    Adam does not see a constant factor; clipping does, where some steps are clipped and others are not.
    """
    training = SMALL.model_copy(update={"epochs": 1, "learning_rate": 2e-4, "max_grad_norm": 1e9} | changes)
    norms = reference(training, model, job).norms
    return training.model_copy(update={"max_grad_norm": statistics.median(norms)})


def beyond_rounding(weights: Tensors, wanted: Reference) -> dict[str, str]:
    """Of every tensor with numbers that rounding does not explain, how many they are and how far the worst is off."""
    off = {
        name: (tensor.double() - wanted.weights[name].double()).abs() / wanted.bound[name]
        for name, tensor in weights.items()
    }
    return {
        name: f"{int((far > 1).sum())} of {far.numel()} numbers, up to {float(far.max()):.3g} times the bound"
        for name, far in off.items()
        if float(far.max()) > 1
    }


def assert_equals_reference(training: Training, model: Model, job: TrainingJob, result) -> None:
    wanted = reference(training, model, job)
    norms, limit = wanted.norms, training.max_grad_norm
    assert min(norms) < 0.99 * limit < limit < 0.99 * max(norms)
    saved = tensors(job)
    assert {name: t.shape for name, t in saved.items()} == {name: t.shape for name, t in wanted.weights.items()}
    assert beyond_rounding(saved, wanted) == {}
    assert result.steps == len(wanted.losses)
    first, last = wanted.loss_bounds
    assert result.first_loss == pytest.approx(wanted.losses[0], rel=0, abs=first)
    assert result.last_loss == pytest.approx(wanted.losses[-1], rel=0, abs=last)


# --- what the comparison lets pass, and what it does not


def backwards(units: list[Unit]) -> list[Unit]:
    return units[::-1]


def without_the_last(units: list[Unit]) -> list[Unit]:
    return units[:-1]


def first_weighs_more(units: list[Unit]) -> list[Unit]:
    return [[dataclasses.replace(s, weight=1.05 * s.weight) for s in units[0]], *units[1:]]


@pytest.mark.parametrize("changes", [{}, DPO], ids=["sft", "dpo"])
@pytest.mark.parametrize("model", [ADAPTER, FULL], ids=["lora", "full"])
def test_another_order_is_within_rounding_and_a_wrong_weight_or_a_lost_batch_is_not(model, changes, job):
    todo = job(1)
    training = comparable(model, todo, zero_stage=0, **changes)
    wanted = reference(training, model, todo)
    done = {
        change: _reference(training, model, todo.base, todo.start, todo.seed, change)
        for change in (backwards, without_the_last, first_weighs_more)
    }
    assert beyond_rounding(done[backwards].weights, wanted) == {}
    for change in (without_the_last, first_weighs_more):
        assert set(beyond_rounding(done[change].weights, wanted)) == set(wanted.weights)


# --- one worker against plain PyTorch


@pytest.mark.parametrize("model", [ADAPTER, FULL], ids=["lora", "full"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_one_worker_equals_plain_pytorch(zero_stage, model, job):
    todo = job(1)
    training = comparable(model, todo, zero_stage=zero_stage)
    (result,) = run((training, model, [todo]))
    assert_equals_reference(training, model, todo, result)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("model", [ADAPTER, FULL], ids=["lora", "full"])
def test_families_equal_plain_pytorch(family, model, job):
    todo = job(1, family=family)
    training = comparable(model, todo, loss_on="all", weight_decay=0.1, normalise="tokens", steps=5)
    (result,) = run((training, model, [todo]))
    assert_equals_reference(training, model, todo, result)


@pytest.mark.parametrize(
    ("zero_stage", "model", "against"),
    [
        (0, ADAPTER, "start"),
        (1, FULL, "base"),
        (2, ADAPTER, "base"),
        (2, FULL, "start"),
        (3, ADAPTER, "base"),
        (3, FULL, "start"),
    ],
)
def test_dpo_from_a_later_policy_equals_plain_pytorch(zero_stage, model, against, job):
    first = job(1)
    run((SMALL, model, [first]))
    todo = job(2, after=first)
    training = comparable(model, todo, zero_stage=zero_stage, **DPO, dpo_reference=against)
    (result,) = run((training, model, [todo]))
    assert_equals_reference(training, model, todo, result)
    assert (abs(result.first_loss - math.log(2)) < 1e-5) == (against == "start")


def test_dpo_prefers_what_was_chosen(job):
    todo = job(1)
    training = SMALL.model_copy(update={**DPO, "epochs": 4})
    (result,) = run((training, ADAPTER, [todo]))
    assert result.first_loss == pytest.approx(math.log(2), abs=1e-5) and result.last_loss < 0.6
    assert result.last_figures["reward_margin"] > 0.2 and result.last_figures["reward_accuracy"] > 0.9
    assert result.tokens == 4 * sum(s.target_tokens for s in training_pairs(pairs(60)))


# --- several workers


@pytest.fixture(scope="module")
def two_workers(bases, dataset, tmp_path_factory):
    """Jobs of all kinds, done by one group of two workers."""
    root = tmp_path_factory.mktemp("two")
    later = TrainingJob(1, bases["llama"], Weights(0, bases["llama"]), dataset, root, merge=False, seed=5)
    run((SMALL, ADAPTER, [later]))
    wide = save_model(root / "wide", "llama", hidden=128)
    cases = {}
    for name, model, stage, base in [
        ("lora 0", ADAPTER, 0, bases["llama"]),
        ("lora 2", ADAPTER, 2, bases["llama"]),
        ("lora 3", ADAPTER, 3, bases["gpt2"]),
        ("full 0", FULL, 0, bases["llama"]),
        ("full 1", FULL, 1, bases["llama"]),
        ("full 2", FULL, 2, bases["gpt2"]),
        ("full 3", FULL, 3, bases["llama"]),
        # Large enough that ZeRO-3 really splits the adapter: it leaves parameters of under 100,000 numbers whole.
        ("split 3", Model(lora=Lora(rank=800, alpha=800.0)), 3, wide),
    ]:
        output = root / name
        output.mkdir()
        todo = TrainingJob(1, base, Weights(0, base), dataset, output, merge=False, seed=1)
        cases[name] = (comparable(model, todo, zero_stage=stage, workers=2), model, [todo])
    for name, model, stage, start in [
        ("dpo lora 2", ADAPTER, 2, Weights(1, bases["llama"], root / "adapter")),
        ("dpo full 3", FULL, 3, Weights(0, bases["llama"])),
    ]:
        (root / name).mkdir()
        todo = TrainingJob(2, bases["llama"], start, dataset, root / name, merge=False, seed=2)
        cases[name] = (comparable(model, todo, zero_stage=stage, workers=2, **DPO, dpo_reference="base"), model, [todo])
    results = run_group(2, root / "rendezvous", list(cases.values()))
    return {name: (*case, result) for (name, case), result in zip(cases.items(), results, strict=True)}


@pytest.mark.parametrize(
    "name",
    [
        *("lora 0", "lora 2", "lora 3", "full 0", "full 1", "full 2", "full 3", "split 3"),
        *("dpo lora 2", "dpo full 3"),
    ],
)
def test_two_workers_equal_plain_pytorch(name, two_workers):
    training, model, (todo,), (result,) = two_workers[name]
    assert_equals_reference(training, model, todo, result)


# --- what a job leaves


def test_the_result_describes_the_job(job):
    todo = job(1)
    (result,) = run((SMALL, ADAPTER, [todo]))
    sequences = training_sequences(examples(60), "completion")
    assert result.steps == 2 * round(sum(len(s.token_ids) for s in sequences) / 200)
    assert result.tokens == 2 * sum(s.target_tokens for s in sequences)
    assert result.weight_change > 0
    assert result.last_loss < result.first_loss
    assert {f.name for f in todo.output.iterdir()} == {"adapter"}


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_and_merged_model_reload_to_the_same_logits(family, job):
    todo = job(1, family=family, merge=True)
    run((SMALL, ADAPTER, [todo]))
    adapter = AutoPeftModelForCausalLM.from_pretrained(todo.output / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(todo.output / "model")
    torch.testing.assert_close(logits(merged), logits(adapter), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits(merged), logits(load_model(todo.base, torch.float32)), atol=1e-3)


def test_weight_change_is_relative_to_the_start(job):
    todo = job(1)
    (result,) = run((SMALL, FULL, [todo]))
    before, after = dict(load_model(todo.base, torch.float32).named_parameters()), tensors(todo)
    moved = sum(float((after[n] - before[n].detach()).double().square().sum()) for n in after) ** 0.5
    length = sum(float(before[n].detach().double().square().sum()) for n in after) ** 0.5
    assert result.weight_change == pytest.approx(moved / length, rel=1e-6)


def test_leftovers_of_an_interrupted_attempt_are_replaced(job):
    todo = job(1)
    for leftover in (".partial", "adapter", "model"):
        (todo.output / leftover).mkdir()
        (todo.output / leftover / "junk").touch()
    run((SMALL, ADAPTER, [todo]))
    assert {f.name for f in todo.output.rglob("*")} == {"adapter", "adapter_config.json", "adapter_model.safetensors"}


# --- jobs one after the other in one worker equal jobs in workers of their own


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [ADAPTER.lora, None], ids=["lora", "full"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_used_worker_gives_the_bytes_of_a_new_one(zero_stage, lora, dtype, job):
    used_equals_new(Model(lora=lora, dtype=dtype), job, zero_stage=zero_stage)


@pytest.mark.parametrize("zero_stage", [2, 3])
@pytest.mark.parametrize("lora", [ADAPTER.lora, None], ids=["lora", "full"])
def test_a_worker_used_for_dpo_gives_the_bytes_of_a_new_one(zero_stage, lora, job):
    used_equals_new(Model(lora=lora), job, zero_stage=zero_stage, **DPO, dpo_reference="base")


def used_equals_new(model: Model, job, **changes) -> None:
    training = SMALL.model_copy(update={"epochs": 1, "tokens_per_micro_batch": 256} | changes)
    first = job(1)
    run((training, model, [first]))
    second = job(2, after=first)
    run((training, model, [second]))
    mixed = [job(1, name="mixed-"), job(2, name="mixed-", after=first), job(1, name="again-")]
    run((training, model, mixed))
    assert written(mixed[0]) == written(mixed[2]) == written(first)
    assert written(mixed[1]) == written(second)


def test_incremental_rounds_continue_and_retraining_rounds_do_not(job):
    first = job(1)
    run((SMALL, ADAPTER, [first]))
    again, onward = job(2, name="retrained-"), job(2, name="continued-", after=first)
    retrained, continued = run((SMALL, ADAPTER, [again, onward]))
    assert continued.first_loss < retrained.first_loss - 0.05


def test_a_worker_changes_to_another_base_model(job):
    first, other = job(1), job(1, family="gpt2", name="other-")
    run((SMALL, ADAPTER, [first, other]))
    alone = job(1, family="gpt2", name="alone-")
    run((SMALL, ADAPTER, [alone]))
    assert written(other) == written(alone)


# --- refusals


def test_a_policy_without_adapter_is_no_start_for_one(job):
    todo = job(2)
    todo = dataclasses.replace(todo, start=Weights(1, todo.base))
    with pytest.raises(ValueError, match="policy version 1 to start from has no adapter"):
        run((SMALL, ADAPTER, [todo]))


def test_a_start_of_another_shape_is_refused(job, bases):
    todo = job(2)
    todo = dataclasses.replace(todo, start=Weights(1, bases["gpt2"]))
    with pytest.raises(ValueError, match="does not have the weights of"):
        run((SMALL, FULL, [todo]))


def test_unchanged_weights_are_an_error(job):
    with pytest.raises(TrainingError, match=r"\d+ optimizer steps changed the weights by 0"):
        run((SMALL.model_copy(update={"learning_rate": 1e-45}), FULL, [job(1)]))


def test_divergence_is_an_error(job):
    with pytest.raises(TrainingError, match=r"(the loss of step \d+ of \d+ is nan|not finite).*learning_rate"):
        run((SMALL.model_copy(update={"learning_rate": 1e30}), FULL, [job(1)]))


def test_learning_rates_warm_up_and_decay():
    assert learning_rates(1, 3.0, 0.05) == [3.0]
    assert learning_rates(6, 6.0, 0.34) == pytest.approx([2.0, 4.0, 6.0, 4.5, 3.0, 1.5])
    assert learning_rates(4, 1.0, 0.0) == [1.0, 0.75, 0.5, 0.25]
    assert max(learning_rates(4, 1.0, 1.0)) == 1.0


# --- Ray Train


@pytest.fixture
def trainer(ray_local, tmp_path) -> Iterator[Callable[..., RayTrainer]]:
    """Makes trainers, and checks that each leaves no process behind."""
    made: list[RayTrainer] = []

    def make(training: Training, **settings) -> RayTrainer:
        settings = {"folder": tmp_path / "train", "resources_per_worker": {"CPU": 0.4}} | settings
        made.append(RayTrainer(training, ADAPTER, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
        assert each.processes() == []


def gone(pid: int) -> bool:
    """Whether a process ends within a few seconds."""
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_both_lifetimes_give_the_same_weights(trainer, job):
    """Two successive jobs of two workers: in one Ray Train run, and in one of its own each."""
    training = SMALL.model_copy(update={"workers": 2, "epochs": 1, "tokens_per_micro_batch": 96} | DPO)
    jobs: dict[str, list[TrainingJob]] = {}
    for lifetime in ("run", "round"):
        works = trainer(training.model_copy(update={"worker_lifetime": lifetime}))
        works.prepare()
        first = job(1, name=lifetime, merge=True)
        results = [works.train(first)]
        pids = [process.pid for process in works.processes()]
        second = job(2, name=lifetime, after=first)
        results.append(works.train(second))
        assert all(result.startup_seconds > 0 for result in results)
        if lifetime == "run":
            assert [process.pid for process in works.processes()] == pids
            assert [process.index for process in works.processes()] == [0, 1]
            assert results[1].startup_seconds < 5
            works.close()
            assert all(gone(pid) for pid in pids)
        else:
            assert pids == []
        jobs[lifetime] = [first, second]
    for once, always in zip(jobs["round"], jobs["run"], strict=True):
        assert written(once) == written(always)


def test_a_killed_worker_costs_a_repetition_and_a_refusal_does_not(trainer, job, tmp_path, caplog):
    training = SMALL.model_copy(update={"epochs": 60, "tokens_per_step": 40})
    works = trainer(training)
    killed, undisturbed, impossible = job(1), job(1, name="undisturbed-"), job(2)
    impossible = dataclasses.replace(impossible, dataset=save_examples(tmp_path / "none.parquet", []))
    with concurrent.futures.ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING):
        result = pool.submit(works.train, killed)
        deadline = time.monotonic() + 120
        while not any("steps on" in log.read_text() for log in tmp_path.glob("train/*-001-worker0.log")):
            assert time.monotonic() < deadline and not result.done()
            time.sleep(0.05)
        (victim,) = works.processes()
        os.kill(victim.pid, signal.SIGKILL)
        steps = result.result(timeout=240).steps
    assert "attempt 1 of 3" in caplog.text and f"{tmp_path}/train" in caplog.text
    (heir,) = works.processes()
    assert heir.pid != victim.pid and (victim.restarts, heir.restarts) == (0, 1)
    assert works.train(undisturbed).steps == steps
    assert written(killed) == written(undisturbed)
    with pytest.raises(ValueError, match="none of the 0 training examples"):
        works.train(impossible)
    assert gone(heir.pid)


def test_workers_that_cannot_be_placed_are_an_error_that_says_so(trainer, job):
    works = trainer(SMALL, resources_per_worker={"CPU": 1000.0}, startup_deadline_s=3.0)
    with pytest.raises(TimeoutError, match=r"0 of 1 training workers are up.*'CPU': 1000"):
        works.train(job(1))
