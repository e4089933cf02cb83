"""What ``run.json`` says of a run, and the message where a folder is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scpl_ray.storage import inside, manifests
from scpl_ray.storage.errors import StoreError

RUN, CONFIG, SUMMARY = "run.json", "config.yaml", "summary.json"
COMMAND, COMMIT, CHECKPOINTS = "command", "commit", "checkpoints"
"""Facts of ``run.json`` that only some runs have: the command line that began it, the commit of this project, and the
names of the models that were measured instead of a loop's policies (``scpl measure --checkpoints``)."""


def read(root: Path, name: str) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        StoreError: it cannot be read, or has another form.
    """
    try:
        run = json.loads(inside.read_below(root, RUN, manifests.MOST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise no_run(name, error) from error
    if not isinstance(run, dict):
        raise StoreError(f"{name}: run format {run!r:.80}; {RUN} holds a {type(run).__name__}, expected a mapping")
    for key, kind, what in (("versions", dict, "a mapping"), (CHECKPOINTS, list, "a list of names")):
        if not isinstance(run.get(key, kind()), kind):
            raise StoreError(f"{name}: {RUN}: {key} = {run[key]!r:.80}; expected {what}")
    return run


def is_summed_up(root: Path, rounds: int | None) -> bool:
    """Whether a run has the summary that is written at its end.

    Args:
        root: the run directory.
        rounds: the rounds that the run is to have, because a run that was extended still has the summary of fewer;
            ``None``: of measured checkpoints, which have no rounds.
    """
    try:
        found = json.loads(inside.read_below(root, SUMMARY, manifests.MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("rounds") == rounds


def no_run(name: str, error: Exception) -> StoreError:
    """The error for a folder that is no run directory, from what was found instead."""
    if isinstance(error, FileNotFoundError):
        # the folder itself may be missing, and then no run.json is there either
        missing = CONFIG if Path(error.filename).name == CONFIG else RUN
        return StoreError(f"{name}: not a run directory, {missing} is missing; give a folder that `scpl run` made")
    if isinstance(error, OSError):
        what = f"{Path(error.filename).name}: " if error.filename and Path(error.filename).name in (RUN, CONFIG) else ""
        return StoreError(f"{name}: not a run directory: {what}{error.strerror}")
    return StoreError(f"{name}: not a run directory: {reason(error)}")


def reason(error: Exception) -> str:
    """An error in a few words."""
    return str(error.strerror if isinstance(error, OSError) else error) or type(error).__name__
