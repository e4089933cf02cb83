"""Processes that train together: a sum over all of them, and DeepSpeed steps whose memory is measured."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

from jobs.devices.attempt import Check, CheckError, Report
from jobs.devices.material import TOKENS, number_format

GIB = 2**30
SUMMED = 2**24
"""Number of float32 values that are summed."""
REPEATS = 5
STAGES = (2, 3)
MARGIN = 1.15
"""Largest ratio of measured to estimated bytes that the plan's estimates allow for."""
ROWS = 8
"""Examples in a micro-batch."""


def sum_check(backend: str) -> Check:
    """The check of the sum."""
    return Check(
        f"{backend} all-reduce",
        "NCCL_DEBUG=INFO shows where it stops; NCCL_P2P_DISABLE=1 works around broken links between GPUs"
        if backend == "nccl"
        else "processes of this machine cannot reach each other over its loopback interface",
    )


def step_check(stage: int, ranks: int) -> Check:
    """The check of one training step."""
    where = "1 rank" if ranks == 1 else f"{ranks} ranks"
    return Check(f"ZeRO-{stage} step on {where}", "lower training.tokens_per_micro_batch, or train an adapter")


def together(report: Report | None, rank: int, ranks: int, folder: Path, on_gpu: bool, stage: int | None) -> None:
    """One process of the group.

    Args:
        report: of the first rank: is told how the check came out.
        rank: index of this process, and of its GPU.
        ranks: number of processes.
        folder: what :func:`jobs.devices.material.make` wrote.
        on_gpu: whether the processes have a GPU each.
        stage: the ZeRO stage that is tried; ``None``: the sum. What a stage leaves in memory would count for the next.
    """
    import torch
    import torch.distributed as dist

    os.environ["LOCAL_RANK"] = str(rank)
    if on_gpu:
        torch.cuda.set_device(rank)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, init_method=f"file://{folder / f'meeting-{stage}'}", rank=rank, world_size=ranks)
    if stage is None:
        check, said = sum_check(backend), _sum(rank, ranks, "cuda" if on_gpu else "cpu")
    else:
        check, said = step_check(stage, ranks), _step(rank, ranks, stage, folder, on_gpu)
    if report:
        report.passed(check.what, said)
    dist.barrier()
    dist.destroy_process_group()


def _sum(rank: int, ranks: int, device: str) -> str:
    import torch
    import torch.distributed as dist

    values = torch.full((SUMMED,), float(rank + 1), device=device)
    dist.all_reduce(values)
    if not bool((values == ranks * (ranks + 1) / 2).all()):
        raise CheckError(f"the sum of 1 to {ranks} over {ranks} processes came out as {values[0].item()}")
    began = time.perf_counter()
    for _ in range(REPEATS):
        dist.all_reduce(values)
    total = values.sum().item()  # waits for the device
    seconds = (time.perf_counter() - began) / REPEATS
    moved = 2 * (ranks - 1) / ranks * values.numel() * values.element_size()
    assert total > 0
    if ranks == 1:
        return f"1 process, which has nobody to exchange with: {seconds * 1e3:.2f} ms"
    return f"{ranks} processes, {moved / seconds / 1e9:.1f} GB/s each"


def _step(rank: int, ranks: int, stage: int, folder: Path, on_gpu: bool) -> str:
    """One step of all weights, and the peak of its memory beside what a plan would say."""
    import torch
    from transformers import AutoConfig

    from actors.placement.memory import Sizes, estimates, model_size
    from scpl_ray.config import Experiment
    from scpl_ray.protocols import TrainingJob
    from scpl_ray.records import Weights
    from scpl_ray.training.worker import Worker

    plain = Experiment()
    tokens = ROWS * (TOKENS + 1)
    changes: dict[str, Any] = {
        "workers": ranks,
        "zero_stage": stage,
        "steps": 1,
        "tokens_per_step": ranks * tokens,
        "tokens_per_micro_batch": tokens,
    }
    experiment = plain.model_copy(
        update={
            "model": plain.model.model_copy(update={"lora": None, "dtype": number_format(on_gpu=on_gpu)}),
            "training": plain.training.model_copy(update=changes),
        }
    )
    output = folder / f"stage-{stage}"
    if rank == 0:
        output.mkdir()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    base = folder / "base"
    job = TrainingJob(1, base, Weights(0, base), folder / "examples.parquet", output, merge=False, seed=0)
    began = time.perf_counter()
    Worker(experiment.training, experiment.model).run(job, lambda step, steps: None)
    seconds = time.perf_counter() - began
    sizes = Sizes(model_size(AutoConfig.from_pretrained(base), None), None)
    if not on_gpu:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
        planned = estimates(experiment, sizes, "cpu")["training worker"].host
        return f"{seconds:.1f} s; peak {peak:.2f} GiB of host memory, planned {planned:.2f}"
    peak = torch.cuda.max_memory_allocated() / GIB
    working = estimates(experiment, sizes, "dedicated")["training worker"].working
    planned = sum(gib for what, gib in working.items() if what != "libraries")
    if peak > MARGIN * planned:
        raise CheckError(f"peak {peak:.2f} GiB, planned {planned:.2f}: plans for this machine promise too much room")
    return f"{seconds:.1f} s; peak {peak:.2f} GiB, planned {planned:.2f}"
