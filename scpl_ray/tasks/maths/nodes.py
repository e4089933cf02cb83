"""The nodes of the tree of an answer; their kinds are listed in :mod:`scpl_ray.tasks.maths.reader`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

Node = tuple[Any, ...]
STRUCTURES = frozenset({"list", "set", "tuple", "union", "matrix", "chain", "colon", "dots", "with", "percent"})
"""Kinds of nodes that cannot be operands."""


class UnreadableError(ValueError):
    """A text is not mathematics, or more than is known here."""


def plain(node: Node) -> Node:
    """The node, unless it is a structure, which is no operand."""
    if node[0] in STRUCTURES:
        raise UnreadableError
    return node


def made(kind: str, *parts: Node | str) -> Node:
    """An expression of such parts."""
    return (kind, *(part if isinstance(part, str) else plain(part) for part in parts))


def number(value: Fraction | int, last_place: Fraction | int = 0) -> Node:
    """A number; its last place is the size of a unit there, 0 if it is written exactly."""
    return ("num", str(value), str(last_place))


def quotient(above: Node, below: Node) -> Node:
    """A quotient, which is a number if both parts are exact numbers."""
    if above[0] == below[0] == "num" and above[2] == below[2] == "0" and below[1] != "0":
        return number(Fraction(above[1]) / Fraction(below[1]))
    return made("div", above, below)


def negative(node: Node) -> Node:
    """The negative of an expression, which is a number if that is one."""
    if node[0] == "num":
        return number(-Fraction(node[1]), Fraction(node[2]))
    return ("deg", negative(node[1])) if node[0] == "deg" else made("neg", node)


def listed(items: list[Node]) -> Node:
    """A list of elements; one element is no list."""
    return items[0] if len(items) == 1 else ("list", *items)
