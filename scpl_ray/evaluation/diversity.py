"""Diversity of a set of documents: distinct-n, self-BLEU, entropy.

All of them depend on the amount of text, so each uses a fixed amount of it, drawn with a seed. Compare only numbers
that were measured on equal amounts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from sacrebleu.metrics.bleu import BLEU

from scpl_ray import seeds

Document = Sequence[Hashable]
"""The tokens of one document: words, or token ids."""


@dataclasses.dataclass(frozen=True)
class Distinct:
    """Distinct n-grams within a token budget."""

    value: float
    """Distinct n-grams divided by all n-grams, in [0, 1]; NaN where no document has n tokens."""
    distinct: int
    total: int
    """Number of n-grams used."""
    tokens: int
    """Number of tokens used."""
    budget: int
    """Number of tokens requested; if ``tokens`` is smaller, the value is too high to be compared."""


def distinct_n(documents: Sequence[Document], n: int, *, budget_tokens: int, seed: int) -> Distinct:
    """Distinct-n (Li et al. 2016) pooled over documents; no n-gram extends over two documents.

    Documents are taken in a seeded random order until the budget is used up; the last one is cut. The same seed selects
    the same text for every n.

    Args:
        documents: token sequences.
        n: length of the n-grams, n >= 1.
        budget_tokens: tokens to use; equal for all rounds and groups, since distinct-n falls with the amount of text.
        seed: seed of the order.

    Raises:
        ValueError: n or the budget below 1.
    """
    if n < 1:
        raise ValueError(f"n: {n} must be at least 1")
    if budget_tokens < 1:
        raise ValueError(f"budget_tokens: {budget_tokens} must be at least 1")
    seen: set[tuple[Hashable, ...]] = set()
    total = tokens = 0
    for i in seeds.generator(seed, "distinct-n").permutation(len(documents)):
        document = documents[i][: budget_tokens - tokens]
        tokens += len(document)
        grams = list(_ngrams(document, n))
        total += len(grams)
        seen.update(grams)
        if tokens == budget_tokens:
            break
    value = len(seen) / total if total else float("nan")
    return Distinct(value, len(seen), total, tokens, budget_tokens)


def expectation_adjusted_distinct(distinct: int, total: int, vocabulary: int) -> float:
    """Distinct n-grams over the number expected in ``total`` uniform draws, V (1 - ((V - 1) / V)^C) (Liu et al. 2022).

    Raises:
        ValueError: a number below 1, or ``distinct`` above ``total``.
    """
    for name, value in (("distinct", distinct), ("total", total), ("vocabulary", vocabulary)):
        if value < 1:
            raise ValueError(f"{name}: {value} must be at least 1")
    if distinct > total:
        raise ValueError(f"distinct: {distinct} exceeds the total of {total} n-grams")
    unseen = (1.0 - 1.0 / vocabulary) ** total
    return distinct / (vocabulary * (1.0 - unseen))


def self_bleu(documents: Sequence[str], *, size: int, seed: int) -> float:
    """Mean BLEU of each of ``size`` documents against the others, in [0, 1]; 1 where all are alike (Zhu et al. 2018).

    Sentence BLEU of sacrebleu (Post 2018): tokenizer 13a, case kept, up to 4-grams or the document's length,
    exponential smoothing. It grows with the number of documents, so ``size`` must be equal for all rounds and groups.
    An empty document scores 1 if another is empty, else 0.

    Args:
        documents: N texts.
        size: number of documents drawn without replacement, 2..N.
        seed: seed of the draw.

    Raises:
        ValueError: fewer documents than ``size``, or a size below 2.
    """
    if not 2 <= size <= len(documents):
        raise ValueError(
            f"size: {size} must lie between 2 and the {len(documents)} documents; "
            "use one size for all rounds and groups"
        )
    chosen = seeds.generator(seed, "self-BLEU").choice(len(documents), size, replace=False)
    texts = [documents[i].strip() for i in chosen]
    bleu = BLEU(effective_order=True)
    scores = []
    for i, text in enumerate(texts):
        others = texts[:i] + texts[i + 1 :]
        scores.append(bleu.sentence_score(text, others).score / 100.0 if text else float("" in others))
    return float(np.mean(scores))


@dataclasses.dataclass(frozen=True)
class Entropy:
    """Entropy of counts, in nats."""

    plug_in: float
    """-sum p ln p of the observed shares; it is too low by about (types - 1) / (2 tokens)."""
    miller_madow: float
    """The plug-in entropy plus (types - 1) / (2 tokens), which corrects its bias (Miller 1955)."""
    types: int
    tokens: int

    @property
    def bits(self) -> float:
        """The plug-in entropy in bits."""
        return self.plug_in / float(np.log(2.0))


def entropy(counts: ArrayLike) -> Entropy:
    """Entropy of a distribution observed as counts, shape (V,); zeros are types that were not observed.

    Raises:
        ValueError: a count that is negative or not whole, or counts that sum to 0.
    """
    n = np.asarray(counts, dtype=np.float64)
    if n.ndim != 1 or not np.all(np.isfinite(n) & (n >= 0) & (n == np.floor(n))) or n.sum() == 0:
        raise ValueError(f"counts: {n.tolist()} must be one row of whole counts >= 0 with a sum above 0")
    seen = n[n > 0]
    p = seen / seen.sum()
    plug_in = float(-(p * np.log(p)).sum())
    return Entropy(plug_in, plug_in + float((len(seen) - 1) / (2.0 * n.sum())), len(seen), int(n.sum()))


def _ngrams(tokens: Document, n: int) -> Iterable[tuple[Hashable, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)
