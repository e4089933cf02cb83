"""Manifests of committed phases: names, sizes and SHA-256 of their files."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from scpl_ray.protocols import Generator, Scorer, Trainer
from scpl_ray.records import Manifest
from scpl_ray.storage import facts, inside
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import write_atomically

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOCK = "lock"
ROUNDS = "rounds"
ROUND = re.compile(r"[0-9]{3,9}")
IN_PHASE = re.compile(rf"({ROUNDS}/{ROUND.pattern}/[a-z_]+)/.")
MOST_BYTES = 16 * 2**20
"""Largest JSON file of a run that is read."""
MOST_SECONDS = 1e11
"""Beyond any duration or time of day; NaN is refused with it."""


def read(root: Path, round_: int, phase: str) -> Manifest | None:
    """The manifest of a phase of a run directory; ``None`` if it is missing or damaged.

    Raises:
        StoreError: the manifest is a link, no regular file, or too large, or a folder above it is no folder of the run.
    """
    folder = phase_folder(round_, phase)
    try:
        data = inside.read_below(root, f"{folder}/{MANIFEST}", MOST_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}; remove it, or {folder} to do the phase again") from error
    try:
        values = json.loads(data)
        manifest = Manifest(**{**values, "deleted": tuple(values.get("deleted", ()))})
    except (ValueError, TypeError, AttributeError, RecursionError):
        manifest = None
    if manifest is None or not _is_of(round_, phase, manifest):
        logger.warning("%s: the manifest is damaged; the phase is done again", root / folder)
        return None
    if odd := facts.fault(phase, manifest.facts):
        logger.warning("%s: the manifest is damaged (%s); the phase is done again", root / folder, odd)
        return None
    return manifest


def phase_folder(round_: int, phase: str) -> str:
    """The folder of a phase, relative to its run directory."""
    return f"{ROUNDS}/{round_:03d}/{phase}"


def _is_of(round_: int, phase: str, manifest: Manifest) -> bool:
    """Whether a manifest's values have the right types and its round and phase are those of its folder."""
    times = (manifest.seconds, manifest.committed_at)
    numbers = all(type(value) in (int, float) and abs(value) < MOST_SECONDS for value in times)
    mappings = isinstance(manifest.facts, dict) and isinstance(manifest.files, dict)
    return (
        numbers
        and mappings
        and (manifest.round, manifest.phase) == (round_, phase)
        and all(
            isinstance(file, dict) and type(file.get("bytes")) is int and type(file.get("sha256")) is str
            for file in manifest.files.values()
        )
        and all(type(name) is str and name in manifest.files for name in manifest.deleted)
    )


def write(root: Path, manifest: Manifest) -> None:
    """Write the manifest of a phase, which commits it, or changes what is said of it."""
    values = {k: v for k, v in dataclasses.asdict(manifest).items() if k != "deleted" or v}
    data = (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    write_atomically(root / phase_folder(manifest.round, manifest.phase) / MANIFEST, data)


def stamp_ns(manifest: Manifest) -> int:
    """The time of modification of a phase's files since their content was last compared with the manifest.

    In whole microseconds, which most file systems keep.
    """
    return int(manifest.committed_at * 1e6) * 1000


def damage(root: Path, manifest: Manifest, *, thorough: bool = False) -> str | None:
    """A description of what is wrong with the files of a committed phase; ``None`` if nothing is.

    A file whose size and time of modification are those of the commit is trusted; any other one is hashed, and given
    that time if its content is as it was. Files that were deleted on purpose are not missed.

    Args:
        root: the run directory.
        manifest: the phase's manifest.
        thorough: hash every file.

    Raises:
        StoreError: the folder of the phase cannot be read.
    """
    folder, stamp = root / phase_folder(manifest.round, manifest.phase), stamp_ns(manifest)
    try:
        for name, what in inside.strangers(folder):
            return f"{name} is {what}"
    except OSError as error:
        raise StoreError(f"{error.filename}: {error.strerror}; make it one that you can read") from error
    for name, expected in manifest.files.items():
        if name in manifest.deleted:
            continue
        try:
            descriptor = inside.open_below(folder, name)
        except FileNotFoundError:
            return f"{name} is missing"
        except (OSError, ValueError) as error:
            return f"{name} {error.strerror if isinstance(error, OSError) else 'is no name of a file'}"
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if found.st_size != expected["bytes"]:
                return f"{name} has {found.st_size} bytes, its manifest says {expected['bytes']}"
            if found.st_mtime_ns == stamp and not thorough:
                continue
            if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                return f"{name} was changed after it was written (SHA-256 differs)"
            with contextlib.suppress(PermissionError):  # somebody else's file, which is hashed again next time
                os.utime(descriptor, ns=(stamp, stamp))
    return None


def rounds_of(root: Path) -> list[int]:
    """The rounds that have a folder in a run directory, in order; other names there are ignored.

    Raises:
        OSError: there is no such folder, or it is a link.
    """
    with inside.parent_of(root, f"{ROUNDS}/.") as (folder, _), os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    return sorted(int(name) for name in names if ROUND.fullmatch(name) and f"{int(name):03d}" == name)


def phase_of(name: str) -> str | None:
    """The folder of the phase that an object belongs to; ``None`` if it belongs to no phase."""
    found = IN_PHASE.match(name)
    return None if found is None else found[1]


def committed_of(there: Collection[str]) -> set[str]:
    """The folders of the phases that have a manifest."""
    return {phase for one in there if (phase := phase_of(one)) is not None and f"{phase}/{MANIFEST}" in there}


def restarts(manifests: Iterable[Manifest]) -> dict[str, int]:
    """How often processes were restarted, by role, according to the ``processes`` of committed phases."""
    of_one: dict[tuple[str, str], int] = {}
    for manifest in manifests:
        for process in manifest.facts.get("processes", ()):
            key = process["role"], process["actor_id"]
            of_one[key] = max(of_one.get(key, 0), process["restarts"])
    totals: dict[str, int] = {}
    for (role, _), count in of_one.items():
        totals[role] = totals.get(role, 0) + count
    return totals


def process_facts(*pools: Generator | Scorer | Trainer) -> list[dict[str, object]]:
    """The live processes of these pools, as JSON values for a manifest."""
    return [dataclasses.asdict(process) for pool in pools for process in pool.processes()]
