"""What ``reward.terms`` do in the analytic mode, which knows the reward model's scores and no rule."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jobs.benchmark.plain_simulation import simulate_plainly
from scpl_ray.analytic import model
from scpl_ray.analytic.fixed_points import GroupsAlone
from scpl_ray.analytic.loop import Paths, simulate
from scpl_ray.config import Experiment
from tests.support.configs import defaults

SIZES = ("analytic.seeds=40", "loop.rounds=3", "queries.prompts_per_round=100")
BIASED = ("analytic.kind_advantage=0.1", "analytic.reward_sd=[0.25, 0.3]")


def small(*overrides: str) -> Experiment:
    return defaults([*SIZES, *BIASED, *overrides])


def weighted(weight: float, *overrides: str) -> Experiment:
    return small(f"reward.terms={{model: {weight}}}", *overrides)


def assert_kept_alike(one: Paths, other: Paths) -> None:
    for field in ("kept_kinds", "kept_shares", "kept_fraction", "neutral_law", "arrivals"):
        assert_array_equal(vars(one)[field], vars(other)[field])


# powers of two, so that products are exact
@pytest.mark.parametrize("weight", [0.25, 4.0])
@pytest.mark.parametrize("strategy", ["top", "tpp", "best_of_n", "quotas"])
def test_the_weight_of_the_only_term_changes_nothing_that_is_kept_by_rank(strategy: str, weight: float) -> None:
    chosen = (f"selection.strategy={strategy}", "selection.keep_fraction=0.1")
    assert_kept_alike(simulate(small(*chosen)), simulate(weighted(weight, *chosen)))


@pytest.mark.parametrize("strategy", ["vrs", "penalty"])
def test_rejection_sampling_sees_the_weight_as_a_temperature(strategy: str) -> None:
    chosen = f"selection.strategy={strategy}"
    plain = simulate(small(chosen, "selection.beta=0.5", "selection.penalty=0.5"))
    heavier = simulate(weighted(4.0, chosen, "selection.beta=2.0", "selection.penalty=2.0"))
    assert_kept_alike(plain, heavier)
    assert simulate(weighted(4.0, chosen)).kept_fraction[:, 1:].mean() < plain.kept_fraction[:, 1:].mean() / 2


def test_a_negative_weight_turns_means_round_and_leaves_a_spread() -> None:
    opposite = weighted(-2.0)
    assert model.choice_gain(opposite) == -2.0 and model.kind_advantage(opposite) == -0.2
    assert_allclose(model.reward_sds(opposite), [0.5, 0.6])


def test_the_groups_alone_see_the_weight_too() -> None:
    shares = np.array([0.7, 0.3])
    top = "selection.strategy=top"
    assert_allclose(GroupsAlone(weighted(4.0, top)).kept_shares(shares), GroupsAlone(small(top)).kept_shares(shares))


def test_the_plain_loop_weighs_rewards_too() -> None:
    heavier = weighted(4.0, "selection.beta=2.0", "loop.rounds=2")
    assert simulate_plainly(heavier, 3) == simulate_plainly(small("loop.rounds=2"), 3)
    with pytest.raises(ValueError, match="the plain loop knows that of the default keys only"):
        simulate_plainly(small("reward.terms={model: 1.0, on_topic: 1.0}"), 3)


def test_rewards_of_several_terms_have_the_spread_that_is_given() -> None:
    """What other terms add to the spread is not known, so it is not taken off either."""
    several = small("reward.terms={model: 0.5, on_topic: 0.5}")
    assert_allclose(model.reward_sds(several), [0.25, 0.3])
    assert model.choice_gain(several) == 0.5 and model.kind_advantage(several) == 0.1
    assert model.choice_gain(small("reward.terms={model: 0.0, on_topic: 1.0}")) == 0.0


def test_terms_that_are_not_modelled_are_named() -> None:
    def named(terms: str) -> list[str]:
        return model.without_effect(small(f"reward.terms={terms}"))

    assert named("{model: 1.0}") == []
    assert named("{on_topic: 1.0}") == ["reward.terms.on_topic=1"]
    assert named("{model: 0.5, length: 0.25, on_topic: -0.5}") == [
        "reward.terms.length=0.25",
        "reward.terms.on_topic=-0.5",
    ]
    assert named("{model: 1.0, on_topic: 0.0}") == []


def test_a_function_of_ones_own_is_named_once() -> None:
    experiment = small()
    reward = {"terms": {"function": 1.0}, "function": "own.py:reward"}
    experiment = experiment.model_copy(update={"reward": experiment.reward.model_copy(update=reward)})
    assert model.without_effect(experiment) == ["reward.function=own.py:reward"]


def test_rewards_that_a_weight_makes_too_large_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reward_sd: 0.3 times reward.terms.model = 1e\+300; rewards beyond 1e\+06"):
        model.validate(weighted(1e300, "analytic.kind_advantage=0.0", "analytic.choice_gain=0.0"))
    with pytest.raises(ValueError, match=r"choice_gain: 1 times reward.terms.model = 1e\+300"):
        model.validate(small("reward.terms={model: 1e300, on_topic: 1.0}"))


def test_what_several_experiments_give_without_effect_is_one_line() -> None:
    given = [small("reward.terms={on_topic: 1.0}"), small(), small("queries.prompts=reused")]
    line = model.ignored_line(given)
    assert line == "without effect in the analytic mode: reward.terms.on_topic=1, queries.prompts=reused"
    assert model.ignored_line([small()]) == ""
