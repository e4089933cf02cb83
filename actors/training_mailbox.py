"""The mailbox between the driver and the workers of one Ray Train run."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from scpl_ray.protocols import Process, TrainingJob, TrainingResult

LONG_POLL_S = 10.0
"""Longest time a call waits for something to happen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What a waiting worker is told to do."""

    number: int
    job: TrainingJob | None
    """``None``: there are no more jobs, and the worker ends."""


@dataclasses.dataclass(frozen=True, slots=True)
class News:
    """What the mailbox tells the driver about the newest job."""

    change: int
    """A counter that increases with every event."""
    processes: tuple[Process, ...]
    step: int
    """Optimizer steps done; -1 before the first one can begin."""
    steps: int
    result: TrainingResult | None
    refusal: Exception | None


class Mailbox:
    """The actor between the driver and the workers of one Ray Train run; every call returns within ``LONG_POLL_S``."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._order = Order(0, None)
        self._workers: dict[int, tuple[Process, Any]] = {}
        self._news = News(0, (), -1, 0, None, None)

    async def _tell(self, **news: Any) -> None:
        async with self._changed:
            self._news = dataclasses.replace(self._news, change=self._news.change + 1, **news)
            self._changed.notify_all()

    async def _until(self, happened: Callable[[], bool], seconds: float) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(happened), seconds)
            except TimeoutError:
                return

    async def enter(self, process: Process, actor: Any) -> None:
        """A worker is ready for its first job."""
        self._workers[process.index] = (process, actor)
        await self._tell(processes=tuple(self._workers[rank][0] for rank in sorted(self._workers)))

    async def next_order(self, done: int) -> Order | None:
        """The order after number ``done``, or ``None`` if there is none yet."""
        await self._until(lambda: self._order.number > done, LONG_POLL_S)
        return self._order if self._order.number > done else None

    async def progress(self, step: int, steps: int) -> None:
        """Worker 0 has done a step, or is about to begin the first one (step 0)."""
        await self._tell(step=step, steps=steps)

    async def finish(self, result: TrainingResult) -> None:
        """The job is done and its files are in place."""
        await self._tell(result=result)

    async def refuse(self, error: Exception) -> None:
        """The job cannot be done, however often it is tried."""
        await self._tell(refusal=error)

    async def post(self, job: TrainingJob | None) -> None:
        """The driver has a job, or (``None``) tells the workers to end."""
        self._order = Order(self._order.number + 1, job)
        await self._tell(step=-1, steps=0, result=None, refusal=None)

    async def news(self, seen: int, seconds: float) -> News:
        """What happened after ``seen``; waits up to ``seconds`` for something to happen."""
        await self._until(lambda: self._news.change > seen, seconds)
        return self._news

    async def actors(self) -> list[Any]:
        """Handles of the workers' actors, with which they can be killed."""
        return [actor for _, actor in self._workers.values()]
