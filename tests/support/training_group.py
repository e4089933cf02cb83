"""Training workers without Ray: a process group of this process alone, or of new processes."""

import contextlib
import multiprocessing
import os
import queue
from pathlib import Path

import torch.distributed as dist

from scpl_ray.config import Model, Training
from scpl_ray.protocols import TrainingJob, TrainingResult
from scpl_ray.training.worker import Worker

Case = tuple[Training, Model, list[TrainingJob]]


def join(rank: int, world_size: int, rendezvous: Path) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)


def run(case: Case) -> list[TrainingResult]:
    """Run all jobs of a case, one after the other, in one worker."""
    training, model, jobs = case
    worker = Worker(training, model)
    return [worker.run(job, lambda step, steps: None) for job in jobs]


def _member(rank: int, world_size: int, rendezvous: Path, cases: list[Case], results: "multiprocessing.Queue") -> None:
    join(rank, world_size, rendezvous)
    outcome = [run(case) for case in cases]
    if rank == 0:
        results.put(outcome)
    dist.barrier()
    dist.destroy_process_group()


def run_group(world_size: int, rendezvous: Path, cases: list[Case]) -> list[list[TrainingResult]]:
    """Run every case in the same ``world_size`` new processes, and return the results of worker 0."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    members = [
        context.Process(target=_member, args=(rank, world_size, rendezvous, cases, results), daemon=True)
        for rank in range(world_size)
    ]
    for member in members:
        member.start()
    try:
        while True:
            with contextlib.suppress(queue.Empty):
                return results.get(timeout=0.5)
            assert not any(member.exitcode for member in members), "a worker died"
    finally:
        for member in members:
            member.join(timeout=5)
            member.kill()
