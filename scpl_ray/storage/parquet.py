"""Parquet files that others may have written: they are decoded in a limited process of their own.

Whatever such a file does to the process that decodes it, here it is one error. The process is kept for the next file,
so a report of a thousand files starts one.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from scpl_ray.storage import parquet_process

START_S = 60.0
"""Longest wait for the process to start."""
_idle: list[_Decoder] = []
"""A process that waits for the next file; at most one is kept."""


class UnreadableError(ValueError):
    """A Parquet file cannot be decoded; the message is the reason alone."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a file claims."""

    schema: pa.Schema
    rows: int
    values: int
    """Over all columns, the elements of lists counted one by one."""
    longest: int
    """Bytes of its largest column chunk."""


def facts(file: BinaryIO) -> Facts:
    """What a Parquet file claims about itself.

    Raises:
        UnreadableError: it cannot be read.
        RuntimeError: the process that decodes does not start.
    """
    with _Decoder.taken() as decoder:
        found = decoder.asked({"facts": True}, file)
        data = decoder.answers.read(size := found.pop("bytes"))
        if len(data) < size:
            raise decoder.ended()
        schema = pa.ipc.read_schema(pa.py_buffer(data))
        decoder.kept()
    return Facts(schema, **found)


def batches(file: BinaryIO, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """The record batches of a Parquet file, all of whose values have been checked.

    Args:
        file: the file.
        columns: the columns that are read; ``None``: all.
        rows: the most rows of a batch.

    Raises:
        UnreadableError: it cannot be read, also after some batches.
        RuntimeError: the process that decodes does not start.
    """
    with _Decoder.taken() as decoder:
        decoder.asked({"columns": None if columns is None else list(columns), "rows": rows}, file)
        try:
            yield from pa.ipc.open_stream(decoder.answers)
        except (pa.ArrowException, OSError):
            raise decoder.ended() from None
        decoder.said()
        decoder.kept()


class _Decoder:
    """One process that decodes, and the connection to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-I", parquet_process.__file__]
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        self._socket = ours
        self.answers = ours.makefile("rb")
        self._end = weakref.finalize(self, _end, self._process, ours, self.answers)
        self._keep = False
        ours.settimeout(START_S)
        if self.answers.readline() != parquet_process.READY:
            raise RuntimeError(
                f"the process that decodes Parquet files did not start (exit code {self._process.wait()}); try: "
                f"{' '.join(command)} < /dev/null"
            )
        ours.settimeout(None)

    @classmethod
    def taken(cls) -> _Decoder:
        """A process that waits, or a new one; as a context manager, it is ended unless it is :meth:`kept`."""
        try:
            found = _idle.pop()
        except IndexError:
            return cls()
        return found if found._process.poll() is None else cls()

    def __enter__(self) -> _Decoder:
        self._keep = False
        return self

    def __exit__(self, *_: object) -> None:
        if self._keep and not _idle:
            _idle.append(self)
        else:
            self._end()

    def kept(self) -> None:
        """Keep the process for the next file, because it has answered in full."""
        self._keep = True

    def asked(self, request: dict[str, Any], file: BinaryIO) -> dict[str, Any]:
        """Send a request with its file; returns what it is answered."""
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], [file.fileno()])
        except OSError:
            raise self.ended() from None
        return self.said()

    def said(self) -> dict[str, Any]:
        """The next line of an answer.

        Raises:
            UnreadableError: it is an error, or the process has ended.
        """
        try:
            line = self.answers.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise self.ended()
        said: dict[str, Any] = json.loads(line)
        if (error := said.get("error")) is not None:
            self.kept()
            raise UnreadableError(error)
        return said

    def ended(self) -> UnreadableError:
        """The error of a file that ended the process."""
        code = self._process.wait()
        if code == -signal.SIGPROF:
            return UnreadableError(f"decoding it takes more than {parquet_process.CPU_SECONDS:.0f} s at a time")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        limit = f"{parquet_process.MEMORY_BYTES >> 30} GiB"
        return UnreadableError(f"it ended the process that decodes it, by {how}: it is damaged, or needs over {limit}")


def _end(process: subprocess.Popen[bytes], connection: socket.socket, answers: BinaryIO) -> None:
    answers.close()
    connection.close()
    process.kill()
    process.wait()
