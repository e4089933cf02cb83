"""Opening files that others may have made: only regular files are read, and never more of them than was expected.

A FIFO would keep a reader waiting for ever, a device has no end, and a link may lead anywhere.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

SAFE = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""Flags with which opening a file of any kind returns at once."""


def check(descriptor: int, path: str | Path) -> None:
    """Raise :class:`OSError`, which names ``path``, unless an open file is a regular one."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read(descriptor: int, path: str | Path, most: int) -> bytes:
    """The whole content of an open regular file, which is closed.

    Raises:
        OSError: it is not a regular file, holds more than ``most`` bytes, or cannot be read; the error names ``path``.
    """
    try:
        check(descriptor, path)
    except OSError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return data
