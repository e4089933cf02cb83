"""Ctrl-C: the first one stops the run after the commits in progress; the second one ends everything at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""SIGTERM (from ``ray job stop`` or a scheduler) is handled like Ctrl-C."""
STOPPED = 130
"""Exit code of a run that was told to stop."""


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Afterwards the handlers of :data:`SIGNALS` are those from before, whatever a library put in their place inside.

    ``ray.init`` lets SIGTERM end the process, and its C++ part aborts a process that lives three seconds longer. In
    another thread than the main one nothing is changed.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if callable(handler):
                    signal.signal(number, handler)


class Interrupts:
    """Handles the signals of this process inside :meth:`handled`."""

    def __init__(self) -> None:
        self.say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
        """Tells a person that the first signal was received."""
        self._told = 0
        self._commits = 0
        """Commits in progress, over all threads."""
        self._due = False
        """Whether the main thread still has to be stopped, now that the last commit is done in another thread."""
        # Reentrant, because the handler runs in the main thread, which may be inside of it.
        self._mutex = threading.RLock()

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Inside, the first signal raises ``KeyboardInterrupt`` in the main thread, but only after the commits in
        progress; the second ends the process: Ray's processes on this machine end with it, and the run can be resumed
        from disk. In another thread than the main one, which alone receives signals, nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._tell) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def commit(self) -> Iterator[None]:
        """Inside, in whatever thread, the first signal has no effect until no thread is inside any more."""
        with self._mutex:
            self._commits += 1
        failed = True
        try:
            yield
            failed = False
        finally:
            with self._mutex:
                self._commits -= 1
                stop = bool(self._told) and not self._commits
                main = threading.main_thread()
                if stop and threading.current_thread() is not main and main.ident is not None:
                    self._due = True
                    signal.pthread_kill(main.ident, signal.SIGINT)
                    stop = False
        # a commit that failed ends the run by its own error
        if stop and not failed and threading.current_thread() is main:
            raise KeyboardInterrupt

    def _tell(self, _number: int, _frame: FrameType | None) -> None:
        with self._mutex:
            if self._due:
                self._due = False
                raise KeyboardInterrupt
            self._told += 1
            if self._told > 1:
                os._exit(STOPPED)
            waits = self._commits > 0
        self.say("stopping; again: end at once")
        if not waits:
            raise KeyboardInterrupt
