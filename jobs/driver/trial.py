"""One trial of a study as Ray Tune runs it: the trial's directory is a run directory, and a step is a round."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from actors.fleet import Fleet
from actors.placement.cluster import Cluster
from jobs.driver import alike, experiments, inputs, run
from jobs.driver.alike import machine_key
from jobs.driver.shared_phases import SharingStore
from scpl_ray import tasks
from scpl_ray.config import Experiment
from scpl_ray.config.agreement import agreement
from scpl_ray.credentials import masked
from scpl_ray.models.precision import Format
from scpl_ray.protocols import Task
from scpl_ray.records import Completion, Manifest, Metric
from scpl_ray.report.roofline import Machine
from scpl_ray.storage import retention
from scpl_ray.storage.errors import InUseError, StoreError
from scpl_ray.studies.study import SAMPLED
from scpl_ray.tracking import flat

logger = logging.getLogger(__name__)

LOCK_WAIT_S = 60.0
"""Longest wait for a trial's directory, because the processes of a killed sweep stay alive for some seconds."""
SAME_KEYS_WAIT_S = 6 * 3600.0
"""Longest wait for another trial that drew the same keys."""
LOCK_POLL_S = 0.5
FAULTS = (RuntimeError, ValueError, OSError, ray.exceptions.RayError)
"""Errors that end a trial while the other trials continue."""


class Quiet:
    """:class:`scpl_ray.protocols.Progress` of a process without a terminal: lines of text go to the log."""

    def note(self, text: str) -> None:
        """Log a line of text for people."""
        logger.info("%s", text)

    def start(self, round_: int, phase: str, total: int) -> None:
        """A phase begins."""

    def advance(self, phase: str, count: int) -> None:
        """Further units of a phase are done."""

    def generated(self, phase: str, chunk: Sequence[Completion]) -> None:
        """A chunk of completions has arrived."""

    def done(self, manifest: Manifest) -> None:
        """A phase was committed."""

    def measured(self, round_: int, rows: Sequence[Metric]) -> None:
        """A round's metrics are known."""


class LoopTrial(tune.Trainable):  # type: ignore[misc]
    """Trials in one process, one after the other; those that need the same engines share them.

    The config holds ``study`` (absolute folder), ``cluster`` (this process's share of the machine or cluster),
    ``peaks`` (those of the machine, or ``None``), ``formats`` (what ``model.dtype: auto`` is, by
    :func:`jobs.driver.alike.machine_key`), ``began`` (see :mod:`jobs.driver.provenance`), ``trial`` with ``folder``
    (below the study's) and ``experiment`` (YAML), and in a search the ``sampled`` keys, whose hash then names the
    folder.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Begin the first trial of this process."""
        os.environ.update(run.QUIET)
        cluster: Cluster = config["cluster"]
        self._study = Path(config["study"])
        self._fleet = Fleet(self._study, cluster)
        self._peaks: Machine | None = config["peaks"]
        self._formats: Mapping[str, Format] = config["formats"]
        self._began: Mapping[str, str] = config["began"]
        self._task: tuple[str, Task] | None = None
        self._store: SharingStore | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin the next trial in the same processes."""
        self._end()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run one round; a trial that cannot continue gives the reason under ``error`` and is done."""
        try:
            rows = next(self._rounds)
        except FAULTS as error:
            logger.exception("the trial stopped")
            self._fleet.close()
            return {"folder": self._folder, "error": masked(f"{type(error).__name__}: {error}"), "done": True}
        last = rows[0].round == self._experiment.loop.rounds
        found = {row.metric: row.value for row in rows if row.group is None}
        return {"folder": self._folder, "round": rows[0].round, "done": last, **found}

    def cleanup(self) -> None:
        """End this process's engines."""
        self._end()
        self._fleet.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Do nothing: the state is in the run directory."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Do nothing: the state is read from the run directory."""

    def _begin(self, config: dict[str, Any]) -> None:
        self._folder = trial_folder(config)
        run_dir = Path(config["study"]) / self._folder
        self._rounds = self._play(run_dir, config["trial"]["experiment"], config.get("sampled", {}))

    def _end(self) -> None:
        self._rounds.close()
        if self._store is not None:
            self._store.close()
            self._store = None

    def _play(self, run_dir: Path, text: str, sampled: Mapping[str, Any]) -> Generator[list[Metric], None, None]:
        """The rounds of the trial, which is resumed if its directory exists already."""
        self._experiment = experiments.loads(text, str(run_dir), sampled)
        # a trial that drew the same keys as another waits until that one has finished, and reads its rounds
        wait_s = SAME_KEYS_WAIT_S if sampled else LOCK_WAIT_S
        self._store = open_or_create(run_dir, self._experiment, self._began, wait_s)
        self._store.share(self._study, self._experiment)
        run.log_to(run_dir / "logs" / "driver.log", verbose=False)
        task = self._task_of(self._experiment)
        dtype = self._formats.get(machine_key(self._experiment))
        yield from run.rounds(self._store, self._experiment, task, self._fleet, Quiet(), self._peaks, dtype=dtype)

    def _task_of(self, experiment: Experiment) -> Task:
        """The trial's task: that of the last trial if it is built from the same values, else a new one."""
        key = task_key(experiment)
        if self._task is None or self._task[0] != key:
            self._task = (key, tasks.TASKS[experiment.task.name].build(experiment))
        return self._task[1]


def task_key(experiment: Experiment) -> str:
    """The values that a task is built from: trials with equal values share the task."""
    return agreement(experiment, tasks.depends_on(experiment))


def trial_folder(config: Mapping[str, Any]) -> str:
    """The run directory of a trial, relative to the study's folder."""
    if not config.get("sampled"):
        return str(config["trial"]["folder"])
    text = json.dumps(config["sampled"], sort_keys=True)
    return f"{SAMPLED}/{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def open_or_create(
    run_dir: Path, experiment: Experiment, began: Mapping[str, str], wait_s: float = LOCK_WAIT_S
) -> SharingStore:
    """The run directory of a trial, which is created, with what is known of its beginning, or resumed.

    Raises:
        StoreError: the directory cannot be used, or holds a run of another config.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            if not (run_dir / "run.json").exists():
                return SharingStore.create(run_dir, experiment, run.versions(), began)
            store, before = SharingStore.open(run_dir)
            break
        except InUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOCK_POLL_S)
    if before != experiment:
        with contextlib.ExitStack() as unless_it_continues:
            unless_it_continues.callback(store.close)
            _change(store, before, experiment)
            unless_it_continues.pop_all()
    return store


def _change(store: SharingStore, before: Experiment, now: Experiment) -> None:
    """Let a trial go on with what changed in its study meanwhile, as ``scpl run --resume`` does with a run.

    Raises:
        StoreError: something cannot change in it, or data or models are others.
    """
    if other := alike.other_keys(before, now):
        raise StoreError(
            f"{store.name}: holds a run of another config: {alike.told(other, before, now)}; undo the change, or give "
            "the study another folder"
        )
    was, would = flat(before), flat(now)
    inputs.check_same(store, now, [key for key in inputs.DATA if was[key] != would[key]])
    retention.check_start(store, before, now)
    store.extend(now)
