"""The values of expressions: exact while they are rational, else in as many digits as are asked for (``mpmath``)."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import mpmath

Node = Sequence[Any]
Value = Any
"""A Fraction while it is exact, else an ``mpf`` or ``mpc``."""

DIGITS = 50
"""Decimal digits of the arithmetic; numbers of more digits are computed with more."""
MOST_BITS = 1 << 16
"""Largest numerator or denominator that is computed exactly."""
LARGEST_FACTORIAL = 3_000
LARGEST_ARGUMENT = 1 << 12
"""Largest binary exponent of the argument of a function such as the sine."""
LONGEST_EXPONENT = 1 << 12
"""Largest number of bits of an exponent."""
LARGEST_POWER = 1 << 40
"""Largest binary exponent of a value; beyond it an expression has none."""


class NoValueError(ArithmeticError):
    """An expression has no value, or none that is computed here."""


def inexact(value: Value) -> Any:
    """A value in inexact arithmetic of the present precision."""
    if isinstance(value, Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def _bits(value: Fraction) -> int:
    """Bits of the larger one of numerator and denominator."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


class Evaluation:
    """The value of an expression at a point, with so many digits.

    Args:
        values: of the letters.
        digits: of the arithmetic where it is not exact.
    """

    def __init__(self, values: Mapping[str, Fraction], digits: int) -> None:
        self.digits = digits
        self._values = values
        self.digits_seen = 0
        """Digits of the largest number that was made inexact or a term of an inexact sum, which may cancel."""
        self.imaginary = False
        """Whether some part had a value that is not real, as the root of a negative number."""

    @property
    def digits_needed(self) -> int:
        """Digits with which :data:`DIGITS` are left where the largest terms cancel."""
        return DIGITS + self.digits_seen

    def value(self, node: Node) -> Value:
        """The value.

        Raises:
            ArithmeticError: there is none, or none that is computed here.
        """
        with mpmath.workdps(self.digits):
            try:
                return self._part(node)
            except (ValueError, TypeError, mpmath.libmp.NoConvergence, mpmath.libmp.ComplexResult) as error:
                raise NoValueError from error

    def _part(self, node: Node) -> Value:
        value = self._of(node)
        self.imaginary |= isinstance(value, mpmath.mpc) and value.imag != 0
        return value

    def _of(self, node: Node) -> Value:
        match node:
            case ["num", value, _]:
                return Fraction(value)
            case ["name", name]:
                return self._values[name]
            case ["const", name]:
                return {"pi": +mpmath.pi, "e": +mpmath.e, "i": mpmath.mpc(0, 1), "inf": mpmath.inf}[name]
            case ["fun", name, inner]:
                return self._function(name, self._part(inner))
            case ["apply", name, inner]:
                arguments = inner[3:] if inner[0] == "tuple" else [inner]
                return self._unknown_function(name, [self._part(argument) for argument in arguments])
            case [kind, *parts] if kind in _OPERATIONS:
                return _OPERATIONS[kind](self, *map(self._part, parts))
        raise NoValueError(node[0])

    def _real(self, value: Value) -> Any:
        """A value in inexact arithmetic."""
        if isinstance(value, Fraction):
            self.digits_seen = max(self.digits_seen, 2 * int(_bits(value) * 0.302))
        return inexact(value)

    def _arithmetic(self, operation: Callable[[Any, Any], Any], a: Value, b: Value) -> Value:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            exact = operation(a, b)
            if _bits(exact) > MOST_BITS:
                raise NoValueError
            return exact
        left, right = self._real(a), self._real(b)
        found = operation(left, right)
        if operation in (operator.add, operator.sub):
            sizes = (mpmath.mag(value) for value in (left, right) if value)
            self.digits_seen = max(self.digits_seen, *(int(size * 0.302) for size in sizes), 0)
        if not mpmath.isfinite(found):
            # nothing is computed with infinity: 2 - infinity is no end of an interval
            raise NoValueError
        return found

    def _quotient(self, a: Value, b: Value) -> Value:
        if not b:
            raise ZeroDivisionError
        return self._arithmetic(operator.truediv, a, b)

    def _power(self, base: Value, exponent: Value) -> Value:
        if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
            if abs(exponent) * _bits(base) <= MOST_BITS:
                if not base and exponent <= 0:
                    raise ZeroDivisionError
                return base ** int(exponent)
            if exponent.numerator.bit_length() > LONGEST_EXPONENT:
                raise NoValueError
        base, exponent = self._real(base), self._real(exponent)
        if not base:
            if mpmath.re(exponent) <= 0:
                raise ZeroDivisionError
            return Fraction(0)
        if abs(exponent * mpmath.log(base, 2)) > LARGEST_POWER:
            raise NoValueError
        return mpmath.power(base, exponent)

    def _root(self, index: Value, value: Value) -> Value:
        if not isinstance(index, Fraction) or index.denominator != 1 or not 1 < index < 1000:
            return self._power(value, self._quotient(Fraction(1), index))
        n = int(index)
        real = self._real(value)
        if n % 2 and not mpmath.im(real) and mpmath.re(real) < 0:
            return -mpmath.root(-real, n)
        return mpmath.root(real, n)

    def _factorial(self, value: Value) -> Value:
        if isinstance(value, Fraction) and value.denominator == 1:
            if not 0 <= value <= LARGEST_FACTORIAL:
                raise NoValueError
            return Fraction(math.factorial(int(value)))
        real = self._real(value)
        if abs(real) > LARGEST_FACTORIAL:
            raise NoValueError
        return mpmath.gamma(real + 1)

    def _binomial(self, n: Value, k: Value) -> Value:
        if isinstance(n, Fraction) and isinstance(k, Fraction) and n.denominator == k.denominator == 1:
            if not 0 <= k <= n or k * n.numerator.bit_length() > MOST_BITS:
                raise NoValueError
            return Fraction(math.comb(int(n), int(k)))
        if max(abs(inexact(n)), abs(inexact(k))) > LARGEST_FACTORIAL:
            raise NoValueError
        return mpmath.binomial(self._real(n), self._real(k))

    def _function(self, name: str, value: Value) -> Value:
        if name in ("abs", "floor", "ceil") and isinstance(value, Fraction):
            return {"abs": abs(value), "floor": Fraction(math.floor(value)), "ceil": Fraction(math.ceil(value))}[name]
        real = self._real(value)
        if name == "log":
            # of an unspecified base, so that the laws of logarithms hold and nothing that needs a base does
            return mpmath.log(real) / mpmath.mpf("1.7320963548")
        if name == "lg":
            return mpmath.log10(real)
        if name != "ln" and mpmath.mag(real) > LARGEST_ARGUMENT:
            raise NoValueError
        if name == "exp" and abs(real) > LARGEST_POWER:
            raise NoValueError
        found = _FUNCTIONS[name](real)
        if mpmath.isnan(found) or (mpmath.isinf(found) and not mpmath.isinf(real)):
            raise NoValueError
        return found

    def _unknown_function(self, name: str, arguments: list[Value]) -> Value:
        """A function of which nothing is known but its name: some smooth function that is derived from it."""
        total = mpmath.mpf(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])) / 2**32
        for i, argument in enumerate(arguments):
            total += mpmath.sin(self._real(argument) + total + i) * mpmath.mpf("1.4142135") + total / 3
        return total


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": lambda on, a, b: on._arithmetic(operator.add, a, b),
    "sub": lambda on, a, b: on._arithmetic(operator.sub, a, b),
    "mul": lambda on, a, b: on._arithmetic(operator.mul, a, b),
    "neg": lambda on, a: -a,
    "div": Evaluation._quotient,
    "pow": Evaluation._power,
    "root": Evaluation._root,
    "fact": Evaluation._factorial,
    "binom": Evaluation._binomial,
    "deg": lambda on, a: on._real(a) * mpmath.pi / 180,
    "log": lambda on, base, a: mpmath.log(on._real(a)) / mpmath.log(on._real(base)),
}
"""The value of an expression from the values of its parts, by its kind."""
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot, "sec": mpmath.sec, "csc": mpmath.csc,
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "arccot": mpmath.acot, "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc, "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh, "coth": mpmath.coth,
    "arcsinh": mpmath.asinh, "arccosh": mpmath.acosh, "arctanh": mpmath.atanh, "arccoth": mpmath.acoth,
    "exp": mpmath.exp, "ln": mpmath.log, "abs": abs, "floor": mpmath.floor, "ceil": mpmath.ceil,
}  # fmt: skip
