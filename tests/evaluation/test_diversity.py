from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.evaluation import diversity

TEXTS = ("the cat sat on the mat", "the cat sat on the rug", "a dog ran")
DOCUMENTS = [text.split() for text in TEXTS]


@pytest.mark.parametrize(("n", "distinct", "total"), [(1, 9, 15), (2, 8, 12), (3, 6, 9)])
def test_distinct_n_is_pooled_and_does_not_cross_documents(n, distinct, total):
    found = diversity.distinct_n(DOCUMENTS, n, budget_tokens=1000, seed=0)
    assert (found.distinct, found.total, found.tokens, found.budget) == (distinct, total, 15, 1000)
    assert found.value == pytest.approx(distinct / total)


def test_distinct_n_keeps_to_its_token_budget():
    documents = [[i, i + 1, i + 2, i + 3] for i in range(0, 400, 4)]
    found = diversity.distinct_n(documents, 2, budget_tokens=42, seed=3)
    # ten whole documents and half of another
    assert (found.tokens, found.total, found.distinct) == (42, 31, 31)
    same_text = [diversity.distinct_n(documents, n, budget_tokens=42, seed=3).tokens for n in (1, 2, 3)]
    assert same_text == [42, 42, 42]


def test_distinct_n_falls_with_the_amount_of_text_so_the_budget_makes_it_comparable():
    rng = np.random.default_rng(0)
    few, many = rng.zipf(1.5, size=(20, 10)).tolist(), rng.zipf(1.5, size=(400, 10)).tolist()
    unlimited = [diversity.distinct_n(d, 1, budget_tokens=10**6, seed=0).value for d in (few, many)]
    limited = [diversity.distinct_n(d, 1, budget_tokens=200, seed=0).value for d in (few, many)]
    assert unlimited[0] > 1.3 * unlimited[1]
    assert limited[0] == pytest.approx(limited[1], abs=0.06)


def test_distinct_n_depends_on_its_seed_only():
    documents = np.random.default_rng(1).integers(0, 30, size=(50, 6)).tolist()
    values = {seed: diversity.distinct_n(documents, 1, budget_tokens=60, seed=seed) for seed in (1, 2, 3, 4)}
    assert values[1] == diversity.distinct_n(documents, 1, budget_tokens=60, seed=1)
    assert len({v.distinct for v in values.values()}) > 1


def test_distinct_n_of_too_short_documents_is_not_a_number():
    assert np.isnan(diversity.distinct_n([["a"], [], ["b"]], 2, budget_tokens=5, seed=0).value)
    assert np.isnan(diversity.distinct_n([], 1, budget_tokens=5, seed=0).value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=8), st.integers(1, 4), st.integers(1, 40))
def test_distinct_n_is_a_fraction(documents, n, budget):
    found = diversity.distinct_n(documents, n, budget_tokens=budget, seed=0)
    assert found.tokens == min(budget, sum(map(len, documents)))
    assert found.distinct <= found.total
    assert found.total == 0 or 0 < found.value <= 1


def test_expectation_adjusted_distinct():
    assert diversity.expectation_adjusted_distinct(9, 15, 9) == pytest.approx(1.2061100104508633, abs=1e-12)
    assert diversity.expectation_adjusted_distinct(9, 15, 1000) == pytest.approx(0.6042112055614846, abs=1e-12)
    assert diversity.expectation_adjusted_distinct(1, 5, 1) == 1.0
    assert diversity.expectation_adjusted_distinct(2, 2, 2) == pytest.approx(2 / 1.5)


def test_expectation_adjusted_distinct_of_uniform_draws_is_1():
    draws = np.random.default_rng(2).integers(0, 500, size=(200, 400))
    values = [diversity.expectation_adjusted_distinct(len(set(row)), 400, 500) for row in draws.tolist()]
    assert np.mean(values) == pytest.approx(1.0, abs=0.005)


def sentences(count, seed=0):
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(40)]
    return [" ".join(words[i] for i in np.minimum(rng.zipf(1.4, size=8), 40) - 1) for _ in range(count)]


def test_self_bleu_is_1_for_copies_and_low_for_strangers():
    assert diversity.self_bleu(["a b c d e"] * 5, size=5, seed=0) == pytest.approx(1.0)
    assert diversity.self_bleu(["a b"] * 3, size=3, seed=0) == pytest.approx(1.0)
    strangers = [" ".join(f"w{i}-{j}".replace("-", "x") for j in range(8)) for i in range(5)]
    assert diversity.self_bleu(strangers, size=5, seed=0) == 0.0


def test_self_bleu_grows_with_the_number_of_documents_so_its_size_is_fixed():
    documents = sentences(60)
    by_size = [diversity.self_bleu(documents, size=size, seed=0) for size in (5, 20, 60)]
    assert by_size == sorted(by_size)
    assert by_size[2] > by_size[0] + 0.1


def test_self_bleu_is_the_mean_of_each_against_the_others():
    # sentence BLEU against two references, by hand: "a b c d" shares a, b, c, a-b, b-c and a-b-c with "a b c x"
    documents = ["a b c d", "a b c x", "q r s t"]
    half = (3 / 4 * 2 / 3 * 1 / 2 * (1 / 2) / 1) ** 0.25
    stranger = 0.0
    assert diversity.self_bleu(documents, size=3, seed=0) == pytest.approx((2 * half + stranger) / 3)


def test_self_bleu_depends_on_its_seed_only():
    documents = sentences(40)
    assert diversity.self_bleu(documents, size=8, seed=1) == diversity.self_bleu(documents, size=8, seed=1)
    assert diversity.self_bleu(documents, size=8, seed=1) != diversity.self_bleu(documents, size=8, seed=2)


def test_self_bleu_of_empty_documents():
    assert diversity.self_bleu(["", " ", ""], size=3, seed=0) == 1.0
    assert diversity.self_bleu(["", "a b c d"], size=2, seed=0) == 0.0


def test_entropy_with_miller_madow():
    counts = list(Counter(word for document in DOCUMENTS for word in document).values())
    found = diversity.entropy([*counts, 0])
    assert found.plug_in == pytest.approx(2.0611128325795947, abs=1e-12)
    assert found.bits == pytest.approx(2.9735572622751856, abs=1e-12)
    assert found.miller_madow == pytest.approx(2.3277794992462613, abs=1e-12)
    assert (found.types, found.tokens) == (9, 15)


def test_miller_madow_removes_most_of_the_bias():
    draws = np.random.default_rng(3).multinomial(100, np.full(20, 0.05), size=2000)
    found = [diversity.entropy(row) for row in draws]
    plug_in = np.mean([e.plug_in for e in found]) - np.log(20)
    corrected = np.mean([e.miller_madow for e in found]) - np.log(20)
    assert plug_in < -0.08
    assert abs(corrected) < 0.01


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_entropy_is_at_most_that_of_equal_shares(counts):
    found = diversity.entropy(counts)
    assert -1e-12 <= found.plug_in <= np.log(found.types) + 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diversity.distinct_n(DOCUMENTS, 0, budget_tokens=5, seed=0), "n: 0 must be at least 1"),
        (lambda: diversity.distinct_n(DOCUMENTS, 1, budget_tokens=0, seed=0), "budget_tokens: 0 must be"),
        (lambda: diversity.expectation_adjusted_distinct(0, 1, 1), "distinct: 0 must be at least 1"),
        (lambda: diversity.expectation_adjusted_distinct(1, 1, 0), "vocabulary: 0 must be at least 1"),
        (lambda: diversity.expectation_adjusted_distinct(3, 2, 9), "distinct: 3 exceeds the total of 2"),
        (lambda: diversity.self_bleu(TEXTS, size=4, seed=0), "size: 4 must lie between 2 and the 3 documents"),
        (lambda: diversity.self_bleu(TEXTS, size=1, seed=0), "size: 1 must lie"),
        (lambda: diversity.entropy([0, 0]), "counts: .* sum above 0"),
        (lambda: diversity.entropy([1, -1]), "counts: .* whole counts >= 0"),
        (lambda: diversity.entropy([0.5]), "counts: .* whole counts >= 0"),
        (lambda: diversity.entropy([[1, 2]]), "counts: .* one row"),
        (lambda: diversity.entropy([float("nan")]), "counts: .* whole counts"),
        (lambda: diversity.entropy([1, float("inf")]), "counts: .* whole counts"),
    ],
)
def test_bad_input_names_field_value_and_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
