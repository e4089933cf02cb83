"""Simulated users of the built-in language who compare two texts; a reward model is trained on their choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scpl_ray.protocols import Choice
from scpl_ray.seeds import generator
from scpl_ray.tasks.language.grammar import Grammar, words_of
from scpl_ray.tasks.language.judge import Judge
from scpl_ray.tasks.language.prompts import PromptGrammar

WELL_FORMED_WEIGHT, ON_TOPIC_WEIGHT, OWN_KIND_WEIGHT = 3.0, 2.0, 2.0
"""Weights of the terms of a text's utility to its reader, in nats of log-odds of being chosen."""
SPOILT = 0.5
"""Fraction of the texts that are spoilt: one third each is shuffled, cut short or on another topic."""


class Users:
    """Simulated readers with a logistic choice model (Bradley and Terry 1952).

    Both texts of a pair answer the same prompt, which does not depend on the user's group, and each is of any kind with
    equal probability. A user of group g prefers text a to text b with probability sigmoid(u_g(a) - u_g(b)),
    u_g = 3 well_formed + 2 on_topic + 2 [the text is of kind g]. A reward model that does not know the user learns the
    mean over users, which favours the majority's kind.
    """

    def __init__(self, grammar: Grammar, prompts: PromptGrammar, judge: Judge, marker_strength: float) -> None:
        self._grammar = grammar
        self._prompts = prompts
        self._judge = judge
        self._marker_strength = marker_strength
        self._groups = grammar.lexicon.groups
        self._topics = len(grammar.lexicon.topics)

    def choices(self, users: Sequence[str], seed: int) -> list[Choice]:
        """One choice per user; the i-th pair of texts depends only on the seed and i.

        Raises:
            ValueError: a user's group does not exist in this language.
        """
        unknown = sorted(set(users) - set(self._groups))
        if unknown:
            raise ValueError(f"users: unknown groups {unknown}; the groups are {list(self._groups)}")
        count = len(users)
        rng = generator(seed, "language choices")
        # All columns of a row are drawn together, so that adding users does not change the pairs of the first users.
        askers, chosen, prompts, first, second = np.split(
            rng.random((count, 2 + self._prompts.uniforms_per_prompt + 2 * self._columns_per_text)),
            np.cumsum([1, 1, self._prompts.uniforms_per_prompt, self._columns_per_text]),
            axis=1,
        )
        groups = (askers[:, 0] * len(self._groups)).astype(np.int64)
        asked = self._prompts.draw(groups, prompts, marked=self._marker_strength, held_out=False)
        pairs = zip(self._texts(asked.topics, first), self._texts(asked.topics, second), strict=True)
        choices = []
        for i, (a, b) in enumerate(pairs):
            user, topic = users[i], int(asked.topics[i])
            margin = self.utility(user, a, topic) - self.utility(user, b, topic)
            prefers_a = bool(chosen[i, 0] < 1.0 / (1.0 + np.exp(-margin)))
            choices.append(Choice(asked.texts[i], a if prefers_a else b, b if prefers_a else a))
        return choices

    def utility(self, group: str, text: str, topic: int) -> float:
        """Utility of a text to a user of the group who asked about this topic (index), in nats of log-odds."""
        words = words_of(text)
        return (
            WELL_FORMED_WEIGHT * self._judge.well_formed(words)
            + ON_TOPIC_WEIGHT * self._judge.on_topic(words, topic)
            + OWN_KIND_WEIGHT * float(self._judge.kind(words) == group)
        )

    @property
    def _columns_per_text(self) -> int:
        """Number of uniforms per text: for kind, spoiling, other topic, the sentence, and the order of its words."""
        return 3 + self._grammar.uniforms_per_sentence + self._grammar.longest_sentence

    def _texts(self, topics: NDArray[np.int64], uniforms: NDArray[np.float64]) -> list[str]:
        """Draw one text per row, spoilt or not."""
        kinds = (uniforms[:, 0] * len(self._groups)).astype(np.int64)
        way = (uniforms[:, 1] / SPOILT * 3).astype(np.int64)  # 0: shuffled, 1: cut, 2: other topic, more: not spoilt
        other = (topics + 1 + (uniforms[:, 2] * (self._topics - 1)).astype(np.int64)) % self._topics
        end = 3 + self._grammar.uniforms_per_sentence
        ids = self._grammar.sample(kinds, np.where(way == 2, other, topics), uniforms[:, 3:end])
        order = np.argsort(uniforms[:, end:], axis=1)
        ids = np.where((way == 0)[:, None], np.take_along_axis(ids, order, axis=1), ids)
        present = np.cumsum(ids >= 0, axis=1)
        ids[(way == 1)[:, None] & (present > present[:, -1:] // 2)] = -1
        return self._grammar.texts(ids)
