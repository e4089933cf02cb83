import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scpl_ray.config import Selection
from scpl_ray.selection import formulas
from scpl_ray.selection.strategies import STRATEGIES, Candidates, completions_per_group, select
from tests.theory import selection_theory as theory
from tests.theory.closed_forms import penalty_fixed_point, selection_drift

MATRIX = np.array(
    [
        [0.7, 0.3, 0.5, 0.2],
        [0.4, 0.8, 0.6, 0.5],
        [0.9, 0.3, 0.4, 0.7],
        [0.2, 0.5, 0.8, 0.6],
        [0.5, 0.4, 0.3, 0.6],
    ]
)
NAMES = sorted(STRATEGIES)


def make(rewards, groups, prompts=None, n_groups=2, ids=None):
    n = len(rewards)
    prompts = np.arange(n) if prompts is None else prompts
    return Candidates(
        completion_ids=[f"q{p:05d}-s{i}" for i, p in enumerate(prompts)] if ids is None else ids,
        prompts=np.asarray(prompts),
        groups=np.asarray(groups),
        rewards=np.asarray(rewards, dtype=float),
        n_groups=n_groups,
    )


def matrix(group_of_prompt=(0, 0, 0, 1, 1)):
    prompts = np.repeat(np.arange(5), 4)
    return make(MATRIX.ravel(), np.array(group_of_prompt)[prompts], prompts)


def run(candidates, round_=1, seed=0, initial=None, **selection):
    initial = np.full(candidates.n_groups, 1 / candidates.n_groups) if initial is None else initial
    return select(candidates, Selection(**selection), round_=round_, seed=seed, initial_shares=initial)


def crowd(shares, means, sds, size, seed=0):
    """Completions of a Gaussian reward per group, one per prompt, counts as near the shares as they get."""
    draws = np.random.default_rng(seed)
    counts = np.round(np.array(shares) * size).astype(int)
    groups = np.repeat(np.arange(len(counts)), counts)
    rewards = draws.normal(np.array(means)[groups], np.array(sds)[groups])
    return make(rewards, groups, n_groups=len(counts), ids=[f"{seed}-{i}" for i in range(len(groups))])


def within(observed, expected, n):
    return abs(observed - expected) < 4 * np.sqrt(expected * (1 - expected) / n)


def logit(p):
    return np.log(p / (1 - p))


# the worked matrix --------------------------------------------------------------------------------------------------


def test_tpp_takes_the_best_of_each_prompt_and_keeps_prompt_shares():
    kept = run(matrix(), strategy="tpp")
    assert (kept.indices % 4 + 1).tolist() == [1, 2, 1, 3, 4]
    assert MATRIX.ravel()[kept.indices].mean() == pytest.approx(0.76)
    assert kept.shares_after.tolist() == kept.shares_before.tolist() == [0.6, 0.4]


def test_top_takes_the_best_overall_and_moves_shares():
    kept = run(matrix(), strategy="top", keep_fraction=0.25)
    assert kept.indices.tolist() == [0, 5, 8, 11, 14]
    assert MATRIX.ravel()[kept.indices].mean() == pytest.approx(0.78)
    assert np.bincount(kept.indices // 4, minlength=5).tolist() == [1, 1, 2, 1, 0]
    np.testing.assert_allclose(kept.shares_after, [0.8, 0.2])
    assert kept.acceptance_rate == 0.25


def test_order_of_the_top_breaks_ties_by_prompt_then_candidate():
    assert matrix().best_first[:5].tolist() == [8, 5, 14, 0, 11]
    assert run(matrix(), strategy="top", keep_fraction=0.2).indices.tolist() == [0, 5, 8, 14]
    tied = make([1.0] * 12, [0] * 11 + [1], prompts=[0] * 12, ids=[f"q-s{i}" for i in range(12)][::-1])
    # candidates are ordered by number: s2 before s10
    assert [tied.completion_ids[i] for i in tied.best_first] == [f"q-s{i}" for i in range(12)]


def test_ids_that_differ_only_in_leading_zeros_have_an_order():
    first = make([1.0, 1.0], [0, 1], prompts=[0, 0], ids=["s1", "s01"])
    second = make([1.0, 1.0], [1, 0], prompts=[0, 0], ids=["s01", "s1"])
    assert [first.completion_ids[i] for i in first.best_first] == [second.completion_ids[i] for i in second.best_first]


@pytest.mark.parametrize(("beta", "rate", "mean"), [(0.5, 0.496113, 0.58919), (0.1, 0.112926, 0.803624)])
def test_vrs_on_the_matrix(beta, rate, mean):
    """Rate and mean reward over many seeds are those of the acceptance probabilities."""
    accept = formulas.vrs_acceptance(MATRIX, beta, MATRIX.max())
    assert accept.mean() == pytest.approx(rate, abs=1e-6)
    assert (accept * MATRIX).sum() / accept.sum() == pytest.approx(mean, abs=1e-6)
    prompt_shares = {
        0.1: [0.069533, 0.196022, 0.506769, 0.193442, 0.034234],
        0.5: [0.16805, 0.220187, 0.235772, 0.207963, 0.168028],
    }
    np.testing.assert_allclose(accept.sum(axis=1) / accept.sum(), prompt_shares[beta], atol=1e-6)
    rows = [run(matrix(), strategy="vrs", beta=beta, seed=seed).indices for seed in range(400)]
    hits = np.bincount(np.concatenate(rows), minlength=20) / 400
    assert np.all(np.abs(hits - accept.ravel()) <= 4 * np.sqrt(accept.ravel() * (1 - accept.ravel()) / 400) + 1e-12)


@pytest.mark.parametrize("r_max", ["bound", "batch", "prompt"])
def test_r_max_is_the_one_configured(r_max):
    bound = {"bound": 1.0, "batch": 0.9, "prompt": MATRIX.max(axis=1, keepdims=True)}[r_max]
    accept = np.broadcast_to(np.exp((MATRIX - bound) / 0.5), MATRIX.shape).ravel()
    rows = []
    for seed in range(400):
        rows.append(run(matrix(), strategy="vrs", r_max=r_max, seed=seed).indices)
    hits = np.bincount(np.concatenate(rows), minlength=20) / 400
    assert np.all(np.abs(hits - accept) <= 4 * np.sqrt(accept * (1 - accept) / 400) + 1e-12)


def test_best_of_n_looks_at_the_first_n_candidates_only():
    assert (run(matrix(), strategy="best_of_n", best_of=4).indices % 4).tolist() == [0, 1, 0, 2, 3]
    assert (run(matrix(), strategy="best_of_n", best_of=3).indices % 4).tolist() == [0, 1, 0, 2, 0]
    assert (run(matrix(), strategy="best_of_n", best_of=1).indices % 4).tolist() == [0] * 5
    with pytest.raises(ValueError, match=r"selection\.best_of: 5 but a prompt has 4 candidates"):
        run(matrix(), strategy="best_of_n", best_of=5)


def test_threshold_keeps_rewards_at_or_above():
    kept = run(matrix(), strategy="threshold", threshold=0.7)
    assert sorted(MATRIX.ravel()[kept.indices]) == [0.7, 0.7, 0.8, 0.8, 0.9]
    with pytest.raises(ValueError, match=r"selection\.threshold: no reward reaches 0.95, the largest is 0.9"):
        run(matrix(), strategy="threshold", threshold=0.95)


def test_none_keeps_everything():
    kept = run(matrix(), strategy="none")
    assert kept.indices.tolist() == list(range(20))
    assert kept.weights.tolist() == [1.0] * 20
    assert (kept.acceptance_rate, kept.effective_sample_size, kept.strategy) == (1.0, 20.0, "none")


def test_random_is_uniform_and_differs_by_round_and_seed():
    rows = [run(matrix(), strategy="random", keep_fraction=0.25, seed=seed).indices for seed in range(800)]
    hits = np.bincount(np.concatenate(rows), minlength=20) / 800
    assert np.all(np.abs(hits - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 800))
    assert rows[0].tolist() != rows[1].tolist()
    assert rows[0].tolist() != run(matrix(), strategy="random", keep_fraction=0.25, round_=2).indices.tolist()
    assert rows[0].tolist() == run(matrix(), strategy="random", keep_fraction=0.25).indices.tolist()


def test_a_fraction_keeps_no_more_than_it_says():
    assert len(run(matrix(), strategy="top", keep_fraction=0.29).indices) == 5
    assert len(run(make(np.arange(100.0), [0, 1] * 50), strategy="top", keep_fraction=0.29).indices) == 29
    with pytest.raises(ValueError, match=r"selection\.keep_fraction: 0.04 of 20 completions keeps none"):
        run(matrix(), strategy="top", keep_fraction=0.04)


# shares, against the closed forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shares", "means", "sds", "expected"),
    [
        ([0.5, 0.5], [0.2, 0.0], [0.5, 0.5], 0.598688),
        ([0.8, 0.2], [0.0, 0.0], [0.5, 0.8], 0.647095),
        ([0.5, 0.5], [0.0, 0.0], [0.25, 0.25], 0.5),
    ],
)
def test_vrs_moves_shares_by_mean_and_by_variance(shares, means, sds, expected):
    candidates = crowd(shares, means, sds, 60_000, seed=4)
    # a bound that hardly any draw exceeds; the few that do are clipped
    rewards = np.minimum(candidates.rewards, 2.2)
    kept = run(dataclasses.replace(candidates, rewards=rewards), strategy="vrs", r_max="bound", reward_bound=2.2)
    assert theory.tilted_gaussian_shares(shares, means, sds, 0.5)[0] == pytest.approx(expected, abs=1e-6)
    assert within(kept.shares_after[0], expected, len(kept.indices))


def test_vrs_of_discrete_rewards_with_bound_and_per_prompt_maximum():
    draws, n = np.random.default_rng(8), 4
    laws = np.array([[0.2, 0.3, 0.5], [0.4, 0.4, 0.2]])
    prompts = np.repeat(np.arange(8000), n)
    groups = draws.integers(0, 2, len(prompts))
    values = np.array([0.0, 0.5, 1.0])
    rewards = values[(draws.uniform(size=len(prompts))[:, None] > np.cumsum(laws, axis=1)[groups]).sum(axis=1)]
    candidates = make(rewards, groups, prompts)
    exact = run(candidates, strategy="vrs", r_max="bound", reward_bound=1.0)
    assert within(exact.shares_after[0], 0.613672, len(exact.indices))
    assert within(exact.acceptance_rate, 0.519358, len(prompts))
    by_prompt = run(candidates, strategy="vrs", r_max="prompt")
    assert within(by_prompt.shares_after[0], 0.583802, len(by_prompt.indices))
    calibrated = run(candidates, strategy="calibrated", r_max="bound", reward_bound=1.0)
    assert within(calibrated.shares_after[0], 0.5, len(calibrated.indices))
    assert within(calibrated.acceptance_rate, 0.401286, len(prompts))


@pytest.mark.parametrize(("kappa", "expected"), [(0.2, 0.670611), (0.05, 0.741474)])
def test_top_fraction_of_two_gaussians(kappa, expected):
    kept = run(crowd([0.5, 0.5], [0.5, 0.0], [1.0, 1.0], 60_000, seed=2), strategy="top", keep_fraction=kappa)
    assert within(kept.shares_after[0], expected, len(kept.indices))


@pytest.mark.parametrize(("n", "expected"), [(1, 0.5), (4, 0.625726), (16, 0.709602)])
def test_best_of_n_of_two_gaussians(n, expected):
    draws, size = np.random.default_rng(n), 32_000 // n
    prompts = np.repeat(np.arange(size), n)
    groups = draws.integers(0, 2, len(prompts))
    rewards = draws.normal(np.array([0.5, 0.0])[groups], 1.0)
    kept = run(make(rewards, groups, prompts), strategy="best_of_n", best_of=n)
    assert within(kept.shares_after[0], expected, size)


def test_quotas_cost_reward():
    candidates = crowd([0.5, 0.5], [0.5, 0.0], [1.0, 1.0], 60_000, seed=6)
    free = run(candidates, strategy="top", keep_fraction=0.2)
    held = run(candidates, strategy="quotas", keep_fraction=0.2)
    assert held.shares_after.tolist() == [0.5, 0.5]
    assert candidates.rewards[free.indices].mean() == pytest.approx(1.693006, abs=0.02)
    assert candidates.rewards[held.indices].mean() == pytest.approx(1.64981, abs=0.02)


# loops of selection: the mechanism of choice, and what the remedies do to it -----------------------------------------


def loop(rounds, size, means, sds, start=0.5, seed=0, **selection):
    """Shares of kind A when each round's model draws kinds as the last round's kept data has them."""
    path, kept = [start], []
    for t in range(1, rounds + 1):
        candidates = crowd([path[-1], 1 - path[-1]], means, sds, size, seed=1000 * seed + t)
        result = run(candidates, round_=t, seed=seed, initial=[start, 1 - start], **selection)
        path.append(float(result.shares_after[0]))
        kept.append(len(result.indices))
    return np.array(path), np.array(kept)


@pytest.mark.parametrize(("means", "sds"), [([0.1, 0.0], [0.25, 0.25]), ([0.0, 0.0], [0.35, 0.2])])
def test_biased_rewards_move_log_odds_by_the_predicted_slope(means, sds):
    size, rounds = 10_000, 3
    path, kept = loop(rounds, size, means, sds, strategy="vrs")
    drift = float(selection_drift(means[0] - means[1], sds, 0.5))
    error = np.sqrt((1 / (path * (1 - path)))[1:] / kept)
    assert np.all(np.abs(np.diff(logit(path)) - drift) < 4 * error)
    assert drift > 0.1
    control, _ = loop(rounds, size, means, sds, strategy="vrs", matched_control=True)
    assert np.all(np.abs(np.diff(logit(control))) < 4 * error * 1.1)


def test_quotas_and_weights_hold_a_share_and_a_penalty_does_not():
    size, means, sds = 10_000, [0.2, 0.0], [0.2, 0.2]
    held, _ = loop(4, size, means, sds, start=0.7, strategy="quotas", target=(0.7, 0.3))
    np.testing.assert_allclose(held, 0.7, atol=1 / (0.25 * size) + 1e-9)
    weighted, _ = loop(4, size, means, sds, start=0.7, strategy="importance", target="initial")
    np.testing.assert_allclose(weighted, 0.7, atol=1e-9)
    reweighted, _ = loop(4, size, means, sds, start=0.7, strategy="reweight", target="initial")
    np.testing.assert_allclose(reweighted, 0.7, atol=1e-9)
    calibrated, kept = loop(4, size, means, sds, start=0.7, strategy="calibrated", target="initial")
    assert all(within(s, 0.7, n) for s, n in zip(calibrated[1:], kept, strict=True))
    penalised, kept = loop(8, size, means, sds, start=0.5, strategy="penalty", penalty=0.25)
    expected = [0.598688, 0.645656, 0.668188, 0.679179]
    # errors of earlier rounds are halved each round, so they add at most a factor 2 / sqrt(3)
    for share, want, n in zip(penalised[1:5], expected, kept, strict=False):
        assert abs(share - want) < 4 * 1.16 * np.sqrt(want * (1 - want) / n)
    assert abs(penalised[8] - float(penalty_fixed_point(0.5, 0.2, 0.25))) < 0.03
    assert abs(penalised[8] - 0.5) > 0.1


def test_importance_weights_hold_the_target_in_expectation_when_the_data_are_redrawn():
    """Training draws rows by weight: the mean share over many draws is the target."""
    candidates = crowd([0.8, 0.2], [0.0, 0.0], [1.0, 1.0], 1000)
    kept = run(candidates, strategy="importance")
    law = kept.weights / kept.weights.sum()
    draws = np.random.default_rng(1)
    redrawn = [(candidates.groups[draws.choice(kept.indices, 100, p=law)] == 0).mean() for _ in range(400)]
    assert within(np.mean(redrawn), 0.5, 400 * 100)


# remedies -----------------------------------------------------------------------------------------------------------


def test_importance_weights_and_their_sample_size():
    kept = run(make(np.zeros(10), [0] * 8 + [1] * 2), strategy="importance")
    np.testing.assert_allclose(kept.weights, [0.625] * 8 + [2.5] * 2)
    assert kept.effective_sample_size == pytest.approx(6.4)
    np.testing.assert_allclose(kept.shares_before, [0.8, 0.2])
    np.testing.assert_allclose(kept.shares_after, [0.5, 0.5])


@pytest.mark.parametrize("strategy", ["importance", "calibrated", "reweight", "quotas"])
def test_a_group_that_is_not_wanted_is_not_kept(strategy):
    kept = run(make(np.linspace(0, 1, 30), [0, 1, 2] * 10, n_groups=3), strategy=strategy, target=(0.5, 0.5, 0.0))
    assert kept.shares_after[2] == 0
    assert kept.weights.mean() == pytest.approx(1)
    assert kept.weights.min() > 0


@pytest.mark.parametrize("strategy", ["importance", "calibrated", "penalty", "reweight"])
def test_an_empty_group_is_an_error(strategy):
    candidates = make([0.5, 0.6, 0.7], [0, 0, 0])
    with pytest.raises(ValueError, match=r"selection\.target: wants share 0.5 of group 1, of which nothing is"):
        run(candidates, strategy=strategy)


def test_a_group_that_is_never_accepted_is_an_error():
    candidates = make([1.0] * 50 + [-5000.0] * 50, [0] * 50 + [1] * 50)
    with pytest.raises(ValueError, match=r"nothing is accepted, every acceptance underflows; raise selection\.beta"):
        run(candidates, strategy="calibrated")
    with pytest.raises(ValueError, match=r"group 1, of which nothing is accepted; raise selection\.beta"):
        run(candidates, strategy="reweight")


def test_quotas_by_largest_remainder_take_the_best():
    candidates = make(np.arange(20) / 20, [0] * 15 + [1] * 5)
    kept = run(candidates, strategy="quotas", keep_fraction=0.35, target=(0.5, 0.5))
    assert kept.indices.tolist() == [11, 12, 13, 14, 17, 18, 19]


def test_infeasible_quotas_say_how_much_is_feasible():
    candidates = make(np.zeros(20), [0] * 15 + [1] * 5)
    with pytest.raises(ValueError, match=r"keep_fraction: 0.6 asks for \[6, 6\] per group of \[15, 5\]; .* about 0.5$"):
        run(candidates, strategy="quotas", keep_fraction=0.6)
    assert run(candidates, strategy="quotas", keep_fraction=0.5).shares_after.tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match=r"per group of \[3, 0\]"):
        run(make([0.5, 0.6, 0.7], [0, 0, 0]), strategy="quotas", keep_fraction=0.7)


def test_penalty_with_a_bound_bounds_the_penalised_rewards():
    """Acceptance ratios of the groups are those of the log excess, whatever the bound."""
    candidates = make(np.full(4000, 0.5), [0] * 3000 + [1] * 1000)
    kept = run(candidates, strategy="penalty", penalty=0.25, r_max="bound", reward_bound=0.5)
    # logit s' = logit .75 - (lambda / beta) (logit .75 - 0) = half of it
    expected = 1 / (1 + np.exp(-0.5 * logit(0.75)))
    assert within(kept.shares_after[0], expected, len(kept.indices))
    # the group below its target is accepted surely, the other with (s_B tau_A / (s_A tau_B)) ^ (lambda / beta)
    assert np.sum(candidates.groups[kept.indices] == 1) == 1000
    assert within(np.sum(candidates.groups[kept.indices] == 0) / 3000, 3**-0.5, 3000)


def test_penalty_needs_targets_above_zero():
    with pytest.raises(ValueError, match=r"selection\.target: \[1.0, 0.0\] holds a 0"):
        run(matrix(), strategy="penalty", target=(1.0, 0.0))


def test_targets():
    candidates = make(np.zeros(10), [0] * 5 + [1] * 5)
    for target, expected in (("balanced", [0.5, 0.5]), ("initial", [0.7, 0.3]), ((0.9, 0.1), [0.9, 0.1])):
        kept = run(candidates, strategy="importance", target=target, initial=[0.7, 0.3])
        np.testing.assert_allclose(kept.shares_after, expected)


@pytest.mark.parametrize("strategy", NAMES)
def test_every_strategy_draws_as_many_completions_in_all(strategy):
    for quality in ([0.9, 0.8], [0.5, 0.5], [1.0, 1.0], [1.0, 0.2], [0.0, 0.95]):
        for queries in ([600, 400], [92, 8], [0, 7], [7, 0]):
            totals = completions_per_group(Selection(strategy=strategy), 4, quality, queries)
            assert totals.sum() == 4 * sum(queries)
            if strategy != "reweight":
                assert totals.tolist() == [4 * n for n in queries]


@pytest.mark.parametrize("quality", [[0.5, float("nan")], [0.5, 1.1], [-0.1, 0.5]])
def test_quality_must_be_measured_where_it_steers(quality):
    with pytest.raises(ValueError, match=r"quality: .* NaN or a number outside"):
        completions_per_group(Selection(strategy="reweight"), 4, quality, [6, 4])
    assert completions_per_group(Selection(strategy="vrs"), 4, quality, [6, 4]).tolist() == [24, 16]
    with pytest.raises(ValueError, match="samples_per_prompt: 0 is below 1"):
        completions_per_group(Selection(strategy="reweight"), 0, [0.5, 0.5], [6, 4])


# controls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", NAMES)
def test_control_keeps_what_the_strategy_fixes_but_not_by_reward(strategy):
    draws = np.random.default_rng(0)
    prompts = np.repeat(np.arange(300), 4)
    groups = np.repeat((np.arange(300) < 200).astype(int), 4)
    candidates = make(draws.normal(0.5, 0.25, 1200) + 0.2 * groups, groups, prompts)
    kept = run(candidates, strategy=strategy)
    control = run(candidates, strategy=strategy, matched_control=True)
    assert control.strategy == f"random control of {strategy}"
    assert len(control.indices) == len(kept.indices) == len(set(control.indices.tolist()))
    assert control.acceptance_rate == kept.acceptance_rate
    fixes = {"tpp": "prompts", "best_of_n": "prompts"} | dict.fromkeys(
        ("importance", "quotas", "calibrated", "reweight"), "groups"
    )
    fixes = fixes.get(strategy, "size")
    if fixes == "prompts":
        assert np.array_equal(np.bincount(prompts[control.indices]), np.bincount(prompts[kept.indices]))
    if fixes in ("groups", "prompts"):
        assert np.array_equal(np.bincount(groups[control.indices]), np.bincount(groups[kept.indices]))
        np.testing.assert_allclose(control.shares_after, kept.shares_after)
        assert control.effective_sample_size == pytest.approx(kept.effective_sample_size)
    if strategy not in ("none", "random", "importance"):
        within_groups = [candidates.rewards[control.indices][groups[control.indices] == g].mean() for g in (0, 1)]
        everyone = [candidates.rewards[groups == g].mean() for g in (0, 1)]
        np.testing.assert_allclose(within_groups, everyone, atol=0.08)
        assert candidates.rewards[kept.indices].mean() > candidates.rewards[control.indices].mean() + 0.04


def test_control_of_tpp_is_uniform_within_each_prompt():
    rows = np.concatenate([run(matrix(), strategy="tpp", matched_control=True, seed=s).indices for s in range(600)])
    hits = np.bincount(rows, minlength=20) / 600
    assert np.all(np.abs(hits - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 600))


def test_control_is_independent_of_the_strategys_own_draw():
    """A control that used the acceptance uniforms would keep the very rows that rejection sampling likes to keep."""
    candidates = crowd([0.5, 0.5], [0.5, 0.5], [0.2, 0.2], 4000)
    kept = set(run(candidates, strategy="vrs").indices.tolist())
    control = set(run(candidates, strategy="vrs", matched_control=True).indices.tolist())
    rate = len(kept) / 4000
    assert within(len(kept & control) / len(kept), rate, len(kept))


# errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": np.array([0.1, np.nan, 0.3])}, "rewards: nan of completion 'b'; rewards are finite"),
        ({"rewards": np.array([0.1, np.inf, 0.3])}, "rewards: inf of completion 'b'"),
        ({"rewards": np.array([0.1, 0.2])}, r"rewards: shape \(2,\) for 3 completion_ids"),
        ({"rewards": np.zeros((3, 1))}, r"rewards: shape \(3, 1\) for 3 completion_ids"),
        ({"groups": np.array([0, 1])}, r"groups: shape \(2,\)"),
        ({"prompts": np.array([[0, 1, 2]])}, r"prompts: shape \(1, 3\)"),
        ({"groups": np.array([0.0, 1.0, 1.0])}, "groups: of type float64; indices are whole numbers"),
        ({"prompts": np.array(["x", "y", "z"])}, "prompts: of type <U1"),
        ({"groups": np.array([0, 1, 2])}, "groups: from 0 to 2 with n_groups 2"),
        ({"groups": np.array([0, 1, -1])}, "groups: from -1 to 1"),
        ({"n_groups": 1, "groups": np.array([0, 0, 0])}, "n_groups is at least 2"),
        ({"completion_ids": ["a", "b", "b"]}, "completion_ids: 'b' occurs more than once"),
        ({"completion_ids": []}, "completion_ids: empty"),
    ],
)
def test_bad_columns_are_named(change, message):
    columns = {
        "completion_ids": ["a", "b", "c"],
        "prompts": np.array([0, 1, 2]),
        "groups": np.array([0, 1, 1]),
        "rewards": np.array([0.1, 0.2, 0.3]),
        "n_groups": 2,
    }
    with pytest.raises(ValueError, match=message):
        Candidates(**(columns | change))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"strategy": "best"}, "selection.strategy: 'best' is unknown; choose one of none, random, vrs"),
        ({"strategy": "quotas", "target": (0.5, 0.6)}, "selection.target: .* sums to 1.1; shares sum to 1"),
        ({"strategy": "vrs", "target": (0.2, 0.3, 0.5)}, "selection.target: 3 shares for 2 groups"),
        ({"strategy": "quotas", "target": (1.5, -0.5)}, "selection.target: .* negative"),
        (
            {"strategy": "vrs", "r_max": "bound", "reward_bound": 0.8},
            "reward_bound: 0.8 lies below reward 0.9 of compl",
        ),
    ],
)
def test_bad_settings_are_named(selection, message):
    with pytest.raises(ValueError, match=message):
        run(matrix(), **selection)


def test_bad_beta_is_named_even_past_the_config():
    selection = Selection().model_copy(update={"beta": 0.0})
    with pytest.raises(ValueError, match=r"beta: 0.0 must be above 0"):
        select(matrix(), selection, round_=1, seed=0, initial_shares=[0.5, 0.5])


def test_nothing_accepted_says_what_to_do():
    with pytest.raises(ValueError, match=r"none of 20 completions was accepted, .* raise selection\.beta"):
        run(matrix(), strategy="vrs", r_max="bound", reward_bound=100.0, beta=0.5)


def test_initial_shares_are_checked_where_they_are_the_target():
    with pytest.raises(ValueError, match=r"initial_shares: .* sums to"):
        run(matrix(), strategy="quotas", target="initial", initial=[0.5, 0.4])


# properties ---------------------------------------------------------------------------------------------------------


@st.composite
def rounds(draw, max_groups=5):
    """A round with ties, groups per prompt, at least one completion of every group, rows in any order."""
    n_groups = draw(st.integers(2, max_groups))
    n_prompts = draw(st.integers(n_groups, 12))
    per_prompt = draw(st.integers(1, 5))
    seed = draw(st.integers(0, 2**32 - 1))
    draws = np.random.default_rng(seed)
    group_of = np.concatenate([np.arange(n_groups), draws.integers(0, n_groups, n_prompts - n_groups)])
    prompts = draws.permutation(np.repeat(np.arange(n_prompts), per_prompt))
    rewards = draws.integers(0, 5, len(prompts)) / 5
    ids = [f"q{p}-s{i}" for i, p in enumerate(prompts)]
    return make(rewards, group_of[prompts], prompts, n_groups, ids), per_prompt


def permuted(candidates, order, group_names=None):
    groups = candidates.groups if group_names is None else group_names[candidates.groups]
    return Candidates(
        completion_ids=[candidates.completion_ids[i] for i in order],
        prompts=candidates.prompts[order],
        groups=groups[order],
        rewards=candidates.rewards[order],
        n_groups=candidates.n_groups,
    )


def by_id(candidates, kept):
    return {candidates.completion_ids[i]: w for i, w in zip(kept.indices, kept.weights, strict=True)}


def attempt(candidates, selection):
    """The selection, or ``None`` where it rightly raises: a handful of rows may be too few for what is asked."""
    initial = np.full(candidates.n_groups, 1 / candidates.n_groups)
    too_few = dict.fromkeys(("random", "top", "quotas"), "selection.keep_fraction: ") | {"reweight": "is accepted"}
    if selection.r_max == "bound" or selection.strategy == "calibrated":
        too_few |= dict.fromkeys(("vrs", "calibrated", "penalty"), "none of") | {"reweight": "accepted"}
    try:
        return select(candidates, selection, round_=1, seed=5, initial_shares=initial)
    except ValueError as error:
        if too_few.get(selection.strategy, "no error") not in str(error):
            raise
        return None


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("control", [False, True])
@settings(max_examples=30, deadline=None)
@given(world=rounds(), keep=st.floats(0.05, 1.0), r_max=st.sampled_from(["bound", "batch", "prompt"]))
def test_a_selection_is_a_weighted_subset_within_its_budget(strategy, control, world, keep, r_max):
    candidates, per_prompt = world
    assume(candidates.rewards.max() >= 0.5)  # the threshold
    selection = Selection(
        strategy=strategy, keep_fraction=keep, r_max=r_max, beta=2.0, best_of=per_prompt, matched_control=control
    )
    kept = attempt(candidates, selection)
    if kept is None:
        return
    n = candidates.size
    assert np.all(np.diff(kept.indices) > 0) and kept.indices[0] >= 0 and kept.indices[-1] < n
    if strategy in ("random", "top", "quotas"):
        assert len(kept.indices) <= keep * n + 1e-9
    assert kept.weights.shape == kept.indices.shape
    assert kept.weights.mean() == pytest.approx(1) and np.all(kept.weights > 0)
    assert 0 < kept.effective_sample_size <= len(kept.indices) + 1e-9
    assert kept.acceptance_rate == len(kept.indices) / n
    for shares in (kept.shares_before, kept.shares_after):
        assert shares.shape == (candidates.n_groups,)
        assert shares.sum() == pytest.approx(1) and np.all(shares >= 0)


@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("control", [False, True])
@settings(max_examples=25, deadline=None)
@given(world=rounds(), data=st.data())
def test_the_order_of_rows_changes_nothing(strategy, control, world, data):
    candidates, per_prompt = world
    order = np.array(data.draw(st.permutations(range(candidates.size))))
    selection = Selection(
        strategy=strategy, keep_fraction=0.4, beta=2.0, best_of=per_prompt, threshold=0.0, matched_control=control
    )
    shuffled = permuted(candidates, order)
    first, second = attempt(candidates, selection), attempt(shuffled, selection)
    if first is None or second is None:
        assert first is second
        return
    assert by_id(candidates, first) == pytest.approx(by_id(shuffled, second))


@pytest.mark.parametrize("strategy", NAMES)
@settings(max_examples=25, deadline=None)
@given(world=rounds(), data=st.data())
def test_permuting_groups_permutes_shares(strategy, world, data):
    candidates, per_prompt = world
    k = candidates.n_groups
    names = np.array(data.draw(st.permutations(range(k))))
    # one distinct share per group, and a budget in which no remainders tie
    target = np.arange(1, k + 1) / (k * (k + 1) / 2)
    moved = np.empty(k)
    moved[names] = target
    common = {"strategy": strategy, "keep_fraction": 0.4, "beta": 2.0, "best_of": per_prompt, "threshold": 0.0}
    renamed = permuted(candidates, np.arange(candidates.size), names)
    if strategy == "quotas":
        remainders = np.round(target * np.floor(0.4 * candidates.size + 1e-9) % 1, 9)
        assume(len(set(remainders)) == k)
    first = attempt(candidates, Selection(**common, target=tuple(target)))
    second = attempt(renamed, Selection(**common, target=tuple(moved)))
    if first is None or second is None:
        assert first is second
        return
    assert by_id(candidates, first) == pytest.approx(by_id(renamed, second))
    np.testing.assert_allclose(second.shares_after[names], first.shares_after)


@settings(max_examples=60, deadline=None)
@given(world=rounds(), keep=st.floats(0.05, 1.0), seed=st.integers(0, 2**32 - 1))
def test_quotas_hit_the_target_within_one_row_or_raise(world, keep, seed):
    candidates, _ = world
    target = np.random.default_rng(seed).dirichlet(np.ones(candidates.n_groups))
    kept = attempt(candidates, Selection(strategy="quotas", keep_fraction=keep, target=tuple(target)))
    if kept is None:
        return
    assert np.all(np.abs(kept.shares_after - target) < 1 / len(kept.indices) + 1e-9)


@settings(max_examples=40, deadline=None)
@given(world=rounds(), strategy=st.sampled_from(["importance", "reweight"]))
def test_weights_hit_the_target(world, strategy):
    candidates, _ = world
    kept = attempt(candidates, Selection(strategy=strategy, beta=2.0))
    if kept is not None:
        np.testing.assert_allclose(kept.shares_after, 1 / candidates.n_groups)
