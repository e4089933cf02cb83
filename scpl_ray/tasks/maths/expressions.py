"""Reads the expressions of an answer: sums, products, powers, functions, numbers, brackets and matrices."""

from __future__ import annotations

import abc
import re
from collections.abc import Callable
from fractions import Fraction

from scpl_ray.tasks.maths.notation import DEGREE, TEXT_CLOSE, TEXT_OPEN, THOUSANDS, WORD_NUMBERS
from scpl_ray.tasks.maths.scanner import DEEPEST, STRUCTURES, Level, Node, Scanner, UnreadableError
from scpl_ray.tasks.maths.units import ATTACHED, LONE, UNITS

FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "asin",
    "acos", "atan", "sinh", "cosh", "tanh", "coth", "exp", "ln", "lg", "log",
})  # fmt: skip
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa",
    "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega", "Gamma",
    "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "ell",
})  # fmt: skip
_CONSTANTS = {"pi": "pi", "infty": "inf", "infinity": "inf", "inf": "inf", "imath": "i"}
_WORDS = FUNCTIONS | GREEK | {*_CONSTANTS, "sqrt"}
_DECORATIONS = frozenset({
    "overline", "bar", "vec", "hat", "tilde", "widehat", "overrightarrow", "mathbb", "mathcal", "mathfrak", "mathscr",
})  # fmt: skip
_NO_NAMES = frozenset({"no", "up", "in", "on", "he", "it", "we", "ok", "me"})
"""Words of two letters; other pairs of letters are products, as in ``2xy``."""
_PAIRS = {
    "(": "()", "[": "[]", r"\{": r"\}", r"\lbrace": r"\rbrace", r"\langle": r"\rangle", "|": "|", r"\lvert": r"\rvert",
    r"\vert": r"\vert", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil",
}  # fmt: skip
_MEASURES = {"|": "abs", r"\lvert": "abs", r"\vert": "abs", r"\lfloor": "floor", r"\lceil": "ceil"}
_MATRICES = {
    "pmatrix": "m",
    "bmatrix": "m",
    "matrix": "m",
    "smallmatrix": "m",
    "Bmatrix": "m",
    "array": "m",
    "vmatrix": "det",
}
RUN = re.compile(r"[a-zA-Z]+")
_DIGITS = re.compile(r"[0-9]+")
_DECIMAL = r"(?:\.[0-9]+|\.(?= ?(?:[,;)\]}&=]|\\\\|$)))?"
_SEPARATED = rf"[0-9]{{1,3}}(?:[{THOUSANDS}%s][0-9]{{3}})+(?![0-9]){_DECIMAL}"
_UNSEPARATED = rf"[0-9]{{1,3}}(?: [0-9]{{3}})+(?![0-9]){_DECIMAL}|[0-9]+{_DECIMAL}|\.[0-9]+"
_NUMBER = {c: re.compile(rf"{_SEPARATED % (',' if c else '')}|{_UNSEPARATED}") for c in (False, True)}
"""A number, by whether commas separate its thousands; ``{,}`` and blanks always do."""
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*) ?\\(?:overline|bar|dot) ?(?:\{ ?([0-9]+) ?\}|([0-9]))")
_POWER_OF_TEN = re.compile(r"[eE]([+-]?[0-9]{1,3})(?![0-9a-zA-Z])")
_PART = re.compile(r" ([0-9]+) ?/ ?([0-9]+)(?![0-9])")
_TIMES_TEN = re.compile(r" ?x ?(?=10 ?\^)")
REMARK = re.compile(r" \( ?([a-zA-Z][a-zA-Z. '-]*)\)")


def number_node(value: Fraction, last_place: Fraction | int = 0) -> Node:
    """A number; its last place is the size of a unit there, 0 if it is written exactly."""
    return ("num", str(value), str(last_place))


def _is_integer(node: Node) -> bool:
    return bool(node[0] == "num" and node[2] == "0" and node[1].isdigit())


def fraction_node(above: Node, below: Node) -> Node:
    """A quotient, which is a number if both parts are exact numbers."""
    if above[0] == below[0] == "num" and above[2] == below[2] == "0" and below[1] != "0":
        return number_node(Fraction(above[1]) / Fraction(below[1]))
    return "div", above, below


def negative(node: Node) -> Node:
    """The negative of an expression."""
    if node[0] == "num":
        return number_node(-Fraction(node[1]), Fraction(node[2]))
    return ("deg", negative(node[1])) if node[0] == "deg" else ("neg", node)


class ExpressionReader(Scanner, abc.ABC):
    """Reads an expression; what stands in brackets is read by the items of a subclass."""

    @abc.abstractmethod
    def _item(self) -> Node:
        """An element of a list."""

    def _expression(self) -> Node:
        sign = self._sign()
        node = self._term()
        if sign:
            self._plain(node)
            node = (
                negative(node) if sign == "-" else node if sign == "+" else ("pm", sign, number_node(Fraction(0)), node)
            )
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
            node = fraction_node(node, right) if operator == "/" else ("mul", node, right)

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
        return negative(node) if sign == "-" else node

    def _factor_follows(self, left: Node) -> bool:
        """Whether a factor follows without an operator; a unit is none."""
        if left[0] in STRUCTURES:
            return False
        spaced = self._at > 0 and self._text[self._at - 1] == " "
        char = self._peek()
        if char == "(":
            return not (left[0] == "num" and spaced and self._back(REMARK))
        if char == "|":
            return self._bars == 0
        if char == "\\":
            command = self._command()[1:]
            return (
                command in ATOMS
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
        run = RUN.match(self._text, self._at)
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

    def _back(self, pattern: re.Pattern[str]) -> bool:
        """Whether a remark of a word or more stands here, one space back."""
        found = pattern.match(self._text, self._at - 1)
        return found is not None and len(found[1]) > 2

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
            return negative(node) if sign == "-" else node
        if digits := self._match(re.compile("[0-9]") if digit else _DIGITS):
            return number_node(Fraction(digits[0]))
        if self._peek() in ("\\", "(") or RUN.match(self._text, self._at):
            return self._atom()
        raise UnreadableError

    def _group(self) -> Node:
        with Level(self):
            self._expect("{")
            node = self._expression()
            self._expect("}")
        self._plain(node)
        return node

    def _atom(self) -> Node:
        self._nested += 1
        if self._nested > DEEPEST:
            raise UnreadableError
        node = self._operand()
        self._nested -= 1
        return node

    def _operand(self) -> Node:
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
        if run := RUN.match(self._text, self._at):
            return self._letters(run[0])
        raise UnreadableError

    def _braces(self) -> Node:
        """Plain braces: a group, or a set if they hold several elements."""
        start = self._at
        with Level(self):
            self._expect("{")
            items = self._items()
            self._expect("}")
        if len(items) > 1 and start == 0:
            return "set", *items
        if len(items) > 1:
            raise UnreadableError
        return items[0]

    def _bracketed(self, opening: str) -> Node:
        with Level(self):
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
        with Level(self, bars=opening == "|"):
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
        index = number_node(Fraction(2))
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
            while self._peek() not in ("(", "[", "|") and not self._function_ahead() and self._factor_follows(inner):
                inner = ("mul", inner, self._factor())
        self._plain(inner)
        if power == ("num", "-1", "0") and not name.startswith("arc"):
            name, power = f"arc{name}", None
        node: Node = ("fun", name, inner) if base is None else ("log", base, inner)
        return node if power is None else ("pow", node, power)

    def _function_ahead(self) -> bool:
        run = RUN.match(self._text, self._at)
        return (run[0] if run else self._command()[1:]) in FUNCTIONS

    def _literal(self) -> Node:
        """A number: decimal, repeating, with separators, with a power of ten, mixed, or with a base."""
        if repeating := self._match(_REPEATING):
            whole, fixed, cycle = repeating[1] or "0", repeating[2], repeating[3] or repeating[4]
            value = Fraction(int(whole + fixed)) + Fraction(int(cycle), 10 ** len(cycle) - 1)
            return number_node(value / 10 ** len(fixed))
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
            return number_node(value * scale, last_place * scale)
        if self._text.startswith(".", self._at) and not self._match(re.compile(r"\.(?=\.\.\.)")):
            raise UnreadableError
        if digits.isdigit():
            value += self._part()
        return number_node(value, last_place)

    def _part(self) -> Fraction:
        """The fraction of a mixed number; 0 if none follows."""
        if (part := _PART.match(self._text, self._at)) and 0 < int(part[1]) < int(part[2]):
            self._at = part.end()
            return Fraction(int(part[1]), int(part[2]))
        before = self._at
        if self._peek() == "\\" and self._command() == r"\frac":
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
        if name in ATOMS:
            self._at += len(command)
            return ATOMS[name](self)
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
        with Level(self):
            self._expect(opening)
            closing = _PAIRS[opening]
            if self._take(closing):
                return ("set",)
            items = self._items()
            self._expect(closing)
        return "set", *items

    def _over(self) -> Node:
        above, below = self._argument(digit=True), self._argument(digit=True)
        return fraction_node(above, below)

    def _binomial(self) -> Node:
        return "binom", self._argument(digit=True), self._argument(digit=True)

    def _empty(self) -> Node:
        return ("set",)

    def _matrix(self) -> Node:
        kind = self._match(re.compile(r" ?\{ ?([a-zA-Z]+) ?\}(?:\{[lcr| ]*\})?"))
        if kind is None or kind[1] not in _MATRICES:
            raise UnreadableError
        rows: list[tuple[Node, ...]] = []
        with Level(self):
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
        return "matrix", _MATRICES[kind[1]], tuple(rows)

    def _cell(self) -> Node:
        node = self._expression()
        self._plain(node)
        return node


ATOMS: dict[str, Callable[[ExpressionReader], Node]] = {
    "frac": ExpressionReader._over,
    **dict.fromkeys(("binom", "dbinom", "tbinom"), ExpressionReader._binomial),
    **dict.fromkeys(("emptyset", "varnothing"), ExpressionReader._empty),
    "begin": ExpressionReader._matrix,
}
"""What a command reads after itself, by its name."""
