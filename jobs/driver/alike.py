"""Trials of one study read the same data, run the same code and start from the same model and judge, whenever they run.

A study that is resumed, or gets more seeds, mixes new trials with those that were begun earlier. What these read is
compared once for all: every file of data or models is hashed once, and of every trial a few small files are read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.configs import CONFIGS
from jobs.driver import inputs, own_code
from scpl_ray import tasks
from scpl_ray.config import Experiment
from scpl_ray.config.agreement import agreement
from scpl_ray.config.errors import shown
from scpl_ray.config.schema import MAY_CHANGE
from scpl_ray.models import precision
from scpl_ray.models.precision import Format
from scpl_ray.protocols import Task
from scpl_ray.storage import upgrades
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import sha256
from scpl_ray.storage.run_directory import Reader
from scpl_ray.studies import study
from scpl_ray.studies.study import Study
from scpl_ray.tracking import flat

ROUNDS = "loop.rounds"


def begun(folder: Path, plan: Study) -> Iterator[tuple[Reader, Experiment]]:
    """The trials of a study whose base model is committed, with the config that each would be resumed with.

    Raises:
        StoreError: a trial cannot be read.
    """
    if plan.mode == "search":
        for place in sorted((folder / study.SAMPLED).glob("*/run.json")):
            run, experiment = Reader.open(place.parent)
            if run.manifest(0, "base") is not None:
                yield run, experiment
        return
    for trial in study.trials(plan, CONFIGS):
        run = Reader(folder / trial.folder)
        if run.manifest(0, "base") is not None:
            yield run, trial.experiment


def other_keys(before: Experiment, now: Experiment) -> list[str]:
    """The keys in which a trial was begun otherwise than it would be run now, and which no trial may change.

    Files may have moved: what they hold is compared by itself. Trials of one study end in the same round. What the
    analytic mode assumes changes none of them.
    """
    was, would = flat(before), flat(now)
    free = {*MAY_CHANGE, *inputs.DATA, *(key for key in was if key.startswith("analytic."))} - {ROUNDS}
    return [key for key in {**was, **would} if was.get(key) != would.get(key) and key not in free]


def told(keys: Iterable[str], before: Experiment, now: Experiment) -> str:
    """What keys were and are, in words."""
    was, would = flat(before), flat(now)
    return "; ".join(f"{key} = {shown(was.get(key))}, now {shown(would.get(key))}" for key in keys)


def check_inputs(folder: Path, plan: Study) -> None:
    """Check that the data and models that a study names by a path are those that its trials began with.

    Raises:
        StoreError: a file is another one.
    """
    hashed = functools.cache(sha256)
    now: dict[str, dict[str, dict[str, str]]] = {}
    for run, experiment in begun(folder, plan):
        before, named = inputs.began_with(run), agreement(experiment, inputs.DATA)
        if before and named not in now:
            now[named] = inputs.digests(experiment, hashed)
        for key in inputs.DATA:
            if key in before and key in now[named] and before[key] != now[named][key]:
                raise StoreError(
                    f"{run.name}: {key} = {flat(experiment)[key]}: not what this trial began with (SHA-256 differs); "
                    "trials of one study read the same, so bring the first one back, say in "
                    f"{folder / study.STUDY_FILE} where it lies now, or begin a new study"
                )


def check_code(folder: Path, plan: Study) -> None:
    """Check that the user's code is that with which the trials of a study were begun.

    Raises:
        StoreError: a source file is another one.
        ValueError: the code cannot be imported.
    """
    for run, experiment in begun(folder, plan):
        own_code.check_same(run, experiment)


def upgraded(folder: Path, plan: Study, now: Mapping[str, str]) -> list[str]:
    """A line about packages that are others than those of trials that were begun; none if there are none.

    Args:
        folder: the folder of the study.
        plan: the study.
        now: the installed versions.

    Raises:
        StoreError: a trial cannot be read.
    """
    noted = (upgrades.of(run)[-1].versions for run, _ in begun(folder, plan))
    others = [other for versions in noted if versions and (other := upgrades.changed(versions, now))]
    if not others:
        return []
    which = "; or ".join(dict.fromkeys(others))
    return [f"package versions changed since trials of this study ran: {which}; the page shows both"]


def machine_key(experiment: Experiment) -> str:
    """What ``model.dtype: auto`` depends on besides the machine, as text."""
    return agreement(experiment, ("model",))


class Beginnings:
    """The base models, judges and number formats that some trials of a study began with.

    Trials of the same task and model share them, whatever their arms and seeds.

    Args:
        trials: those that were begun, with their configs.

    Raises:
        StoreError: some compute in one format, and some in another.
    """

    def __init__(self, trials: Iterable[tuple[Reader, Experiment]] = ()) -> None:
        self._hashed: Callable[[Path], str] = functools.cache(sha256)
        self._known: dict[str, list[tuple[Reader, Any, Any]]] = {}
        self._formats: dict[str, tuple[str, Format]] = {}
        for run, experiment in trials:
            if dtype := inputs.began_with(run, inputs.FORMAT).get(inputs.DTYPE):
                other, before = self._formats.setdefault(machine_key(experiment), (run.name, dtype))
                if before != dtype:
                    raise StoreError(
                        f"{run.name}: computes in {dtype}, but {other} in {before}; trials of one study compute in the "
                        "same format, so begin a new study, with model.dtype=float32 or bfloat16 if its machines differ"
                    )
            known = self._known.setdefault(agreement(experiment, tasks.depends_on(experiment)), [])
            weights, judge = run.read_json(0, "base", "base"), inputs.began_with(run, inputs.JUDGE)
            if (weights, judge) not in [before[1:] for before in known]:
                known.append((run, weights, judge))

    def in_format(self, experiment: Experiment) -> Experiment:
        """A trial that computes in the format of those, where ``model.dtype`` leaves it to the machine."""
        _, dtype = self._formats.get(machine_key(experiment), (None, None))
        return precision.in_format(experiment, dtype)

    def check(self, experiment: Experiment, task: Task, base: Path) -> None:
        """Check that a trial that has not begun would start as those did.

        Args:
            experiment: its config.
            task: its task.
            base: its base model.

        Raises:
            StoreError: it would start from other weights, or with another judge.
        """
        for run, weights, judge in self._known.get(agreement(experiment, tasks.depends_on(experiment)), ()):
            if (now := inputs.weights(base, self._hashed)) != weights:
                raise StoreError(
                    f"{run.name}: began with the weights {weights}, but {base} holds {now}; trials of one study start "
                    "from the same model, so bring the first one back, or begin a new study"
                )
            if judge and (files := inputs.judge_files(task)) != judge:
                raise StoreError(
                    f"{run.name}: began with the judge {judge}, but it is {files} now; trials of one study have the "
                    f"same judge; {inputs.NEW_JUDGE}"
                )
