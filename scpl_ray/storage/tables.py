"""Reading Parquet files that others may have written: what a file claims is compared with bounds before it is loaded.

A few kilobytes of Parquet can stand for any number of rows, and a dictionary can repeat one long text in all of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scpl_ray.storage import inside
from scpl_ray.storage.errors import StoreError

MOST_ROWS = 20_000_000
MOST_VALUES = 2**31
"""Largest number of values in a file, over all columns and with the elements of lists counted one by one."""
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
) -> pa.Table:
    """A Parquet file below a folder, with exactly this schema.

    Args:
        root: the folder; no link below it is followed.
        name: the file.
        schema: the schema that it must have.
        most_rows: the most rows that are loaded.
        columns: the columns that are loaded; ``None``: all.
        added: columns that files of older versions do not have; there they are null.

    Raises:
        StoreError: the file is missing, is no regular file or no Parquet, has another schema, or is too large.
    """
    where = root / name
    try:
        with os.fdopen(inside.open_below(root, name), "rb") as opened, pq.ParquetFile(opened) as file:
            here = schema
            if not set(added) & set(file.schema_arrow.names):
                here = pa.schema([field for field in schema if field.name not in added])
            _check(file, here, most_rows, where)
            wanted = schema.names if columns is None else list(columns)
            table = _loaded(file, [one for one in wanted if one in here.names], where)
            for index, one in enumerate(wanted):
                if one not in here.names:
                    table = table.add_column(index, schema.field(one), pa.nulls(len(table), schema.field(one).type))
    except (OSError, pa.ArrowException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())[:200]
        raise StoreError(f"{where}: cannot be read ({reason}); restore it, or resume the run or study") from error
    return table


def _check(file: pq.ParquetFile, schema: pa.Schema, most_rows: int, where: Path) -> None:
    facts = file.metadata
    if not file.schema_arrow.equals(schema):
        raise StoreError(f"{where}: columns {file.schema_arrow.names[:20]}; expected {schema}")
    if facts.num_rows > most_rows:
        raise StoreError(f"{where}: holds {facts.num_rows:,} rows; at most {most_rows:,} are read")
    chunks = [facts.row_group(i).column(j) for i in range(facts.num_row_groups) for j in range(facts.num_columns)]
    if (values := sum(chunk.num_values for chunk in chunks)) > MOST_VALUES:
        raise StoreError(f"{where}: holds {values:,} values; at most {MOST_VALUES:,} are read")


def _loaded(file: pq.ParquetFile, columns: Sequence[str], where: Path) -> pa.Table:
    facts = file.metadata
    chunks = [facts.row_group(i).column(j) for i in range(facts.num_row_groups) for j in range(facts.num_columns)]
    longest = max((chunk.total_uncompressed_size for chunk in chunks), default=0)
    rows = max(1, min(2**16, BATCH_BYTES // max(1, longest)))
    size, batches = 0, []
    for batch in file.iter_batches(batch_size=rows, columns=columns, use_threads=False):
        size += batch.nbytes
        if size > MOST_BYTES:
            raise StoreError(f"{where}: takes more than {MOST_BYTES >> 30} GiB of memory")
        batches.append(batch)
    return pa.Table.from_batches(batches, pa.schema([file.schema_arrow.field(one) for one in columns]))
