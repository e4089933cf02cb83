"""What a scorer refuses before it is kept, without Ray."""

import math
from collections import deque

import pytest

from actors.reward import RayScorer
from scpl_ray.records import Score


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
