import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.selection import formulas
from tests.theory import selection_theory as theory

VALUES = np.array([0.0, 0.5, 1.0])
LAWS = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])


def logit(p):
    return np.log(p / (1 - p))


# rejection sampling -------------------------------------------------------------------------------------------------


def test_acceptance_of_the_first_row():
    accept = formulas.vrs_acceptance([0.7, 0.3, 0.5, 0.2], 0.5, 0.9)
    np.testing.assert_allclose(accept, [0.67032, 0.301194, 0.449329, 0.246597], atol=1e-6)


def test_acceptance_broadcasts_over_temperatures():
    accept = formulas.vrs_acceptance([0.7, 0.9], np.array([[0.5], [0.1]]), 0.9)
    np.testing.assert_allclose(accept, [[np.exp(-0.4), 1.0], [np.exp(-2.0), 1.0]])


@pytest.mark.parametrize("beta", [0.0, -0.5, float("nan")])
def test_beta_must_be_positive(beta):
    with pytest.raises(ValueError, match=r"beta: .* must be above 0"):
        formulas.vrs_acceptance([0.1], beta, 1.0)
    with pytest.raises(ValueError, match="beta: "):
        theory.tilted_gaussian_shares([0.5, 0.5], [0.1, 0.0], 1.0, beta)
    with pytest.raises(ValueError, match="beta: "):
        formulas.penalised_shares([0.5, 0.5], [0.1, 0.0], [0.5, 0.5], beta, 1.0)


def test_bound_must_bound():
    with pytest.raises(ValueError, match=r"r_max: 1.0 does not bound the rewards, the largest is 1.2"):
        formulas.vrs_acceptance([0.3, 1.2], 0.5, 1.0)
    with pytest.raises(ValueError, match="r_max: "):
        formulas.vrs_acceptance([0.3, float("nan")], 0.5, 1.0)


def test_discrete_tilt():
    accept = theory.group_acceptance(LAWS, VALUES, 0.5)
    np.testing.assert_allclose(accept, [0.6374308889987552, 0.40128588976322205], atol=1e-12)
    assert formulas.accepted_shares([0.5, 0.5], accept)[0] == pytest.approx(0.613671505103147, abs=1e-12)
    assert accept.mean() == pytest.approx(0.5193583893809887, abs=1e-12)


@pytest.mark.parametrize(("candidates", "share"), [(1, 0.5), (2, 0.541449), (4, 0.583802)])
def test_per_prompt_maximum_is_not_the_exact_tilt(candidates, share):
    accept = theory.prompt_max_acceptance([0.5, 0.5], LAWS, VALUES, 0.5, candidates)
    assert formulas.accepted_shares([0.5, 0.5], accept)[0] == pytest.approx(share, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 3), st.integers(1, 4), st.floats(0.1, 2.0), st.integers(0, 2**32 - 1))
def test_per_prompt_maximum_against_enumeration(n_groups, candidates, beta, seed):
    draws = np.random.default_rng(seed)
    shares, values = draws.dirichlet(np.ones(n_groups)), np.sort(draws.uniform(size=3))
    laws = draws.dirichlet(np.ones(3), n_groups)
    mass = np.zeros(n_groups)
    for prompt in itertools.product(itertools.product(range(n_groups), range(3)), repeat=candidates):
        probability = np.prod([shares[g] * laws[g, v] for g, v in prompt])
        highest = max(values[v] for _, v in prompt)
        for g, v in prompt:
            mass[g] += probability * np.exp((values[v] - highest) / beta) / candidates
    accept = theory.prompt_max_acceptance(shares, laws, values, beta, candidates)
    np.testing.assert_allclose(shares * accept, mass, atol=1e-10)


def test_per_prompt_maximum_tends_to_the_tilt():
    accept = theory.prompt_max_acceptance([0.5, 0.5], LAWS, VALUES, 0.5, 200)
    np.testing.assert_allclose(accept, theory.group_acceptance(LAWS, VALUES, 0.5), atol=1e-12)
    with pytest.raises(ValueError, match=r"values: .* must ascend"):
        theory.prompt_max_acceptance([0.5, 0.5], LAWS, VALUES[::-1], 0.5, 2)


@pytest.mark.parametrize(
    ("shares", "means", "sds", "expected"),
    [
        ([0.5, 0.5], [0.2, 0.0], [0.5, 0.5], [0.598688, 0.401312]),
        ([0.8, 0.2], [0.0, 0.0], [0.5, 0.8], [0.647095, 0.352905]),
    ],
)
def test_gaussian_tilt(shares, means, sds, expected):
    np.testing.assert_allclose(theory.tilted_gaussian_shares(shares, means, sds, 0.5), expected, atol=1e-6)


def test_gaussian_tilt_over_a_grid_and_far_out():
    betas = np.array([[0.5], [1.0]])
    grid = theory.tilted_gaussian_shares([0.5, 0.5], [0.2, 0.0], 0.5, betas)
    np.testing.assert_allclose(logit(grid[:, 0]), [0.4, 0.2])
    np.testing.assert_allclose(theory.tilted_gaussian_shares([0.5, 0.5], [5000.0, 0.0], 1.0, 1.0), [1.0, 0.0])


@pytest.mark.parametrize(
    ("candidates", "share"),
    [(1, 0.5), (2, 0.615529), (4, 0.678181), (16, 0.719236), (4000, 0.731013), (10**12, 0.731059), (np.inf, 0.731059)],
)
def test_luce_choice(candidates, share):
    assert theory.luce_shares(0.5, [1.0, 0.0], candidates) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "rewards", "candidates", "expected"),
    [
        (0.4, [1.0, 0.0], 2000, 0.644288),
        # the preferred kind is picked wherever it occurs
        (0.4, [1e4, 0.0], 3, 1 - 0.6**3),
        (0.4, [np.inf, 0.0], 3, 1 - 0.6**3),
        (0.4, [0.0, np.inf], 3, 0.4**3),
        (0.4, [-900.0, 900.0], 3, 0.4**3),
        # a kind that is drawn about once in ten rounds, whatever its odds
        (1e-10, [60.0, 0.0], 10**9, 1 - np.exp(-0.1)),
        (0.0, [900.0, 0.0], 10**9, 0.0),
        (1.0, [0.0, 900.0], 7, 1.0),
        (0.3, [0.0, 0.0], 10**7, 0.3),
    ],
)
def test_luce_choice_far_out(share, rewards, candidates, expected):
    assert theory.luce_shares(share, rewards, candidates) == pytest.approx(expected, abs=1e-6)


def test_luce_choice_is_one_curve_where_its_sum_is_replaced_by_an_integral(monkeypatch):
    exact = theory.luce_shares(0.3, [1.0, 0.0], 60_000_000)
    monkeypatch.setattr(theory, "LUCE_TERMS", 4001)
    assert theory.luce_shares(0.3, [1.0, 0.0], 60_000_000) == pytest.approx(float(exact), abs=1e-9)


@pytest.mark.parametrize(
    ("share", "rewards", "candidates", "message"),
    [
        (1.2, [1.0, 0.0], 3, r"share: 1.2 holds a number outside \[0, 1\]"),
        (0.2, [np.inf, np.inf], 3, "rewards: .* undefined"),
        (0.2, [1.0, 0.0, 0.0], 3, r"rewards: shape \(3,\)"),
        (0.2, [1.0, 0.0], 0, "candidates: 0 must be"),
        (0.2, [1.0, 0.0], 2.5, "candidates: 2.5 must be"),
    ],
)
def test_luce_choice_of_nothing(share, rewards, candidates, message):
    with pytest.raises(ValueError, match=message):
        theory.luce_shares(share, rewards, candidates)


def test_luce_choice_over_a_grid():
    grid = theory.luce_shares([0.2, 0.7], [0.3, -0.4], 3)
    assert grid.shape == (2,)
    assert grid[1] == pytest.approx(float(theory.luce_shares(0.7, [0.3, -0.4], 3)))


# best of n, top fraction --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "divergence", "bound"),
    [
        (1, 0.0, 0.0),
        (2, 0.13081203594113697, 0.1931471805599453),
        (4, 0.45935552185348594, 0.6362943611198906),
        (16, 0.69296269650142, 1.8350887222397811),
    ],
)
def test_best_of_n_of_a_fair_coin(n, divergence, bound):
    assert theory.best_of_n_divergence([0.5, 0.5], n) == pytest.approx(divergence, abs=1e-9)
    assert theory.best_of_n_divergence_bound(n) == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize(("n", "bound"), [(8, 1.2044415416798357), (64, 3.1745080833596715)])
def test_best_of_n_bound(n, bound):
    assert theory.best_of_n_divergence_bound(n) == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize(("size", "divergence"), [(10, 0.6288251363778252), (1000, 0.6362936111206053)])
def test_best_of_n_nears_its_bound_without_ties(size, divergence):
    assert theory.best_of_n_divergence(np.full(size, 1 / size), 4) == pytest.approx(divergence, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=8).filter(sum), st.integers(1, 20))
def test_best_of_n_is_a_law_below_its_bound(masses, n):
    law = np.array(masses) / sum(masses)
    best = theory.best_of_n_law(law, n)
    assert best.sum() == pytest.approx(1)
    assert np.all(best >= -1e-12)
    assert -1e-9 <= theory.best_of_n_divergence(law, n) <= theory.best_of_n_divergence_bound(n) + 1e-9
    np.testing.assert_allclose(theory.best_of_n_law([law, law[::-1]], n)[0], best)


@pytest.mark.parametrize(
    ("shares", "means", "kappa", "tau", "share"),
    [
        ([0.5, 0.5], [0.5, 0.0], 0.2, 1.1181310343848567, 0.670611208013549),
        ([0.8, 0.2], [0.3, 0.0], 0.1, 1.530461430420286, 0.8740974465918085),
        ([0.5, 0.5], [0.5, 0.0], 0.05, 1.9455806260811748, 0.7414743194676396),
    ],
)
def test_top_fraction(shares, means, kappa, tau, share):
    threshold, kept = formulas.top_fraction(shares, means, 1.0, kappa)
    assert threshold == pytest.approx(tau, abs=1e-6)
    assert kept[0] == pytest.approx(share, abs=1e-6)


def test_top_fraction_over_a_grid():
    means = np.array([[0.5, 0.0], [0.3, 0.0]])
    tau, kept = formulas.top_fraction([[0.5, 0.5], [0.8, 0.2]], means, [1.0, 1.0], [0.2, 0.1])
    np.testing.assert_allclose(tau, [1.118131, 1.530461], atol=1e-6)
    np.testing.assert_allclose(kept[:, 0], [0.670611, 0.874097], atol=1e-6)


@pytest.mark.parametrize(("n", "share"), [(1, 0.5), (4, 0.625726), (16, 0.709602)])
def test_best_of_n_shares(n, share):
    shares = formulas.best_of_n_shares([0.5, 0.5], [0.5, 0.0], 1.0, n)
    assert shares[0] == pytest.approx(share, abs=1e-6)
    assert shares.sum() == pytest.approx(1.0, abs=1e-10)


def test_best_of_n_where_one_group_always_wins():
    shares = formulas.best_of_n_shares([0.5, 0.5], [100.0, 0.0], 1.0, 4)
    np.testing.assert_allclose(shares, [0.9375, 0.0625], atol=1e-9)


def test_best_of_n_shares_with_a_narrow_group():
    # against a Monte-Carlo draw
    draws, n, size = np.random.default_rng(1), 3, 200_000
    group = (draws.uniform(size=(size, n)) > 0.3).astype(int)
    rewards = draws.normal(np.array([0.2, 0.0])[group], np.array([0.01, 1.0])[group])
    best = group[np.arange(size), rewards.argmax(axis=1)]
    share = formulas.best_of_n_shares([0.3, 0.7], [0.2, 0.0], [0.01, 1.0], n)[0]
    assert (best == 0).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / size))


def test_quotas_cost_reward():
    free = theory.top_fraction_mean([0.5, 0.5], [0.5, 0.0], 1.0, 0.2)
    held = theory.quota_mean([0.5, 0.5], [0.5, 0.0], 1.0, 0.2, [0.5, 0.5])
    assert free == pytest.approx(1.693006347026716, abs=1e-6)
    assert held == pytest.approx(1.6498096020390416, abs=1e-6)
    # quotas at the shares that the free choice has anyway cost nothing
    _, kept = formulas.top_fraction([0.5, 0.5], [0.5, 0.0], 1.0, 0.2)
    assert theory.quota_mean([0.5, 0.5], [0.5, 0.0], 1.0, 0.2, kept) == pytest.approx(float(free), abs=1e-9)
    with pytest.raises(ValueError, match="exceeds what the groups have"):
        theory.quota_mean([0.9, 0.1], [0.5, 0.0], 1.0, 0.4, [0.5, 0.5])


# group-aware --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "weights", "efficiency", "sample_size"),
    [([0.8, 0.2], [0.625, 2.5], 0.4, 0.64), ([0.6, 0.3, 0.1], [0.555556, 1.111111, 3.333333], 0.3, 0.6)],
)
def test_importance_weights(shares, weights, efficiency, sample_size):
    target = np.full(len(shares), 1 / len(shares))
    np.testing.assert_allclose(formulas.importance_weights(shares, target), weights, atol=1e-6)
    assert theory.importance_efficiency(shares, target) == pytest.approx(efficiency)
    assert theory.importance_sample_size(shares, target) == pytest.approx(sample_size)
    rows = np.repeat(formulas.importance_weights(shares, target), np.round(np.array(shares) * 1000).astype(int))
    assert formulas.effective_sample_size(rows) == pytest.approx(1000 * sample_size)


def test_weights_of_an_empty_group_raise():
    with pytest.raises(ValueError, match=r"target: asks for shares \[0.5, 0.5\] but the groups have \[1.0, 0.0\]"):
        formulas.importance_weights([1.0, 0.0], [0.5, 0.5])
    with pytest.raises(ValueError, match="accepted mass"):
        formulas.calibrated_multipliers([0.5, 0.5], [0.5, 0.5], [0.3, 0.0])


def test_a_group_that_is_not_wanted_may_be_empty():
    assert formulas.importance_weights([1.0, 0.0], [1.0, 0.0]).tolist() == [1.0, 0.0]
    assert formulas.importance_weights([0.5, 0.5], [1.0, 0.0]).tolist() == [2.0, 0.0]
    assert theory.importance_efficiency([0.5, 0.5], [1.0, 0.0]) == 0.5
    assert formulas.calibrated_multipliers([0.5, 0.5], [1.0, 0.0], [0.2, 0.0]).tolist() == [1.0, 0.0]


def test_calibrated_multipliers():
    accept = theory.group_acceptance(LAWS, VALUES, 0.5)
    multipliers = formulas.calibrated_multipliers([0.5, 0.5], [0.5, 0.5], accept)
    np.testing.assert_allclose(multipliers, [0.6295363100359664, 1.0], atol=1e-9)
    np.testing.assert_allclose(formulas.accepted_shares([0.5, 0.5], accept * multipliers), [0.5, 0.5], atol=1e-12)
    assert (accept * multipliers).mean() == pytest.approx(0.401285889763222, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_calibration_hits_any_target(n_groups, seed):
    draws = np.random.default_rng(seed)
    shares, target = draws.dirichlet(np.full(n_groups, 2.0), 2)
    accept = draws.uniform(0.01, 1, n_groups)
    multipliers = formulas.calibrated_multipliers(shares, target, accept)
    assert multipliers.max() == pytest.approx(1.0)
    np.testing.assert_allclose(formulas.accepted_shares(shares, accept * multipliers), target, atol=1e-12)


def walk_penalty(penalty, rounds, form="log", start=0.5, target=0.5):
    shares, path = np.array([start, 1 - start]), [start]
    for _ in range(rounds):
        shares = formulas.penalised_shares(shares, [0.2, 0.0], [target, 1 - target], 0.5, penalty, form)
        path.append(shares[0])
    return np.array(path)


@pytest.mark.parametrize(
    ("penalty", "shares", "end"),
    [
        (0.25, [0.598688, 0.645656, 0.668188, 0.679179], 0.689974),
        (0.5, [0.598688, 0.598688, 0.598688, 0.598688], 0.598688),
        (0.75, [0.598688, 0.549834, 0.574443, 0.562177], 0.566274),
        (1.05, [0.598688, 0.490001, 0.609212, 0.477914], 0.0),
        (0.0, [0.598688, 0.689974, 0.768525, 0.832018, 0.880797], 1.0),
    ],
)
def test_penalty_paths(penalty, shares, end):
    path = walk_penalty(penalty, 80)
    np.testing.assert_allclose(path[1 : 1 + len(shares)], shares, atol=1e-6)
    assert path[80] == pytest.approx(end, abs=1e-6)


def test_too_strong_a_penalty_swings_ever_wider():
    path = walk_penalty(1.05, 60)
    swings = np.abs(np.diff(logit(path[:30])))
    np.testing.assert_allclose(swings[1:] / swings[:-1], 1.1, atol=1e-6)
    assert path[59] > 1 - 1e-6 and path[60] < 1e-6


def test_linear_penalty_path():
    path = walk_penalty(1.0, 50, form="linear")
    np.testing.assert_allclose(path[1:4], [0.598687660112452, 0.5999482192291248, 0.5999979298843412], atol=1e-9)
    assert path[50] == pytest.approx(0.6, abs=1e-9)
    with pytest.raises(ValueError, match="'square' is neither log nor linear"):
        walk_penalty(1.0, 1, form="square")


def test_penalty_leaves_an_extinct_group_extinct():
    after = formulas.penalised_shares([0.0, 0.4, 0.6], [0.1, 0.2, 0.2], [0.2, 0.3, 0.5], 0.5, 0.25)
    assert after[0] == 0
    assert after.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("radius", "value"), [(0.5, 1.289897948556646), (1.0, 1.492820323027551)])
def test_chi_square_ball_inside_the_simplex(radius, value):
    worst = theory.chi_square_worst_case([0.2, 0.3, 0.5], [2.0, 1.0, 0.2], radius)
    assert worst.primal == pytest.approx(value, abs=1e-9)
    assert worst.dual == pytest.approx(value, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.floats(0.01, 20.0), st.integers(0, 2**32 - 1))
def test_chi_square_ball_primal_is_dual_and_feasible(n_groups, radius, seed):
    draws = np.random.default_rng(seed)
    shares, losses = draws.dirichlet(np.full(n_groups, 3.0)), draws.uniform(-1, 3, n_groups)
    worst = theory.chi_square_worst_case(shares, losses, radius)
    q = np.array(worst.shares)
    assert worst.primal == pytest.approx(worst.dual, abs=1e-8)
    assert q.sum() == pytest.approx(1) and np.all(q >= 0)
    assert ((q - shares) ** 2 / shares).sum() <= radius + 1e-8
    # no other point of the dual lies below, and no feasible mixture above
    for eta in np.linspace(-5, losses.max(), 200):
        bound = np.sqrt((1 + radius) * (shares @ np.maximum(losses - eta, 0) ** 2)) + eta
        assert bound >= worst.dual - 1e-8


def test_chi_square_ball_that_reaches_the_corner():
    worst = theory.chi_square_worst_case([0.2, 0.3, 0.5], [2.0, 2.0, 0.2], 5.0)
    assert (worst.primal, worst.dual) == (2.0, 2.0)
    np.testing.assert_allclose(worst.shares, [0.4, 0.6, 0.0])
    assert theory.chi_square_worst_case([0.5, 0.5], [1.0, 1.0], 0.1).primal == 1.0
    with pytest.raises(ValueError, match=r"radius: 0.0 must be above 0"):
        theory.chi_square_worst_case([0.5, 0.5], [1.0, 2.0], 0.0)


def test_exponentiated_group_weights():
    weights = np.array([0.5, 0.5])
    for _ in range(3):
        weights = theory.exponentiated_weights(weights, [1.0, 2.0], 0.1)
    np.testing.assert_allclose(weights, [0.425557, 0.574443], atol=1e-6)
