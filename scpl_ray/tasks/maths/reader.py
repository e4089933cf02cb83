r"""Reads an answer as mathematics: all of it, or not at all.

The result is a tree of nested tuples, whose first item is the kind of the node:

- numbers: ``("num", value, unit in the last place)`` with fractions as text and ``"0"`` for what is written exactly,
  ``("base", digits, base)``;
- expressions: ``name``, ``const`` (pi, e, i, inf), ``neg``, ``add``, ``sub``, ``mul``, ``div``, ``pow``, ``fact``,
  ``root``, ``fun``, ``log``, ``binom``, ``apply``, ``deg`` (degrees inside a formula), ``pm``;
- structures: ``list`` (in any order), ``set``, ``tuple`` (also intervals; with its brackets), ``union``, ``matrix``,
  ``chain`` (of equations and inequalities), ``colon`` (ratios and times of day), ``dots``;
- quantities: ``percent``, and ``with`` (an expression, what its unit measures, and the size of the unit).

It is a recursive descent over the whole text. There is no rule that skips anything, so a text that has been read has
no unread part: ``101_2`` is a numeral of base 2, and ``0x1F`` is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from fractions import Fraction

from scpl_ray.tasks.maths.expressions import REMARK, RUN, ExpressionReader, negative, number_node
from scpl_ray.tasks.maths.notation import CURRENCIES, TEXT_CLOSE, TEXT_OPEN, WORD_NUMBERS, one_notation
from scpl_ray.tasks.maths.scanner import STRUCTURES, Node, UnreadableError
from scpl_ray.tasks.maths.units import ATTACHED, NO_UNIT, SCALES, size_of

LONGEST = 200
"""Largest number of characters of an answer; a longer one is not read."""
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=",
    r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=", r"\lt": "<", r"\gt": ">", r"\ne": "!=", r"\neq": "!=",
    r"\approx": "~", r"\in": "in",
}  # fmt: skip
_CURRENCY = re.compile(rf"([+-]?) ?([{CURRENCIES}]) ?")
_TEXT = re.compile(rf"{TEXT_OPEN}([^{TEXT_CLOSE}]*){TEXT_CLOSE}((?: ?\^ ?(?:[23]|\{{ ?[23] ?\}}))?)")
_UNIT_WORDS = re.compile(r"[a-zA-Z][a-zA-Z.'/ -]*(?: ?\^ ?(?:[23](?![0-9])|\{ ?[23] ?\}))?")
_HALF_DAY = r"([aApP])\.? ?[mM](?![a-zA-Z])\.?"
_CLOCK = re.compile(rf"([0-9]{{1,2}}) ?: ?([0-9]{{2}})(?: ?: ?([0-9]{{2}}))? ?(?:{_HALF_DAY})?")
_HOUR = re.compile(rf"([0-9]{{1,2}}) ?{_HALF_DAY}")
_INTRODUCTION = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:the |my )?(?:final |correct )?answer(?: is|:| =| equals)[: ]*"
    r"|(?:either|about|approximately|exactly|only|roughly) )",
    re.IGNORECASE,
)
_FIRST_WORDS = re.compile(f"{TEXT_OPEN}([^{TEXT_CLOSE}]*){TEXT_CLOSE}")
_OPTION = re.compile(r"\(?([A-Z])\)")
"""The letter of an option, as in ``(A)`` and ``A)``."""
_AND = re.compile(r" ?,? (?:and|or) ", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"(?<![0-9,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_DOTS = re.compile(r"\.\.\.|\\(?:[lc]?dots|dots[cbmio])(?![a-zA-Z])")


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What was read of an answer."""

    text: str
    """The answer in one notation, without an introduction ("The answer is") and without final punctuation."""
    node: Node | None
    """The tree; ``None`` if the answer is not mathematics."""
    other: Node | None
    """A second tree where commas may separate thousands or elements, as in ``81,256``."""


@functools.lru_cache(maxsize=1 << 14)
def read(answer: str) -> Reading:
    """Read an answer of at most :data:`LONGEST` characters; a longer one has no tree."""
    if len(answer) > LONGEST:
        return Reading(answer, None, None)
    text = _bare(one_notation(answer))
    return Reading(text, _tree(text, commas=True), _tree(text, commas=False) if _AMBIGUOUS.search(text) else None)


def _bare(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = _INTRODUCTION.sub("", text, count=1) if _INTRODUCTION.match(text) else text
        if (words := _FIRST_WORDS.match(text)) and _INTRODUCTION.fullmatch(f"{words[1].strip()} "):
            text = text[words.end() :]
        text = text.strip(" ")
        end = "," if text.endswith("...") else ".,;:"
        text = text.rstrip(f" {end}")
    option = _OPTION.fullmatch(text)
    return option[1] if option else text


def _tree(text: str, *, commas: bool) -> Node | None:
    if not text:
        return None
    if text.lower() in WORD_NUMBERS:
        return number_node(Fraction(WORD_NUMBERS[text.lower()]))
    if text.lower().removeprefix("the ") in ("{}", "empty set"):
        return ("set",)
    try:
        return _Reader(_AND.sub(" , ", text), commas=commas).answer()
    except UnreadableError:
        return None


class _Reader(ExpressionReader):
    """One pass over a text in the one notation; every method starts at ``at`` and moves it past what it reads."""

    def answer(self) -> Node:
        groups: list[Node] = []
        while True:
            items = [self._item()]
            while self._take(","):
                items.append(self._item())
            groups.append(_listed(items))
            if not self._take(";"):
                break
        if self._peek():
            raise UnreadableError
        return _listed(groups)

    # structures

    def _item(self) -> Node:
        """An element of a list: dots, a time or ratio, or a chain of relations."""
        self._spaces()
        if self._match(_DOTS):
            return ("dots",)
        if self._depth == 0 and (clock := self._match(_CLOCK)):
            ending = self._text[self._at : self._at + 1]
            if ending not in ("", ",", " ", ";"):
                raise UnreadableError
            return ("colon", (clock[4] or "").lower(), *(number_node(Fraction(n)) for n in clock.groups()[:3] if n))
        if self._depth == 0 and (hour := self._match(_HOUR)):
            return ("colon", hour[2].lower(), number_node(Fraction(hour[1])), number_node(Fraction(0)))
        first = None if self._text.startswith(r"\approx", self._at) else self._side()
        sides, signs = [first] if first else [], []
        while sign := self._relation():
            signs.append(sign)
            sides.append(self._side())
        if first is None and signs == ["~"]:
            return sides[0]
        if not signs:
            assert first is not None
            return self._ratio(first)
        if first is None:
            raise UnreadableError
        if signs == ["in"] and first[0] == "name":
            return sides[1]
        if "in" in signs:
            raise UnreadableError
        return "chain", tuple(signs), tuple(sides)

    def _ratio(self, first: Node) -> Node:
        parts = [first]
        while self._take(":"):
            parts.append(self._side())
        return first if len(parts) == 1 else ("colon", "", *parts)

    def _relation(self) -> str | None:
        self._spaces()
        for length in (2, 1):
            sign = self._text[self._at : self._at + length]
            if sign in _RELATIONS:
                self._at += length
                return _RELATIONS[sign]
        command = self._command()
        if command in _RELATIONS:
            self._at += len(command)
            return _RELATIONS[command]
        return None

    def _side(self) -> Node:
        """One side of a relation: a union of sets, or an expression with its currency or unit."""
        self._spaces()
        currency = self._match(_CURRENCY)
        node = self._expression()
        while self._union():
            node = ("union", *(node[1:] if node[0] == "union" else (node,)), self._expression())
        if currency:
            if node[0] in STRUCTURES:
                raise UnreadableError
            node = negative(node) if currency[1] == "-" else node
        return self._quantity(node, currency[2] if currency else "")

    def _union(self) -> bool:
        self._spaces()
        if self._command() == r"\cup":
            self._at += len(r"\cup")
            return True
        if (
            re.match(r"U ?[(\[{\\]", self._text[self._at : self._at + 3])
            and self._text[: self._at].rstrip()[-1:] in ")]}"
        ):
            self._at += 1
            return True
        return False

    def _quantity(self, node: Node, unit: str) -> Node:
        """The expression with the unit that follows it or, as a currency, stands before it."""
        self._spaces()
        if node[0] == "deg":
            node, unit = node[1], "°"
            if letter := self._match(re.compile(r"[CF](?![a-zA-Z])")):
                unit = f"°{letter[0]}"
        elif node[0] not in STRUCTURES and not unit:
            if self._take("%") or self._take(r"\%") or self._match(re.compile(r"per ?cent(?![a-zA-Z])")):
                return "percent", node
            if sign := self._match(re.compile(f"[{CURRENCIES}]")):
                unit = sign[0]
        words = self._unit_words(node)
        first, _, rest = words.partition(" ")
        if first.lower() in SCALES:
            node, words = ("mul", node, number_node(Fraction(SCALES[first.lower()]))), rest
            node = number_node(Fraction(node[1][1]) * SCALES[first.lower()]) if node[1][0] == "num" else node
        found = size_of(words) if words else None
        found = found or (size_of(unit) if unit else None)
        return ("with", node, found[0], str(found[1])) if found else node

    def _unit_words(self, node: Node) -> str:
        """The words after an expression, as far as they are a unit; the sign of a power is kept."""
        before = self._at
        if text := self._match(_TEXT):
            words = text[1].strip() + text[2]
            if RUN.match(words) is None or not self._at_end():
                raise UnreadableError
        elif self._at and (self._text[self._at - 1] == " " or self._attached()) and (plain := self._match(_UNIT_WORDS)):
            words = plain[0].strip()
        elif node[0] == "num" and self._text[self._at - 1 : self._at] == " " and self._back(REMARK):
            remark = REMARK.match(self._text, self._at - 1)
            assert remark is not None
            self._at = remark.end()
            if not self._at_end():
                raise UnreadableError
            return remark[1].strip()
        else:
            return ""
        if RUN.match(words)[0].lower() in NO_UNIT or not self._at_end():  # type: ignore[index]
            self._at = before
            raise UnreadableError
        return words

    def _attached(self) -> bool:
        run = RUN.match(self._text, self._at)
        return run is not None and run[0] in ATTACHED

    def _at_end(self) -> bool:
        self._spaces()
        ends = ("", ",", ";", "=", ")", "]", "&", ":", "}")
        commands = (*_RELATIONS, r"\\", r"\}", r"\end")
        return self._text[self._at : self._at + 1] in ends or self._command() in commands


def _listed(items: list[Node]) -> Node:
    return items[0] if len(items) == 1 else ("list", *items)
