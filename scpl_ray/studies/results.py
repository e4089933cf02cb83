"""The results of a study or of single runs as one tidy table: a row per arm, seed, round, group and metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scpl_ray.records import Metric
from scpl_ray.storage import tables
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.run_directory import Reader

FILE = "results.parquet"
SCHEMA = pa.schema(
    [
        pa.field("arm", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("round", pa.int32(), nullable=False),
        pa.field("group", pa.string()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
"""``group`` is null for a metric over all groups; numbers that do not exist have no row. ``low`` and ``high`` are the
bounds of the within-run interval, null where a metric has none."""
ADDED = ("low", "high")
"""Columns that tables of older versions do not have; there they are read as null."""


def run_rows(run_dir: Path) -> list[Metric]:
    """The metrics of every evaluated round of a run, finished or not; empty where there is no run yet.

    Raises:
        StoreError: the folder is not a run directory.
    """
    if not (run_dir / "run.json").exists():
        return []
    reader, experiment = Reader.open(run_dir)
    return [
        row
        for round_ in range(experiment.loop.rounds + 1)
        if reader.manifest(round_, "evaluation") is not None
        for row in reader.read(round_, "evaluation", "metrics", Metric)
    ]


def table(runs: Sequence[tuple[str, int, Sequence[Metric]]]) -> pa.Table:
    """The tidy table of runs that are given as (arm, seed, metrics)."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for arm, seed, rows in runs:
        for row in rows:
            values = (arm, seed, row.round, row.group, row.metric, row.value, row.low, row.high)
            for name, value in zip(SCHEMA.names, values, strict=True):
                columns[name].append(value)
    return pa.table(columns, schema=SCHEMA)


def write(found: pa.Table, folder: Path) -> Path:
    """Write ``results.parquet``, which pandas and the R package arrow can read."""
    sink = pa.BufferOutputStream()
    pq.write_table(found, sink, compression="zstd")
    write_atomically(folder / FILE, sink.getvalue().to_pybytes())
    return folder / FILE


def read(folder: Path) -> pa.Table:
    """The inverse of :func:`write`.

    Raises:
        StoreError: there is no such table, or one with other columns, or too many rows.
    """
    if not (folder / FILE).exists():
        raise StoreError(f"{folder / FILE}: is not there yet; run the study, or resume it")
    return tables.read_below(folder, FILE, SCHEMA, added=ADDED)


def records(found: pa.Table) -> Iterator[tuple[str, int, Metric]]:
    """Rows of the table as (arm, seed, metric)."""
    for row in found.to_pylist():
        arm, seed = row.pop("arm"), row.pop("seed")
        yield arm, seed, Metric(**row)
