"""Work that is gathered and divided by tokens, with a pool that runs nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from actors.backlog import Backlog, even_parts


class StandIn:
    """The part of a pool that a backlog uses; a call ends when the test says so."""

    def __init__(self, replicas: int) -> None:
        self.load = [0] * replicas
        self.calls: dict[int, tuple[int, list[str]]] = {}
        self.done: set[int] = set()
        self.sent: list[list[str]] = []

    def __len__(self) -> int:
        return len(self.load)

    @property
    def idle(self) -> int:
        return self.load.count(0)

    def call(self, texts: Sequence[str]) -> int:
        replica = self.load.index(min(self.load))
        self.load[replica] += 1
        self.sent.append(list(texts))
        self.calls[len(self.sent)] = replica, list(texts)
        return len(self.sent)

    def ended(self, references: Sequence[int]) -> list[int]:
        return [one for one in references if one in self.done]

    def wait_any(self, references: Sequence[int], what: str) -> int:
        return references[-1]

    def result(self, reference: int) -> list[str]:
        replica, texts = self.calls.pop(reference)
        self.load[replica] -= 1
        if "bad" in texts:
            raise ValueError("a text that cannot be read")
        return [text.upper() for text in texts]

    def forget(self, references: Sequence[int]) -> None:
        for reference in references:
            self.load[self.calls.pop(reference)[0]] -= 1


def backlog(pool: Any, tokens_per_call: int = 100) -> Backlog[str, str]:
    return Backlog(pool, pool.call, tokens_per_call, "reading")


def test_parts_are_even_in_tokens_and_sorted_by_length() -> None:
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, 200, 500).tolist()
    for parts in (1, 2, 7):
        found = even_parts(tokens, parts)
        assert sorted(i for run in found for i in run) == list(range(500)) and len(found) == parts
        sums = [sum(tokens[i] for i in run) for run in found]
        assert max(sums) - min(sums) <= 2 * 200
        lengths = [tokens[i] for run in found for i in run]
        assert lengths == sorted(lengths)
    assert even_parts([], 3) == []
    assert even_parts([5, 900], 4) == [[0], [1]]


def test_all_at_once_keeps_every_replica_equally_busy() -> None:
    for replicas, texts in ((2, 5), (2, 340), (8, 340), (3, 12), (4, 2)):
        pool = StandIn(replicas)
        work = backlog(pool, 1000)
        work.add([f"t{i}" for i in range(texts)], [10] * texts)
        by_replica = [0] * replicas
        for replica, sent in pool.calls.values():
            by_replica[replica] += len(sent)
        if texts * 10 * 4 >= 1000:
            assert max(by_replica) - min(by_replica) <= 2, (replicas, texts)
        assert work.collect() == [f"T{i}" for i in range(texts)]
        assert pool.load == [0] * replicas


def test_a_replica_without_work_is_given_what_waits_and_a_busy_one_a_full_call() -> None:
    pool = StandIn(2)
    work = backlog(pool)
    work.add(["a"], [20])
    assert pool.sent == []  # less than a quarter of a call
    work.add(["b"], [10])
    work.add(["c"], [25])
    assert pool.sent == [["b", "a"], ["c"]]
    for i in range(9):
        work.add([f"t{i}"], [10])
    assert len(pool.sent) == 2  # both are busy
    work.add(["last"], [10])
    assert len(pool.sent) == 3 and len(pool.sent[-1]) == 10
    pool.done.add(2)
    work.add(["d"], [50])
    assert pool.load == [2, 1] and pool.sent[-1] == ["d"]
    assert work.collect() == ["A", "B", "C", *(f"T{i}" for i in range(9)), "LAST", "D"]


def test_an_error_ends_the_work_and_leaves_nothing_behind() -> None:
    pool = StandIn(2)
    work = backlog(pool)
    work.add(["good", "bad", "fine", "well"], [50] * 4)
    with pytest.raises(ValueError, match="cannot be read"):
        work.collect()
    assert pool.load == [0, 0]
    work.add(["again"], [5])
    assert work.collect() == ["AGAIN"]
