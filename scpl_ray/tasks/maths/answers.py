"""Answers to mathematical problems: finding an answer in a text, and reading it as a number or as words.

Numbers are read exactly, as fractions; :mod:`scpl_ray.tasks.maths.verifier` handles all other mathematics.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

LONGEST = 200
"""Largest number of characters; a longer text is not accepted as an answer."""
TAIL = 20_000
"""Number of characters at the end of a text that are searched for an answer."""
TOLERANCE = Fraction(1, 10**9)
"""Relative difference allowed between two numbers if one is not an integer; it covers the rounding of floats."""

_ABBREVIATION = r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\b[apAP]\.m)"
_SENTENCE_END = re.compile(rf"{_ABBREVIATION}[.?](?=\s|$)|,?\s(?:because|since)\s")
_PHRASE = re.compile(r"\banswer\b(?:[^.\n:=]{0,60}?\b(?:is|equals)\b|\s*[:=])[\s:*]*(?=([^\n]*))", re.IGNORECASE)
_HASHES = re.compile(r"^\s*####([^\n]*)", re.MULTILINE)
_WORD = re.compile(r"[^\s$.,]+")
_BOX = re.compile(r"\\(?:boxed|fbox)\b\s*")
_SAYS = "The answer is "
_CLOSING = re.compile(r"(?:^|\s)The answer is \S[^\n]*\.\s*\Z")

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_IN_TEXT = re.compile(
    rf"(?:(?<![\w.)\]}}])-)?[$€£¥]?(?:\\frac\{{\d+\}}\{{\d+\}}|(?:{_DIGITS})(?:[eE][+-]?\d{{1,3}}\b|(?: \d+)?/\d+)?)"
    r"(?:\s?\\?%)?"
)

_CHARACTERS = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u2044": "/", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "\u00a0": " "}
)
_DROPPED = re.compile(r"\\[!,;:]|\\(?:left|right|displaystyle)(?![a-zA-Z])|\\[()\[\]]|(?<!\\)\$(?!\s*-?[\d.])|\*\*|`")
_WRAPPED = re.compile(r"\\(?:text|textbf|textit|mbox|mathrm|mathbf)\s*\{([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|°")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NO_UNIT = re.compile(
    "or|and|to|plus|minus|times|over|divided|by|more|less|than|pi|sqrt|sin|cos|tan|log|ln|exp|infinity", re.IGNORECASE
)
"""Starts of words that can follow a number without being its unit."""
_LONE_UNITS = "mgslhLA"
"""Single letters that are read as units after a space; others, as in ``2 x``, are factors."""
_ATTACHED = "mm|cm|km|kg|mg|ml|mL|ft|lb|lbs|oz|mph|kph"
"""Units that may follow a number without a space; other letters there, as in ``2x``, are factors."""
_NUMBER = re.compile(
    r"(?:[a-zA-Z]\s*=\s*)?(?:(?:about|approximately|exactly|only|≈)\s*)?"
    r"(?P<sign>[+-]?)\s*\\?[$€£¥]?\s*(?P<minus>-?)\s*"
    rf"(?:(?P<whole>\d+)\s+(?P<part>\d+/\d+)|(?P<ratio>-?\d+\s*/\s*\d+)|(?P<decimal>{_DIGITS})(?P<power>[eE][+-]?\d{{1,3}})?"
    r"|(?P<times>(?:\d+(?:\.\d+)?))\s*(?:\\times|\\cdot|\u00d7|\*|x)\s*10\s*\^\s*\{?(?P<ten>-?\d{1,3})\}?)"
    r"\s*(?:(?P<percent>\\?%|percent\b)|"
    rf"(?P<unit>\([^()\d\\]*\)|(?<=\s)[a-zA-Z][a-zA-Z.'/ -]*(?:\^\{{?[23]\}}?)?|(?:{_ATTACHED})\b(?:\^\{{?[23]\}}?)?))?"
    r"\s*[.,;]?"
)
_LETTERS = re.compile(r"[^\W\d_]+")
_NAMES = re.compile(r"\\(?:begin|end)\{\w+\}|\\[a-zA-Z]+|\b(?:sqrt|sin|cos|tan|log|exp|infinity|frac)\b")
_SIGNS = re.compile(r"[\d\\^_{}=+*/<>()\[\]π√∞\u222a]")


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    value: Fraction
    percent: bool

    def equals(self, other: Number) -> bool:
        """Whether two numbers are equal; a percentage equals both p and p / 100, unless both are percentages."""
        if self.percent == other.percent:
            return _near(self.value, other.value)
        plain, percent = (other, self) if self.percent else (self, other)
        return _near(plain.value, percent.value) or _near(plain.value, percent.value / 100)


def _near(a: Fraction, b: Fraction) -> bool:
    if a.denominator == b.denominator == 1:
        return a == b
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


def closing(answer: str) -> str:
    """The canonical form with which a solution ends."""
    return f"{_SAYS}{answer}" + ("" if answer.endswith(".") else ".")


def closed(solution: str) -> str:
    """The answer of a solution that ends in the canonical form, without the final full stop."""
    return solution.rpartition(_SAYS)[2].removesuffix(".")


def has_closing(text: str) -> bool:
    """Whether a text ends in the canonical form."""
    return _CLOSING.search(text[-2 * LONGEST :]) is not None


def canonical(answer: str) -> str:
    """A given answer as references write it: ``9 (apples)`` becomes ``9``, ``8.0`` becomes ``8``, others are kept."""
    text = " ".join(answer.split())
    if len(text) > 1 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    bare = re.sub(r"\s*\([^()]*\)$", "", text)
    text = bare if bare != text and number(bare) is not None else text
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


def extract(text: str) -> str | None:
    r"""The answer that a text gives, as it is written there; ``None`` if it gives none.

    The last ``\boxed{}`` or line that starts with ``####`` is used. If there is none, the text after the last "the
    answer is" (or "answer:") up to the end of its sentence is used; if there is none either, the last number.
    """
    tail = text[-TAIL:]
    marks = [*_BOX.finditer(tail), *_HASHES.finditer(tail)]
    for mark in sorted(marks, key=lambda match: match.start(), reverse=True):
        if found := _stripped(mark[1] if mark.re is _HASHES else _braced(tail, mark.end())):
            return _bounded(found)
    for phrase in reversed(list(_PHRASE.finditer(tail))):
        if found := _stripped(_first_sentence(phrase[1])):
            return _bounded(found)
    numbers = _IN_TEXT.findall(tail)
    return _bounded(numbers[-1]) if numbers else None


def _bounded(found: str) -> str | None:
    return found if len(found) <= LONGEST else None


def _first_sentence(line: str) -> str:
    end = _SENTENCE_END.search(line)
    return line[: end.start()] if end else line


def _braced(text: str, start: int) -> str:
    """The content of the braces that open here, or the next word if there are none; empty if they never close."""
    if not text.startswith("{", start):
        found = _WORD.match(text, start)
        return found.group() if found else ""
    depth = 0
    for i in range(start, min(len(text), start + 10 * LONGEST)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start + 1 : i]
    return ""


def _stripped(found: str) -> str:
    return found.strip().strip("*_`").strip().rstrip(".,;:").rstrip()


def number(answer: str) -> Number | None:
    """The number that an answer is, without its currency or unit; ``None`` if it is not a plain number.

    The function reads signs, decimals, thousands separators, fractions, mixed numbers, powers of ten, percentages,
    degrees and words of scale such as million; the exponent of a power of ten has at most 3 digits.
    """
    if len(answer) > LONGEST:
        return None
    match = _NUMBER.fullmatch(_tidy(answer))
    if match is None:
        return None
    scale = 1
    unit = (match["unit"] or "").strip()
    if unit and not unit.startswith("("):
        first = _LETTERS.findall(unit)[0]
        if _NO_UNIT.fullmatch(first) or (len(unit) == 1 and unit not in _LONE_UNITS):
            return None
        scale = _SCALES.get(first.lower(), 1)
    try:
        value = _value(match)
    except ZeroDivisionError:
        return None
    negative = (match["sign"] == "-") != (match["minus"] == "-")
    return Number(-value * scale if negative else value * scale, match["percent"] is not None)


def _value(match: re.Match[str]) -> Fraction:
    if match["whole"]:
        return int(match["whole"]) + Fraction(match["part"])
    if match["ratio"]:
        return Fraction(match["ratio"].replace(" ", ""))
    if match["times"]:
        return Fraction(match["times"]) * Fraction(10) ** int(match["ten"])
    return Fraction(match["decimal"].replace(",", "") + (match["power"] or ""))


def words(answer: str) -> str:
    """An answer's words in a normalised spelling, without case, outer punctuation, parentheses and a leading "the"."""
    text = " ".join(_tidy(answer).casefold().split()).strip(" .,;:!?()\"'“”")
    return text.removeprefix("the ")


def is_mathematics(answer: str) -> bool:
    """Whether an answer is to be read as mathematics rather than as words.

    It must have a digit, a sign or a LaTeX command, or be one or two letters. It must not have a word of three or more
    letters other than the name of a function, and must not be a time of day or ratio (``3:30``).
    """
    text = _WRAPPED.sub(r"\1", answer)
    if re.search(r"\d\s*:\s*\d", text):
        return False
    runs = _LETTERS.findall(_NAMES.sub(" ", text))
    if any(len(run) > 2 for run in runs):
        return False
    return bool(_SIGNS.search(text)) or len(runs) == 1


def _tidy(answer: str) -> str:
    """The answer without LaTeX and Markdown markup that does not change its value."""
    text = _WRAPPED.sub(r" \1", answer.translate(_CHARACTERS))
    text = _DEGREES.sub(" degrees", text)
    text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", text)
    text = _DROPPED.sub("", text).replace("\\$", "$").replace("\\ ", " ").replace("~", " ")
    return text.replace("{,}", ",").rstrip("$").strip()
