"""The judge of the built-in language: it determines the kind and quality of a text from its words alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scpl_ray.tasks.language.grammar import Grammar
from scpl_ray.tasks.language.lexicon import KIND_CLASSES, TOPIC_CLASSES

SLIP = 0.05
"""Noise of the posterior's model: the probability that a writer of one kind uses a slanted word of another kind."""
SHORTEST, LONGEST = 7, 17
"""Number of words and punctuation marks of the shortest and of the longest sentence of the grammar."""


class Judge:
    """Measures texts given as words (:func:`scpl_ray.tasks.language.grammar.words_of`); any text can be measured."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._kinds = grammar.lexicon.groups

    def kind_posterior(self, words: Sequence[str]) -> NDArray[np.float64]:
        """p(kind | slanted words), shape (K,), by Bayes' rule under equal priors and slips.

        A slanted word is of its writer's kind with probability 1 - :data:`SLIP`, else of any other kind. Within a kind,
        the probabilities of words do not depend on the writer. With n_k slanted words of kind k the posterior is
        therefore proportional to ((1 - slip) (K - 1) / slip) ^ n_k.
        """
        counts = np.array(self._slanted(words))
        weights = ((1.0 - SLIP) * (len(counts) - 1) / SLIP) ** (counts - counts.max()).astype(np.float64)
        return np.asarray(weights / weights.sum(), dtype=np.float64)

    def kind(self, words: Sequence[str]) -> str | None:
        """The most probable kind: the one with the most slanted words; ``None`` if there are none, or on a tie."""
        counts = self._slanted(words)
        most = max(counts)
        return self._kinds[counts.index(most)] if counts.count(most) == 1 else None

    def _slanted(self, words: Sequence[str]) -> list[int]:
        """The number of slanted words of each kind."""
        counts = [0] * len(self._kinds)
        for word in words:
            place = self._grammar.place(word)
            if place is not None and place[0] in KIND_CLASSES:
                counts[place[1]] += 1
        return counts

    def well_formed(self, words: Sequence[str]) -> float:
        """1 if the words are a sentence of the grammar, of any kinds and topics, else 0."""
        return float(self._grammar.derivation(words) is not None)

    def on_topic(self, words: Sequence[str], topic: int) -> float:
        """Fraction of the topic words that belong to this topic; 0 if there are no topic words."""
        places = [place for place in map(self._grammar.place, words) if place is not None]
        topics = [variant for name, variant in places if name in TOPIC_CLASSES]
        return topics.count(topic) / len(topics) if topics else 0.0

    @staticmethod
    def finished(words: Sequence[str]) -> float:
        """1 if the last word is a full stop and there is no other full stop, else 0."""
        return float(bool(words) and words[-1] == "." and words.count(".") == 1)

    @staticmethod
    def length(words: Sequence[str]) -> float:
        """1 if the number of words is that of a sentence, proportionally less if there are fewer or more."""
        return min(1.0, len(words) / SHORTEST, LONGEST / max(len(words), 1))
