r"""The gold answer of a row in the shapes in which data sets publish it, and whether it can be matched at all.

GSM8K has the working and then a line ``#### 27`` (Cobbe et al. 2021), MATH a solution with ``\boxed{27}`` (Hendrycks et
al. 2021); others have the answer by itself, or a sentence ("Answer: 4").
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Literal

from scpl_ray.tasks.maths import answers
from scpl_ray.tasks.maths.reader import LONGEST
from scpl_ray.tasks.maths.verifier import Verifier
from scpl_ray.tasks.rows import Row

AnswerFormat = Literal["auto", "plain", "gsm8k", "boxed"]

ABSENT = "without an answer"
TOO_LONG = f"with an answer of more than {LONGEST} characters"
UNMATCHED = "with a gold answer that does not equal itself"
CONTRADICTED = "with a solution that gives another answer"
"""The reasons for which a row is left out."""

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_POINT_ZERO = re.compile(r"(?<=\d)\.0+(?!\d)")
_SENTENCE = re.compile(r"(?:the |my )?(?:final |correct )?answer\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Gold:
    """A row's gold answer."""

    shape: str
    """``plain``, ``gsm8k``, ``boxed``, or ``sentence``, as it was found."""
    answer: str
    """In the form of references (:func:`scpl_ray.tasks.maths.answers.canonical`)."""
    working: str
    """The steps that lead to the answer; may be empty."""


def gold_of(row: Row, answer_format: AnswerFormat) -> Gold | None:
    """The gold answer of a row; ``None`` if it has none of this format.

    It is looked for in the row's ``answer``, and without one (or without a mark in it) in its ``solution``.
    """
    given, solution = row.values["answer"], row.values["solution"]
    for text in (given, solution):
        if text is None:
            continue
        found = _marked(text, answer_format)
        if found is None and text is given and answer_format in ("auto", "plain"):
            found = "plain", text, ""
        if found:
            shape, answer, before = found
            answer = answers.canonical(answer)
            return Gold(shape, answer, _working(solution or before, row.values["formula"], answer))
    return None


def refusal(gold: Gold | None, which: answers.Which, verifier: Verifier) -> str | None:
    """Why a row with this gold answer is of no use; ``None`` if it is of use.

    The answer is put through the checker against itself, in the sentence in which references end and then in the whole
    reference: an answer that is not found there, or is not equal there, would call right answers wrong.
    """
    if gold is None:
        return ABSENT
    if len(gold.answer) > LONGEST:
        return TOO_LONG
    closing = answers.closing(gold.answer)
    if not verifier.compare(gold.answer, answers.extract(closing, which, gold.answer)).equal:
        return UNMATCHED
    whole = answers.extract(f"{gold.working}\n{closing}", which, gold.answer)
    return None if verifier.compare(gold.answer, whole).equal else CONTRADICTED


def _marked(text: str, answer_format: AnswerFormat) -> tuple[str, str, str] | None:
    """The shape, the answer and the working of a text in which the answer is marked."""
    if answer_format in ("auto", "gsm8k"):
        before, marked, answer = text.rpartition("####")
        if marked and "\n" not in answer.strip():
            return "gsm8k", answer, before.rstrip()
    if answer_format in ("auto", "boxed") and (box := answers.last_box(text)):
        return "boxed", box, "" if text.strip().strip("$.").startswith((r"\boxed", r"\fbox")) else text
    if answer_format == "auto":
        before, _, last = text.rstrip().rpartition("\n")
        if _SENTENCE.match(last.strip()) and (said := answers.extract(last)):
            return "sentence", said, before
    return None


def _working(text: str, formula: str | None, answer: str) -> str:
    if text:
        working = _CALCULATOR.sub("", text).rstrip()
        before, marked, rest = working.rpartition("####")
        if marked and "\n" not in rest:
            working = before.rstrip()
        return working.removesuffix(answers.closing(answer)).rstrip()
    formula = _unbracketed(_POINT_ZERO.sub("", formula or "").strip())
    return formula if not formula or "=" in formula else f"{formula} = {answer}"


def _unbracketed(formula: str) -> str:
    """A formula without the brackets around the whole of it."""
    if not (formula.startswith("( ") and formula.endswith(" )")):
        return formula
    depths = list(itertools.accumulate((sign == "(") - (sign == ")") for sign in formula))
    return formula if 0 in depths[:-1] else formula[2:-2].strip()
