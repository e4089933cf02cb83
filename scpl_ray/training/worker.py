"""The DeepSpeed worker: one engine that runs training jobs one after the other, each independent of earlier ones.

All workers of a group call :meth:`Worker.run` with the same job. ``torch.distributed`` must be initialised.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from scpl_ray.config import Model, Training
from scpl_ray.models.adapters import (
    add_adapter,
    commit,
    fresh_adapter,
    load_model,
    merged_weights,
    read_adapter,
    save_adapter,
    save_model,
)
from scpl_ray.models.limits import positions
from scpl_ray.models.precision import native_bfloat16
from scpl_ray.own import references
from scpl_ray.protocols import TrainingError, TrainingJob, TrainingResult, TrainingStep
from scpl_ray.records import Example, Weights, from_table
from scpl_ray.training.attention import use_lengths
from scpl_ray.training.batches import (
    MicroBatch,
    Rows,
    Step,
    TrainingSequence,
    check_positions,
    collate,
    plan_steps,
    sequence_rows,
    unit_lengths,
)
from scpl_ray.training.deepspeed_settings import deepspeed_config
from scpl_ray.training.dropout import turn_off
from scpl_ray.training.losses import packing_is_exact, sequence_log_probabilities
from scpl_ray.training.master import FOLDER, formats, full_weights, masters, put, save_master
from scpl_ray.training.objectives import OBJECTIVES

logger = logging.getLogger(__name__)

CALLBACK = "training.callback"
Report = Callable[[int, int], None]
"""Called with (optimizer steps done, all steps); 0 done before the first step and while the reference is computed."""


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A base model inside a DeepSpeed engine."""

    base: Path
    engine: Any
    optimizer: torch.optim.AdamW
    trained: dict[str, nn.Parameter]
    shapes: dict[str, tuple[int, ...]]
    """Shapes of the trained parameters, because a partitioned parameter does not have its full shape."""
    packed: bool
    """Whether sequences share rows."""
    one_row: bool
    """Whether all sequences of a micro-batch share one row."""
    frame: PreTrainedModel
    """The base model without memory for its parameters: the form in which whole models are saved."""
    buffers: dict[str, Tensor]
    """What is saved of the base model besides its parameters."""
    weights: dict[str, nn.Parameter] | None
    """The base model's parameters under an adapter, where they are as exact as those on disk; ``None`` elsewhere."""


class Worker:
    """One process of a data-parallel group.

    The base model and its engine are kept between jobs. Initial weights, optimizer state and learning rate are reset
    for each job, so a job gives the same weights in a new worker and in one that has run other jobs before.

    Dropout is off, because with it the results would depend on the number of workers.
    """

    def __init__(self, training: Training, model: Model, *, threads: int = 1) -> None:
        """Set up a worker for any number of jobs.

        Args:
            training: the ``training`` section.
            model: the ``model`` section: adapter or full weights, and the number format.
            threads: number of CPU threads of this process.
        """
        self._training = training
        self._lora = model.lora
        self._trust_remote_code = model.trust_remote_code
        self._objective = OBJECTIVES[training.objective].loss(training)
        self._callback = references.load(training.callback, CALLBACK) if training.callback is not None else None
        self._rank, self._workers = dist.get_rank(), dist.get_world_size()
        self._device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
        automatic = torch.float32 if self._device is None else torch.bfloat16
        self._dtype = {"auto": automatic, "float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
        self._loaded: _Loaded | None = None
        torch.set_num_threads(threads)
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # On a CPU, DeepSpeed would compile this at every start (half a minute), although only its inference uses it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    def run(self, job: TrainingJob, report: Report) -> TrainingResult:
        """Train from the job's initial weights; write ``adapter/`` (LoRA) or ``model/`` (full or ``job.merge``).

        Raises:
            ValueError: the data or the initial weights do not fit the settings.
            TrainingError: there was no step, or the weights are unchanged or not finite.
        """
        asked = time.monotonic()
        examples = from_table(pq.read_table(job.dataset), Example)
        sequences = self._objective.sequences(examples)
        loaded = self._load(job.base)
        check_positions(examples, positions(loaded.frame.config))
        steps = self._steps(loaded, sequences, self._training.epochs, self._training.steps, job.seed)
        if self._objective.reference is not None:
            policy = job.start if self._objective.reference == "start" else Weights(0, job.base)
            self._put(loaded, self._tensors(job, policy, loaded))
            logger.info("round %d: log-probabilities under the reference policy begin", job.round)
            once = self._steps(loaded, sequences, 1, None, job.seed)
            sequences = self._with_reference(loaded, once, sequences, lambda: report(0, len(steps)))
        size = self._objective.per_unit
        target_tokens = [sum(s.target_tokens for s in sequences[i : i + size]) for i in range(0, len(sequences), size)]
        start = self._tensors(job, job.start, loaded)
        self._put(loaded, start)
        logger.info("round %d: %d steps on %d sequences begin", job.round, len(steps), len(sequences))
        report(0, len(steps))
        began = time.monotonic()
        measured = torch.zeros(len(steps), 1 + len(self._objective.figures), dtype=torch.float64)
        rates = learning_rates(len(steps), self._training.learning_rate, self._training.warmup_fraction)
        for index, (step, rate) in enumerate(zip(steps, rates, strict=True)):
            for group in loaded.optimizer.param_groups:
                group["lr"] = rate
            measured[index] = self._step(loaded, step, sequences)
            if self._callback is not None:
                self._tell(self._callback, job.round, index + 1, len(steps), rate, self._sum(measured[index].clone()))
            report(index + 1, len(steps))
        measured = self._sum(measured)
        step_seconds = time.monotonic() - began
        change = self._save(job, loaded, start, measured[:, 0])
        logger.info("round %d: done and saved after %.1f s", job.round, time.monotonic() - began)
        return TrainingResult(
            steps=len(steps),
            tokens=sum(target_tokens[unit] for step in steps for unit in step.members),
            first_loss=float(measured[0, 0]),
            last_loss=float(measured[-1, 0]),
            weight_change=change,
            startup_seconds=began - asked,
            step_seconds=step_seconds,
            last_figures=dict(zip(self._objective.figures, measured[-1, 1:].tolist(), strict=True)),
        )

    def _load(self, base: Path) -> _Loaded:
        if self._loaded is not None and self._loaded.base == base:
            return self._loaded
        if self._loaded is not None:
            self._loaded.engine.destroy()
            self._loaded = None
            gc.collect()
        model = load_model(base, self._dtype, trust_remote_code=self._trust_remote_code)
        frame, buffers = self._frame(model), saved_buffers(model)
        turn_off(model)  # after the frame, whose config is saved with what was trained
        gains = self._device is not None or (self._dtype == torch.bfloat16 and bool(native_bfloat16()))
        one_row = gains and use_lengths(model)
        weights = dict(model.named_parameters()) if self._lora is not None and self._weights_stay_exact(base) else None
        module = model if self._lora is None else add_adapter(model, self._lora)
        if self._training.checkpoints(sum(parameter.numel() for parameter in model.parameters())):
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            # Only the other kind of checkpointing needs gradients of what enters the first layer.
            model.disable_input_require_grads()
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        shapes = {name: tuple(parameter.shape) for name, parameter in trained.items()}
        optimizer = torch.optim.AdamW(trained.values(), weight_decay=self._training.weight_decay)
        engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=list(trained.values()),
            optimizer=optimizer,
            config=deepspeed_config(self._training, self._dtype),
            dist_init_required=False,
        )
        engine.eval()
        packed = int(self._sum(torch.tensor([packing_is_exact(engine)], dtype=torch.int64))) == self._workers
        logger.info("%s: sequences %s rows", base, "share" if packed else "do not share")
        engine.train()
        self._loaded = _Loaded(base, engine, optimizer, trained, shapes, packed, one_row, frame, buffers, weights)
        return self._loaded

    def _steps(
        self, loaded: _Loaded, sequences: list[TrainingSequence], epochs: int, steps: int | None, seed: int
    ) -> list[Step]:
        return plan_steps(
            unit_lengths(sequences, self._objective.per_unit, loaded.packed),
            epochs=epochs,
            tokens_per_step=self._training.tokens_per_step,
            tokens_per_micro_batch=self._training.tokens_per_micro_batch,
            workers=self._workers,
            packed=loaded.packed,
            seed=seed,
            steps=steps,
            one_row=loaded.one_row,
        )

    def _tensors(self, job: TrainingJob, policy: Weights, loaded: _Loaded) -> dict[str, Tensor]:
        """A policy's float32 values of the trained weights, on the CPU; for the base model, those of a new adapter."""
        if self._lora is None:
            tensors = full_weights(policy, loaded.shapes, trust_remote_code=self._trust_remote_code)
        elif policy.adapter is not None:
            tensors = read_adapter(policy.adapter, loaded.shapes, self._lora)
        elif policy.policy_version == 0:
            tensors = fresh_adapter(loaded.shapes, job.seed)
        else:
            raise ValueError(
                f"model.lora: policy version {policy.policy_version} to start from has no adapter; it was trained "
                "with model.lora: null"
            )
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != loaded.shapes:
            raise ValueError(f"the model {policy.model} to start from does not have the weights of {job.base}")
        return tensors

    def _put(self, loaded: _Loaded, tensors: Mapping[str, Tensor]) -> None:
        """Put weights into the engine and reset the state of the optimizer."""
        put(loaded.engine, loaded.trained, tensors)
        for state in loaded.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    def _micro_batches(
        self, loaded: _Loaded, step: Step, sequences: list[TrainingSequence]
    ) -> Iterator[tuple[Rows, MicroBatch]]:
        """This worker's part of a step: the indices of the sequences of each micro-batch, and its arrays."""
        for units in step.shards[self._rank]:
            rows = sequence_rows(units, self._objective.per_unit, loaded.packed)
            yield rows, collate(rows, sequences)

    @torch.no_grad()
    def _with_reference(
        self, loaded: _Loaded, steps: list[Step], sequences: list[TrainingSequence], alive: Callable[[], None]
    ) -> list[TrainingSequence]:
        """The sequences with their log-probabilities under the engine's current weights as ``reference``."""
        found = torch.zeros(len(sequences), dtype=torch.float64)
        loaded.engine.eval()
        for step in steps:
            for rows, batch in self._micro_batches(loaded, step, sequences):
                members = torch.tensor([index for row in rows for index in row], dtype=torch.int64)
                found[members] = sequence_log_probabilities(loaded.engine, batch)[0].double().cpu()
            alive()
        loaded.engine.train()
        return [
            dataclasses.replace(sequence, reference=log_p)
            for sequence, log_p in zip(sequences, self._sum(found).tolist(), strict=True)
        ]

    def _step(self, loaded: _Loaded, step: Step, sequences: list[TrainingSequence]) -> Tensor:
        """Do one optimizer step, and return this worker's part of its loss and figures, on the CPU."""
        mass = sum(self._objective.mass(sequences[i * self._objective.per_unit]) for i in step.members)
        last = len(step.shards[self._rank]) - 1
        measured = torch.zeros(1 + len(self._objective.figures), dtype=torch.float64)
        for index, (_, batch) in enumerate(self._micro_batches(loaded, step, sequences)):
            total, figures = self._objective.total(loaded.engine, batch)
            loss = total / mass
            # DeepSpeed sums gradients over the micro-batches of a step, but averages them over the workers.
            loaded.engine.set_gradient_accumulation_boundary(index == last)
            loaded.engine.backward(loss * self._workers)
            measured[0] += loss.item()
            measured[1:] += figures.double().cpu() / mass
        loaded.engine.step()
        return measured

    def _tell(
        self, callback: Callable[..., Any], round_: int, step: int, steps: int, rate: float, measured: Tensor
    ) -> None:
        """Call the user's function from worker 0; ``measured`` is the step's loss and figures over all workers."""
        if self._rank == 0:
            loss, *figures = measured.tolist()
            named = dict(zip(self._objective.figures, figures, strict=True))
            told = TrainingStep(round_, step, steps, loss, rate, named)
            references.called(str(self._training.callback), CALLBACK, callback, told)

    def _save(self, job: TrainingJob, loaded: _Loaded, start: dict[str, Tensor], losses: Tensor) -> float:
        """Write the trained weights and return their relative change; worker 0 writes, the others send their parts.

        The trained weights take the place of those in ``start``, of which worker 0 keeps none.
        """
        if not bool(torch.isfinite(losses).all()):
            step = int((~torch.isfinite(losses)).nonzero()[0])
            raise TrainingError(
                f"the loss of step {step + 1} of {len(losses)} is {losses[step]}; lower training.learning_rate"
            )
        trained = {}
        moved = length = 0.0
        for name, value in masters(loaded.trained):
            if self._rank == 0:
                trained[name] = value.cpu().clone()
                before = start.pop(name).double()
                moved += float((trained[name].double() - before).square().sum())
                length += float(before.square().sum())
        if self._rank == 0:
            change = math.sqrt(moved) / (math.sqrt(length) or 1.0)
            if not len(losses) or not change > 0.0:
                raise TrainingError(f"{len(losses)} optimizer steps changed the weights by {change}; both must be > 0")
            self._write(job, loaded, trained)
        else:
            change = 0.0
        return float(self._sum(torch.tensor([change], dtype=torch.float64))[0])

    def _write(self, job: TrainingJob, loaded: _Loaded, trained: dict[str, Tensor]) -> None:
        partial = job.output / ".partial"
        for leftover in (partial, *(job.output / name for name in ("adapter", "model", FOLDER))):
            shutil.rmtree(leftover, ignore_errors=True)
        if self._lora is None:
            if job.continued and self._dtype != torch.float32:
                save_master(trained, partial)
                commit(partial, job.output / FOLDER)
            self._save_whole(job, loaded, ((name, trained.pop(name)) for name in list(trained)))
            return
        save_adapter(trained, loaded.engine.module.peft_config["default"], job.base, partial)
        commit(partial, job.output / "adapter")
        if job.merge:
            scaling = self._lora.alpha / self._lora.rank
            weights = self._base_weights(job.base, loaded)
            self._save_whole(job, loaded, merged_weights(loaded.frame, weights, trained, scaling))

    def _base_weights(self, base: Path, loaded: _Loaded) -> dict[str, Tensor]:
        """The base model's weights as exact as on disk, by parameter name."""
        if loaded.weights is not None:
            return dict(loaded.weights)
        exact = load_model(base, torch.float32, trust_remote_code=self._trust_remote_code)
        return dict(exact.named_parameters())

    def _save_whole(self, job: TrainingJob, loaded: _Loaded, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Write ``model/`` with these weights, which are rounded one after the other."""
        rounded = {name: tensor.detach().to("cpu", self._dtype) for name, tensor in weights}
        save_model(loaded.frame, job.base, job.output / ".partial", rounded | loaded.buffers)
        commit(job.output / ".partial", job.output / "model")

    def _frame(self, model: PreTrainedModel) -> PreTrainedModel:
        with torch.device("meta"):
            frame: PreTrainedModel = type(model)(copy.deepcopy(model.config))
        frame.generation_config = model.generation_config
        return frame.to(self._dtype)

    def _weights_stay_exact(self, base: Path) -> bool:
        """Whether an engine's frozen weights are those on disk: neither rounded nor split over the workers (ZeRO-3)."""
        return self._training.zero_stage < 3 and (self._dtype == torch.float32 or formats(base) == {"BF16"})

    def _sum(self, values: Tensor) -> Tensor:
        """The sum of the values over all workers, on the CPU."""
        values = values.to(self._device) if self._device is not None else values
        dist.all_reduce(values)
        return values.cpu()


def saved_buffers(model: PreTrainedModel) -> dict[str, Tensor]:
    """What a checkpoint of a model holds besides its parameters, by name."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in parameters}


def learning_rates(steps: int, peak: float, warmup_fraction: float) -> list[float]:
    """Linear warm-up over the first ``int(warmup_fraction * steps)`` steps, then linear decay towards 0.

    With W warm-up steps of S, step s = 0..S-1 has peak (s + 1) / (W + 1) for s < W, else peak (S - s) / (S - W).
    No step has rate 0, and a single step has the peak rate.
    """
    warmup = min(int(warmup_fraction * steps), steps - 1)
    return [
        peak * ((step + 1) / (warmup + 1) if step < warmup else (steps - step) / (steps - warmup))
        for step in range(steps)
    ]
