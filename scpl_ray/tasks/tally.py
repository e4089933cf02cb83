"""What was read of a data set: rows kept, rows left out by reason, and the mapping that was found.

There is one treatment of a row with which something is wrong: it is *odd*, so it is left out and counted by reason, and
only where the odd ones are more than the share ``task.max_dropped`` of the rows that are asked for are the data
refused. Rows that ``task.where`` or ``groups.names`` does not ask for are left out, whatever is wrong with them. They
are counted too, and so are sound rows that are not wanted (repeated, too short for the lengths that were set).
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from scpl_ray.protocols import DataReport

SHOWN = 3
"""Odd rows that an error shows, and names in a list of columns or labels times four."""
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class DataError(ValueError):
    """A task cannot use the data; the message is one line that names file and line and says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text as one line that any terminal can show; other characters are escaped as in JSON."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


class OddRow(ValueError):
    """Something is wrong with one row.

    Args:
        reason: completes "3 rows ...", e.g. "whose text is empty".
        advice: what is wrong with this row, and what to do.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(advice)
        self.reason = reason
        self.advice = advice


def listed(names: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """Names in a row; only the first dozen of many."""
    every = list(names)
    return ", ".join(every[: 4 * SHOWN]) + (", ..." if len(every) > 4 * SHOWN else "") if every else "none"


class Tally:
    """Counts the rows of one data set while a task reads it.

    Args:
        source: the file or Hub id, as the user wrote it.
        task: name of the task.
        max_dropped: largest share of odd rows, ``task.max_dropped``.
        keys: gives the further keys that say how the data are read, as ``key=value``, where a complaint names them.
    """

    def __init__(self, source: str, task: str, max_dropped: float, keys: Callable[[], Sequence[str]] = tuple) -> None:
        self.source = source
        self.task = task
        self.rows = 0
        """Rows read so far."""
        self.columns: dict[str, str] = {}
        """The mapping found: the user's column by the task's field."""
        self.form = ""
        """How the rows are written, e.g. ``CSV separated by ';'``."""
        self._keys = keys
        self._max_dropped = max_dropped
        self._odd: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._unasked = 0
        self._examples: dict[str, list[str]] = {}

    def odd(self, where: str, found: OddRow) -> None:
        """Leave out a row with which something is wrong."""
        self._odd[found.reason] += 1
        examples = self._examples.setdefault(found.reason, [])
        if len(examples) < SHOWN:
            examples.append(printable(f"{where}: {found.advice}"))

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Leave out sound rows that are not wanted."""
        self._left_out[reason] += count

    def unasked(self, reason: str) -> None:
        """Leave out a row that ``task.where`` or ``groups.names`` does not ask for; it is none of the task's rows."""
        self._left_out[reason] += 1
        self._unasked += 1

    @property
    def kept(self) -> int:
        """Rows that were not left out so far."""
        return self.rows - self._odd.total() - self._left_out.total()

    def report(self) -> DataReport:
        """The counts as they are now."""
        return DataReport(self.source, self.rows, self.kept, dict(self._odd + self._left_out), dict(self.columns))

    def examples(self) -> list[str]:
        """Some odd rows with file, line and advice: those of the most frequent reasons, one each, then further ones."""
        by_reason = [self._examples[reason] for reason, _ in self._odd.most_common()]
        return [of_reason[i] for i in range(SHOWN) for of_reason in by_reason if i < len(of_reason)][:SHOWN]

    def check(self, remedy: str = "") -> None:
        """Raise :class:`DataError` if more rows are odd than ``task.max_dropped`` allows; the message shows three.

        Args:
            remedy: what helps against rows that are odd for one common reason.
        """
        odd, asked = self._odd.total(), self.rows - self._unasked
        if odd <= self._max_dropped * asked:
            return
        raise DataError(
            f"{self.source}: {odd:,} of {asked:,} rows cannot be used, more than the share task.max_dropped = "
            f"{self._max_dropped:g}: {'; '.join(self.examples())}{remedy and f'; {remedy}'}"
        )

    @contextlib.contextmanager
    def reported(self) -> Iterator[None]:
        """Inside, every complaint is about the data, and so it ends with this report in its short form."""
        try:
            yield
        except ValueError as error:
            if not self.rows:
                raise
            command = shlex.join(["scpl", "data", "check", self.source, "--task", self.task, *self._keys()])
            raise DataError(f"{error} [{self.report()}; see: {command}]") from error
