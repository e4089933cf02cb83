"""Answers to mathematical problems: finding the answer in a text, and the form in which references write it.

A text of any length is searched in time that is proportional to it: the patterns here have nothing to try twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Literal

from scpl_ray.tasks.maths import options
from scpl_ray.tasks.maths.notation import TEXT_CLOSE, TEXT_OPEN
from scpl_ray.tasks.maths.reader import LONGEST, read

Which = Literal["first", "last"]
"""Which of several marked answers counts."""

MOST_STATEMENTS = 64
"""Number of lines with ``####`` and of places for "answer is" that are looked at, from the side that counts."""
SURROUNDINGS = 80
"""Characters between "answer" and its "is", and of spaces or marks before what it is."""

_MARK = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])|^[ \t]*####|\banswer\b", re.IGNORECASE | re.MULTILINE)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN = r"(?: (?:that |which )?we(?: [a-z]+){1,3} |(?:(?!\b(?:we|note|need|that|which)\b)[^.,\n:=]){0,60}?)"
"""What may stand between "answer" and its "is": nothing that begins another clause, but "we get" at once."""
_IS = re.compile(rf"{_BETWEEN}\b(?:is|equals)\b:?|[ \t]{{0,9}}[:=]", re.IGNORECASE)
_ABBREVIATION = r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\b[apAP]\.m)(?<!\bsq)(?<!\bcu)(?<!\bfl)"
_SENTENCE_END = re.compile(rf"{_ABBREVIATION}[.?](?=\s|$)|,?\s(?:because|since)\s")
_FILLER = re.compile(r"(?:(?:then|therefore|thus|hence|simply|just|now|indeed|clearly),? ){1,3}", re.IGNORECASE)
_WORD = re.compile(r"[^\s$.,]+")
_SAYS = "The answer is "

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++"
_IN_TEXT = re.compile(
    rf"(?:(?<![\w.)\]}}])-)?[$€£¥]?(?:\\frac\{{[0-9]+\}}\{{[0-9]+\}}"
    rf"|(?:{_DIGITS})(?:[eE][+-]?[0-9]{{1,3}}\b|(?: [0-9]{{1,9}})?/[0-9]++)?)(?:\s?\\?%)?"
)
_HEADING = re.compile(
    r"(?:(?:step|part|case) \(?(?:[0-9]{1,2}|[ivx]{1,4}|[a-z])\)?(?!\w)|[0-9]{1,2}[.):] (?=.*[^\W\d_]{2}))",
    re.IGNORECASE,
)
_DESCRIPTION = re.compile(
    r"the (?:[a-z]+ )?(?:sum|difference|product|quotient|ratio|number|amount|total|average|mean|remainder|result|value)"
    r" (?:of|between)\b",
    re.IGNORECASE,
)
_DIGIT = re.compile("[0-9]")
_SIGNS = re.compile(r"[^\w\s.,;:!?'\"\u2019-]|[\d_]")
_LETTERS = re.compile(r"[^\W\d_]{3}")
_REMARK = re.compile(r" \( ?[a-zA-Z][a-zA-Z. '/-]*\)$")
_POINT_ZERO = re.compile(r"(-?[0-9]+)\.0+")


def closing(answer: str) -> str:
    """The canonical form with which a solution ends."""
    return f"{_SAYS}{answer}" + ("" if answer.endswith(".") else ".")


def closed(solution: str) -> str:
    """The answer of a solution that ends in the canonical form, without the final full stop."""
    return solution.rpartition(_SAYS)[2].removesuffix(".")


def has_closing(text: str) -> bool:
    """Whether a text ends in the canonical form."""
    last = text[-2 * LONGEST :].rstrip().rpartition("\n")[2]
    before, says, answer = last.rpartition(_SAYS)
    return bool(says) and before[-1:].strip() == "" and answer.endswith(".") and answer[:-1].strip() != ""


def canonical(answer: str) -> str:
    """A given answer as references write it: ``9 (apples)`` becomes ``9``, ``8.0`` becomes ``8``, others are kept."""
    text = " ".join(answer.split())
    if len(text) > 1 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    bare = _REMARK.sub("", text)
    text = bare if bare != text and number(bare) is not None else text
    whole = _POINT_ZERO.fullmatch(text)
    return whole[1] if whole else text


def extract(text: str, which: Which = "first", gold: str | None = None) -> str | None:
    r"""The answer that a text gives, as it is written there; ``None`` if it gives none.

    An answer is marked by ``\boxed{}``, by a line ``#### X``, or by a sentence "The answer is X" (or "answer: X") whose
    X can be read as mathematics; or X is words in the last line, or in a sentence on a line of its own. The first or
    the last marked answer counts. A text without one gives what its last line or sentence of those forms says in words,
    else its last number. The heading of a step, and the description of a number that follows ("the sum of both"), are
    no answers.

    Args:
        text: the text.
        which: the marked answer that counts.
        gold: the answer that it will be compared with; where that is mathematics, the words of a text without a mark
            give way to its last number.
    """
    braces = _pairs_of_braces(text) if _BOX.search(text) else {}
    marks: Iterable[re.Match[str]] = _outermost(text, braces)
    if which == "last":
        marks = reversed(list(marks))
    wordy = gold is None or _is_words(gold)
    stated: list[str] = []
    statements = 0
    for mark in marks:
        if mark[0].startswith("\\"):
            found = _box(text, mark.end(), braces)
        else:
            statements += 1
            say = _headed if mark[0].endswith("#") else _statement
            found, certain = say(text, mark) if statements <= MOST_STATEMENTS else ("", False)
            if found and not certain:
                if wordy or _SIGNS.search(found):
                    stated.append(found)
                continue
        if found:
            return _bounded(found)
    if stated:
        return _bounded(stated[-1] if which == "first" else stated[0])
    last = _last(_IN_TEXT.finditer(text))
    return _bounded(last[0]) if last else None


def _is_words(gold: str) -> bool:
    """Whether a gold answer is words, or the letter of an option, which words may explain."""
    reading = read(gold)
    return reading.node is None or options.LETTER.fullmatch(reading.text) is not None


def _outermost(text: str, braces: dict[int, int]) -> Iterator[re.Match[str]]:
    """The marks of a text that stand in no box."""
    end = 0
    for mark in _MARK.finditer(text):
        if mark.start() >= end:
            yield mark
            if mark[0].startswith("\\"):
                end = max(end, braces.get(_after_spaces(text, mark.end()), 0))


def last_box(text: str) -> str | None:
    r"""The content of the last ``\boxed{}`` of a text; ``None`` if it has none that holds anything."""
    box = _last(_BOX.finditer(text))
    return None if box is None else _box(text, box.end(), _pairs_of_braces(text)) or None


def _last(found: Iterator[re.Match[str]]) -> re.Match[str] | None:
    match = None
    for match in found:  # noqa: B007
        pass
    return match


def _bounded(found: str) -> str | None:
    return found if len(found) <= LONGEST else None


def _line(text: str, start: int) -> str:
    """The rest of a line, as far as an answer can reach and some further."""
    return text[start : start + 2 * LONGEST + SURROUNDINGS].partition("\n")[0]


def _headed(text: str, mark: re.Match[str]) -> tuple[str, bool]:
    """What a line after ``####`` says, and whether it is certainly an answer: it may be the heading of a step."""
    line = _line(text, mark.end())
    found = _stripped(line)
    last = not text[mark.end() + len(line) :].strip()
    if len(found) <= LONGEST and read(found).node is not None:
        return found, True
    if (_HEADING.match(found) and (":" in found or not last)) or (line.rstrip(" *_").endswith(":") and not last):
        return "", False
    return found, last or len(found) > LONGEST


def _statement(text: str, mark: re.Match[str]) -> tuple[str, bool]:
    """What the sentence at the word "answer" says that it is, and whether that is certainly an answer."""
    verb = _IS.match(text, mark.end(), mark.end() + SURROUNDINGS)
    if verb is None:
        return "", False
    start = verb.end()
    end = min(len(text), start + SURROUNDINGS)
    while start < end and (text[start].isspace() or text[start] in ":*"):
        start += 1
    filler = _FILLER.match(text, start)
    start = filler.end() if filler else start
    line = _line(text, start)
    sentence = _first_sentence(line)
    found = _stripped(sentence)
    if _DESCRIPTION.match(found) and _DIGIT.search(text, start + len(sentence)):
        return "", False
    if "\\boxed" in line or "\\fbox" in line:
        # the box itself is the mark
        return "", False
    if not found or len(found) > LONGEST:
        return found, False
    alone = text[max(0, mark.start() - 4) : start] == _SAYS and _stripped(line) == found
    return found, alone or read(found).node is not None


def _first_sentence(line: str) -> str:
    """The line up to the end of its sentence, which is not inside of braces: ``\\text{ sq. units}``."""
    for end in _SENTENCE_END.finditer(line):
        if line.count("{", 0, end.start()) <= line.count("}", 0, end.start()):
            return line[: end.start()]
    return line


def _pairs_of_braces(text: str) -> dict[int, int]:
    """The place of the closing brace by that of the opening one."""
    pairs: dict[int, int] = {}
    open_at: list[int] = []
    for match in _BRACES.finditer(text):
        if match[0] == "{":
            open_at.append(match.start())
        elif match[0] == "}" and open_at:
            pairs[open_at.pop()] = match.start()
    return pairs


def _box(text: str, start: int, pairs: dict[int, int]) -> str:
    """The content of the braces of a box, or the next word if it has none; empty if they never close."""
    start = _after_spaces(text, start)
    if text.startswith("{", start):
        end = pairs.get(start)
        return "" if end is None else _stripped(text[start + 1 : min(end, start + 10 * LONGEST)])
    found = _WORD.match(text, start, start + 2 * LONGEST)
    return found[0] if found else ""


def _after_spaces(text: str, start: int) -> int:
    while start < len(text) and text[start] in " \t":
        start += 1
    return start


def _stripped(found: str) -> str:
    found = found.strip().strip("*_`").strip()
    return found if found.endswith("...") else found.rstrip(".,;:").rstrip()


def number(answer: str) -> Fraction | None:
    """The number that an answer is, without its currency, unit or percent sign; ``None`` if it is no plain number."""
    node = read(answer).node
    if node is not None and node[0] in ("percent", "with"):
        node = node[1]
    return Fraction(node[1]) if node is not None and node[0] == "num" else None


def words(answer: str) -> str:
    """The words of an answer in a normalised spelling.

    Natural language has no case, outer punctuation, parentheses or leading "the"; other signs are kept as they are,
    without spaces.
    """
    text = " ".join(answer.replace(TEXT_OPEN, " ").replace(TEXT_CLOSE, " ").split())
    if "\\" in text or not (text.isalpha() or _LETTERS.search(text)):
        return text.replace(" ", "") if any(sign.isalnum() for sign in text) else ""
    return text.casefold().strip(" .,;:!?()\"'“”").removeprefix("the ")
