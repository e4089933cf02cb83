"""Manifests of committed phases: names, sizes and SHA-256 of their files."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from scpl_ray.protocols import Generator, Scorer, Trainer
from scpl_ray.records import Manifest
from scpl_ray.storage.files import sha256

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOCK = "lock"


def read(folder: Path) -> Manifest | None:
    """The manifest in a phase's folder; ``None`` if it is missing or damaged."""
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError):
        manifest = None
    if manifest is None or not _is_of(folder, manifest):
        logger.warning("%s: the manifest is damaged; the phase is done again", folder)
        return None
    return manifest


def _is_of(folder: Path, manifest: Manifest) -> bool:
    """Whether a manifest's values have the right types and its round and phase match the folder it is in."""
    numbers = all(type(value) in (int, float) for value in (manifest.seconds, manifest.committed_at))
    mappings = isinstance(manifest.facts, dict) and isinstance(manifest.files, dict)
    return (
        numbers
        and mappings
        and (manifest.round, manifest.phase) == (int(folder.parent.name), folder.name)
        and all(
            isinstance(file, dict) and type(file.get("bytes")) is int and type(file.get("sha256")) is str
            for file in manifest.files.values()
        )
    )


def damage(folder: Path, manifest: Manifest) -> str | None:
    """A description of what is wrong with the files that a manifest lists; ``None`` if nothing is."""
    for name, expected in manifest.files.items():
        path = folder / name
        if folder.resolve() not in path.resolve().parents:
            return f"{name} leads out of the folder"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, its manifest says {expected['bytes']}"
        if sha256(path) != expected["sha256"]:
            return f"{name} was changed after it was written (SHA-256 differs)"
    return None


def phase_of(name: str) -> str | None:
    """The folder of the phase that an object belongs to; ``None`` if it belongs to no phase."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[:3]) if len(parts) > 3 and parts[0] == "rounds" else None


def committed_of(there: Collection[str]) -> set[str]:
    """The folders of the phases that have a manifest."""
    return {phase for one in there if (phase := phase_of(one)) is not None and f"{phase}/{MANIFEST}" in there}


def counts(name: str, committed: set[str]) -> bool:
    """Whether an object is part of the run: it is outside ``rounds/``, or its phase has a manifest."""
    return (name != LOCK and not name.startswith("rounds/")) or phase_of(name) in committed


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
