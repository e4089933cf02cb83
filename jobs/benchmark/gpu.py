"""How fast one GPU works for a run, compared with its limits: ``python -m jobs.benchmark gpu``.

The limits are roofline-like (Williams, Waterman, Patterson 2009) and hold for this machine, whose copies and matrix
products are measured first. N parameters of B bytes, F FLOP/s, W bytes/s within the GPU, U bytes/s from the host to it:

- generation: 2 N prompt tokens / F, then the longer of B steps / W and 2 N tokens / F
- training: 6 N tokens / F; for an adapter, 4 N tokens / F (the weights' gradients are not needed)
- scoring: 2 N tokens / F
- start, refresh, wake by reload: bytes / U; by adapter, the bytes include those of the base, kept in host memory

What this machine cannot run is listed with the reason.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from scpl_ray.config import Experiment
from scpl_ray.records import Completion, Example, Weights
from scpl_ray.storage import retention

if TYPE_CHECKING:
    from scpl_ray.storage.run_directory import Store

MACHINE = ("copy within the GPU", "copy from host to GPU", "matrix product")
RUN = ("generation", "scoring", "training", "training, per step", "whole round, one GPU for all")
ENGINE = (
    "start",
    "generation",
    "refresh by reload",
    "sleep between reloads",
    "wake by reload",
    "refresh by adapter",
    "sleep between adapters",
    "wake by adapter",
)
ALONE = "engine alone: "
COPIED_BYTES = 2**30
WIDTH = 8192
"""Width of the square matrices."""
REPEATS = 20
WARM_REQUESTS = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """The measured limits of this machine."""

    copy: float
    """Bytes per second that the GPU reads and writes."""
    upload: float
    """Bytes per second from page-locked host memory to the GPU."""
    flops: float
    """bfloat16 floating-point operations per second of a matrix product."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    work: str
    seconds: float | None = None
    limit_s: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The cells of the line as text."""
        if self.seconds is None:
            return self.what, self.work, "", "", ""
        limit = "" if self.limit_s is None else f"{self.limit_s:.4f}"
        share = "" if self.limit_s is None else f"{self.limit_s / self.seconds:.1%}"
        return self.what, self.work, f"{self.seconds:.4f}", limit, share


@dataclasses.dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of a folder's safetensors files, in GPU memory."""

    parameters: int
    width: int
    """Bytes per parameter."""

    @property
    def bytes(self) -> int:
        """Bytes of all parameters."""
        return self.parameters * self.width


def tensors(folder: Path, width: int) -> Tensors:
    """Count the parameters of a folder without reading them."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                count += torch.Size(opened.get_slice(name).get_shape()).numel()
    return Tensors(count, width)


def generation_limit_s(
    machine: Machine, model: Tensors, prompt_tokens: int, lengths: Sequence[int], batch: int
) -> float:
    """Least seconds to read prompts and write completions of these lengths, at most ``batch`` at a time.

    A step reads all weights once. There are at least as many steps as the longest completion has tokens, and as full
    batches need.
    """
    steps = max(max(lengths), -(-sum(lengths) // batch))
    reading = 2 * model.parameters * prompt_tokens / machine.flops
    return reading + max(model.bytes * steps / machine.copy, 2 * model.parameters * sum(lengths) / machine.flops)


def training_limit_s(machine: Machine, parameters: int, tokens: int, *, adapter: bool) -> float:
    """Least seconds of the forward and backward passes."""
    return (4 if adapter else 6) * parameters * tokens / machine.flops


def obstacles() -> list[str]:
    """The reasons why runs on a GPU are impossible here; empty if they are possible."""
    found = []
    if not torch.cuda.device_count():
        found.append("no GPU: torch finds no CUDA device")
    for package, extra in (("vllm", "scpl_ray[gpu]"), ("ray", "scpl_ray")):
        if importlib.util.find_spec(package) is None:
            found.append(f"{package} is not installed: pip install {extra}")
    return found


def benchmark(experiment: Experiment, console: Console) -> None:
    """Measure everything that this machine can run, and print one table."""
    experiment = retention.keeping_all(experiment)
    rows: list[Row] = []
    missing = obstacles()
    with tempfile.TemporaryDirectory() as folder:
        if torch.cuda.device_count():
            machine = _alone(limits)
            rows += machine_rows(machine)
        else:
            rows += [Row(what, missing[0]) for what in MACHINE]
        if missing:
            rows += [Row(what, "; ".join(missing)) for what in (*RUN, *(ALONE + what for what in ENGINE))]
        else:
            rows += _runs(experiment, machine, Path(folder))
    name = torch.cuda.get_device_name(0) if torch.cuda.device_count() else "no GPU"
    table = Table(title=f"{name}; model {experiment.model.name}", title_justify="left")
    for column in ("what", "work, or why it could not run", "seconds", "limit, s", "limit / measured"):
        table.add_column(column, justify="left" if column.startswith("w") else "right", overflow="fold")
    for row in rows:
        table.add_row(*row.cells())
    console.print(table)


def _alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in its own process, so that its GPU memory is freed afterwards."""
    from jobs.benchmark.overhead import alone

    return alone(function, 1, *arguments)


def limits() -> Machine:
    """Measure the limits of the GPU."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    host = torch.empty(COPIED_BYTES, dtype=torch.uint8, pin_memory=True)
    a, b = (torch.randn(WIDTH, WIDTH, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    return Machine(
        copy=2 * COPIED_BYTES / _seconds(lambda: target.copy_(source)),
        upload=COPIED_BYTES / _seconds(lambda: target.copy_(host, non_blocking=True)),
        flops=2 * WIDTH**3 / _seconds(lambda: torch.mm(a, b)),
    )


def _seconds(do: Callable[[], object]) -> float:
    """Seconds per call, measured after a warm-up call."""
    do()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(REPEATS):
        do()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / REPEATS


def machine_rows(machine: Machine) -> list[Row]:
    """The measurements from which the limits are computed."""
    return [
        Row(MACHINE[0], f"{machine.copy / 1e9:,.0f} GB/s", 2 * COPIED_BYTES / machine.copy),
        Row(MACHINE[1], f"{machine.upload / 1e9:,.1f} GB/s", COPIED_BYTES / machine.upload),
        Row(MACHINE[2], f"{machine.flops / 1e12:,.0f} TFLOP/s, bfloat16", 2 * WIDTH**3 / machine.flops),
    ]


def _runs(experiment: Experiment, machine: Machine, folder: Path) -> Iterator[Row]:
    """A run on this machine, and the engine alone on the work of its last round."""
    from ray.exceptions import RayError

    from jobs.driver import run
    from scpl_ray.storage.run_directory import Store
    from scpl_ray.tasks.bases import base_model

    stops = (ValueError, RuntimeError, OSError, RayError)
    try:
        task, _ = run.plan(experiment)
        store = Store.create(folder / "run", experiment, run.versions())
        run.run(store, experiment, task)
        base = base_model(experiment, task)
    except stops as error:
        yield from (Row(what, f"the run stopped: {error}") for what in (*RUN, *(ALONE + what for what in ENGINE)))
        return
    yield from run_rows(experiment, machine, store, base)
    last = experiment.loop.rounds
    completions = store.read(last, "completions", "completions", Completion)
    work = f"{sum(len(c.token_ids) for c in completions):,} tokens"
    width = _width(experiment)
    limit = generation_limit_s(machine, tensors(base, width), *_lengths(completions), _batch(experiment))
    for refresh in ("reload", "adapter"):
        if experiment.model.lora is None and refresh == "adapter":
            yield from (Row(ALONE + what, "model.lora = null: full weights have no adapter") for what in ENGINE[5:])
            continue
        served = experiment.model_copy(
            update={"generation": experiment.generation.model_copy(update={"refresh": refresh})}
        )
        weights = [store.policy(served, base, version) for version in (last - 1, last)]
        requests = [(c.prompt_token_ids, c.seed) for c in completions]
        try:
            took: EngineSeconds = _alone(engine_seconds, served, weights, requests)
        except stops as error:
            yield Row(f"{ALONE}refresh by {refresh}", f"the engine stopped: {error}")
            continue
        adapter = weights[1].adapter if refresh == "adapter" else None
        moved = tensors(adapter or weights[1].model, width).bytes
        if refresh == "reload":
            yield Row(f"{ALONE}start", f"{moved / 1e9:.3f} GB", took.start, moved / machine.upload)
            yield Row(f"{ALONE}generation", work, took.generation, limit)
        yield Row(f"{ALONE}refresh by {refresh}", f"{moved / 1e9:.3f} GB", took.refresh, moved / machine.upload)
        yield Row(f"{ALONE}sleep between {refresh}s", f"{took.freed / 1e9:.1f} GB given back", took.sleep)
        back = moved + (tensors(weights[1].model, width).bytes if refresh == "adapter" else 0)
        yield Row(f"{ALONE}wake by {refresh}", f"{back / 1e9:.3f} GB", took.wake, back / machine.upload)
    store.close()


def run_rows(experiment: Experiment, machine: Machine, store: Store, base: Path) -> Iterator[Row]:
    """The phases of a run's last round, each with its limit."""
    last = experiment.loop.rounds
    of = {m.phase: m for m in store.committed() if m.round == last}
    completions = store.read(last, "completions", "completions", Completion)
    prompt_tokens, lengths = _lengths(completions)
    policy = tensors(base, _width(experiment))
    found = [
        Row(
            RUN[0],
            f"{sum(lengths):,} tokens",
            of["completions"].facts["generation_seconds"],
            generation_limit_s(machine, policy, prompt_tokens, lengths, _batch(experiment)),
        )
    ]
    read = sum(len(c.prompt_token_ids) + len(c.token_ids) for c in completions)
    if "reward_model" in of:
        judge = tensors(store.folder(last, "reward_model"), _width(experiment))
        found.append(Row(RUN[1], f"{read:,} tokens", of["scores"].seconds, 2 * judge.parameters * read / machine.flops))
    else:
        found.append(Row(RUN[1], f"{read:,} tokens", of["scores"].seconds))
    examples = store.read(last, "dataset", "dataset", Example)
    facts, training = of["weights"].facts, experiment.training
    tokens = training.epochs * sum(
        len(e.prompt_token_ids) * (1 + (e.rejected_token_ids is not None))
        + len(e.token_ids)
        + len(e.rejected_token_ids or ())
        for e in examples
    )
    if training.steps is not None:  # then steps are filled, with all that is needed of further epochs
        tokens = facts["steps"] * training.tokens_per_step
    seconds = facts["step_seconds"]
    limit = training_limit_s(machine, policy.parameters, tokens, adapter=experiment.model.lora is not None)
    found.append(Row(RUN[2], f"{tokens:,} tokens", seconds, limit))
    found.append(Row(RUN[3], f"{facts['steps']:,} steps", seconds / facts["steps"], limit / facts["steps"]))
    span = of["feedback"].committed_at - of["queries"].committed_at + of["queries"].seconds
    found.append(Row(RUN[4], "the phases above, evaluation and what lies between", span))
    yield from found


def _lengths(completions: Sequence[Completion]) -> tuple[int, list[int]]:
    """The number of prompt tokens, counting every query once, and the lengths of the completions."""
    prompts = {c.query_id: len(c.prompt_token_ids) for c in completions}
    return sum(prompts.values()), [len(c.token_ids) for c in completions]


def _width(experiment: Experiment) -> int:
    return 4 if experiment.model.dtype == "float32" else 2


def _batch(experiment: Experiment) -> int:
    """Most completions that the engine writes at the same time."""
    if experiment.generation.max_sequences != "auto":
        return experiment.generation.max_sequences
    from actors.engines.registry import ENGINES

    return ENGINES["vllm"].load().held(1, on_gpu=True).rows


@dataclasses.dataclass(frozen=True, slots=True)
class EngineSeconds:
    """How long each operation of an engine took."""

    start: float
    generation: float
    refresh: float
    sleep: float
    wake: float
    freed: int
    """Bytes of GPU memory that the engine freed while it was asleep."""


def engine_seconds(
    experiment: Experiment, weights: Sequence[Weights], requests: Sequence[tuple[tuple[int, ...], int]]
) -> EngineSeconds:
    """Start with the first weights, write all completions, refresh to the second; sleep, and wake with the first."""
    import os

    from actors.engines.base import EngineSettings, Request
    from actors.engines.registry import ENGINES
    from actors.engines.vllm import VllmEngine

    os.environ.update(ENGINES["vllm"].environment(1.0))
    first, second = weights
    engine = VllmEngine(EngineSettings.of(experiment, 1.0, sleeps=True))
    with _clock() as start:
        engine.load(first)
    work = [Request(prompt, seed) for prompt, seed in requests]
    engine.generate(work[:WARM_REQUESTS])
    with _clock() as generation:
        engine.generate(work)
    with _clock() as refresh:
        engine.load(second)
    awake = torch.cuda.mem_get_info()[0]
    with _clock() as sleep:
        engine.sleep()
    freed = torch.cuda.mem_get_info()[0] - awake
    with _clock() as wake:
        engine.load(first)
    return EngineSeconds(start[0], generation[0], refresh[0], sleep[0], wake[0], freed)


@contextmanager
def _clock() -> Iterator[list[float]]:
    """A list that holds the block's seconds when it has ended."""
    seconds: list[float] = []
    began = time.perf_counter()
    yield seconds
    torch.cuda.synchronize()
    seconds.append(time.perf_counter() - began)
