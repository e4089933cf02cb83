"""How long a pool waits for calls that are long by themselves, with a clock that the test turns; without Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
