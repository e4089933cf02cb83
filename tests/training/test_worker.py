"""The DeepSpeed worker against plain PyTorch, and against itself."""

import dataclasses
import math
import time
import weakref

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from scpl_ray.config import Lora, Model
from scpl_ray.models import adapters
from scpl_ray.models.adapters import load_model
from scpl_ray.protocols import TrainingError
from scpl_ray.records import Weights
from scpl_ray.training import master
from scpl_ray.training import worker as worker_module
from scpl_ray.training.batches import training_pairs, training_sequences
from scpl_ray.training.worker import Worker, learning_rates
from tests.support.plain_training import (
    Unit,
    assert_equals_reference,
    beyond_rounding,
    comparable,
    plain,
    reference,
    tensors,
)
from tests.support.tiny_models import FAMILIES, examples, pairs, save_examples, save_model
from tests.support.training_group import run, run_group
from tests.support.training_jobs import ADAPTER, DPO, FULL, SMALL, Material, written

pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("process_group")]

TOKENS = torch.tensor([[3, 14, 15, 92, 65, 35]])


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def later(material, tmp_path_factory):
    """By model section, a finished job: it trained the policy that a second round starts from.

    Shared, so that what plain PyTorch makes of that policy is computed once.
    """
    jobs = {model: material.job(tmp_path_factory.mktemp("later"), 1) for model in (ADAPTER, FULL)}
    for model, todo in jobs.items():
        run((SMALL, model, [todo]))
    return jobs


# --- what the comparison lets pass, and what it does not


def backwards(units: list[Unit]) -> list[Unit]:
    return units[::-1]


def without_the_last(units: list[Unit]) -> list[Unit]:
    return units[:-1]


def first_weighs_more(units: list[Unit]) -> list[Unit]:
    return [[dataclasses.replace(s, weight=1.05 * s.weight) for s in units[0]], *units[1:]]


@pytest.mark.parametrize("changes", [{}, DPO], ids=["sft", "dpo"])
@pytest.mark.parametrize("model", [ADAPTER, FULL], ids=["lora", "full"])
def test_another_order_is_within_rounding_and_a_wrong_weight_or_a_lost_batch_is_not(model, changes, job, later):
    todo = job(2, after=later[model]) if changes else job(1)
    training = comparable(model, todo, zero_stage=0, **changes)
    wanted = reference(training, model, todo)
    done = {
        change: plain(training, model, todo.base, todo.start, todo.seed, change)
        for change in (backwards, without_the_last, first_weighs_more)
    }
    assert beyond_rounding(done[backwards].weights, wanted) == {}
    for change in (without_the_last, first_weighs_more):
        # a new adapter's A has hardly a gradient at first, so the bound of one or another of them is wide
        assert len(beyond_rounding(done[change].weights, wanted)) > 0.9 * len(wanted.weights)


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
    ids=lambda value: {ADAPTER: "lora", FULL: "full"}.get(value),
)
def test_dpo_from_a_later_policy_equals_plain_pytorch(zero_stage, model, against, job, later):
    todo = job(2, after=later[model])
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


TWO_WORKERS = {
    "lora 0": (ADAPTER, 0, "llama", {}),
    "lora 2": (ADAPTER, 2, "llama", {}),
    "lora 3": (ADAPTER, 3, "gpt2", {}),
    "full 0": (FULL, 0, "llama", {}),
    "full 1": (FULL, 1, "llama", {}),
    "full 2": (FULL, 2, "gpt2", {}),
    "full 3": (FULL, 3, "llama", {}),
    # Large enough that ZeRO-3 really splits the adapter: it leaves parameters of under 100,000 numbers whole.
    "split 3": (Model(lora=Lora(rank=800, alpha=800.0)), 3, "wide", {}),
    "dpo lora 2": (ADAPTER, 2, "llama", DPO | {"dpo_reference": "base"}),
    "dpo full 3": (FULL, 3, "llama", DPO | {"dpo_reference": "base"}),
}
"""By name: the model section, the ZeRO stage, the base model, and further settings."""
ROUNDED = {f"rounded {stage}": (Model(lora=None, dtype="bfloat16"), stage, "llama", {}) for stage in (1, 2, 3)}
"""As :data:`TWO_WORKERS`."""


@pytest.fixture(scope="module")
def two_workers(material, later, tmp_path_factory, request):
    """The jobs of the tests that were chosen, done by one group of two workers."""
    asked = [item.callspec.params["name"] for item in request.session.items if "two_workers" in item.fixturenames]
    root = tmp_path_factory.mktemp("two")
    wider = Material(material.bases | {"wide": save_model(root / "wide", "llama", hidden=128)}, material.dataset)
    cases = {}
    for name in asked:
        model, stage, family, changes = (TWO_WORKERS | ROUNDED)[name]
        place = {"round_": 2, "after": later[model]} if changes else {"round_": 1, "family": family}
        todo = wider.job(root, name=f"{name}-", **place)
        cases[name] = (comparable(model, todo, zero_stage=stage, workers=2, **changes), model, [todo])
    results = run_group(2, root / "rendezvous", list(cases.values()))
    return {name: (*case, result) for (name, case), result in zip(cases.items(), results, strict=True)}


@pytest.mark.parametrize("name", TWO_WORKERS)
def test_two_workers_equal_plain_pytorch(name, two_workers):
    training, model, (todo,), (result,) = two_workers[name]
    assert_equals_reference(training, model, todo, result)


@pytest.mark.parametrize("name", ROUNDED)
def test_two_workers_in_bfloat16_move_the_float32_weights_as_one_does(name, two_workers, job):
    training, model, (todo,), _ = two_workers[name]
    alone = job(1)
    run((training.model_copy(update={"workers": 1}), model, [alone]))
    base = load_file(todo.base / "model.safetensors")
    one, two = (load_file(done.output / "master" / "master.safetensors") for done in (alone, todo))
    for key, weight in base.items():
        moved, as_one = (weights[key] - weight for weights in (two, one))
        assert torch.nn.functional.cosine_similarity(moved.flatten(), as_one.flatten(), dim=0) > 0.95, key


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


@pytest.mark.parametrize(
    ("zero_stage", "lora", "dtype", "changes"),
    [
        (0, ADAPTER.lora, "float32", {}),
        (0, None, "bfloat16", {}),
        (1, None, "float32", {}),
        (1, ADAPTER.lora, "bfloat16", {}),
        (2, ADAPTER.lora, "float32", DPO),
        (2, None, "bfloat16", DPO),
        (3, None, "float32", DPO),
        (3, ADAPTER.lora, "bfloat16", {}),
    ],
    ids=lambda value: "full" if value is None else None,
)
def test_a_used_worker_gives_the_bytes_of_a_new_one(zero_stage, lora, dtype, changes, job):
    """Every stage with every format, every stage with and without an adapter, and either with every format.

    What a job could leave behind is the state of DeepSpeed's optimizer, whose class depends on stage and format, and
    the engine's weights, which the reference pass of DPO replaces.
    """
    model = Model(lora=lora, dtype=dtype)
    training = SMALL.model_copy(
        update={"epochs": 1, "tokens_per_micro_batch": 256, "zero_stage": zero_stage, "dpo_reference": "base"} | changes
    )
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


# --- what is computed


@pytest.mark.parametrize(
    ("zero_stage", "model"),
    [(0, FULL), (2, ADAPTER), (3, FULL), (3, Model(dtype="bfloat16"))],
    ids=["full 0", "lora 2", "full 3", "lora 3 bfloat16"],
)
def test_gradient_checkpointing_computes_again_and_changes_no_bit(zero_stage, model, job):
    done = {}
    for chosen in (False, True):
        passes = []
        todo = job(1, name=f"{chosen}-")
        training = SMALL.model_copy(
            update={"epochs": 1, "zero_stage": zero_stage, "gradient_checkpointing": chosen, "steps": 2}
        )
        worker = Worker(training, model)
        (layer, *_) = worker._load(todo.base).frame.base_model.layers
        layers = [m for m in worker._loaded.engine.module.modules() if type(m) is type(layer)]
        layers[0].mlp.register_forward_pre_hook(lambda *_, to=passes: to.append(1))
        worker.run(todo, lambda step, steps: None)
        done[chosen] = written(todo), len(passes)
    assert done[True][0] == done[False][0]
    assert done[True][1] == 2 * done[False][1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_asks_for_no_gradient_below_its_first_layer(checkpointing, job):
    worker = Worker(SMALL.model_copy(update={"gradient_checkpointing": checkpointing, "steps": 1}), ADAPTER)
    loaded = worker._load(job(1).base)
    asked = []
    (first, *_) = loaded.engine.module.get_base_model().base_model.layers
    first.register_forward_pre_hook(lambda _, arguments: asked.append(arguments[0].requires_grad))
    worker.run(job(1, name="hooked-"), lambda step, steps: None)
    assert asked and not any(asked)


@pytest.mark.parametrize("model", [ADAPTER, FULL], ids=["lora", "full"])
def test_a_model_is_built_once_for_all_rounds(model, job, monkeypatch):
    """The base, where rounds start from it and where an adapter is merged into it, and what the last round gave."""
    built = []

    def counted(folder, *arguments, **options):
        built.append(folder)
        return load_model(folder, *arguments, **options)

    for module in (adapters, master, worker_module):
        monkeypatch.setattr(module, "load_model", counted)
    worker = Worker(SMALL, model)
    worker.run(first := job(1, merge=True), lambda step, steps: None)
    worker.run(job(2, after=first, merge=True), lambda step, steps: None)
    worker.run(job(3, merge=True), lambda step, steps: None)
    assert built == [first.base]


@pytest.mark.parametrize("model", [ADAPTER, FULL], ids=["lora", "full"])
def test_a_worker_that_saves_a_model_holds_one_copy_of_its_weights_and_one_tensor_more(model, job, monkeypatch):
    started, alive = [], []

    def start(worker, *arguments):
        started.append(tensors_of(worker, *arguments))
        return started[-1]

    def watched(weights):
        exact = []
        for name, tensor in weights:
            exact.append(weakref.ref(tensor))
            yield name, tensor
            del tensor
            alive.append(sum(one() is not None for one in exact))

    tensors_of, save_whole = Worker._tensors, Worker._save_whole
    monkeypatch.setattr(Worker, "_tensors", start)
    monkeypatch.setattr(Worker, "_save_whole", lambda *given: save_whole(*given[:-1], watched(given[-1])))
    run((SMALL, model.model_copy(update={"dtype": "bfloat16"}), [job(1, merge=True)]))
    assert started == [{}], "what a round starts from is let go as the trained weights are read"
    assert len(alive) > 10 and max(alive) <= 1, "float32 values are let go as they are rounded"


def test_the_seconds_of_the_steps_leave_out_what_comes_after_them(job, monkeypatch):
    save = Worker._save
    monkeypatch.setattr(Worker, "_save", lambda *given: (time.sleep(0.5), save(*given))[1])
    began = time.monotonic()
    (result,) = run((SMALL.model_copy(update={"steps": 1}), ADAPTER, [job(1)]))
    assert 0 < result.step_seconds < time.monotonic() - began - result.startup_seconds - 0.5


# --- refusals


def test_a_policy_without_adapter_is_no_start_for_one(job):
    todo = job(2)
    todo = dataclasses.replace(todo, start=Weights(1, todo.base))
    with pytest.raises(ValueError, match="policy version 1 to start from has no adapter"):
        run((SMALL, ADAPTER, [todo]))


def test_a_start_of_another_shape_is_refused(job, material):
    todo = job(2)
    todo = dataclasses.replace(todo, start=Weights(1, material.bases["gpt2"]))
    with pytest.raises(ValueError, match="does not have the weights of"):
        run((SMALL, FULL, [todo]))


def test_a_real_answer_longer_than_the_model_is_refused(job, tmp_path):
    long = dataclasses.replace(examples(1)[0], token_ids=(5,) * 130)
    todo = job(1, family="gpt2", dataset=save_examples(tmp_path / "long.parquet", [*examples(3, seed=1), long]))
    with pytest.raises(ValueError, match=r"example e0 \(real\): .* the model has 128 positions"):
        run((SMALL.model_copy(update={"tokens_per_micro_batch": 512}), FULL, [todo]))


def test_unchanged_weights_are_an_error(job):
    with pytest.raises(TrainingError, match=r"\d+ optimizer steps changed the weights by 0"):
        run((SMALL.model_copy(update={"learning_rate": 1e-45}), FULL, [job(1)]))


def test_divergence_is_an_error(job):
    with pytest.raises(TrainingError, match=r"(the loss of step \d+ of \d+ is nan|not finite).*learning_rate"):
        run((SMALL.model_copy(update={"learning_rate": 1e30}), FULL, [job(1)]))


def test_what_was_trained_keeps_the_dropout_that_its_base_names(job, material):
    todo = job(1, family="gpt2")
    run((SMALL.model_copy(update={"epochs": 1}), FULL, [todo]))
    for folder in (material.bases["gpt2"], todo.output / "model"):
        assert AutoConfig.from_pretrained(folder).resid_pdrop == 0.1


def test_learning_rates_warm_up_and_decay():
    assert learning_rates(1, 3.0, 0.05) == [3.0]
    assert learning_rates(6, 6.0, 0.34) == pytest.approx([2.0, 4.0, 6.0, 4.5, 3.0, 1.5])
    assert learning_rates(4, 1.0, 0.0) == [1.0, 0.75, 0.5, 0.25]
    assert max(learning_rates(4, 1.0, 1.0)) == 1.0
