"""Intervals over prompts: known cases, pairing, and what they do at the edges."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from scpl_ray.evaluation import intervals
from scpl_ray.evaluation.intervals import Estimates, Prompts
from scpl_ray.shares import FloatArray

ONE = np.ones(100)


def test_the_mean_of_many_numbers_has_students_interval() -> None:
    x = np.random.default_rng(0).normal(size=(400, 1))
    found = Prompts(400, 0, "x").means(x, np.ones(400))
    half = stats.t.ppf(0.975, 399) * x.std(ddof=1) / 20
    assert found.value[0] == pytest.approx(x.mean())
    # no quantile of the resamples is below Student's, and of a symmetric law few are far above
    assert half - 1e-9 <= found.value[0] - found.low[0] < 1.15 * half
    assert half - 1e-9 <= found.high[0] - found.value[0] < 1.15 * half
    assert found.draws.std() == pytest.approx(half / 1.96, rel=0.1)


def test_a_counted_share_has_at_least_the_logit_interval_of_gart() -> None:
    hits = np.zeros((100, 1))
    hits[:7] = 1.0
    found = Prompts(100, 0, "x").fractions(hits, ONE)
    centre, spread = np.log(7.5 / 93.5), np.sqrt(1 / 7.5 + 1 / 93.5)
    low, high = expit(centre + np.array([-1, 1]) * stats.t.ppf(0.975, 99) * spread)
    assert found.low[0] <= low + 1e-3 and high - 1e-3 <= found.high[0]
    assert found.low[0] > 0.02 and found.high[0] < 0.17


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_what_all_prompts_agree_on_has_an_interval_all_the_same(value: float) -> None:
    found = Prompts(50, 0, "x").fractions(np.full((50, 1), value), np.ones(50))
    assert found.value[0] == value and found.low[0] <= value <= found.high[0]
    width = found.high[0] - found.low[0]
    # the rule of three: 3 / n, and not 0
    assert 3 / 50 < width < 0.2


def test_numbers_that_do_not_vary_are_known() -> None:
    found = Prompts(50, 0, "x").fractions(np.full((50, 1), 0.4), np.ones(50), 0.0)
    assert found.low[0] == pytest.approx(0.4) == found.high[0]


def test_answers_to_one_prompt_are_not_independent() -> None:
    """Four answers that agree are one observation: the interval is that of one answer per prompt."""
    hits = (np.random.default_rng(1).random((100, 1)) < 0.3) * 1.0
    prompts = Prompts(100, 0, "x")
    alone, four = prompts.log_odds(hits, ONE), prompts.log_odds(4 * hits, 4 * ONE)
    assert four.high - four.low == pytest.approx(alone.high - alone.low, rel=0.05)
    # answers that have nothing to do with each other are worth more
    free = (np.random.default_rng(2).random((100, 4)) < 0.3).sum(axis=1)[:, None] * 1.0
    many = prompts.log_odds(free, 4 * ONE)
    assert many.high - many.low < 0.65 * (alone.high - alone.low)


def test_changes_are_paired_by_prompt() -> None:
    rng = np.random.default_rng(3)
    difficulty = rng.normal(size=(100, 1))
    before, after = difficulty + 0.1 * rng.normal(size=(100, 1)), difficulty + 0.1 * rng.normal(size=(100, 1)) + 0.2
    prompts = Prompts(100, 0, "x")
    moved = prompts.changes(after, ONE, before, ONE)
    level = prompts.means(after, ONE)
    assert moved.low[0] > 0.1 and moved.high[0] < 0.3
    assert level.high - level.low > 5 * (moved.high - moved.low)
    same = prompts.changes(after, ONE, after, ONE)
    assert same.low[0] == same.value[0] == same.high[0] == 0.0


def test_a_seed_gives_the_same_bounds_and_names_have_streams_of_their_own() -> None:
    x = np.random.default_rng(4).normal(size=(30, 2))
    first, again, other = (Prompts(30, 5, name).means(x, np.ones(30)) for name in ("a", "a", "b"))
    assert np.array_equal(first.low, again.low) and np.array_equal(first.draws, again.draws)
    assert not np.array_equal(first.draws, other.draws)
    assert not np.array_equal(first.draws, Prompts(30, 6, "a").means(x, np.ones(30)).draws)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_few_prompts_have_students_interval(n: int) -> None:
    x = np.arange(n, dtype=np.float64)[:, None]
    found = Prompts(n, 0, "x").means(x, np.ones(n))
    half = stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / np.sqrt(n)
    assert [found.low[0], found.high[0]] == pytest.approx([x.mean() - half, x.mean() + half])


def test_one_prompt_has_none() -> None:
    with pytest.raises(ValueError, match="1 prompt; an interval takes at least 2"):
        Prompts(1, 0, "x")


def test_many_prompts_are_dealt_out() -> None:
    x = np.random.default_rng(6).exponential(size=(20_000, 1))
    found = Prompts(len(x), 0, "x").means(x, np.ones(len(x)))
    assert found.value[0] == pytest.approx(x.mean())
    half = 1.96 * x.std() / np.sqrt(len(x))
    assert found.high[0] - found.low[0] == pytest.approx(2 * half, rel=0.15)


def estimates(*values: float, sd: float = 0.02) -> Estimates:
    value = np.array(values)
    draws = sd * np.random.default_rng(7).normal(size=(4000, len(values)))
    return Estimates(value, value - 1.96 * sd, value + 1.96 * sd, draws)


PAIRS = np.array([[1.0, -1.0], [-1.0, 1.0]])


def test_a_gap_far_from_zero_has_the_interval_of_a_difference() -> None:
    low, high = intervals.largest(PAIRS, estimates(0.8, 0.5))
    half = 1.96 * 0.02 * np.sqrt(2)
    assert [low, high] == pytest.approx([0.3 - half, 0.3 + half], abs=0.003)


def test_a_gap_within_its_noise_may_be_none() -> None:
    low, high = intervals.largest(PAIRS, estimates(0.71, 0.7))
    assert low < 0 and 0.05 < high < 0.08
    # of more groups the largest difference is larger by chance
    three = np.array([np.eye(3)[i] - np.eye(3)[j] for i in range(3) for j in range(3) if i != j])
    lower, _ = intervals.largest(three, estimates(0.75, 0.7, 0.7))
    alone, _ = intervals.largest(PAIRS, estimates(0.75, 0.7))
    assert lower < alone


def test_the_worst_of_one_group_behind_is_that_groups() -> None:
    found = estimates(0.5, 0.8, 0.9)
    low, high = intervals.largest(-np.eye(3), found)
    assert [-high, -low] == pytest.approx([found.low[0], found.high[0]], abs=0.003)


def test_combined_bounds_keep_a_skew() -> None:
    skew = Estimates(np.array([0.1, 0.2]), np.array([0.05, 0.18]), np.array([0.3, 0.25]), np.zeros((10, 2)))
    low, high = intervals.combined([0.5, 0.5], skew)
    assert low == pytest.approx(0.15 - 0.5 * np.hypot(0.05, 0.02))
    assert high == pytest.approx(0.15 + 0.5 * np.hypot(0.2, 0.05))


def test_a_distance_of_answers_that_all_agree_has_no_interval() -> None:
    """One of no width said that it is known: at a share of .97 and 24 prompts it missed in 45 of 100 cases."""
    draws = np.zeros((500, 2))
    assert np.isnan(
        intervals.distance(0.5, lambda x: np.abs(x).sum(axis=-1) / 2, np.array([0.5, -0.5]), draws, draws[:, 0])
    ).all()


def test_a_distance_near_zero_has_no_lower_bound_and_far_from_it_a_normal_law() -> None:
    draws = 0.05 * np.random.default_rng(8).normal(size=(4000, 2))

    def length(x: FloatArray) -> FloatArray:
        return np.asarray(np.sqrt((x**2).sum(axis=-1)))

    low, high = intervals.distance(0.06, length, np.array([0.06, 0.0]), draws, draws[:, 0])
    assert low == 0.0 and high == pytest.approx(0.06 + 0.05 * 2.448, abs=0.005)
    low, high = intervals.distance(1.0, length, np.array([1.0, 0.0]), draws, draws[:, 0])
    assert [low, high] == pytest.approx([1 - 1.96 * 0.05, 1 + 1.96 * 0.05], abs=0.005)


def test_counts_are_summed_exactly_whatever_adds_them_up() -> None:
    prompts, counts = Prompts(40, 3, "counts"), np.random.default_rng(2).integers(0, 9, (40, 2, 3)).astype(float)
    one_by_one = np.array([[(w[:, None, None] * counts).sum(axis=0)] for w in prompts._weights])[:, 0]
    assert np.array_equal(prompts._totals(counts), one_by_one)
    np.testing.assert_allclose(prompts._totals(counts / 3), one_by_one / 3, rtol=1e-12)
