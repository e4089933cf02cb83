"""The grammar of the built-in language, in which the probability of every sentence is known exactly.

A sentence has one or two clauses, a clause is one of a few templates, and the slots of a template are filled
independently given the *kind* of the text (the group that would like to read it) and its *topic*::

    the brave dockers praised the ferry, and harris said the old pier was splendid.

Every word belongs to one class only, so a sentence has one derivation per kind, and p(text | kind, topic) is a product.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from scpl_ray.tasks.language.lexicon import KIND_CLASSES, TOPIC_CLASSES, Lexicon

TEMPLATES: dict[str, float] = {
    "the ADJECTIVE ACTORS VERBED the THING": 0.25,
    "the ACTORS ADVERB VERBED the PLAIN THING": 0.20,
    "REPORTER said the PLAIN THING was ADJECTIVE": 0.15,
    "REPORTER VERBED the ACTORS over the FRAME": 0.15,
    "OFFICIALS DISCUSSED the FRAME at the THING": 0.15,
    "the ADJECTIVE THING VERBED PLAIN OFFICIALS": 0.10,
}
"""Clauses and their probabilities; upper-case words are slots. Every clause has a slanted word and a topic word."""
TWO_CLAUSES = 0.5
"""Probability of a second clause, joined by a comma and a ``JOINER``."""
RANK_OFFSET = 5.0
"""The word of rank r = 0, 1, ... of a class has probability proportional to 1 / (r + 5), so no word is very rare."""

_TOKEN = re.compile(r"[^\s.,:]+|[.,:]")
_LONGEST = max(len(template.split()) for template in TEMPLATES)


def words_of(text: str) -> list[str]:
    """The words and punctuation marks of a text, in order."""
    return _TOKEN.findall(text)


def join_words(words: Iterable[str]) -> str:
    """The text of these words; the inverse of :func:`words_of` for the language's own texts."""
    return " ".join(words).replace(" .", ".").replace(" ,", ",").replace(" :", ":")


class Grammar:
    """Samples and scores sentences. Word ids index ``vocabulary``.

    Args:
        lexicon: the word classes.
        templates: clauses and their probabilities, as :data:`TEMPLATES`.
    """

    def __init__(self, lexicon: Lexicon, templates: Mapping[str, float] = TEMPLATES) -> None:
        self.lexicon = lexicon
        literals = {word for template in templates for word in template.split() if word not in lexicon.classes}
        by_class = [word for variants in lexicon.classes.values() for variant in variants for word in variant]
        self.vocabulary: tuple[str, ...] = (".", ",", *sorted(literals), *by_class)
        if len(set(self.vocabulary)) < len(self.vocabulary):
            raise ValueError(f"lexicon: {sorted(literals & set(by_class))} are words of the templates themselves")
        ids = {word: i for i, word in enumerate(self.vocabulary)}
        self._tables: dict[str, NDArray[np.int64]] = {}
        self._cumulative: dict[str, NDArray[np.float64]] = {}
        self._place: dict[str, tuple[str, int, float]] = {}
        for name, variants in lexicon.classes.items():
            weights = 1.0 / (np.arange(len(variants[0])) + RANK_OFFSET)
            weights /= weights.sum()
            self._tables[name] = np.array([[ids[word] for word in variant] for variant in variants])
            self._cumulative[name] = np.cumsum(weights)
            for v, variant in enumerate(variants):
                self._place |= {word: (name, v, float(np.log(w))) for word, w in zip(variant, weights, strict=True)}
        self._ids = ids
        self._templates = [tuple(template.split()) for template in templates]
        self._template_cumulative = np.cumsum(list(templates.values()))
        self._template_log = {tuple(t.split()): float(np.log(p)) for t, p in templates.items()}
        # Columns of uniforms: whether there are two clauses, the joiner, then for each clause its template and slots.
        self.uniforms_per_sentence = 2 + 2 * (1 + _LONGEST)
        self.longest_sentence = 2 * _LONGEST + 3

    def sample(
        self, kinds: NDArray[np.int64], topics: NDArray[np.int64], uniforms: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Draw sentences of these kinds and topics; each depends only on its own row of uniforms.

        Args:
            kinds, topics: indices, shape (n,).
            uniforms: random numbers in [0, 1), shape (n, ``uniforms_per_sentence``).

        Returns:
            Word ids, shape (n, ``longest_sentence``); -1 where there is no word.
        """
        first = self._clauses(kinds, topics, uniforms[:, 2 : 3 + _LONGEST])
        second = self._clauses(kinds, topics, uniforms[:, 3 + _LONGEST :])
        comma = np.full((len(kinds), 1), self._ids[","])
        joiner = self._tables["JOINER"][0][self._rank("JOINER", uniforms[:, 1])][:, None]
        rest = np.concatenate([comma, joiner, second], axis=1)
        rest[uniforms[:, 0] >= TWO_CLAUSES] = -1
        return np.concatenate([first, rest, np.full((len(kinds), 1), self._ids["."])], axis=1)

    def texts(self, ids: NDArray[np.int64]) -> list[str]:
        """Convert rows of word ids to texts."""
        return [join_words([self.vocabulary[i] for i in row if i >= 0]) for row in ids.tolist()]

    def _rank(self, name: str, uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
        cumulative = self._cumulative[name]
        return np.minimum(np.searchsorted(cumulative, uniforms, side="right"), len(cumulative) - 1)

    def _clauses(
        self, kinds: NDArray[np.int64], topics: NDArray[np.int64], uniforms: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """Word ids of one clause per row, shape (n, longest clause)."""
        ids = np.full((len(kinds), _LONGEST), -1)
        choice = np.searchsorted(self._template_cumulative, uniforms[:, 0], side="right")
        choice = np.minimum(choice, len(self._templates) - 1)
        for z, template in enumerate(self._templates):
            rows = np.flatnonzero(choice == z)
            for position, word in enumerate(template):
                if word in self._tables:
                    variant = self._variant(word, kinds[rows], topics[rows])
                    ids[rows, position] = self._tables[word][variant, self._rank(word, uniforms[rows, 1 + position])]
                else:
                    ids[rows, position] = self._ids[word]
        return ids

    @staticmethod
    def _variant(name: str, kinds: NDArray[np.int64], topics: NDArray[np.int64]) -> NDArray[np.int64]:
        if name in KIND_CLASSES:
            return kinds
        return topics if name in TOPIC_CLASSES else np.zeros_like(kinds)

    def place(self, word: str) -> tuple[str, int] | None:
        """The class and variant of a word; ``None`` for template words, punctuation and unknown words."""
        found = self._place.get(word)
        return None if found is None else found[:2]

    def derivation(self, words: Sequence[str]) -> list[tuple[str, ...]] | None:
        """The templates of a sentence, whatever the kinds and topics of its words; ``None`` if it is not a sentence."""
        if not words or words[-1] != ".":
            return None
        parts = [list(part) for comma, part in itertools.groupby(words[:-1], lambda word: word == ",") if not comma]
        if words.count(",") != len(parts) - 1 or len(parts) > 2:
            return None
        if len(parts) == 2:
            joiner = self.place(parts[1].pop(0))
            if joiner is None or joiner[0] != "JOINER":
                return None
        patterns = [tuple(self._place[w][0] if w in self._place else w for w in part) for part in parts]
        return patterns if all(pattern in self._template_log for pattern in patterns) else None

    def log_likelihoods(self, words: Sequence[str], topic: int) -> NDArray[np.float64]:
        """log p(words | kind, topic) in nats for every kind, shape (K,); -inf if a kind cannot produce the words."""
        kinds = len(self.lexicon.groups)
        derivation = self.derivation(words)
        if derivation is None:
            return np.full(kinds, -np.inf)
        total = np.full(kinds, np.log(TWO_CLAUSES if len(derivation) == 2 else 1.0 - TWO_CLAUSES))
        total += sum(self._template_log[template] for template in derivation)
        for word in words:
            if word not in self._place:
                continue
            name, variant, log_probability = self._place[word]
            if name in TOPIC_CLASSES and variant != topic:
                return np.full(kinds, -np.inf)
            total += log_probability
            if name in KIND_CLASSES:
                total[np.arange(kinds) != variant] = -np.inf
        return total
