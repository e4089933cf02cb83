"""CSV files: separator and line ends are found out, and every record is named by the line on which it begins."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from scpl_ray.tasks.sources import MAX_LINE_CHARACTERS, Line, Raw, Source, lines
from scpl_ray.tasks.tally import DataError, OddRow, listed

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
"""What may stand between cells, and its word; an earlier one is preferred where two would do."""
TRIED_LINES = 50
"""First lines of a file from which its separator is found out."""
_SAID = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""The first line with which spreadsheets name their separator."""


def open_csv(name: str, path: Path, asked: Collection[str]) -> Source:
    """The rows of a CSV file with a header; unnamed columns, such as a pandas index, are left out.

    Raises:
        DataError: there is no header, or a column that is asked for is there twice; while it is read: a quote that is
            never closed.
    """
    first: list[Line] = []
    for line in lines(name, path):
        first.append(line)
        if len(first) == TRIED_LINES:
            break
    said = _SAID.fullmatch(first[0].text) if first else None
    sample = "".join(line.text for line in first[1 if said else 0 :])
    separator = said.group(1) if said else max(SEPARATORS, key=lambda mark: _fit(sample, mark, asked))
    header = next(_records(sample, separator), [])
    if header.count("") == len(header):
        raise DataError(f"{name} line 1: no header; give the columns names in the first line")
    if twice := sorted(column for column, count in Counter(header).items() if count > 1 and column in asked):
        raise DataError(f"{name} line 1: the column {twice[0]!r} is there twice; rename one of them")
    used = [i for i, column in enumerate(header) if column]

    def rows() -> Iterator[Raw]:
        # its default of 131,072 characters is less than long articles have
        csv.field_size_limit(MAX_LINE_CHARACTERS)
        feed = _Feed(name, lines(name, path), skip=1 if said else 0)
        reader = csv.reader(feed, delimiter=separator, skipinitialspace=True, strict=True)
        begun = False
        while True:
            where = f"{name} line {feed.number + 1}"
            feed.wrong = None
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error) or "field larger" in str(error):
                    raise DataError(f"{where}: a quote is opened and never closed; close it, or double it") from error
                begun = True
                yield Raw(where, OddRow("that are not valid CSV", f"not valid CSV: {error}; quote whole cells only"))
                continue
            empty = not any(cell.strip() for cell in cells)
            if not begun:
                begun = not empty  # the header
            elif feed.wrong is not None:
                yield Raw(f"{name} line {feed.wrong[0]}", feed.wrong[1])
            elif not empty and len(cells) != len(header):
                yield Raw(where, _ragged(cells, header, separator))
            elif not empty:
                yield Raw(where, {header[i]: cells[i] or None for i in used})

    named = tuple(header[i] for i in used)
    return Source(f"CSV separated by {SEPARATORS.get(separator, repr(separator))}", named, rows, typed=False)


class _Feed(Iterator[str]):
    """Hands lines to the CSV reader and remembers where it is."""

    def __init__(self, name: str, found: Iterator[Line], skip: int) -> None:
        self._name, self._found, self._skip = name, found, skip
        self.number = skip
        self.wrong: tuple[int, OddRow] | None = None

    def __next__(self) -> str:
        for line in self._found:
            if line.number <= self._skip:
                continue
            self.number = line.number
            if line.wrong is not None:
                self.wrong = line.number, line.wrong
            # a line that is too long was not kept; what takes its place ends any record
            return line.text or "\n"
        raise StopIteration


def _ragged(cells: list[str], header: list[str], separator: str) -> OddRow:
    return OddRow(
        f"with more or fewer cells than the header's {len(header)}",
        f"has {len(cells)} cells, the header {len(header)} ({listed(header)}); the separator found is "
        f"{SEPARATORS.get(separator, repr(separator))}: quote cells that contain it",
    )


def _records(sample: str, separator: str) -> Iterator[list[str]]:
    """The records of the first lines that have cells; quotes may be wrong there."""
    try:
        for cells in csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=True):
            if any(cell.strip() for cell in cells):
                yield [cell.strip() for cell in cells]
    except csv.Error:
        return


def _fit(sample: str, separator: str, asked: Collection[str]) -> tuple[int, int, float, int]:
    """How well a separator explains the first lines: columns asked for, any split, like rows, columns."""
    header, *rest = [*_records(sample, separator)] or [[]]
    alike = sum(len(cells) == len(header) for cells in rest) / max(1, len(rest))
    return sum(column in asked for column in header), int(len(header) > 1), alike, len(header)
