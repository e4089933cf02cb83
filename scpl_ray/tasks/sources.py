"""Where rows come from: JSONL, CSV and Parquet files and Hub data sets, each as plain values by column.

Only the columns that were asked for are read, and nothing in them is decoded or followed: an ``Image`` or ``Audio``
column of a Parquet file or Hub set stays bytes and a path, so reading sends no request and opens no other file.
"""

from __future__ import annotations

import codecs
import dataclasses
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from scpl_ray import config
from scpl_ray.config.paths import user_path
from scpl_ray.tasks.tally import DataError, OddRow, listed

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".zip")
MAX_LINE_CHARACTERS = 10 * 2**20
MAX_ROWS = 10_000_000
"""Largest number of rows; all that are kept stay in memory."""
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
HUB_SECONDS = 10.0
"""Longest wait for the Hub's first response, in seconds."""
ROWS_AT_A_TIME = 256
NOT_UTF8 = "that are not UTF-8"
_BAD_BYTE = re.compile("[\udc80-\udcff]")
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclasses.dataclass(frozen=True, slots=True)
class Raw:
    """One row as it was read."""

    where: str
    """File and line (Parquet and Hub sets: row, counted from 1)."""
    values: Mapping[str, Any] | OddRow
    """Values by column, or why there are none."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Something with rows."""

    form: str
    """How they are written, for reports."""
    columns: tuple[str, ...]
    """Of the whole, or of the first row where rows may differ."""
    rows: Callable[[], Iterator[Raw]]
    """Reads them in one pass; every call begins anew."""
    alike: bool = True
    """Whether every row has these columns; lines of JSON may differ."""
    typed: bool = True
    """Whether numbers are numbers; in a CSV file every cell is text."""


def open_source(task: config.Task, asked: Collection[str]) -> Source:
    """The rows of ``task.data``: an existing file, else a Hub id, whose splits are read one after the other.

    Args:
        task: ``data``, and ``config`` and ``split`` of a Hub set.
        asked: the columns that may be used; no other is read.

    Raises:
        DataError: there is no such file or data set, or it cannot be read; also while the rows are read.
    """
    name = str(task.data)
    try:
        path = user_path(name)
    except RuntimeError as error:
        raise DataError(f"task.data: {name}: ~ names no home folder; give the whole path") from error
    kinds = ", ".join(SUFFIXES)
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            raise DataError(f"{name}: is a folder; give one {kinds} file")
        if not path.exists():
            if suffix in SUFFIXES or not HUB_ID.fullmatch(name):
                raise DataError(f"task.data: {name}: no such file; give a {kinds} file or a Hub data set id")
            return _hub(task, asked)
        if task.config is not None or task.split is not None:
            raise DataError(f"task.config, task.split: {name} is a file, and these choose a part of a Hub data set")
        if not path.is_file():
            raise DataError(f"{name}: is no regular file; give one {kinds} file")
        if suffix in COMPRESSED:
            raise DataError(f"{name}: is compressed; unpack it and give the {kinds} file inside")
        if suffix not in SUFFIXES:
            raise DataError(f"{name}: files are read by their suffix, one of {kinds}; rename or convert it")
        if path.stat().st_size == 0:
            raise DataError(f"{name}: the file is empty; give a file with one row per item")
        if suffix == ".jsonl":
            return _jsonl(name, path)
        if suffix == ".parquet":
            return _parquet(name, path, asked)
        from scpl_ray.tasks import csv_source

        return csv_source.open_csv(name, path, asked)
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}; give a file that can be read") from error


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line of a text file."""

    number: int
    text: str
    """With its end; empty if it is too long."""
    wrong: OddRow | None = None


def lines(name: str, path: Path) -> Iterator[Line]:
    """The lines of a text file, in UTF-8 or, where its first bytes say so, UTF-16; they end in CR, LF or both.

    Raises:
        DataError: the file cannot be read, or is UTF-16 that does not say so.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
            encoding = next((coding for mark, coding in _BOMS.items() if head.startswith(mark)), "utf-8")
            if encoding != "utf-16" and b"\x00" in head:
                raise DataError(f"{name} line 1: holds zero bytes, as UTF-16 does; save the file as UTF-8 text")
            file.seek(0)
            text = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="")
            number = 0
            while line := text.readline(MAX_LINE_CHARACTERS + 1):
                number += 1
                wrong = None
                if len(line) > MAX_LINE_CHARACTERS:
                    while line and not line.endswith(("\n", "\r")):
                        line = text.readline(MAX_LINE_CHARACTERS)
                    most = MAX_LINE_CHARACTERS // 2**20
                    line, wrong = (
                        "",
                        OddRow(f"longer than {most} MiB", f"longer than {most} MiB; shorten or leave it out"),
                    )
                elif bad := _BAD_BYTE.search(line):
                    place = len(line[: bad.start()].encode()) + 1
                    wrong = OddRow(NOT_UTF8, f"byte {place} is not UTF-8; save the file as UTF-8 text")
                yield Line(number, line, wrong)
    except UnicodeError as error:
        raise DataError(f"{name}: is not the UTF-16 text that it begins like; save it as UTF-8 text") from error
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}; give a file that can be read") from error


def _jsonl(name: str, path: Path) -> Source:
    def rows() -> Iterator[Raw]:
        for line in lines(name, path):
            where = f"{name} line {line.number}"
            if line.wrong is not None:
                yield Raw(where, line.wrong)
            elif line.text.strip():
                yield Raw(where, _object(line.text))

    columns = next((tuple(raw.values) for raw in rows() if not isinstance(raw.values, OddRow)), ())
    return Source("JSON lines", columns, rows, alike=False)


def _object(line: str) -> Mapping[str, Any] | OddRow:
    try:
        row = json.loads(line, object_pairs_hook=_once)
    except OddRow as odd:
        return odd
    except json.JSONDecodeError as error:
        why = f"not valid JSON at column {error.colno}: {error.msg}"
    except ValueError:
        why = "a number has thousands of digits; write it as text"
    except RecursionError:
        why = "nested too deeply"
    else:
        if isinstance(row, dict):
            return row
        why = f"holds a {type(row).__name__}"
    return OddRow("that are no JSON objects", f"{why}; one JSON object per line")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if any(key == other for other, _ in pairs[:i]))
        raise OddRow("with a key twice", f"has the key {twice!r} twice; keep one of them")
    return row


def _parquet(name: str, path: Path, asked: Collection[str]) -> Source:
    from scpl_ray.storage import parquet

    try:
        with path.open("rb") as file:
            claimed = parquet.facts(file)
    except parquet.UnreadableError as error:
        raise DataError(f"{name}: cannot be read as parquet: {error}; write it anew") from error
    columns = tuple(map(str, claimed.schema.names))
    if claimed.rows > MAX_ROWS:
        raise DataError(f"{name}: {claimed.rows:,} rows; at most {MAX_ROWS:,} are read: give a part of it")
    chosen = _chosen(name, columns, asked)

    def rows() -> Iterator[Raw]:
        with path.open("rb") as file:
            yield from _batches(name, parquet.batches(file, chosen, ROWS_AT_A_TIME), chosen)

    return Source("Parquet", columns, rows)


def _chosen(name: str, columns: Collection[str], asked: Collection[str]) -> list[str]:
    """The columns to read; one that is asked for must be there once only."""
    found = [column for column in columns if column in asked]
    if twice := sorted({column for column in found if found.count(column) > 1}):
        raise DataError(f"{name}: has the column {twice[0]!r} twice; rename one of them")
    return found


def _batches(name: str, batches: Iterator[Any], columns: list[str]) -> Iterator[Raw]:
    """The rows of Arrow batches or tables; what reading them raises is an error of the data."""
    import pyarrow as pa

    done = 0
    try:
        for batch in batches:
            for values in _plain(batch, columns):
                done += 1
                yield Raw(f"{name} row {done}", values)
    except (pa.ArrowException, OSError, ValueError) as error:
        where = f"{name} row {done + 1} or soon after"
        raise DataError(f"{where}: cannot be read: {_one_line(error)}; write the file anew") from error


def _plain(batch: Any, columns: list[str]) -> Iterator[Mapping[str, Any] | OddRow]:
    """The rows of an Arrow batch or table; a value that Arrow holds and Python cannot is an odd row."""
    import pyarrow as pa

    taken = {column: batch.column(column) for column in columns}
    for i in range(batch.num_rows):
        column = ""
        try:
            values = {}
            for column, of_column in taken.items():
                values[column] = of_column[i].as_py()
        except UnicodeDecodeError:
            yield OddRow(NOT_UTF8, f"{column} is not UTF-8; write it as UTF-8 text")
        except (pa.ArrowException, ValueError, OverflowError) as error:
            yield OddRow(f"whose {column} cannot be read", f"{column} cannot be read: {_one_line(error)}; correct it")
        else:
            yield values


def _hub(task: config.Task, asked: Collection[str]) -> Source:
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    name = str(task.data)
    try:
        # one small file is tried first, because without a network load_dataset alone would retry for half a minute
        huggingface_hub.snapshot_download(
            name, repo_type="dataset", allow_patterns=["README.md"], etag_timeout=HUB_SECONDS
        )
        configs = datasets.get_dataset_config_names(name)
        if task.config is None and len(configs) > 1 and "default" not in configs:
            raise DataError(f"task.data: {name} has several configs; set task.config to one of {listed(configs)}")
        if task.config is not None and task.config not in configs:
            raise DataError(f"task.config = {task.config!r}: {name} has {listed(configs)}; set it to one of them")
        splits = datasets.load_dataset(name, task.config)
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"task.data: {name!r} is no file here and could not be loaded from the Hugging Face Hub "
            f"({_one_line(error)}); give a file instead: task.data=FILE.jsonl (or .csv, .parquet)"
        ) from error
    if task.split is not None and task.split not in splits:
        raise DataError(f"task.split = {task.split!r}: {name} has {listed(list(splits))}; set it to one of them")
    used = {split: data for split, data in splits.items() if task.split in (None, split)}
    columns = tuple(dict.fromkeys(column for data in used.values() for column in data.column_names))

    def rows() -> Iterator[Raw]:
        for split, data in used.items():
            chosen = [column for column in data.column_names if column in asked]
            # in Arrow's format no feature is decoded
            batches = data.select_columns(chosen).with_format("arrow").iter(ROWS_AT_A_TIME)
            yield from _batches(f"{name} {split}", batches, chosen)

    part = f" {task.config}" if task.config is not None else ""
    return Source(f"Hub data set{part}, {', '.join(used)}", columns, rows)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
