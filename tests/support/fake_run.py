"""One run of the loop with fakes in its own process, which a test can kill.

``python -m tests.support.fake_run WHERE PAUSE_S``

Every phase takes about PAUSE_S seconds; WHERE is a folder or a URI. A run that exists already is resumed, as
by ``scpl run --resume``. Exit codes are those of ``scpl run``: 0, 1 (a fault at run time) or 2 (the directory cannot
be used).
"""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.terminal.interrupts import STOPPED, Interrupts
from scpl_ray.config import Experiment
from scpl_ray.controller import Loop
from scpl_ray.feedback.population import PopulationSimulator
from scpl_ray.protocols import Engines, TrainingJob, TrainingResult
from scpl_ray.records import Completion, Query
from scpl_ray.storage import locations
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Store
from tests.support import fakes
from tests.support.loops import Silent, small


class SlowGenerator(fakes.FakeGenerator):
    def __init__(self, seed: int, pause_s: float) -> None:
        super().__init__(seed)
        self.pause_s = pause_s

    def stream(self, queries: Sequence[Query], **how: Any) -> Iterator[list[Completion]]:
        for chunk in super().stream(queries, **how):
            time.sleep(self.pause_s / 8)
            yield chunk


class SlowTrainer(fakes.FakeTrainer):
    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.pause_s = pause_s

    def train(self, job: TrainingJob) -> TrainingResult:
        result = super().train(job)
        time.sleep(self.pause_s)
        return result


def open_or_create(where: str, experiment: Experiment) -> tuple[Store, Experiment]:
    try:
        return locations.resume(where)
    except StoreError as error:
        if "run.json is missing" not in str(error):
            raise
    return locations.create(where, experiment, {}), experiment


def main(where: str, pause_s: float) -> int:
    experiment = small("reward.choices=balanced")
    interrupts = Interrupts()
    try:
        store, experiment = open_or_create(where, experiment)
    except StoreError as error:
        print(f"scpl: {error}", file=sys.stderr)
        return 2
    store.commits = interrupts.commit
    base = store.root.parent / "base"
    if not base.exists():
        fakes.make_base(base, len(experiment.groups.names))
    task = fakes.FakeTask(experiment.groups.names)
    engines = Engines(
        SlowGenerator(experiment.seed, pause_s),
        fakes.FakeScorer(task),
        SlowTrainer(pause_s),
        PopulationSimulator(experiment, task),
    )
    try:
        with interrupts.handled():
            rows = Loop(experiment, task, store, engines, base, fakes.encode, Silent(), None).run()
            store.finish(rows, {})
    except KeyboardInterrupt:
        return STOPPED
    except (RuntimeError, ValueError, OSError) as error:
        print(f"scpl: {error}", file=sys.stderr)
        return 1
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
