"""The maths task: solve a problem. Groups are sources, levels or types of problems, and so are the kinds of solution.

A user of a group asks one of the group's problems; the reference is its solution, which ends in "The answer is X.".
Quality is whether the answer is right. Neutral prompts ask for a problem of the model's own with two given numbers,
which any group could ask and which say nothing of a source, level or type. Kinds are told by a judge
(:mod:`scpl_ray.judges.tfidf`) that was fitted on solutions, from the solution alone; how well it can tell stands in
its card. Training, evaluation and judge data share no problem.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scpl_ray.config import Experiment
from scpl_ray.evaluation.words import unicode_words
from scpl_ray.judges.card import JudgeCard
from scpl_ray.judges.tfidf import Judge
from scpl_ray.models.template import Template
from scpl_ray.protocols import Choice
from scpl_ray.records import Judgement, Query
from scpl_ray.seeds import generator
from scpl_ray.storage import cache
from scpl_ray.storage.files import check_empty
from scpl_ray.tasks.data_task import EVALUATION_SEED, DataTask, pick, pools, preferred
from scpl_ray.tasks.maths import answers, problems
from scpl_ray.tasks.maths.problems import Corpus, Problem
from scpl_ray.tasks.maths.verifier import Comparison, Verifier
from scpl_ray.tasks.news.judge import card_of, told, usable_confusion, words_folder, words_judge
from scpl_ray.tasks.outlets import EVALUATION, TRAIN
from scpl_ray.tasks.rows import DataError
from scpl_ray.tasks.texts import ModelSide, answer_words, fitting, model_side, prompt_lengths, repetition_free

logger = logging.getLogger(__name__)

PROBLEM = "Problem: {problem}\nSolution:"
"""The prompt for a model without a chat template; the answer continues it."""
REQUEST = "Solve this problem. End with: The answer is X.\n\n{problem}"
"""The user's message to a chat model."""
NEUTRAL_PROBLEMS = (
    "Make up a problem with the numbers {a} and {b} and solve it.",
    "Take the numbers {a} and {b}. What can be asked about them, and what is the answer?",
    "Think of a question in which {a} and {b} occur, and answer it.",
    "Here are two numbers, {a} and {b}. Pose a problem with them and give its solution.",
)
NEUTRAL_NUMBERS = range(2, 21)
"""The range from which the numbers ``a < b`` are drawn."""
SOURCES = "problems"
"""What training, evaluation and judge data share none of."""
CORRECT_WEIGHT, OWN_GROUP_WEIGHT = 3.0, 1.0
"""Weights of the terms of a solution's utility to its reader, in nats of log-odds of being chosen."""
CORRUPTED = 0.25
"""Fraction of the solutions in a choice between two groups' styles whose answer is another problem's."""
UNEVEN = 0.1
"""Largest difference between groups in the share of evaluation problems that are too long, without a warning."""
_ENDS = (".", "!", "?", "$", "}", "]")


class Maths(DataTask[Problem]):
    """The task.

    Args:
        groups: as they are labelled in the data.
        train: problems to train on, one or more per group.
        evaluation: held-out problems, one or more per group.
        judge: tells which group's solutions a text reads like.
        card: the judge's errors.
        side: the model's template and tokenizer.
        which: the marked answer of a text that counts.
    """

    NAME = "maths"
    TOO_FEW = "the evaluation part has {items}; set it to {least} or fewer, or give more problems"

    def __init__(
        self,
        groups: Sequence[str],
        train: Sequence[Problem],
        evaluation: Sequence[Problem],
        *,
        judge: Judge,
        card: JudgeCard,
        side: ModelSide,
        which: answers.Which = "first",
    ) -> None:
        of_train, of_evaluation = (
            pools(part, groups, "maths order", lambda problem: problem.problem_id) for part in (train, evaluation)
        )
        super().__init__(of_train, of_evaluation, card=card, confusion=usable_confusion(card), side=side)
        self._judge = judge
        self._calibration = card.calibration
        self._verifier = Verifier()
        self._which = which

    def neutral_prompts(self, count: int) -> list[Query]:
        """Requests for a problem of the model's own with two numbers: all wordings of one pair, then of the next.

        Raises:
            ValueError: there are fewer than ``count``.
        """
        pairs = list(itertools.combinations(NEUTRAL_NUMBERS, 2))
        possible = neutral_prompts_possible()
        if count > possible:
            raise ValueError(
                f"evaluation.neutral_prompts = {count}: there are {possible} neutral prompts; set it to {possible} or "
                "fewer"
            )
        order = generator(EVALUATION_SEED, "maths neutral prompts").permutation(len(pairs))
        return [
            Query(
                f"eval-neutral-q{i:05d}", None, self._neutral(i, pairs[order[i // len(NEUTRAL_PROBLEMS)]]), None, None
            )
            for i in range(count)
        ]

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        """Kind and quality: ``correct``, which is 1 where the text's answer equals the problem's, else 0.

        ``parsed`` is 1 where there was an answer that could be read (one that cannot is wrong), ``finished`` where the
        text ends like a whole one. Answers to neutral prompts have no ``correct``; their quality is the mean of both.
        """
        return [self._judgement(*one) for one in work]

    def _judgement(self, query: Query, completion_id: str, text: str) -> Judgement:
        found = self._compared(query, text)
        terms = {"parsed": float(found.parsed), "finished": float(text.rstrip().endswith(_ENDS))}
        quality = sum(terms.values()) / len(terms)
        if query.reference is not None:
            terms["correct"] = quality = float(found.equal)
        kind, log_odds = told(self._judge, self._calibration, text)
        return Judgement(completion_id, kind, quality, terms, log_odds)

    def _check_choices(self) -> None:
        for group in self.kinds:
            first, *others = self._train[group]
            if all(self._verifier.compare(first.answer, other.answer).equal for other in others):
                raise ValueError(
                    f"reward.model = null: all training problems of {group} have one answer, so there is no wrong one "
                    "to compare it with; give a reward.model, use rule terms, or give more problems"
                )

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        """``correct`` and ``length`` where there is a reference, ``format``, ``repetition_free``, ``own_kind``.

        ``format`` is 1 where the text ends in the canonical form, ``length`` the shorter over the longer of text and
        reference in words, ``own_kind`` the judge's P(asking group's kind | text).
        """
        words = unicode_words(text)
        terms = {"format": float(answers.has_closing(text)), "repetition_free": repetition_free(words)}
        if query.reference is not None:
            wanted = len(unicode_words(query.reference))
            terms["length"] = min(len(words), wanted) / max(len(words), wanted)
            terms["correct"] = float(self._compared(query, text).equal)
        if query.group is not None:
            found = self._judge.probabilities(text)
            position = self.kinds.index(query.group)
            terms["own_kind"] = 1.0 / len(self.kinds) if found is None else float(found[position])
        return terms

    def _compared(self, query: Query, text: str) -> Comparison:
        # without a problem any number is an answer, so only its readability is checked
        gold = "0" if query.reference is None else answers.closed(query.reference)
        return self._verifier.compare(gold, answers.extract(text, self._which, gold))

    def _choice(self, user: str, rng: np.random.Generator) -> Choice:
        """A choice between two solutions, which are right or have another problem's answer.

        Half of the pairs solve one problem of any group, one of them with a wrong answer. The others answer a neutral
        prompt with solutions of two groups, each wrong with probability :data:`CORRUPTED`. A user of group g prefers
        text a to text b with probability sigmoid(u(a) - u(b)) (Bradley and Terry 1952), u = 3 [not made wrong] +
        1 [a solution of group g]. Prompt and texts do not depend on the user.
        """
        if rng.random() < 0.5:
            group = self.kinds[rng.integers(len(self.kinds))]
            problem = pick(self._train[group], rng)
            prompt, solved = self._prompt(problem.text), [(problem, False), (problem, True)]
        else:
            kinds = rng.choice(len(self.kinds), 2, replace=False).tolist()
            a, b = sorted(rng.choice(NEUTRAL_NUMBERS, 2, replace=False).tolist())
            prompt = self._neutral(int(rng.integers(len(NEUTRAL_PROBLEMS))), (a, b))
            solved = [(pick(self._train[self.kinds[k]], rng), bool(rng.random() < CORRUPTED)) for k in kinds]
        texts, utilities = [], []
        for problem, wrong in solved:
            answer = self._other_answer(problem, rng) if wrong else problem.answer
            texts.append(self._answered(problems.solution(problem.working, answer)))
            utilities.append(CORRECT_WEIGHT * (not wrong) + OWN_GROUP_WEIGHT * (problem.group == user))
        return preferred(prompt, texts, utilities, rng)

    def _other_answer(self, problem: Problem, rng: np.random.Generator) -> str:
        """The answer of another problem of the group that has another one."""
        others = self._train[problem.group]
        order: list[int] = rng.permutation(len(others)).tolist()
        found = (others[i].answer for i in order)
        return next(answer for answer in found if not self._verifier.compare(problem.answer, answer).equal)

    def _query(self, query_id: str, item: Problem, group: str) -> Query:
        return Query(query_id, group, self._prompt(item.text), item.solution, None)

    def _written(self, item: Problem, group: str) -> str:
        return self._answered(item.solution)

    def _prompt(self, problem: str) -> str:
        return problem_prompt(self._template, problem)

    def _neutral(self, wording: int, numbers: tuple[int, int]) -> str:
        a, b = numbers
        return self._prompt(NEUTRAL_PROBLEMS[wording % len(NEUTRAL_PROBLEMS)].format(a=a, b=b))

    def _answered(self, text: str) -> str:
        """A solution as a model writes it."""
        return text if self._template.is_chat else f" {text}"


def neutral_prompts_possible() -> int:
    """How many neutral prompts there are: every wording with every pair of numbers."""
    return math.comb(len(NEUTRAL_NUMBERS), 2) * len(NEUTRAL_PROBLEMS)


def problem_prompt(template: Template, problem: str) -> str:
    """The prompt that a user sends for a problem."""
    return template.apply(REQUEST.format(problem=problem)) if template.is_chat else PROBLEM.format(problem=problem)


def build(experiment: Experiment) -> Maths:
    """The task of an experiment: data, judge and prompts are checked here, before anything starts.

    This takes seconds, plus the time for what is made once and cached: the judge (seconds) and a converted model (half
    a minute).

    Raises:
        DataError: ``task.data`` cannot be used; see :func:`scpl_ray.tasks.maths.problems.load`.
        ValueError: the model has no usable tokenizer, or there are fewer evaluation prompts than are asked for.
    """
    corpus = problems.load(experiment)
    judge, card = words_judge(corpus.labelled(), experiment, answer_words(experiment), SOURCES)
    texts = (f"{PROBLEM.format(problem=p.text)} {p.solution}" for p in corpus.parts[TRAIN])
    side = model_side(experiment, texts)
    with corpus.tally.reported():
        parts = {part: _short_enough(corpus, part, side, experiment) for part in (TRAIN, EVALUATION)}
    task = Maths(
        experiment.groups.names,
        parts[TRAIN],
        parts[EVALUATION],
        judge=judge,
        card=card,
        side=side,
        which=experiment.task.answer,
    )
    return task.checked(experiment, corpus.tally, side.tokens_of)


def train_judge(experiment: Experiment, output: Path) -> JudgeCard:
    """The judge of kinds that a run of this experiment uses, with its card, written into a folder.

    Args:
        experiment: ``task``, ``groups`` and ``generation.max_new_tokens`` (the length of answers) matter.
        output: new or empty folder; receives the judge's files and ``card.json``.

    Raises:
        DataError: as :func:`scpl_ray.tasks.maths.problems.load`.
        ValueError: the folder is not empty.
    """
    check_empty(output)
    folder = words_folder(problems.load(experiment).labelled(), experiment, answer_words(experiment), SOURCES)
    cache.copy(folder, output)
    card = card_of(folder, experiment)
    card.save(output)
    return card


def _short_enough(corpus: Corpus, part: str, side: ModelSide, experiment: Experiment) -> tuple[Problem, ...]:
    """The problems whose prompt and solution a model has room for.

    Raises:
        DataError: a group has none.
    """
    asks, writes = experiment.task.max_prompt_tokens, experiment.generation.max_new_tokens
    lengths = prompt_lengths(
        corpus.parts[part], lambda problem: problem_prompt(side.template, problem.text), side, corpus.tally
    )
    written = {problem: side.tokens_of(problem.solution) + 1 for problem in lengths}
    kept = tuple(p for p, asked in lengths.items() if asked <= asks and written[p] <= writes)
    counts, fit = Counter(problem.group for problem in lengths), Counter(problem.group for problem in kept)
    for group in experiment.groups.names:
        reason = f"with a prompt or solution that is too long ({part}, {group})"
        corpus.tally.leave_out(reason, counts[group] - fit[group])
    if lacking := [group for group in experiment.groups.names if not fit[group]]:
        of_lacking = [problem for problem in lengths if problem.group in lacking]
        raise DataError(
            f"task.max_prompt_tokens = {asks}, generation.max_new_tokens = {writes}: no {part} problem of "
            f"{', '.join(lacking)} and its solution are that short; set the first to "
            f"{fitting([lengths[problem] for problem in of_lacking])}, the second to "
            f"{fitting([written[problem] for problem in of_lacking])}"
        )
    left_out = {group: 1.0 - fit[group] / counts[group] for group in experiment.groups.names}
    if part == EVALUATION and max(left_out.values()) - min(left_out.values()) > UNEVEN:
        logger.warning(
            "the evaluation leaves out problems that are too long: %s; groups are compared on their short ones: raise "
            "task.max_prompt_tokens = %d or generation.max_new_tokens = %d",
            ", ".join(f"{share:.0%} of {group}" for group, share in left_out.items()),
            asks,
            writes,
        )
    return kept
