"""Checks in processes of their own: one that crashes or hangs is a line of the table, and the next one begins clean."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

Result = Literal["passed", "failed", "could not run"]
POLL_S, END_S = 0.2, 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    what: str
    result: Result
    found: str
    """What was measured, or why it failed or could not run."""
    remedy: str = ""
    """What to do about a failure."""


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """Something that is tried."""

    what: str
    remedy: str
    """What to do if it fails."""


class CheckError(RuntimeError):
    """A check has found something wrong."""


class Report:
    """Tells the table, from the process of a check, how one came out."""

    def __init__(self, to: Connection) -> None:
        self._to = to

    def passed(self, what: str, found: str) -> None:
        """A check has passed."""
        self._to.send((what, "passed", found))

    def impossible(self, what: str, why: str) -> None:
        """A check cannot be made on this machine."""
        self._to.send((what, "could not run", why))


def attempt(
    checks: Sequence[Check],
    do: Callable[..., None],
    *arguments: Any,
    logs: Path,
    ranks: int = 1,
    deadline_s: float = 180.0,
) -> Iterator[Line]:
    """Make checks one after the other in new processes; yields a line for each, in order.

    Args:
        checks: what ``do`` reports on, in this order.
        do: called in each process as ``do(report, rank, ranks, *arguments)``; an error fails the check in hand.
        arguments: its further arguments.
        logs: folder for what the processes print.
        ranks: number of processes; the first one reports.
        deadline_s: longest time without a report.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    files = [logs / f"{do.__module__.rpartition('.')[2]}-{do.__name__}-{rank}.log" for rank in range(ranks)]
    members = [
        context.Process(
            target=_member, args=(files[rank], theirs if rank == 0 else None, do, rank, ranks, arguments), daemon=False
        )
        for rank in range(ranks)
    ]
    for member in members:
        member.start()
    theirs.close()
    left, why = list(checks), ""
    try:
        until = time.monotonic() + deadline_s
        while left and not why:
            wait([ours, *(member.sentinel for member in members)], POLL_S)
            try:
                while left and ours.poll():
                    what, result, found = ours.recv()
                    assert what == left[0].what, f"{what} was reported instead of {left[0].what}"
                    left.pop(0)
                    until = time.monotonic() + deadline_s
                    yield Line(what, result, found)
            except EOFError:
                why = "ended"
                for member in members:
                    member.join(END_S)
            broken = [rank for rank, member in enumerate(members) if member.exitcode]
            if broken:
                why = f"{_why(files[broken[0]])} (exit code {members[broken[0]].exitcode})"
            elif time.monotonic() > until:
                why = f"nothing was heard for {deadline_s:.0f} s"
            elif why:
                why = "its process ended without a word"
    finally:
        for member in members:
            member.join(POLL_S if left else END_S)
            member.kill()
            member.join()
    if left:
        yield Line(left[0].what, "failed", why, left[0].remedy)
    for check in left[1:]:
        yield Line(check.what, "could not run", f"{left[0].what} failed")


def _member(
    log: Path,
    to: Connection | None,
    do: Callable[..., None],
    rank: int,
    ranks: int,
    arguments: Sequence[Any],
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a run, before torch is imported
    try:
        do(Report(to) if to is not None else None, rank, ranks, *arguments)
    except Exception as error:
        message = " ".join(str(error).split()) or "no message"
        _error_of(log).write_text(message if isinstance(error, CheckError) else f"{type(error).__name__}: {message}")
        raise


def _error_of(log: Path) -> Path:
    return log.with_suffix(".error")


def _why(log: Path) -> str:
    """The error that ended a process; if something else did, the last line that is not empty of what it printed."""
    if (error := _error_of(log)).is_file():
        return error.read_text()
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.is_file() else []
    return lines[-1].strip() if lines else "it printed nothing"
