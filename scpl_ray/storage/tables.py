"""Reading Parquet files of run directories: what a file claims is compared with bounds before it is loaded.

A few kilobytes of Parquet can stand for any number of rows, and a dictionary can repeat one long text in all of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scpl_ray.storage import inside, parquet
from scpl_ray.storage.errors import StoreError

MOST_ROWS = 20_000_000
MOST_VALUES = 2**32
"""Largest number of values in a file, over all columns and with the elements of lists counted one by one: so many token
ids take :data:`MOST_BYTES`."""
MOST_BYTES = 16 * 2**30
"""Largest size of a table in memory."""
BATCH_BYTES = 2**28
"""A batch has so few rows that even if each held the longest value that a column can hold, it would take no more."""


def read_below(
    root: Path,
    name: str,
    schema: pa.Schema,
    *,
    most_rows: int = MOST_ROWS,
    columns: Sequence[str] | None = None,
    added: Sequence[str] = (),
    own: bool = False,
) -> pa.Table:
    """A Parquet file below a folder, with exactly this schema.

    Args:
        root: the folder; no link below it is followed.
        name: the file.
        schema: the schema that it must have.
        most_rows: the most rows that are loaded.
        columns: the columns that are loaded; ``None``: all.
        added: columns that files of older versions do not have; there they are null.
        own: whether this process has written the file and may decode it itself.

    Raises:
        StoreError: the file is missing, is no regular file or no Parquet, has another schema, or is too large.
    """
    where = root / name
    try:
        with os.fdopen(inside.open_below(root, name), "rb") as file:
            if own:
                return pq.read_table(file, columns=None if columns is None else list(columns))
            claimed = parquet.facts(file)
            here = schema
            if not set(added) & set(claimed.schema.names):
                here = pa.schema([field for field in schema if field.name not in added])
            _check(claimed, here, most_rows, where)
            wanted = schema.names if columns is None else list(columns)
            there = [one for one in wanted if one in here.names]
            rows = max(1, min(2**16, BATCH_BYTES // max(1, claimed.longest)))
            size, batches = 0, []
            for batch in parquet.batches(file, there, rows):
                size += batch.nbytes
                if size > MOST_BYTES:
                    raise StoreError(f"{where}: takes more than {MOST_BYTES >> 30} GiB of memory")
                batches.append(batch)
    except (OSError, parquet.UnreadableError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StoreError(f"{where}: cannot be read ({reason}); restore it, or resume the run or study") from error
    table = pa.Table.from_batches(batches, pa.schema([schema.field(one) for one in there]))
    for index, one in enumerate(wanted):
        if one not in there:
            table = table.add_column(index, schema.field(one), pa.nulls(len(table), schema.field(one).type))
    return table


def _check(claimed: parquet.Facts, schema: pa.Schema, most_rows: int, where: Path) -> None:
    if not claimed.schema.equals(schema):
        raise StoreError(f"{where}: columns {claimed.schema.names[:20]}; expected {schema}")
    if claimed.rows > most_rows:
        raise StoreError(f"{where}: holds {claimed.rows:,} rows; at most {most_rows:,} are read")
    if claimed.values > MOST_VALUES:
        raise StoreError(f"{where}: holds {claimed.values:,} values; at most {MOST_VALUES:,} are read")
