"""The thread that an engine works in, and how several callers share it.

A call does not wait until the one before it is answered: its requests join those that the engine is writing, and it is
answered when the last of its own is finished. As long as callers keep enough calls going, the engine never waits for a
straggler, nor for anybody who turns text into tokens or back.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from actors.engines.base import Engine, Request, Sampled
from actors.pool import EndsProcess

Result = TypeVar("Result")


@dataclasses.dataclass(slots=True)
class _Call:
    """Requests of one caller."""

    sampled: list[Sampled | None]
    """By the position of the request; ``None``: not finished yet."""
    left: int
    done: Future[None] = dataclasses.field(default_factory=Future)


class EngineThread:
    """One thread, in which everything is done that touches the engine.

    Args:
        engine: nobody else may use it.
        together: whether the requests of several calls are written beside each other. If not, each call is written by
            itself and as if it were the first, so that it gives the same completions whatever comes before or beside
            it also where rounding depends on that.
    """

    def __init__(self, engine: Engine, *, together: bool) -> None:
        self._engine = engine
        self._together = together
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._running: dict[int, tuple[_Call, int]] = {}
        self._idle = threading.Event()
        self._idle.set()

    def alone(self, task: Callable[[], Result]) -> Result:
        """Run a task in the engine's thread while nothing is being written; errors are raised to the caller."""

        def attempt() -> tuple[Result] | None:
            return None if self._running else (task(),)

        while (found := self._executor.submit(attempt).result()) is None:
            self._idle.wait()
        return found[0]

    def write(
        self, requests: Sequence[Request], *, is_ready: Callable[[], bool], make_ready: Callable[[], None]
    ) -> list[Sampled]:
        """One completion per request, in order.

        Args:
            requests: what is written.
            is_ready: whether the engine serves what these requests need; called in the engine's thread.
            make_ready: makes it so, in the engine's thread, while nothing is being written.
        """
        call = _Call([None] * len(requests), len(requests))
        if not requests:
            return []

        def begin() -> bool:
            if self._running and not (self._together and is_ready()):
                return False
            if not self._running and not is_ready():
                make_ready()
            with EndsProcess():
                if not self._together:
                    self._engine.forget()
                numbers = [self._engine.add(request) for request in requests]
            if not self._running:
                self._idle.clear()
                self._executor.submit(self._step)
            self._running.update((number, (call, position)) for position, number in enumerate(numbers))
            return True

        while not self._executor.submit(begin).result():
            self._idle.wait()
        call.done.result()
        return [one for one in call.sampled if one is not None]

    def _step(self) -> None:
        """One step of everything that is being written; what other callers want is done between two steps."""
        with EndsProcess():
            finished = self._engine.step()
            for number, one in finished:
                call, position = self._running.pop(number)
                call.sampled[position] = one
                call.left -= 1
                if not call.left:
                    call.done.set_result(None)
        if self._running:
            self._executor.submit(self._step)
        else:
            self._idle.set()
