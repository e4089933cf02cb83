import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.evaluation import bias
from tests.theory import drift


def test_shares_without_preference_keep_their_mean_and_lose_spread_by_1_minus_1_over_n_per_round():
    paths = drift.wright_fisher((0.5, 0.3, 0.2), draws=100, rounds=50, runs=20_000, seed=0)
    assert paths.shape == (20_000, 51, 3)
    # standard error of a mean share at t = 50 is below .32 / sqrt(20,000)
    assert paths[:, 50].mean(axis=0) == pytest.approx([0.5, 0.3, 0.2], abs=4 * 0.32 / np.sqrt(20_000))
    left = (paths * (1 - paths)).sum(axis=2).mean(axis=0)
    assert left[50] / left[0] == pytest.approx(0.6050060671375364, abs=0.01)
    assert left[10] / left[0] == pytest.approx(0.99**10, abs=0.005)


def test_a_real_anchor_holds_the_shares():
    paths = drift.wright_fisher((0.3, 0.7), draws=100, rounds=100, runs=20_000, seed=1, real_share=0.1)
    assert paths[:, 100, 0].var() == pytest.approx(0.010600706713780921, abs=0.0005)
    assert paths[:, 100, 0].mean() == pytest.approx(0.3, abs=0.003)


def test_the_drift_null_is_what_judged_shares_do_without_preference():
    paths = drift.wright_fisher((0.6, 0.4), draws=200, rounds=5, runs=20_000, seed=2)
    first = drift.judged_counts(paths[:, 0], completions=150, seed=3)
    last = drift.judged_counts(paths[:, 5], completions=150, seed=4)
    null = drift.drift_null(0.6, draws=200, rounds=5, judged=150)
    assert (last - first)[:, 0].std() / 150 == pytest.approx(null.share_sd, rel=0.02)
    log_odds = bias.smoothed_logit(last[:, 0] / 150, 150) - bias.smoothed_logit(first[:, 0] / 150, 150)
    assert log_odds.std() == pytest.approx(null.log_odds_sd, rel=0.05)


def test_the_drift_null_without_judging_noise_is_about_the_square_root_of_time():
    null = drift.drift_null(0.3, draws=10_000, rounds=20, judged=10**12)
    assert null.share_sd == pytest.approx(np.sqrt(20 * 0.3 * 0.7 / 10_000), rel=1e-3)
    assert null.log_odds_sd == pytest.approx(null.share_sd / 0.21)
    # two draws of n = 2 leave (1/2)^2 of the spread: 3/4 walk, (1/4) / 5 judging at the end, 1/5 at the start
    assert drift.drift_null(0.3, draws=2, rounds=2, judged=5).share_sd == pytest.approx(np.sqrt(0.21))
    assert drift.drift_null(0.3, draws=10, rounds=0, judged=50).share_sd == pytest.approx(np.sqrt(2 * 0.21 / 50))


def test_simulated_drift_depends_on_its_seed_only():
    paths = [drift.wright_fisher((0.5, 0.5), draws=50, rounds=3, runs=4, seed=seed) for seed in (1, 1, 2)]
    assert np.array_equal(paths[0], paths[1])
    assert not np.array_equal(paths[0], paths[2])
    assert drift.wright_fisher((0.2, 0.8), draws=5, rounds=0, runs=1, seed=0).tolist() == [[[0.2, 0.8]]]


def test_shares_that_miss_1_by_a_rounding_are_drawn_from():
    almost = (1.0000004, 0.0)
    assert drift.wright_fisher(almost, draws=5, rounds=2, runs=1, seed=0)[0, 2].tolist() == [1.0, 0.0]
    assert drift.judged_counts(almost, completions=5, seed=0).tolist() == [5, 0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=20).filter(any),
    st.integers(1, 50),
    st.floats(0, 1),
)
def test_simulated_shares_stay_shares(weights, draws, real_share):
    start = np.array(weights) / sum(weights)
    paths = drift.wright_fisher(start, draws=draws, rounds=3, runs=2, seed=0, real_share=real_share)
    assert np.all(paths >= 0)
    assert paths.sum(axis=2) == pytest.approx(np.ones((2, 4)))
    # a kind that is absent from model and real data never appears
    assert np.all(paths[..., start == 0] == 0)
    assert np.all(drift.judged_counts(paths, completions=7, seed=0).sum(axis=-1) == 7)


HALF = (0.5, 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drift.drift_null(1.0, 10, 1, 10), "share: 1.0 must lie between 0 and 1"),
        (lambda: drift.drift_null(0.0, 10, 1, 10), "share: 0.0 must lie between 0 and 1"),
        (lambda: drift.drift_null(0.5, 0, 1, 10), "draws: 0 must be at least 1"),
        (lambda: drift.drift_null(0.5, 10, -1, 10), "rounds: -1 is negative"),
        (lambda: drift.drift_null(0.5, 10, 1, 0), "judged: 0 must be at least 1"),
        (lambda: drift.wright_fisher((0.5, 0.6), draws=1, rounds=1, runs=1, seed=0), "shares: .* sums to 1.1"),
        (lambda: drift.wright_fisher([HALF], draws=1, rounds=1, runs=1, seed=0), r"shares: shape \(1, 2\)"),
        (lambda: drift.wright_fisher(HALF, draws=0, rounds=1, runs=1, seed=0), "draws: 0 must be"),
        (lambda: drift.wright_fisher(HALF, draws=1, rounds=-1, runs=1, seed=0), "rounds: -1 is negative"),
        (lambda: drift.wright_fisher(HALF, draws=1, rounds=1, runs=0, seed=0), "runs: 0 must be"),
        (lambda: drift.wright_fisher(HALF, draws=1, rounds=1, runs=1, seed=0, real_share=2), "real_share: 2 must"),
        (lambda: drift.judged_counts(HALF, completions=0, seed=0), "completions: 0 must be"),
    ],
)
def test_bad_input_names_field_value_and_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
