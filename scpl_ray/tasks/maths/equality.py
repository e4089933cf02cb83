"""Whether two answers, as trees of :mod:`scpl_ray.tasks.maths.reader`, are equal.

Rational values are compared exactly. Other constants are equal if they agree to many more digits than either was
written with, and expressions with letters if they have equal values at several points (Schwartz 1980). A decimal
stands for every number that is rounded or cut to it, but for no more than one part in 10**9.

Formulas are compared in the limited process of :mod:`scpl_ray.tasks.maths.verifier_process`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import mpmath

from scpl_ray.tasks.maths.nodes import STRUCTURES
from scpl_ray.tasks.maths.values import DIGITS, Evaluation, Node, NoValueError, Value, inexact

TOLERANCE = Fraction(1, 10**9)
"""Largest relative difference that a decimal may have from what it stands for."""
MOST_DIGITS = 6_000
"""Most decimal digits of the arithmetic; beyond them, what is not told apart is not equal."""
POINTS, TRIES, FEWEST = 8, 48, 4
"""Points at which expressions must agree, and points that are tried, as an expression may have no value at some; and
how many of them tell that equations are the same."""
LEAST_REACH, MOST_REACH = 16, 5_000
"""Bounds of the largest number that is written, beyond which some of the points lie."""
PRIME = 9_973
"""Denominator of the values of letters. None is a whole number, for which more is equal: ``(-1)^{2n}`` and 1."""
MOST_ELEMENTS = 200


def equal(gold: Node, answer: Node) -> bool:
    """Whether two answers are equal."""
    if gold == answer:
        return True
    gold, answer = _settled(gold), _settled(answer)
    if "chain" in (gold[0], answer[0]):
        return _equal_chains(gold, answer)
    if "percent" in (gold[0], answer[0]):
        return _equal_percentages(gold, answer)
    if "with" in (gold[0], answer[0]):
        return _equal_quantities(gold, answer)
    kinds = {gold[0], answer[0]}
    if kinds <= {"list", "set"}:
        return _equal_in_any_order(gold[1:], answer[1:])
    if kinds & STRUCTURES:
        return len(kinds) == 1 and _equal_structures(gold, answer)
    return _equal_expressions(gold, answer)


def _settled(node: Node) -> Node:
    """A tree whose signs plus-minus are spelled out as a list of two, and whose list has a name on every element."""
    if node[0] in ("list", "set"):
        items: list[Node] = []
        for item in node[1:]:
            found = _settled(item)
            items += found[1:] if found[0] == "list" and item[0] != "list" else [found]
        return [node[0], *_carried(items)]
    if node[0] in STRUCTURES - {"with", "percent", "chain"} or all(part[0] != "pm" for part in _parts(node)):
        return node
    return ["list", _with_sign(node, upper=True), _with_sign(node, upper=False)]


def _carried(items: list[Node]) -> list[Node]:
    """Elements ``x = 2, 3`` as ``x = 2, x = 3``."""
    name: Node | None = None
    carried: list[Node] = []
    for item in items:
        assigned = _assignment(item)
        if assigned:
            name = assigned[0]
        elif name is not None and item[0] not in STRUCTURES:
            item = ["chain", ["="], [name, item]]
        carried.append(item)
    return carried


def _parts(node: Any) -> Iterator[Node]:
    """A node and all nodes inside it."""
    if not isinstance(node, str):
        if node and isinstance(node[0], str):
            yield node
        for part in node:
            yield from _parts(part)


def _with_sign(node: Any, *, upper: bool) -> Any:
    if isinstance(node, str):
        return node
    if node and node[0] == "pm":
        kind = "add" if (node[1] == r"\pm") == upper else "sub"
        return [kind, _with_sign(node[2], upper=upper), _with_sign(node[3], upper=upper)]
    return [_with_sign(part, upper=upper) for part in node]


# structures


def _equal_structures(gold: Node, answer: Node) -> bool:
    kind = gold[0]
    if kind == "dots":
        return True
    if kind == "tuple":
        return list(gold[1:3]) == list(answer[1:3]) and _equal_in_order(gold[3:], answer[3:])
    if kind == "union":
        return _equal_in_any_order(gold[1:], answer[1:])
    if kind == "colon":
        return gold[1] in ("", answer[1]) and _equal_in_order(gold[2:], answer[2:])
    if kind == "matrix":
        same_size = [*map(len, gold[2])] == [*map(len, answer[2])]
        return gold[1] == answer[1] and same_size and all(map(_equal_in_order, gold[2], answer[2]))
    raise AssertionError(kind)


def _equal_in_order(gold: Sequence[Node], answer: Sequence[Node]) -> bool:
    return len(gold) == len(answer) and all(map(equal, gold, answer))


def _equal_in_any_order(gold: Sequence[Node], answer: Sequence[Node]) -> bool:
    if len(gold) != len(answer) or len(gold) > MOST_ELEMENTS:
        return False
    names = {str(assigned[0]) for node in gold if (assigned := _assignment(node))}
    others = {str(assigned[0]) for node in answer if (assigned := _assignment(node))}
    if max(len(names), len(others)) > 1 and not (names and others):
        # values without names, for several names: only their order tells which is which
        return _equal_in_order(gold, answer)
    left = list(answer)
    for node in gold:
        found = next((i for i, other in enumerate(left) if equal(node, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _equal_percentages(gold: Node, answer: Node) -> bool:
    """A percentage equals both p and p / 100, unless both are percentages."""
    if gold[0] == answer[0]:
        return equal(gold[1], answer[1])
    percent, plain = (gold[1], answer) if gold[0] == "percent" else (answer[1], gold)
    if plain[0] in STRUCTURES:
        return False
    return equal(percent, plain) or equal(["div", percent, ["num", "100", "0"]], plain)


def _equal_quantities(gold: Node, answer: Node) -> bool:
    """Values of the same kind are compared in one unit; a value without a unit has the other's."""
    if gold[0] != answer[0]:
        with_unit, plain = (gold, answer) if gold[0] == "with" else (answer, gold)
        return plain[0] not in STRUCTURES and equal(with_unit[1], plain)
    if gold[2] != answer[2]:
        return False
    if gold[3] == answer[3]:
        return equal(gold[1], answer[1])
    return equal(*(["mul", node[1], ["num", node[3], "0"]] for node in (gold, answer)))


# equations and inequalities


def _assignment(node: Node) -> tuple[Node, Node] | None:
    """The name and the value of ``x = 5`` or ``f(x) = 2x = 5``."""
    if node[0] != "chain" or set(node[1]) - {"=", "~"}:
        return None
    signs, sides = list(node[1]), list(node[2])
    if len(sides) == 2 and not _is_name(sides[0]):
        sides.reverse()
    if not _is_name(sides[0]) or not _consistent(sides[1:], signs[1:]):
        return None
    return sides[0], sides[1]


def _is_name(node: Node) -> bool:
    if node[0] == "mul":
        # as in AB = 5, a name of two letters
        return bool(node[1][0] == node[2][0] == "name")
    return node[0] in ("name", "apply")


def _consistent(values: Sequence[Node], signs: Sequence[str]) -> bool:
    """Whether the parts of ``a = b \\approx c`` are as equal as it says."""
    for left, right, sign in zip(values, values[1:], signs, strict=False):
        if not (equal(left, right) or (sign == "~" and _rounded(left, right))):
            return False
    return True


def _rounded(left: Node, right: Node) -> bool:
    """Whether two constants differ by less than the last place with which one of them is written."""
    left, right = (node[1] if node[0] in ("with", "percent") else node for node in (left, right))
    places = [Fraction(node[2]) for node in (left, right) if node[0] == "num"]
    if left[0] in STRUCTURES or right[0] in STRUCTURES or not places or _names(left, right):
        return False
    try:
        a, b = (Evaluation({}, DIGITS).value(node) for node in (left, right))
    except ArithmeticError:
        return False
    return bool(abs(inexact(a) - inexact(b)) < inexact(max(places) or Fraction(1)))


def _equal_chains(gold: Node, answer: Node) -> bool:
    named, other = _assignment(gold), _assignment(answer)
    if named and other and equal(named[0], other[0]):
        return equal(named[1], other[1])
    if named and answer[0] != "chain":
        return equal(named[1], answer)
    if other and gold[0] != "chain":
        return equal(gold, other[1])
    values = [_common_value(node) for node in (gold, answer)]
    if all(values):
        return any(equal(a, b) for a in values[0] for b in values[1])  # type: ignore[union-attr]
    if gold[0] == answer[0] == "chain":
        return _equal_relations(gold, answer)
    intervals = [_interval(node) for node in (gold, answer)]
    return bool(all(intervals) and equal(*intervals))  # type: ignore[arg-type]


def _common_value(node: Node) -> list[Node] | None:
    """The parts of a chain of equal constants, e.g. ``0.56 = 56\\%``; a plain expression has one part."""
    if node[0] != "chain":
        return [node] if node[0] not in STRUCTURES or node[0] in ("with", "percent") else None
    if set(node[1]) - {"=", "~"} or any(_names(part) for part in node[2]) or not _consistent(node[2], node[1]):
        return None
    return list(node[2])


_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~"}


def _rising(node: Node) -> Node:
    """A chain of inequalities, turned so that its first inequality is ``<`` or ``<=``."""
    if next((sign for sign in node[1] if sign in "<>=!" and sign not in "=!"), "<")[0] == ">":
        return ["chain", [_FLIPPED[sign] for sign in reversed(node[1])], list(reversed(node[2]))]
    return node


def _equal_relations(gold: Node, answer: Node) -> bool:
    gold, answer = _rising(gold), _rising(answer)
    if list(gold[1]) != list(answer[1]):
        return False
    if _equal_in_order(gold[2], answer[2]):
        return True
    if set(gold[1]) == {"="} and _equal_in_any_order(gold[2], answer[2]):
        return True
    if len(gold[1]) > 1 or any(part[0] in STRUCTURES for part in (*gold[2], *answer[2])):
        return False
    return _proportional(["sub", *gold[2]], ["sub", *answer[2]], positive=gold[1][0] not in ("=", "!="))


def _interval(node: Node) -> Node | None:
    """The interval of ``a < x <= b`` or ``x > a``; intervals and unions are their own."""
    if node[0] in ("tuple", "union"):
        return node
    if node[0] != "chain":
        return None
    node = _rising(node)
    signs, sides = node[1], node[2]
    if set(signs) - {"<", "<="}:
        return None
    infinity = ["const", "inf"]
    if len(sides) == 2 and sides[0][0] == "name":
        return ["tuple", "(", "]" if signs[0] == "<=" else ")", ["neg", infinity], sides[1]]
    if len(sides) == 2 and sides[1][0] == "name":
        return ["tuple", "[" if signs[0] == "<=" else "(", ")", sides[0], infinity]
    if len(sides) == 3 and sides[1][0] == "name":
        return ["tuple", "[" if signs[0] == "<=" else "(", "]" if signs[1] == "<=" else ")", sides[0], sides[2]]
    return None


# expressions


def _names(*nodes: Node) -> set[str]:
    return {part[1] for part in _parts(nodes) if part[0] == "name"}


def _allowed(*nodes: Node) -> Fraction:
    """The relative difference that the decimals of expressions allow; 0 without decimals."""
    found = Fraction(0)
    for part in _parts(nodes):
        if part[0] == "num":
            value, last_place = Fraction(part[1]), Fraction(part[2])
            found = max(found, abs(last_place / value) if value else TOLERANCE * bool(last_place))
    return min(found, TOLERANCE)


def _equal_expressions(gold: Node, answer: Node) -> bool:
    if "base" in (gold[0], answer[0]):
        return False
    allowed = _allowed(gold, answer)
    if not _names(gold, answer):
        try:
            return _agree(gold, answer, {}, allowed)
        except ArithmeticError:
            return False
    agreed = 0
    for values in _points(gold, answer):
        try:
            agree = _agree(gold, answer, values, allowed)
        except ArithmeticError:
            continue
        if not agree:
            return False
        agreed += 1
        if agreed == POINTS:
            break
    return agreed > 0


_ROUND = ((1, 0), (1, -1), (4, 0), (4, 1), (None, 0), (None, -1), (4, 2), (4, 4))
"""Of every point in turn the largest size of the values, where ``None`` lies beyond every number that is written; and
by the bits of their places which letters are negative: none, all, and some, so that products of two have both signs."""


def _points(*nodes: Node) -> Iterator[Mapping[str, Fraction]]:
    """Values of the letters, each derived from the letter and the number of the point."""
    written = max((abs(Fraction(part[1])) for part in _parts(nodes) if part[0] == "num"), default=0)
    reach = min(max(written, LEAST_REACH), MOST_REACH)
    names = sorted(_names(*nodes))
    for i in range(TRIES):
        largest, negative = _ROUND[i % POINTS]
        least, width = (0, largest) if largest else (reach, 3 * reach)
        values = {}
        for place, name in enumerate(names, start=1):
            digest = hashlib.sha256(f"{name} {i}".encode()).digest()
            size = least + width * Fraction(1 + int.from_bytes(digest[:3]) % (PRIME - 1), PRIME)
            values[name] = -size if place & negative else size
        yield values


def _agree(gold: Node, answer: Node, values: Mapping[str, Fraction], allowed: Fraction) -> bool:
    """Whether two expressions have the same value at a point; complex values count only where the unit i is written."""
    digits, before = DIGITS, None
    while True:
        evaluation, a, b = _evaluated(gold, answer, values, digits)
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return _near(a, b, allowed)
        digits = evaluation.digits
        with mpmath.workdps(digits):
            a, b = inexact(a), inexact(b)
            unreal = evaluation.imaginary and not _writes_i(gold, answer)
            if unreal and (mpmath.im(a) or mpmath.im(b)):
                raise NoValueError
            if mpmath.isinf(a) or mpmath.isinf(b):
                return bool(a == b)
            difference, size = abs(a - b), max(abs(a), abs(b))
            if difference <= size * mpmath.mpf(10) ** (15 - digits) or (
                allowed and difference < min(abs(a), abs(b)) * inexact(allowed)
            ):
                return True
            if before is not None:
                # a difference that vanishes with more digits is that of cancelled terms
                vanishes = bool(difference < before * mpmath.mpf(10) ** -(digits // 4))
                if values and not vanishes and (unreal or evaluation.digits_needed > MOST_DIGITS):
                    # laws of roots and logarithms hold where all parts are real, and noise tells nothing
                    raise NoValueError
                return vanishes
            if not values and difference > size * mpmath.mpf(10) ** -20 and size > mpmath.mpf(10) ** -20:
                return False
            before, digits = difference, min(2 * digits, MOST_DIGITS)


def _writes_i(*nodes: Node) -> bool:
    return any(list(part) == ["const", "i"] for part in _parts(nodes))


def _evaluated(
    gold: Node, answer: Node, values: Mapping[str, Fraction], digits: int
) -> tuple[Evaluation, Value, Value]:
    """Two values at a point, with so many digits or as many more as their terms need, and how they were found."""
    while True:
        evaluation = Evaluation(values, digits)
        a, b = evaluation.value(gold), evaluation.value(answer)
        needed = min(evaluation.digits_needed, MOST_DIGITS)
        if digits >= needed:
            return evaluation, a, b
        digits = needed


def _near(a: Fraction, b: Fraction, allowed: Fraction) -> bool:
    return a == b or (allowed > 0 and abs(a - b) < allowed * min(abs(a), abs(b)))


def _proportional(gold: Node, answer: Node, *, positive: bool) -> bool:
    """Whether one expression is a constant multiple of the other, so that both are zero at the same points."""
    first: tuple[Value, Value] | None = None
    agreed = 0
    for values in _points(gold, answer):
        try:
            evaluation, a, b = _evaluated(gold, answer, values, DIGITS)
            with mpmath.workdps(DIGITS):
                if not a or not b:
                    if bool(a) != bool(b):
                        return False
                    continue
                first = first or (a, b)
                x, y, first_x, first_y = (inexact(value) for value in (a, b, *first))
                same = abs(x * first_y - y * first_x) <= abs(x * first_y) * mpmath.mpf(10) ** -30
                if not same or (positive and not mpmath.re(x / y) > 0):
                    if evaluation.imaginary and not _writes_i(gold, answer):
                        continue
                    return False
        except ArithmeticError:
            continue
        agreed += 1
        if agreed == POINTS:
            break
    return agreed >= FEWEST
