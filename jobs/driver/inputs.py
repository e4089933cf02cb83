"""What a run reads from outside its directory: data, models and code that the config names by a path, and its judge."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from scpl_ray.config import Experiment, code, loading
from scpl_ray.config.paths import user_path
from scpl_ray.config.schema import TINY
from scpl_ray.models import precision, sentences, smollm2
from scpl_ray.own import references
from scpl_ray.protocols import FittedCard, Task
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import sha256
from scpl_ray.storage.run_directory import Reader
from scpl_ray.studies import study
from scpl_ray.studies.study import Study
from scpl_ray.tracking import flat

DATA = ("task.data", "task.judge_model", "model.name", "reward.model")
"""The keys that may hold the path of a file or folder with data or a model."""
KEYS = (*DATA, *code.KEYS)
"""The keys that may hold a path; those of code hold ``FILE.py:function``."""
NAMES = (TINY, smollm2.NAME, sentences.NAME)
"""Values of these keys that are never paths."""
FILE = "inputs"
"""The JSON file of the phase ``base`` that holds the checksums."""
JUDGE = "judge"
"""The same for the files of the judge, where it was fitted on this machine."""
FORMAT, DTYPE = "format", "model.dtype"
"""The JSON file of the phase ``base`` with the number format that a run computes in, and its only key."""
NEW_JUDGE = (
    "it was fitted anew, after an upgrade or with another cache: bring the first versions or the first cache "
    "(SCPL_CACHE) back, or begin anew"
)
"""Why a judge may be another one, and what to do."""
CHECKED = ("*.safetensors", "config.json")
"""The files of a folder that are checked."""


def path_of(value: object) -> Path | None:
    """The absolute path that a value of one of :data:`KEYS` names; ``None`` unless there is such a file or folder."""
    if not isinstance(value, str) or value in NAMES:
        return None
    path = user_path(value)
    return path.absolute() if path.exists() else None


def _anchored_value(key: str, value: object) -> str | None:
    """The value of a key with an absolute path; ``None`` where it names no path, or nothing here."""
    if key in code.KEYS:
        place = references.anchored(value) if isinstance(value, str) else None
        return place if place != value else None
    path = path_of(value)
    return None if path is None else str(path)


def anchored(experiment: Experiment, keys: Collection[str] = KEYS) -> Experiment:
    """The experiment with absolute paths in these keys, so that it means the same from every working directory.

    What exists in no folder here, such as a Hub id, stays as it is.
    """
    values = experiment.model_dump(mode="json")
    paths = {
        key: place
        for key, value in _given(values)
        if key in keys and (place := _anchored_value(key, value)) not in (None, value)
    }
    return loading.build(loading.moved(values, paths), experiment.name) if paths else experiment


def anchored_study(plan: Study, configs: Mapping[str, Path]) -> Study:
    """The study as its folder keeps it: with the keys of its base, and absolute paths in all keys.

    Args:
        plan: the study.
        configs: built-in configs by name.
    """
    base = plan.base if plan.base == study.DEFAULTS else _anchored_keys(study.base_values(plan, configs))
    arms = {arm: _anchored_keys(own) for arm, own in plan.arms.items()}
    return anchored_axes(plan).model_copy(update={"base": base, "set": _anchored_keys(plan.set), "arms": arms})


def anchored_axes(plan: Study) -> Study:
    """The study with absolute paths in the values of its axes, which name the folders of its trials."""
    axes = {
        key: tuple(_anchored_keys({key: value})[key] for value in values) if isinstance(values, tuple) else values
        for key, values in plan.axes.items()
    }
    return plan.model_copy(update={"axes": axes})


def digests(experiment: Experiment, digest: Callable[[Path], str] = sha256) -> dict[str, dict[str, str]]:
    """SHA-256 by file name, for each of :data:`DATA` that names a file or folder here.

    Args:
        experiment: the config.
        digest: the SHA-256 of a file, for callers who know some already.
    """
    found = {}
    for key, value in _given(experiment.model_dump(mode="json")):
        path = path_of(value) if key in DATA else None
        if path is not None:
            files = sorted(file for pattern in CHECKED for file in path.glob(pattern)) if path.is_dir() else [path]
            # a file may be called something else when it has moved
            found[key] = {file.name if path.is_dir() else "": digest(file) for file in files}
    return found


def weights(base: Path, digest: Callable[[Path], str] = sha256) -> dict[str, str]:
    """SHA-256 of the weights of a base model, by file name."""
    return {path.name: digest(path) for path in sorted(base.glob("*.safetensors"))}


def judge_files(task: Task) -> dict[str, str]:
    """SHA-256 of the files of a task's judge, by name; empty where it has none that was fitted on this machine."""
    return dict(task.judge_card.fitted_files) if isinstance(task.judge_card, FittedCard) else {}


def began_with(run: Reader, name: str = FILE) -> dict[str, Any]:
    """What a run noted of its beginning, :data:`FILE` or :data:`JUDGE`; empty: nothing, as runs of earlier versions."""
    manifest = run.manifest(0, "base")
    if manifest is None or f"{name}.json" not in manifest.files:
        return {}
    found: dict[str, Any] = run.read_json(0, "base", name)
    return found


def in_its_format(run: Reader, experiment: Experiment) -> Experiment:
    """The experiment with the format that a run began in, where ``model.dtype`` leaves it to the machine.

    A run that has not begun, or was begun by an earlier version, has noted none.
    """
    return precision.in_format(experiment, began_with(run, FORMAT).get(DTYPE))


def check_judge(run: Reader, task: Task) -> None:
    """Check that a run goes on with the judge that it began with.

    Raises:
        StoreError: the judge was fitted anew since.
    """
    before = began_with(run, JUDGE)
    if before and (now := judge_files(task)) != before:
        raise StoreError(f"{run.name}: began with the judge {before}, but it is {now} now; {NEW_JUDGE}")


def check_same(store: Reader, experiment: Experiment, named: Collection[str] = ()) -> None:
    """Check that data and models are those that the run began with, wherever they lie now.

    Args:
        store: the run.
        experiment: its config, with the paths that are to be used from now on.
        named: the keys that were given anew; data and models that did not move need no known checksums.

    Raises:
        StoreError: a file is not the one that the run began with, or nothing is known of it.
    """
    if store.manifest(0, "base") is None:
        return
    before = began_with(store)
    now, values = digests(experiment), flat(experiment)
    for key in DATA:
        again = f"scpl run --resume {shlex.quote(store.name)} {key}=PATH"
        if key in before and key in now and now[key] != before[key]:
            raise StoreError(
                f"{store.name}: {key} = {values[key]}: not what the run began with (SHA-256 differs); bring the first "
                f"one back, or say where it lies now: {again}"
            )
        if key in named and (key not in before or key not in now):
            raise StoreError(
                f"{store.name}: {key} = {values[key]}: not known to be what the run began with, "
                f"{before.get(key) or 'which was no file or folder'}; only what has moved may be named again, so start "
                "a new run with it"
            )


def _given(values: Mapping[str, Any], keys: Collection[str] = KEYS) -> Iterator[tuple[str, Any]]:
    """The values of these keys in a config, by key; those that it does not hold are left out."""
    for key in keys:
        section, _, name = key.partition(".")
        if isinstance(inner := values.get(section), Mapping) and name in inner:
            yield key, inner[name]
        elif key in values:
            yield key, values[key]


def _anchored_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Keys by dotted name, or sections, with absolute paths."""
    done = dict(keys)
    for key, value in _given(keys):
        if (path := _anchored_value(key, value)) is not None:
            section, _, name = key.partition(".")
            if key in done:
                done[key] = path
            else:
                done[section] = {**done[section], name: path}
    return done
