"""The leaning judge: it predicts which group's outlets a short text resembles.

It uses TF-IDF of single words and multinomial logistic regression, fitted by scikit-learn and applied with NumPy. It is
fitted on windows as short as the texts it will judge; of the TF-IDF features that were tried, this choice did best on
windows from outlets it had not seen. Its card (:mod:`scpl_ray.judges.card`) reports its accuracy. It is a fast baseline
that does not understand text.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from scpl_ray.seeds import generator

WORD = re.compile(r"\b\w\w+\b")
WINDOWS_PER_ARTICLE = 8
MAX_WORDS = 50_000
MIN_WINDOWS = 2
"""A word enters the vocabulary if it occurs in at least this many windows."""
INVERSE_PENALTY = 1.0
"""C of the L2-penalised logistic regression."""
SETTINGS: dict[str, Any] = {
    "judge": "a TF-IDF classifier",
    "features": "TF-IDF of single lower-case words, 1 + ln(count), L2 norm",
    "classifier": "multinomial logistic regression, classes weighted equally",
    "words": MAX_WORDS,
    "min_windows": MIN_WINDOWS,
    "inverse_penalty": INVERSE_PENALTY,
    "windows_per_article": WINDOWS_PER_ARTICLE,
}
WEIGHTS, VOCABULARY = "judge.safetensors", "judge.json"


@dataclasses.dataclass(frozen=True, slots=True)
class LabelledText:
    """One article on which a judge is fitted or measured."""

    text_id: str
    text: str
    label: str
    outlet: str
    split_random: str | None = None
    """Its part in a published random split: train, valid, test or ``None``."""
    split_media: str | None = None
    """Its part in a published split by outlet."""


class Judge(Protocol):
    """The interface of classifiers that predict the label of a text."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The K labels."""
        ...

    def probabilities(self, text: str) -> NDArray[np.float64] | None:
        """P(label | text), shape (K,); ``None`` if the judge cannot decide."""
        ...

    def label(self, text: str) -> str | None:
        """The most probable label; ``None`` if the judge cannot decide."""
        ...


def most_probable(labels: Sequence[str], probabilities: NDArray[np.float64] | None) -> str | None:
    """The most probable of the labels; ``None`` where a judge cannot decide, or on a tie."""
    if probabilities is None:
        return None
    best = np.flatnonzero(probabilities == probabilities.max())
    return labels[int(best[0])] if len(best) == 1 else None


@dataclasses.dataclass(frozen=True, eq=False)
class LeaningJudge:
    """A fitted judge with K labels and a vocabulary of F words."""

    labels: tuple[str, ...]
    words: dict[str, int]
    """Column index of each word."""
    idf: NDArray[np.float64]
    """Inverse document frequencies, shape (F,)."""
    weights: NDArray[np.float64]
    """Weights of the logistic regression, shape (K, F)."""
    intercept: NDArray[np.float64]
    """Intercepts of the logistic regression, shape (K,)."""

    def probabilities(self, text: str) -> NDArray[np.float64] | None:
        """P(label | text), shape (K,); ``None`` if no word of the text is in the vocabulary."""
        counts = Counter(self.words[word] for word in WORD.findall(text.lower()) if word in self.words)
        if not counts:
            return None
        columns = np.fromiter(counts, dtype=np.int64)
        values = (1.0 + np.log(np.fromiter(counts.values(), dtype=np.float64))) * self.idf[columns]
        values /= np.linalg.norm(values)
        return np.asarray(softmax(self.weights[:, columns] @ values + self.intercept), dtype=np.float64)

    def label(self, text: str) -> str | None:
        """The most probable label; ``None`` if no word is in the vocabulary, or on a tie."""
        return most_probable(self.labels, self.probabilities(text))

    def save(self, folder: Path) -> None:
        """Write ``judge.safetensors`` and ``judge.json`` into an existing folder."""
        from safetensors.numpy import save_file

        arrays = {"idf": self.idf, "weights": self.weights, "intercept": self.intercept}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / WEIGHTS)
        facts = {"labels": self.labels, "words": sorted(self.words, key=self.words.__getitem__), "settings": SETTINGS}
        (folder / VOCABULARY).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> LeaningJudge:
        """The inverse of :meth:`save`; the loaded judge is bit-identical.

        Raises:
            ValueError: files are missing or inconsistent.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            facts = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
            arrays = load_file(folder / WEIGHTS)
            labels, words = tuple(facts["labels"]), {word: i for i, word in enumerate(facts["words"])}
            idf, weights, intercept = arrays["idf"], arrays["weights"], arrays["intercept"]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise ValueError(f"{folder}: no judge that can be read ({error}); train it anew") from error
        shapes = idf.shape, weights.shape, intercept.shape
        if shapes != ((len(words),), (len(labels), len(words)), (len(labels),)):
            raise ValueError(
                f"{folder}: {len(labels)} labels and {len(words)} words do not fit arrays of shapes {shapes}"
            )
        return cls(labels, words, idf, weights, intercept)


def fit(articles: Sequence[LabelledText], labels: Sequence[str], window_words: int) -> LeaningJudge:
    """Fit a judge on windows of articles.

    Args:
        articles: at least two articles per label.
        labels: the K labels, in the order of the judge's outputs.
        window_words: number of words per window.

    Raises:
        ValueError: a label has no articles, or no word occurs in enough windows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if lacking := sorted(set(labels) - {article.label for article in articles}):
        raise ValueError(f"judge: no article is labelled {', '.join(lacking)}; give the judge articles of every label")
    texts, of_text = [], []
    for article in articles:
        parts = windows(article, window_words, WINDOWS_PER_ARTICLE)
        texts += parts
        of_text += [labels.index(article.label)] * len(parts)
    vectorizer = TfidfVectorizer(
        token_pattern=WORD.pattern, sublinear_tf=True, min_df=MIN_WINDOWS, max_features=MAX_WORDS
    )
    try:
        features = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise ValueError(
            f"judge: the {len(texts)} windows of {len(articles)} articles share no words ({error}); "
            "give the judge more text"
        ) from error
    model = LogisticRegression(C=INVERSE_PENALTY, class_weight="balanced", max_iter=1000).fit(features, of_text)
    # for two classes scikit-learn stores one row, the log-odds z, which equals the softmax of (-z / 2, z / 2)
    weights, intercept = np.asarray(model.coef_, dtype=np.float64), np.asarray(model.intercept_, dtype=np.float64)
    if len(labels) == 2:
        weights, intercept = np.vstack([-weights / 2, weights / 2]), np.concatenate([-intercept / 2, intercept / 2])
    words = {str(word): int(column) for word, column in vectorizer.vocabulary_.items()}
    return LeaningJudge(tuple(labels), words, np.asarray(vectorizer.idf_, dtype=np.float64), weights, intercept)


def windows(article: LabelledText, window_words: int, count: int) -> list[str]:
    """Up to ``count`` non-overlapping windows of an article, drawn by its id; a short article is one window."""
    words = article.text.split()
    whole = max(1, len(words) // window_words)
    rng = generator(window_words, "judge windows", article.text_id)
    chosen = sorted(rng.choice(whole, min(count, whole), replace=False).tolist())
    return [" ".join(words[i * window_words : (i + 1) * window_words]) for i in chosen]
