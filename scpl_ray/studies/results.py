"""The results of a study or of single runs as one tidy table: a row per arm, seed, round, group and metric.

Beside the table of a study stands with how many whole seeds its results were shown, each of which was a look.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scpl_ray.records import Metric
from scpl_ray.storage import inside, tables
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.manifests import MOST_BYTES
from scpl_ray.storage.run_directory import Reader

FILE, LOOKS_FILE = "results.parquet", "looks.json"
BEFORE = "results-before.parquet"
"""The table of a study that goes on, until its new one is written: nothing reads it, and a study that is stopped keeps
it."""
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
REPAIR = "write the numbers of seeds with which it was finished there as a list, or remove it"
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


def note_look(folder: Path, seeds: int) -> None:
    """Note that results of so many whole seeds are shown, where a study that goes on and stops does not lose it.

    Raises:
        StoreError: as :func:`looks`.
        OSError: the folder cannot be written.
    """
    before = looks(folder)
    if seeds in before:
        return
    numbers = sorted({*before, seeds})
    write_atomically(folder / LOOKS_FILE, f"{json.dumps(numbers)}\n".encode())


def looks(folder: Path) -> tuple[int, ...]:
    """Numbers of whole seeds with which results of a study were shown, ascending.

    Raises:
        StoreError: the file cannot be read, or holds something else.
    """
    path = folder / LOOKS_FILE
    try:
        found = json.loads(inside.read_below(folder, LOOKS_FILE, MOST_BYTES))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; make it a file that can be read") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not JSON ({error}); {REPAIR}") from error
    if not isinstance(found, list) or not all(type(number) is int and number > 0 for number in found):
        raise StoreError(f"{path}: holds {str(found)[:60]}; {REPAIR}")
    return tuple(found)


def records(found: pa.Table) -> Iterator[tuple[str, int, Metric]]:
    """Rows of the table as (arm, seed, metric)."""
    for row in found.to_pylist():
        arm, seed = row.pop("arm"), row.pop("seed")
        yield arm, seed, Metric(**row)
