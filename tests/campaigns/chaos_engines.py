"""Runs with the real engines, their processes killed at random: ``python -m tests.campaigns.chaos_engines --runs 24``.

Ray, vLLM, the reward model and DeepSpeed live in one :class:`actors.fleet.Fleet` that all runs share. The kinds of
fault take turns: an engine, a scorer, a training worker or the feedback simulator gets SIGKILL at an instant that is
drawn, the object store is filled, or a ``scpl run`` of its own has its driver killed and is resumed. About half a
minute a run on two cores.
"""

import argparse
import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import ray
from rich.console import Console

from actors.fleet import Fleet
from jobs.driver import experiments, run
from jobs.driver.trial import FAULTS, Quiet, open_or_create
from scpl_ray import tasks
from scpl_ray.config import Experiment
from scpl_ray.protocols import Engines, Process, Task
from tests.campaigns.chaos import ATTEMPTS, Outcome, table
from tests.support.commands import SMALL
from tests.support.loops import records_of

FULL = "object store full"
DRIVER = "driver"
KINDS = ("engine", "scorer", "training worker", "feedback simulator", FULL, DRIVER)
STORE_BYTES = 100 * 2**20
BLOCK_BYTES = 8 * 2**20


def victims(kind: str, engines: Engines) -> list[int]:
    """Process ids of a kind of process."""
    if kind == "feedback simulator":
        return [p.pid for p in psutil.process_iter() if p.name().startswith("ray::_Simulator")]
    pool = {"engine": engines.generator, "scorer": engines.scorer, "training worker": engines.trainer}[kind]
    found: list[Process] = pool.processes()
    return [p.pid for p in found]


def strike(kind: str, engines: Engines, after_s: float, rng: random.Random, hits: list[int]) -> None:
    """Kill one process of a kind after a while; if there is none at that instant, kill the next one that starts."""
    time.sleep(after_s)
    if kind == FULL:
        # twice its capacity, so that the oldest objects are spilled to disk
        held = [ray.put(os.urandom(BLOCK_BYTES)) for _ in range(2 * STORE_BYTES // BLOCK_BYTES)]
        time.sleep(after_s)
        hits.append(len(held))
        return
    for _ in range(100):
        if pids := victims(kind, engines):
            pid = rng.choice(pids)
            os.kill(pid, signal.SIGKILL)
            hits.append(pid)
            return
        time.sleep(0.1)


def play(run_dir: Path, experiment: Experiment, task: Task, fleet: Fleet) -> str:
    """Run to the end, resuming after every stop; returns the last reason for a stop, or an empty string."""
    said = ""
    for _ in range(ATTEMPTS):
        store = open_or_create(run_dir, experiment, {})
        try:
            list(run.rounds(store, experiment, task, fleet, Quiet()))
            return said
        except FAULTS as error:
            said = f"stopped and was gone on with: {error}"
            fleet.close()
        finally:
            store.close()
    return f"gave up: {said}"


def driver_killed(run_dir: Path, seconds: float) -> str:
    """Start a run from the command line, kill its driver, and resume the run."""
    code = "import sys; sys.argv[0] = 'scpl'; from jobs.cli import main; main()"
    first = subprocess.Popen(
        [sys.executable, "-c", code, "run", "--run-dir", str(run_dir), *SMALL],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (run_dir / "rounds/000/base/manifest.json").exists() and first.poll() is None:
        time.sleep(0.05)
    time.sleep(seconds)
    first.kill()
    first.wait()
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--resume", str(run_dir)], capture_output=True, text=True, timeout=600
    )
    return "" if done.returncode == 0 else f"gave up: {done.stderr[-500:]}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    console = Console(width=110)
    experiment = experiments.load(None, SMALL)
    task = tasks.TASKS[experiment.task.name].build(experiment)
    os.environ.update(run.QUIET)
    ray.init = functools.partial(ray.init, object_store_memory=STORE_BYTES)
    outcomes = []
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as name,
        run.connected(Path(name) / "ray") as cluster,
        Fleet(Path(name) / "fleet", cluster) as fleet,
    ):
        folder = Path(name)
        # the first run also starts everything; the second is the undisturbed one
        for reference in ("first", "undisturbed"):
            began = time.monotonic()
            play(folder / reference, experiment, task, fleet)
            undisturbed_s = time.monotonic() - began
        expected = records_of(folder / "undisturbed")
        for index in range(asked.runs):
            run_dir = folder / f"{index:03d}"
            began = time.monotonic()
            kind = KINDS[index % len(KINDS)]
            if kind == DRIVER:
                said = driver_killed(run_dir, rng.uniform(0.0, 3 * undisturbed_s))
                lost = time.monotonic() - began
            else:
                hits: list[int] = []
                how = (kind, fleet.engines(experiment, task), rng.uniform(0.0, undisturbed_s), rng, hits)
                thread = threading.Thread(target=strike, args=how)
                thread.start()
                said = play(run_dir, experiment, task, fleet)
                thread.join()
                lost = time.monotonic() - began - undisturbed_s
                assert hits, f"no {kind} was killed"
            identical = records_of(run_dir) == expected
            outcomes.append(
                Outcome(kind if kind == FULL else f"{kind} killed", "gave up" not in said, identical, lost, said)
            )
            console.print(f"run {index}: {outcomes[-1]}", markup=False)
    console.print(table(outcomes))
    return 0 if all(o.survived and o.identical for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
