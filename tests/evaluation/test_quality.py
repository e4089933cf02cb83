from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.evaluation import quality
from scpl_ray.evaluation.words import unicode_words


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(10, 3, 1, 0.3), (10, 3, 5, 11 / 12), (5, 2, 3, 0.9), (200, 1, 100, 0.5), (10, 0, 5, 0.0), (4, 3, 2, 1.0)],
)
def test_pass_at_k(n, c, k, expected):
    assert quality.pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_is_unbiased_where_the_naive_formula_is_not():
    # 1 - (1 - 3/10)^5 = .83193 is not .916667
    assert float(quality.pass_at_k(10, 3, 5)) - (1 - 0.7**5) == pytest.approx(0.916667 - 0.83193, abs=1e-6)
    assert quality.pass_at_k(10, 0, 5) == 0.0


def test_pass_at_k_takes_many_problems():
    assert quality.pass_at_k([10, 5, 4], [3, 2, 0], 3).shape == (3,)
    assert quality.pass_at_k(10, [0, 3, 10], 1) == pytest.approx([0.0, 0.3, 1.0])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_fraction_of_draws_that_hold_a_correct_one(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations(range(n), k))
    expected = np.mean([min(draw) < c for draw in draws])
    assert quality.pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


PAIR = (["police killed the gunman"], ["police kill the gunman"])


def test_rouge_l_with_and_without_stemmer():
    plain = quality.rouge_l(*PAIR)
    assert (plain.f1[0], plain.tokenizer, plain.stemmer) == (0.75, "latin", False)
    assert quality.rouge_l(*PAIR, stemmer=True).f1[0] == 1.0
    assert quality.rouge_l(*PAIR, tokenizer="unicode").f1[0] == 0.75


def test_rouge_l_gives_precision_and_recall_per_pair():
    found = quality.rouge_l(["a b c d", "a b"], ["A x C", "!"])
    assert found.precision == pytest.approx([2 / 3, 0])
    assert found.recall == pytest.approx([0.5, 0])
    assert found.f1 == pytest.approx([4 / 7, 0])


def test_rouge_l_of_other_scripts():
    hindi, chinese = "यह एक परीक्षा है", "今天天气很好"
    with pytest.raises(ValueError, match=r"references: .* no token under tokenizer 'latin'"):
        quality.rouge_l([chinese], [chinese])
    found = quality.rouge_l([hindi, chinese], ["यह एक किताब है", "今天很好"], tokenizer="unicode")
    assert found.f1 == pytest.approx([0.75, 0.8])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Cat's naïve café, 3.5!", ["the", "cat", "s", "naïve", "café", "3", "5"]),
        ("Straße ﬁne", ["strasse", "fine"]),
        ("परीक्षा है", ["परीक्षा", "है"]),
        ("GPT模型abc", ["gpt", "模", "型", "abc"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("カ\u3099x", ["ガ", "x"]),
        ("\u0301a ... ", ["\u0301a"]),
        ("", []),
    ],
)
def test_words_of_any_script(text, words):
    assert unicode_words(text) == words


@pytest.mark.parametrize("letter", ["ก", "ກ", "က", "ក", "あ", "ア", "㐀", "一", "龥", "﨎", "𠀀"])
def test_letters_of_scripts_without_spaces_stand_alone(letter):
    assert unicode_words(f"x{letter}{letter}y") == ["x", letter, letter, "y"]


@pytest.mark.parametrize("letter", ["я", "ω", "ع", "ש", "한", "ა", "ए", "ཀ"])
def test_letters_of_scripts_with_spaces_join(letter):
    assert unicode_words(f"{letter}{letter} {letter}") == [letter * 2, letter]


def test_perplexity_weighs_tokens_and_not_completions():
    assert quality.perplexity([2.0, 6.0], [1, 3]) == pytest.approx(np.exp(2))
    assert quality.perplexity([0.0, 9.0], [9, 1]) == pytest.approx(np.exp(0.9))
    assert quality.perplexity([0.0, 3.0], [0, 3]) == pytest.approx(np.e)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quality.pass_at_k(4, 2, 5), "k: 5 must lie between 1 and samples = 4"),
        (lambda: quality.pass_at_k([9, 4], 2, 5), "k: 5 must lie between 1 and samples"),
        (lambda: quality.pass_at_k(4, 2, 0), "k: 0 must lie"),
        (lambda: quality.pass_at_k(4, 5, 1), "correct: 5.0 must lie between 0 and samples"),
        (lambda: quality.pass_at_k(4, -1, 1), "correct: -1.0 must lie"),
        (lambda: quality.pass_at_k(4, 1.5, 1), "samples, correct: .* whole numbers"),
        (lambda: quality.pass_at_k(4, float("nan"), 1), "samples, correct: .* whole numbers"),
        (lambda: quality.rouge_l(["a"], []), "candidates: 0 for 1 references"),
        (lambda: quality.rouge_l(["a"], ["a"], tokenizer="x"), "tokenizer: 'x' must be 'latin' or 'unicode'"),
        (lambda: quality.rouge_l(["a"], ["a"], tokenizer="unicode", stemmer=True), "stemmer: True knows English only"),
        (lambda: quality.rouge_l(["..."], ["a"], tokenizer="unicode"), "references: '...' has no token"),
        (lambda: quality.perplexity([1.0], [1, 2]), r"tokens: shape \(2,\) for likelihoods of shape \(1,\)"),
        (lambda: quality.perplexity(1.0, 1), r"tokens: shape \(\)"),
        (lambda: quality.perplexity([float("nan")], [1]), "negative_log_likelihoods: .* not finite"),
        (lambda: quality.perplexity([1.0], [-1]), "tokens: .* negative"),
        (lambda: quality.perplexity([0.0, 0.0], [0, 0]), "tokens: 2 completions hold 0 tokens"),
        (lambda: quality.perplexity([], []), "tokens: 0 completions hold 0 tokens"),
    ],
)
def test_bad_input_names_field_value_and_rule(call, message):
    with pytest.raises(ValueError, match=message):
        call()
