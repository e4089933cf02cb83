"""Seconds per phase of a real run, compared with bare vLLM and bare DeepSpeed on the same work.

The bare engines read the run's own prompts, seeds, weights and training data, and run in processes of their own with
the threads that the run's engines had, so each ratio compares like with like.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from rich.table import Table

from actors.generation import RayGenerator
from actors.placement.cluster import local_cluster
from actors.placement.layout import layout
from actors.placement.memory import with_format
from actors.placement.role import Role
from jobs.driver import run
from jobs.terminal.display import chatter_to, wide_console
from scpl_ray.config import Experiment
from scpl_ray.models import precision
from scpl_ray.protocols import TrainingJob
from scpl_ray.records import Completion, Manifest, Query, Weights
from scpl_ray.storage import retention
from scpl_ray.storage.run_directory import PHASES, Store
from scpl_ray.tasks.bases import base_model

Result = TypeVar("Result")
WORK = ("completions", "scores", "weights", "evaluation")
"""Phases that generate (while the reward model is fitted), score, train or evaluate; the rest is overhead."""
REPEATS = 3
"""How often the engines write a round's completions again, bare and in the pool alone: the shortest time counts."""


def overhead(experiment: Experiment) -> None:
    """Run the experiment, then the bare engines on its last round, and print both."""
    experiment = retention.keeping_all(experiment)
    with tempfile.TemporaryDirectory() as folder, chatter_to(Path(folder) / "output.log") as screen:
        console = wide_console(screen)
        task, _ = run.plan(experiment)
        machine = local_cluster()
        placed = layout(experiment, machine)
        store = Store.create(Path(folder) / "run", experiment, run.versions())
        started = time.monotonic()
        run.run(store, experiment, task)
        wall = time.monotonic() - started
        base = base_model(experiment, task)
        by_round = [[m for m in store.committed() if m.round == t] for t in range(1, experiment.loop.rounds + 1)]
        console.print(phase_table(by_round, wall))

        experiment = precision.suited(experiment, machine.without_bfloat16)
        experiment = with_format(experiment, task, on_gpu=placed.mode != "cpu")
        last = experiment.loop.rounds
        facts = {m.phase: m.facts for m in by_round[-1]}
        completions = store.read(last, "completions", "completions", Completion)
        requests = [(c.prompt_token_ids, c.seed) for c in completions]
        weights = store.policy(experiment, base, last - 1)
        table = Table(title=f"the same work by the bare engine (round {last})", title_justify="left")
        for column in ("engine", "work", "bare s", "here s", "speed here / bare"):
            table.add_column(column, justify="left" if column in ("engine", "work") else "right")
        tokens = sum(len(c.token_ids) for c in completions)
        inside = facts["completions"]["generation_seconds"]
        bare = alone(_bare_vllm, placed.engine.threads, experiment, placed.engine.gpus, weights, requests)
        queries = store.read(last, "queries", "queries", Query)
        pool = pool_alone(experiment, placed.engine, Path(folder), weights, queries, completions)
        for where, seconds in (("pool alone", pool), ("loop", inside)):
            ratio = f"{bare / seconds:.2f}"
            table.add_row(f"vLLM, {where}", f"{tokens:,} tokens", f"{bare:.2f}", f"{seconds:.2f}", ratio)
        inside = by_round[-1][[m.phase for m in by_round[-1]].index("weights")].seconds
        inside -= facts["weights"]["startup_seconds"]
        job = TrainingJob(
            round=last,
            base=base,
            start=store.policy(experiment, base, 0 if experiment.loop.starts_from_base else last - 1),
            dataset=store.folder(last, "dataset") / "dataset.parquet",
            output=Path(folder) / "bare",
            merge=experiment.generation.refresh == "reload",
            seed=0,
        )
        job.output.mkdir()
        bare = alone(_bare_deepspeed, placed.worker.threads, experiment, job)
        work = f"{facts['weights']['tokens']:,} tokens"
        table.add_row("DeepSpeed, loop", work, f"{bare:.2f}", f"{inside:.2f}", f"{bare / inside:.2f}")
        console.print(table)
        store.close()


def phase_table(by_round: Sequence[Sequence[Manifest]], wall: float) -> Table:
    """Median seconds per phase, and the seconds of a round outside the phases of :data:`WORK`."""
    spans = [of[-1].committed_at - of[0].committed_at + of[0].seconds for of in by_round]
    span = statistics.median(spans)
    median = {
        phase: statistics.median(seconds)
        for phase in PHASES
        if (seconds := [m.seconds for of in by_round for m in of if m.phase == phase])
    }
    table = Table(title=f"median seconds per phase over {len(by_round)} rounds", title_justify="left")
    for column in ("phase", "seconds", "of a round"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase, typical in median.items():
        inside = " (while completions are drawn)" if phase == "reward_model" else ""
        table.add_row(phase.replace("_", " ") + inside, f"{typical:.2f}", f"{typical / span:.0%}")
    rest = span - sum(median.get(phase, 0.0) for phase in WORK)
    startup = max(m.facts["startup_seconds"] for of in by_round for m in of if m.phase == "weights")
    table.add_row("whole round", f"{span:.2f}", "100%", style="bold")
    table.add_row("not generating, scoring, training or evaluating", f"{rest:.2f}", f"{rest / span:.0%}")
    table.add_row("training start-up on the critical path, largest", f"{startup:.2f}", "")
    table.add_row("the whole command, start-up and base model included", f"{wall:.1f}", "")
    return table


def alone(function: Callable[..., Result], threads: int, *arguments: Any) -> Result:
    """Run a function in a fresh process with this many threads.

    Raises:
        concurrent.futures.process.BrokenProcessPool: the process died.
    """
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": str(threads), **run.QUIET}
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def pool_alone(
    experiment: Experiment,
    role: Role,
    folder: Path,
    weights: Weights,
    queries: Sequence[Query],
    completions: Sequence[Completion],
) -> float:
    """Seconds in which the engines behind Ray write a round's completions again while nothing is scored."""
    drawn = Counter(c.query_id for c in completions)
    samples = [drawn[query.query_id] for query in queries]
    with run.connected(folder / "pool"):
        generator = RayGenerator(experiment, role, folder)
        try:
            generator.refresh(weights)
            list(generator.stream(queries[:32], samples=samples[:32], purpose="warm-up"))
            purpose = f"round {completions[0].policy_version + 1}"
            times = []
            for _ in range(REPEATS):
                started = time.monotonic()
                pieces = list(generator.stream(queries, samples=samples, purpose=purpose))
                times.append(time.monotonic() - started)
        finally:
            generator.close()
    written = {c.completion_id: c.token_ids for piece in pieces for c in piece}
    if written != {c.completion_id: c.token_ids for c in completions}:
        raise RuntimeError("the engines wrote other completions than in the round, so that times cannot be compared")
    return min(times)


def _bare_vllm(
    experiment: Experiment, gpus: float, weights: Weights, requests: Sequence[tuple[tuple[int, ...], int]]
) -> float:
    from actors.engines.base import EngineSettings, Request
    from actors.engines.registry import ENGINES
    from actors.engines.vllm import VllmEngine

    os.environ.update(ENGINES["vllm"].environment(gpus))
    engine = VllmEngine(EngineSettings.of(experiment, gpus))
    engine.load(weights)
    work = [Request(prompt, seed) for prompt, seed in requests]
    engine.generate(work[:32])
    times = []
    for _ in range(REPEATS):
        started = time.monotonic()
        engine.generate(work)
        times.append(time.monotonic() - started)
    return min(times)


def _bare_deepspeed(experiment: Experiment, job: TrainingJob) -> float:
    import torch.distributed as dist

    from scpl_ray.training.worker import Worker

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    dist.init_process_group("gloo", init_method=f"file://{job.output}/rendezvous", rank=0, world_size=1)
    worker = Worker(experiment.training, experiment.model, threads=int(os.environ["OMP_NUM_THREADS"]))
    started = 0.0

    def report(step: int, steps: int) -> None:
        nonlocal started
        if step == 0:
            started = time.monotonic()

    worker.run(job, report)
    return time.monotonic() - started
