"""Calls share an engine: none waits for another's stragglers, and what needs the engine for itself gets it."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from actors.engines.base import Engine, EngineSettings, Held, Probe, Request, Sampled
from actors.engines.thread import EngineThread
from actors.generation import SEQUENCES_ALONE, SEQUENCES_PER_CALL, Chunk, chunks, sequences_alone, sequences_per_call
from scpl_ray.config import Experiment

SETTINGS = EngineSettings.of(Experiment(), 0.0)


class Steps(Engine):
    """Writes one token of every request per step; a request's seed is the number of its tokens."""

    def __init__(self, room: int = 10**9) -> None:
        super().__init__(SETTINGS)
        self.room = room
        self.written: dict[int, int] = {}
        self.steps: list[list[int]] = []
        self.forgot = 0
        self.threads: set[int] = set()

    @classmethod
    def held(cls, positions: int, *, on_gpu: bool) -> Held:
        return Held(cached_tokens=positions, read_tokens=positions, rows=1)

    def step(self) -> list[tuple[int, Sampled]]:
        self.threads.add(threading.get_ident())
        time.sleep(0.002)
        finished = []
        now = list(self._added)[: self.room]
        self.steps.append(now)
        for number in now:
            self.written[number] = self.written.get(number, 0) + 1
            if self.written[number] == self._added[number].seed:
                finished.append((number, Sampled((number,), "stop")))
                del self._added[number]
        return finished

    def forget(self) -> None:
        assert not self._added
        self.forgot += 1

    def generate(self, requests: Sequence[Request]) -> list[Sampled]:
        raise NotImplementedError

    def probe(self) -> Probe:
        raise NotImplementedError

    def _unused(self, *_: Any) -> None:
        raise NotImplementedError

    _fall_asleep = _wake_weights = _wake_cache = _read_model = _serve_adapter = _unused


@pytest.fixture
def callers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(16)


def ask(callers: ThreadPoolExecutor, thread: EngineThread, *tokens: int) -> Future[list[Sampled]]:
    requests = [Request((9,), count) for count in tokens]
    return callers.submit(thread.write, requests, is_ready=lambda: True, make_ready=lambda: None)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_call_does_not_wait_for_anothers_stragglers(callers: ThreadPoolExecutor) -> None:
    engine = Steps()
    thread = EngineThread(engine, together=True)
    long = ask(callers, thread, 1000, 3)
    until(lambda: bool(engine.steps))
    for _ in range(5):
        assert len(ask(callers, thread, 2, 4).result(20)) == 2
    assert not long.done()
    assert max(len(step) for step in engine.steps) >= 3
    assert [one.token_ids[0] for one in long.result(20)] == [0, 1]
    assert len(engine.threads) == 1 and engine.forgot == 0


def test_where_company_changes_results_each_call_is_written_by_itself(callers: ThreadPoolExecutor) -> None:
    engine = Steps()
    thread = EngineThread(engine, together=False)
    calls = [ask(callers, thread, 5, 3, 4) for _ in range(6)]
    whole = [{one.token_ids[0] for one in call.result(20)} for call in calls]
    assert all(any(set(step) <= call for call in whole) for step in engine.steps)
    assert len(engine.steps) == 6 * 5 and engine.forgot == 6


def test_tasks_get_the_engine_for_themselves(callers: ThreadPoolExecutor) -> None:
    engine = Steps()
    thread = EngineThread(engine, together=True)
    calls = [ask(callers, thread, 20 + i) for i in range(3)]
    until(lambda: bool(engine.steps))

    def task() -> int:
        assert not engine._added
        return threading.get_ident()

    ran = callers.submit(thread.alone, task)
    assert {ran.result(20)} == engine.threads
    for call in calls:
        call.result(20)

    def refuse() -> None:
        raise ValueError("no such weights")

    with pytest.raises(ValueError, match="no such weights"):
        thread.alone(refuse)
    assert len(ask(callers, thread, 1).result(20)) == 1


def test_weights_are_loaded_before_what_needs_them_and_not_under_what_is_being_written(
    callers: ThreadPoolExecutor,
) -> None:
    engine = Steps()
    thread = EngineThread(engine, together=True)
    served: list[int] = []

    def ask_for(version: int) -> Future[list[Sampled]]:
        def load() -> None:
            assert not engine._added
            served.append(version)

        return callers.submit(
            thread.write, [Request((9,), 10)], is_ready=lambda: served[-1:] == [version], make_ready=load
        )

    first = [ask_for(1) for _ in range(3)]
    until(lambda: len(engine.steps) > 2)
    second = [ask_for(2) for _ in range(3)]
    for call in [*first, *second]:
        assert len(call.result(20)) == 1
    assert served == [1, 2]

    def broken() -> None:
        raise ValueError("no such weights")

    with pytest.raises(ValueError, match="no such weights"):
        thread.write([Request((9,), 1)], is_ready=lambda: False, make_ready=broken)
    assert thread.write([], is_ready=lambda: False, make_ready=broken) == []


class WholeBatches(Steps):
    """Knows only how to write everything at once."""

    step = Engine.step

    def generate(self, requests: Sequence[Request]) -> list[Sampled]:
        return [Sampled((request.seed,), "stop") for request in requests]


def test_an_engine_that_only_writes_whole_batches_works_too(callers: ThreadPoolExecutor) -> None:
    thread = EngineThread(WholeBatches(), together=True)
    calls = [ask(callers, thread, *range(i, i + 3)) for i in range(1, 9)]
    for i, call in enumerate(calls, start=1):
        assert [one.token_ids[0] for one in call.result(20)] == [i, i + 1, i + 2]


@pytest.mark.parametrize("size", [1, 3, 4, 7, 64, 1000])
def test_chunks_hold_every_completion_once_and_in_order(size: int) -> None:
    wanted = [("a", "x", 4), ("b", "y", 1), ("c", "z", 9), ("d", "x", 2)]
    cut = list(chunks(5, "test", wanted, size))
    assert all(isinstance(one, Chunk) and one.run_seed == 5 and one.purpose == "test" for one in cut)
    counts = [sum(samples for _, _, samples in one.queries) for one in cut]
    assert counts == [size] * (16 // size) + [16 % size] * (16 % size > 0)
    found = []
    for one in cut:
        for number, (query, prompt, samples) in enumerate(one.queries):
            first = 0 if number else one.first_sample
            found += [(query, prompt, i) for i in range(first, first + samples)]
    assert found == [(query, prompt, i) for query, prompt, samples in wanted for i in range(samples)]


@pytest.mark.parametrize(("total", "size"), [(0, 64), (1, 1), (2, 1), (64, 32), (128, 64), (129, 33), (400, 50)])
def test_calls_that_are_written_by_themselves_are_even_in_number(total: int, size: int) -> None:
    assert sequences_alone(total) == size <= SEQUENCES_ALONE
    assert total < 2 or -(-total // size) % 2 == 0


@pytest.mark.parametrize(
    ("total", "engines", "size"),
    [(1, 1, 8), (64, 2, 8), (400, 2, 25), (400, 1, 50), (2048, 1, 256), (2048, 16, 16), (400_000, 8, 256)],
)
def test_calls_are_sized_in_sequences(total: int, engines: int, size: int) -> None:
    assert sequences_per_call(total, engines) == size
    assert SEQUENCES_PER_CALL[0] <= size <= SEQUENCES_PER_CALL[1]
