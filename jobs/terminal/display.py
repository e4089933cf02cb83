"""The display of a run on a terminal: a bar per phase, a line per round, and a closing table."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from scpl_ray.credentials import MaskedLog, MaskedPipe, masked
from scpl_ray.evaluation.catalogue import CATALOGUE
from scpl_ray.evaluation.metric_kind import MetricKind
from scpl_ray.protocols import Card
from scpl_ray.records import Completion, Manifest, Metric
from scpl_ray.report.seconds import PhaseSeconds
from scpl_ray.report.text import visible

TABLE_WIDTH = 160
"""The closing table of four groups needs this many columns."""
OURS = ("scpl_ray", "actors", "jobs")
BOUNDS = "low, high: 95% intervals of the last round over its prompts, within this run; another seed may differ by more"
SHOWN_GROUPS = 4
"""Groups with a column of their own; with more, the smallest and largest share are shown."""


def line_parts(values: Mapping[str, float]) -> list[str]:
    """The numbers of the line that a round or a trial ends with, each with its word."""
    shown = (kind for kind in CATALOGUE if kind.line and kind.name in values)
    return [f"{kind.line} {values[kind.name]:{kind.line_form}}" for kind in shown]


def lookup(rows: Sequence[Metric], metric: str, group: str | None = None) -> float:
    """One number of a round's rows; NaN where it was not measured."""
    return next((r.value for r in rows if r.metric == metric and r.group == group), float("nan"))


def wide_console(screen: TextIO | None = None) -> Console:
    """A console wide enough for the tables; lines are not wrapped."""
    console = Console(file=screen, highlight=False, soft_wrap=True)
    console.width = max(console.width, TABLE_WIDTH)
    return console


def card_table(card: Card, title: str) -> Table:
    """A table of what is known about a judge's errors."""
    rows = card.table()
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in rows[0].items():
        is_text, longest_word = isinstance(value, str), max(map(len, name.split()))
        table.add_column(escape(name), justify="left" if is_text else "right", no_wrap=is_text, min_width=longest_word)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else escape(str(value)) for value in row.values()))
    return table


@contextlib.contextmanager
def quietly(doing: str) -> Iterator[Console]:
    """A console for a result that takes a while; output of libraries in the meantime is not shown."""
    with tempfile.TemporaryDirectory() as folder, chatter_to(Path(folder) / "output.log") as screen:
        console = wide_console(screen)
        with console.status(doing):
            yield console


@contextlib.contextmanager
def unheard(doing: str) -> Iterator[None]:
    """Inside, nothing that libraries or users' code write is shown; warnings of this project are shown at the end."""
    warnings: list[str] = []
    shown = Warnings(warnings.append)
    logging.getLogger().addHandler(shown)
    try:
        with quietly(doing):
            yield
    finally:
        logging.getLogger().removeHandler(shown)
        for text in warnings:
            print(masked(text), file=sys.stderr)


@contextlib.contextmanager
def chatter_to(path: Path) -> Iterator[TextIO]:
    """Send everything written to stdout and stderr, by any library or child, to a file; yields the real stdout.

    Credentials are masked in all of it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    screen = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    with MaskedPipe(path) as pipe:
        pipe.become(1, 2)
        try:
            # Not closed here: a library that started to log meanwhile may still hold it.
            ours = MaskedLog(path)
            with contextlib.redirect_stdout(ours), contextlib.redirect_stderr(ours):
                yield screen
            ours.settle()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])
            screen.close()


class Warnings(logging.Handler):
    """Shows warnings of this project on the screen; everything is in the log file."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._show = show

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is this project's, and no error: errors end the run with their own message."""
        return record.name.split(".")[0] in OURS and record.levelno < logging.ERROR

    def emit(self, record: logging.LogRecord) -> None:
        """Show one warning."""
        self._show(f"warning: {record.getMessage()}")


class Display:
    """:class:`scpl_ray.protocols.Progress` on a terminal, or as plain lines where there is none."""

    def __init__(self, screen: TextIO, groups: Sequence[str], rounds: int, names: Sequence[str] = ()) -> None:
        """Show a run.

        Args:
            screen: where people read.
            groups: names of the groups.
            rounds: number of the last round.
            names: what the rounds are called, where they are no rounds of a loop.
        """
        self.console = wide_console(screen)
        self._groups = list(groups)
        self._rounds = rounds
        self._names = list(names)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._seconds: dict[int, dict[str, float]] = {}
        self._lock = threading.Lock()
        self._warnings = Warnings(self.note)

    def __enter__(self) -> Display:
        self._bars.start()
        logging.getLogger().addHandler(self._warnings)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._warnings)
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(masked(text), markup=False)

    def start(self, round_: int, phase: str, total: int) -> None:
        """A phase begins."""
        with self._lock:
            description = f"{self._called(round_)} {phase.replace('_', ' ')}"
            self._tasks[phase] = self._bars.add_task(description, total=total or None)

    def advance(self, phase: str, count: int) -> None:
        """Further units of a phase are done."""
        with self._lock:
            self._bars.advance(self._tasks[phase], count)

    def generated(self, phase: str, chunk: Sequence[Completion]) -> None:
        """A chunk of completions has arrived."""
        self.advance(phase, len(chunk))

    def done(self, manifest: Manifest) -> None:
        """A phase was committed."""
        with self._lock:
            if manifest.phase in self._tasks:
                self._bars.remove_task(self._tasks.pop(manifest.phase))
            self._seconds.setdefault(manifest.round, {})[manifest.phase] = manifest.seconds

    def measured(self, round_: int, rows: Sequence[Metric]) -> None:
        """The line of a round."""
        shares = " ".join(f"{g} {lookup(rows, 'share', g):.2f}" for g in self._groups[:SHOWN_GROUPS])
        more = f" (+{len(self._groups) - SHOWN_GROUPS})" if len(self._groups) > SHOWN_GROUPS else ""
        seconds = self._seconds.get(round_, {})
        parts = [
            self._called(round_),
            # nobody asks a checkpoint that is only measured
            *([] if self._names else [f"shares {shares}{more}"]),
            *line_parts({row.metric: row.value for row in rows if row.group is None}),
        ]
        if seconds:
            each = " ".join(f"{phase} {s:.1f}" for phase, s in seconds.items() if s >= 0.05)
            # the reward model is fitted while completions are drawn
            total = sum(s for phase, s in seconds.items() if phase != "reward_model")
            parts.append(f"{total:.1f} s ({each})")
        else:
            parts.append("read from disk")
        self.note("  ".join(parts))

    def _called(self, round_: int) -> str:
        return self._names[round_] if self._names else f"round {round_}/{self._rounds}"


def restarts_line(restarts: Mapping[str, int]) -> str:
    """How often processes were restarted, by role, over a whole run."""
    counts = [f"{role} {count}" for role, count in restarts.items() if count]
    return f"restarts: {', '.join(counts)}; why is in logs/driver.log" if counts else "restarts: none"


def closing_table(
    rounds: Sequence[tuple[int, Sequence[Metric], float]], groups: Sequence[str], names: Sequence[str] = ()
) -> Table:
    """One row per round, and below the last one the bounds of its within-run intervals.

    What no round has a number of has no column.

    Args:
        rounds: the number of each round, its metrics and its seconds.
        groups: names of the groups.
        names: what the rounds are called, where they are measured checkpoints.
    """
    table = Table(
        title="each checkpoint: how it answers the same held-out prompts"
        if names
        else "each round: the shares that asked, and how the policy it trained answers",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("checkpoint" if names else "round", justify="left" if names else "right", no_wrap=True)
    shown = list(groups)[:SHOWN_GROUPS]
    there = {row.metric for _, rows, _ in rounds for row in rows}
    columns: list[tuple[MetricKind, str | None]] = [
        (kind, group)
        for kind in CATALOGUE
        if kind.column and kind.name in there
        for group in ((None,) if kind.overall else shown)
    ]
    if names:
        measured = {(row.metric, row.group) for _, rows, _ in rounds for row in rows}
        columns = [(kind, group) for kind, group in columns if (kind.name, group) in measured]
    headings = (kind.column if group is None else f"{kind.column}\n{group}" for kind, group in columns)
    for name in (*headings, "seconds"):
        table.add_column(escape(name), justify="right", no_wrap=True)
    for round_, rows, seconds in rounds:
        table.add_row(
            escape(visible(names[round_])) if names else str(round_),
            *(_cell(lookup(rows, kind.name, group), kind.form) for kind, group in columns),
            f"{seconds:.1f}",
        )
    last = {(row.metric, row.group): row for row in rounds[-1][1]} if rounds else {}
    ends = [last.get((kind.name, group)) for kind, group in columns]
    forms = [kind.form for kind, _ in columns]
    bounds = {
        "low": [None if end is None else end.low for end in ends],
        "high": [None if end is None else end.high for end in ends],
    }
    if any(bound is not None for bound in bounds["low"]):
        table.add_section()
        for name, numbers in bounds.items():
            table.add_row(name, *("" if b is None else f"{b:{form}}" for b, form in zip(numbers, forms, strict=True)))
        table.caption = BOUNDS
        table.caption_justify = "left"
    return table


def seconds_table(rows: Sequence[PhaseSeconds]) -> Table:
    """Seconds per phase over all rounds of a run, what was waited for, and the limits of the last round."""
    table = Table(title="seconds per phase", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("phase", "times", "median", "total", "critical path", "last round", "limit", "limit / measured"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for row in rows:
        limits = ["", "", ""]
        if row.least is not None and row.measured is not None:
            limits = [f"{row.measured:.2f}", f"{row.least:.3f}", f"{row.limit_over_measured or 0.0:.0%}"]
        critical = f"{row.critical:.1f} ({row.share:.0%})"
        word = row.phase.replace("_", " ")
        table.add_row(word, str(row.times), f"{row.median:.2f}", f"{row.total:.1f}", critical, *limits)
    return table


def _cell(value: float, form: str) -> str:
    """A value as text; one that was not measured is left empty."""
    return "" if math.isnan(value) else f"{value:{form}}"
