import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.evaluation import bias

SHARES = (0.55, 0.30, 0.15)
KINDS = ("a", "b", "c")


def shares_of(n_min=2, n_max=8):
    return st.lists(st.integers(1, 1000), min_size=n_min, max_size=n_max).map(lambda w: np.array(w) / sum(w))


def test_preference_bias_against_balanced_shares():
    found = bias.preference_bias(SHARES, bias.balanced(3), advantaged=0)
    assert found.differences == pytest.approx([0.216667, -0.033333, -0.183333], abs=1e-6)
    assert found.total_variation == pytest.approx(0.21666666666666667, abs=1e-12)
    assert found.kl == pytest.approx(0.12404209922185555, abs=1e-12)
    assert found.log_odds == pytest.approx(0.8938178760220968, abs=1e-12)
    assert found.kind_log_odds[0] == found.log_odds


def test_preference_bias_has_leading_axes():
    stacked = np.array([[SHARES, (0.2, 0.2, 0.6)]])
    found = bias.preference_bias(stacked, SHARES, advantaged=2, total=[[20, 40]], reference_total=10)
    assert found.log_odds.shape == found.kl.shape == found.total_variation.shape == (1, 2)
    assert found.kind_log_odds.shape == (1, 2, 3)
    # ln((40 * .6 + .5) / (40 * .4 + .5)) - ln((10 * .15 + .5) / (10 * .85 + .5))
    assert found.log_odds[0, 1] == pytest.approx(np.log(24.5 / 16.5) - np.log(2 / 9))


def test_exact_log_odds_are_infinite_at_the_ends_and_smoothed_ones_are_not():
    assert bias.preference_bias((0.0, 1.0), (0.5, 0.5), advantaged=0).log_odds == -np.inf
    assert bias.preference_bias((0.0, 1.0), (0.5, 0.5), advantaged=1).log_odds == np.inf
    assert np.isnan(bias.preference_bias((0.0, 1.0), (0.0, 1.0), advantaged=0).log_odds)
    smoothed = bias.preference_bias((0.0, 1.0), (0.5, 0.5), advantaged=0, total=20)
    assert smoothed.log_odds == pytest.approx(np.log(0.5 / 20.5))
    assert bias.preference_bias((0.0, 1.0), (0.0, 1.0), advantaged=0, total=9, reference_total=9).log_odds == 0.0


def test_kl_is_infinite_where_the_reference_lacks_a_kind():
    assert bias.preference_bias((0.5, 0.5), (1.0, 0.0), advantaged=0).kl == np.inf
    assert bias.preference_bias((1.0, 0.0), (0.5, 0.5), advantaged=0).kl == pytest.approx(np.log(2))


def test_distances_of_counts_are_finite_and_do_not_grow_as_fewer_answers_are_of_a_kind():
    lacking = bias.preference_bias((0.5, 0.5), (1.0, 0.0), advantaged=0, total=40, reference_total=40)
    assert 1.0 < lacking.kl < np.inf
    rng = np.random.default_rng(1)
    for n in (20, 200):
        first, later = rng.multinomial(n, (0.6, 0.3, 0.1), size=(2, 20_000)) / n
        totals = {"total": np.full(20_000, n), "reference_total": np.full(20_000, n)}
        same = bias.preference_bias(later, first, advantaged=0, **totals)
        plain = bias.preference_bias(later, first, advantaged=0)
        assert abs(same.total_variation.mean()) < 0.01 < plain.total_variation.mean()
        assert abs(same.kl.mean()) < 0.015
        moved = rng.multinomial(n, (0.3, 0.3, 0.4), size=20_000) / n
        found = bias.preference_bias(moved, (0.6, 0.3, 0.1), advantaged=0, total=np.full(20_000, n))
        assert found.total_variation.mean() == pytest.approx(0.3, abs=0.02)


def twice(shares, n, shared, rng, samples=1, undecided=0.0):
    """Kinds of the answers to n prompts in two rounds of one law, of which a part are the very same answers."""
    law = [*((1 - undecided) * np.array(shares)), undecided]
    first, later = rng.choice(len(law), size=(2, n, samples), p=law)
    later = np.where(rng.random((n, samples)) < shared, first, later)
    return [np.eye(len(law), dtype=np.int64)[kinds].sum(axis=1)[:, :-1] for kinds in (later, first)]


def since(later, first):
    kinds = KINDS[: later.shape[1]]
    counts = [bias.kind_counts(of.sum(axis=0), kinds) for of in (later, first)]
    return bias.measure_preference(*counts, advantaged="a", by_prompt=(later, first)).round_0


@pytest.mark.parametrize("shares", [(0.6, 0.4), (0.6, 0.3, 0.1)])
@pytest.mark.parametrize("shared", [0.0, 0.5, 0.97])
@pytest.mark.parametrize(("n", "samples", "undecided"), [(200, 1, 0.0), (60, 4, 0.2)])
def test_answers_that_two_rounds_share_are_no_distance_between_them(shares, shared, n, samples, undecided):
    rng = np.random.default_rng(3)
    found = [since(*twice(shares, n, shared, rng, samples, undecided)) for _ in range(1000)]
    for name, rough in (("total_variation", 0.0007), ("kl", 0.0)):
        values = np.array([float(one.__dict__[name]) for one in found])
        # the law of a handful of differing answers is not quite normal
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values)) + rough


def test_the_unit_of_what_counting_adds_is_the_prompt():
    rng = np.random.default_rng(4)
    values = []
    for _ in range(1000):  # prompts whose eight answers are alike, and lean anew in the other round
        counts = rng.binomial(8, rng.beta(0.5, 0.5, size=(2, 40)))
        values.append(since(*(np.stack([of, 8 - of], axis=1) for of in counts)))
    for found, alone in (
        ([one.total_variation for one in values], bias.debiased_total_variation),
        ([one.kl for one in values], bias.debiased_kl),
    ):
        assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
        shares, first = (np.array([getattr(one, of) for one in values]) for of in ("shares", "reference"))
        plain = alone(shares, first, np.full(1000, 320), np.full(1000, 320))
        assert plain.mean() > 4 * np.std(found) / np.sqrt(len(found))


def test_answers_of_two_rounds_that_are_independent_are_as_two_counts():
    rng = np.random.default_rng(5)
    pairs = [twice((0.6, 0.3, 0.1), 200, 0.0, rng) for _ in range(400)]
    paired = np.mean([bias.paired_variance(*pair) for pair in pairs], axis=0)
    p = np.array([0.6, 0.3, 0.1])
    assert paired == pytest.approx(2 * p * (1 - p) / 200, rel=0.03)
    # and where the variance is that of two counts, so are the distances
    totals = {"total": 200, "reference_total": 200}
    s, tau = (0.5, 0.4, 0.1), (0.6, 0.3, 0.1)
    counted = [bias.smoothed_shares(np.array(of), 200) for of in (s, tau)]
    variance = sum(of * (1 - of) / 200 for of in counted)
    plain = bias.preference_bias(s, tau, advantaged=0, **totals)
    same = bias.preference_bias(s, tau, advantaged=0, **totals, variance=variance)
    assert same.total_variation == plain.total_variation and same.kl == pytest.approx(float(plain.kl))


def test_a_round_that_answers_as_round_0_did_is_at_no_distance_from_it():
    _, first = twice((0.6, 0.3, 0.1), 50, 0.0, np.random.default_rng(6), samples=2)
    same = since(first.copy(), first)
    assert same.total_variation == same.kl == 0.0
    # of one prompt there is no variance, and its answers count as independent
    alone = since(np.array([[3, 1]]), np.array([[2, 2]]))
    counts = [bias.kind_counts(of, ("a", "b")) for of in ((3, 1), (2, 2))]
    assert alone.total_variation == bias.measure_preference(*counts, advantaged="a").round_0.total_variation


def test_a_paired_distance_of_corrected_shares_has_their_noise():
    rng, confusion = np.random.default_rng(7), [[0.8, 0.2], [0.3, 0.7]]
    distances = []
    for _ in range(500):
        pair = twice((0.6, 0.4), 300, 0.5, rng)
        counts = [bias.kind_counts(of.sum(axis=0), ("a", "b")) for of in pair]
        found = bias.measure_preference(*counts, advantaged="a", confusion=confusion, by_prompt=pair)
        distances.append(float(found.corrected_round_0.total_variation))
    assert abs(np.mean(distances)) < 4 * np.std(distances) / np.sqrt(500)


def test_a_corrected_share_carries_the_error_of_the_judge_too():
    # held-out texts of a judge with TPR .85 and FPR .25; one that is known exactly leaves counting alone
    rates = np.array([[0.85, 0.15], [0.25, 0.75]])
    known = bias.correct_shares((0.64, 0.36), rates, total=200)
    assert known.sd[0] == pytest.approx(np.sqrt(0.64 * 0.36 / 200) / 0.6)
    few, many = (bias.correct_shares((0.64, 0.36), n * rates, total=200) for n in (40, 40_000))
    assert few.shares == pytest.approx(known.shares) and many.sd == pytest.approx(known.sd, rel=0.01)
    s = known.shares[0]
    extra = (s**2 * 0.85 * 0.15 + (1 - s) ** 2 * 0.25 * 0.75) / 40 / 0.6**2
    assert few.sd[0] ** 2 == pytest.approx(known.sd[0] ** 2 + extra)
    assert bias.correct_shares((0.64, 0.36), rates).sd == pytest.approx([0.0, 0.0])
    rng = np.random.default_rng(2)
    found = [
        bias.correct_shares(
            (o := rng.binomial(200, 0.64) / 200, 1 - o),
            [rng.multinomial(40, row) for row in rates],
        ).unclipped[0]
        for _ in range(1500)
    ]
    assert np.std(found) == pytest.approx(few.sd[0], rel=0.15)


def test_smoothing_by_one_half_has_less_bias_than_by_none_or_by_one():
    rng = np.random.default_rng(0)
    n, p = 50, 0.2
    counts = rng.binomial(n, p, size=200_000)
    truth = np.log(p / (1 - p))
    half = bias.smoothed_logit(counts / n, n).mean() - truth
    one = np.log((counts + 1) / (n - counts + 1)).mean() - truth
    # standard error .36 / sqrt(200,000) = .0008
    assert abs(half) < 0.005 < 0.03 < abs(one)


def test_kinds_are_counted_and_undecided_ones_apart():
    counts = bias.count_kinds(["b", None, "a", "b", None, None], KINDS)
    assert counts.counts.tolist() == [1, 2, 0]
    assert (counts.undecided, counts.decided) == (3, 3)
    assert counts.shares() == pytest.approx([1 / 3, 2 / 3, 0])


def test_known_counts_come_by_kind_or_in_order():
    by_name = bias.kind_counts({"c": 3, "a": 1, "b": 2}, KINDS, undecided=4)
    in_order = bias.kind_counts([1, 2, 3], KINDS, undecided=4)
    assert by_name.counts.tolist() == in_order.counts.tolist() == [1, 2, 3]
    assert by_name.undecided == 4
    assert bias.kind_counts([1, 2, 3], KINDS).undecided == 0


def test_the_advantaged_kind_is_that_of_the_largest_group():
    assert bias.advantaged_kind(KINDS, (0.2, 0.5, 0.3)) == "b"
    assert bias.advantaged_kind(KINDS, (0.4, 0.2, 0.4)) == "a"


def test_a_round_is_measured_against_both_references():
    first, later = bias.kind_counts([40, 60], ("a", "b")), bias.kind_counts([70, 30], ("a", "b"), undecided=7)
    found = bias.measure_preference(later, first, advantaged="a")
    assert found.balanced.log_odds == pytest.approx(np.log(70.5 / 30.5))
    assert found.round_0.log_odds == pytest.approx(np.log(70.5 / 30.5) - np.log(40.5 / 60.5))
    assert found.balanced.differences == pytest.approx([0.2, -0.2])
    assert found.round_0.differences == pytest.approx([0.3, -0.3])
    assert (found.decided, found.undecided, found.advantaged) == (100, 7, "a")
    assert found.correction is found.corrected_balanced is found.corrected_round_0 is None
    nothing = bias.measure_preference(first, first, advantaged="b").round_0
    assert nothing.log_odds == nothing.kl == nothing.total_variation == 0.0


def test_a_known_judge_error_is_corrected_in_both_rounds_and_the_raw_shares_stay():
    first, later = bias.kind_counts([50, 50], ("a", "b")), bias.kind_counts([62, 38], ("a", "b"))
    found = bias.measure_preference(later, first, advantaged="a", confusion=[[0.9, 0.1], [0.1, 0.9]])
    assert found.correction is not None
    assert found.balanced.shares == pytest.approx([0.62, 0.38])
    assert found.correction.observed == pytest.approx([0.62, 0.38])
    assert found.correction.shares == pytest.approx([0.65, 0.35])
    assert found.corrected_balanced.differences == pytest.approx([0.15, -0.15])
    assert found.corrected_round_0.log_odds == pytest.approx(np.log(65.5 / 35.5))


def test_rogan_gladen():
    # a judge with TPR .9, FPR .2 sees .3 * .9 + .7 * .2 = .41
    assert bias.rogan_gladen(0.41, 0.9, 0.2) == pytest.approx(0.3)
    assert bias.rogan_gladen([0.1, 0.95], 0.9, 0.2).tolist() == [0.0, 1.0]
    # a judge that is wrong more often than right still tells the kinds apart
    assert bias.rogan_gladen(0.3 * 0.1 + 0.7 * 0.8, 0.1, 0.8) == pytest.approx(0.3)


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_two_kinds_are_corrected_alike_by_both_formulas(observed, tpr, fpr):
    if abs(tpr - fpr) < 1e-3:
        return
    matrix = [[tpr, 1 - tpr], [fpr, 1 - fpr]]
    corrected = bias.correct_shares([observed, 1 - observed], matrix).shares
    assert corrected[0] == pytest.approx(float(bias.rogan_gladen(observed, tpr, fpr)), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(shares_of(2, 6), st.floats(0.3, 1.0), st.randoms(use_true_random=False))
def test_a_correction_inverts_the_judge_and_follows_a_permutation_of_the_kinds(true, reliability, random):
    k = len(true)
    noise = np.array([[random.random() + 0.01 for _ in range(k)] for _ in range(k)])
    confusion = reliability * np.eye(k) + (1 - reliability) * noise / noise.sum(axis=1, keepdims=True)
    if np.linalg.svd(confusion, compute_uv=False).min() < 1e-4:
        return
    found = bias.correct_shares(true @ confusion, confusion)
    assert found.shares == pytest.approx(true, abs=1e-8)
    order = list(range(k))
    random.shuffle(order)
    permuted = bias.correct_shares((true @ confusion)[order], confusion[np.ix_(order, order)])
    assert permuted.shares == pytest.approx(found.shares[order], abs=1e-8)


def test_a_correction_that_leaves_the_simplex_is_clipped_and_renormalised():
    confusion = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    found = bias.correct_shares([0.9, 0.05, 0.05], confusion)
    assert found.unclipped == pytest.approx([8 / 7, -0.05 / 0.7, -0.05 / 0.7])
    assert found.shares == pytest.approx([1, 0, 0])
    batch = bias.correct_shares([[0.9, 0.05, 0.05], [0.1, 0.45, 0.45]], confusion)
    assert batch.shares == pytest.approx(np.array([[1, 0, 0], [0, 0.5, 0.5]]))


def test_confusion_of_held_out_counts():
    assert bias.confusion_of_counts([[9, 1], [4, 16]]) == pytest.approx(np.array([[0.9, 0.1], [0.2, 0.8]]))


@settings(max_examples=60, deadline=None)
@given(shares_of(), st.data())
def test_preference_bias_is_bounded_and_follows_a_permutation_of_the_kinds(shares, data):
    k = len(shares)
    reference = data.draw(shares_of(k, k))
    order = data.draw(st.permutations(range(k)))
    advantaged = data.draw(st.integers(0, k - 1))
    found = bias.preference_bias(shares, reference, advantaged=order[advantaged])
    permuted = bias.preference_bias(shares[order], reference[order], advantaged=advantaged)
    assert 0 <= found.total_variation <= 1
    # Pinsker's inequality
    assert found.kl >= 2 * found.total_variation**2 - 1e-12
    assert found.differences.sum() == pytest.approx(0, abs=1e-9)
    assert permuted.total_variation == pytest.approx(float(found.total_variation), abs=1e-12)
    assert permuted.kl == pytest.approx(float(found.kl), abs=1e-12)
    assert permuted.log_odds == pytest.approx(float(found.log_odds), abs=1e-12)
    assert permuted.kind_log_odds == pytest.approx(found.kind_log_odds[order], abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bias.preference_bias((0.5, 0.6), (0.5, 0.5), advantaged=0), r"shares: .* sums to 1.1"),
        (lambda: bias.preference_bias((0.5, 0.5), (0.5, 0.4), advantaged=0), r"reference: .* sums to 0.9"),
        (lambda: bias.preference_bias((0.5, 0.5), (0.2, 0.3, 0.5), advantaged=0), "reference: 3 shares for 2"),
        (lambda: bias.preference_bias((0.5, 0.5), (0.5, 0.5), advantaged=2), "advantaged: 2 is no kind"),
        (lambda: bias.preference_bias((0.5, 0.5), (0.5, 0.5), advantaged=-1), "advantaged: -1 is no kind"),
        (lambda: bias.smoothed_logit(1.2, 10), r"share: 1.2 must lie in \[0, 1\]"),
        (lambda: bias.smoothed_logit(float("nan"), 10), "share: nan"),
        (lambda: bias.smoothed_logit(0.2, 0), "total: 0.0 must be at least 1"),
        (lambda: bias.count_kinds(["d"], KINDS), "judged: 'd' is none of the kinds"),
        (lambda: bias.count_kinds([], ("a",)), "kinds: .* two or more distinct"),
        (lambda: bias.count_kinds([], ("a", "a")), "kinds: .* two or more distinct"),
        (lambda: bias.kind_counts({"a": 1, "b": 2}, KINDS), "counts: has kinds"),
        (lambda: bias.kind_counts([1, 2], KINDS), r"counts: shape \(2,\) for 3 kinds"),
        (lambda: bias.kind_counts([1, 2, -3], KINDS), "counts: .* negative or broken"),
        (lambda: bias.kind_counts([1, 2, 0.5], KINDS), "counts: .* negative or broken"),
        (lambda: bias.kind_counts([1, 2, 3], KINDS, undecided=-1), "undecided: .* negative or broken"),
        (lambda: bias.kind_counts([0, 0, 0], KINDS, undecided=8).shares(), "counts: none of 8 completions"),
        (lambda: bias.advantaged_kind(KINDS, (0.5, 0.5)), "initial_shares: 2 shares for 3"),
        (lambda: bias.rogan_gladen(0.5, 0.4, 0.4), "true_positive_rate: 0.4 equals"),
        (lambda: bias.rogan_gladen(0.5, 1.4, 0.4), "true_positive_rate: 1.4 must lie"),
        (lambda: bias.rogan_gladen([0.5, -0.1], 0.9, 0.4), "observed: .* must lie"),
        (lambda: bias.correct_shares((0.5, 0.5), np.full((3, 3), 1 / 3)), r"confusion: shape \(3, 3\) for 2 kinds"),
        (lambda: bias.correct_shares((0.5, 0.5), [0.5, 0.5]), r"confusion: shape \(2,\) for 2 kinds"),
        (lambda: bias.correct_shares((0.5, 0.5), [[0.5, 0.5], [0.5, 0.5]]), "confusion: .* singular"),
        (lambda: bias.correct_shares((0.5, 0.5), [[0.5, 0.4], [0.5, 0.5]]), "confusion: .* sums to 0.9"),
        (lambda: bias.correct_shares((0.5, 0.5), [[0.9, 0.2], [0.1, 0.8]]), "confusion: .* sums to 1.1"),
        (lambda: bias.inverse_errors([[0.91, 0.1], [0.2, 0.8]]), "confusion: .* sums to 1.01"),
        (lambda: bias.confusion_of_counts([[1, 2, 3], [1, 2, 3]]), r"counts: shape \(2, 3\)"),
        (lambda: bias.confusion_of_counts([[1, -2], [1, 2]]), "counts: .* negative or not finite"),
        (lambda: bias.confusion_of_counts([[1, 2], [0, 0]]), r"counts: true kinds \[1\] have no held-out texts"),
    ],
)
def test_bad_input_names_field_value_and_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_round_needs_the_same_kinds_as_round_0_and_a_known_advantaged_one():
    ab, ac = bias.kind_counts([1, 2], ("a", "b")), bias.kind_counts([1, 2], ("a", "c"))
    with pytest.raises(ValueError, match="round_0: kinds"):
        bias.measure_preference(ab, ac, advantaged="a")
    with pytest.raises(ValueError, match="advantaged: 'c' is none of the kinds"):
        bias.measure_preference(ab, ab, advantaged="c")
