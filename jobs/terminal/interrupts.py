"""Ctrl-C: once, the commit in hand is finished and the run stops; twice, everything ends now."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""SIGTERM (``ray job stop``, a scheduler) is taken like Ctrl-C."""
STOPPED = 130
"""Exit code of a run that was told to stop."""


class Interrupts:
    """The signals of this process, inside :meth:`handled`."""

    def __init__(self) -> None:
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
        """How a person is told that the first signal was heard."""
        self._told = 0
        self._committing = False

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Inside, the first signal raises ``KeyboardInterrupt``, after a commit that is in hand; the second ends the
        process: Ray's processes on this machine end with it, and what is on disk can be gone on with."""
        before = {number: signal.signal(number, self._tell) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def commit(self) -> Iterator[None]:
        """Inside, the first signal waits."""
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
