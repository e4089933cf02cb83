"""The cache of things that are made once per machine and kept: base models, converted models, judges.

An entry is a folder. Its name says what it is and includes a SHA-256 of everything that determines its content. It is
built under a temporary name and moved into place when complete. It is used only while every file still has the checksum
that was recorded when it was made.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scpl_ray.storage import inside
from scpl_ray.storage.files import sha256, sync, sync_tree

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
LOCK_SECONDS = 1800.0
"""How long to wait for another process that is making the same entry, in seconds."""
REPORT_SECONDS = 30.0


def directory() -> Path:
    """The folder of the cache: ``$SCPL_CACHE`` if it is set, else ``~/.cache/scpl_ray``."""
    return Path(os.environ.get("SCPL_CACHE") or "~/.cache/scpl_ray").expanduser()


def key_of(facts: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON values, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()


@dataclasses.dataclass
class Planned:
    """What would have been made in the cache while :func:`planned` was in force."""

    scratch: Path
    """Holds what takes seconds, until the end."""
    elsewhere: bool = False
    """Whether the plan is for other machines, on which there may be what is not here."""
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    """The cost of each entry that is not in the cache, by its name."""
    unchecked: dict[str, str] = dataclasses.field(default_factory=dict)
    """What was not checked, because the plan is for other machines, and why it could not be."""


class NotMadeError(ValueError):
    """A plan needs what is not on this machine: an entry of the cache that is costly to make, or files of a model."""


_PLANNED: contextvars.ContextVar[Planned | None] = contextvars.ContextVar("planned", default=None)


@contextlib.contextmanager
def planned(*, elsewhere: bool = False) -> Iterator[Planned]:
    """Inside, nothing is made in the cache; yields the list of what is missing there.

    What takes seconds is made in a temporary folder; an entry with a ``cost`` is not made: :func:`entry` raises
    :class:`NotMadeError`.

    Args:
        elsewhere: whether the plan is for other machines; see :func:`may_be_elsewhere`.
    """
    with tempfile.TemporaryDirectory(prefix="scpl-plan-") as scratch:
        found = Planned(Path(scratch), elsewhere)
        token = _PLANNED.set(found)
        try:
            yield found
        finally:
            _PLANNED.reset(token)


def is_planning() -> bool:
    """Whether the caller is inside :func:`planned`."""
    return _PLANNED.get() is not None


def may_be_elsewhere(what: str, why: str) -> bool:
    """In a plan for other machines, note what is not checked because it is not here, and why it is not.

    Returns:
        Whether it is noted; if not, what is missing is an error.
    """
    plan = _PLANNED.get()
    if plan is None or not plan.elsewhere:
        return False
    plan.unchecked.setdefault(what, why)
    return True


def entry(name: str, key: str, make: Callable[[Path], None], *, cost: str | None = None) -> Path:
    """Return the cache folder ``<name>-<first 16 digits of the key>``; make it if it is missing or damaged.

    If several processes want the same entry, one makes it and the others wait.

    Args:
        name: what the entry is, for people who look into the cache.
        key: the result of :func:`key_of`.
        make: a function that fills a new, empty folder with files.
        cost: how long that takes, in words, if it is more than seconds.

    Raises:
        ValueError: the cache cannot be written, or another process held the entry for :data:`LOCK_SECONDS`.
        NotMadeError: inside :func:`planned`, the entry is missing and has a cost.
    """
    cache = directory()
    folder = _folder(name, key)
    if (plan := _PLANNED.get()) is not None and not _is_whole(folder, key):
        return _stand_in(plan, name, folder.name, make, cost)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with os.fdopen(inside.open_below(cache, f"{folder.name}.lock", os.O_RDWR | os.O_CREAT), "w") as lock:
            _wait_for(lock.fileno(), folder)
            if not _is_whole(folder, key):
                _make(cache, folder, key, make)
    except TimeoutError as error:
        raise ValueError(str(error)) from error
    except OSError as error:
        where, reason = error.filename or cache, error.strerror or str(error)
        raise ValueError(f"{where}: {reason}; set SCPL_CACHE to a folder that can be written") from error
    return folder


def _stand_in(plan: Planned, name: str, unique: str, make: Callable[[Path], None], cost: str | None) -> Path:
    """The folder that stands for a missing entry in a plan."""
    plan.missing[name] = cost or "seconds"
    if cost is not None:
        raise NotMadeError(f"{name} is not in the cache yet ({cost})")
    folder = plan.scratch / unique
    if not folder.exists():
        folder.mkdir()
        make(folder)
        _write_checksums(folder, "")
    return folder


def _make(cache: Path, folder: Path, key: str, make: Callable[[Path], None]) -> None:
    """Build an entry under a temporary name and move it into place; the caller holds its lock."""
    scratch_of_this = re.compile(rf"{re.escape(folder.name)}\.[a-z0-9_]{{8}}")
    for path in cache.iterdir():
        if scratch_of_this.fullmatch(path.name):  # of a builder that was killed: nobody else builds this entry now
            inside.remove_below(cache, path.name)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=cache) as scratch:
        made = Path(scratch) / "new"
        made.mkdir()
        make(made)
        _write_checksums(made, key)
        sync_tree(made)
        if folder.exists():
            folder.replace(Path(scratch) / "damaged")
        made.replace(folder)
        sync(cache)


def found(name: str, key: str) -> Path | None:
    """The folder of an entry that was made earlier, or ``None``; its checksums are not checked."""
    folder = _folder(name, key)
    return folder if folder.is_dir() else None


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of the files of an entry, by name, as they were when it was made; :func:`entry` has compared them."""
    files: dict[str, str] = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))["files"]
    return files


def _folder(name: str, key: str) -> Path:
    return directory() / f"{name}-{key[:16]}"


def copy(folder: Path, output: Path) -> None:
    """Copy an entry's files, without its checksums, into a folder, which is created if it does not exist."""
    output.mkdir(parents=True, exist_ok=True)
    for path in _files(folder):
        shutil.copy2(path, output)


def _write_checksums(folder: Path, key: str) -> None:
    files = {path.name: sha256(path) for path in _files(folder)}
    (folder / CHECKSUMS).write_text(json.dumps({"key": key, "files": files}, indent=2) + "\n", encoding="utf-8")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.name != CHECKSUMS)


def _is_whole(folder: Path, key: str) -> bool:
    if not folder.exists():
        return False
    try:
        written = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        found = {"key": key, "files": {path.name: sha256(path) for path in _files(folder)}}
    except (OSError, ValueError) as error:
        logger.warning("%s in the cache cannot be read (%s); it is made anew", folder, error)
        return False
    if written != found:
        logger.warning("%s in the cache is damaged; it is made anew", folder)
        return False
    return True


def _wait_for(lock: int, folder: Path) -> None:
    """Take the lock; the operating system releases it when the process ends, even after a crash."""
    started = told = time.monotonic()
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        now = time.monotonic()
        if now - started > LOCK_SECONDS:
            raise TimeoutError(
                f"another process has been making {folder} for {LOCK_SECONDS:.0f} s; end it, or set SCPL_CACHE to "
                "another folder"
            )
        if now - told >= REPORT_SECONDS:
            logger.info("waiting for another process that makes %s", folder)
            told = now
        time.sleep(0.2)
