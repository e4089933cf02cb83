"""A phase in progress: how its records and values become files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scpl_ray import records
from scpl_ray.records import Record
from scpl_ray.storage.files import replacing, write_atomically

GROUP_ROWS = 2**14
"""Rows of a Parquet row group: who reads a file of another process decodes a group at a time, in limited memory."""


class Phase:
    """A phase in progress; its folder is :attr:`path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}

    def write(self, name: str, rows: Sequence[Record], kind: type[Record]) -> None:
        """Write records as ``<name>.parquet``."""
        self.write_table(name, records.to_table(rows, kind))

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table of records as ``<name>.parquet``."""
        with replacing(self.path / f"{name}.parquet") as file:
            pq.write_table(table, file, compression="zstd", row_group_size=GROUP_ROWS)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON value as ``<name>.json``."""
        write_atomically(self.path / f"{name}.json", as_json(value))


def as_json(value: Any) -> bytes:
    """A JSON value as it is stored, with sorted keys; equal values give equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
