"""The names of a run's objects in a store, and of the files of which they are copies.

A phase is uploaded below the name of one attempt, ``rounds/003/weights/<attempt>/...``, and its manifest, whose facts
name the attempt, lies above it. Two processes that upload the same phase therefore never write or delete each other's
objects; which attempt counts is decided by the one conditional write of the manifest. Outside of phases, and in runs of
earlier versions, objects have the names of their files.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection, Mapping
from typing import Any

from scpl_ray.storage.manifests import LOCK, MANIFEST, ROUNDS, phase_of

ATTEMPT = "attempt"
"""The fact of a manifest that names the attempt."""
HOLDER = "holder"
"""The fact of a manifest that names who claimed it last; see :mod:`scpl_ray.storage.object_store.mirror`."""
TOKEN = re.compile(r"[0-9a-f]{16}")


def new_attempt() -> str:
    """A name that no other attempt has."""
    return uuid.uuid4().hex[:16]


def marker_of(phase: str) -> str:
    """The name of a phase's manifest."""
    return f"{phase}/{MANIFEST}"


def prefix_of(phase: str, attempt: str) -> str:
    """What the names of the phase's objects begin with."""
    return f"{phase}/{attempt}/" if attempt else f"{phase}/"


def attempt_of(manifest: bytes) -> str:
    """The attempt that a manifest names; empty if it names none."""
    try:
        attempt = json.loads(manifest)["facts"][ATTEMPT]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return attempt if isinstance(attempt, str) and TOKEN.fullmatch(attempt) else ""


def with_facts(manifest: bytes, **facts: Any) -> bytes:
    """A manifest with further facts."""
    values = json.loads(manifest)
    values["facts"] |= facts
    return (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def said_by(manifest: bytes) -> Any:
    """What a manifest says, whoever has claimed it; ``None`` if it is damaged."""
    try:
        values = json.loads(manifest)
        values["facts"].pop(HOLDER, None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return values


def objects_of(there: Collection[str], attempts: Mapping[str, str]) -> dict[str, str]:
    """The objects that are part of a run: their names by the names of the files of which they are copies.

    Args:
        there: all names in the store.
        attempts: the attempt of every committed phase.
    """
    found = {}
    for name in there:
        phase = phase_of(name)
        if phase is None:
            if name != LOCK and not name.startswith((f"{ROUNDS}/", ".")):
                found[name] = name
        elif phase in attempts:
            prefix = prefix_of(phase, attempts[phase])
            inner = name.removeprefix(prefix)
            if name == marker_of(phase):
                found[name] = name
            elif inner != name and inner != MANIFEST and (attempts[phase] or not TOKEN.fullmatch(inner.split("/")[0])):
                found[f"{phase}/{inner}"] = name
    return found
