"""The folder in which a node keeps copies of the driver's files, below the folder for temporary files of all users.

Anybody may create names there, so the folder must be this user's own: a real folder, of this user, closed to others.
Only what this module names is ever removed: copies, which are named by a digest, and their unfinished parts.

A process holds a shared lock on each of the :data:`FOLDERS_HELD` copies that it asked for last. What a process holds
stays, whatever its age. The oldest others are removed until a node keeps :data:`FOLDERS_KEPT` copies in all.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from scpl_ray.storage import inside

FOLDERS_KEPT = 6
"""Number of copies kept on a node: the base model, two policies, one more with its float32 weights from which training
starts, a reward model and a data set."""
FOLDERS_HELD = 3
"""Number of copies that a process holds: as many as it reads for one piece of work, such as a base model, an adapter
and a data set, or a base model, a policy and a reward model."""
LOCK_SECONDS = 1800.0
"""Longest wait for another process that is copying, in seconds."""
POLL_SECONDS = 0.2
NAME_DIGITS = 16
COPY = re.compile(rf"[0-9a-f]{{{NAME_DIGITS}}}")
PART = re.compile(rf"{COPY.pattern}\.[a-z0-9_]{{8}}")

_held: OrderedDict[Path, int] = OrderedDict()
"""The copies that this process holds, the one that it asked for last at the end, with their open descriptors."""


def own_folder(path: Path) -> Path:
    """Make a folder that is this user's alone, or check that an existing one is.

    Raises:
        PermissionError: it is a link or no folder, belongs to another user, or is open to others.
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        fault = "is a link or no folder"
    elif status.st_uid != os.geteuid():
        fault = f"belongs to another user ({status.st_uid})"
    elif stat.S_IMODE(status.st_mode) & 0o077:
        fault = f"is open to other users (mode {stat.S_IMODE(status.st_mode):04o})"
    else:
        return path
    raise PermissionError(f"{path}: {fault}; remove it, or set TMPDIR on this node")


@contextlib.contextmanager
def locked(copies: Path) -> Iterator[None]:
    """Let one process at a time change the folder.

    Raises:
        TimeoutError: another process held it for :data:`LOCK_SECONDS`.
    """
    with os.fdopen(inside.open_below(copies, "lock", os.O_RDWR | os.O_CREAT), "w") as lock:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > until:
                raise TimeoutError(
                    f"{copies}: another process has been copying for {LOCK_SECONDS:.0f} s; end it, or set TMPDIR on "
                    "this node"
                )
            time.sleep(POLL_SECONDS)
        yield


@contextlib.contextmanager
def building(copies: Path, folder: Path) -> Iterator[Path]:
    """Yield a place for the parts of a new copy, which becomes ``folder`` when the block ends without an error."""
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=copies) as scratch:
        yield (partial := Path(scratch) / "new")
        partial.replace(folder)


def hold(folder: Path) -> None:
    """Keep a copy from being removed as long as it is among the last :data:`FOLDERS_HELD` that this process asked for.

    Raises:
        OSError: it is no real folder.
    """
    if folder in _held:
        # a copy that was removed by hand and made again is another folder of the same name
        there = folder.stat(follow_symlinks=False)
        if os.path.samestat(os.fstat(_held[folder]), there):
            _held.move_to_end(folder)
        else:
            os.close(_held.pop(folder))
    if folder not in _held:
        descriptor = os.open(folder, inside.FOLDER_FLAGS)
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        _held[folder] = descriptor
    os.utime(folder)
    while len(_held) > FOLDERS_HELD:
        os.close(_held.popitem(last=False)[1])


def forget_old(copies: Path) -> None:
    """Remove unfinished parts, and the oldest copies beyond :data:`FOLDERS_KEPT` that no process holds.

    The caller has locked the folder, so that nothing in it is being made.
    """
    found = []
    for path in copies.iterdir():
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            continue
        if PART.fullmatch(path.name):
            inside.remove_below(copies, path.name)
        elif COPY.fullmatch(path.name):
            found.append((status.st_mtime_ns, path))
    excess = len(found) - FOLDERS_KEPT
    for _, path in sorted(found):
        if excess > 0 and _is_free(path):
            inside.remove_below(copies, path.name)
            excess -= 1


def _is_free(folder: Path) -> bool:
    """Whether no process holds a copy."""
    descriptor = os.open(folder, inside.FOLDER_FLAGS)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
