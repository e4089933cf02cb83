"""A log of a pipeline in use, one row per answer: when, to which group, whether it was kept, how it was rated."""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from scpl_ray import config
from scpl_ray.config.paths import user_path
from scpl_ray.shares import FloatArray, IntArray
from scpl_ray.tasks.sources import SUFFIXES, Raw, open_source
from scpl_ray.tasks.tally import DataError, OddRow, Tally, listed

REQUIRED = ("period", "group")
OPTIONAL = ("kept", "rating", "kind")
FIELDS = (*REQUIRED, *OPTIONAL)
MAX_PERIODS, MAX_NAMES = 500, 50
MAX_ODD = 0.1
"""Largest share of rows with which something may be wrong; they are left out and counted."""
By = Literal["day", "week", "month"]
DIGITS = re.compile(r"(\d+)")
WHOLE, DECIMAL = re.compile(r"(-?\d+)(?:\.0*)?"), re.compile(r"-?\d+\.\d+")
"""Periods that are numbers; a column of whole numbers with gaps is one of floats for many programs."""
VERSION = re.compile(r"\d+(?:\.\d+){2,}|\d+\.\d+[-.]?(?:alpha|beta|dev|post|pre|rc)", re.IGNORECASE)
"""Beginnings of periods beside which a number such as 1.10 is a version too, and comes behind 1.9."""
MONTH = "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
MONTH += "nov(?:ember)?|dec(?:ember)?"
YEAR_LAST = re.compile(
    r"^\d{1,2}/\d{1,2}/\d\d|^(?:\d{1,2}[-./])?\d{1,2}[-/.](?:19|20)\d\d\b"
    r"|^(?:[qhw]\d{1,2}|[1-4]q)(?:[ /-]?\d{4}|(?:[ /-]?(?:fy ?|['\u2019])|[ /-])\d\d(?:\d\d)?(?!\d))|^[1-4]q\d\d(?!\d)"
    rf"|^(?:[a-z]{{3,9}},? )?(?:\d{{1,2}}(?:st|nd|rd|th)?[ ./-]*)?(?:{MONTH})(?![a-z])",
    re.IGNORECASE,
)
"""Periods in which a day, month or quarter comes before the year, or whose month is a word: no order is in them."""
_DAY, _MONTH = "(?:0?[1-9]|[12][0-9]|3[01])", "(?:0?[1-9]|1[0-2])"
SHORT_DATE = re.compile(rf"(?:{_DAY}([-./]){_MONTH}\1|{_MONTH}([-./]){_DAY}\2)\d\d(?!\.?\d)")
"""Days with two digits of the year at their end; one by itself may be a version."""
YEAR_AND_MONTH = re.compile(r"\d{4}-(?:0[1-9]|1[0-2])")
COARSER = "put values together, or say which column it is with --fields"
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")


@dataclasses.dataclass(frozen=True, eq=False)
class Log:
    """The rows of a log as columns, N of them."""

    periods: tuple[str, ...]
    """Names of the periods, earliest first."""
    groups: tuple[str, ...]
    """Names of the groups, the one with most rows first."""
    kinds: tuple[str, ...]
    """Names of the kinds of answers, the most frequent first; empty where none is logged."""
    period: IntArray
    """Index of each row's period, shape (N,)."""
    group: IntArray
    """Index of each row's group, shape (N,)."""
    kept: FloatArray
    """1 where the answer was kept, 0 where it was not, NaN where that is not logged; shape (N,)."""
    rating: FloatArray
    """How good the answer was, on any scale on which more is better; NaN where it is not logged; shape (N,)."""
    kind: IntArray
    """Index of each answer's kind, -1 where it is not logged, shape (N,)."""


def read(file: str, fields: Mapping[str, str], *, by: By | None = None) -> tuple[Log, str]:
    """Read a log, and say what was read of it.

    Args:
        file: a JSONL, CSV, TSV or Parquet file.
        fields: the log's columns by the names in :data:`FIELDS`, where they have other names.
        by: the length of a period where the log holds dates or times (ISO 8601); ``None``: the values themselves are
            the periods, numbers in their order and then texts in theirs, in which digits count as numbers. Beside
            versions such as 1.9.1 numbers are versions too.

    Raises:
        DataError: the file or a column is missing, the file cannot be read, more than a tenth of the rows are odd,
            there are more than 500 periods, 50 groups or 50 kinds, or fewer than two groups, or the periods are dates
            whose order as texts is another one than that of time.
    """
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise DataError(f"--fields: {', '.join(unknown)} is no field of a log; its fields are {', '.join(FIELDS)}")
    columns = {field: fields.get(field, field) for field in FIELDS}
    _check_there(file)
    source = open_source(config.Task(data=file), set(columns.values()))
    tally = Tally(file, "log", MAX_ODD)
    tally.form = source.form
    rows: list[dict[str, Any]] = []
    for raw in source.rows():
        tally.rows += 1
        try:
            rows.append(_row(raw, columns, by))
        except OddRow as odd:
            tally.odd(raw.where, odd)
    if not tally.rows:
        raise DataError(f"{file}: holds no rows; give a file with one row per answer")
    lost = tally.rows - tally.kept
    if lost == tally.rows and (lacking := [field for field in REQUIRED if columns[field] not in source.columns]):
        told = f"no column{'s' if len(lacking) > 1 else ''} {', '.join(columns[field] for field in lacking)}"
        example = ", ".join(f"{field}: COLUMN" for field in lacking)
        raise DataError(
            f"{file}: {told}; there are {listed(source.columns)}: say which is which: --fields '{{{example}}}'"
        )
    if lost > MAX_ODD * tally.rows:
        examples = "; ".join(tally.examples())
        raise DataError(f"{file}: {lost:,} of {tally.rows:,} rows cannot be used, more than {MAX_ODD:.0%}: {examples}")
    if logged := [field for field in fields if all(row[field] is None for row in rows)]:
        raise DataError(f"--fields: {logged[0]}: no row has anything in a column {columns[logged[0]]}")
    return _columns(file, rows, columns), str(tally.report())


def _check_there(file: str) -> None:
    """Raise :class:`DataError` if there is no such file: what is none may be a data set of the Hub to others."""
    try:
        there = user_path(file).exists()
    except OSError as error:
        raise DataError(f"--log {file}: {error.strerror}; give a file that can be read") from error
    if not there:
        kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise DataError(f"--log {file}: no such file; give a {kinds} file")


def _columns(file: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Log:
    written, groups, kinds = (_names(rows, field) for field in ("period", "group", "kind"))
    periods, place = _ordered(written)
    for field, found, most, remedy in (
        ("period", periods, MAX_PERIODS, "give --by day, week or month"),
        ("group", groups, MAX_NAMES, COARSER),
        ("kind", kinds, MAX_NAMES, COARSER),
    ):
        if len(found) > most:
            raise DataError(
                f"{file}: {len(found):,} different values in the column {columns[field]}, which is read as {field}: "
                f"{listed(list(map(str, found)))}; at most {most}; {remedy}"
            )
    names = [name for name in periods if isinstance(name, str)]
    dates = [name for name in names if YEAR_LAST.search(name)]
    if len(names) == len(periods) and all(map(SHORT_DATE.match, names)):
        dates = names
    if len(dates) > 1:
        raise DataError(
            f"{file}: the column {columns['period']} holds {listed(dates)}, which stand in this order as texts and not "
            "in that of time; write periods with the year first, as 2026-11-26 or 2026-11, or number them"
        )
    if len(groups) < 2:
        raise DataError(f"{file}: only the group {listed(groups)}; at least 2 are compared")
    group_of, kind_of = ({name: i for i, name in enumerate(names)} for names in (groups, kinds))
    return Log(
        periods=tuple(map(str, periods)),
        groups=tuple(groups),
        kinds=tuple(kinds),
        period=np.array([place[row["period"]] for row in rows]),
        group=np.array([group_of[row["group"]] for row in rows]),
        kept=np.array([math.nan if row["kept"] is None else row["kept"] for row in rows], dtype=np.float64),
        rating=np.array([math.nan if row["rating"] is None else row["rating"] for row in rows], dtype=np.float64),
        kind=np.array([kind_of.get(row["kind"], -1) for row in rows]),
    )


def _names(rows: Sequence[Mapping[str, Any]], field: str) -> list[str]:
    """The different values of a field by how often they occur."""
    counts: dict[str, int] = {}
    for row in rows:
        if row[field] is not None:
            counts[row[field]] = counts.get(row[field], 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def _ordered(written: Sequence[str]) -> tuple[list[int | str], dict[str, int]]:
    """The periods in their order, and the place of each as it is written: 10 and 10.0 are one, unless there are
    versions."""
    versions = any(map(VERSION.match, written))
    wholes = {} if versions else {text: whole for text in written if (whole := WHOLE.fullmatch(text))}
    named: dict[str, int | str] = {text: int(wholes[text][1]) if text in wholes else text for text in written}
    periods = sorted(set(named.values()), key=lambda period: _place(period, versions))
    places = {period: place for place, period in enumerate(periods)}
    return periods, {text: places[period] for text, period in named.items()}


def _place(period: int | str, versions: bool) -> tuple[bool, float, list[str | int], str]:
    """Where a period stands among others: numbers in their order, and behind them texts, with numbers in them in
    theirs: v2 before v10. Beside versions all are texts: 1.9 before 1.9.1, and that before 1.10."""
    if isinstance(period, int) or (not versions and DECIMAL.fullmatch(period)):
        return False, float(period), [], str(period)
    # texts and numbers in turn, so that like is compared with like
    parts = DIGITS.split(period)
    return True, 0.0, [int(part) if i % 2 else part for i, part in enumerate(parts)], period


def _row(raw: Raw, columns: Mapping[str, str], by: By | None) -> dict[str, Any]:
    if isinstance(raw.values, OddRow):
        raise raw.values
    found = {field: _plain(raw.values.get(column)) for field, column in columns.items()}
    for field in REQUIRED:
        if found[field] is None:
            column = columns[field]
            raise OddRow(
                f"without {column}", f"no {column}; fill it, or say which column it is: --fields '{{{field}: COLUMN}}'"
            )
    return {
        "period": _period(found["period"], by),
        "group": str(found["group"]),
        "kept": None if found["kept"] is None else _yes(columns["kept"], found["kept"]),
        "rating": None if found["rating"] is None else _number(columns["rating"], found["rating"]),
        "kind": None if found["kind"] is None else str(found["kind"]),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip() or None
    return None if isinstance(value, float) and math.isnan(value) else value


def _period(value: Any, by: By | None) -> str:
    if by is None:
        return str(value)
    if by == "month" and YEAR_AND_MONTH.fullmatch(str(value)):
        return str(value)
    try:
        day = value if isinstance(value, datetime.date) else datetime.datetime.fromisoformat(str(value))
    except ValueError as error:
        raise OddRow(
            "whose period is no date", f"{value!r} is no date; write it as 2026-11-26, or leave --by out"
        ) from error
    year, week, _ = day.isocalendar()
    return {"day": f"{day:%Y-%m-%d}", "week": f"{year}-W{week:02}", "month": f"{day:%Y-%m}"}[by]


def _yes(column: str, value: Any) -> float:
    text = str(value).lower()
    if text in YES or text in NO:
        return float(text in YES)
    raise OddRow(f"whose {column} is neither yes nor no", f"{column} = {value!r}; write true or false, 1 or 0")


def _number(column: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise OddRow(f"whose {column} is no number", f"{column} = {value!r}; write a finite number")
    return number
