"""The preference task: answer open questions. Groups prefer different answers, and kinds are whose preference it is.

A user of a group asks a question and would like to hear the answer that the group prefers: the reference. Where every
group asks the same questions (rows of responses), neutral prompts are held-out questions that no group is asked; where
each has its own (rows of pairs), they are held-out questions of all groups in turn, which no group prompt repeats.
Kinds and qualities are told by a reward model with one output per group (:mod:`scpl_ray.tasks.preference.judge`).
Training, evaluation and judge data share no question (:mod:`scpl_ray.tasks.preference.questions`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from scpl_ray.config import Experiment
from scpl_ray.evaluation.words import unicode_words
from scpl_ray.judges.card import usable_confusion
from scpl_ray.judges.preference_card import PreferenceCard, scores_of
from scpl_ray.models.template import Template
from scpl_ray.protocols import Choice
from scpl_ray.records import Judgement, Query
from scpl_ray.storage.files import check_empty
from scpl_ray.tasks.data_task import DataTask, pick
from scpl_ray.tasks.minimums import NO_NEUTRAL_PROMPTS, QUESTIONS_PER_PART
from scpl_ray.tasks.outlets import EVALUATION, TRAIN
from scpl_ray.tasks.preference import questions as preference_data
from scpl_ray.tasks.preference.judge import PreferenceJudge, choices_of, fit, preference_judge
from scpl_ray.tasks.preference.questions import Corpus, Question
from scpl_ray.tasks.rows import DataError
from scpl_ray.tasks.texts import ModelSide, answer_words, finished, fitting, form_terms, model_side, prompt_lengths


class Preference(DataTask[Question]):
    """The task.

    Args:
        groups: as in the data.
        train: questions that users ask, two or more per group.
        evaluation: questions held out, two or more per group.
        judge: one reward per group.
        card: the judge's errors.
        side: the model's template and tokenizer.
        answer_words: words of a full-length answer.
        own_preference: whether the rule terms hold it; the judge then reads every completion, some 10 ms each.
    """

    NAME = "preference"
    TOO_FEW = (
        "half of the held-out questions makes {items}, the other half is neutral; set it to {least} or fewer, or give "
        "more rows"
    )
    COUNTED = "{n} for {group}"

    def __init__(
        self,
        groups: Sequence[str],
        train: Sequence[Question],
        evaluation: Sequence[Question],
        *,
        judge: PreferenceJudge,
        card: PreferenceCard,
        side: ModelSide,
        answer_words: int,
        own_preference: bool,
    ) -> None:
        asked, self._neutral = held_out(evaluation, groups)
        of_train = {group: [q for q in train if group in q.groups] for group in groups}
        confusion = usable_confusion(card.kinds, card.labels, "questions")
        super().__init__(of_train, asked, card=card, confusion=confusion, side=side)
        self._judge = judge
        self._calibration = card.calibration
        self._answer_words = answer_words
        self._own_preference = own_preference
        self._transcript = {self._prompt(q): q.transcript() for q in (*train, *evaluation)}
        self._references: dict[tuple[str, str], NDArray[np.float64]] = {}

    def neutral_prompts(self, count: int) -> list[Query]:
        """Fixed held-out questions that no group prompt asks; the reference is an answer for no group, where known.

        Raises:
            ValueError: there are fewer than ``count``.
        """
        if count and not self._neutral:
            raise ValueError(f"evaluation.neutral_prompts = {count}: {NO_NEUTRAL_PROMPTS[self.NAME]}")
        if count > len(self._neutral):
            raise ValueError(
                f"evaluation.neutral_prompts = {count}: half of the held-out questions makes {len(self._neutral)}; set "
                "it to that or fewer, or give more rows"
            )
        return [
            Query(f"eval-neutral-q{i:05d}", None, self._prompt(question), question.normal, None)
            for i, question in enumerate(self._neutral[:count])
        ]

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        """Kind and quality, by the judge's rewards r_k of the answer, k = 1..K.

        The kind is the k with the highest r_k; ``None`` for an answer without words. ``reward`` is sigmoid(r_g) of the
        asking group g. With a reference, ``win_rate`` is P(a user of g chooses the answer over the reference)
        = sigmoid(s_g (r_g(answer) - r_g(reference))) (Bradley and Terry 1952), s_g nats per unit of reward, and it is
        the quality; without a group or reference the quality is the mean of the other terms.
        ``repetition_free`` and ``length`` rate the form; an answer without words has all terms 0.
        """
        texts = [(self._plain(query), text.strip()) for query, _, text in work]
        compared = [i for i, (query, _, _) in enumerate(work) if query.group is not None and query.reference]
        rewards = self._judge.rewards(texts)
        references = self._of_references([(texts[i][0], str(work[i][0].reference)) for i in compared])
        of_reference = dict(zip(compared, references, strict=True))
        judgements = []
        for i, (query, completion_id, text) in enumerate(work):
            words = unicode_words(text)
            kind = self.kinds[int(rewards[i].argmax())] if words else None
            terms = form_terms(words, self._answer_words)
            if query.group is not None:
                k = self.kinds.index(query.group)
                terms["reward"] = float(expit(rewards[i, k])) if words else 0.0
                if i in of_reference:
                    margin = self._judge.nats()[k] * (rewards[i, k] - of_reference[i][k])
                    terms["win_rate"] = float(expit(margin)) if words else 0.0
            quality = terms.get("win_rate", sum(terms.values()) / len(terms))
            worth = self._calibration
            log_odds = None if worth is None else worth.log_odds(scores_of(rewards[i])) if words else worth.nothing
            judgements.append(Judgement(completion_id, kind, quality, terms, log_odds))
        return judgements

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        """``repetition_free``, ``length``, ``finished`` and, if wanted, ``own_preference``: sigmoid(r_g), g asks.

        A policy that is selected by ``own_preference`` is selected by its judge; ``reward.model`` of
        ``scpl reward train`` is fitted on other questions.
        """
        return self.rule_terms_of([(query, text)])[0]

    def rule_terms_of(self, texts: Sequence[tuple[Query, str]]) -> list[dict[str, float]]:
        """As :meth:`rule_terms` of each (query, text), in order; the judge reads them together."""
        words = [unicode_words(text) for _, text in texts]
        found = [form_terms(of, self._answer_words) for of in words]
        for terms, (_, text) in zip(found, texts, strict=True):
            terms["finished"] = finished(text)
        asked = [(i, query) for i, (query, _) in enumerate(texts) if self._own_preference and query.group is not None]
        rewards = self._judge.rewards([(self._plain(query), texts[i][1].strip()) for i, query in asked])
        for (i, query), row in zip(asked, rewards, strict=True):
            reward = float(expit(row[self.kinds.index(str(query.group))]))
            found[i]["own_preference"] = reward if words[i] else 0.0
        return found

    def _of_references(self, references: Sequence[tuple[str, str]]) -> list[NDArray[np.float64]]:
        """The rewards of (transcript, reference), which every round asks for and which stay the same."""
        new = [one for one in dict.fromkeys(references) if one not in self._references]
        self._references.update(zip(new, self._judge.rewards(new), strict=True))
        return [self._references[one] for one in references]

    def _choice(self, user: str, rng: np.random.Generator) -> Choice:
        """A choice of the group's own answer over another one of the same question: always, as the data say."""
        question = pick(self._train[user], rng)
        pair = pick([pair for pair in question.pairs if pair.group == user], rng)
        start = answer_start(self._template)
        return Choice(self._prompt(question), start + pair.chosen, start + pair.rejected, user)

    def _query(self, query_id: str, item: Question, group: str) -> Query:
        return Query(query_id, group, self._prompt(item), item.preferred(group), None)

    def _written(self, item: Question, group: str) -> str:
        return answer_start(self._template) + str(item.preferred(group))

    def _prompt(self, question: Question) -> str:
        return prompt_of(self._template, question)

    def _plain(self, query: Query) -> str:
        """The plain text of a prompt, as the judge reads it."""
        if query.prompt not in self._transcript:
            raise ValueError(f"query {query.query_id}: {query.prompt[:80]!r} is no prompt of this task")
        return self._transcript[query.prompt]


def prompt_of(template: Template, question: Question) -> str:
    """The prompt that is sent to the model; without a chat template, the transcript up to the answer."""
    return template.conversation(question.asked()) if template.is_chat else question.transcript()


def answer_start(template: Template) -> str:
    """The text with which an answer begins; a transcript ends with a colon, so a space follows it."""
    return "" if template.is_chat else " "


def held_out(evaluation: Sequence[Question], groups: Sequence[str]) -> tuple[dict[str, list[Question]], list[Question]]:
    """Half of the held-out questions for group prompts, by group; the other half as neutral.

    Questions of one set of groups alternate. Which half an odd one is in counts for the next sets of its groups, so
    that halves stay halves where there are many sets. Neutral questions of different sets of groups come in turn.
    """
    strata: dict[tuple[str, ...], list[Question]] = {}
    for question in evaluation:
        strata.setdefault(tuple(sorted(question.groups)), []).append(question)
    asked: list[Question] = []
    neutral: dict[tuple[str, ...], list[Question]] = {key: [] for key in sorted(strata)}
    ahead: dict[str, int] = {}  # questions of a group that are asked, minus neutral ones
    for key, stratum in strata.items():
        for question in stratum:
            ask = not ahead.keys() >= set(key) or sum(ahead[group] for group in key) <= 0
            (asked if ask else neutral[key]).append(question)
            ahead |= {group: ahead.get(group, 0) + (1 if ask else -1) for group in key}
    turns = itertools.zip_longest(*neutral.values())
    in_turn = [question for turn in turns for question in turn if question is not None]
    return {group: [q for q in asked if group in q.groups] for group in groups}, in_turn


def build(experiment: Experiment) -> Preference:
    """The task of an experiment: data, judge and prompts are checked here, before anything starts.

    This takes seconds, plus the time for what is made once and cached: the judge (minutes) and a converted model (half
    a minute).

    Raises:
        DataError: ``task.data`` cannot be used; see :func:`scpl_ray.tasks.preference.questions.load`.
        ValueError: the model has no usable tokenizer, ``task.judge_model`` is not available, or there are fewer
            evaluation prompts than are asked for.
    """
    corpus, side = prompts(experiment)
    judge, card = preference_judge(corpus, experiment)
    task = Preference(
        experiment.groups.names,
        corpus.parts[TRAIN],
        corpus.parts[EVALUATION],
        judge=judge,
        card=card,
        side=side,
        answer_words=answer_words(experiment),
        own_preference="own_preference" in experiment.reward.terms,
    )
    return task.checked(experiment, corpus.tally, side.tokens_of)


def prompts(experiment: Experiment) -> tuple[Corpus, ModelSide]:
    """The questions whose prompts are short enough, and the properties that the task needs of the model.

    Raises:
        DataError: see :func:`build`; or too few prompts of a group are short enough.
        ValueError: the model has no usable tokenizer.
    """
    corpus = preference_data.load(experiment)
    texts = (f"{question.transcript()} {pair.chosen}" for question in corpus.parts[TRAIN] for pair in question.pairs)
    side = model_side(experiment, texts)
    limit, tally, parts = experiment.task.max_prompt_tokens, corpus.tally, dict(corpus.parts)
    pairs = preference_data.has_pairs(experiment)

    def rows_of(question: Question) -> int:
        return len(question.pairs) if pairs else 1

    with tally.reported():
        for part in (TRAIN, EVALUATION):
            lengths = prompt_lengths(corpus.parts[part], functools.partial(prompt_of, side.template), side, tally)
            short = {question: length for question, length in lengths.items() if length <= limit}
            parts[part] = tuple(short)
            long = sum(rows_of(question) for question in lengths if question not in short)
            tally.leave_out(f"with a prompt of more than {limit} tokens", long)
            for group in experiment.groups.names:
                if sum(group in question.groups for question in short) < QUESTIONS_PER_PART:
                    of_group = [length for question, length in lengths.items() if group in question.groups]
                    raise DataError(
                        f"task.max_prompt_tokens = {limit}: fewer than {QUESTIONS_PER_PART} {part} prompts of {group} "
                        f"are that short; set it to {fitting(of_group)}"
                    )
    return dataclasses.replace(corpus, parts=parts), side


def train_reward_model(experiment: Experiment, output: Path) -> PreferenceCard:
    """A reward model with one output per group, fitted on the pairs of the training questions, for ``reward.model``.

    It starts from ``task.judge_model`` and reads prompts as ``model.name`` is asked them; it is measured on the
    held-out questions. See :func:`scpl_ray.tasks.preference.judge.fit`.

    Args:
        experiment: ``task``, ``groups``, ``model`` and ``generation.max_new_tokens`` (the length of answers) matter.
        output: new or empty folder; receives the model, its tokenizer and ``card.json``.

    Raises:
        DataError: see :func:`prompts`.
        ValueError: the folder is not empty, or a model is not available.
    """
    from scpl_ray.models import sources

    check_empty(output)
    corpus, side = prompts(experiment)
    training, tested = (
        choices_of(corpus.parts[part], functools.partial(prompt_of, side.template), answer_start(side.template))
        for part in (TRAIN, EVALUATION)
    )
    sources.resolve_judge_model(experiment)
    output.mkdir(parents=True, exist_ok=True)
    return fit(training, tested, experiment, output)
