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
from typing import Any

from scpl_ray.tasks.maths.notation import (
    CURRENCIES,
    DEGREE,
    TEXT_CLOSE,
    TEXT_OPEN,
    THOUSANDS,
    WORD_NUMBERS,
    one_notation,
)
from scpl_ray.tasks.maths.units import ATTACHED, LONE, NO_UNIT, SCALES, UNITS, size_of

Node = tuple[Any, ...]

LONGEST = 200
"""Largest number of characters of an answer; a longer one is not read."""
DEEPEST = 24
"""Largest number of brackets inside each other."""

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc asin acos atan sinh cosh tanh coth exp ln lg "
    "log".split()
)
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon "
    "phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell".split()
)
_CONSTANTS = {"pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf", "imath": "i"}
_WORDS = FUNCTIONS | GREEK | {*_CONSTANTS, "sqrt"}
_DECORATIONS = frozenset("overline bar vec hat tilde widehat overrightarrow mathbb mathcal mathfrak mathscr".split())
_NO_NAMES = frozenset("no up in on he it we ok me".split())
"""Words of two letters; other pairs of letters are products, as in ``2xy``."""
_PAIRS = {
    "(": "()", "[": "[]", r"\{": r"\}", r"\lbrace": r"\rbrace", r"\langle": r"\rangle", "|": "|", r"\lvert": r"\rvert",
    r"\vert": r"\vert", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil",
}  # fmt: skip
_MEASURES = {"|": "abs", r"\lvert": "abs", r"\vert": "abs", r"\lfloor": "floor", r"\lceil": "ceil"}
_MATRICES = {"pmatrix": "m", "bmatrix": "m", "matrix": "m", "smallmatrix": "m", "Bmatrix": "m", "vmatrix": "det"}
_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=",
    r"\ge": ">=", r"\geq": ">=", r"\geqslant": ">=", r"\lt": "<", r"\gt": ">", r"\ne": "!=", r"\neq": "!=",
    r"\approx": "~", r"\in": "in",
}  # fmt: skip

_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)")
_RUN = re.compile(r"[a-zA-Z]+")
_DIGITS = re.compile(r"[0-9]+")
_DECIMAL = r"(?:\.[0-9]+|\.(?= ?(?:[,;)\]}&=]|\\\\|$)))?"
_SEPARATED = rf"[0-9]{{1,3}}(?:[{THOUSANDS}%s][0-9]{{3}})+(?![0-9]){_DECIMAL}"
_NUMBER = {
    commas: re.compile(
        rf"{_SEPARATED % (',' if commas else '')}|[0-9]{{1,3}}(?: [0-9]{{3}})+(?![0-9]){_DECIMAL}|[0-9]+{_DECIMAL}|\.[0-9]+"
    )
    for commas in (False, True)
}
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*) ?\\(?:overline|bar|dot) ?(?:\{ ?([0-9]+) ?\}|([0-9]))")
_POWER_OF_TEN = re.compile(r"[eE]([+-]?[0-9]{1,3})(?![0-9a-zA-Z])")
_PART = re.compile(r" ([0-9]+) ?/ ?([0-9]+)(?![0-9])")
_TIMES_TEN = re.compile(r" ?x ?(?=10 ?\^)")
_CURRENCY = re.compile(rf"([+-]?) ?([{CURRENCIES}]) ?")
_TEXT = re.compile(rf"{TEXT_OPEN}([^{TEXT_CLOSE}]*){TEXT_CLOSE}((?: ?\^ ?(?:[23]|\{{ ?[23] ?\}}))?)")
_UNIT_WORDS = re.compile(r"[a-zA-Z][a-zA-Z.'/ -]*(?: ?\^ ?(?:[23](?![0-9])|\{ ?[23] ?\}))?")
_REMARK = re.compile(r" \( ?([a-zA-Z][a-zA-Z. '-]*)\)")
_CLOCK = re.compile(r"([0-9]{1,2}) ?: ?([0-9]{2})(?: ?: ?([0-9]{2}))? ?(?:([aApP])\.? ?[mM]\.?)?")
_INTRODUCTION = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:(?:the |my )?(?:final |correct )?answer(?: is|:| =| equals)[: ]*"
    r"|(?:either|about|approximately|exactly|only|roughly) )",
    re.IGNORECASE,
)
_OPTION = re.compile(r"\(?([A-Z])\)")
"""The letter of an option, as in ``(A)`` and ``A)``."""
_AND = re.compile(r" ?,? (?:and|or) ", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"(?<![0-9,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_DOTS = re.compile(r"\.\.\.|\\(?:[lc]?dots|dots[cbmio])(?![a-zA-Z])")
_STRUCTURES = frozenset("list set tuple union matrix chain colon dots with percent".split())


class UnreadableError(ValueError):
    """A text is not mathematics, or more than is known here."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What was read of an answer."""

    text: str
    """The answer in one notation, without an introduction ("The answer is") and without final punctuation."""
    node: Node | None
    """The tree; ``None`` if the answer is not mathematics."""
    other: Node | None
    """A second tree where commas may separate thousands or elements, as in ``81,256``."""

    @property
    def trees(self) -> tuple[Node, ...]:
        """The trees, the likelier one first."""
        return tuple(node for node in (self.node, self.other) if node is not None)


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
        text = text.strip(" ")
        end = "," if text.endswith("...") else ".,;:"
        text = text.rstrip(f" {end}")
    option = _OPTION.fullmatch(text)
    return option[1] if option else text


def _tree(text: str, *, commas: bool) -> Node | None:
    if not text:
        return None
    if text.lower() in WORD_NUMBERS:
        return _number(Fraction(WORD_NUMBERS[text.lower()]))
    if text == "{}":
        return ("set",)
    try:
        return _Reader(_AND.sub(" , ", text), commas=commas).answer()
    except UnreadableError:
        return None


def _number(value: Fraction, last_place: Fraction | int = 0) -> Node:
    return ("num", str(value), str(last_place))


def _is_integer(node: Node) -> bool:
    return node[0] == "num" and node[2] == "0" and node[1].isdigit()


def _fraction(above: Node, below: Node) -> Node:
    if above[0] == below[0] == "num" and above[2] == below[2] == "0" and below[1] != "0":
        return _number(Fraction(above[1]) / Fraction(below[1]))
    return "div", above, below


def _negative(node: Node) -> Node:
    if node[0] == "num":
        return _number(-Fraction(node[1]), Fraction(node[2]))
    return ("deg", _negative(node[1])) if node[0] == "deg" else ("neg", node)


class _Reader:
    """One pass over a text in the one notation; every method starts at ``at`` and moves it past what it reads."""

    def __init__(self, text: str, *, commas: bool) -> None:
        self._text = text
        self._at = 0
        self._commas = commas
        self._depth = 0
        self._bars = 0

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
            return ("colon", (clock[4] or "").lower(), *(_number(Fraction(n)) for n in clock.groups()[:3] if n))
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
            if node[0] in _STRUCTURES:
                raise UnreadableError
            node = _negative(node) if currency[1] == "-" else node
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
        elif node[0] not in _STRUCTURES and not unit:
            if self._take("%") or self._take(r"\%") or self._match(re.compile(r"per ?cent(?![a-zA-Z])")):
                return "percent", node
            if sign := self._match(re.compile(f"[{CURRENCIES}]")):
                unit = sign[0]
        words = self._unit_words(node)
        first, _, rest = words.partition(" ")
        if first.lower() in SCALES:
            node, words = ("mul", node, _number(Fraction(SCALES[first.lower()]))), rest
            node = _number(Fraction(node[1][1]) * SCALES[first.lower()]) if node[1][0] == "num" else node
        found = size_of(words) if words else None
        found = found or (size_of(unit) if unit else None)
        return ("with", node, found[0], str(found[1])) if found else node

    def _unit_words(self, node: Node) -> str:
        """The words after an expression, as far as they are a unit; the sign of a power is kept."""
        before = self._at
        if text := self._match(_TEXT):
            words = text[1].strip() + text[2]
            if _RUN.match(words) is None or not self._at_end():
                raise UnreadableError
        elif self._at and (self._text[self._at - 1] == " " or self._attached()) and (plain := self._match(_UNIT_WORDS)):
            words = plain[0].strip()
        elif node[0] == "num" and self._text[self._at - 1 : self._at] == " " and self._back(_REMARK):
            remark = _REMARK.match(self._text, self._at - 1)
            assert remark is not None
            self._at = remark.end()
            if not self._at_end():
                raise UnreadableError
            return remark[1].strip()
        else:
            return ""
        if _RUN.match(words)[0].lower() in NO_UNIT or not self._at_end():  # type: ignore[index]
            self._at = before
            raise UnreadableError
        return words

    def _back(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self._text, self._at - 1)
        return found is not None and len(found[1]) > 2

    def _attached(self) -> bool:
        run = _RUN.match(self._text, self._at)
        return run is not None and run[0] in ATTACHED

    def _at_end(self) -> bool:
        self._spaces()
        return self._text[self._at : self._at + 1] in (
            "",
            ",",
            ";",
            "=",
            ")",
            "]",
            "&",
            ":",
            "}",
        ) or self._command() in (
            *_RELATIONS,
            r"\\",
            r"\}",
            r"\end",
        )

    # expressions

    def _expression(self) -> Node:
        sign = self._sign()
        node = self._term()
        if sign:
            self._plain(node)
            node = _negative(node) if sign == "-" else node if sign == "+" else ("pm", sign, _number(Fraction(0)), node)
        while sign := self._sign():
            right = self._term()
            self._plain(node, right)
            kind = {"+": "add", "-": "sub"}.get(sign)
            node = (kind, node, right) if kind else ("pm", sign, node, right)
        return node

    def _sign(self) -> str:
        self._spaces()
        for sign in ("+", "-", r"\pm", r"\mp"):
            if self._text.startswith(sign, self._at) and (sign in "+-" or self._command() == sign):
                self._at += len(sign)
                return sign
        return ""

    def _term(self) -> Node:
        node = self._factor()
        while True:
            ten = self._match(_TIMES_TEN) if node[0] == "num" else None
            operator = "*" if ten else self._operator()
            if not operator and not self._factor_follows(node):
                return node
            right = self._signed_factor() if operator else self._factor()
            if not operator and right[0] in ("num", "base"):
                raise UnreadableError
            self._plain(node, right)
            node = _fraction(node, right) if operator == "/" else ("mul", node, right)

    def _operator(self) -> str:
        self._spaces()
        for sign in ("*", "/"):
            if self._text.startswith(sign, self._at) and not self._text.startswith("**", self._at):
                self._at += 1
                return sign
        command = self._command()
        if command in (r"\cdot", r"\times", r"\div"):
            self._at += len(command)
            return "/" if command == r"\div" else "*"
        return ""

    def _signed_factor(self) -> Node:
        sign = self._sign()
        if sign not in ("", "+", "-"):
            raise UnreadableError
        node = self._factor()
        return _negative(node) if sign == "-" else node

    def _factor_follows(self, left: Node) -> bool:
        """Whether a factor follows without an operator; a unit is none."""
        if left[0] in _STRUCTURES:
            return False
        spaced = self._at > 0 and self._text[self._at - 1] == " "
        char = self._peek()
        if char == "(":
            return not (left[0] == "num" and spaced and self._back(_REMARK))
        if char == "|":
            return self._bars == 0
        if char == "\\":
            command = self._command()[1:]
            return (
                command in _ATOMS
                or command in _WORDS
                or command in _DECORATIONS
                or f"\\{command}"
                in (
                    r"\lvert",
                    r"\lfloor",
                    r"\lceil",
                )
            )
        if char == "{" or "0" <= char <= "9" or char == ".":
            return True
        run = _RUN.match(self._text, self._at)
        if run is None:
            return False
        word = run[0]
        if word in _WORDS:
            return True
        if not spaced:
            if word in ("st", "nd", "rd", "th"):
                raise UnreadableError
            return word not in ATTACHED
        if left[0] == "num" and word in LONE:
            return re.match(r" ?(?:$|[,;/^)\]])", self._text[run.end() :]) is None
        return len(word) < 3 and word not in UNITS

    def _factor(self) -> Node:
        node = self._atom()
        while True:
            if self._text.startswith("!", self._at):
                if self._text.startswith("!!", self._at):
                    raise UnreadableError
                self._at += 1
                self._plain(node)
                node = ("fact", node)
            elif self._text.startswith(DEGREE, self._at):
                self._at += 1
                self._plain(node)
                node = ("deg", node)
            elif self._peek() == "^" or self._text.startswith("**", self._at):
                self._at += 2 if self._text.startswith("**", self._at) else 1
                self._plain(node)
                node = ("pow", node, self._argument(signed=True))
                if self._peek() == "^":
                    raise UnreadableError
            else:
                return node

    def _argument(self, *, signed: bool = False, digit: bool = False) -> Node:
        """The argument of a command or a superscript: a group, a command, a letter or digits (one, or all of them)."""
        self._spaces()
        if self._text.startswith("{", self._at):
            return self._group()
        if signed and (sign := self._sign()):
            if sign not in "+-":
                raise UnreadableError
            node = self._argument()
            return _negative(node) if sign == "-" else node
        if digits := self._match(re.compile("[0-9]") if digit else _DIGITS):
            return _number(Fraction(digits[0]))
        if self._peek() in ("\\", "(") or _RUN.match(self._text, self._at):
            return self._atom()
        raise UnreadableError

    def _group(self) -> Node:
        with _Level(self):
            self._expect("{")
            node = self._expression()
            self._expect("}")
        self._plain(node)
        return node

    def _atom(self) -> Node:
        char = self._peek()
        if char == "\\":
            return self._after_command()
        if "0" <= char <= "9" or char == ".":
            return self._literal()
        if char in ("(", "["):
            return self._bracketed(char)
        if char == "|":
            return self._measured(char)
        if char == "{":
            return self._braces()
        if run := _RUN.match(self._text, self._at):
            return self._letters(run[0])
        raise UnreadableError

    def _braces(self) -> Node:
        """Plain braces: a group, or a set if they hold several elements."""
        start = self._at
        with _Level(self):
            self._expect("{")
            items = self._items()
            self._expect("}")
        if len(items) > 1 and start == 0:
            return "set", *items
        if len(items) > 1:
            raise UnreadableError
        return items[0]

    def _bracketed(self, opening: str) -> Node:
        with _Level(self):
            self._expect(opening)
            items = self._items()
            closing = self._peek()
            if closing not in (")", "]"):
                raise UnreadableError
            self._at += 1
        if len(items) == 1:
            if opening + closing not in ("()", "[]") or items[0][0] in ("chain", "colon", "dots"):
                raise UnreadableError
            (inner,) = items
            return ("deg", inner[1]) if inner[0] == "with" and inner[2] == "angle" else inner
        return "tuple", opening, closing, *items

    def _measured(self, opening: str) -> Node:
        """An absolute value, or the integer below or above."""
        with _Level(self, bars=opening == "|"):
            self._expect(opening)
            node = self._expression()
            self._expect(_PAIRS[opening])
        self._plain(node)
        return "fun", _MEASURES[opening], node

    def _items(self) -> list[Node]:
        items = [self._item()]
        while self._take(",") or self._take(";"):
            items.append(self._item())
        return items

    def _letters(self, run: str) -> Node:
        """A function or constant by its name, or the first of some letters that are factors."""
        if run in _WORDS and run not in GREEK | {"inf"}:
            self._at += len(run)
            return self._known(run)
        if run in GREEK and len(run) > 2:
            self._at += len(run)
            return self._named(run)
        joined = self._at > 0 and (self._text[self._at - 1].isalnum() or self._text[self._at - 1] in ")}")
        if len(run) > (4 if joined else 2) or (not joined and run.lower() in _NO_NAMES):
            raise UnreadableError
        letter = run[0]
        self._at += 1
        if letter in "fgFG" and (applied := re.compile(r"('*)\(").match(self._text, self._at)):
            self._at = applied.end() - 1
            return "apply", letter + applied[1], self._bracketed("(")
        return self._named(letter)

    def _named(self, name: str) -> Node:
        """A name with its primes and subscript."""
        primes = self._match(re.compile("'+"))
        name += primes[0] if primes else ""
        if self._text.startswith("_", self._at):
            self._at += 1
            name += f"_{self._subscript()}"
        return ("const", name) if name in ("e", "i") else ("name", name)

    def _subscript(self) -> str:
        found = self._match(re.compile(r" ?(?:\{([^{}]*)\}|([0-9]+|[a-zA-Z]))"))
        inner = (found[1] or found[2] or "").strip() if found else ""
        inner = inner.strip(f"{TEXT_OPEN}{TEXT_CLOSE} ")
        if not inner:
            raise UnreadableError
        return inner

    def _known(self, word: str) -> Node:
        if word in _CONSTANTS:
            return "const", _CONSTANTS[word]
        if word == "sqrt":
            return self._root()
        if word in GREEK:
            return self._named(word)
        return self._function(_ALIASES.get(word, word))

    def _root(self) -> Node:
        self._spaces()
        index = _number(Fraction(2))
        if self._text.startswith("[", self._at):
            self._at += 1
            index = self._expression()
            self._expect("]")
        inner = self._argument()
        self._plain(index, inner)
        return "root", index, inner

    def _function(self, name: str) -> Node:
        base = None
        if name == "log" and self._peek() == "_":
            self._at += 1
            base = self._argument()
        power = None
        if self._peek() == "^":
            self._at += 1
            power = self._argument(signed=True)
        if self._peek() in ("(", "["):
            inner = self._bracketed(self._peek())
        else:
            inner = self._factor()
            while (
                self._peek() not in ("(", "[", "|") and self._function_ahead() is None and self._factor_follows(inner)
            ):
                inner = ("mul", inner, self._factor())
        self._plain(inner)
        if power == ("num", "-1", "0") and not name.startswith("arc"):
            name, power = f"arc{name}", None
        node: Node = ("fun", name, inner) if base is None else ("log", base, inner)
        return node if power is None else ("pow", node, power)

    def _function_ahead(self) -> str | None:
        word = self._command()[1:] or (run[0] if (run := _RUN.match(self._text, self._at)) else "")
        return word if word in FUNCTIONS else None

    def _literal(self) -> Node:
        """A number: decimal, repeating, with separators, with a power of ten, mixed, or with a base."""
        if repeating := self._match(_REPEATING):
            whole, fixed, cycle = repeating[1] or "0", repeating[2], repeating[3] or repeating[4]
            value = Fraction(int(whole + fixed)) + Fraction(int(cycle), 10 ** len(cycle) - 1)
            return _number(value / 10 ** len(fixed))
        found = self._match(_NUMBER[self._commas and self._depth == 0]) or self._match(_NUMBER[False])
        if found is None:
            raise UnreadableError
        digits = re.sub(rf"[{THOUSANDS}, ]", "", found[0])
        if self._text.startswith("_", self._at):
            self._at += 1
            return "base", digits, WORD_NUMBERS.get(base := self._subscript(), base)
        places = len(digits.partition(".")[2])
        value, last_place = Fraction(digits), Fraction(1, 10**places) if places else Fraction(0)
        if power := self._match(_POWER_OF_TEN):
            scale = Fraction(10) ** int(power[1])
            return _number(value * scale, last_place * scale)
        if self._text.startswith(".", self._at) and not self._match(re.compile(r"\.(?=\.\.\.)")):
            raise UnreadableError
        if digits.isdigit():
            value += self._part()
        return _number(value, last_place)

    def _part(self) -> Fraction:
        """The fraction of a mixed number; 0 if none follows."""
        if (part := _PART.match(self._text, self._at)) and 0 < int(part[1]) < int(part[2]):
            self._at = part.end()
            return Fraction(int(part[1]), int(part[2]))
        before = self._at
        if self._peek() == "\\" and self._command() in (r"\frac", r"\dfrac", r"\tfrac"):
            self._at += len(self._command())
            above, below = self._argument(digit=True), self._argument(digit=True)
            if _is_integer(above) and _is_integer(below) and 0 < int(above[1]) < int(below[1]) and self._peek() != "^":
                return Fraction(int(above[1]), int(below[1]))
        self._at = before
        return Fraction(0)

    # commands

    def _after_command(self) -> Node:
        command = self._command()
        if command in (r"\{", r"\lbrace"):
            return self._set(command)
        if command in _MEASURES:
            return self._measured(command)
        name = command[1:]
        if name in _ATOMS:
            self._at += len(command)
            return _ATOMS[name](self)
        if name in _WORDS:
            self._at += len(command)
            return self._known(name)
        if name in _DECORATIONS:
            self._at += len(command)
            inner = self._match(re.compile(r" ?(?:\{ ?([a-zA-Z]{1,3}) ?\}|([a-zA-Z])(?![a-zA-Z]))"))
            if inner is None:
                raise UnreadableError
            return self._named(f"{command} {inner[1] or inner[2]}")
        raise UnreadableError

    def _set(self, opening: str) -> Node:
        with _Level(self):
            self._expect(opening)
            closing = _PAIRS[opening]
            if self._take(closing):
                return ("set",)
            items = self._items()
            self._expect(closing)
        return "set", *items

    def _over(self) -> Node:
        above, below = self._argument(digit=True), self._argument(digit=True)
        return _fraction(above, below)

    def _binomial(self) -> Node:
        return "binom", self._argument(digit=True), self._argument(digit=True)

    def _empty(self) -> Node:
        return ("set",)

    def _matrix(self) -> Node:
        kind = self._match(re.compile(r" ?\{ ?([a-zA-Z]+) ?\}(?:\{[lcr| ]*\})?"))
        if kind is None or kind[1] not in _MATRICES and kind[1] != "array":
            raise UnreadableError
        rows: list[tuple[Node, ...]] = []
        with _Level(self):
            while self._command() != r"\end":
                row = [self._cell()]
                while self._take("&"):
                    row.append(self._cell())
                rows.append(tuple(row))
                if not self._take(r"\\"):
                    break
                self._spaces()
            if re.compile(rf"\\end ?\{{ ?{kind[1]} ?\}}").match(self._text, self._at) is None:
                raise UnreadableError
            self._at = self._text.index("}", self._at) + 1
        if len({len(row) for row in rows}) != 1:
            raise UnreadableError
        return "matrix", _MATRICES.get(kind[1], "m"), tuple(rows)

    def _cell(self) -> Node:
        node = self._expression()
        self._plain(node)
        return node

    # the text

    def _plain(self, *nodes: Node) -> None:
        """Refuse sets, lists and other structures as operands."""
        if any(node[0] in _STRUCTURES for node in nodes):
            raise UnreadableError

    def _spaces(self) -> None:
        while self._text.startswith(" ", self._at):
            self._at += 1

    def _peek(self) -> str:
        self._spaces()
        return self._text[self._at : self._at + 1]

    def _command(self) -> str:
        found = _COMMAND.match(self._text, self._at)
        return found[0] if found else ""

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    def _take(self, sign: str) -> bool:
        self._spaces()
        taken = self._text.startswith(sign, self._at)
        self._at += len(sign) if taken else 0
        return taken

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise UnreadableError

    def enter(self, *, bars: bool) -> None:
        self._depth += 1
        self._bars += bars
        if self._depth > DEEPEST:
            raise UnreadableError

    def leave(self, *, bars: bool) -> None:
        self._depth -= 1
        self._bars -= bars


class _Level:
    """A pair of brackets."""

    def __init__(self, reader: _Reader, *, bars: bool = False) -> None:
        self._reader, self._is_bars = reader, bars

    def __enter__(self) -> None:
        self._reader.enter(bars=self._is_bars)

    def __exit__(self, *_: object) -> None:
        self._reader.leave(bars=self._is_bars)


_ATOMS: dict[str, Callable[[_Reader], Node]] = {
    **dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac"), _Reader._over),
    **dict.fromkeys(("binom", "dbinom", "tbinom"), _Reader._binomial),
    **dict.fromkeys(("emptyset", "varnothing"), _Reader._empty),
    "begin": _Reader._matrix,
}
"""What a command reads after itself, by its name."""


def _listed(items: list[Node]) -> Node:
    return items[0] if len(items) == 1 else ("list", *items)
