"""Questions with the answers that groups prefer, from a user's file, in three parts that share no question.

Rows have one of two shapes, told apart by their columns:

- *responses*: ``query`` and one column per group, called as the group, with the answer that this group prefers. Every
  group asks every query and prefers its answer to all others. An optional ``normal`` answer was written for no group.
- *pairs*: ``group``, ``chosen`` and ``rejected``. With a column ``prompt`` (or ``messages``) these are two answers to
  it; without, two conversations that begin alike, and the question is what they share up to the last answer. A row that
  repeats another one is left out, unless some group chooses both ways: then rows are votes, and all of them count.

Questions and answers may be plain texts, transcripts or lists of messages
(:mod:`scpl_ray.tasks.preference.conversations`).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

from scpl_ray.config import Experiment
from scpl_ray.protocols import DataReport
from scpl_ray.seeds import derive_seed
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.minimums import QUESTIONS_PER_PART
from scpl_ray.tasks.outlets import PARTS
from scpl_ray.tasks.preference import conversations
from scpl_ray.tasks.rows import DataError, Fields, Row, Tally
from scpl_ray.tasks.texts import alike, answer_words, digest, first_words, readable

logger = logging.getLogger(__name__)

OPTIONAL = ("id", "part")
PAIR_FIELDS = Fields(
    required=("group", "chosen", "rejected"),
    optional=("prompt", "messages", *OPTIONAL),
    conversations=("prompt", "messages", "chosen", "rejected"),
    group="group",
)
QUERY, NORMAL = "query", "normal"
SPLIT_SEED = 20_260_105
"""Seed of the split, which is the same for every run, whatever its seed."""
SYSTEM, HUMAN, ASSISTANT = "System", "Human", "Assistant"


def response_fields(groups: Sequence[str]) -> Fields:
    """The fields of rows of responses."""
    normal = () if NORMAL in groups else (NORMAL,)
    return Fields((QUERY, *groups), (*normal, *OPTIONAL), (QUERY, *groups, *normal))


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Users of the group choose one answer over another."""

    group: str
    chosen: str
    rejected: str

    def turned(self) -> Pair:
        """The same two answers, chosen the other way round."""
        return Pair(self.group, self.rejected, self.chosen)


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question that users ask, and the answers that they prefer."""

    question_id: str
    turns: tuple[str, ...]
    """Texts of user, assistant, user, ..., user."""
    pairs: tuple[Pair, ...]
    """One or more, in the order of the rows; answers are cut to the length of the model's own. Votes repeat pairs."""
    normal: str | None = None
    """An answer that was written for no group."""
    system: str | None = None
    """What stands before the first turn and nobody says."""
    where: str = dataclasses.field(default="", compare=False)
    """File and line of its first row, for messages."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that ask this question."""
        return tuple(dict.fromkeys(pair.group for pair in self.pairs))

    def preferred(self, group: str) -> str | None:
        """The answer that the group prefers; ``None`` if it does not ask this question.

        It is the chosen one of the group's first pair that is not chosen more often the other way round.
        """
        votes = Counter(pair for pair in self.pairs if pair.group == group)
        return next((pair.chosen for pair, count in votes.items() if count >= votes[pair.turned()]), None)

    def transcript(self) -> str:
        """The question as plain text: what models without a chat template are asked, and what judges read."""
        spoken = [(SYSTEM, self.system)] if self.system is not None else []
        spoken += zip(itertools.cycle((HUMAN, ASSISTANT)), self.turns)
        return "\n\n".join(f"{role}: {turn}" for role, turn in spoken) + f"\n\n{ASSISTANT}:"

    def asked(self) -> tuple[str, ...]:
        """The turns as a chat template takes them, which has no place for a system line: the first turn has it."""
        return self.turns if self.system is None else (f"{self.system}\n\n{self.turns[0]}", *self.turns[1:])


@dataclasses.dataclass(frozen=True)
class Corpus:
    """All questions of a run."""

    tally: Tally
    parts: dict[str, tuple[Question, ...]]
    """By part, each in an order that neither the file's order nor the run's seed changes."""

    @property
    def report(self) -> DataReport:
        """The rows kept, and those left out by reason."""
        return self.tally.report()

    def __str__(self) -> str:
        counts = {part: Counter(g for q in questions for g in q.groups) for part, questions in self.parts.items()}
        return "; ".join(
            f"{part} {len(questions):,} questions ({', '.join(f'{n:,} {g}' for g, n in sorted(counts[part].items()))})"
            for part, questions in self.parts.items()
        )


def load(experiment: Experiment) -> Corpus:
    """Read, check and split ``task.data``.

    Raises:
        DataError: see :func:`scpl_ray.tasks.rows.load`; columns of neither shape, one group only, a group that never
            occurs, or too few questions for three parts.
    """
    task, groups = experiment.task, experiment.groups.names
    read = _pairs if has_pairs(experiment) else _responses
    questions, tally = read(experiment, answer_words(experiment))
    with tally.reported():
        tally.check()
        corpus = Corpus(tally, _split(questions, groups, str(task.data)))
    logger.info("%s; %s", corpus.report, corpus)
    return corpus


def has_pairs(experiment: Experiment) -> bool:
    """Whether the rows are pairs; otherwise they are responses.

    Raises:
        DataError: their columns are those of neither shape.
    """
    names, groups = experiment.task.fields, experiment.groups.names
    mapped = {column for column in names.values() if column is not None}
    columns = data.columns_of(experiment.task, {*PAIR_FIELDS.names, QUERY, NORMAL, *groups, *mapped})
    pairs = "chosen" in names or "chosen" in columns
    if columns and not pairs and QUERY not in names and QUERY not in columns:
        raise DataError(
            f"{experiment.task.data}: the first row has {data.listed(columns)}; the preference task reads rows of "
            f"{QUERY} and one answer per group ({', '.join(groups)}), or rows of {', '.join(PAIR_FIELDS.required)}: "
            f"name your columns with task.fields, e.g. task.fields={{{QUERY}: COLUMN}}"
        )
    return pairs


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """A question and the row that it came from, the first of its rows."""

    row: Row
    question: Question


def _responses(experiment: Experiment, words: int) -> tuple[list[_Asked], Tally]:
    """Questions, one per row."""
    groups = experiment.groups.names
    if taken := sorted({QUERY, *OPTIONAL} & set(groups)):
        raise DataError(f"groups.names: {', '.join(taken)} is a field of this task; give the group another name")
    rows, tally = data.load(experiment, response_fields(groups))
    rows = data.among(data.unique(rows, tally, "id"), tally, "part", tuple(PARTS))
    questions: list[_Asked] = []
    seen: set[str] = set()

    def key_of(row: Row) -> str:
        return _conversation(conversations.checked(conversations.asked(row, QUERY))[1])

    def take(row: Row) -> None:
        prompt = conversations.asked(row, QUERY)
        system, turns = conversations.checked(prompt)
        key = _key(system, turns)
        written = {group: conversations.answer(row, group, prompt) for group in groups}
        answers = {group: first_words(text, words) for group, text in written.items()}
        has_normal = NORMAL not in groups and (row.values[NORMAL] is not None or NORMAL in row.messages)
        spare = first_words(conversations.answer(row, NORMAL, prompt), words) if has_normal else None
        if key in seen:
            tally.leave_out("with a query that an earlier row has")
        elif len({digest(answer) for answer in answers.values()}) < len(groups):
            tally.leave_out(f"with the same answer for two groups in its first {words} words")
        elif not all(map(readable, answers.values())):
            tally.leave_out("with an answer without words")
        else:
            pairs = [Pair(a, answers[a], answers[b]) for a, b in itertools.permutations(groups, 2)]
            if spare is not None and readable(spare):
                pairs += [Pair(group, answers[group], spare) for group in groups if answers[group] != spare]
            name = row.values["id"] or key[:16]
            questions.append(_Asked(row, Question(name, turns, tuple(pairs), spare, system, row.where)))
            seen.add(key)

    with tally.reported():
        rows = data.all_or_none(rows, tally, "part")
        data.sound(data.undivided(rows, tally, "part", QUERY, key_of), tally, take)
        _check_left(questions, tally)
    return questions, tally


def _pairs(experiment: Experiment, words: int) -> tuple[list[_Asked], Tally]:
    """Questions; rows with the same prompt are one."""
    groups = experiment.groups.names
    rows, tally = data.load(experiment, PAIR_FIELDS)
    with tally.reported():
        data.check_groups(rows, "group", groups, tally.source)
    rows = data.of_groups(rows, tally, PAIR_FIELDS, groups)
    rows = data.among(data.unique(rows, tally, "id"), tally, "part", tuple(PARTS))
    found: dict[str, _Asked] = {}

    def key_of(row: Row) -> str:
        return _conversation(conversations.exchange(row).turns)

    def take(row: Row) -> None:
        said = conversations.exchange(row)
        key = _key(said.system, said.turns)
        pair = Pair(row["group"], first_words(said.chosen, words), first_words(said.rejected, words))
        before = found.get(key)
        if not (readable(pair.chosen) and readable(pair.rejected)):
            tally.leave_out("with an answer without words")
        elif digest(pair.chosen) == digest(pair.rejected):
            tally.leave_out(f"whose chosen and rejected are equal in their first {words} words")
        elif before is not None:
            more = dataclasses.replace(before.question, pairs=(*before.question.pairs, pair))
            found[key] = _Asked(before.row, more)
        else:
            question = Question(key[:16], said.turns, (pair,), system=said.system, where=row.where)
            found[key] = _Asked(row, question)

    with tally.reported():
        rows = data.all_or_none(rows, tally, "part")
        data.sound(data.undivided(rows, tally, "part", "prompt", key_of), tally, take)
        questions = _counted(list(found.values()), tally)
        _check_left(questions, tally)
    return questions, tally


def _counted(asked: list[_Asked], tally: Tally) -> list[_Asked]:
    """The questions with every pair once, unless rows are votes: then all of them count.

    Votes are told by a group that chooses both ways. Counted once, nine votes against one would be one against one; and
    counted for contested questions only, those would weigh more than the ones on which a group agrees.
    """
    if any(pair.turned() in found for found in (set(one.question.pairs) for one in asked) for pair in found):
        return asked
    once = []
    for row, question in ((one.row, one.question) for one in asked):
        pairs = tuple(dict.fromkeys(question.pairs))
        tally.leave_out("with a pair that an earlier row has", len(question.pairs) - len(pairs))
        once.append(_Asked(row, dataclasses.replace(question, pairs=pairs)))
    return once


def _key(system: str | None, turns: Sequence[str]) -> str:
    """What tells questions apart; the words of a question in one turn, as in :func:`scpl_ray.tasks.texts.digest`."""
    return digest("\n\n".join(turns if system is None else (system, *turns)))


def _conversation(turns: Sequence[str]) -> str:
    """What tells conversations apart: one that was cut at several turns holds the answers to its earlier questions."""
    return alike(turns[0])


def _check_left(questions: Sequence[_Asked], tally: Tally) -> None:
    tally.check()
    if not questions:
        raise DataError(f"{tally.source}: no row is left of {tally.rows:,} that were read; give other rows")


def _split(asked: Sequence[_Asked], groups: Sequence[str], source: str) -> dict[str, tuple[Question, ...]]:
    """The user's own parts, or the same shares (:data:`PARTS`) of the questions of every set of groups.

    What rounding takes from a part in one set, the next sets of its groups give back. Questions of one conversation are
    in one part, the one to which the first of them is dealt.
    """
    given = {one.question.question_id: one.row.values["part"] for one in asked}
    strata: dict[tuple[str, ...], list[Question]] = defaultdict(list)
    for question in sorted((one.question for one in asked), key=_place):
        strata[tuple(sorted(question.groups))].append(question)
    parts: dict[str, list[Question]] = {part: [] for part in PARTS}
    homes: dict[str, str] = {}
    owed = {group: dict.fromkeys(PARTS, 0.0) for group in groups}  # questions that its parts up to this one still lack
    for key, stratum in strata.items():
        if any(given.values()):
            for question in stratum:
                parts[str(given[question.question_id])].append(question)
            continue
        share, end = 0.0, 0
        for part, of_part in PARTS.items():
            share += of_part
            wanted = share * len(stratum)
            lacking = sum(owed[group][part] for group in key) / len(key)
            start, end = end, min(max(round(wanted + lacking), end), len(stratum))
            for group in key:
                owed[group][part] += wanted - end
            for question in stratum[start:end]:
                parts[homes.setdefault(_conversation(question.turns), part)].append(question)
    for part, questions in parts.items():
        for group in groups:
            if (count := sum(group in question.groups for question in questions)) < QUESTIONS_PER_PART:
                raise DataError(
                    f"{source}: {count} questions of {group!r} for {part}; train, judge and evaluation share no "
                    f"question and each needs {QUESTIONS_PER_PART} or more of every group: give more rows"
                )
    return {part: tuple(sorted(questions, key=_place)) for part, questions in parts.items()}


def _place(question: Question) -> int:
    return derive_seed(SPLIT_SEED, "preference order", question.question_id)
