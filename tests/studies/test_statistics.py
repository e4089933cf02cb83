import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit

from scpl_ray.evaluation import bias, sign_flips
from scpl_ray.studies import power, statistics
from scpl_ray.studies.statistics import Claim, PairedDifferences
from tests.theory import drift


def paired(differences):
    return PairedDifferences(tuple(range(len(differences))), np.asarray(differences, dtype=float))


# intervals


def test_wilson_interval():
    found = statistics.wilson_interval(826, 1518)
    assert (found.low, found.high) == pytest.approx((0.5190026332231464, 0.5690485886852378), abs=1e-12)
    assert found.estimate == pytest.approx(826 / 1518)
    none = statistics.wilson_interval(0, 20)
    assert (none.low, none.high) == (0.0, pytest.approx(0.16112515805281938, abs=1e-12))
    every = statistics.wilson_interval(20, 20)
    assert (every.low, every.high) == (pytest.approx(1 - 0.16112515805281938, abs=1e-12), 1.0)
    assert found.n == 1518


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.data(), st.floats(0.5, 0.999))
def test_wilson_interval_stays_in_the_unit_interval_and_inverts_the_score_test(total, data, confidence):
    count = data.draw(st.integers(0, total))
    found = statistics.wilson_interval(count, total, confidence=confidence)
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    z = stats.norm.ppf(0.5 + confidence / 2)
    for bound in (found.low, found.high):
        if 0 < bound < 1:
            assert abs(count / total - bound) == pytest.approx(z * np.sqrt(bound * (1 - bound) / total), rel=1e-6)


def test_difference_of_two_shares():
    # .03 between two evaluations of 200 completions each is less than their noise
    found = statistics.share_difference(160, 200, 154, 200)
    half = (found.high - found.low) / 2
    assert found.estimate == pytest.approx(0.03)
    # the reference number is 1.96 standard errors, the normal quantile rounded
    assert half * 1.96 / stats.norm.ppf(0.975) == pytest.approx(0.08046748908720838, abs=1e-12)
    assert found.estimate / half * stats.norm.ppf(0.975) == pytest.approx(0.7307298968441059, abs=1e-12)
    assert statistics.share_difference(1, 20, 1, 10).n == 10


def test_t_interval_between_seeds():
    found = statistics.t_interval([0.61, 0.58, 0.64, 0.60, 0.62])
    assert found.estimate == pytest.approx(0.61)
    assert found.high - found.estimate == pytest.approx(0.02776445105197796, abs=1e-12)
    assert found.estimate - found.low == pytest.approx(0.02776445105197796, abs=1e-12)
    assert (found.n, found.confidence) == (5, 0.95)


def test_bootstrap_interval_of_the_mean_is_the_plug_in_normal_one_for_many_seeds():
    values = np.random.default_rng(0).normal(size=400)
    found = statistics.bootstrap_interval(values, seed=0, resamples=4000)
    assert found.estimate == values.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


def test_bootstrap_interval_resamples_whole_seeds_with_its_own_seed():
    paths = np.random.default_rng(1).normal(size=(12, 5)).cumsum(axis=1)

    def last_minus_first(resampled):
        return (resampled[:, :, -1] - resampled[:, :, 0]).mean(axis=1)

    found = statistics.bootstrap_interval(paths, seed=3, statistic=last_minus_first, resamples=500)
    assert found == statistics.bootstrap_interval(paths, seed=3, statistic=last_minus_first, resamples=500)
    assert found != statistics.bootstrap_interval(paths, seed=4, statistic=last_minus_first, resamples=500)
    per_seed = statistics.bootstrap_interval(paths[:, -1] - paths[:, 0], seed=3, resamples=500)
    assert (found.low, found.high) == pytest.approx((per_seed.low, per_seed.high))


def test_a_bootstrap_of_five_seeds_is_about_a_third_too_short():
    values = np.random.default_rng(2).normal(size=(200, 5))
    ratio = [
        np.ptp([(b := statistics.bootstrap_interval(v, seed=0, resamples=1000)).low, b.high])
        / np.ptp([(t := statistics.t_interval(v)).low, t.high])
        for v in values
    ]
    assert np.mean(ratio) == pytest.approx(1.96 * np.sqrt(4 / 5) / 2.776, abs=0.05)


# pairing and slopes


def test_differences_are_paired_by_seed_and_missing_seeds_are_named():
    found = statistics.paired_differences({3: 0.9, 1: 0.5, 7: 0.2}, {1: 0.4, 2: 0.0, 3: 0.6, 9: 1.0})
    assert found.seeds == (1, 3)
    assert found.differences == pytest.approx([0.1, 0.3])
    assert found.without_control == (7,)
    assert found.without_treatment == (2, 9)


def test_pairing_removes_what_seeds_share():
    rng = np.random.default_rng(3)
    of_seed = rng.normal(size=10)
    control = dict(enumerate(of_seed + 0.01 * rng.normal(size=10)))
    treatment = dict(enumerate(of_seed + 0.05 + 0.01 * rng.normal(size=10)))
    found = statistics.t_interval(statistics.paired_differences(treatment, control).differences)
    assert 0.02 < found.low < 0.05 < found.high < 0.08


def test_slopes_per_round():
    rounds = np.arange(6)
    assert statistics.slopes_per_round([0.3 * rounds + 1, -2.0 * rounds]) == pytest.approx([0.3, -2.0])
    y = np.random.default_rng(4).normal(size=(3, 6))
    assert statistics.slopes_per_round(y) == pytest.approx([np.polyfit(rounds, row, 1)[0] for row in y])


# tests and verdicts


def test_holm():
    # sorted .01 .02 .03 .04 times 4 3 2 1, then the running maximum
    assert statistics.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([0.02]) == pytest.approx([0.02])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p):
    adjusted = statistics.holm(p)
    assert np.all(adjusted >= np.array(p))
    assert np.all(adjusted <= np.minimum(1, np.array(p) * len(p)) + 1e-12)
    order = np.argsort(p, kind="stable")
    assert np.all(np.diff(adjusted[order]) >= 0)


@pytest.mark.parametrize("n_seeds", [3, 5, 10])
def test_the_detectable_effect_is_found_with_its_power_though_its_sd_is_an_estimate(n_seeds):
    pilot, later = np.random.default_rng(n_seeds).normal(size=(2, 4_000, n_seeds))
    effect = np.array([statistics.minimum_detectable_effect(1.0, n_seeds)]) * pilot.std(axis=1, ddof=1)
    shifted = later + effect[:, None]
    if n_seeds < sign_flips.FEWEST:
        p = stats.ttest_1samp(shifted, 0.0, axis=1).pvalue
    else:
        p = sign_flips.two_sided_p(shifted)
    # standard error sqrt(.8 * .2 / 4,000) = .006
    assert 0.78 <= np.mean(p <= 0.05) <= 0.83


@pytest.mark.parametrize("pilot_seeds", [2, 3, 5])
def test_the_detectable_effect_of_a_small_pilot_is_found_by_the_larger_study(pilot_seeds):
    rng = np.random.default_rng(pilot_seeds)
    pilot, later = rng.normal(size=(4_000, pilot_seeds)), rng.normal(size=(4_000, 10))
    factor = statistics.minimum_detectable_effect(1.0, 10, estimated_from=pilot_seeds)
    p = sign_flips.two_sided_p(later + (factor * pilot.std(axis=1, ddof=1))[:, None])
    assert 0.78 <= np.mean(p <= 0.05) <= 0.83


def test_the_minimum_detectable_effect_of_many_seeds_is_nearly_the_normal_one():
    effect = statistics.minimum_detectable_effect(1.0, 200, level=0.05, power=0.9)
    assert effect == pytest.approx((1.959964 + 1.281552) / np.sqrt(200), rel=0.05)
    assert statistics.minimum_detectable_effect(0.0, 5) == 0.0


def test_a_family_that_is_too_large_for_its_seeds_has_no_detectable_effect():
    assert statistics.minimum_detectable_effect(1.0, 6, level=0.05 / 2) == np.inf
    assert [power.seeds_needed(claims) for claims in (1, 2, 15, 26)] == [6, 7, 10, 11]
    # 10,000 sign patterns are drawn at most: no p-value is below 1 / 10,000
    assert [power.seeds_needed(claims) for claims in (500, 501, 100_000)] == [15, None, None]


def test_a_detectable_effect_of_thousands_of_seeds_takes_no_memory():
    hundred = statistics.minimum_detectable_effect(1.0, 100)
    assert statistics.minimum_detectable_effect(1.0, 10_000) == pytest.approx(hundred / 10)
    assert (1.959964 + 0.841621) / 100 <= hundred / 10 <= 1.03 * (1.959964 + 0.841621) / 100


def test_verdicts_of_a_family():
    rng = np.random.default_rng(7)
    rises, falls, nothing = rng.normal(0.5, 0.2, 10), rng.normal(-0.5, 0.2, 10), rng.normal(0.0, 0.2, 10)
    claims = (
        Claim("rises", paired(rises)),
        Claim("rises, but falls", paired(falls)),
        Claim("falls", paired(falls), direction="below 0"),
        Claim("nothing", PairedDifferences(tuple(range(10)), nothing, without_control=(11,), without_treatment=(12,))),
    )
    found = statistics.judge_claims(claims)
    assert [v.verdict for v in found] == ["supported", "opposite", "supported", "cannot tell"]
    assert found[0].estimate == pytest.approx(rises.mean())
    assert found[0].interval == statistics.mean_interval(rises)
    assert [v.p_adjusted for v in found] == pytest.approx(statistics.holm([v.p for v in found]).tolist())
    # two-sided: what is called opposite has the small p-value of what is called supported
    assert found[1].p == found[2].p and found[1].p_adjusted < 0.05
    assert found[3].claim.paired.without_control == (11,)
    expected = statistics.minimum_detectable_effect(nothing.std(ddof=1), 10, level=0.05 / 4, power=0.8)
    assert found[3].minimum_detectable_effect == pytest.approx(expected)


def test_a_claim_that_alone_is_supported_may_not_be_in_a_family():
    d = np.array([0.5, 0.6, 0.4, 0.7, 0.3, 0.5, 0.03])
    alone = statistics.judge_claims([Claim("a", paired(d))])[0]
    assert (alone.verdict, alone.p) == ("supported", pytest.approx(0.0326, abs=1e-4))
    family = statistics.judge_claims([Claim("a", paired(d)), Claim("b", paired(d - d.mean()))])[0]
    assert (family.verdict, family.p_adjusted) == ("cannot tell", pytest.approx(2 * alone.p))


def test_a_family_of_null_claims_makes_one_false_verdict_in_twenty_families_at_most():
    d = np.random.default_rng(9).normal(size=(600, 6, 10))
    p = sign_flips.two_sided_p(d)
    any_false = np.mean([statistics.holm(row).min() < 0.05 for row in p])
    # standard error .009
    assert any_false <= 0.07
    assert np.mean(p.min(axis=1) < 0.05) > 0.15


def test_intervals_hold_the_means_that_the_test_does_not_reject():
    d = np.array([0.1, 0.4, 0.2, 0.35, 0.05, 0.3, 0.15, -0.02])
    found = statistics.mean_interval(d)
    assert sign_flips.two_sided_p(d - found.low - 1e-4) > 0.05 >= sign_flips.two_sided_p(d - found.low + 1e-4)
    assert sign_flips.two_sided_p(d - found.high + 1e-4) > 0.05 >= sign_flips.two_sided_p(d - found.high - 1e-4)
    assert statistics.mean_interval(d[:5]) == statistics.t_interval(d[:5])
    same = statistics.mean_interval(np.full(7, 0.25))
    assert (same.low, same.high) == (0.25, 0.25)


def test_skewed_differences_are_said_to_be_skewed():
    d = np.array([0.0, 0.0, 0.01, 0.0, 0.02, 0.01, 3.0])
    assert statistics.judge_claims([Claim("a", paired(d))])[0].skewed
    assert not statistics.judge_claims([Claim("a", paired(d[:6]))])[0].skewed


# the drift null


def judged_log_odds(paths, seed):
    counts = drift.judged_counts(paths, completions=200, seed=seed)
    return bias.preference_bias(counts / 200, (0.5, 0.5), advantaged=0, total=np.full(paths.shape[:-1], 200)).log_odds


RUNS, SEEDS, ROUNDS = 500, 10, 5


@pytest.fixture(scope="module")
def drifting():
    """Log-odds of 500 studies of 10 seeds without any preference, two arms, each (500, 10, 6)."""
    paths = [drift.wright_fisher((0.6, 0.4), draws=200, rounds=ROUNDS, runs=RUNS * SEEDS, seed=s) for s in (1, 2)]
    return [judged_log_odds(p, seed).reshape(RUNS, SEEDS, -1) for p, seed in zip(paths, (3, 4), strict=True)]


def verdicts_of(differences):
    p = sign_flips.two_sided_p(differences)
    return np.where(p >= 0.05, "cannot tell", np.where(differences.mean(axis=1) > 0, "supported", "opposite"))


@pytest.mark.parametrize("measure", ["change", "slope"])
def test_without_preference_amplification_is_claimed_in_at_most_7_percent_of_studies(drifting, measure):
    def per_seed(arm):
        if measure == "change":
            return arm[..., -1] - arm[..., 0]
        return np.array([statistics.slopes_per_round(study) for study in arm])

    verdicts = verdicts_of(per_seed(drifting[0]) - per_seed(drifting[1]))
    # nominal 5%, standard error 1%
    assert 0.01 <= np.mean([v != "cannot tell" for v in verdicts]) <= 0.07


def test_taking_rounds_for_seeds_would_claim_amplification_far_too_often(drifting):
    treatment, control = drifting
    of_one_seed = (treatment - control)[:, 0, 1:]
    p = stats.ttest_1samp(of_one_seed, 0.0, axis=1).pvalue
    assert np.mean(p < 0.05) > 0.3


def test_a_preference_is_found_where_the_minimum_detectable_effect_says_so(drifting):
    treatment, control = drifting
    change = (treatment[..., -1] - treatment[..., 0]) - (control[..., -1] - control[..., 0])
    effects = [statistics.minimum_detectable_effect(float(own.std(ddof=1)), SEEDS) for own in change]
    found = sign_flips.two_sided_p(change + np.random.default_rng(0).permutation(effects)[:, None]) < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.06)


def test_selection_by_a_group_biased_reward_is_called_an_amplification():
    # rejection sampling adds dmu / beta = .2 log-odds per round (rewards of equal spread)
    n_seeds = 40
    control = drift.wright_fisher((0.5, 0.5), draws=400, rounds=5, runs=n_seeds, seed=5)
    rng = np.random.default_rng(10)
    path = [np.full(n_seeds, 0.5)]
    for _ in range(5):
        path.append(rng.binomial(400, expit(logit(path[-1]) + 0.2)) / 400)
    treated = judged_log_odds(np.stack([path, 1 - np.array(path)], axis=-1).swapaxes(0, 1), 6)
    slopes = statistics.slopes_per_round(treated) - statistics.slopes_per_round(judged_log_odds(control, 7))
    verdict = statistics.judge_claims([Claim("amplified", paired(slopes))])[0]
    assert verdict.verdict == "supported"
    assert verdict.interval.low < 0.2 < verdict.interval.high


# bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.wilson_interval(1, 0), "total: 0 must be at least 1"),
        (lambda: statistics.wilson_interval(3, 2), "count: 3 must lie between 0 and total = 2"),
        (lambda: statistics.wilson_interval(-1, 2), "count: -1 must lie"),
        (lambda: statistics.wilson_interval(1, 2, confidence=95), "confidence: 95 must lie between 0 and 1"),
        (lambda: statistics.share_difference(1, 2, 3, 2), "count_b: 3 must lie between 0 and total_b = 2"),
        (lambda: statistics.share_difference(1, 0, 1, 2), "total_a: 0 must"),
        (lambda: statistics.t_interval([1.0]), r"values: shape \(1,\) .* one seed has no interval"),
        (lambda: statistics.t_interval(1.0), r"values: shape \(\)"),
        (lambda: statistics.t_interval([[1.0, 2.0], [1.0, 2.0]]), r"values: shape \(2, 2\)"),
        (lambda: statistics.t_interval([1.0, np.inf]), "values: .* not finite"),
        (lambda: statistics.t_interval([1.0, 2.0], confidence=0), "confidence: 0 must"),
        (lambda: statistics.bootstrap_interval([1.0, 2.0], seed=0, resamples=0), "resamples: 0 must"),
        (lambda: statistics.bootstrap_interval([[1.0], [np.nan]], seed=0), "values: .* not finite"),
        (lambda: statistics.paired_differences({1: 0.1}, {2: 0.1}), "control: seeds .* none in common"),
        (lambda: statistics.paired_differences({1: np.nan}, {1: 0.1}), "treatment: seeds .* not finite"),
        (lambda: statistics.paired_differences({1: 0.1}, {1: np.inf}), "control: seeds .* not finite"),
        (lambda: statistics.slopes_per_round([1.0, 2.0]), r"values: shape \(2,\) must be \(seeds, rounds\)"),
        (lambda: statistics.slopes_per_round([[1.0], [2.0]]), r"values: shape \(2, 1\)"),
        (lambda: statistics.slopes_per_round([[1.0, np.inf]]), "values: .* smoothed log-odds"),
        (lambda: sign_flips.two_sided_p([0.1] * 5), "differences: .* fewer than 6 seeds"),
        (lambda: sign_flips.two_sided_p(0.1), "differences: .* fewer than 6 seeds"),
        (lambda: sign_flips.two_sided_p([0.1] * 6 + [np.nan]), "differences: .* not finite"),
        (lambda: statistics.judge_claims([Claim("a", paired([1, 2]), margin=-1.0)]), "margin: -1.0 of 'a' must"),
        (lambda: statistics.holm([0.1, 1.1]), r"p: .* numbers in \[0, 1\]"),
        (lambda: statistics.holm([[0.1]]), "p: .* one row"),
        (lambda: statistics.minimum_detectable_effect(1.0, 1), "n_seeds: 1 must be at least 2"),
        (
            lambda: statistics.minimum_detectable_effect(1.0, 5, estimated_from=1),
            "estimated_from: 1 must be at least 2",
        ),
        (lambda: statistics.minimum_detectable_effect(-1.0, 5), "sd: -1.0 must be"),
        (lambda: statistics.minimum_detectable_effect(np.inf, 5), "sd: inf must be"),
        (lambda: statistics.minimum_detectable_effect(1.0, 5, level=0), "level: 0 must"),
        (lambda: statistics.minimum_detectable_effect(1.0, 5, power=1), "power: 1 must"),
        (
            lambda: statistics.minimum_detectable_effect(1.0, 5, level=0.5, power=0.4),
            "power: 0.4 must exceed the level",
        ),
        (
            lambda: statistics.minimum_detectable_effect(1.0, 5, level=0.5, power=0.5),
            "power: 0.5 must exceed the level",
        ),
        (lambda: statistics.judge_claims([]), "claims: .* one or more"),
        (lambda: statistics.judge_claims([Claim("a", paired([1, 2]))] * 2), "claims: .* distinct names"),
        (lambda: statistics.judge_claims([Claim("a", paired([1, 2]))], level=2), "level: 2 must"),
        (lambda: statistics.judge_claims([Claim("a", paired([1, 2]), "up")]), "direction: 'up' of 'a' must"),
        (
            lambda: statistics.judge_claims([Claim("a", paired([1]))]),
            r"values: shape \(1,\) .* one seed has no interval",
        ),
    ],
)
def test_bad_input_names_field_value_and_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
