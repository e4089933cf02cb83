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
from collections.abc import Callable
from fractions import Fraction

from scpl_ray.tasks.maths import vocabulary as v
from scpl_ray.tasks.maths.nodes import (
    STRUCTURES,
    Node,
    UnreadableError,
    listed,
    made,
    negative,
    number,
    plain,
    quotient,
)
from scpl_ray.tasks.maths.notation import DEGREE, TEXT_CLOSE, TEXT_OPEN, THOUSANDS, WORD_NUMBERS, one_notation
from scpl_ray.tasks.maths.scanner import Scanner
from scpl_ray.tasks.maths.units import ATTACHED, LONE, NO_UNIT, SCALES, UNITS, size_of

LONGEST = 200
"""Largest number of characters of an answer; a longer one is not read."""
DEEPEST = 32
"""Largest number of operands inside each other."""


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
    return Reading(text, _tree(text, commas=True), _tree(text, commas=False) if v.AMBIGUOUS.search(text) else None)


def _bare(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = v.INTRODUCTION.sub("", text, count=1) if v.INTRODUCTION.match(text) else text
        if (words := v.FIRST_WORDS.match(text)) and v.INTRODUCTION.fullmatch(f"{words[1].strip()} "):
            text = text[words.end() :]
        text = text.strip(" ")
        end = "," if text.endswith("...") else ".,;:"
        text = text.rstrip(f" {end}")
    option = v.OPTION.fullmatch(text)
    return option[1] if option else text


def _tree(text: str, *, commas: bool) -> Node | None:
    if not text:
        return None
    if text.lower() in WORD_NUMBERS:
        return number(Fraction(WORD_NUMBERS[text.lower()]))
    if text.lower().removeprefix("the ") in ("{}", "empty set"):
        return ("set",)
    try:
        return _Reader(v.AND.sub(" , ", text), commas=commas).answer()
    except UnreadableError:
        return None


class _Reader(Scanner):
    """One pass over a text, from its list of elements down to its operands."""

    _nested = 0

    def answer(self) -> Node:
        groups = [listed(self._items(v.COMMA))]
        while self._take(";"):
            groups.append(listed(self._items(v.COMMA)))
        if self._peek():
            raise UnreadableError
        return listed(groups)

    # elements: relations, quantities, units

    def _items(self, separator: re.Pattern[str] = v.COMMA_OR_SEMICOLON) -> list[Node]:
        items = [self._item()]
        while self._sign(separator):
            items.append(self._item())
        return items

    def _item(self) -> Node:
        """An element of a list: dots, a time or ratio, or a chain of relations."""
        if self._sign(v.DOTS):
            return ("dots",)
        if self._depth == 0 and (clock := self._match(v.CLOCK)):
            if self._text[self._at : self._at + 1] not in ("", ",", " ", ";"):
                raise UnreadableError
            return ("colon", (clock[4] or "").lower(), *(number(int(n)) for n in clock.groups()[:3] if n))
        if self._depth == 0 and (hour := self._match(v.HOUR)):
            return ("colon", hour[2].lower(), number(int(hour[1])), number(0))
        about = self._text.startswith(r"\approx", self._at)
        sides, signs = [] if about else [self._side()], []
        while sign := self._sign(v.RELATION):
            signs.append(v.RELATIONS.get(sign, sign))
            sides.append(self._side())
        if about:
            if signs != ["~"]:
                raise UnreadableError
            return sides[0]
        if not signs:
            while self._take(":"):
                sides.append(self._side())
            return sides[0] if len(sides) == 1 else ("colon", "", *sides)
        if signs == ["in"] and sides[0][0] == "name":
            return sides[1]
        if "in" in signs:
            raise UnreadableError
        return "chain", tuple(signs), tuple(sides)

    def _side(self) -> Node:
        """One side of a relation: a union of sets, or an expression with its currency or unit."""
        self._peek()
        currency = self._match(v.CURRENCY)
        node = self._expression()
        while self._union():
            node = ("union", *(node[1:] if node[0] == "union" else (node,)), self._expression())
        if currency:
            node = negative(plain(node)) if currency[1] == "-" else plain(node)
        return self._quantity(node, currency[2] if currency else "")

    def _union(self) -> bool:
        """Whether a sign of union follows; the letter U is one between brackets."""
        return bool(self._sign(v.CUP) or (self._text[: self._at].rstrip()[-1:] in ")]}" and self._match(v.LETTER_U)))

    def _quantity(self, node: Node, unit: str) -> Node:
        """The expression with the unit that follows it or, as a currency, stands before it."""
        self._peek()
        if node[0] == "deg":
            scale = self._match(v.CELSIUS_OR_FAHRENHEIT)
            node, unit = node[1], f"{DEGREE}{scale[0] if scale else ''}"
        elif node[0] not in STRUCTURES and not unit:
            if self._match(v.PERCENT):
                return "percent", node
            unit = self._sign(v.CURRENCY_AFTER)
        words = self._unit_words(node)
        first, _, rest = words.partition(" ")
        if scale_of := SCALES.get(first.lower()):
            exact = node[0] == "num"
            node = number(Fraction(node[1]) * scale_of) if exact else made("mul", node, number(scale_of))
            words = rest
        found = (size_of(words) if words else None) or (size_of(unit) if unit else None)
        return ("with", node, found[0], str(found[1])) if found else node

    def _unit_words(self, node: Node) -> str:
        """The words after an expression, as far as they are a unit; the sign of a power is kept."""
        spaced, remark = self._text[self._at - 1 : self._at] == " ", None
        if text := self._match(v.TEXT):
            words = text[1].strip() + text[2]
        elif self._at and (spaced or self._run() in ATTACHED) and (bare := self._match(v.UNIT_WORDS)):
            words = bare[0].strip()
        elif node[0] == "num" and spaced and (remark := self._remark()):
            self._at = remark.end()
            words = remark[1].strip()
        else:
            return ""
        first = v.RUN.match(words)
        self._peek()
        if first is None or (first[0].lower() in NO_UNIT and not remark) or not v.END.match(self._text, self._at):
            raise UnreadableError
        return words

    def _run(self) -> str:
        """The letters that stand here, which are not taken."""
        found = v.RUN.match(self._text, self._at)
        return found[0] if found else ""

    def _remark(self) -> re.Match[str] | None:
        """A remark of a word or more, one space back: ``9 (apples)``."""
        found = v.REMARK.match(self._text, self._at - 1)
        return found if found and len(found[1]) > 2 else None

    # expressions: sums, products, powers

    def _expression(self) -> Node:
        sign = self._sign(v.SUM)
        node = self._term()
        if sign in v.SUMS:
            node = negative(plain(node)) if sign == "-" else plain(node)
        elif sign:
            node = made("pm", sign, number(0), node)
        while sign := self._sign(v.SUM):
            kind = (v.SUMS[sign],) if sign in v.SUMS else ("pm", sign)
            node = made(*kind, node, self._term())
        return node

    def _term(self) -> Node:
        node = self._factor()
        while True:
            operator = "*" if node[0] == "num" and self._match(v.TIMES_TEN) else self._sign(v.PRODUCT)
            if not operator and not self._factor_follows(node):
                return node
            right = self._signed(self._factor) if operator else self._factor()
            if not operator and right[0] in ("num", "base"):
                raise UnreadableError
            node = quotient(node, right) if operator in ("/", r"\div") else made("mul", node, right)

    def _factor_follows(self, left: Node) -> bool:
        """Whether a factor follows without an operator; a unit is none."""
        if left[0] in STRUCTURES:
            return False
        spaced = self._at > 0 and self._text[self._at - 1] == " "
        char = self._peek()
        if char == "(":
            return not (left[0] == "num" and spaced and self._remark())
        if char == "|":
            return self._bars == 0
        if char == "\\":
            return self._command() in v.OPERANDS
        if char == "{" or "0" <= char <= "9" or char == ".":
            return True
        word = self._run()
        if not word or word in v.WORDS:
            return bool(word)
        if left[0] == "deg" and v.CELSIUS_OR_FAHRENHEIT.match(self._text, self._at):
            return False
        if not spaced:
            if word in ("st", "nd", "rd", "th"):
                raise UnreadableError
            return word not in ATTACHED
        if left[0] == "num" and v.PROSE.match(self._text, self._at):
            return False
        if left[0] == "num" and word in LONE:
            return v.AFTER_UNIT.match(self._text, self._at + len(word)) is None
        return len(word) < 3 and word not in UNITS

    def _factor(self) -> Node:
        node = self._atom()
        while True:
            if self._match(v.FACTORIAL):
                node = made("fact", node)
            elif self._match(v.DEGREES):
                node = made("deg", node)
            elif self._sign(v.POWER):
                node = made("pow", node, self._argument(signed=True))
                if self._peek() == "^":
                    raise UnreadableError
            else:
                return node

    def _signed(self, operand: Callable[[], Node]) -> Node:
        """An operand that may have a sign of its own."""
        sign = self._sign(v.SUM)
        if sign not in ("", "+", "-"):
            raise UnreadableError
        return negative(operand()) if sign == "-" else operand()

    def _argument(self, *, signed: bool = False, digit: bool = False) -> Node:
        """The argument of a command or a superscript: a group, a command, a letter or digits (one, or all of them)."""
        if self._peek() == "{":
            with self._inside("{"):
                node = plain(self._expression())
                self._expect("}")
            return node
        if signed:
            return self._signed(self._argument)
        if digits := self._match(v.DIGIT if digit else v.DIGITS):
            return number(int(digits[0]))
        if self._peek() in ("\\", "(") or self._run():
            return self._atom()
        raise UnreadableError

    # operands

    def _atom(self) -> Node:
        self._nested += 1
        if self._nested > DEEPEST:
            raise UnreadableError
        node = self._operand(self._peek())
        self._nested -= 1
        return node

    def _operand(self, char: str) -> Node:
        if char == "\\":
            return self._after_command(self._command())
        if "0" <= char <= "9" or char == ".":
            return self._literal()
        if char in ("(", "["):
            return self._bracketed(char)
        if char == "|":
            return self._measured(char)
        if char == "{":
            return self._braces()
        if run := self._run():
            return self._letters(run)
        raise UnreadableError

    def _braces(self) -> Node:
        """Plain braces: a group, or a set if they hold several elements."""
        start = self._at
        with self._inside("{"):
            items = self._items()
            self._expect("}")
        if len(items) > 1 and start > 0:
            raise UnreadableError
        return ("set", *items) if len(items) > 1 else items[0]

    def _bracketed(self, opening: str) -> Node:
        with self._inside(opening):
            items = self._items()
            closing = self._sign(v.CLOSING)
        if not closing:
            raise UnreadableError
        if len(items) > 1:
            return "tuple", opening, closing, *items
        (inner,) = items
        if opening + closing not in ("()", "[]") or inner[0] in ("chain", "colon", "dots"):
            raise UnreadableError
        return ("deg", inner[1]) if inner[0] == "with" and inner[2] == "angle" else inner

    def _measured(self, opening: str) -> Node:
        """An absolute value, or the integer below or above."""
        closing, name = v.MEASURES[opening]
        with self._inside(opening):
            node = self._expression()
            self._expect(closing)
        return made("fun", name, node)

    def _letters(self, run: str) -> Node:
        """A function or constant by its name, or the first of some letters that are factors."""
        if run in v.WORDS and run != "inf" and (run not in v.GREEK or len(run) > 2):
            self._at += len(run)
            return self._known(run)
        joined = self._at > 0 and (self._text[self._at - 1].isalnum() or self._text[self._at - 1] in ")}")
        if len(run) > (4 if joined else 2) or (not joined and run.lower() in v.NO_NAMES):
            raise UnreadableError
        self._at += 1
        if run[0] in "fgFG" and (applied := v.APPLIED.match(self._text, self._at)):
            self._at = applied.end() - 1
            return "apply", run[0] + applied[1], self._bracketed("(")
        return self._named(run[0])

    def _named(self, name: str) -> Node:
        """A name with its primes and subscript."""
        primes = self._match(v.PRIMES)
        name += primes[0] if primes else ""
        if self._match(v.BELOW):
            name += f"_{self._subscript()}"
        return ("const", name) if name in ("e", "i") else ("name", name)

    def _subscript(self) -> str:
        found = self._match(v.SUBSCRIPT)
        inner = (found[1] or found[2] or "").strip(f"{TEXT_OPEN}{TEXT_CLOSE} ") if found else ""
        if not inner:
            raise UnreadableError
        return inner

    def _known(self, word: str) -> Node:
        if word in v.CONSTANTS:
            return "const", v.CONSTANTS[word]
        if word in v.GREEK:
            return self._named(word)
        return self._root() if word == "sqrt" else self._function(v.ALIASES.get(word, word))

    def _root(self) -> Node:
        index = number(2)
        if self._take("["):
            index = self._expression()
            self._expect("]")
        return made("root", index, self._argument())

    def _function(self, name: str) -> Node:
        base = self._argument() if name == "log" and self._take("_") else None
        power = self._argument(signed=True) if self._take("^") else None
        if self._peek() in ("(", "["):
            inner = self._bracketed(self._peek())
        else:
            inner = self._factor()
            while (
                self._peek() not in ("(", "[", "|")
                and (self._run() or self._command()[1:]) not in v.FUNCTIONS
                and self._factor_follows(inner)
            ):
                inner = made("mul", inner, self._factor())
        if power == ("num", "-1", "0") and not name.startswith("arc"):
            name, power = f"arc{name}", None
        node = made("fun", name, inner) if base is None else made("log", base, inner)
        return node if power is None else made("pow", node, power)

    def _literal(self) -> Node:
        """A number: decimal, repeating, with separators, with a power of ten, mixed, or with a base."""
        if repeating := self._match(v.REPEATING):
            whole, fixed, cycle = repeating[1] or "0", repeating[2], repeating[3] or repeating[4]
            value = int(whole + fixed) + Fraction(int(cycle), 10 ** len(cycle) - 1)
            return number(value / 10 ** len(fixed))
        found = self._match(v.NUMBER[self._commas and self._depth == 0]) or self._match(v.NUMBER[False])
        if found is None:
            raise UnreadableError
        digits = re.sub(rf"[{THOUSANDS}, ]", "", found[0])
        if self._match(v.BELOW):
            return "base", digits, WORD_NUMBERS.get(base := self._subscript(), base)
        places = len(digits.partition(".")[2])
        value, last_place = Fraction(digits), Fraction(1, 10**places) if places else Fraction(0)
        if power := self._match(v.POWER_OF_TEN):
            scale = Fraction(10) ** int(power[1])
            return number(value * scale, last_place * scale)
        if self._text.startswith(".", self._at) and not self._match(v.POINT_OF_DOTS):
            raise UnreadableError
        return number(value + self._part() if digits.isdigit() else value, last_place)

    def _part(self) -> Fraction:
        """The fraction of a mixed number; 0 if none follows."""
        if (part := v.PART.match(self._text, self._at)) and 0 < int(part[1]) < int(part[2]):
            self._at = part.end()
            return Fraction(int(part[1]), int(part[2]))
        before = self._at
        if self._sign(v.FRAC):
            above, below = self._argument(digit=True), self._argument(digit=True)
            whole = all(node[0] == "num" and node[2] == "0" and node[1].isdigit() for node in (above, below))
            if whole and 0 < int(above[1]) < int(below[1]) and self._peek() != "^":
                return Fraction(int(above[1]), int(below[1]))
        self._at = before
        return Fraction(0)

    def _after_command(self, command: str) -> Node:
        if command in v.MEASURES:
            return self._measured(command)
        if closing := v.SETS.get(command):
            with self._inside(command):
                items = [] if self._take(closing) else self._items()
                if items:
                    self._expect(closing)
            return "set", *items
        self._at += len(command)
        match command:
            case r"\frac":
                return quotient(self._argument(digit=True), self._argument(digit=True))
            case r"\binom" | r"\dbinom" | r"\tbinom":
                return made("binom", self._argument(digit=True), self._argument(digit=True))
            case r"\emptyset" | r"\varnothing":
                return ("set",)
            case r"\begin":
                return self._matrix()
        name = command[1:]
        if name in v.WORDS:
            return self._known(name)
        if name in v.DECORATIONS and (inner := self._match(v.DECORATED)):
            return self._named(f"{command} {inner[1] or inner[2]}")
        raise UnreadableError

    def _matrix(self) -> Node:
        kind = self._match(v.ENVIRONMENT)
        if kind is None or kind[1] not in v.MATRICES:
            raise UnreadableError
        rows: list[tuple[Node, ...]] = []
        self._depth += 1
        while self._command() != r"\end":
            row = [plain(self._expression())]
            while self._take("&"):
                row.append(plain(self._expression()))
            rows.append(tuple(row))
            if not self._take(r"\\"):
                break
            self._peek()
        self._depth -= 1
        end = self._match(v.END_OF_ENVIRONMENT)
        if end is None or end[1] != kind[1] or len({len(row) for row in rows}) != 1:
            raise UnreadableError
        return "matrix", v.MATRICES[kind[1]], tuple(rows)
