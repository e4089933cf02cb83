"""Consent to run code that a config names and that is not this project's.

A run that its user began here was given these keys by that user. A folder that was received, or was begun on another
machine, brings them along, so whoever continues it says them again. What a user has agreed to is kept in the cache, in
a folder of the user's own, by the run's id and the code that its config names; another run, or another function, is
another question.
"""

from __future__ import annotations

import logging
import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scpl_ray.config import Experiment, code
from scpl_ray.storage import cache
from scpl_ray.storage.errors import StoreError

logger = logging.getLogger(__name__)

TRUST = "model.trust_remote_code"
KEYS = (TRUST, *code.KEYS)
"""The keys by which a config lets code run: code that comes with a model, and functions of the user's own."""
FOLDER = "consents"
"""What the folder of a user's consents begins with; that of earlier versions has this name."""
PLACE = "{keys}"
"""Stands for the keys in what says how to agree."""


def code_of(experiment: Experiment) -> dict[str, Any]:
    """The keys by which this config lets code run, with their values; empty for most configs."""
    trusted = {TRUST: True} if experiment.model.trust_remote_code else {}
    return {**trusted, **code.references(experiment)}


def give(identity: str, experiment: Experiment) -> None:
    """Remember that this user agrees to the code that a config names, and from which folder it was given.

    Without such code nothing is written.
    """
    if not code_of(experiment):
        return
    if _given(identity, experiment) is not None:
        return
    place = _places(identity, experiment)[0]
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.touch(mode=0o600)
        place.write_text(str(Path.cwd()), encoding="utf-8")
    except OSError as error:
        logger.warning("%s: %s; the run asks again for the code that it may run", place, error.strerror)


def folder(identity: object, experiment: Experiment) -> Path | None:
    """The working directory of the user who agreed to the code of a run; ``None`` if nobody here did."""
    place = _given(identity, experiment) if isinstance(identity, str) and code_of(experiment) else None
    if place is None:
        return None
    text = place.read_text(encoding="utf-8")
    return Path(text) if text else None


def require(
    identity: object,
    experiments: Sequence[Experiment],
    stated: Mapping[str, Any],
    name: str,
    how: str,
) -> None:
    """Check that the user of this process has agreed to all code that some configs name.

    Args:
        identity: what identifies the run or study, its ``id``; anything but a text was never agreed to.
        experiments: the configs, none of whose code has been imported yet.
        stated: the keys that the user has just given, with their values.
        name: the name of the run or study in the message.
        how: how to agree, for the message; :data:`PLACE` stands for the keys.

    Raises:
        StoreError: the user has neither begun this here nor given these keys now.
    """
    for experiment in experiments:
        named = code_of(experiment)
        missing = {key: value for key, value in named.items() if key not in stated or stated[key] != value}
        if not missing or (isinstance(identity, str) and _given(identity, experiment) is not None):
            continue
        listed = ", ".join(f"{key} = {_shown(value)}" for key, value in named.items())
        model = f" (model.name = {experiment.model.name!r})" if TRUST in named else ""
        keys = " ".join(shlex.quote(f"{key}={_shown(value)}") for key, value in named.items())
        raise StoreError(
            f"{name}: was not begun here, and its config names code that would run: {listed}{model}; read that code, "
            f"and if you trust it, {how.replace(PLACE, keys)}"
        )


def _shown(value: Any) -> str:
    return "true" if value is True else str(value)


def _given(identity: str, experiment: Experiment) -> Path | None:
    """The file in which this user's consent is kept; ``None`` if there is none, or only that of another user."""
    for place in _places(identity, experiment):
        try:
            found = place.stat()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            return place
    return None


def _places(identity: str, experiment: Experiment) -> tuple[Path, Path]:
    """Where this version keeps a consent of this user, and where earlier ones did."""
    model = experiment.model
    facts = {
        "identity": identity,
        "code": code_of(experiment),
        "models": [model.name, model.revision, experiment.reward.model] if model.trust_remote_code else [],
    }
    name = cache.key_of(facts)
    return cache.directory() / f"{FOLDER}-{os.geteuid()}" / name, cache.directory() / FOLDER / name
