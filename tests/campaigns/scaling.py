"""Does the pool's dispatch scale? ``python -m tests.campaigns.scaling``, on two cores, in a minute or two.

Real actors, the real pool and the real generator, with an engine that only waits: a step takes a fixed time, as on
GPUs of their own, so whatever is missing from n-fold speed with n replicas is what dispatch costs. Then 100,000 prompts
go through the pool while the driver's memory is watched.
"""

import argparse
import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from actors.engines.base import Probe, Sampled
from actors.engines.registry import ENGINES
from actors.engines.transformers import TransformersEngine
from actors.generation import RayGenerator
from actors.placement.role import Role
from jobs.driver import run
from scpl_ray.config import Experiment
from scpl_ray.records import Query, Weights
from tests.support.tiny_models import save_model

REPLICAS = (1, 2, 4, 8)
STEPS = 64
SEQUENCES_PER_STEP = 16
STEP_S = 0.25
TARGET = 0.9
"""The required fraction of linear speed."""
MANY = 100_000
GROWTH_BYTES = 200 * 10**6
"""The most that the driver's memory may grow while many prompts are processed."""


class Waits(TransformersEngine):
    """Answers any prompt with the same tokens, a few per step, which takes ``temperature`` seconds."""

    def load(self, weights: Weights) -> None:
        self.weights = weights

    def step(self) -> list[tuple[int, Sampled]]:
        time.sleep(self.settings.temperature)
        now = list(self._added)[:SEQUENCES_PER_STEP]
        for number in now:
            del self._added[number]
        return [(number, Sampled((3, 4, 5, 6, 7, 8, 9, 10), "length", -8.0)) for number in now]

    def probe(self) -> Probe:
        return Probe((3,), (0.0,))


def pool(replicas: int, seconds: float, folder: Path) -> RayGenerator:
    """A generator that is ready, because every replica has answered."""
    experiment = Experiment.model_validate(
        {"generation": {"engine": "transformers", "temperature": seconds, "max_sequences": SEQUENCES_PER_STEP}}
    )
    ENGINES["transformers"] = dataclasses.replace(ENGINES["transformers"], engine=f"{__name__}:Waits")
    started = RayGenerator(experiment, Role("engine", replicas, 0.01, 0.0, 1), folder / f"logs-{replicas}")
    started.refresh(Weights(0, folder / "model"))
    return started


def queries(count: int) -> list[Query]:
    """Short prompts."""
    return [Query(f"q{i:06d}", "a", f"w{2 + i % 97} w{2 + i % 89} w5", None, None) for i in range(count)]


def seconds(of: RayGenerator, count: int, purpose: str) -> float:
    """Seconds to take ``count`` completions from the stream; each is read and then dropped."""
    asked = queries(count)
    began = time.monotonic()
    taken = sum(len(chunk) for chunk in of.stream(asked, samples=[1] * count, purpose=purpose))
    spent = time.monotonic() - began
    assert taken == count
    return spent


def efficiency(times: dict[int, float]) -> dict[int, float]:
    """Speed with n replicas as a fraction of n times the speed of one."""
    return {n: times[1] / (n * spent) for n, spent in times.items()}


def scaling(folder: Path) -> tuple[Table, float]:
    """Do the same work on 1, 2, 4 and 8 replicas; returns the table and the worst efficiency."""
    times = {}
    for replicas in REPLICAS:
        of = pool(replicas, STEP_S, folder)
        seconds(of, replicas * SEQUENCES_PER_STEP, "warm-up")
        times[replicas] = seconds(of, STEPS * SEQUENCES_PER_STEP, "measured")
        of.close()
    shares = efficiency(times)
    title = f"{STEPS} times {SEQUENCES_PER_STEP} sequences, {STEP_S} s each"
    table = Table(title=title, title_justify="left")
    for column in ("replicas", "seconds", "limit, s", "efficiency"):
        table.add_column(column, justify="right")
    for n, spent in times.items():
        table.add_row(str(n), f"{spent:.2f}", f"{STEPS * STEP_S / n:.2f}", f"{shares[n]:.3f}")
    return table, min(shares.values())


def many(folder: Path) -> tuple[Table, int]:
    """Send many prompts through two replicas that do not wait; returns the table and the driver's growth in bytes."""
    of = pool(2, 0.0, folder)
    seconds(of, 1280, "warm-up")
    asked = queries(MANY)
    here = psutil.Process()
    before = peak = here.memory_info().rss
    taken = 0
    began = time.monotonic()
    for chunk in of.stream(asked, samples=[1] * MANY, purpose="many"):
        taken += len(chunk)
        peak = max(peak, here.memory_info().rss)
    spent = time.monotonic() - began
    of.close()
    assert taken == MANY
    table = Table(title=f"{MANY:,} prompts, engines that take no time", title_justify="left")
    for column in ("seconds", "prompts per second", "driver before, MB", "driver at its peak, MB", "growth, MB"):
        table.add_column(column, justify="right")
    cells = (f"{spent:.1f}", f"{MANY / spent:,.0f}", *(f"{b / 1e6:,.0f}" for b in (before, peak, peak - before)))
    table.add_row(*cells)
    return table, peak - before


def main() -> int:
    """The command line; the exit code is 1 if a target is missed."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    console = Console(width=110, highlight=False)
    with tempfile.TemporaryDirectory(prefix="pool-") as name, run.connected(Path(name) / "ray"):
        folder = Path(name)
        save_model(folder / "model", "llama")
        table, worst = scaling(folder)
        console.print(table)
        table, growth = many(folder)
        console.print(table)
    met = worst >= TARGET and growth < GROWTH_BYTES
    console.print(
        f"targets: efficiency >= {TARGET}, growth < {GROWTH_BYTES / 1e6:.0f} MB: {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
