import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.evaluation import disparity

QUALITIES = st.lists(st.floats(0, 1), min_size=2, max_size=20).map(np.array)


def test_disparate_bias():
    found = disparity.disparate_bias((0.82, 0.75, 0.60))
    assert found.gap == pytest.approx(0.22, abs=1e-12)
    assert found.std == pytest.approx(0.09177266598624136, abs=1e-12)
    assert found.ratio == pytest.approx(0.7317073170731707, abs=1e-12)
    assert found.worst == pytest.approx(0.60)
    assert found.mean == pytest.approx(0.7233333333333333, abs=1e-12)


def test_disparate_bias_has_leading_axes_and_a_ratio_where_nothing_works():
    found = disparity.disparate_bias([[0.0, 0.0], [0.0, 0.5], [0.4, 0.5]])
    assert found.ratio == pytest.approx([1.0, 0.0, 0.8])
    assert found.gap == pytest.approx([0.0, 0.5, 0.1])


@settings(max_examples=60, deadline=None)
@given(QUALITIES, st.randoms(use_true_random=False))
def test_disparate_bias_is_bounded_and_ignores_the_order_of_groups(quality, random):
    found = disparity.disparate_bias(quality)
    assert 0 <= found.gap <= 1
    assert 0 <= found.ratio <= 1
    # the population standard deviation is at most half the range (Popoviciu)
    assert found.std <= found.gap / 2 + 1e-12
    assert found.worst <= found.mean + 1e-12
    shuffled = quality.copy()
    random.shuffle(shuffled)
    again = disparity.disparate_bias(shuffled)
    for field in ("gap", "std", "ratio", "worst", "mean"):
        assert getattr(again, field) == pytest.approx(float(getattr(found, field)), abs=1e-12)


def test_group_means():
    means = disparity.group_means([0.1, 0.9, 0.3, 0.5], [0, 1, 0, 1], 2)
    assert means == pytest.approx([0.2, 0.7])


def test_the_null_of_the_gap_is_what_equal_groups_show():
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1], [40, 60])
    quality = rng.uniform(size=100)
    null = disparity.gap_null(quality, groups, 2, seed=0, permutations=4000)
    # |difference of two means|: mean sqrt(2/pi) sd, 95% quantile 1.96 sd, sd of the permutation law by Neyman
    sd = quality.std(ddof=1) * np.sqrt(1 / 40 + 1 / 60)
    assert null.null_mean == pytest.approx(np.sqrt(2 / np.pi) * sd, rel=0.04)
    assert null.null_95 == pytest.approx(1.96 * sd, rel=0.05)
    assert null.gap == pytest.approx(abs(quality[:40].mean() - quality[40:].mean()))


def test_the_null_of_the_gap_keeps_its_level_and_finds_a_gap():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(4), 20)
    equal = [disparity.gap_null(rng.uniform(size=80), groups, 4, seed=s, permutations=199).p for s in range(300)]
    # standard error sqrt(.05 * .95 / 300) = .013
    assert np.mean(np.array(equal) <= 0.05) < 0.09
    assert np.mean(np.array(equal) <= 0.5) == pytest.approx(0.5, abs=0.1)
    unequal = np.clip(rng.uniform(size=80) * 0.5 + 0.4 * (groups == 3), 0, 1)
    found = disparity.gap_null(unequal, groups, 4, seed=0, permutations=999)
    assert found.p == 1 / 1000
    assert found.gap > found.null_95 > found.null_mean > 0


def test_the_null_of_the_gap_depends_on_its_seed_only_and_not_on_its_chunks(monkeypatch):
    quality, groups = np.linspace(0, 1, 30), np.arange(30) % 3
    whole = disparity.gap_null(quality, groups, 3, seed=5, permutations=50)
    monkeypatch.setattr(disparity, "CHUNK", 70)
    assert disparity.gap_null(quality, groups, 3, seed=5, permutations=50) == whole
    assert disparity.gap_null(quality, groups, 3, seed=6, permutations=50) != whole


def test_constant_quality_is_no_evidence_of_a_gap():
    found = disparity.gap_null(np.full(12, 0.3), np.arange(12) % 2, 2, seed=0, permutations=99)
    assert (found.gap, found.p) == (0.0, 1.0)


def test_the_base_model_tells_how_difficult_prompts_are():
    groups = np.repeat([0, 1], 50)
    base = np.where(groups == 0, 0.9, 0.5)
    alike = disparity.gap_null(base - 0.1, groups, 2, seed=0, base=base, permutations=99)
    assert alike.difficulty == "base" and alike.p == 1.0
    assert alike.gap == pytest.approx(0.4) and alike.null_mean == pytest.approx(0.4)
    without = disparity.gap_null(base - 0.1, groups, 2, seed=0, permutations=99)
    assert without.difficulty == "equal" and without.p == 0.01
    turned = disparity.gap_null(base[::-1], groups, 2, seed=0, base=base, permutations=99)
    assert turned.gap == pytest.approx(0.4) and turned.p == 0.01


def test_noise_of_the_base_is_no_difficulty():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(4), 25)
    means = []
    for seed in range(40):
        base, now = 1.0 * (rng.random((2, 100)) < 0.5)
        found = disparity.gap_null(now, groups, 4, seed=seed, base=base, permutations=200)
        equal = disparity.gap_null(now, groups, 4, seed=seed, permutations=200)
        means.append((found.null_mean, equal.null_mean))
    assert np.mean(means, axis=0)[0] == pytest.approx(np.mean(means, axis=0)[1], rel=0.2)


def seeds_of(first, last, sd=0.01, n=10):
    """(n, 2, K) qualities scattered around two rounds' means."""
    rng = np.random.default_rng(3)
    return np.clip(np.array([first, last]) + sd * rng.normal(size=(n, 2, len(first))), 0, 1)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ((0.8, 0.6), (0.6, 0.55), True),  # the better served fell to the worse served
        ((0.8, 0.6), (0.8, 0.75), False),  # the worse served rose
        ((0.8, 0.6), (0.6, 0.3), False),  # everyone fell, but the gap rose
        ((0.9, 0.5, 0.5), (0.8, 0.45, 0.65), True),  # the mean holds, the worst group fell
        ((0.9, 0.5, 0.5), (0.7, 0.5, 0.5), True),  # the worst group holds, the mean fell
        ((0.8, 0.6), (0.9, 0.8), False),  # all rose
    ],
)
def test_levelled_down_between_seeds(first, last, expected):
    found = disparity.levelled_down_between_seeds(seeds_of(first, last))
    assert found.flag.tolist() == [expected]
    assert found.mean.estimate[0] == pytest.approx(np.mean(last) - np.mean(first), abs=0.02)


def test_levelled_down_needs_more_than_the_noise_between_seeds():
    fell = ((0.8, 0.6), (0.78, 0.59))
    assert disparity.levelled_down_between_seeds(seeds_of(*fell, sd=0.001)).flag.all()
    rng = np.random.default_rng(8)
    nothing = 0.5 + 0.1 * rng.normal(size=(500, 10, 2, 3)).clip(-4, 4)
    flags = [disparity.levelled_down_between_seeds(quality).flag[0] for quality in nothing]
    # the gap falls in half of them, and the mean or the worst group by more than its interval in 2.5% to 5%
    assert np.mean(flags) < 0.04


@pytest.mark.parametrize(
    ("first", "last", "cause"),
    [
        ((0.8, 0.6), (0.6, 0.55), disparity.ALL_LOST),
        ((0.8, 0.6), (0.65, 0.63), disparity.WORST_GAINED),
        ((0.8, 0.6), (0.8, 0.75), disparity.GAIN),
        ((0.9, 0.5, 0.5), (0.8, 0.45, 0.65), disparity.UNCLEAR),  # one group lost, another gained, the mean held
        ((0.8, 0.6), (0.6, 0.3), ""),  # the gap rose
    ],
)
def test_why_a_gap_closed_is_said_exactly(first, last, cause):
    found = disparity.levelled_down_between_seeds(seeds_of(first, last))
    assert found.seen and found.cause.tolist() == [cause]


def test_over_all_rounds_together_a_word_about_a_gap_is_rarely_false():
    rng = np.random.default_rng(11)
    nothing = np.clip(0.7 + 0.05 * rng.normal(size=(200, 8, 21, 2)), 0, 1)
    said = [(disparity.levelled_down_between_seeds(quality).cause != "").any() for quality in nothing]
    # standard error .015
    assert np.mean(said) <= 0.09


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_seeds_see_no_gap_close(n):
    found = disparity.levelled_down_between_seeds(seeds_of((0.8, 0.6), (0.6, 0.55), n=n))
    assert not found.seen and not found.flag.any() and found.cause.tolist() == [""]
    assert found.gap.high[0] < 0


def test_levelled_down_has_one_answer_per_round_against_round_0_with_t_intervals():
    rng = np.random.default_rng(4)
    quality = rng.uniform(0.4, 0.6, size=(5, 4, 3))
    found = disparity.levelled_down_between_seeds(quality)
    assert found.flag.shape == found.gap.low.shape == (3,)
    moved = quality.mean(axis=2)[:, 2] - quality.mean(axis=2)[:, 0]
    assert found.mean.estimate[1] == pytest.approx(moved.mean())
    # t of .975 with 4 degrees of freedom
    assert found.mean.high[1] - found.mean.estimate[1] == pytest.approx(2.776445 * moved.std(ddof=1) / np.sqrt(5))


def test_levelled_down_within_one_run_by_its_prompts():
    rng = np.random.default_rng(5)
    groups = np.repeat([0, 1], 200)
    before = np.clip(np.where(groups == 0, 0.8, 0.6) + 0.1 * rng.normal(size=400), 0, 1)
    noise = 0.1 * rng.normal(size=400)
    down = np.clip(before - np.where(groups == 0, 0.2, 0.05) + noise, 0, 1)
    up = np.clip(before + np.where(groups == 0, 0.0, 0.15) + noise, 0, 1)
    found = disparity.levelled_down_within_run(before, down, groups, 2, seed=0)
    assert found.flag.item() is True
    assert found.gap.low < found.gap.estimate < found.gap.high < 0
    assert found.gap.estimate == pytest.approx(-0.15, abs=0.02)
    assert disparity.levelled_down_within_run(before, up, groups, 2, seed=0).flag.item() is False


def test_levelled_down_within_one_run_pairs_the_prompts_and_keeps_the_group_sizes(monkeypatch):
    rng = np.random.default_rng(6)
    groups = np.repeat([0, 1], [30, 90])
    before, after = rng.uniform(size=(2, 120))
    found = disparity.levelled_down_within_run(before, after, groups, 2, seed=1, resamples=4000)
    moved = after - before
    sd = np.sqrt(sum(moved[groups == k].var() / (4 * np.sum(groups == k)) for k in range(2)))
    assert found.mean.high - found.mean.low == pytest.approx(2 * 1.96 * sd, rel=0.06)
    monkeypatch.setattr(disparity, "CHUNK", 1000)
    again = disparity.levelled_down_within_run(before, after, groups, 2, seed=1, resamples=4000)
    assert again.mean.high == found.mean.high


GROUPS = [0, 1, 0, 1]
FOUR = [0.1, 0.2, 0.3, 0.4]
SEEDS = np.full((3, 2, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: disparity.disparate_bias([0.5]), "quality: .* fewer than 2 groups"),
        (lambda: disparity.disparate_bias(0.5), "quality: .* fewer than 2 groups"),
        (lambda: disparity.disparate_bias([0.5, 1.5]), r"quality: .* outside \[0, 1\]"),
        (lambda: disparity.disparate_bias([0.5, float("nan")]), r"quality: .* outside \[0, 1\]"),
        (lambda: disparity.group_means(FOUR, [0, 1, 0], 2), r"groups: shape \(3,\) for quality of shape \(4,\)"),
        (lambda: disparity.group_means([FOUR], [GROUPS], 2), r"groups: shape \(1, 4\)"),
        (lambda: disparity.group_means(FOUR, [0, 1, 2, 0], 2), "groups: .* indices from 0 to 1"),
        (lambda: disparity.group_means(FOUR, [0, 1, -1, 0], 2), "groups: .* indices from 0 to 1"),
        (lambda: disparity.group_means(FOUR, [0.0, 1.0, 0.0, 1.0], 2), "groups: .* indices from 0 to 1"),
        (lambda: disparity.group_means(FOUR, GROUPS, 3), r"groups: groups \[2\] have no quality"),
        (lambda: disparity.group_means([], np.array([], dtype=int), 2), r"groups: groups \[0, 1\] have no quality"),
        (lambda: disparity.gap_null(FOUR, GROUPS, 2, seed=0, permutations=0), "permutations: 0"),
        (lambda: disparity.levelled_down_between_seeds(SEEDS[:1]), r"quality: shape \(1, 2, 2\)"),
        (lambda: disparity.levelled_down_between_seeds(SEEDS[:, :1]), r"quality: shape \(3, 1, 2\)"),
        (lambda: disparity.levelled_down_between_seeds(SEEDS[0]), r"quality: shape \(2, 2\)"),
        (lambda: disparity.levelled_down_between_seeds(SEEDS, confidence=1.0), "confidence: 1.0"),
        (
            lambda: disparity.levelled_down_within_run(FOUR, FOUR, GROUPS, 2, seed=0, resamples=0),
            "resamples: 0 must be",
        ),
        (lambda: disparity.levelled_down_within_run(FOUR, FOUR[:3], GROUPS, 2, seed=0), "groups: shape"),
    ],
)
def test_bad_input_names_field_value_and_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
