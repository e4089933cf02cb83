"""The table of ``scpl doctor --gpu``: each line passed, failed and what to do, or could not run and why."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from actors.engines.registry import ENGINES, alternatives
from actors.placement.cluster import local_cluster
from jobs import nvidia
from jobs.devices import material, memory, ranks, serving
from jobs.devices.attempt import Check, Line, attempt
from scpl_ray.config import Experiment

COLOURS = {"passed": "green", "failed": "red", "could not run": "yellow"}


def examine_devices(console: Console) -> bool:
    """Try the devices of this machine, or without GPUs its CPU, and print one table; True if nothing failed."""
    node = local_cluster().nodes[0]
    gpus = node.gpus
    table = Table(title_justify="left")
    table.title = (
        f"scpl doctor --gpu: {gpus} {'GPU' if gpus == 1 else 'GPUs'} of {node.gpu_memory_gib:.0f} GiB"
        if gpus
        else "scpl doctor --gpu: no GPU here"
    )
    for column in ("what", "result", "found", "what to do"):
        table.add_column(column, overflow="fold")
    healthy = True
    with console.status("trying the devices") as status:
        for line in lines(gpus):
            status.update(f"trying the devices: {line.what} {line.result}")
            table.add_row(line.what, f"[{COLOURS[line.result]}]{line.result}[/]", line.found, line.remedy)
            healthy &= line.result != "failed"
    console.print(table)
    if not gpus:
        console.print("there is no GPU: what could run did so on the CPU, with gloo in the place of NCCL")
    return healthy


def lines(gpus: int) -> Iterator[Line]:
    """All lines of the table, as they are known.

    Args:
        gpus: number of visible GPUs.
    """
    yield from _driver()
    on_gpu = gpus > 0
    with tempfile.TemporaryDirectory(prefix="scpl-doctor-") as scratch:
        folder = Path(scratch)
        material.make(folder, large=on_gpu)
        members = gpus if on_gpu else 2
        trainers = min(members, 2)
        yield from _group(ranks.sum_check("nccl" if on_gpu else "gloo"), folder, members, on_gpu, None)
        for stage in ranks.STAGES:
            yield from _group(ranks.step_check(stage, trainers), folder, trainers, on_gpu, stage)
        engine = Experiment().generation.engine
        package = ENGINES[engine].package
        if package is not None and package.missing:
            engine = alternatives()
        yield from attempt(
            serving.CHECKS, serving.serve, folder, engine, on_gpu, logs=folder, deadline_s=serving.DEADLINE_S
        )
        yield from attempt(memory.CHECKS, memory.give_back, on_gpu, gpus, logs=folder)


def _group(check: Check, folder: Path, members: int, on_gpu: bool, stage: int | None) -> Iterator[Line]:
    return attempt([check], ranks.together, folder, on_gpu, stage, logs=folder, ranks=members)


def _driver() -> Iterator[Line]:
    """Driver, compiler and headers."""
    found = {what: (there, remedy) for what, there, remedy in nvidia.rows()}
    for what in nvidia.NAMES:
        if what in found:
            there, remedy = found[what]
            yield Line(what, "failed" if remedy else "passed", there, remedy)
        else:
            yield Line(what, "could not run", "no NVIDIA driver here, and only kernels for its GPUs need it")
