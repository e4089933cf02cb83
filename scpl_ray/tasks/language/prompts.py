"""The prompts of users of the built-in language: one fixed pattern, whose marker may reveal the asking group.

::

    on monday aldbury readers asked about the harbour:      a town of one group: the prompt is marked
    on monday several readers asked about the harbour:      any group could have asked

One day in seven is held out for evaluation. Which day it is depends on the other words of the prompt. Evaluation
prompts therefore use no word that training prompts lack, and yet none of them is ever a training prompt.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from scpl_ray.tasks.language.grammar import join_words, words_of
from scpl_ray.tasks.language.lexicon import Lexicon

SKELETON = ("on", "DAY", "MARKER", "AUDIENCE", "ASKED", "about", "the", "TOPIC", ":")
OWN_TOPICS = 0.6
"""Probability that a group asks about one of its own topics rather than one of the others'."""


@dataclasses.dataclass(frozen=True, slots=True)
class Prompts:
    """A batch of n prompts."""

    texts: list[str]
    markers: NDArray[np.int64]
    """Index of the group that the prompt reveals, or K where it reveals none, shape (n,)."""
    topics: NDArray[np.int64]
    """Topic indices, shape (n,)."""


class PromptGrammar:
    """Draws and parses prompts; each drawn prompt depends only on its own row of uniforms."""

    uniforms_per_prompt = 7

    def __init__(self, lexicon: Lexicon) -> None:
        self.vocabulary: tuple[str, ...] = tuple(word for word in SKELETON if word not in lexicon.classes)
        self._classes = lexicon.classes
        self._groups = len(lexicon.groups)
        self._topics = len(lexicon.topics)
        self._index = {
            (name, word): (v, i)
            for name in SKELETON
            for v, variant in enumerate(lexicon.classes.get(name, ()))
            for i, word in enumerate(variant)
        }

    def draw(
        self, groups: NDArray[np.int64], uniforms: NDArray[np.float64], *, marked: float, held_out: bool
    ) -> Prompts:
        """Draw prompts asked by these groups.

        Args:
            groups: index of the asking group, or K for a prompt that any group could have asked, shape (n,).
            uniforms: random numbers in [0, 1), shape (n, ``uniforms_per_prompt``).
            marked: probability that a group's prompt reveals the group.
            held_out: draw evaluation prompts instead of training prompts.
        """
        neutral = groups == self._groups
        markers = np.where((uniforms[:, 0] < marked) & ~neutral, groups, self._groups)
        each = self._topics // self._groups
        own = groups * each + _below(uniforms[:, 2], each)
        others = (groups * each + each + _below(uniforms[:, 2], self._topics - each)) % self._topics
        topics = np.where(uniforms[:, 1] < OWN_TOPICS, own, others)
        topics = np.where(neutral, _below(uniforms[:, 2], self._topics), topics)
        sizes = {name: len(self._classes[name][0]) for name in SKELETON if name in self._classes}
        marker = _below(uniforms[:, 3], sizes["MARKER"])
        audience = _below(uniforms[:, 4], sizes["AUDIENCE"])
        asked = _below(uniforms[:, 5], sizes["ASKED"])
        day = self._held_out_day(marker, audience, asked)
        if not held_out:
            day = (day + 1 + _below(uniforms[:, 6], sizes["DAY"] - 1)) % sizes["DAY"]
        days, audiences, asks = (self._classes[name][0] for name in ("DAY", "AUDIENCE", "ASKED"))
        towns, names = self._classes["MARKER"], self._classes["TOPIC"]
        rows = np.stack([day, markers, marker, audience, asked, topics], axis=1).tolist()
        texts = [
            f"on {days[d]} {towns[g][m]} {audiences[a]} {asks[s]} about the {names[t][0]}:" for d, g, m, a, s, t in rows
        ]
        return Prompts(texts, markers, topics)

    def parse(self, prompt: str) -> tuple[int, int]:
        """Marker (a group's index, or K) and topic index of a prompt.

        Raises:
            ValueError: the text is not a prompt of this language.
        """
        found = self._parse(prompt)
        return found["MARKER"][0], found["TOPIC"][0]

    def is_held_out(self, prompt: str) -> bool:
        """Whether it is an evaluation prompt, which is never drawn for training."""
        found = {name: np.array([index]) for name, (_, index) in self._parse(prompt).items()}
        day = self._held_out_day(found["MARKER"], found["AUDIENCE"], found["ASKED"])
        return bool(day[0] == found["DAY"][0])

    def _parse(self, prompt: str) -> dict[str, tuple[int, int]]:
        words = words_of(prompt)
        found = {
            name: self._index[name, word]
            for name, word in zip(SKELETON, words, strict=False)
            if (name, word) in self._index
        }
        literals = all(name == word for name, word in zip(SKELETON, words, strict=False) if name not in self._classes)
        if len(words) != len(SKELETON) or not literals or any(n in self._classes and n not in found for n in SKELETON):
            raise ValueError(
                f"prompt: {prompt!r} is no prompt of the built-in language; its prompts read "
                f"{join_words(SKELETON)!r} with the language's own words"
            )
        return found

    def _held_out_day(self, *others: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(sum(others) % len(self._classes["DAY"][0]), dtype=np.int64)


def _below(uniforms: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Convert uniforms in [0, 1) to integers in [0, count)."""
    return (uniforms * count).astype(np.int64)
