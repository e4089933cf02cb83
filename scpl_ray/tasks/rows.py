"""Reading rows for any task from a file or a Hub data set; they are checked before a run starts.

Every error message names the file and the line (JSONL, CSV) or row (Parquet, Hub sets; counted from 1), and says what
to do. :mod:`scpl_ray.tasks.tally` says what happens to a row with which something is wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scpl_ray import config
from scpl_ray.config import loading
from scpl_ray.tasks.sources import MAX_ROWS, SUFFIXES, Raw, Source, open_source
from scpl_ray.tasks.tally import DataError, OddRow, Tally, listed
from scpl_ray.tasks.where import RowFilter

OTHER_GROUP = "of a label that is no group"
__all__ = ["DataError", "Fields", "OddRow", "Row", "Tally", "listed"]


@dataclasses.dataclass(frozen=True, slots=True)
class Fields:
    """The fields that a task reads from each row, by the task's own names."""

    required: tuple[str, ...]
    """Fields that must have a text in every row."""
    optional: tuple[str, ...] = ()
    conversations: tuple[str, ...] = ()
    """Those among them that may hold a list of messages instead of a text."""
    group: str | None = None
    """The one among them that says of which group a row is."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.required, *self.optional)


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row of a user's data."""

    where: str
    """File and line, for messages."""
    values: dict[str, str | None]
    """Texts by the task's field names; required ones are never empty, missing optional ones are ``None``."""
    messages: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    """Lists of messages, unchecked, by the names of :attr:`Fields.conversations`; their text is ``None``."""

    def __getitem__(self, field: str) -> str:
        """The text of a required field, or of an optional one that is known to be present."""
        value = self.values[field]
        assert value is not None, f"{self.where}: {field}"
        return value


def load(experiment: config.Experiment, fields: Fields, *, named: bool = True) -> tuple[list[Row], Tally]:
    """Load the rows of ``task.data`` that ``task.where`` asks for.

    Args:
        experiment: of its section ``task`` are used ``data``, ``config``, ``split``, ``where``, ``max_dropped``, and
            ``fields``: the user's column by the task's field name, or ``None`` for an optional field that is not read;
            other columns have the field's name. Messages name a command that reads the same.
        fields: the fields that the task reads.
        named: whether its groups are those that are wanted, so that a row of another label is not odd, whatever is
            wrong with it.

    Raises:
        DataError: the file or data set does not exist, is not readable or has no rows, a column is missing from it, or
            more rows are odd than ``task.max_dropped`` allows.
    """
    task = experiment.task
    if unknown := sorted(set(task.fields) - set(fields.names)):
        raise DataError(
            f"task.fields: {', '.join(unknown)} is no field of this task; its fields are {', '.join(fields.names)}"
        )
    if task.data is None:
        raise DataError(
            f"task.data: no data given; give a {', '.join(SUFFIXES)} file or a Hub data set id with the columns "
            f"{', '.join(fields.required)} (or map yours with task.fields)"
        )
    wanted = RowFilter(task.where) if task.where is not None else None
    if needed := sorted(field for field in fields.required if task.fields.get(field, field) is None):
        raise DataError(
            f"task.fields: {', '.join(needed)} cannot be null, for this task needs it; name your column with "
            f"task.fields={{{needed[0]}: COLUMN}}"
        )
    columns = {field: task.fields.get(field, field) for field in fields.names}
    mapping = {field: column for field, column in columns.items() if column is not None}
    source = open_source(task, {*mapping.values(), *(wanted.columns if wanted else ())})
    tally = Tally(task.data, task.name, task.max_dropped, functools.partial(keys_of, experiment))
    tally.form = source.form
    if source.alike:
        _check_columns(task, fields, mapping, wanted, set(source.columns), source)
    rows: list[Row] = []
    seen = set(source.columns)
    with tally.reported():
        for raw in source.rows():
            tally.rows += 1
            if tally.rows > MAX_ROWS:
                raise DataError(f"{raw.where}: more than {MAX_ROWS:,} rows; give a part of them")
            try:
                if (row := _row(raw, source, mapping, fields, wanted, seen)) is None:
                    tally.unasked("that task.where leaves out")
                else:
                    rows.append(row)
            except OddRow as odd:
                if named and _of_others(raw, mapping.get(fields.group or ""), experiment.groups.names):
                    tally.unasked(OTHER_GROUP)
                else:
                    tally.odd(raw.where, odd)
        tally.columns = {field: column for field, column in mapping.items() if column in seen}
        if not tally.rows:
            raise DataError(f"{task.data}: holds no rows; give a file with one row per item")
        _check_columns(task, fields, mapping, wanted, seen, source)
        tally.check()
        if not rows and wanted is None:
            other = (
                f"all are of other labels than {listed(experiment.groups.names)}; set groups.names to those of the data"
            )
            raise DataError(f"{task.data}: every row is odd: {'; '.join(tally.examples()) or other}")
        if not rows:
            examples = "; ".join(["", *tally.examples()])
            raise DataError(
                f"task.where = {task.where!r}: no row of {task.data} is left; compare with what is there{examples}"
            )
    return rows, tally


def columns_of(task: config.Task, asked: Iterable[str]) -> tuple[str, ...]:
    """The columns of the data, or of its first row where rows may differ; empty if there is no data.

    Args:
        task: as for :func:`load`.
        asked: columns that may be there.

    Raises:
        DataError: the data cannot be read.
    """
    return () if task.data is None else open_source(task, set(asked)).columns


def of_groups(rows: Iterable[Row], tally: Tally, fields: Fields, groups: Sequence[str]) -> list[Row]:
    """The rows of these groups; others are left out before they count against these."""
    assert fields.group is not None, "the rows have no field of groups"
    kept = []
    for row in rows:
        if row[fields.group] in groups:
            kept.append(row)
        else:
            tally.unasked(OTHER_GROUP)
    return kept


def unique(rows: Iterable[Row], tally: Tally, field: str) -> list[Row]:
    """The rows without those whose value of an optional field an earlier one has; missing values are ignored."""
    seen: dict[str, str] = {}

    def check(row: Row) -> None:
        value = row.values[field]
        if value is not None and (before := seen.setdefault(value, row.where)) != row.where:
            raise OddRow(
                f"with the {field} of an earlier row",
                f"{field} {value!r} is that of {before} too; give every row its own {field}, or leave the column "
                f"unread with task.fields={{{field}: null}}",
            )

    return sound(rows, tally, check)


def among(rows: Iterable[Row], tally: Tally, field: str, allowed: Sequence[str]) -> list[Row]:
    """The rows whose value of an optional field is one of these, or missing."""

    def check(row: Row) -> None:
        value = row.values[field]
        if value is not None and value not in allowed:
            raise OddRow(
                f"with an unknown {field}",
                f"{field} {value!r} is none of {', '.join(allowed)}; correct it, or map another column with "
                f"task.fields={{{field}: COLUMN}}, or none with task.fields={{{field}: null}}",
            )

    return sound(rows, tally, check)


def undivided(rows: Iterable[Row], tally: Tally, split: str, what: str, key_of: Callable[[Row], str]) -> list[Row]:
    """The rows without those whose thing (an outlet, a text) an earlier one has in another part of a split."""
    first: dict[str, Row] = {}

    def check(row: Row) -> None:
        if row.values[split] is None:
            return
        before = first.setdefault(key_of(row), row)
        if before[split] != row[split]:
            raise OddRow(
                f"whose {what} is in another {split} too",
                f"overlapping splits: its {what} is in {split} {row[split]!r} here and in {before[split]!r} at "
                f"{before.where}; move one of them",
            )

    return sound(rows, tally, check)


def all_or_none(rows: Sequence[Row], tally: Tally, field: str) -> list[Row]:
    """The rows without those that lack an optional field which others have."""
    if not any(row.values[field] is not None for row in rows):
        return list(rows)

    def check(row: Row) -> None:
        if row.values[field] is None:
            raise OddRow(
                f"without a {field}, though others have one",
                f"no {field}, though other rows have one; give every row a {field} or none, or leave the column unread "
                f"with task.fields={{{field}: null}}",
            )

    return sound(rows, tally, check)


def sound(rows: Iterable[Row], tally: Tally, check: Callable[[Row], None]) -> list[Row]:
    """The rows for which a check raises no :class:`OddRow`; the others are counted."""
    kept = []
    for row in rows:
        try:
            check(row)
        except OddRow as odd:
            tally.odd(row.where, odd)
        else:
            kept.append(row)
    return kept


def check_groups(rows: Sequence[Row], field: str, groups: Sequence[str], source: str) -> None:
    """Raise :class:`DataError` unless the field has two or more labels, including every configured group."""
    labels = sorted({row[field] for row in rows})
    if len(labels) < 2:
        raise DataError(f"{source}: every row has {field} {listed(labels)!r}; a loop needs rows of at least two groups")
    if missing := [group for group in groups if group not in labels]:
        raise DataError(
            f"groups.names: {', '.join(missing)} never occurs as {field} in {source}; its labels are {listed(labels)}: "
            f"set groups.names to two or more of them"
        )


def keys_of(experiment: config.Experiment) -> list[str]:
    """The keys, beside task and data, by which the same is read as here: ``key=value`` where it is no default."""

    elsewhere = ("name", "data", "marker_strength", "real_text")  # said already, or read by the built-in language alone

    def stated(one: config.Experiment) -> dict[str, Any]:
        return {
            **{f"task.{key}": value for key, value in one.task if key not in elsewhere},
            "groups.names": list(one.groups.names),
            "groups.shares": list(one.groups.shares),
            "generation.max_new_tokens": one.generation.max_new_tokens,
        }

    usual = stated(config.Experiment())
    return [loading.override(key, value) for key, value in stated(experiment).items() if value != usual[key]]


def _row(
    raw: Raw, source: Source, mapping: Mapping[str, str], fields: Fields, wanted: RowFilter | None, seen: set[str]
) -> Row | None:
    """A row by the task's field names; ``None`` if ``task.where`` leaves it out.

    Raises:
        OddRow: something is wrong with it.
    """
    if isinstance(raw.values, OddRow):
        raise raw.values
    seen.update(raw.values)
    if wanted is not None and not wanted(raw.values, typed=source.typed):
        return None
    if absent := [field for field in fields.required if mapping[field] not in raw.values]:
        raise OddRow(f"without a field {mapping[absent[0]]}", _absent(absent, mapping, tuple(raw.values)))
    texts: dict[str, str | None] = dict.fromkeys(fields.names)
    messages: dict[str, list[Any]] = {}
    for field, column in mapping.items():
        value = raw.values.get(column)
        if isinstance(value, list) and field in fields.conversations:
            messages[field] = value
            texts[field] = None
            continue
        texts[field] = _text(column, value)
        if texts[field] is None and field in fields.required:
            raise OddRow(f"whose {column} is empty", f"{column} is empty; fill it or leave the row out")
    return Row(raw.where, texts, messages)


def _of_others(raw: Raw, column: str | None, groups: Sequence[str]) -> bool:
    """Whether a row says that it is of none of these groups."""
    if column is None or isinstance(raw.values, OddRow):
        return False
    try:
        label = _text(column, raw.values.get(column))
    except OddRow:
        return False
    return label is not None and label not in groups


def _text(column: str, value: Any) -> str | None:
    """A value as text without blanks around it; ``None`` if it is empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, (bool, list, dict, bytes)):
        raise OddRow(
            f"whose {column} is no text", f"{column} holds a {type(value).__name__}; it must be text or a number"
        )
    if isinstance(value, float) and math.isinf(value):
        raise OddRow(f"whose {column} is no text", f"{column} is infinite; it must be text or a finite number")
    text = str(value).strip()
    check_whole(column, text)
    return text or None


def check_whole(column: str, text: str) -> None:
    """Raise :class:`OddRow` if a text cannot be written as UTF-8, or holds a NUL character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OddRow(
            f"whose {column} holds half a character",
            f"{column} holds half a character (a lone surrogate), which is no text; remove it or write it whole",
        ) from error
    if "\x00" in text:
        raise OddRow(f"whose {column} holds a NUL character", f"{column} holds a NUL character; remove it")


def _check_columns(
    task: config.Task,
    fields: Fields,
    mapping: Mapping[str, str],
    wanted: RowFilter | None,
    seen: set[str],
    source: Source,
) -> None:
    """Raise :class:`DataError` if a column that is needed is in no row at all."""
    needed = [field for field in mapping if field in fields.required or field in task.fields]
    if absent := [field for field in needed if mapping[field] not in seen]:
        raise DataError(f"{task.data}: {_absent(absent, mapping, source.columns)}")
    if wanted is not None and (lacking := [column for column in wanted.columns if column not in seen]):
        raise DataError(
            f"task.where = {task.where!r}: no row has a field {', '.join(lacking)}; the columns are "
            f"{listed(source.columns)}: name one of them, and put texts in quotes"
        )


def _absent(absent: Sequence[str], mapping: Mapping[str, str], columns: tuple[str, ...]) -> str:
    return (
        f"no field {', '.join(mapping[field] for field in absent)}; the row has {listed(columns)}: name yours with "
        f"task.fields={{{', '.join(f'{field}: COLUMN' for field in absent)}}}"
    )
