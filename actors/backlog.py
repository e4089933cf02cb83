"""Texts that arrive one by one or many at a time, and go to a pool in calls of about equal numbers of tokens.

A replica that has nothing to do gets what is waiting at once. While all are busy, texts gather until they fill a call.
What is left at the end is divided evenly among the replicas. Texts of similar length go together, because those of
equal padded width share a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from actors.pool import Pool

Text = TypeVar("Text")
Answer = TypeVar("Answer")

SMALLEST_SHARE = 4
"""A replica that has nothing to do gets a call once this part of a full one is waiting."""


def even_parts(tokens: Sequence[int], parts: int) -> list[list[int]]:
    """Divide texts into runs of similar length, each with about the same number of tokens.

    Args:
        tokens: number of tokens of each text, each at least 1.
        parts: largest number of runs.

    Returns:
        The indices of each run's texts, shortest first; no run is empty.
    """
    total, before = sum(tokens), 0
    runs: dict[int, list[int]] = {}
    for index in sorted(range(len(tokens)), key=lambda i: tokens[i]):
        # by the place of its middle, so that a text goes where most of it falls
        runs.setdefault((2 * before + tokens[index]) * parts // (2 * total), []).append(index)
        before += tokens[index]
    return list(runs.values())


class Backlog(Generic[Text, Answer]):
    """Work of one kind for a pool whose replicas answer a list of texts with one answer each.

    Args:
        pool: the replicas.
        call: starts a call for texts and returns its reference.
        tokens_per_call: the tokens of a full call.
        what: what the calls are doing, for progress and error messages.
    """

    def __init__(self, pool: Pool, call: Callable[[Sequence[Text]], Any], tokens_per_call: int, what: str) -> None:
        self._pool = pool
        self._call = call
        self._tokens_per_call = tokens_per_call
        self._what = what
        self._waiting: list[tuple[int, Text, int]] = []
        self._waiting_tokens = 0
        self._running: dict[Any, list[int]] = {}
        self._answers: dict[int, Answer] = {}
        self._added = 0

    def add(self, texts: Sequence[Text], tokens: Sequence[int]) -> None:
        """Work on further texts in the background.

        Args:
            texts: the texts.
            tokens: number of tokens of each, at least 1.

        Raises:
            Exception: what a call raised that has ended.
        """
        for text, count in zip(texts, tokens, strict=True):
            self._waiting.append((self._added, text, count))
            self._added += 1
            self._waiting_tokens += count
        for reference in self._pool.ended(list(self._running)):
            self._take(reference)
        full = self._waiting_tokens // self._tokens_per_call
        if full > len(self._pool):
            full = -(-full // len(self._pool)) * len(self._pool)
        if calls := max(full, min(self._pool.idle, SMALLEST_SHARE * self._waiting_tokens // self._tokens_per_call)):
            self._send(calls)

    def collect(self) -> list[Answer]:
        """Wait for all texts; returns their answers in the order in which they were added, and begins anew.

        Raises:
            Exception: what a call raised.
            RuntimeError: a replica died too often.
            TimeoutError: no replica answered within the deadline.
        """
        try:
            if self._waiting:
                self._send(len(self._pool))
            while self._running:
                self._take(self._pool.wait_any(list(self._running), self._what))
            return [self._answers[index] for index in range(self._added)]
        finally:
            self.forget()

    def forget(self) -> None:
        """Drop all texts and their answers."""
        self._pool.forget(list(self._running))
        self._waiting, self._waiting_tokens, self._running, self._answers, self._added = [], 0, {}, {}, 0

    def _send(self, calls: int) -> None:
        """Send all that is waiting in so many calls of about equal numbers of tokens."""
        for run in even_parts([count for _, _, count in self._waiting], calls):
            reference = self._call([self._waiting[i][1] for i in run])
            self._running[reference] = [self._waiting[i][0] for i in run]
        self._waiting, self._waiting_tokens = [], 0

    def _take(self, reference: Any) -> None:
        indices = self._running.pop(reference)
        self._answers.update(zip(indices, self._pool.result(reference), strict=True))
