"""What a policy is, is kept in float32: bfloat16 rounds what engines serve, not what training has learned."""

import shutil

import pytest
import torch
from deepspeed.utils import safe_get_full_optimizer_state
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from scpl_ray.config import Lora, Model, Training
from scpl_ray.protocols import TrainingJob
from scpl_ray.training.attention import use_lengths
from scpl_ray.training.worker import Worker
from tests.support.tiny_models import examples, save_examples
from tests.support.training_group import run
from tests.support.training_jobs import SMALL, Material, written

pytestmark = [pytest.mark.engines, pytest.mark.usefixtures("process_group")]

ROUNDED, EXACT = Model(lora=None, dtype="bfloat16"), Model(lora=None, dtype="float32")
SLOW = SMALL.model_copy(update={"learning_rate": 1e-5, "epochs": 1})
"""At the learning rate of a real model, an update is far below half a unit in the last place of most weights."""


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Material:
    """A base model whose weights are exact in bfloat16, so that rounding it moves none."""
    made = Material.made(tmp_path_factory.mktemp("material"))
    for base in made.bases.values():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        model.save_pretrained(base)
    return made


def state(job: TrainingJob) -> dict[str, torch.Tensor]:
    """The weights that a later job starts from."""
    master = job.output / "master" / "master.safetensors"
    return load_file(master if master.exists() else next((job.output / "model").glob("*.safetensors")))


def rounds(job, model: Model, count: int, name: str, training: Training = SLOW, **changes) -> list[TrainingJob]:
    """Jobs that each start where the one before ended, each in a worker of its own, as after a kill and a resume."""
    done: list[TrainingJob] = []
    for t in range(1, count + 1):
        after = done[-1] if done else None
        done.append(job(t, after=after, name=name, **changes))
        run((training, model, [done[-1]]))
    return done


def test_rounds_in_bfloat16_move_the_weights_that_rounds_in_float32_move(job, material):
    base = load_file(material.bases["llama"] / "model.safetensors")
    moved = {}
    for model in (ROUNDED, EXACT):
        last = state(rounds(job, model, 5, f"{model.dtype}-")[-1])
        moved[model] = {name: last[name] - base[name].float() for name in last}
    for name, exact in moved[EXACT].items():
        both = (moved[ROUNDED][name] != 0) & (exact != 0)
        assert int(both.sum()) >= 0.95 * int((exact != 0).sum()), name
    exact, rounded = (torch.cat([t.flatten() for t in moved[model].values()]) for model in (EXACT, ROUNDED))
    assert torch.nn.functional.cosine_similarity(rounded, exact, dim=0) > 0.8


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_new_worker_continues_where_the_last_one_would_have(stage, job):
    training = SLOW.model_copy(update={"zero_stage": stage})
    first = rounds(job, ROUNDED, 1, "first-", training)[0]
    onward = job(2, after=first, name="onward-")
    run((training, ROUNDED, [job(1, name="again-"), onward]))
    killed = job(2, after=first, name="killed-")
    run((training, ROUNDED, [killed]))
    assert written(killed) == written(onward)
    assert {path.split("/")[0] for path in written(killed)} == {"model", "master"}
    served = load_file(killed.output / "model" / "model.safetensors")
    for name, value in state(killed).items():
        assert value.dtype == torch.float32 and torch.equal(value.bfloat16(), served[name])


@pytest.mark.parametrize("model", [EXACT, Model(lora=Lora(rank=4, alpha=8.0), dtype="bfloat16")], ids=["exact", "lora"])
def test_no_master_is_written_beside_what_is_float32_itself(model, job):
    (done,) = rounds(job, model, 1, "", SMALL)
    assert not (done.output / "master").exists()
    assert all(tensor.dtype == torch.float32 for tensor in state_of_adapter_or_model(done).values())


def state_of_adapter_or_model(job: TrainingJob) -> dict[str, torch.Tensor]:
    (file,) = job.output.rglob("*.safetensors")
    return load_file(file)


def test_no_master_is_written_where_no_round_starts_from_it(job):
    todo = job(1, continued=False)
    run((SMALL, ROUNDED, [todo]))
    assert {path.name for path in todo.output.iterdir()} == {"model"}


def test_a_start_that_has_lost_its_master_is_refused(job):
    (first,) = rounds(job, ROUNDED, 1, "", SMALL)
    shutil.rmtree(first.output / "master")
    with pytest.raises(ValueError, match=r"policy version 1 .* holds rounded weights, and the float32 ones, .*master"):
        run((SMALL, ROUNDED, [job(2, after=first)]))


# --- sums of gradients


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_gradients_of_micro_batches_are_summed_in_float32(stage, job, material, tmp_path):
    """Adam's first moment after one step is a tenth of the gradient: that of every micro-batch, summed exactly."""
    rows = examples(120, weighted=False)
    training = SLOW.model_copy(
        update={"zero_stage": stage, "tokens_per_step": 10**6, "tokens_per_micro_batch": 32, "max_grad_norm": 1e9}
    )
    todo = job(1, dataset=save_examples(tmp_path / "rows.parquet", rows))
    worker = Worker(training, ROUNDED)
    packed, batches = _batches_of(worker, todo, rows)
    assert len(batches) > 50
    worker.run(todo, lambda step, steps: None)
    loaded = worker._loaded
    found = {n: 10 * safe_get_full_optimizer_state(p, "exp_avg") for n, p in loaded.trained.items()}

    model = AutoModelForCausalLM.from_pretrained(material.bases["llama"], dtype=torch.bfloat16).eval()
    if loaded.one_row:
        use_lengths(model)
    wanted = {name: torch.zeros(p.shape, dtype=torch.float64) for name, p in model.named_parameters()}
    mass = sum(worker._objective.mass(s) for s in packed)
    for batch in batches:
        model.zero_grad()
        total, _ = worker._objective.total(model, batch)
        (total / mass).backward()
        for name, parameter in model.named_parameters():
            wanted[name] += parameter.grad.double()
    for name, gradient in found.items():
        off = (gradient.double() - wanted[name]).norm() / wanted[name].norm()
        assert off < 1e-5, f"{name}: {float(off):.1e}"


def _batches_of(worker: Worker, todo: TrainingJob, rows):
    sequences = worker._objective.sequences(rows)
    loaded = worker._load(todo.base)
    (step,) = worker._steps(loaded, sequences, 1, None, todo.seed)
    return sequences, [batch for _, batch in worker._micro_batches(loaded, step, sequences)]
