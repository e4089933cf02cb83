"""Atomic writes and checksums of files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of ``path`` when the block ends without an error.

    File and name are on the disk by then, so that a power loss leaves either the old content or the new one. A link at
    ``path`` is replaced, not followed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it to disk and move it into place."""
    with replacing(path) as file:
        file.write(data)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until every file below a folder, and every name in it, is on the disk."""
    for above, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(above) / name)
        sync(Path(above))


def restrict(folder: Path) -> None:
    """Take from a folder the permissions that the user's umask does not grant."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    umask = int(status.partition("\nUmask:")[2].split()[0], 8)
    mode = stat.S_IMODE(folder.stat(follow_symlinks=False).st_mode)
    if mode & umask:
        folder.chmod(mode & ~umask)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_empty(output: Path) -> None:
    """Raise :class:`ValueError` unless a folder is new or empty."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: exists and is not an empty folder; give a new one")
