"""Dispatch, deadlines, restarts and logs of a pool, with actors that import nothing heavy."""

import dataclasses
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.exceptions import ActorUnavailableError, ObjectLostError

from actors.placement.role import Role
from actors.pool import EndsProcess, Pool, Replica

pytestmark = pytest.mark.engines

Start = Callable[..., Pool]


class Worker(Replica):
    def __init__(self, log_file: Path, greeting: str) -> None:
        super().__init__(log_file)
        self.greeting = greeting

    def greet(self, name: str) -> tuple[str, int, str | None]:
        return f"{self.greeting} {name}", os.getpid(), os.environ.get("COLOUR")

    def sleep(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    def chatter(self) -> None:
        print("printed")
        sys.stderr.write("complained\n")
        subprocess.run(["echo", "spoken by a child"], check=True)
        logging.getLogger("anyone").warning("logged")

    def refuse(self) -> None:
        raise ValueError("key = 3: not allowed; use 2")

    def fail_once(self, marker: Path) -> str:
        with EndsProcess():
            if not marker.exists():
                marker.touch()
                raise RuntimeError("the engine core died")
        return "done"

    def fail_always(self) -> None:
        with EndsProcess(KeyError):
            raise RuntimeError("the engine core died again")

    def spared(self) -> None:
        with EndsProcess(KeyError, OSError):
            raise FileNotFoundError("no such weights")


@pytest.fixture(scope="module")
def start(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    pools = []

    def new(count: int) -> Pool:
        role = Role("test worker", count, 0.1, 0.0, 1)
        logs = tmp_path_factory.mktemp("logs")
        pools.append(Pool(Worker, role, ("hello",), environment={"COLOUR": "blue"}, logs=logs, deadline_s=180.0))
        return pools[-1]

    yield new
    for pool in pools:
        pool.close()


@pytest.fixture(scope="module")
def two(start: Start) -> Pool:
    return start(2)


def test_arguments_environment_and_order(two: Pool) -> None:
    answers = two.everywhere("greet", "you", what="greeting")
    assert [(text, colour) for text, _, colour in answers] == [("hello you", "blue")] * 2
    assert [pid for _, pid, _ in answers] == [p.pid for p in two.processes()]
    calls = [two.submit("greet", str(i)) for i in range(9)]
    assert [text for text, _, _ in two.results(calls, "greeting")] == [f"hello {i}" for i in range(9)]


def test_work_goes_where_least_is(two: Pool) -> None:
    long = two.submit("sleep", 1.5)
    pids = {two.result(two.wait_any([two.submit("sleep", 0.02)], "sleeping")) for _ in range(10)}
    assert two.least_load == 0
    assert pids.isdisjoint({two.result(long)})
    assert len(pids) == 1
    assert two.least_load == 0


def test_forgotten_calls_are_no_load(two: Pool) -> None:
    calls = [two.submit("sleep", 0.0) for _ in range(4)]
    assert two.least_load == 2
    two.forget(calls)
    assert two.least_load == 0


def test_calls_on_a_node_that_was_lost_are_made_again(
    two: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails = [ActorUnavailableError("refused", None), ObjectLostError("0" * 56, None, "none")]
    real = ray.get

    def get(reference: Any, **how: Any) -> Any:
        if fails:
            raise fails.pop()
        return real(reference, **how)

    monkeypatch.setattr("actors.pool.UNREACHABLE_POLL_S", 0.01)
    call = two.submit("greet", "you", replica=1)
    two.wait_any([call], "greeting")
    monkeypatch.setattr("actors.pool.ray.get", get)
    caplog.set_level(logging.WARNING)
    text, pid, _ = two.result(call)
    assert (text, pid) == ("hello you", two.processes()[1].pid)
    assert caplog.text.count("test worker 1 cannot be reached: greet is called again") == 2
    fails.append(ActorUnavailableError("refused", None))
    monkeypatch.setattr(two, "_deadline_s", -1.0)
    with pytest.raises(RuntimeError, match="test worker 1 is gone"):
        two.result(two.submit("greet", "you", replica=1))


def test_deadline_names_what_is_missing(
    two: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(two, "_deadline_s", 1.2)
    monkeypatch.setattr("actors.pool.PROGRESS_S", 0.4)
    caplog.set_level(logging.INFO)
    calls = [two.submit("sleep", 4.0, replica=1), two.submit("sleep", 0.0, replica=1)]
    with pytest.raises(
        TimeoutError, match=r"sleeping: no answer for 1 s; missing: 2 calls on test worker 1; .*-1\.log"
    ):
        two.results(calls, "sleeping")
    assert caplog.text.count("sleeping: waiting for 2 calls on test worker 1") in (2, 3)
    two.forget(calls)
    monkeypatch.undo()
    two.everywhere("greet", "again", what="greeting")


def test_callers_errors_come_back_as_they_are(two: Pool) -> None:
    before = two.processes()
    with pytest.raises(ValueError, match=r"^key = 3: not allowed; use 2$"):
        two.everywhere("refuse", what="refusing")
    with pytest.raises(FileNotFoundError, match="no such weights"):
        two.everywhere("spared", what="sparing")
    two.everywhere("greet", "again", what="greeting")
    assert two.processes() == before


def test_killed_process_comes_back_and_repeats_its_calls(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    pool = start(1)
    (before,) = pool.processes()
    calls = [pool.submit("sleep", 0.2) for _ in range(10)]
    pool.result(pool.wait_any(calls[:1], "sleeping"))
    os.kill(before.pid, signal.SIGKILL)
    pids = set(pool.results(calls[1:], "sleeping"))
    (after,) = pool.processes()
    assert after.pid in pids
    assert after == dataclasses.replace(before, pid=after.pid, restarts=1)
    assert "test worker 0 died and was started again, restart 1" in caplog.text
    assert "(none: killed from outside, or by the system for want of memory)" in caplog.text
    caplog.clear()
    assert pool.processes() == [after] and caplog.text == ""


def test_broken_engine_takes_its_process_along(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = start(1)
    (before,) = pool.processes()
    assert pool.everywhere("fail_once", tmp_path / "marker", what="failing") == ["done"]
    (after,) = pool.processes()
    assert (after.restarts, after.pid == before.pid) == (1, False)
    assert "test worker 0 died and was started again" in caplog.text
    assert "RuntimeError: the engine core died" in caplog.text and "none: killed" not in caplog.text
    caplog.clear()
    monkeypatch.setattr("actors.pool.PROGRESS_S", 0.2)
    with pytest.raises(
        RuntimeError, match=r"test worker 0 is gone(?s:.*)test-worker-0\.log:(?s:.*)engine core died again"
    ):
        pool.everywhere("fail_always", what="failing")
    # said while the call is still tried again, not only in the end
    assert re.search(r"test worker 0 died and was started again, restart [2-4]", caplog.text)


def test_processes_of_a_pool_that_is_gone(start: Start) -> None:
    pool = start(1)
    (process,) = pool.processes()
    pool.close()
    assert not psutil.pid_exists(process.pid)
    with pytest.raises(RuntimeError, match=r"test worker 0 is gone"):
        pool.processes()


def test_everything_is_written_to_the_log(two: Pool, capfd: pytest.CaptureFixture[str]) -> None:
    two.everywhere("chatter", what="chattering")
    for index, process in enumerate(two.processes()):
        log = two._logs[index]
        for said in (f"process {process.pid} started", "printed", "complained", "anyone: logged"):
            assert said in log.read_text()
        # what comes from outside Python is copied by a process of its own, which may still start
        deadline = time.monotonic() + 60
        while "spoken by a child" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert "".join(capfd.readouterr()) == ""


def test_what_cannot_be_placed_says_what_is_asked_and_what_is_free(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actors.pool.PROGRESS_S", 0.4)
    pool = Pool(
        Worker, Role("huge worker", 1, 1000.0, 0.0, 1), ("hello",), environment={}, logs=tmp_path, deadline_s=1.2
    )
    with pytest.raises(TimeoutError, match="no answer for 1 s"):
        pool.everywhere("greet", "you", what="greeting")
    pool.close()
    assert "huge worker 0 not started after" in caplog.text and "each asks for 1000 CPUs" in caplog.text
    assert "of 8 CPUs" in caplog.text
