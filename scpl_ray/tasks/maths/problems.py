"""Mathematical problems with solutions from a user's file, split into three parts that share no problem."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence

from scpl_ray.config import Experiment
from scpl_ray.judges.tfidf import LabelledText
from scpl_ray.protocols import DataReport
from scpl_ray.seeds import derive_seed
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.maths import answers
from scpl_ray.tasks.maths.golds import ABSENT, Gold, gold_of, refusal
from scpl_ray.tasks.maths.verifier import Verifier
from scpl_ray.tasks.outlets import PARTS
from scpl_ray.tasks.rows import DataError, Fields, OddRow, Row, Tally
from scpl_ray.tasks.texts import alike, digest, plain

logger = logging.getLogger(__name__)

FIELDS = Fields(required=("problem", "group"), optional=("answer", "solution", "formula", "id", "part"), group="group")
"""``group`` is the label of the group, e.g. with ``task.fields={group: source}``; ``part`` is a user's own split. A row
has an ``answer``, or a ``solution`` in which the answer is marked."""
ANSWERS_REMEDY = (
    "name the column of the answers with task.fields={answer: COLUMN}, their shape with task.answer_format (auto, "
    "plain, gsm8k, boxed), or, where solutions mark other results first, set task.answer=last"
)
"""What to do about a file with many odd answers."""
SHOWN = 80
"""Characters of an answer that a message shows."""
SPLIT_SEED = 20_260_105
"""Seed of the split, which is the same for every run, whatever its seed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A problem to solve."""

    problem_id: str
    group: str
    text: str
    answer: str
    working: str
    """The steps that lead to the answer; may be empty."""
    where: str = dataclasses.field(default="", compare=False)
    """File and line, for messages."""

    @property
    def solution(self) -> str:
        """The working, then the answer in the canonical form."""
        return solution(self.working, self.answer)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """All problems of a run."""

    tally: Tally
    parts: dict[str, tuple[Problem, ...]]
    """The problems by part, in the order of the file."""
    given: bool
    """Whether the split is the user's own (the field ``part``)."""

    @property
    def report(self) -> DataReport:
        """The rows kept, and those left out by reason."""
        return self.tally.report()

    def labelled(self) -> dict[str, tuple[LabelledText, ...]]:
        """Solutions by part, for a judge of kinds; every problem counts as a source of its own."""
        return {
            part: tuple(LabelledText(p.problem_id, p.solution, p.group, p.problem_id) for p in problems)
            for part, problems in self.parts.items()
        }


def solution(working: str, answer: str) -> str:
    """A whole solution: the working, and on the next line the answer (:func:`scpl_ray.tasks.maths.answers.closing`)."""
    return f"{working}\n{answers.closing(answer)}" if working else answers.closing(answer)


def load(experiment: Experiment) -> Corpus:
    """Read, check and split ``task.data``.

    A row's working is its ``solution`` without calculator annotations (``<<2*3=6>>``) and without the line ``#### 6``;
    a row without a solution has what stands before a marked answer, or its ``formula``, completed by the answer where
    it has no equals sign; a row with none of them has the answer only. Of rows with the same problem, however it is
    spaced and encoded, the first is used. Problems are dealt out to the parts by the SHA-256 of their text, so that a
    problem's part depends on nothing else.

    Raises:
        DataError: see :func:`scpl_ray.tasks.rows.load`; or there is only one group, a group never occurs, an id is used
            twice, splits overlap, more rows cannot be used than ``task.max_dropped`` allows, or a part has no problem
            of some group.
    """
    source, groups = str(experiment.task.data), experiment.groups.names
    rows, tally = data.load(experiment, FIELDS)
    parts: dict[str, list[Problem]] = {part: [] for part in PARTS}
    with tally.reported():
        data.check_groups(rows, "group", groups, source)
        rows = data.of_groups(rows, tally, FIELDS, groups)
        rows = data.among(data.unique(rows, tally, "id"), tally, "part", tuple(PARTS))
        rows = data.undivided(rows, tally, "part", "problem", lambda row: alike(row["problem"]))
        kept = _usable(data.all_or_none(rows, tally, "part"), experiment, tally)
        tally.check(ANSWERS_REMEDY)
        given = any(row.values["part"] is not None for row, _ in kept)
        for row, gold in kept:
            parts[row["part"] if given else _part_of(_digest(row["problem"]))].append(_problem(row, gold))
        _check_parts(parts, groups, source, given=given)
    counts = {part: Counter(problem.group for problem in problems) for part, problems in parts.items()}
    logger.info("%s; %s", tally.report(), "; ".join(f"{part} {dict(of_part)}" for part, of_part in counts.items()))
    return Corpus(tally, {part: tuple(problems) for part, problems in parts.items()}, given)


def _usable(rows: Sequence[Row], experiment: Experiment, tally: Tally) -> list[tuple[Row, Gold]]:
    """The rows of a problem that no earlier row has and whose answer can be matched, with their answers."""
    task, verifier = experiment.task, Verifier()
    kept: list[tuple[Row, Gold]] = []
    shapes, seen = Counter[str](), set[str]()
    for row in rows:
        problem = alike(row["problem"])
        if problem in seen:
            tally.leave_out("with a problem that an earlier row has")
        else:
            gold = gold_of(row, task.answer_format)
            reason = refusal(gold, task.answer, verifier)
            if gold is None or reason:
                given = _shortened(row.values["answer"] or row.values["solution"] or "")
                tally.odd(row.where, OddRow(reason or ABSENT, f"{reason or ABSENT}: {given!r}"))
            else:
                kept.append((row, gold))
                seen.add(problem)
                shapes[gold.shape] += 1
    found = ", ".join(f"{count:,} {shape}" for shape, count in shapes.most_common())
    logger.info("%s: answers found: %s", tally.source, found)
    return kept


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"


def _part_of(digest: str) -> str:
    position = derive_seed(SPLIT_SEED, "maths part", digest) / 2**63
    for part, share in PARTS.items():
        if position < share:
            return part
        position -= share
    return next(reversed(PARTS))


def _check_parts(parts: dict[str, list[Problem]], groups: Sequence[str], source: str, *, given: bool) -> None:
    for group in groups:
        sizes = {part: sum(problem.group == group for problem in of_part) for part, of_part in parts.items()}
        if missing := [part for part, size in sizes.items() if size == 0]:
            cure = "give rows of this group that part" if given else "give more problems (30 per group or more)"
            raise DataError(
                f"{source}: no problem of {group!r} is in {', '.join(missing)} ({sum(sizes.values())} in all): train, "
                f"judge and evaluation share no problem; {cure}"
            )


def _problem(row: Row, gold: Gold) -> Problem:
    name = row.values["id"] or _digest(row["problem"])[:16]
    text = " ".join(row["problem"].split())
    return Problem(name, row["group"], text, gold.answer, gold.working, where=row.where)


def _digest(problem: str) -> str:
    """The SHA-256 of a problem in hexadecimal, on which its part rests, and its id where the row has none."""
    return digest(plain(problem))
