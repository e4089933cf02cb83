import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scpl_ray.analytic.model import retention_fixed_point
from scpl_ray.config import Feedback, Groups
from scpl_ray.feedback import formulas
from scpl_ray.feedback import rules as fb
from scpl_ray.feedback.state import PopulationState

GROUPS = Groups()
RULE_NAMES = sorted(fb.RULES)
NOT_CALLABLE = 3


def logit(p):
    return np.log(p / (1 - p))


def walk(rule, state, rounds):
    """The path of a map on arrays, start included."""
    path = [np.asarray(state, dtype=float)]
    for _ in range(rounds):
        path.append(rule(path[-1]))
    return np.array(path)


def settings_of(rule, n_groups, **overrides):
    change = np.zeros(n_groups)
    change[0], change[-1] = 0.1, -0.1
    needs = {
        "schedule": {"step": tuple(change)},
        "custom": {"function": "tests.feedback.test_rules:towards_quality"},
        "retention": {"arrivals": 5.0},
    }
    return Feedback(rule=rule, **(needs.get(rule, {}) | overrides))


def move(state, measured, feedback, *, round_=1, seed=0, initial=None):
    initial = state.shares if initial is None else initial
    after = fb.step(state, measured, feedback, initial_shares=initial, round_=round_, seed=seed)
    peeked = fb.peek(state, measured, feedback, initial_shares=initial, round_=round_, seed=seed)
    assert np.array_equal(peeked, after.shares)
    return after


# custom functions that configs name --------------------------------------------------------------------------------


def towards_quality(shares, measured, *, initial_shares, round_, seed):
    mixed = 0.5 * shares + 0.5 * (measured + 0.1) / (measured + 0.1).sum()
    # a rule that spoils its arguments must not spoil the state, or what the caller passed
    for argument in (shares, measured, initial_shares):
        argument[:] = -1.0
    return mixed


def wrong_sum(shares, measured, **_):
    return shares * 2


def wrong_length(shares, measured, **_):
    return np.append(shares, 0.0)


def not_a_number(shares, measured, **_):
    return shares * np.nan


def linear_in_round(shares, measured, *, initial_shares, round_, seed):
    change = 0.01 * round_ * seed
    return initial_shares + np.array([change, -change])


# static and schedule ------------------------------------------------------------------------------------------------


def test_first_round_has_the_shares_and_users_of_the_config():
    state = fb.initial_state(GROUPS, Feedback(users=500.0))
    assert state.arrivals == (300.0, 200.0)
    assert state.shares.tolist() == [0.6, 0.4]


def test_static_keeps_the_state_to_the_bit():
    state = PopulationState((1 / 3, 1 / 7, 1e-9))
    assert move(state, np.array([0.1, 0.9, 0.5]), Feedback(rule="static")) == state


def test_schedule_follows_its_line_whatever_is_measured():
    feedback = Feedback(rule="schedule", step=(0.1, -0.1))
    state = fb.initial_state(GROUPS, feedback)
    path = [state.shares[0]]
    for round_ in range(1, 7):
        state = move(state, np.array([0.0, 1.0]), feedback, round_=round_, initial=[0.6, 0.4])
        path.append(state.shares[0])
    np.testing.assert_allclose(path, [0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0], atol=1e-12)


def test_schedule_clips_then_renormalises():
    # s_0 + 3 step = (.8, .5, -.3): clipped (.8, .5, 0), so 8/13 and 5/13
    shares = formulas.schedule([0.2, 0.2, 0.6], [0.2, 0.1, -0.3], 3)
    np.testing.assert_allclose(shares, [8 / 13, 5 / 13, 0], atol=1e-12)


# linear -------------------------------------------------------------------------------------------------------------


def test_linear_response_formula():
    # mean quality .6 * .8 + .4 * .5 = .68: .6 + .5 * .12 and .4 - .5 * .18, over their sum
    shares = formulas.linear_response([0.6, 0.4], [0.8, 0.5], 0.5)
    np.testing.assert_allclose(shares, np.array([0.66, 0.31]) / 0.97, atol=1e-12)


def test_linear_response_holds_a_floor():
    # mean .9: (.9 + .1, .1 - .9) is cut to (1, 0), and the floor is the share itself
    shares = formulas.linear_response([0.9, 0.1], [1.0, 0.0], 1.0, 0.05)
    np.testing.assert_allclose(shares, [0.95, 0.05], atol=1e-12)


def test_linear_rule_uses_its_settings():
    after = move(PopulationState((90.0, 10.0)), [1.0, 0.0], Feedback(rule="linear", alpha=1.0, floor=0.05))
    np.testing.assert_allclose(after.shares, [0.95, 0.05], atol=1e-12)
    assert sum(after.arrivals) == pytest.approx(100)


@pytest.mark.parametrize(
    ("shares", "floor", "expected"),
    [
        ([0.97, 0.02, 0.01], 0.05, [0.9, 0.05, 0.05]),
        # scaling to make room pushes the second below the floor as well
        ([0.6, 0.3, 0.1], 0.3, [0.4, 0.3, 0.3]),
        ([0.5, 0.31, 0.19, 0.0], 0.2, [0.6 * 50 / 81, 0.6 * 31 / 81, 0.2, 0.2]),
        ([1.0, 0.0], 0.5, [0.5, 0.5]),
        ([0.7, 0.3], 0.0, [0.7, 0.3]),
        ([0.7, 0.3], 0.3, [0.7, 0.3]),
    ],
)
def test_a_floor_is_the_smallest_share(shares, floor, expected):
    np.testing.assert_allclose(formulas.at_least(shares, floor), expected, atol=1e-12)


def test_whole_users_are_added_up_to_the_floor():
    assert formulas.whole_at_least([97.0, 2.0, 1.0], 0.1).tolist() == [97, 13, 13]
    assert formulas.whole_at_least([1.0, 0.0], 0.5).tolist() == [1, 1]
    assert formulas.whole_at_least([0.0, 0.0], 0.1).tolist() == [0, 0]
    # a floor of 1/6, rounded up within the tolerance of sums
    assert formulas.whole_at_least([167.0] * 6, 0.1666667).tolist() == [167] * 6
    for groups in (3, 6, 7):
        with pytest.raises(ValueError, match="give at most ") as refused:
            formulas.at_least(np.full(groups, 1.0 / groups), 0.9)
        offered = float(str(refused.value).rpartition(" ")[2])
        formulas.at_least(np.full(groups, 1.0 / groups), offered)


# retention ----------------------------------------------------------------------------------------------------------


def test_constant_retention_path():
    feedback = Feedback(rule="retention", retention="constant", sensitivity=(0.1, 0.3), arrivals=(10.0, 10.0))
    state = PopulationState((60.0, 40.0))
    path, shares = [state.arrivals], [state.shares[0]]
    for round_ in range(1, 6):
        state = move(state, [0.2, 0.9], feedback, round_=round_)
        path.append(state.arrivals)
        shares.append(state.shares[0])
    expected = [(60, 40), (64, 38), (67.6, 36.6), (70.84, 35.62), (73.756, 34.934), (76.3804, 34.4538)]
    np.testing.assert_allclose(path, expected, atol=1e-9)
    np.testing.assert_allclose(shares, [0.6, 0.627451, 0.648752, 0.665414, 0.67859, 0.689141], atol=1e-6)


def test_retention_without_newcomers_moves_the_logit_by_the_log_ratio():
    path = walk(lambda m: formulas.retention(m, [0.9, 0.7], 0.0), [60.0, 40.0], 10)
    shares = path[:, 0] / path.sum(axis=1)
    np.testing.assert_allclose(np.diff(logit(shares)), np.log(0.9 / 0.7), atol=1e-9)
    assert shares[10] == pytest.approx(0.948759, abs=1e-6)


@pytest.mark.parametrize(
    ("form", "expected"),
    [("constant", [0.2, 0.2]), ("linear", [0.8, 0.2]), ("exponential", [np.exp(-0.2), np.exp(-0.8)])],
)
def test_retention_rates(form, expected):
    np.testing.assert_allclose(formulas.retention_rate([0.25, 1.0], form, 0.8), expected, atol=1e-12)


def test_linear_retention_is_clipped():
    assert formulas.retention_rate([0.1, 1.0], "linear", 2.0).tolist() == [0.8, 0.0]


def test_unknown_retention_form():
    with pytest.raises(ValueError, match="'cubic' is none of constant, linear, exponential"):
        formulas.retention_rate([0.1], "cubic", 1.0)


def test_learning_curve_transient_in_the_rule():
    """Shares first move apart, then together: five rounds cannot tell a transient from an instability."""
    feedback = Feedback(rule="retention", retention="linear", sensitivity=1.0, arrivals=5.0)
    state = PopulationState((60.0, 40.0))
    path = [0.6]
    for round_ in range(1, 51):
        state = move(state, 0.9 * state.shares**0.2, feedback, round_=round_)
        path.append(state.shares[0])
    wanted = [0.6, 0.60585, 0.61039, 0.615421, 0.602281, 0.509677]
    np.testing.assert_allclose(np.array(path)[[0, 1, 2, 5, 10, 50]], wanted, atol=1e-6)


def test_agents_are_whole_poisson_distributed_users():
    """The stationary law of a constant rate is Poisson(b / (1 - nu)): mean = variance."""
    rate, newcomers, replicates = np.array([0.9, 0.7]), 10.0, 4000
    draws = np.random.default_rng(5)
    users = np.full((replicates, 2), 50.0)
    for _ in range(120):
        users = formulas.retention_agents(users, rate, newcomers, draws)
    assert np.array_equal(users, np.rint(users))
    expected = retention_fixed_point(rate, newcomers)
    np.testing.assert_allclose(expected, [100, 33.333333], atol=1e-6)
    assert np.all(np.abs(users.mean(axis=0) - expected) < 4 * np.sqrt(expected / replicates))
    assert np.all(np.abs(users.var(axis=0) / expected - 1) < 4 * np.sqrt(2 / replicates) * 1.1)


def test_agents_follow_the_seed_and_the_round():
    feedback = Feedback(rule="retention", agents=True, users=100.0, arrivals=20.0)
    groups = Groups(names=("a", "b", "c"), shares=(1 / 3, 1 / 3, 1 / 3))
    start = fb.initial_state(groups, feedback)
    assert start.arrivals == (34.0, 33.0, 33.0)
    after = [move(start, [0.5] * 3, feedback, round_=r, seed=s) for r, s in ((1, 1), (1, 1), (1, 2), (2, 1))]
    assert after[0] == after[1]
    assert after[0] != after[2] and after[0] != after[3]
    assert all(float(n).is_integer() for n in after[0].arrivals)


def test_nobody_left_is_an_error():
    feedback = Feedback(rule="retention", retention="linear", sensitivity=1.0, arrivals=0.0)
    with pytest.raises(ValueError, match=r"nobody is left after round 3; raise feedback\.arrivals"):
        move(PopulationState((5.0, 5.0)), [0.0, 0.0], feedback, round_=3)


# replicator ---------------------------------------------------------------------------------------------------------


def test_replicator_ratio():
    fitness = np.array([1.2, 1.0, 0.9])
    path = walk(lambda p: formulas.replicator_ratio(p, fitness), [0.2, 0.3, 0.5], 10)
    np.testing.assert_allclose(path[10], [0.723044, 0.175163, 0.101793], atol=1e-6)
    mean = path @ fitness
    np.testing.assert_allclose(mean[:4], [0.99, 1.00303, 1.017221, 1.032343], atol=1e-6)
    variance = path @ fitness**2 - mean**2
    np.testing.assert_allclose(np.diff(mean), (variance / mean)[:-1], atol=1e-12)
    assert variance[0] / mean[0] == pytest.approx(0.013030303, abs=1e-9)


def test_replicator_exponential():
    fitness = np.array([1.2, 1.0, 0.9])
    path = walk(lambda p: formulas.replicator_exponential(p, fitness, 0.5), [0.2, 0.3, 0.5], 10)
    np.testing.assert_allclose(path[10], [0.474013, 0.26157, 0.264417], atol=1e-6)


def test_replicator_with_an_anchor_has_a_mixed_fixed_point():
    path = walk(lambda p: 0.9 * formulas.replicator_ratio(p, [1.2, 1.0]) + 0.05, [0.5, 0.5], 2000)
    assert path[-1, 0] == pytest.approx(0.7732928049865329, abs=1e-9)


def test_replicator_of_a_power_law_multiplies_the_logit():
    path = walk(lambda p: formulas.replicator_ratio(p, p**0.3), [0.55, 0.45], 5)
    assert logit(path[5, 0]) == pytest.approx(0.7450762453, abs=1e-9)
    assert path[5, 0] == pytest.approx(0.6781048925, abs=1e-9)


def test_replicator_of_payoffs():
    after = formulas.replicator_ratio([0.2, 0.3, 0.5], [1.0, 0.35, 0.75])
    np.testing.assert_allclose(after, [0.294118, 0.154412, 0.551471], atol=1e-6)


@pytest.mark.parametrize("ratio", [True, False])
def test_replicator_rule_keeps_zeros_and_its_form(ratio):
    feedback = Feedback(rule="replicator", ratio=ratio, beta=3000.0)
    after = move(PopulationState((0.0, 30.0, 70.0)), [1.0, 0.5, 0.25], feedback).shares
    weights = np.array([30 * 0.5, 70 * 0.25]) if ratio else np.array([30.0, 70.0 * np.exp(-0.25 * 3000)])
    np.testing.assert_allclose(after, [0.0, *(weights / weights.sum())], atol=1e-12)


def test_ratio_replicator_lets_groups_of_fitness_0_die_out_unless_all_have_it():
    rule = Feedback(rule="replicator")
    assert move(PopulationState((1.0, 1.0)), [0.0, 0.5], rule).shares.tolist() == [0.0, 1.0]
    assert move(PopulationState((0.0, 2.0)), [0.0, 0.5], rule).shares.tolist() == [0.0, 1.0]
    for users in ((1.0, 1.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match=r"needs one group above 0, got .* use feedback\.ratio: false"):
            move(PopulationState(users), [0.0, 0.0 if users[1] else 0.5], rule)
    with pytest.raises(ValueError, match=r"needs fitness of 0 or more, got -0\.5"):
        formulas.replicator_ratio([0.5, 0.5], [1.0, -0.5])


# softmax ------------------------------------------------------------------------------------------------------------


def test_softmax_choice():
    after = formulas.softmax_choice([1 / 3, 1 / 3, 1 / 3], [0.8, 0.6, 0.5], 2.0)
    np.testing.assert_allclose(after, [0.450627, 0.302064, 0.247309], atol=1e-6)


def test_softmax_rule_mixes_inertia_choice_and_noise():
    feedback = Feedback(rule="softmax", beta=2.0, inertia=0.5, noise=0.3)
    after = move(PopulationState((20.0, 30.0, 50.0)), [0.8, 0.6, 0.5], feedback).shares
    choice = np.array([0.450627, 0.302064, 0.247309])
    np.testing.assert_allclose(after, 0.5 * np.array([0.2, 0.3, 0.5]) + 0.5 * (0.7 * choice + 0.1), atol=1e-6)


def test_crowding_alternates_between_two_shares():
    path = walk(lambda s: formulas.softmax_choice(s, s, -3.0), [0.51, 0.49], 200)
    np.testing.assert_allclose(sorted(path[-2:, 0]), [0.070720, 0.929280], atol=1e-6)


@pytest.mark.parametrize(("coupling", "bifurcates"), [(1.0, False), (1.9, False), (2.1, True), (3.0, True)])
def test_softmax_bifurcates_at_its_threshold(coupling, bifurcates):
    path = walk(lambda s: formulas.softmax_choice(s, s, coupling, inertia=0.2), [0.501, 0.499], 2000)
    assert (path[-1, 0] > 0.6) == bifurcates
    if not bifurcates:
        assert path[-1, 0] == pytest.approx(0.5, abs=1e-3)


# custom -------------------------------------------------------------------------------------------------------------


def test_custom_rule_leaves_the_state_alone_and_keeps_users():
    state, measured, initial = PopulationState((60.0, 40.0)), np.array([0.4, 0.4]), np.array([0.6, 0.4])
    feedback = Feedback(rule="custom", function="tests.feedback.test_rules:towards_quality")
    after = move(state, measured, feedback, initial=initial)
    assert state.arrivals == (60.0, 40.0)
    assert measured.tolist() == [0.4, 0.4] and initial.tolist() == [0.6, 0.4]
    np.testing.assert_allclose(after.arrivals, [55.0, 45.0], atol=1e-9)


def test_custom_rule_sees_round_seed_and_first_shares():
    feedback = Feedback(rule="custom", function="tests.feedback.test_rules:linear_in_round")
    after = move(PopulationState((1.0, 9.0)), [0.5, 0.5], feedback, round_=3, seed=2, initial=[0.6, 0.4])
    np.testing.assert_allclose(after.shares, [0.66, 0.34], atol=1e-12)


def drawn_at_random(shares, measured, *, initial_shares, round_, seed):
    return np.random.default_rng(seed).dirichlet(200.0 * shares)


def test_simulated_seeds_of_a_custom_rule_have_chance_of_their_own_and_a_run_has_its_seeds():
    feedback = Feedback(rule="custom", function="tests.feedback.test_rules:drawn_at_random")
    shares = np.array([0.6, 0.4])
    keys = {"initial_shares": shares, "seed": 5}
    alone = [fb.advance(shares, [0.5, 0.5], feedback, round_=t, **keys) for t in (1, 2)]
    assert alone[0] == pytest.approx(np.random.default_rng(5).dirichlet(200.0 * shares)) == alone[1]
    many = np.tile(shares, (4, 1))
    first, second, again = (
        fb.advance(many, np.full((4, 2), 0.5), feedback, round_=t, **keys)[:, 0].tolist() for t in (1, 2, 1)
    )
    assert len({*first, *second}) == 8 and first == again


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("tests.feedback.test_rules:wrong_sum", "sums to 2"),
        ("tests.feedback.test_rules:wrong_length", "3 shares for 2 groups"),
        ("tests.feedback.test_rules:not_a_number", "not finite"),
        ("tests.feedback.test_rules:missing", "cannot be imported"),
        ("tests.no_such_module:rule", "cannot be imported"),
        ("tests.feedback.test_rules:NOT_CALLABLE", "is a int, not a function"),
        ("tests.feedback.test_rules.wrong_sum", "not of the form 'package.module:function'"),
        ("tests test:wrong", "cannot be imported"),
        (":rule", "not of the form"),
        (None, "the custom rule needs"),
    ],
)
def test_bad_custom_functions_are_named(function, message):
    with pytest.raises(ValueError, match=rf"feedback\.function: .*{message}"):
        move(PopulationState((1.0, 1.0)), [0.5, 0.5], Feedback(rule="custom", function=function))


# errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measured", [[0.5, float("nan")], [0.5, 1.01], [-0.01, 0.5]])
def test_measure_must_be_a_number_in_the_unit_interval(measured):
    with pytest.raises(ValueError, match=r"measured: .*NaN or a number outside \[0, 1\]"):
        move(PopulationState((1.0, 1.0)), measured, Feedback(rule="linear"))


@pytest.mark.parametrize("measured", [[0.5], [0.5, 0.5, 0.5], 0.5])
def test_measure_must_have_one_number_per_group(measured):
    with pytest.raises(ValueError, match=r"measured: shape .* one number per group"):
        move(PopulationState((1.0, 1.0)), measured, Feedback(rule="linear"))


@pytest.mark.parametrize(
    ("feedback", "message"),
    [
        (Feedback(rule="nudge"), "feedback.rule: 'nudge' is unknown; choose one of static, schedule"),
        (Feedback(rule="schedule"), "feedback.step: null"),
        (Feedback(rule="schedule", step=(0.1, 0.1)), "changes of shares sum to 0"),
        (Feedback(rule="schedule", step=(0.1, -0.1, 0.0)), "3 numbers for 2 groups"),
        (Feedback(rule="linear", floor=0.6), "feedback.floor: 0.6 for each of 2 groups exceeds 1"),
        (Feedback(rule="softmax", floor=0.51), "feedback.floor: 0.51 for each of 2 groups exceeds 1"),
        (Feedback(rule="retention", sensitivity=(0.1, 0.2, 0.3)), "feedback.sensitivity: 3 numbers for 2 groups"),
        (Feedback(rule="retention", sensitivity=-0.1), "feedback.sensitivity: -0.1 is out of range"),
        (Feedback(rule="retention", retention="constant", sensitivity=1.5), r"each number is in \[0, 1\]"),
        (Feedback(rule="retention", arrivals=(1.0, -1.0)), "feedback.arrivals: .* each number is >= 0"),
        (Feedback(rule="custom"), "feedback.function: null"),
    ],
)
def test_settings_are_checked_before_the_first_round(feedback, message):
    with pytest.raises(ValueError, match=message):
        fb.initial_state(GROUPS, feedback)
    with pytest.raises(ValueError, match=message):
        move(PopulationState((1.0, 1.0)), [0.5, 0.5], feedback)


@pytest.mark.parametrize("arrivals", [(1.0,), (0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_impossible_states(arrivals):
    with pytest.raises(ValueError, match="arrivals: "):
        PopulationState(arrivals)


# counts -------------------------------------------------------------------------------------------------------------


def test_draw_counts_are_multinomial():
    shares, total, draws = np.array([0.5, 0.3, 0.2]), 100, 3000
    counts = np.array([fb.draw_counts(shares, total, seed) for seed in range(draws)])
    assert np.all(counts.sum(axis=1) == total)
    error = np.abs(counts.mean(axis=0) / total - shares)
    assert np.all(error < 4 * np.sqrt(shares * (1 - shares) / (total * draws)))
    variance = total * shares * (1 - shares)
    np.testing.assert_allclose(counts.var(axis=0), variance, rtol=4 * np.sqrt(2 / draws) * 1.2)
    assert np.array_equal(fb.draw_counts(shares, total, 7), counts[7])


def test_draw_counts_of_nothing_and_of_less():
    assert fb.draw_counts([0.5, 0.5], 0, 1).tolist() == [0, 0]
    with pytest.raises(ValueError, match="total: -3 is negative"):
        fb.draw_counts([0.5, 0.5], -3, 1)


# properties ---------------------------------------------------------------------------------------------------------


@st.composite
def worlds(draw, max_groups=20):
    n = draw(st.integers(2, max_groups))
    numbers = hnp.arrays(np.float64, n, elements=st.floats(0.0, 1.0, width=32))
    masses = draw(numbers.filter(lambda m: m.sum() > 1e-3)) * 1000
    measured = np.maximum(draw(numbers), 1e-3)
    return masses, measured


@pytest.mark.parametrize("rule", RULE_NAMES)
@settings(max_examples=40, deadline=None)
@given(world=worlds(), round_=st.integers(1, 30), agents=st.booleans())
def test_shares_stay_shares_under_any_rule(rule, world, round_, agents):
    masses, measured = world
    feedback = settings_of(rule, len(masses), agents=agents, noise=0.1, floor=0.01)
    after = move(PopulationState(tuple(masses)), measured, feedback, round_=round_)
    assert after.shares.sum() == pytest.approx(1.0, abs=1e-9)
    assert np.all(after.shares >= 0)
    if rule != "retention":
        assert sum(after.arrivals) == pytest.approx(masses.sum())


@pytest.mark.parametrize("rule", RULE_NAMES)
@settings(max_examples=40, deadline=None)
@given(world=worlds(), floor=st.floats(0.0, 1.0), agents=st.booleans(), round_=st.integers(1, 9))
def test_no_rule_leaves_a_group_below_the_floor(rule, world, floor, agents, round_):
    masses, measured = world
    floor /= len(masses)
    feedback = settings_of(rule, len(masses), agents=agents, floor=floor)
    after = move(PopulationState(tuple(masses)), measured, feedback, round_=round_)
    assert after.shares.sum() == pytest.approx(1.0)
    assert after.shares.min() >= floor - 1e-12
    if agents and rule == "retention":
        assert all(users == int(users) for users in after.arrivals)


@pytest.mark.parametrize("rule", RULE_NAMES)
@settings(max_examples=25, deadline=None)
@given(world=worlds(), data=st.data())
def test_permuting_groups_permutes_shares(rule, world, data):
    masses, measured = world
    order = np.array(data.draw(st.permutations(range(len(masses)))))
    feedback = settings_of(rule, len(masses))
    if rule == "schedule":
        moved = feedback.model_copy(update={"step": tuple(np.array(feedback.step)[order])})
    else:
        moved = feedback
    plain = move(PopulationState(tuple(masses)), measured, feedback, round_=2).shares
    permuted = move(PopulationState(tuple(masses[order])), measured[order], moved, round_=2).shares
    np.testing.assert_allclose(permuted, plain[order], atol=1e-12)


@pytest.mark.parametrize("rule", RULE_NAMES)
@pytest.mark.parametrize("ratio", [True, False])
def test_a_batch_is_its_rows(rule, ratio):
    draws = np.random.default_rng(3)
    masses, measured = draws.uniform(1, 100, (4, 5, 3)), draws.uniform(0.1, 1, (4, 5, 3))
    feedback = settings_of(rule, 3, ratio=ratio)
    initial = np.array([0.2, 0.3, 0.5])
    batch = fb.advance(masses, measured, feedback, initial_shares=initial, round_=2, seed=0)
    assert batch.shape == masses.shape
    for i in np.ndindex(4, 5):
        row = fb.advance(masses[i], measured[i], feedback, initial_shares=initial, round_=2, seed=0)
        np.testing.assert_allclose(batch[i], row, rtol=1e-12)


def test_settings_broadcast_over_a_grid():
    betas = np.array([0.0, 1.0, 2.0])[:, None]
    grid = formulas.softmax_choice(np.full((3, 2), 0.5), np.array([0.9, 0.1]), betas)
    for row, beta in zip(grid, (0.0, 1.0, 2.0), strict=True):
        np.testing.assert_allclose(row, formulas.softmax_choice([0.5, 0.5], [0.9, 0.1], beta), atol=1e-15)


def test_one_measurement_serves_a_batch():
    masses = np.array([[60.0, 40.0], [10.0, 90.0]])
    after = fb.advance(masses, [0.9, 0.5], Feedback(rule="linear"), initial_shares=[0.6, 0.4], round_=1, seed=0)
    alone = fb.advance(masses[1], [0.9, 0.5], Feedback(rule="linear"), initial_shares=[0.6, 0.4], round_=1, seed=0)
    np.testing.assert_allclose(after[1], alone, rtol=1e-12)
