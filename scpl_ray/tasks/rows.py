"""Reading rows for any task from a JSONL, CSV or Parquet file or a Hub data set; they are checked before a run starts.

Every error message names the file and the line (JSONL) or row (other formats; counted from 1, without the header), and
says what to do.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import logging
import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".csv", ".parquet")
MAX_LINE_BYTES = 10 * 2**20
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
HUB_SECONDS = 10.0
"""Longest wait for the Hub's first response, in seconds."""


class DataError(ValueError):
    """A task cannot use the data; the message names file and line and says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fields:
    """The fields that a task reads from each row, by the task's own names."""

    required: tuple[str, ...]
    """Fields that must have a text in every row."""
    optional: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row of a user's data."""

    where: str
    """File and line, for messages."""
    values: dict[str, str | None]
    """Texts by the task's field names; required ones are never empty, missing optional ones are ``None``."""

    def __getitem__(self, field: str) -> str:
        """The text of a required field, or of an optional one that is known to be present."""
        value = self.values[field]
        assert value is not None, f"{self.where}: {field}"
        return value


def load(source: str | None, columns: Mapping[str, str], fields: Fields) -> list[Row]:
    """Load the rows of ``task.data``.

    Args:
        source: an existing file, else a Hub id, whose splits are read one after the other.
        columns: the user's column by the task's field name (``task.fields``); other columns have the field's name.
        fields: the fields that the task reads.

    Raises:
        DataError: the file or data set does not exist, is not readable or has no rows, or a row lacks a required field.
    """
    known = (*fields.required, *fields.optional)
    if unknown := sorted(set(columns) - set(known)):
        raise DataError(
            f"task.fields: {', '.join(unknown)} is no field of this task; its fields are {', '.join(known)}"
        )
    if source is None:
        raise DataError(
            f"task.data: no data given; give a {', '.join(SUFFIXES)} file or a Hub data set id with the columns "
            f"{', '.join(fields.required)} (or map yours with task.fields)"
        )
    rows = [
        Row(where, {field: _value(where, raw, field, columns, fields) for field in known})
        for where, raw in _raw_rows(source)
    ]
    if not rows:
        raise DataError(f"{source}: holds no rows; give a file with one row per item")
    return rows


def columns_of(source: str | None) -> tuple[str, ...]:
    """The columns of the first row; empty if there is no data or no row, for which :func:`load` raises the error.

    Raises:
        DataError: the data cannot be read.
    """
    if source is None:
        return ()
    return next((tuple(map(str, raw)) for _, raw in _raw_rows(source)), ())


def check_unique(rows: Iterable[Row], field: str) -> None:
    """Raise :class:`DataError` if two rows have the same value of an optional field; missing values are ignored."""
    seen: dict[str, str] = {}
    for row in rows:
        value = row.values[field]
        if value is None:
            continue
        if value in seen:
            raise DataError(
                f"{row.where}: {field} {value!r} is that of {seen[value]} too; give every row its own {field}"
            )
        seen[value] = row.where


def check_groups(rows: Sequence[Row], field: str, groups: Sequence[str], source: str) -> None:
    """Raise :class:`DataError` unless the field has two or more labels, including every configured group."""
    labels = sorted({row[field] for row in rows})
    shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    if len(labels) < 2:
        raise DataError(f"{source}: every row has {field} {shown!r}; a loop needs rows of at least two groups")
    if missing := [group for group in groups if group not in labels]:
        raise DataError(
            f"groups.names: {', '.join(missing)} never occurs as {field} in {source}; its labels are {shown}: "
            f"set groups.names to two or more of them"
        )


def check_values(rows: Iterable[Row], field: str, allowed: Sequence[str]) -> None:
    """Raise :class:`DataError` if an optional field has a value that is not one of these."""
    for row in rows:
        value = row.values[field]
        if value is not None and value not in allowed:
            raise DataError(
                f"{row.where}: {field} {value!r} is none of {', '.join(allowed)}; correct it, or map another column "
                f"with task.fields={{{field}: COLUMN}}"
            )


def check_disjoint(rows: Iterable[Row], split: str, what: str, key_of: Callable[[Row], str]) -> None:
    """Raise :class:`DataError` if the same thing (an outlet, a text) is in two parts of a split."""
    first: dict[str, Row] = {}
    for row in rows:
        if row.values[split] is None:
            continue
        before = first.setdefault(key_of(row), row)
        if before[split] != row[split]:
            raise DataError(
                f"{row.where}: overlapping splits: its {what} is in {split} {row[split]!r} here and in "
                f"{before[split]!r} at {before.where}; move one of them"
            )


def _value(where: str, raw: Mapping[str, Any], field: str, columns: Mapping[str, str], fields: Fields) -> str | None:
    column = columns.get(field, field)
    needed = field in fields.required
    if column not in raw:
        if not needed and field not in columns:
            return None
        absent = [f for f in (*fields.required, *columns) if columns.get(f, f) not in raw]
        names = ", ".join(dict.fromkeys(columns.get(f, f) for f in absent))
        raise DataError(
            f"{where}: no field {names}; the row has {', '.join(map(str, raw)) or 'none'}: name yours with "
            f"task.fields={{{', '.join(f'{f}: COLUMN' for f in dict.fromkeys(absent))}}}"
        )
    value = raw[column]
    if isinstance(value, float) and math.isnan(value):
        value = None
    if isinstance(value, (bool, list, dict, bytes)):
        raise DataError(f"{where}: {column} holds a {type(value).__name__}; it must be text or a number")
    text = None if value is None else str(value).strip()
    if text:
        return text
    if needed:
        raise DataError(f"{where}: {column} is empty; fill it or leave the row out")
    return None


def _raw_rows(source: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    path = Path(source).expanduser()
    if path.is_dir():
        raise DataError(f"{source}: is a folder; give one {', '.join(SUFFIXES)} file")
    if path.is_file():
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise DataError(
                f"{source}: files are read by their suffix, one of {', '.join(SUFFIXES)}; rename or convert it"
            )
        if path.stat().st_size == 0:
            raise DataError(f"{source}: the file is empty; give a file with one row per item")
        readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
        return readers[suffix](path)
    if path.suffix.lower() in SUFFIXES or not HUB_ID.fullmatch(source):
        raise DataError(f"task.data: {source}: no such file; give a {', '.join(SUFFIXES)} file or a Hub data set id")
    return _hub(source)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file without its byte-order mark, in one streaming pass."""
    try:
        with path.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path} line {number}: longer than {MAX_LINE_BYTES // 2**20} MiB; one row per line, "
                        "and shorten or leave out such rows"
                    )
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path} line {number}: byte {error.start + 1} is not UTF-8; save the file as UTF-8 text"
                    ) from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give a file that can be read") from error


def _jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where}: not valid JSON at column {error.colno}: {error.msg}; one JSON object per line"
            ) from error
        except RecursionError as error:
            raise DataError(f"{where}: nested too deeply; one flat JSON object per line") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: holds a {type(row).__name__}; one JSON object per line")
        yield where, row


def _csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import datasets

    header = ""
    rows = False
    for number, line in _lines(path):
        header = header if number > 1 else line
        rows = rows or (number > 1 and bool(line.strip()))
    if not rows:
        return
    try:
        columns = next(csv.reader(io.StringIO(header)), [])
    except csv.Error as error:
        raise DataError(f"{path} line 1: not a CSV header: {error}; end lines with a line feed") from error
    if len(set(columns)) != len(columns) or not all(column.strip() for column in columns):
        raise DataError(f"{path} line 1: the columns {columns} must be distinct and not empty; give the file a header")
    text = datasets.Features({column: datasets.Value("string") for column in columns})
    yield from _local(
        path,
        # words such as NA and null are kept as text; only an empty cell counts as empty
        lambda cache: datasets.Dataset.from_csv(
            str(path), features=text, cache_dir=cache, keep_default_na=False, na_values=[""]
        ),
    )


def _parquet(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import datasets

    yield from _local(path, lambda cache: datasets.Dataset.from_parquet(str(path), cache_dir=cache))


def _local(path: Path, read: Callable[[str], Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a file that ``datasets`` parses; its cache is temporary, so a changed file is always read again."""
    import datasets

    before, loudness = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    with tempfile.TemporaryDirectory(prefix="scpl-data-") as cache:
        datasets.disable_progress_bars()
        # datasets would print a traceback of an error that becomes one message here
        datasets.logging.set_verbosity(logging.CRITICAL)
        try:
            data = read(cache)
        except (datasets.exceptions.DatasetGenerationError, ValueError, OSError) as error:
            cause = error.__cause__ or error
            raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {_one_line(cause)}") from error
        finally:
            datasets.logging.set_verbosity(loudness)
            if before:
                datasets.enable_progress_bars()
        for index, row in enumerate(data):
            yield f"{path} row {index + 1}", row


def _hub(name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    advice = "give a file instead: task.data=FILE.jsonl (or .csv, .parquet)"
    try:
        # one small file is tried first, because without a network load_dataset alone would retry for half a minute
        huggingface_hub.snapshot_download(
            name, repo_type="dataset", allow_patterns=["README.md"], etag_timeout=HUB_SECONDS
        )
        splits = datasets.load_dataset(name)
    except (OSError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"task.data: {name!r} is no file here and could not be loaded from the Hugging Face Hub "
            f"({_one_line(error)}); {advice}"
        ) from error
    for split, data in splits.items():
        for index, row in enumerate(data):
            yield f"{name} {split} row {index + 1}", row


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
