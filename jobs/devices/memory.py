"""Memory of a process that died, and copies between devices."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection

from jobs.devices.attempt import Check, CheckError, Report

GIB = 2**30
HELD_BYTES = 2**30
HOST_BYTES = 2**27
FREED, COPIES = "free memory after a worker died", "copies between devices"
CHECKS = (
    Check(FREED, "reset the GPU, or end what `nvidia-smi` lists; a run waits 120 s for it, then stops"),
    Check(COPIES, "look at `nvidia-smi topo -m`; without peer access NCCL copies through the host"),
)
FREE_S = 30.0
START_S = 60.0
POLL_S = 0.05
REPEATS = 5


def give_back(report: Report, rank: int, ranks: int, on_gpu: bool, gpus: int) -> None:
    """Kill a process that holds memory and time its return; then copy between neighbouring devices."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    holder = context.Process(target=_hold, args=(theirs, on_gpu))
    before = _free() if on_gpu else 0
    holder.start()
    if not ours.poll(START_S):
        raise CheckError(f"the process did not get its memory within {START_S:.0f} s")
    held = ours.recv()
    holder.kill()
    began = time.monotonic()
    holder.join()
    while on_gpu and (there := _free()) < before - held / 8:  # host memory goes with its process
        if time.monotonic() - began > FREE_S:
            raise CheckError(f"{(before - there) / GIB:.2f} GiB are still held {FREE_S:.0f} s after its death")
        time.sleep(POLL_S)
    where = "the GPU" if on_gpu else "host memory"
    report.passed(FREED, f"{held / GIB:.2f} GiB of {where} after {time.monotonic() - began:.2f} s")
    if gpus < 2:
        report.impossible(COPIES, f"{'1 GPU is' if gpus == 1 else f'{gpus} GPUs are'} visible; it takes two")
        return
    report.passed(COPIES, _copies(gpus))


def _hold(to: Connection, on_gpu: bool) -> None:
    """Hold memory until the end."""
    if on_gpu:
        import torch

        held = torch.ones(HELD_BYTES, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        to.send(held.numel())
    else:
        filled = bytearray(b"1") * HOST_BYTES
        to.send(len(filled))
    to.recv()


def _free() -> int:
    import torch

    return torch.cuda.mem_get_info()[0]


def _copies(gpus: int) -> str:
    """Bytes per second from each device to the next."""
    import torch

    rates = []
    for source in range(gpus):
        target = (source + 1) % gpus
        data = torch.ones(HELD_BYTES, dtype=torch.uint8, device=f"cuda:{source}")
        arrived = torch.empty_like(data, device=f"cuda:{target}")
        arrived.copy_(data)
        torch.cuda.synchronize(target)
        began = time.perf_counter()
        for _ in range(REPEATS):
            arrived.copy_(data)
        torch.cuda.synchronize(source)
        torch.cuda.synchronize(target)
        rates.append(REPEATS * HELD_BYTES / (time.perf_counter() - began))
        if not bool((arrived == 1).all()):
            raise CheckError(f"what was copied from GPU {source} to GPU {target} is not what arrived")
    return f"{min(rates) / 1e9:.1f} to {max(rates) / 1e9:.1f} GB/s"
