from collections import Counter
from typing import Any

import pytest

from scpl_ray.config import Experiment
from scpl_ray.feedback.population import PopulationSimulator
from tests.support.configs import defaults
from tests.support.fakes import WORDS, FakeTask


def population(*overrides: str) -> tuple[PopulationSimulator, Experiment]:
    experiment = defaults(["generation.engine=transformers", "queries.prompts_per_round=1000", *overrides])
    return PopulationSimulator(experiment, FakeTask(experiment.groups.names)), experiment


def test_queries_follow_the_shares_and_the_round_alone() -> None:
    simulator, _ = population()
    first = simulator.draw(1)
    assert first == simulator.draw(1) == population()[0].draw(1)
    assert first != simulator.draw(2)
    assert first != population("seed=1")[0].draw(1)
    north = Counter(q.group for q in first)["north"]
    assert abs(north - 600) < 4 * (1000 * 0.6 * 0.4) ** 0.5
    assert len({q.query_id for q in first}) == 1000


def test_a_retry_sees_the_same_world() -> None:
    simulator, _ = population()
    simulator.step({"north": 0.9, "south": 0.3})
    saved = simulator.state()
    later = (simulator.shares(), simulator.draw(2), simulator.choices(2, 50))
    simulator.step({"north": 0.1, "south": 0.9})
    simulator.restore(saved)
    assert (simulator.shares(), simulator.draw(2), simulator.choices(2, 50)) == later


def test_users_move_towards_what_serves_them() -> None:
    simulator, _ = population("feedback.rule=softmax")
    simulator.step({"north": 0.9, "south": 0.3})
    assert simulator.shares()["north"] > 0.6


def test_choices_are_the_populations_or_balanced() -> None:
    for key, expected in (("population", 0.6), ("balanced", 0.5)):
        simulator, _ = population(f"reward.choices={key}")
        chosen = Counter(c.chosen for c in simulator.choices(1, 4000))
        assert abs(chosen[WORDS[0]] / 4000 - expected) < 4 * (0.25 / 4000) ** 0.5


def test_reused_prompts_come_from_the_first_round_even_for_a_group_that_was_absent() -> None:
    simulator, _ = population("queries.prompts=reused", "groups.shares=[1.0, 0.0]", "feedback.rule=schedule",
                              "feedback.step=[-0.5, 0.5]")  # fmt: skip
    assert {q.group for q in simulator.draw(1)} == {"north"}
    simulator.step({"north": 0.5, "south": 0.5})
    later = simulator.draw(2)
    assert {q.group for q in later} == {"north", "south"}
    assert len({q.query_id for q in later}) == len(later)


def test_reused_prompts_are_those_that_whole_users_asked_in_round_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten users cannot be .55 and .45: round 1 is drawn from .6 and .4, and so is the pool."""
    simulator, _ = population(
        *("queries.prompts=reused", "groups.shares=[0.55, 0.45]", "feedback.rule=retention", "feedback.agents=true"),
        *("feedback.users=10", "queries.prompts_per_round=400"),
    )
    pools = []
    draw = FakeTask.draw

    def noted(task: FakeTask, counts: Any, **keys: Any) -> Any:
        pools.append(counts)
        return draw(task, counts, **keys)

    monkeypatch.setattr(FakeTask, "draw", noted)
    assert Counter(query.group for query in simulator.draw(1)) == Counter(pools[0])


@pytest.mark.parametrize(
    "state", [{}, {"round": 1}, {"round": 1, "arrivals": [1.0]}, {"round": "1", "arrivals": [1, 2]}]
)
def test_a_state_of_another_shape_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="population state"):
        population()[0].restore(state)


@pytest.mark.engines
def test_the_actor_is_the_simulator(ray_local: None) -> None:
    from actors.feedback import RayPopulation

    simulator, experiment = population()
    actor = RayPopulation(experiment, FakeTask(experiment.groups.names))
    for round_ in (1, 2):
        assert actor.draw(round_) == simulator.draw(round_)
        assert actor.choices(round_, 9) == simulator.choices(round_, 9)
        for it in (actor, simulator):
            it.step({"north": 0.9, "south": 0.3})
        assert (actor.shares(), actor.state()) == (simulator.shares(), simulator.state())
    saved = actor.state()
    actor.step({"north": 0.1, "south": 0.3})
    actor.restore(saved)
    assert actor.shares() == simulator.shares()
    actor.close()
