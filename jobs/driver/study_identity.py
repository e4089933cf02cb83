"""What identifies a study wherever its folder lies: an id of its own, as a run has one."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from scpl_ray.storage import inside
from scpl_ray.storage.files import write_atomically

FILE = "study.json"
"""Holds the ``id`` of a study. It is not in the study file, which may begin another study."""
MOST_BYTES = 2**16


def new(folder: Path) -> str:
    """A new id, written into the folder of a study that is about to be made.

    Raises:
        OSError: the folder cannot be written.
    """
    identity = uuid.uuid4().hex
    write_atomically(folder / FILE, (json.dumps({"id": identity}) + "\n").encode())
    return identity


def of(folder: Path) -> str | None:
    """The id of a study; of one that an earlier version made, its path. ``None``: what is there is no id."""
    try:
        facts = json.loads(inside.read_below(folder, FILE, MOST_BYTES))
    except FileNotFoundError:
        return f"study {folder.resolve()}"
    except (OSError, ValueError, RecursionError):
        return None
    found = facts.get("id") if isinstance(facts, dict) else None
    return found if isinstance(found, str) else None
