"""A long run watched for leaks: ``python -m tests.campaigns.soak --rounds 200``, or ``--minutes 30``.

A small loop with the real engines. After every round: resident memory of the driver, the engine, the scorer, the
training worker, the feedback simulator and of everything that the driver started; their open file descriptors; and
what Ray's object store holds. The last rounds are compared with round 10, when all is loaded: exit code 1 where memory
grew by more than 5%, where descriptors grew, or where the object store holds more after a round than after round 0,
when there is the run's config and task in it, for the feedback simulator, and what Ray Train started with.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import ray
from ray._private.internal_api import node_stats
from rich.console import Console
from rich.table import Table

from actors.fleet import Fleet
from jobs.driver import experiments, run
from jobs.driver.trial import Quiet
from scpl_ray import tasks
from scpl_ray.protocols import Engines
from scpl_ray.storage.run_directory import Store

CONFIG = [
    "name=soak",
    "model.base_training_sentences=2000",
    "loop.kind=retraining",
    "queries.prompts_per_round=32",
    "generation.samples_per_prompt=1",
    "evaluation.prompts_per_group=8",
    "evaluation.neutral_prompts=16",
    "selection.strategy=random",
    "selection.keep_fraction=0.5",
    "generation.replicas=1",
    "reward.replicas=1",
]
WARM = 10
"""Round after which everything is loaded."""
AROUND = 3
"""Number of samples whose median is used as one value."""
MEMORY_GROWTH = 0.05
MORE_DESCRIPTORS = 2
"""Number of further connections that Ray may happen to hold open."""
SETTLED_S = 5.0
"""Longest wait for Ray to free objects, which it does in the background."""
DRIVER, ALL = "driver", "all processes"


@dataclasses.dataclass(frozen=True)
class Sample:
    """What was measured after one round."""

    round: int
    bytes: dict[str, int]
    """Resident memory, by kind of process."""
    descriptors: dict[str, int]
    """Number of open files and sockets, by kind of process."""
    store_bytes: int
    """Bytes in the object store."""


def processes(engines: Engines) -> dict[str, list[int]]:
    """Process ids by kind."""
    found = {DRIVER: [os.getpid()]}
    for pool in (engines.generator, engines.scorer, engines.trainer):
        for process in pool.processes():
            found.setdefault(process.role, []).append(process.pid)
    children = psutil.Process().children(recursive=True)
    found["feedback simulator"] = [p.pid for p in children if p.name().startswith("ray::_Simulator")]
    found[ALL] = [os.getpid(), *(p.pid for p in children)]
    return found


def _sum(pids: Sequence[int], figure: Callable[[psutil.Process], int]) -> int:
    """The sum of a figure over those processes that still exist."""
    total = 0
    for pid in pids:
        try:
            total += figure(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return total


def stored(kept: int) -> int:
    """Bytes in the object store, once it holds at most ``kept`` or :data:`SETTLED_S` have passed."""
    (node,) = ray.nodes()
    deadline = time.monotonic() + SETTLED_S
    while True:
        stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False).store_stats
        if stats.object_store_bytes_used <= kept or time.monotonic() > deadline:
            return int(stats.object_store_bytes_used)
        time.sleep(0.1)


def look(round_: int, engines: Engines, kept: int) -> Sample:
    """Take a sample."""
    pids = processes(engines)
    return Sample(
        round_,
        {kind: _sum(of, lambda p: p.memory_info().rss) for kind, of in pids.items()},
        {kind: _sum(of, lambda p: p.num_fds()) for kind, of in pids.items()},
        stored(kept),
    )


def typical(samples: Sequence[Sample], at: int, figures: Callable[[Sample], dict[str, int]]) -> dict[str, float]:
    """The median, by kind, of the ``AROUND`` samples up to number ``at``."""
    near = samples[max(0, at - AROUND + 1) : at + 1]
    return {kind: statistics.median(figures(s).get(kind, 0) for s in near) for kind in figures(near[-1])}


def marks(samples: Sequence[Sample]) -> tuple[int, int, int]:
    """Numbers of the samples that are compared: warm, middle, last."""
    last = len(samples) - 1
    warm = next((i for i, s in enumerate(samples) if s.round >= WARM), last)
    warm = min(warm, last // 2)
    return warm, (warm + last) // 2, last


def faults(samples: Sequence[Sample]) -> list[str]:
    """Descriptions of what leaks."""
    warm, _, last = marks(samples)
    found = []
    before, after = (typical(samples, at, lambda s: s.bytes) for at in (warm, last))
    for kind, end in after.items():
        if end > before[kind] * (1 + MEMORY_GROWTH):
            found.append(f"memory of {kind} grew by {end / before[kind] - 1:.1%}")
    before, after = (typical(samples, at, lambda s: s.descriptors) for at in (warm, last))
    for kind, end in after.items():
        if end > before[kind] + MORE_DESCRIPTORS:
            found.append(f"descriptors of {kind} grew from {before[kind]:g} to {end:g}")
    kept = samples[0].store_bytes
    if full := [s for s in samples if s.store_bytes > kept]:
        most = max(s.store_bytes for s in full) - kept
        found.append(f"object store held up to {most:,} bytes more after {len(full)} rounds than after round 0")
    return found


def tables(samples: Sequence[Sample]) -> Table:
    """The values of every figure when warm, in the middle and at the end, and its growth."""
    at = marks(samples)
    table = Table(title="after a round", title_justify="left")
    table.add_column("what")
    for mark in at:
        table.add_column(f"round {samples[mark].round}", justify="right")
    table.add_column("growth", justify="right")
    memory = [typical(samples, mark, lambda s: s.bytes) for mark in at]
    descriptors = [typical(samples, mark, lambda s: s.descriptors) for mark in at]
    for kind in memory[-1]:
        values = [of[kind] for of in memory]
        growth = f"{values[-1] / values[0] - 1:+.1%}"
        table.add_row(f"{kind}, MiB resident", *(f"{v / 2**20:,.1f}" for v in values), growth)
    for kind in descriptors[-1]:
        values = [of[kind] for of in descriptors]
        table.add_row(f"{kind}, descriptors", *(f"{v:g}" for v in values), f"{values[-1] - values[0]:+g}")
    kept = [samples[mark].store_bytes for mark in at]
    table.add_row("object store, bytes", *(f"{v:,}" for v in kept), f"{kept[-1] - kept[0]:+,}")
    return table


def soak(rounds: int, minutes: float, folder: Path, log: Path, console: Console) -> list[Sample]:
    """Samples of rounds 0, 1, 2, ..., each of which is also written as a line of ``log``."""
    experiment = experiments.load(None, [*CONFIG, f"loop.rounds={rounds}"])
    task = tasks.TASKS[experiment.task.name].build(experiment)
    os.environ.update(run.QUIET)
    store = Store.create(folder / "run", experiment, {})
    run.log_to(folder / "run/logs/driver.log", verbose=False)
    samples: list[Sample] = []
    began = time.monotonic()
    with (
        run.connected(folder / "ray") as cluster,
        Fleet(folder / "run", cluster) as fleet,
        log.open("w") as lines,
    ):
        engines = fleet.engines(experiment, task)
        going = run.rounds(store, experiment, task, fleet, Quiet())
        for round_, _ in enumerate(going):
            samples.append(look(round_, engines, samples[0].store_bytes if samples else 0))
            print(json.dumps(dataclasses.asdict(samples[-1])), file=lines, flush=True)
            if round_ % WARM == 0:
                console.print(f"round {round_} after {time.monotonic() - began:.0f} s", markup=False)
            if time.monotonic() - began > 60 * minutes:
                break
        going.close()
    store.close()
    console.print(f"{samples[-1].round} rounds in {time.monotonic() - began:.0f} s")
    return samples


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after the round that is in progress then")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="a file for every sample, a JSON line each")
    asked = parser.parse_args()
    console = Console(width=110, highlight=False)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        samples = soak(asked.rounds, asked.minutes, Path(folder), asked.log, console)
    console.print(tables(samples))
    found = faults(samples)
    console.print("\n".join(found) or "nothing leaks", markup=False)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
