from collections import Counter
from typing import Any

import pytest

from scpl_ray.config import Experiment
from scpl_ray.feedback.population import PopulationSimulator
from scpl_ray.tasks.own import own
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


def test_a_task_of_ones_own_that_gives_fewer_than_it_was_asked_for_is_not_believed() -> None:
    class Few(FakeTask):
        """Has thirty queries and choices of each group, and five real answers."""

        def draw(self, counts: Any, **keys: Any) -> Any:
            return super().draw({group: min(count, 30) for group, count in counts.items()}, **keys)

        def choices(self, users: Any, *, seed: int) -> Any:
            return super().choices(users, seed=seed)[:30]

        def real_examples(self, count: int, *, seed: int) -> Any:
            return super().real_examples(min(count, 5), seed=seed)

    for reuse in ("fresh", "reused"):
        _, experiment = population(f"queries.prompts={reuse}")
        simulator = PopulationSimulator(experiment, own(Few(experiment.groups.names), "few.py:build"))
        said = r"task.name: draw of 'few.py:build' gave 30 of north, 30 of south; expected \d+ of north, \d+ of south"
        with pytest.raises(ValueError, match=said):
            simulator.draw(1)
    with pytest.raises(ValueError, match=r"task.name: choices of 'few.py:build' gave 30 choices; expected 50, one per"):
        simulator.choices(1, 50)
    assert len(simulator.choices(1, 30)) == 30
    task = own(Few(experiment.groups.names), "few.py:build")
    assert len(task.real_examples(5, seed=1)) == 5
    with pytest.raises(ValueError, match=r"real_examples of 'few.py:build' gave 5 examples; expected 6"):
        task.real_examples(6, seed=1)


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
