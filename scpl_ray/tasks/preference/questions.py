"""Questions with the answers that groups prefer, from a user's file, in three parts that share no question.

Rows have one of two shapes, told apart by their columns:

- *responses*: ``query`` and one column per group, called as the group, with the answer that this group prefers. Every
  group asks every query and prefers its answer to all others. An optional ``normal`` answer was written for no group.
- *pairs*: ``group``, ``chosen`` and ``rejected``. With a column ``prompt`` these are two answers to it; without, two
  transcripts that begin alike ("Human: ... Assistant: ...", as published by Bai et al. 2022, arXiv 2204.05862), and the
  question is what they share up to the last "Assistant:".
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from scpl_ray.config import Experiment
from scpl_ray.protocols import DataReport
from scpl_ray.seeds import derive_seed
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.outlets import PARTS
from scpl_ray.tasks.rows import DataError, Fields, Row
from scpl_ray.tasks.texts import answer_words, digest, first_words, readable

logger = logging.getLogger(__name__)

OPTIONAL = ("id", "part")
PAIR_FIELDS = Fields(required=("group", "chosen", "rejected"), optional=("prompt", *OPTIONAL))
QUERY, NORMAL = "query", "normal"
SPLIT_SEED = 20_260_105
"""Seed of the split, which is the same for every run, whatever its seed."""
LEAST_PER_PART = 2
"""Questions that each group needs in each part: of the held-out ones, one is asked by the group and one is neutral."""
HUMAN, ASSISTANT = "Human", "Assistant"
_TURN = re.compile(rf"\n\n({HUMAN}|{ASSISTANT}):")


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Users of the group choose one answer over another."""

    group: str
    chosen: str
    rejected: str


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question that users ask, and the answers that they prefer."""

    question_id: str
    turns: tuple[str, ...]
    """Texts of user, assistant, user, ..., user."""
    pairs: tuple[Pair, ...]
    """One or more; answers are cut to the length of the model's own."""
    normal: str | None = None
    """An answer that was written for no group."""

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that ask this question."""
        return tuple(dict.fromkeys(pair.group for pair in self.pairs))

    def preferred(self, group: str) -> str | None:
        """The answer that the group prefers; ``None`` if it does not ask this question."""
        return next((pair.chosen for pair in self.pairs if pair.group == group), None)

    def transcript(self) -> str:
        """The question as plain text: what models without a chat template are asked, and what judges read."""
        spoken = zip(itertools.cycle((HUMAN, ASSISTANT)), self.turns)
        return "\n\n".join(f"{role}: {turn}" for role, turn in spoken) + f"\n\n{ASSISTANT}:"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """All questions of a run."""

    report: DataReport
    parts: dict[str, tuple[Question, ...]]
    """By part, each in an order that neither the file's order nor the run's seed changes."""

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
            occurs, ids used twice, overlapping splits, or too few questions for three parts.
    """
    source, names, groups = str(experiment.task.data), experiment.task.fields, experiment.groups.names
    columns = data.columns_of(experiment.task.data)
    has_pairs = "chosen" in names or names.get("chosen", "chosen") in columns
    if columns and not has_pairs and QUERY not in names and QUERY not in columns:
        raise DataError(
            f"{source}: the first row has {', '.join(columns)}; the preference task reads rows of {QUERY} and one "
            f"answer per group ({', '.join(groups)}), or rows of {', '.join(PAIR_FIELDS.required)}: name your columns "
            f"with task.fields, e.g. task.fields={{{QUERY}: COLUMN}}"
        )
    read = _pairs if has_pairs else _responses
    rows, questions, dropped = read(experiment, answer_words(experiment))
    parts = _split(questions, _given_parts(questions), groups, source)
    report = DataReport(source, rows, rows - dropped.total(), dict(dropped))
    corpus = Corpus(report, parts)
    logger.info("%s; %s", report, corpus)
    return corpus


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """A question and the row that it came from, the first of its rows."""

    row: Row
    question: Question


def _responses(experiment: Experiment, words: int) -> tuple[int, list[_Asked], Counter[str]]:
    """Rows read, questions, and rows left out by reason: one question per row."""
    groups, source = experiment.groups.names, str(experiment.task.data)
    if taken := sorted({QUERY, *OPTIONAL} & set(groups)):
        raise DataError(f"groups.names: {', '.join(taken)} is a field of this task; give the group another name")
    normal = () if NORMAL in groups else (NORMAL,)
    rows = data.load(experiment.task.data, experiment.task.fields, Fields((QUERY, *groups), (*normal, *OPTIONAL)))
    data.check_unique(rows, "id")
    data.check_values(rows, "part", tuple(PARTS))
    data.check_disjoint(rows, "part", QUERY, lambda row: digest(row[QUERY]))
    questions, dropped, seen = [], Counter[str](), set()
    for row in rows:
        query = digest(row[QUERY])
        answers = {group: first_words(row[group], words) for group in groups}
        other = row.values.get(NORMAL) if normal else None
        spare = None if other is None else first_words(other, words)
        if query in seen:
            dropped["with a query that an earlier row has"] += 1
        elif len({digest(answer) for answer in answers.values()}) < len(groups):
            dropped[f"with the same answer for two groups in its first {words} words"] += 1
        elif not all(map(readable, answers.values())):
            dropped["with an answer without words"] += 1
        else:
            pairs = [Pair(a, answers[a], answers[b]) for a, b in itertools.permutations(groups, 2)]
            if spare is not None and readable(spare):
                pairs += [Pair(group, answers[group], spare) for group in groups if answers[group] != spare]
            name = row.values["id"] or query[:16]
            questions.append(_Asked(row, Question(name, (row[QUERY],), tuple(pairs), spare)))
        seen.add(query)
    if not questions:
        raise DataError(f"{source}: no row is left of {len(rows):,} ({dict(dropped)}); give other rows")
    return len(rows), questions, dropped


def _pairs(experiment: Experiment, words: int) -> tuple[int, list[_Asked], Counter[str]]:
    """Rows read, questions, and rows left out by reason: rows with the same prompt are one question."""
    groups, source = experiment.groups.names, str(experiment.task.data)
    rows = data.load(experiment.task.data, experiment.task.fields, PAIR_FIELDS)
    data.check_unique(rows, "id")
    data.check_groups(rows, "group", groups, source)
    data.check_values(rows, "part", tuple(PARTS))
    dropped, found = Counter[str](), dict[str, _Asked]()
    kept: list[tuple[Row, str]] = []
    for row in rows:
        turns, chosen, rejected = _exchange(row)
        pair = Pair(row["group"], first_words(chosen, words), first_words(rejected, words))
        if row["group"] not in groups:
            dropped["of a group that is not in groups.names"] += 1
        elif _TURN.search(chosen) or _TURN.search(rejected):
            dropped["with an answer that goes on with another turn"] += 1
        elif len(turns) % 2 == 0 or not all(turns):
            dropped["whose turns do not alternate between user and assistant"] += 1
        elif not (readable(pair.chosen) and readable(pair.rejected)):
            dropped["with an answer without words"] += 1
        elif digest(pair.chosen) == digest(pair.rejected):
            dropped[f"whose chosen and rejected are equal in their first {words} words"] += 1
        else:
            key = digest("\n\n".join(turns))
            before = found.get(key)
            if before is not None and pair in before.question.pairs:
                dropped["with a pair that an earlier row has"] += 1
                continue
            pairs = (*before.question.pairs, pair) if before else (pair,)
            found[key] = _Asked(before.row if before else row, Question(key[:16], turns, pairs))
            kept.append((row, key))
    key_of = {row.where: key for row, key in kept}
    data.check_disjoint([row for row, _ in kept], "part", "prompt", lambda row: key_of[row.where])
    if not found:
        raise DataError(f"{source}: no row is left of {len(rows):,} ({dict(dropped)}); give other rows")
    return len(rows), list(found.values()), dropped


def _exchange(row: Row) -> tuple[tuple[str, ...], str, str]:
    """Turns up to the answers, and the two answers.

    The turns are even in number, or one is empty, where user and assistant do not alternate.

    Raises:
        DataError: there is no prompt, and the two are no transcripts that begin alike.
    """
    prompt = row.values["prompt"]
    if prompt is not None:
        return (prompt,), row["chosen"], row["rejected"]
    chosen, rejected = f"\n\n{row['chosen']}", f"\n\n{row['rejected']}"
    mark = f"\n\n{ASSISTANT}:"
    alike = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    shared = chosen[:alike].rfind(mark)
    _, *turns = _TURN.split(chosen[: max(shared, 0)])
    if not turns:
        raise DataError(
            f"{row.where}: chosen and rejected are no transcripts of one conversation ('{HUMAN}: ...', a blank line, "
            f"'{ASSISTANT}: ...'); correct them, or give the question in a column: task.fields={{prompt: COLUMN}}"
        )
    roles, texts = turns[::2], tuple(text.strip() for text in turns[1::2])
    alternate = all(role == (HUMAN, ASSISTANT)[i % 2] for i, role in enumerate(roles))
    start = shared + len(mark)
    return texts if alternate else (), chosen[start:].strip(), rejected[start:].strip()


def _given_parts(questions: Sequence[_Asked]) -> dict[str, str]:
    """The user's own split by question id; empty where the rows have no part."""
    given = {asked.question.question_id: asked.row.values["part"] for asked in questions}
    if set(given.values()) == {None}:
        return {}
    for asked in questions:
        if asked.row.values["part"] is None:
            raise DataError(f"{asked.row.where}: no part, though other rows have one; give every row a part or none")
    return {name: str(part) for name, part in given.items()}


def _split(
    asked: Sequence[_Asked], given: Mapping[str, str], groups: Sequence[str], source: str
) -> dict[str, tuple[Question, ...]]:
    """The user's own parts, or the same shares (:data:`PARTS`) of the questions of every set of groups."""
    strata: dict[tuple[str, ...], list[Question]] = defaultdict(list)
    for question in sorted((one.question for one in asked), key=_place):
        strata[tuple(sorted(question.groups))].append(question)
    parts: dict[str, list[Question]] = {part: [] for part in PARTS}
    for stratum in strata.values():
        if given:
            for question in stratum:
                parts[given[question.question_id]].append(question)
            continue
        start = share = 0.0
        for part, of_part in PARTS.items():
            start, share = share, share + of_part
            parts[part] += stratum[round(start * len(stratum)) : round(share * len(stratum))]
    for part, questions in parts.items():
        for group in groups:
            if (count := sum(group in question.groups for question in questions)) < LEAST_PER_PART:
                raise DataError(
                    f"{source}: {count} questions of {group!r} for {part}; train, judge and evaluation share no "
                    f"question and each needs {LEAST_PER_PART} or more of every group: give more rows"
                )
    return {part: tuple(sorted(questions, key=_place)) for part, questions in parts.items()}


def _place(question: Question) -> int:
    return derive_seed(SPLIT_SEED, "preference order", question.question_id)
