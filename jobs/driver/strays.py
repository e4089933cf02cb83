"""Runs in the folder of a study that belong to none of its arms: their trials would be done again from the start.

The values of an axis name the folders of its trials, and where such a value is the place of a file, they have another
name once that has moved. What the runs began with says which trials they are.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from jobs.configs import CONFIGS
from jobs.driver import alike, inputs
from scpl_ray.config import loading
from scpl_ray.config.errors import shown
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import sha256
from scpl_ray.storage.run_directory import Reader
from scpl_ray.studies import study
from scpl_ray.studies.study import Study, Trial
from scpl_ray.tracking import flat


def check(folder: Path, plan: Study) -> None:
    """Check that every run in the folder of a study, whatever its seed, belongs to an arm or setting of the study.

    Raises:
        StoreError: a run does not, and what to do; or its config cannot be read.
    """
    found = list((_of_search if plan.mode == "search" else _of_grid)(folder, plan))
    if found:
        of = f"{folder / study.STUDY_FILE}: has no arm for runs that are there, whose trials would be done again"
        raise StoreError(loading.problems(of, found))


def _of_grid(folder: Path, plan: Study) -> Iterator[str]:
    trials = study.trials(plan, CONFIGS)
    arms = {_arm_of(trial) for trial in trials}
    runs: dict[str, list[Path]] = {}
    for place in sorted((folder / "runs").glob("*/seed-*/run.json")):
        arm = place.parent.parent.relative_to(folder).as_posix()
        if arm not in arms:
            runs.setdefault(arm, []).append(place.parent)
    missing = [trial for trial in trials if not (folder / _arm_of(trial)).exists()] if runs else []
    hashed = functools.cache(sha256)
    for arm, places in runs.items():
        now = next((same for place in places if (same := _trial_of(place, missing, hashed)) is not None), None)
        if now is not None:
            old, new = (shlex.quote(str(folder / name)) for name in (arm, _arm_of(now)))
            yield f"{arm}: read the same files at another place; rename it: mv {old} {new}"
        else:
            yield f"{arm}: undo the change, or, if this arm is not wanted any more, move its folder out of runs"


def _arm_of(trial: Trial) -> str:
    return str(PurePosixPath(trial.folder).parent)


def _trial_of(place: Path, trials: Sequence[Trial], digest: Callable[[Path], str]) -> Trial | None:
    """The only one of some trials that a run could go on as: alike in all keys, and on the same data and models."""
    run, before = Reader.open(place)
    began = inputs.began_with(run)
    found = [
        trial
        for trial in trials
        if trial.seed == before.seed
        and not alike.other_keys(before, trial.experiment)
        and began.items() <= inputs.digests(trial.experiment, digest).items()
    ]
    return found[0] if began and len(found) == 1 else None


def _of_search(folder: Path, plan: Study) -> Iterator[str]:
    named = {key: values for key, values in plan.axes.items() if key in inputs.KEYS and isinstance(values, tuple)}
    if not named:
        return
    for place in sorted((folder / study.SAMPLED).glob("*/run.json")):
        config = flat(Reader.open(place.parent)[1])
        for key, values in named.items():
            if config.get(key) not in values:
                yield (
                    f"{place.parent.relative_to(folder)}: has {key} = {shown(config.get(key))}, which the axis does "
                    "not; undo the change and bring what moved back to its first place, or begin a new study"
                )
