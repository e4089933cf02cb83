"""How long a pool waits for calls that are long by themselves, with a clock that the test turns; without Ray."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, GetTimeoutError

from actors import pool
from actors.placement.role import Role
from actors.pool import Pool
from actors.reward import RayScorer, harness_batch
from scpl_ray.records import Weights

Wait = Callable[..., float]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Wait:
    """Waits for a call that ends after some seconds; returns the seconds that were waited."""

    def waited(ends_s: float, state: Callable[[float], str], *, long: bool) -> float:
        now = [0.0]

        def step(references: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
            assert timeout > 0.0, "a wait without any time would keep a core busy"
            ends = now[0] + timeout >= ends_s
            now[0] = ends_s if ends else now[0] + timeout
            return (references, []) if ends else ([], references)

        monkeypatch.setattr("actors.pool.ray.wait", step)
        monkeypatch.setattr("actors.pool.ray.available_resources", dict)
        monkeypatch.setattr("actors.pool.ray.cluster_resources", dict)
        monkeypatch.setattr("actors.pool.time.monotonic", lambda: now[0])
        made = object.__new__(Pool)
        made._role, made._deadline_s, made._logs = Role("scorer", 1, 1.0, 0.0, 1), 1800.0, [tmp_path / "log"]
        made._replica_of, made._restarts = {"call": 0}, [0]
        monkeypatch.setattr(made, "_facts", lambda index: {"State": state(now[0]), "NumRestarts": 0})
        made.wait_any(["call"], "fitting", long=long)
        return now[0]

    return waited


def test_a_long_call_is_waited_for_as_long_as_its_process_lives(wait: Wait) -> None:
    assert wait(9000.0, lambda now: "ALIVE", long=True) == 9000.0
    assert wait(1790.0, lambda now: "PENDING_CREATION", long=True) == 1790.0
    with pytest.raises(TimeoutError, match="fitting: no answer for 1800 s"):
        wait(9000.0, lambda now: "ALIVE", long=False)


def test_a_long_call_without_a_process_ends_at_the_deadline_and_one_that_hangs_within_a_day(wait: Wait) -> None:
    with pytest.raises(TimeoutError, match="fitting: no answer for 1800 s"):
        wait(9000.0, lambda now: "PENDING_CREATION", long=True)
    with pytest.raises(TimeoutError, match="fitting: no answer for 5790 s"):
        wait(9000.0, lambda now: "ALIVE" if now < 4000 else "RESTARTING", long=True)
    with pytest.raises(TimeoutError, match="no answer for 86400 s"):
        wait(1e6, lambda now: "ALIVE", long=True)
    assert pool.LONG_S == 86400.0


class Lost:
    """A pool whose replica's node is lost during a call, and what was asked of Ray; the repeated call takes a while.

    Args:
        repeated_s: seconds that the repeated call takes.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: Path, repeated_s: float) -> None:
        self.now, self.waited, self.begun = 0.0, 0.0, 0
        self._ends_s = repeated_s
        self.pool = object.__new__(Pool)
        self.pool._role, self.pool._deadline_s, self.pool._logs = Role("scorer", 1, 1.0, 0.0, 1), 1800.0, [log]
        self.pool._actors, self.pool._load, self.pool._restarts = [self], [0], [0]
        self.pool._replica_of, self.pool._calls = {}, {}
        monkeypatch.setattr("actors.pool.ray.wait", self._wait)
        monkeypatch.setattr("actors.pool.ray.get", self._get)
        monkeypatch.setattr("actors.pool.time.monotonic", lambda: self.now)
        monkeypatch.setattr("actors.pool.time.sleep", lambda seconds: None)
        monkeypatch.setattr(self.pool, "_facts", lambda index: {"State": "ALIVE", "NumRestarts": int(self.begun > 1)})

    @property
    def fit(self) -> "Lost":
        return self

    def remote(self) -> str:
        self.begun += 1
        return f"call {self.begun}"

    def _wait(self, references: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        if references == ["call 1"]:
            return references, []
        left = self._ends_s - self.waited
        self.now, self.waited = self.now + min(timeout, left), self.waited + min(timeout, left)
        return (references, []) if timeout >= left else ([], references)

    def _get(self, reference: str, timeout: float) -> str:
        if reference == "call 1":
            raise ActorUnavailableError("refused", None)
        if self.waited < self._ends_s:
            raise GetTimeoutError("Get timed out: some object(s) not ready.")
        return f"{reference} is done"


def test_a_long_call_whose_node_is_lost_is_repeated_and_waited_for_as_long_as_it_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lost = Lost(monkeypatch, tmp_path / "log", 9000.0)
    assert lost.pool.results([lost.pool.submit("fit")], "fitting", long=True) == ["call 2 is done"]
    assert lost.waited == 9000.0 and lost.pool.unfinished == 0
    assert "fit, called again: waiting for 1 calls on scorer 0, 30 s" in caplog.text


def test_a_repeated_call_without_an_answer_is_named_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lost = Lost(monkeypatch, tmp_path / "log", 9000.0)
    with pytest.raises(TimeoutError, match=r"fit, called again: no answer for 1800 s; .*scorer 0; logs: .*/log"):
        lost.pool.results([lost.pool.submit("fit")], "fitting")
    assert lost.pool.unfinished == 0


def test_an_answer_that_does_not_arrive_is_named_with_its_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lost = Lost(monkeypatch, tmp_path / "log", 9000.0)
    lost.begun = 1
    with pytest.raises(TimeoutError, match=r"fit: no answer from scorer 0 for 1800 s; log: .*/log"):
        lost.pool.result(lost.pool.submit("fit"))


class StandIn:
    """The part of a pool that a scorer's benchmarks use."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def submit(self, method: str, policy: Weights, tasks: list[str]) -> str:
        self.sent.append((method, tasks))
        return tasks[0]

    def results(self, calls: list[str], what: str, *, long: bool) -> list[dict[str, float]]:
        assert long and what == "lm-evaluation-harness: arc_easy, gsm8k"
        return [{f"lm_eval_{call}_acc": float(len(call))} for call in calls]


def test_every_task_of_the_harness_is_a_call_of_its_own() -> None:
    scorer, calls = object.__new__(RayScorer), StandIn()
    scorer._pool = calls  # type: ignore[assignment]
    found = scorer.benchmarks(Weights(0, Path("base")), ["arc_easy", "gsm8k"])
    assert calls.sent == [("benchmarks", ["arc_easy"]), ("benchmarks", ["gsm8k"])]
    assert list(found) == ["lm_eval_arc_easy_acc", "lm_eval_gsm8k_acc"]


def test_a_model_with_a_long_context_is_asked_more_than_one_request_at_a_time() -> None:
    assert [harness_batch(8192, longest) for longest in (None, 131072, 8192, 256)] == [8, 8, 8, 32]
    assert harness_batch(512, 2048) == 1
