"""Mathematical problems with solutions from a user's file, split into three parts that share no problem."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections import Counter
from collections.abc import Sequence

from scpl_ray.config import Experiment
from scpl_ray.judges.tfidf import LabelledText
from scpl_ray.protocols import DataReport
from scpl_ray.seeds import derive_seed
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.maths import answers
from scpl_ray.tasks.maths.golds import Gold, gold_of, refusal
from scpl_ray.tasks.maths.verifier import Verifier
from scpl_ray.tasks.outlets import PARTS
from scpl_ray.tasks.rows import DataError, Fields, Row

logger = logging.getLogger(__name__)

FIELDS = Fields(required=("problem", "group"), optional=("answer", "solution", "formula", "id", "part"))
"""``group`` is the label of the group, e.g. with ``task.fields={group: source}``; ``part`` is a user's own split. A row
has an ``answer``, or a ``solution`` in which the answer is marked."""
MAX_UNUSABLE = 0.1
"""Largest share of rows whose answer cannot be used."""
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

    @property
    def solution(self) -> str:
        """The working, then the answer in the canonical form."""
        return solution(self.working, self.answer)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """All problems of a run."""

    report: DataReport
    parts: dict[str, tuple[Problem, ...]]
    """The problems by part, in the order of the file."""
    given: bool
    """Whether the split is the user's own (the field ``part``)."""

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
    it has no equals sign; a row with none of them has the answer only. Problems are dealt out to the parts by the
    SHA-256 of their text, so that a problem's part depends on nothing else.

    Raises:
        DataError: see :func:`scpl_ray.tasks.rows.load`; or there is only one group, a group never occurs, an id is used
            twice, splits overlap, the answers of more than a tenth of the rows cannot be used, or a part has no
            problem of some group.
    """
    source, groups = str(experiment.task.data), experiment.groups.names
    rows = data.load(experiment.task.data, experiment.task.fields, FIELDS)
    data.check_unique(rows, "id")
    data.check_groups(rows, "group", groups, source)
    data.check_values(rows, "part", tuple(PARTS))
    data.check_disjoint(rows, "part", "problem", lambda row: _digest(row["problem"]))
    kept, dropped = _usable(rows, experiment, source)
    given = _is_split(rows)
    parts: dict[str, list[Problem]] = {part: [] for part in PARTS}
    for row, gold in kept:
        parts[row["part"] if given else _part_of(_digest(row["problem"]))].append(_problem(row, gold))
    _check_parts(parts, groups, source, given=given)
    report = DataReport(source, len(rows), len(kept), dropped)
    counts = {part: Counter(problem.group for problem in problems) for part, problems in parts.items()}
    logger.info("%s; %s", report, "; ".join(f"{part} {dict(of_part)}" for part, of_part in counts.items()))
    return Corpus(report, {part: tuple(problems) for part, problems in parts.items()}, given)


def _usable(rows: Sequence[Row], experiment: Experiment, source: str) -> tuple[list[tuple[Row, Gold]], dict[str, int]]:
    """The rows of a group's problem that no earlier row has and whose answer can be matched, and the others' number.

    Raises:
        DataError: the answers of more than :data:`MAX_UNUSABLE` of the rows cannot be used.
    """
    task, verifier = experiment.task, Verifier()
    kept: list[tuple[Row, Gold]] = []
    dropped, shapes, seen = Counter[str](), Counter[str](), set[str]()
    refused: list[tuple[Row, str]] = []
    for row in rows:
        problem = _digest(row["problem"])
        if row["group"] not in experiment.groups.names:
            dropped["of a label that is no group"] += 1
        elif problem in seen:
            dropped["with a problem that an earlier row has"] += 1
        else:
            gold = gold_of(row, task.answer_format)
            reason = refusal(gold, task.answer, verifier)
            if gold is None or reason:
                refused.append((row, reason or ""))
            else:
                kept.append((row, gold))
                seen.add(problem)
                shapes[gold.shape] += 1
    reasons = Counter(reason for _, reason in refused)
    if len(refused) > MAX_UNUSABLE * len(rows):
        raise DataError(_unusable(refused, reasons, len(rows), source))
    logger.info("%s: answers found: %s", source, ", ".join(f"{n:,} {shape}" for shape, n in shapes.most_common()))
    return kept, dict(dropped + reasons)


def _unusable(refused: Sequence[tuple[Row, str]], reasons: Counter[str], rows: int, source: str) -> str:
    shown = "; ".join(
        f"{row.where} ({reason}): {_shortened(row.values['answer'] or row.values['solution'] or '')!r}"
        for row, reason in refused[:3]
    )
    return (
        f"{source}: the answers of {len(refused):,} of {rows:,} rows cannot be used "
        f"({', '.join(f'{count:,} {reason}' for reason, count in reasons.most_common())}), which is more than "
        f"{MAX_UNUSABLE:.0%}; e.g. {shown}. Name the column of the answers with task.fields={{answer: COLUMN}}, their "
        "shape with task.answer_format (auto, plain, gsm8k, boxed), or, where solutions mark other results first, set "
        "task.answer=last"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"


def _is_split(rows: Sequence[Row]) -> bool:
    bare = [row for row in rows if row.values["part"] is None]
    if bare and len(bare) < len(rows):
        raise DataError(f"{bare[0].where}: no part, though other rows have one; give every row a part or none")
    return not bare


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
    problem_id = row.values["id"] or _digest(row["problem"])[:16]
    return Problem(problem_id, row["group"], " ".join(row["problem"].split()), gold.answer, gold.working)


def _digest(problem: str) -> str:
    """The SHA-256 of a problem's words in lower case, in hexadecimal."""
    return hashlib.sha256(" ".join(problem.casefold().split()).encode()).hexdigest()
