"""Mathematical problems with solutions from a user's file, split into three parts that share no problem."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence

from scpl_ray.config import Experiment
from scpl_ray.judges.tfidf import LabelledText
from scpl_ray.protocols import DataReport
from scpl_ray.seeds import derive_seed
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.maths import answers
from scpl_ray.tasks.outlets import PARTS
from scpl_ray.tasks.rows import DataError, Fields, Row, Tally

logger = logging.getLogger(__name__)

FIELDS = Fields(required=("problem", "answer", "group"), optional=("solution", "formula", "id", "part"))
"""``group`` is the label of the group, e.g. with ``task.fields={group: source}``; ``part`` is a user's own split."""
SPLIT_SEED = 20_260_105
"""Seed of the split, which is the same for every run, whatever its seed."""
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_HASHES = re.compile(r"\s*####[^\n]*\Z")
_POINT_ZERO = re.compile(r"(?<=\d)\.0+(?!\d)")


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
    a row without a solution has its ``formula``, completed by the answer where it has no equals sign; a row with
    neither has the answer only. Problems are dealt out to the parts by the SHA-256 of their text, so that a problem's
    part depends on nothing else.

    Raises:
        DataError: see :func:`scpl_ray.tasks.rows.load`; or there is only one group, a group never occurs, an id is used
            twice, splits overlap, or a part has no problem of some group.
    """
    source, groups = str(experiment.task.data), experiment.groups.names
    rows, tally = data.load(experiment.task, FIELDS)
    parts: dict[str, list[Problem]] = {part: [] for part in PARTS}
    with tally.reported():
        data.check_groups(rows, "group", groups, source)
        rows = data.among(data.unique(rows, tally, "id"), tally, "part", tuple(PARTS))
        rows = data.undivided(rows, tally, "part", "problem", lambda row: _digest(row["problem"]))
        kept = _usable(data.all_or_none(rows, tally, "part"), groups, tally)
        tally.check()
        given = any(row.values["part"] is not None for row in kept)
        for row in kept:
            parts[row["part"] if given else _part_of(_digest(row["problem"]))].append(_problem(row))
        _check_parts(parts, groups, source, given=given)
    counts = {part: Counter(problem.group for problem in problems) for part, problems in parts.items()}
    logger.info("%s; %s", tally.report(), "; ".join(f"{part} {dict(of_part)}" for part, of_part in counts.items()))
    return Corpus(tally, {part: tuple(problems) for part, problems in parts.items()}, given)


def _usable(rows: Sequence[Row], groups: Sequence[str], tally: Tally) -> list[Row]:
    kept, seen = [], set()
    for row in rows:
        problem = _digest(row["problem"])
        if row["group"] not in groups:
            tally.leave_out("of a label that is no group")
        elif problem in seen:
            tally.leave_out("with a problem that an earlier row has")
        elif len(answers.canonical(row["answer"])) > answers.LONGEST:
            tally.leave_out(f"with an answer of more than {answers.LONGEST} characters")
        else:
            kept.append(row)
            seen.add(problem)
    return kept


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


def _problem(row: Row) -> Problem:
    answer = answers.canonical(row["answer"])
    text = " ".join(row["problem"].split())
    name = row.values["id"] or _digest(row["problem"])[:16]
    return Problem(name, row["group"], text, answer, _working(row, answer), where=row.where)


def _working(row: Row, answer: str) -> str:
    if given := row.values["solution"]:
        working = _HASHES.sub("", _CALCULATOR.sub("", given)).rstrip()
        closing = answers.closing(answer)
        return working.removesuffix(closing).rstrip()
    formula = _POINT_ZERO.sub("", row.values["formula"] or "").strip()
    if formula.startswith("( ") and formula.endswith(" )"):
        formula = formula[2:-2]
    return formula if not formula or "=" in formula else f"{formula} = {answer}"


def _digest(problem: str) -> str:
    """The SHA-256 of a problem's words in lower case, in hexadecimal."""
    return hashlib.sha256(" ".join(problem.casefold().split()).encode()).hexdigest()
