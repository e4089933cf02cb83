"""The process in which Parquet files of unknown origin are decoded, so that none can crash or fill up a run.

Arrow's reader is written in C++, and a file with a few changed bytes can end the process that reads it or make it ask
for all memory. This process reads the file, checks every value, and sends the batches on in Arrow's own format, which
its reader therefore got from a writer of ours and not from the file.

It takes requests from a Unix socket, its standard input: a line of JSON, with the descriptor of the file attached.
``{"facts": true}`` is answered by what the file claims; ``{"columns", "rows"}`` by a stream of record batches. Each
answer is a line of JSON, ``{"bytes"}`` with the schema or the stream behind it, or ``{"error"}``; a stream is followed
by such a line, too.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

CPU_SECONDS = 20.0
"""Processor time for what a file claims and for each batch, after which the system ends the process."""
MEMORY_BYTES = 4 * 2**30
"""Memory of the process, in which a batch and what it is decoded from must fit."""
BUFFER_BYTES = 2**20
"""Of a column so much is read at a time, however large its part of the file is."""
READY = b"ready\n"
LONGEST_REQUEST = 2**20


def facts(file: pq.ParquetFile) -> dict[str, int]:
    """What a file claims: its rows, its values over all columns, and the bytes of its largest column chunk."""
    claimed = file.metadata
    chunks = [claimed.row_group(i).column(j) for i in range(claimed.num_row_groups) for j in range(claimed.num_columns)]
    return {
        "rows": claimed.num_rows,
        "values": sum(chunk.num_values for chunk in chunks),
        "longest": max((chunk.total_uncompressed_size for chunk in chunks), default=0),
    }


def opened(file: BinaryIO) -> pq.ParquetFile:
    """The reader of a Parquet file.

    Raises:
        pa.ArrowException, OSError, ValueError: it is none.
    """
    return pq.ParquetFile(file, buffer_size=BUFFER_BYTES)


def batches(file: pq.ParquetFile, columns: Sequence[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    """The record batches of some columns, of at most this many rows each.

    Raises:
        pa.ArrowException, OSError, ValueError: they cannot be read.
    """
    yield from file.iter_batches(batch_size=rows, columns=columns, use_threads=False)


class _Limited:
    """Restarts the clock of the processor time that this process may use."""

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _answer(out: BinaryIO, asked: dict[str, Any], file: BinaryIO) -> None:
    with _Limited():
        parquet = opened(file)
        if asked.get("facts"):
            schema = parquet.schema_arrow.serialize()
            found = facts(parquet) | {"bytes": schema.size}
            out.write(json.dumps(found).encode() + b"\n")
            out.write(schema)
            return
        chosen = parquet.schema_arrow
        if asked["columns"] is not None:
            chosen = pa.schema([chosen.field(name) for name in asked["columns"]])
    out.write(b"{}\n")
    error = None
    with pa.ipc.new_stream(out, chosen) as stream:
        source = batches(parquet, asked["columns"], asked["rows"])
        while True:
            try:
                with _Limited():
                    batch = next(source, None)
                    if batch is None:
                        break
                    _check(batch)
            except (pa.ArrowException, OSError, ValueError, MemoryError) as raised:
                error = _one_line(raised)
                break
            stream.write_batch(batch)
    out.write(json.dumps({"error": error}).encode() + b"\n")


def _check(batch: pa.RecordBatch) -> None:
    """Check all values but the encoding of texts, which the reader of the rows has a word for."""
    for column in batch.columns:
        column.view(_with_bytes(column.type)).validate(full=True)


def _with_bytes(kind: pa.DataType) -> pa.DataType:
    """The same type with bytes for texts."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_map(kind):
        return pa.map_(_with_bytes(kind.key_type), _with_bytes(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_bytes(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = kind.value_field.with_type(_with_bytes(kind.value_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(inner, kind.list_size)
        return pa.list_(inner) if pa.types.is_list(kind) else pa.large_list(inner)
    return kind


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"it takes more than {MEMORY_BYTES >> 30} GiB of memory"
    return " ".join(str(error).split())[:300] or type(error).__name__


def main() -> None:
    """Answer requests until the socket is closed."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # a signal to the whole group, as of a scheduler, is its parent's to act on; this process ends with the socket
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pa.set_memory_pool(pa.system_memory_pool())  # the others reserve more than they use
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with socket.socket(fileno=0) as connection, connection.makefile("wb") as out:
        out.write(READY)
        out.flush()
        while True:
            line, descriptors, _, _ = socket.recv_fds(connection, LONGEST_REQUEST, 1)
            if not line:
                return
            with os.fdopen(descriptors[0], "rb") as file:
                try:
                    _answer(out, json.loads(line), file)
                except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
                    out.write(json.dumps({"error": _one_line(error)}).encode() + b"\n")
            out.flush()


if __name__ == "__main__":
    main()
