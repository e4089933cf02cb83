"""Files to which text is written with its credentials masked."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from scpl_ray.credentials.patterns import held_by
from scpl_ray.credentials.stream import CHUNK, Masker

DRAIN_SECONDS = 2.0
"""Longest wait for what was written to a pipe to reach its file."""
PACKAGES = Path(__file__).parents[2]
PROGRAM = "import sys; sys.path[:0] = [sys.argv[1]]; from scpl_ray.credentials.stream import main; main()"


def open_log(path: Path, *, more: bool = True) -> int:
    """Open a regular file for writing without following a link; returns its descriptor.

    Args:
        path: the file; a new one has the permissions that the umask leaves.
        more: append to what it holds; otherwise it is emptied.

    Raises:
        OSError: it is a link or no regular file, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if more else os.O_TRUNC)
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


class MaskedLog(io.TextIOWrapper):
    """A text file to which lines are appended with their credentials masked; a line is written when it is complete."""

    def __init__(self, path: Path) -> None:
        file = os.fdopen(open_log(path), "ab")
        super().__init__(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._masker = Masker(held_by(os.environ))

    def write(self, text: str) -> int:
        """Append the masked text; returns the length of ``text`` as it was given."""
        super().write(self._masker.feed(text))
        return len(text)

    def settle(self) -> None:
        """Write an unfinished line as it is."""
        super().write(self._masker.finish())
        self.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        if not self.closed:
            self.settle()
        super().close()


class MaskedPipe:
    """A pipe whose content is appended to a file with its credentials masked, whoever writes into it.

    Child processes and code in C write to descriptors, not to Python's files. Another process reads the pipe, so that
    what a process wrote last is kept even if it dies.

    Raises:
        OSError: the file cannot be written, or the process not be started.
    """

    def __init__(self, path: Path) -> None:
        log = open_log(path)
        source, self.descriptor = os.pipe()
        self._ended, ends = os.pipe()
        try:
            # the process starts another one, which lives as long as anyone can write, and ends itself
            subprocess.run(
                [sys.executable, "-I", "-S", "-c", PROGRAM, str(PACKAGES)],
                stdin=source,
                stdout=log,
                stderr=subprocess.DEVNULL,
                pass_fds=(ends,),
                check=True,
            )
        finally:
            for descriptor in (log, source, ends):
                os.close(descriptor)

    def __enter__(self) -> MaskedPipe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def become(self, *descriptors: int) -> None:
        """Make these descriptors of this process, such as 1 and 2, write into the pipe."""
        for descriptor in descriptors:
            os.dup2(self.descriptor, descriptor)

    def close(self) -> None:
        """Close this end, and wait a moment until what was written has reached the file.

        If a child process still holds the other descriptors, what it writes goes on to reach the file.
        """
        os.close(self.descriptor)
        select.select([self._ended], [], [], DRAIN_SECONDS)
        os.close(self._ended)


def copy_masked(source: str, target: str) -> str:
    """Copy a regular file with its credentials masked; neither path may be a link.

    Raises:
        OSError: one of them is a link or no regular file, or cannot be read or written.
    """
    masker = Masker(held_by(os.environ))
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as lines:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", source)
        with os.fdopen(open_log(Path(target), more=False), "wb") as file:
            while data := lines.read(CHUNK):
                file.write(masker.feed(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"))
            file.write(masker.finish().encode("utf-8", "surrogateescape"))
    return target
