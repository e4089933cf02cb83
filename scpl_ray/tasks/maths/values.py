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


class Evaluation:
    """The value of an expression at a point, with so many digits.

    Args:
        values: of the letters.
        digits: of the arithmetic where it is not exact.
    """

    def __init__(self, values: Mapping[str, Fraction], digits: int) -> None:
        self._values = values
        self._digits = digits
        self.digits_seen = 0
        """Digits of the largest exact number that was made inexact."""

    def value(self, node: Node) -> Value:
        """The value.

        Raises:
            ArithmeticError: there is none, or none that is computed here.
        """
        with mpmath.workdps(self._digits):
            try:
                return self._of(node)
            except (ValueError, TypeError, mpmath.libmp.NoConvergence, mpmath.libmp.ComplexResult) as error:
                raise NoValueError from error

    def _of(self, node: Node) -> Value:
        kind = node[0]
        if kind == "num":
            return Fraction(node[1])
        if kind == "name":
            return self._values[node[1]]
        if kind == "const":
            return {"pi": +mpmath.pi, "e": +mpmath.e, "i": mpmath.mpc(0, 1), "inf": mpmath.inf}[node[1]]
        if kind in _ARITHMETIC:
            return self._arithmetic(_ARITHMETIC[kind], self._of(node[1]), self._of(node[2]))
        if kind == "neg":
            return -self._of(node[1])
        if kind == "div":
            return self._quotient(self._of(node[1]), self._of(node[2]))
        if kind == "pow":
            return self._power(self._of(node[1]), self._of(node[2]))
        if kind == "root":
            return self._root(self._of(node[1]), self._of(node[2]))
        if kind == "fact":
            return self._factorial(self._of(node[1]))
        if kind == "deg":
            return self._real(self._of(node[1])) * mpmath.pi / 180
        if kind == "fun":
            return self._function(node[1], self._of(node[2]))
        if kind == "log":
            return mpmath.log(self._real(self._of(node[2]))) / mpmath.log(self._real(self._of(node[1])))
        if kind == "binom":
            return self._binomial(self._of(node[1]), self._of(node[2]))
        if kind == "apply":
            return self._unknown_function(node[1], [self._of(part) for part in node[2:]] if node[2][0] != "tuple"
                                          else [self._of(part) for part in node[2][3:]])  # fmt: skip
        raise NoValueError(kind)

    def _real(self, value: Value) -> Any:
        """A value in inexact arithmetic."""
        if isinstance(value, Fraction):
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            self.digits_seen = max(self.digits_seen, 2 * int(bits * 0.302))
        return inexact(value)

    def _arithmetic(self, operation: Callable[[Any, Any], Any], a: Value, b: Value) -> Value:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self._bounded(operation(a, b))
        found = operation(self._real(a), self._real(b))
        if not mpmath.isfinite(found):
            # nothing is computed with infinity: 2 - infinity is no end of an interval
            raise NoValueError
        return found

    def _bounded(self, value: Fraction) -> Fraction:
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_BITS:
            raise NoValueError
        return value

    def _quotient(self, a: Value, b: Value) -> Value:
        if not b:
            raise ZeroDivisionError
        return self._arithmetic(operator.truediv, a, b)

    def _power(self, base: Value, exponent: Value) -> Value:
        if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * bits <= MOST_BITS:
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


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot, "sec": mpmath.sec, "csc": mpmath.csc,
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "arccot": mpmath.acot, "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc, "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh, "coth": mpmath.coth,
    "arcsinh": mpmath.asinh, "arccosh": mpmath.acosh, "arctanh": mpmath.atanh, "arccoth": mpmath.acoth,
    "exp": mpmath.exp, "ln": mpmath.log, "abs": abs, "floor": mpmath.floor, "ceil": mpmath.ceil,
}  # fmt: skip
