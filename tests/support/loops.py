"""The loop with fakes: its settings, its parts, a whole run, and the records that a run writes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.driver import run as driver
from jobs.driver.run import OnRound
from scpl_ray.config import Experiment
from scpl_ray.controller import Loop
from scpl_ray.feedback.population import PopulationSimulator
from scpl_ray.protocols import Engines, Progress
from scpl_ray.records import Completion, Manifest, Metric
from scpl_ray.storage.run_directory import Store
from tests.support import fakes
from tests.support.configs import defaults

SMALL = [
    "queries.prompts_per_round=40",
    "generation.samples_per_prompt=4",
    "evaluation.prompts_per_group=12",
    "evaluation.neutral_prompts=30",
    "generation.engine=transformers",
    "loop.rounds=3",
]


class Silent:
    def __init__(self) -> None:
        self.phases: list[tuple[int, str]] = []

    def start(self, round_: int, phase: str, total: int) -> None: ...
    def advance(self, phase: str, count: int) -> None: ...
    def generated(self, phase: str, chunk: Sequence[Completion]) -> None: ...
    def note(self, text: str) -> None: ...
    def done(self, manifest: Manifest) -> None:
        self.phases.append((manifest.round, manifest.phase))

    def measured(self, round_: int, rows: Sequence[Metric]) -> None: ...


def small(*overrides: str) -> Experiment:
    return defaults([*SMALL, *overrides])


def loop(
    store: Store, experiment: Experiment, base: Path, *, progress: Progress | None = None, **generator: int
) -> Loop:
    task = fakes.FakeTask(experiment.groups.names)
    engines = Engines(
        fakes.FakeGenerator(experiment.seed, **generator),
        fakes.FakeScorer(task),
        fakes.FakeTrainer(),
        PopulationSimulator(experiment, task),
    )
    given = Path(experiment.reward.model) if experiment.reward.model else None
    return Loop(experiment, task, store, engines, base, fakes.encode, progress or Silent(), given)


def run(root: Path, experiment: Experiment, **generator: int) -> tuple[list[Metric], dict[str, bytes]]:
    base = root.parent / "base"
    if not base.exists():
        fakes.make_base(base, len(experiment.groups.names))
    store = Store.create(root, experiment, {})
    rows = loop(store, experiment, base, **generator).run()
    store.close()
    return rows, records_of(root)


def driven(patch: pytest.MonkeyPatch, base: Path, trainer: type[Any] = fakes.FakeTrainer) -> Callable[..., None]:
    """The driver's rounds with fakes, and what it deletes between them: ``go(store, experiment, last, *hooks)``."""
    patch.setattr(driver, "_base", lambda *_: base)
    patch.setattr(driver, "encoder", lambda *_: fakes.encode)
    patch.setattr(driver, "WatchedProgress", lambda progress, *_: progress)
    unseen = SimpleNamespace(write=lambda rows: None, close=lambda finished: None)
    patch.setattr(driver.tracking, "Boards", lambda *_: unseen)

    def engines(experiment: Experiment, task: object) -> Engines:
        found = loop(None, experiment, base).engines  # type: ignore[arg-type]
        return Engines(found.generator, found.scorer, trainer(), found.population)

    fleet: Any = SimpleNamespace(engines=engines, queues=dict)

    def go(store: Store, experiment: Experiment, last: int | None = None, *hooks: OnRound) -> None:
        task: Any = fakes.FakeTask(experiment.groups.names)
        for done, _ in enumerate(driver.rounds(store, experiment, task, fleet, Silent(), None, hooks)):
            if done == last:
                return

    return go


def records_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.parquet")} | {
        str(p.relative_to(root)): p.read_bytes() for p in root.rglob("feedback/*.json") if p.name != "manifest.json"
    }
