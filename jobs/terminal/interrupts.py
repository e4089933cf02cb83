"""Ctrl-C: the first one stops the run after the commit in progress; the second one ends everything at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""SIGTERM (from ``ray job stop`` or a scheduler) is handled like Ctrl-C."""
STOPPED = 130
"""Exit code of a run that was told to stop."""


class Interrupts:
    """Handles the signals of this process inside :meth:`handled`."""

    def __init__(self) -> None:
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
        """Tells a person that the first signal was received."""
        self._told = 0
        self._committing = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Inside, the first signal raises ``KeyboardInterrupt``, but only after a commit in progress; the second ends
        the process: Ray's processes on this machine end with it, and the run can be resumed from disk."""
        before = {number: signal.signal(number, self._tell) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def commit(self) -> Iterator[None]:
        """Inside, the first signal takes effect only at the end of the block."""
        self._committing = True
        try:
            yield
        finally:
            self._committing = False
        if self._told:
            raise KeyboardInterrupt

    def _tell(self, _number: int, _frame: FrameType | None) -> None:
        self._told += 1
        if self._told > 1:
            os._exit(STOPPED)
        self.say("stopping; again: end at once")
        if self._committing:
            return
        raise KeyboardInterrupt
