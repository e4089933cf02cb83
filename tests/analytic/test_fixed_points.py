"""The analytic mode's points of rest, and the stability of its paths."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from jobs.cli import app
from scpl_ray.analytic import fixed_points, model
from scpl_ray.analytic.fixed_points import GroupsAlone
from scpl_ray.analytic.loop import simulate, simulate_grid
from scpl_ray.analytic.model import Start
from scpl_ray.config import Experiment
from scpl_ray.selection import strategies
from tests.support.configs import defaults
from tests.theory import closed_forms

SMALL = ("generation.engine=transformers", "analytic.seeds=40", "loop.rounds=3", "queries.prompts_per_round=100")
THREE = ("groups.names=[a, b, c]", "groups.shares=[0.5, 0.3, 0.2]")
BARE = (*SMALL, "selection.strategy=none", "analytic.own_kind_weight=0.0", "groups.shares=[0.5, 0.5]")


def small(*overrides: str) -> Experiment:
    return defaults([*SMALL, *overrides])


def groups_alone(*overrides: str) -> GroupsAlone:
    return GroupsAlone(defaults([*BARE, *overrides]))


def equal_rest(*overrides: str) -> fixed_points.Rest:
    found = groups_alone(*overrides).equal_rest()
    assert found is not None
    return found


def test_a_learning_curve_under_retention_has_its_closed_form() -> None:
    for k, sensitivity, ceiling, gamma in ((2, 0.8, 0.7, 0.5), (3, 1.0, 0.9, 0.2), (5, 0.4, 0.6, 0.3)):
        groups = (f"groups.names={[f'g{i}' for i in range(k)]}", f"groups.shares={[1 / k] * k}")
        curve = (f"analytic.quality_ceiling={ceiling}", f"analytic.learning_exponent={gamma}")
        alone = groups_alone(*groups, *curve, "feedback.rule=retention", f"feedback.sensitivity={sensitivity}")
        found = alone.equal_rest()
        assert found is not None
        exact = closed_forms.LearningCurve(ceiling * k**gamma, gamma).eigenvalues(sensitivity, k)
        eigenvalues = np.sort(np.linalg.eigvals(alone.jacobian(found.arrivals)).real)
        assert_allclose(eigenvalues, np.sort(exact), atol=1e-6)
        assert found.rho == pytest.approx(exact.max(), abs=1e-6)
        assert_allclose(found.arrivals, 50 / (sensitivity * (1 - ceiling)), rtol=1e-6)


def test_softmax_choice_has_its_closed_form() -> None:
    curve = ("analytic.quality_ceiling=0.5", "analytic.learning_exponent=1.0")
    for beta, inertia, noise in ((1.0, 0.0, 0.0), (3.0, 0.0, 0.0), (3.0, 0.5, 0.3)):
        rule = (f"feedback.beta={beta}", f"feedback.inertia={inertia}", f"feedback.noise={noise}")
        alone = groups_alone(*curve, *rule)
        found = alone.equal_rest()
        assert found is not None
        assert found.rho == pytest.approx(closed_forms.softmax_choice_eigenvalue(beta, 2, inertia, noise), abs=1e-6)
        settled = alone.rest_from(np.array([501.0, 499.0]))
        assert settled is not None and settled.rho < 1
        assert settled.shares[0] == pytest.approx(closed_forms.softmax_choice_fixed_point(beta, noise), abs=1e-6)


def test_constant_retention_rests_where_its_closed_form_says() -> None:
    rule = ("feedback.rule=retention", "feedback.retention=constant", "feedback.sensitivity=[0.1, 0.3]")
    alone = groups_alone(*rule, "feedback.arrivals=[10.0, 10.0]", "feedback.agents=true")
    settled = alone.rest_from(np.array([60.0, 40.0]))
    assert settled is not None
    assert_allclose(settled.arrivals, model.retention_fixed_point([0.9, 0.7], 10.0), rtol=1e-6)
    assert settled.rho == pytest.approx(0.9)
    assert alone.equal_rest() is None


@pytest.mark.parametrize(
    ("rule", "slope"),
    [
        (("feedback.rule=linear", "feedback.alpha=0.5"), 1.0 + 0.5 * 0.9 * 0.2 * 2),
        (("feedback.rule=replicator",), 1.2),
        (("feedback.rule=replicator", "feedback.ratio=false", "feedback.beta=0.5"), 1.0 + 0.5 * 0.9 * 0.2),
    ],
)
def test_rules_that_feed_on_shares_push_equal_groups_apart(rule: Sequence[str], slope: float) -> None:
    assert equal_rest(*rule).rho == pytest.approx(slope, abs=1e-6)
    winner = groups_alone(*rule).rest_from(np.array([501.0, 499.0]))
    assert winner is not None and np.isnan(winner.rho)
    assert_allclose(winner.shares, [1.0, 0.0], atol=1e-5)


def test_slow_groups_are_followed_to_their_rest() -> None:
    alone = groups_alone("feedback.inertia=0.9999")
    settled = alone.rest_from(np.array([900.0, 100.0]))
    assert settled is not None and settled.rho == pytest.approx(0.9999 + 0.0001 * 0.36 / 2 * 2, abs=1e-4)
    assert_allclose(settled.shares, [0.5, 0.5], atol=1e-4)


def test_groups_that_alternate_or_grow_for_ever_rest_nowhere() -> None:
    curve = ("analytic.quality_ceiling=0.5", "analytic.learning_exponent=1.0", "feedback.inertia=0.0")
    crowding = groups_alone(*curve, "feedback.beta=-4.0")
    assert crowding.rest_from(np.array([501.0, 499.0])) is None
    assert equal_rest(*curve, "feedback.beta=-4.0").rho == pytest.approx(2.0, abs=1e-6)
    forever = groups_alone("feedback.rule=retention", "feedback.retention=constant", "feedback.sensitivity=0.0")
    assert forever.rest_from(np.array([501.0, 499.0])) is None
    assert forever.equal_rest() is None


CLOSED_POPULATION = (
    "feedback.rule=retention",
    "feedback.retention=constant",
    "feedback.sensitivity=0.6",
    "feedback.arrivals=0.0",
)


def test_users_who_leave_where_nobody_arrives_rest_nowhere() -> None:
    alone = groups_alone(*CLOSED_POPULATION)
    assert alone.equal_rest() is None and alone.rest_from(np.array([501.0, 499.0])) is None
    result = CliRunner().invoke(app, ["simulate", *SMALL, *CLOSED_POPULATION])
    assert result.exit_code == 0, result.output
    assert "the groups come to rest nowhere within reach" in " ".join(result.output.split())


@pytest.mark.parametrize("measure", ["quality", "own_kind", "reward"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.3])
def test_the_groups_rest_where_a_loop_at_that_temperature_does(temperature: float, measure: str) -> None:
    """The kinds are held by a heavy prior; the base model serves the groups unequally, so that the rest is not even."""
    held = ("analytic.prior_rows=1e12", "loop.rounds=150", "analytic.own_kind_weight=0.5", "reward.choices=balanced")
    rule = (f"feedback.measure={measure}", f"generation.temperature={temperature}", "analytic.kind_advantage=0.5")
    experiment = defaults([*BARE, *held, *rule])
    start = Start(np.array([[0.9, 0.1], [0.45, 0.55]]), np.array([0.6, 0.4]))
    (path,) = simulate_grid([experiment], start=start, chance=False)
    settled = GroupsAlone(experiment, start).rest_from(np.array([500.0, 500.0]))
    assert settled is not None
    assert_allclose(settled.shares, path.shares[0, -1], atol=1e-4)
    assert settled.shares[0] > 0.51


def test_real_data_weakens_the_pull_of_shares() -> None:
    half = equal_rest("feedback.inertia=0.0", "cycle.real_share=0.5").rho
    assert half == pytest.approx(equal_rest("feedback.inertia=0.0").rho / 2, abs=1e-6)


def test_what_groups_react_to() -> None:
    shares = np.array([0.7, 0.3])
    own = groups_alone("feedback.measure=own_kind", "task.marker_strength=0.5").measured(shares)
    assert_allclose(own, [0.65, 0.65])
    wins = model.win_rates(np.array([0.2, -0.2]), np.array([0.25, 0.25]))
    found = groups_alone("feedback.measure=reward", "task.marker_strength=1.0").measured(shares)
    assert_allclose(found, [0.8 * wins[0] + 0.2 * wins[1], 0.2 * wins[0] + 0.8 * wins[1]])
    balanced = groups_alone("feedback.measure=reward", "reward.choices=balanced").measured(shares)
    assert_allclose(balanced, model.win_rates(np.zeros(2), np.full(2, 0.25)))
    # a group of nobody is given nothing, and reacts to the mean of the others as in a run
    three = groups_alone("feedback.measure=reward", *THREE).measured(np.array([0.7, 0.3, 0.0]))
    assert three[0] != pytest.approx(three[1]) and three[2] == pytest.approx(three[:2].mean())


KEEPING = [f"selection.strategy={name}" for name in strategies.STRATEGIES]


@pytest.mark.parametrize("strategy", KEEPING)
@pytest.mark.parametrize("control", ["false", "true"])
def test_expected_kept_shares_are_those_that_are_simulated(strategy: str, control: str) -> None:
    chosen = (strategy, f"selection.matched_control={control}", "selection.target=[0.5, 0.3, 0.2]", *THREE)
    sizes = ("queries.prompts_per_round=20_000", "loop.rounds=1", "analytic.seeds=30", "selection.threshold=0.1")
    biased = ("analytic.kind_advantage=0.2", "analytic.reward_sd=[0.25, 0.2, 0.3]", "selection.r_max=bound")
    plain = small(*chosen, *sizes, *biased, "selection.reward_bound=2.5", "groups.shares=[0.6, 0.3, 0.1]")
    expected = GroupsAlone(plain).kept_shares(np.array([0.6, 0.3, 0.1]))
    kept = simulate(plain).kept_shares[:, 1]
    # 1,024 choices make the means of rewards noisy
    assert_allclose(kept.mean(axis=0), expected, atol=0.01)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["feedback.rule=static"], "users do not react"),
        (["feedback.rule=schedule", "feedback.step=[0.1, -0.1]"], "users do not react"),
        (["selection.strategy=vrs", "selection.r_max=prompt"], "the shares that vrs keeps have no closed form"),
        (["cycle.real_rows=10"], "cycle.real_rows"),
    ],
)
def test_what_has_no_reduced_map_says_why(overrides: list[str], reason: str) -> None:
    experiment = defaults([*BARE, *overrides])
    assert reason in fixed_points.obstacle(experiment)
    with pytest.raises(ValueError, match=reason):
        GroupsAlone(experiment)
    found = fixed_points.stability(simulate(experiment))
    assert reason in found.obstacle and found.at_start is None and found.at_end is None


def test_stability_of_paths() -> None:
    remembers = ("loop.rounds=12", "analytic.seeds=300", "selection.strategy=importance")
    found = fixed_points.stability(simulate(small(*remembers, "loop.kind=retraining")))
    assert found.estimate is not None and found.estimate.verdict == "stable"
    assert found.estimate.state == "shares and kinds" and found.estimate.jacobian.shape == (4, 4)
    # shares come to rest as well where each round goes on from the last policy, but its kinds are a random walk
    drifting = fixed_points.stability(simulate(small(*remembers)))
    assert drifting.estimate is not None and drifting.estimate.verdict == "cannot tell"
    assert drifting.estimate.high > 1.0
    growing = fixed_points.stability(simulate(small(*remembers, "loop.kind=retraining", "cycle.kind=accumulate")))
    assert growing.estimate is not None and growing.estimate.verdict == "cannot tell"
    assert found.at_start is not None and found.at_start.equal is not None
    assert found.at_start.equal.rho == pytest.approx(0.5, abs=1e-6)
    users = fixed_points.stability(simulate(small("loop.rounds=12", "feedback.rule=retention", "analytic.seeds=300")))
    assert users.estimate is not None and users.estimate.jacobian.shape == (5, 5)
    assert fixed_points.stability(simulate(small())).estimate is None
    dying = small("feedback.rule=linear", "feedback.alpha=50.0", "loop.rounds=12", "groups.shares=[0.95, 0.05]")
    assert fixed_points.stability(simulate(dying)).estimate is None
    with pytest.raises(ValueError, match=r"analytic.seeds: 1; stability needs at least 2"):
        fixed_points.stability(simulate(small("analytic.seeds=1")))
