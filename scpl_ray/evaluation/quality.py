"""Quality of answers against references and checks: Pass@k, ROUGE-L, perplexity."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer
from scipy.special import gammaln

from scpl_ray.evaluation.words import unicode_words
from scpl_ray.records import Judgement
from scpl_ray.shares import FloatArray

CORRECT = "correct"
"""The term of a judgement that is 1 for right and 0 for wrong answers."""
OWN_KIND_TERMS = frozenset({"own_kind", "reward", "win_rate"})
"""The terms of a judgement that say how far the answer is of the kind that the asking group prefers."""


def quality_without_own_kind(judgement: Judgement) -> float:
    """The mean of the terms that do not ask for the group's own kind; the quality where no term does.

    NaN where every term does.
    """
    others = [value for name, value in judgement.terms.items() if name not in OWN_KIND_TERMS]
    if len(others) == len(judgement.terms):
        return judgement.quality
    return float(np.mean(others)) if others else float("nan")


def pass_at_k(samples: ArrayLike, correct: ArrayLike, k: int) -> FloatArray:
    """Unbiased Pass@k per problem, 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, equation 1); broadcasts.

    Args:
        samples: n, completions drawn per problem.
        correct: c, the number of them that pass, 0..n.
        k: number of completions that a user would draw, 1..n.

    Raises:
        ValueError: a number that is not whole, k < 1, k > n, or c outside 0..n.
    """
    n, c = np.broadcast_arrays(np.asarray(samples, dtype=np.float64), np.asarray(correct, dtype=np.float64))
    if not np.all((n == np.floor(n)) & (c == np.floor(c))):
        raise ValueError(f"samples, correct: {n.tolist()}, {c.tolist()} must be whole numbers")
    if not np.all((c >= 0) & (c <= n)):
        raise ValueError(f"correct: {c.tolist()} must lie between 0 and samples = {n.tolist()}")
    if k < 1 or np.any(k > n):
        raise ValueError(f"k: {k} must lie between 1 and samples = {n.tolist()}; draw more samples or lower k")
    wrong = n - c
    some_pass_surely = wrong < k
    left = np.where(some_pass_surely, k, wrong)
    # the factors are paired so that they cancel exactly where nothing is correct: Pass@k is then exactly 0
    log_all_fail = (gammaln(left + 1) - gammaln(n + 1)) + (gammaln(n - k + 1) - gammaln(left - k + 1))
    return np.asarray(np.where(some_pass_surely, 1.0, -np.expm1(log_all_fail)))


class _UnicodeTokenizer(Tokenizer):  # type: ignore[misc]
    def tokenize(self, text: str) -> list[str]:
        return unicode_words(text)


@dataclasses.dataclass(frozen=True, eq=False)
class RougeL:
    """Sentence-level ROUGE-L of N pairs, and how it was measured."""

    precision: FloatArray
    """Length of the longest common subsequence (LCS) divided by the candidate's number of tokens, shape (N,)."""
    recall: FloatArray
    """LCS length divided by the reference's number of tokens, shape (N,)."""
    f1: FloatArray
    """Harmonic mean of the two, shape (N,)."""
    tokenizer: str
    stemmer: bool
    """Whether the Porter stemmer was applied to words of more than 3 letters."""


def rouge_l(
    references: Sequence[str],
    candidates: Sequence[str],
    *,
    tokenizer: Literal["latin", "unicode"] = "latin",
    stemmer: bool = False,
) -> RougeL:
    """Sentence-level ROUGE-L (Lin 2004) with ``rouge-score``, from the longest common subsequence of the whole texts.

    Args:
        references: N real answers.
        candidates: N completions; one without tokens scores 0.
        tokenizer: ``latin`` is rouge-score's own, runs of a-z and 0-9 after lower-casing, which drops every other
            letter; ``unicode`` takes words of any script.
        stemmer: Porter's English stemmer; only with ``latin``.

    Raises:
        ValueError: lengths that differ, an unknown tokenizer, a stemmer with ``unicode``, or a reference that has no
            token under the tokenizer.
    """
    if len(references) != len(candidates):
        raise ValueError(f"candidates: {len(candidates)} for {len(references)} references; give one for each")
    if tokenizer not in ("latin", "unicode"):
        raise ValueError(f"tokenizer: {tokenizer!r} must be 'latin' or 'unicode'")
    if stemmer and tokenizer == "unicode":
        raise ValueError("stemmer: True knows English only; use it with tokenizer='latin'")
    words = DefaultTokenizer(stemmer) if tokenizer == "latin" else _UnicodeTokenizer()
    scorer = RougeScorer(["rougeL"], tokenizer=words)
    scores = np.empty((len(references), 3))
    for row, reference, candidate in zip(scores, references, candidates, strict=True):
        if not words.tokenize(reference):
            raise ValueError(
                f"references: {reference[:80]!r} has no token under tokenizer {tokenizer!r}; "
                "leave empty references out, and use 'unicode' for text that is not Latin"
            )
        row[:] = scorer.score(reference, candidate)["rougeL"]
    return RougeL(scores[:, 0], scores[:, 1], scores[:, 2], tokenizer, stemmer)


def perplexity(negative_log_likelihoods: ArrayLike, tokens: ArrayLike) -> float:
    """exp(sum of nats / number of tokens): every token has the same weight, not every completion.

    Report it under a *fixed* model as well as under the current one: a collapsing model's own perplexity falls.

    Args:
        negative_log_likelihoods: summed over each completion's tokens given its prompt, nats, shape (N,).
        tokens: number of those tokens, shape (N,).

    Raises:
        ValueError: shapes that differ, a negative or not finite number, or no token at all.
    """
    nats, counts = np.asarray(negative_log_likelihoods, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if nats.shape != counts.shape or nats.ndim != 1:
        raise ValueError(f"tokens: shape {counts.shape} for likelihoods of shape {nats.shape}; both are (N,)")
    for name, values in (("negative_log_likelihoods", nats), ("tokens", counts)):
        if not np.all(np.isfinite(values)) or np.any(values < 0):
            raise ValueError(f"{name}: {values.tolist()} holds a negative or not finite number")
    if counts.sum() == 0:
        raise ValueError(f"tokens: {len(counts)} completions hold 0 tokens; perplexity needs at least one")
    return float(np.exp(nats.sum() / counts.sum()))
