"""What a scorer refuses before it is kept, and how it divides its work, without Ray."""

import math
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from actors.placement.role import Role
from actors.reward import RayScorer
from scpl_ray.config import Experiment
from scpl_ray.records import Score, Weights
from tests.support.loops import small


class Terms:
    """What the processes of a scorer answer."""

    def __init__(self, *found: dict[str, float]) -> None:
        self._found = deque(found)

    def collect(self) -> list[dict[str, float]]:
        return list(self._found)

    def forget(self) -> None:
        return


def scorer(*found: dict[str, float]) -> RayScorer:
    made = object.__new__(RayScorer)
    made._submitted = [f"c{i}" for i in range(len(found))]
    made._by_model, made._function, made._rule_names = False, None, ("a", "b")
    made._terms = {"a": 1.0, "b": 0.5}
    made._rewards = made._own = made._rules = Terms(*found)  # type: ignore[assignment]
    return made


def test_a_reward_is_the_weighted_sum_of_its_terms() -> None:
    assert scorer({"a": 1.0, "b": 4.0}).collect() == [Score("c0", 3.0, {"a": 1.0, "b": 4.0})]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_refused_before_it_is_kept(broken: float) -> None:
    with pytest.raises(ValueError, match=r"the reward of completion c1 is .*every term must be a finite number"):
        scorer({"a": 1.0, "b": 0.0}, {"a": broken, "b": 0.0}).collect()


class Idle:
    """A pool of two that have nothing to do, and notes the size of each call."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.calls: list[int] = []
        self.idle = 2

    def __len__(self) -> int:
        return 2

    def submit(self, method: str, *arguments: Any) -> int:
        self.calls.append(len(arguments[-1]))
        self.idle = max(0, self.idle - 1)
        return len(self.calls)

    def ended(self, _: list[int]) -> list[int]:
        return []

    def forget_all(self) -> None:
        return


@pytest.mark.parametrize(("gpus", "busy"), [(0.0, 2), (1.0, 1)])
def test_no_scorer_on_a_cpu_waits_while_another_has_all(
    gpus: float, busy: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.reward.Pool", Idle)
    experiment: Experiment = small()
    role = Role("scorer", 2, 0.4, gpus, 1)
    scorer = RayScorer(experiment, None, role, tmp_path)  # type: ignore[arg-type]
    backlog: Any = scorer.likelihoods(Weights(0, tmp_path))._backlog  # type: ignore[attr-defined]
    backlog.add(["text"] * 20, [150] * 20)  # 3,000 tokens: more than a pass on a CPU
    assert len(scorer._pool.calls) == busy and sum(scorer._pool.calls) == 20  # type: ignore[attr-defined]
