"""Training in plain PyTorch, one sequence at a time, as the reference of the DeepSpeed worker."""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from scpl_ray.config import Model, Training
from scpl_ray.models.adapters import add_adapter, fresh_adapter, load_model, read_adapter
from scpl_ray.protocols import TrainingJob
from scpl_ray.records import Weights
from scpl_ray.training.batches import TrainingSequence, plan_steps, training_pairs, training_sequences, unit_lengths
from scpl_ray.training.worker import learning_rates
from tests.support.rounding import AdamBound, Tensors
from tests.support.tiny_models import pairs
from tests.support.training_jobs import SMALL


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
    return plain(alone, model, job.base, job.start, job.seed)


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
def plain(
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
                with torch.no_grad():
                    before = [log_p(other, s) for s in unit]
                chosen, rejected = (log_p(policy, s) - was for s, was in zip(unit, before, strict=True))
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


def tensors(job: TrainingJob) -> dict[str, torch.Tensor]:
    """The weights in the only file that a job wrote."""
    (file,) = job.output.rglob("*.safetensors")
    return load_file(file)
