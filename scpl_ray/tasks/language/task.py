"""The built-in offline task: news-like sentences of a known grammar, for any 2 to 12 groups.

Each group has topics that it asks about most, and a *kind* of text that it prefers, which has slanted verbs, adjectives
and nouns of its own. The true answer depends on what the prompt reveals: the answer to a marked prompt is of the asking
group's own kind with probability 0.8, the answer to an unmarked prompt is of every kind with equal probability. True
shares, kinds and likelihoods are known exactly.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from scpl_ray.config import Experiment
from scpl_ray.protocols import Card, Choice, DataReport
from scpl_ray.records import Judgement, Query
from scpl_ray.seeds import generator
from scpl_ray.tasks.language import UNMARKED_KEPT
from scpl_ray.tasks.language import grammar as grammar_module
from scpl_ray.tasks.language import prompts as prompts_module
from scpl_ray.tasks.language.grammar import Grammar, words_of
from scpl_ray.tasks.language.judge import Judge
from scpl_ray.tasks.language.lexicon import deal
from scpl_ray.tasks.language.prompts import PromptGrammar
from scpl_ray.tasks.language.users import Users

OWN_KIND = 0.8
"""P(kind k | a prompt that reveals group k); the other kinds share the rest equally."""
RealText = Literal["drawn", "even"]
"""The values of ``task.real_text``."""
GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
"""Step of the sequence that spreads real text evenly: the number that fractions approach worst."""
EVALUATION_SEED = 20_260_105
"""Seed of the held-out sets, which are the same for every run, whatever its seed."""


class Language:
    """The task (:class:`scpl_ray.protocols.Task`) and its exact distribution.

    Args:
        groups: names of 2 to 12 groups.
        marker_strength: probability that a group's prompt carries a word that reveals the group.
        real_text: ``even``: real text has as many unmarked prompts as users ask, and groups and kinds are spread evenly
            over it. A base model of ``drawn`` text has seen few such prompts, and leans to a kind by chance. See
            :data:`scpl_ray.tasks.language.LEAST_MARKED` for the marker strengths that it needs.

    Raises:
        ValueError: there are too few or too many groups.
    """

    def __init__(self, groups: Sequence[str], marker_strength: float, *, real_text: RealText = "drawn") -> None:
        self._lexicon = deal(groups)
        self._grammar = Grammar(self._lexicon)
        self._prompts = PromptGrammar(self._lexicon)
        self._marker_strength = marker_strength
        self._real_text: RealText = real_text
        self._count = len(groups)
        self.kinds: tuple[str, ...] = tuple(groups)
        # Kinds share no slanted word, so the judge never mistakes a true text of one kind for another kind.
        self.confusion: tuple[tuple[float, ...], ...] | None = None
        self.judge_card: Card | None = None
        self.data_report: DataReport | None = None
        self.tokenizer: Path | None = None
        self.topics = self._lexicon.topics
        self.vocabulary = tuple(sorted({*self._grammar.vocabulary, *self._prompts.vocabulary}))
        self._judge = Judge(self._grammar)
        self._users = Users(self._grammar, self._prompts, self._judge, marker_strength)
        # Uniforms per query: its prompt, then the kind of the answer, then the answer.
        self._columns = self._prompts.uniforms_per_prompt + 1 + self._grammar.uniforms_per_sentence

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that determines the language, in hexadecimal."""
        facts: dict[str, Any] = {
            "lexicon": dict(self._lexicon.classes),
            "topics": self._lexicon.topics,
            "templates": grammar_module.TEMPLATES,
            "skeleton": prompts_module.SKELETON,
            "numbers": [
                grammar_module.TWO_CLAUSES,
                grammar_module.RANK_OFFSET,
                prompts_module.OWN_TOPICS,
                OWN_KIND,
                UNMARKED_KEPT["drawn"],
                EVALUATION_SEED,
                self._marker_strength,
            ],
        }
        if self._real_text != "drawn":
            facts["real_text"] = [self._real_text, GOLDEN]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def plain(self) -> Language:
        """This language without what a class derived from it changes."""
        return Language(self.kinds, self._marker_strength, real_text=self._real_text)

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        """Draw new training queries by group; a group's j-th query does not depend on the other groups' counts."""
        unknown = sorted(set(counts) - set(self.kinds))
        if unknown:
            raise ValueError(f"counts: unknown groups {unknown}; the groups are {list(self.kinds)}")
        queries: list[Query] = []
        for k, name in enumerate(self.kinds):
            rng = generator(seed, "language draw", name)
            queries += self._queries(
                k, counts.get(name, 0), rng, prefix, start=len(queries), marked=self._marker_strength, held_out=False
            )
        return queries

    def group_prompts(self, per_group: int) -> list[Query]:
        """The fixed held-out evaluation prompts, equally many per group; a smaller set is a prefix of a larger one."""
        queries: list[Query] = []
        for k, name in enumerate(self.kinds):
            rng = generator(EVALUATION_SEED, "language group prompts", name)
            prefix, marked = f"eval-{name}", self._marker_strength
            queries += self._queries(k, per_group, rng, prefix, marked=marked, held_out=True)
        return queries

    def neutral_prompts(self, count: int) -> list[Query]:
        """Fixed held-out unmarked prompts, spread equally over all topics."""
        rng = generator(EVALUATION_SEED, "language neutral prompts")
        return self._queries(self._count, count, rng, "eval-neutral", marked=0.0, held_out=True)

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        """Real text, equally much of each group; it keeps :data:`UNMARKED_KEPT` of the unmarked prompts.

        With ``even`` it keeps them all. Any stretch of it then has nearly equal numbers of the groups, and any stretch
        of the prompts with one marker has the kinds in nearly their true shares.
        """
        return self._examples(count, generator(seed, "language real"), held_out=False, real_text=self._real_text)

    def held_out_examples(self, count: int) -> list[tuple[Query, str]]:
        """Real answers to held-out prompts, the same in every run; they are used for perplexities."""
        return self._examples(count, generator(EVALUATION_SEED, "language held-out text"), held_out=True)

    def choices(self, users: Sequence[str], *, seed: int) -> list[Choice]:
        """One pairwise choice per user, given by group; see :class:`scpl_ray.tasks.language.users.Users`."""
        return self._users.choices(users, seed)

    def log_probability(self, prompt: str, text: str) -> float:
        """Exact log p(text, end of sequence | prompt) in nats, summed over kinds; -inf if the text is impossible.

        Raises:
            ValueError: the prompt is not of this language.
        """
        marker, topic = self._prompts.parse(prompt)
        prior = self._kind_law(np.array([marker]))[0]
        return float(np.logaddexp.reduce(self._grammar.log_likelihoods(words_of(text), topic) + np.log(prior)))

    def nats_per_token(self, examples: Sequence[tuple[Query, str]]) -> float:
        """Exact mean negative log-likelihood of real answers per token (word, mark or end of sequence), in nats."""
        total = sum(self.log_probability(query.prompt, text) for query, text in examples)
        return -total / sum(len(words_of(text)) + 1 for _, text in examples)

    def is_held_out(self, prompt: str) -> bool:
        """Whether a prompt is reserved for evaluation."""
        return self._prompts.is_held_out(prompt)

    def kind_posterior(self, text: str) -> NDArray[np.float64]:
        """p(kind | slanted words of any text), shape (K,)."""
        return self._judge.kind_posterior(words_of(text))

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        """Kind, and quality: the mean of ``well_formed``, ``on_topic`` and, for a group's query, ``own_kind``.

        Raises:
            ValueError: the query's prompt is not of this language.
        """
        return [self._judgement(*one) for one in work]

    def _judgement(self, query: Query, completion_id: str, text: str) -> Judgement:
        words = words_of(text)
        kind = self._judge.kind(words)
        _, topic = self._prompts.parse(query.prompt)
        terms = {"well_formed": self._judge.well_formed(words), "on_topic": self._judge.on_topic(words, topic)}
        if query.group is not None:
            terms["own_kind"] = float(kind == query.group)
        return Judgement(completion_id, kind, sum(terms.values()) / len(terms), terms)

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        """``well_formed``, ``on_topic``, ``finished`` and ``length``; none depends on the asking group."""
        words = words_of(text)
        _, topic = self._prompts.parse(query.prompt)
        return {
            "well_formed": self._judge.well_formed(words),
            "on_topic": self._judge.on_topic(words, topic),
            "finished": self._judge.finished(words),
            "length": self._judge.length(words),
        }

    def _kind_law(self, markers: NDArray[np.int64]) -> NDArray[np.float64]:
        """P(kind | marker), shape (n, K); marker K stands for an unmarked prompt."""
        law = np.full((self._count + 1, self._count), (1.0 - OWN_KIND) / (self._count - 1))
        np.fill_diagonal(law, OWN_KIND)
        law[self._count] = 1.0 / self._count
        return law[markers]

    def _answered(
        self,
        groups: NDArray[np.int64],
        uniforms: NDArray[np.float64],
        ids: Sequence[str],
        *,
        marked: float,
        held_out: bool,
    ) -> list[Query]:
        """Draw queries of these groups (K: neutral), each with a true answer as its reference."""
        of_prompt = self._prompts.uniforms_per_prompt
        prompts = self._prompts.draw(groups, uniforms[:, :of_prompt], marked=marked, held_out=held_out)
        cumulative = np.cumsum(self._kind_law(prompts.markers), axis=1)
        kinds = np.minimum((uniforms[:, of_prompt, None] >= cumulative).sum(axis=1), self._count - 1)
        answers = self._grammar.texts(self._grammar.sample(kinds, prompts.topics, uniforms[:, of_prompt + 1 :]))
        names = (*self.kinds, None)
        return [
            Query(query_id, names[group], prompt, answer, self.topics[topic])
            for query_id, group, prompt, answer, topic in zip(
                ids, groups.tolist(), prompts.texts, answers, prompts.topics.tolist(), strict=True
            )
        ]

    def _queries(
        self,
        group: int,
        count: int,
        rng: np.random.Generator,
        prefix: str,
        *,
        start: int = 0,
        marked: float,
        held_out: bool,
    ) -> list[Query]:
        uniforms = rng.random((count, self._columns))
        ids = [f"{prefix}-q{start + i:05d}" for i in range(count)]
        return self._answered(np.full(count, group), uniforms, ids, marked=marked, held_out=held_out)

    def _examples(
        self, count: int, rng: np.random.Generator, *, held_out: bool, real_text: RealText = "drawn"
    ) -> list[tuple[Query, str]]:
        starts = rng.random(self._count + 2) if real_text == "even" else None
        uniforms = rng.random((count, 1 + self._columns))
        kept = (1.0 - self._marker_strength) * UNMARKED_KEPT[real_text]
        marked = self._marker_strength / (self._marker_strength + kept)
        if starts is not None:
            uniforms[:, 0] = _spread(starts[-1], count)
        groups = (uniforms[:, 0] * self._count).astype(np.int64)
        if starts is not None:
            of_prompt = self._prompts.uniforms_per_prompt
            prompts = self._prompts.draw(groups, uniforms[:, 1 : 1 + of_prompt], marked=marked, held_out=held_out)
            for marker in range(self._count + 1):
                rows = np.flatnonzero(prompts.markers == marker)
                uniforms[rows, 1 + of_prompt] = _spread(starts[marker], len(rows))
        ids = [f"real-{i:06d}" for i in range(count)]
        queries = self._answered(groups, uniforms[:, 1:], ids, marked=marked, held_out=held_out)
        return [(query, str(query.reference)) for query in queries]


def _spread(start: float, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) of which every stretch is spread evenly (Kronecker sequence of the golden ratio)."""
    return np.asarray((start + GOLDEN * np.arange(count)) % 1.0)


def build(config: Experiment) -> Language:
    """Build the task of an experiment from its groups, ``task.marker_strength`` and ``task.real_text``."""
    return Language(config.groups.names, config.task.marker_strength, real_text=config.task.real_text)
