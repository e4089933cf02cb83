"""``task.where``: which rows are read, in Jinja's expression language, cut down to what cannot loop, call or grow.

Allowed are the row's columns (``row['my column']`` where a name has blanks), texts, numbers, lists, comparisons,
``in``, ``and``, ``or``, ``not``, tests such as ``is none``, and the filters of :data:`FILTERS`:
``label != 'center' and text|wordcount > 20``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scpl_ray.tasks.tally import DataError, OddRow


class _Cell(str):
    """A cell of a CSV file that is written like a number or truth value: it is one beside others, a text beside texts.

    True and False are equal to 1 and 0, as they are in other formats.
    """

    number: int | float

    def _beside(self, other: object) -> tuple[Any, Any]:
        """The two as they are compared."""
        if isinstance(other, _Cell):
            return self.number, other.number
        return self.number if isinstance(other, int | float) else str(self), other

    def __eq__(self, other: object) -> bool:
        return bool(operator.eq(*self._beside(other)))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: object) -> bool:
        return bool(operator.lt(*self._beside(other)))

    def __le__(self, other: object) -> bool:
        return bool(operator.le(*self._beside(other)))

    def __gt__(self, other: object) -> bool:
        return bool(operator.gt(*self._beside(other)))

    def __ge__(self, other: object) -> bool:
        return bool(operator.ge(*self._beside(other)))

    def __neg__(self) -> int | float:
        return -self.number

    def __bool__(self) -> bool:
        return bool(self.number)

    __hash__ = str.__hash__


FILTERS: dict[str, Callable[..., Any]] = {
    "length": len,
    "wordcount": lambda value: len(str(value).split()),
    "lower": str.lower,
    "trim": str.strip,
    "float": float,
}


def _is_number(value: Any) -> bool:
    found = value.number if isinstance(value, _Cell) else value
    return isinstance(found, int | float) and not isinstance(found, bool)


TESTS: dict[str, Callable[[Any], bool]] = {
    "none": lambda value: value is None,
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
}
ROW = "row"
DEEPEST = 64
"""Largest number of operations inside each other; Jinja takes seconds to compile some hundreds of them."""
_ALLOWED = (
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Name, nodes.Const),
    *(nodes.List, nodes.Tuple, nodes.Filter, nodes.Test, nodes.Getitem),
)
_NUMBER = re.compile(r"-?((0|[1-9]\d{0,999})(\.\d{1,999})?([eE][+-]?\d{1,3})?|inf)")
"""Python makes no integers of thousands of digits; an integer is kept as one, so that long ids are compared exactly."""
_TRUTH = re.compile(r"true|false", re.IGNORECASE)


class RowFilter:
    """A condition on rows.

    Args:
        text: ``task.where``.

    Raises:
        DataError: it is no such expression.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        environment = ImmutableSandboxedEnvironment()
        environment.filters = dict(FILTERS)
        environment.tests = dict(TESTS)
        try:
            parser = Parser(environment, text, state="variable")
            tree = parser.parse_expression()
            if not parser.stream.eos:
                raise self._wrong(f"{text!r} goes on after a whole expression; is == meant?")
            if _depth(tree) > DEEPEST:
                raise self._wrong("nested too deeply")
            self.columns = self._columns(tree)
            self._holds = environment.compile_expression(text)
        except TemplateError as error:
            raise self._wrong(" ".join(str(error).split())) from error
        except (RecursionError, SyntaxError, MemoryError) as error:  # what Python says to brackets in brackets
            raise self._wrong("nested too deeply") from error

    def __call__(self, values: Mapping[str, Any], *, typed: bool) -> bool:
        """Whether a row is wanted.

        Args:
            values: of the row, by column.
            typed: whether numbers are numbers; otherwise (CSV) every cell is text, and one that is written like a
                number or truth value is both here.

        Raises:
            OddRow: the row lacks a column, or its values cannot be compared like that.
        """
        if lacking := [column for column in self.columns if column not in values]:
            raise OddRow(
                f"without a field {lacking[0]}, which task.where reads",
                f"no field {lacking[0]}, which task.where reads",
            )
        read = {column: values[column] if typed else _typed(values[column]) for column in self.columns}
        try:
            return bool(self._holds({ROW: read, **read}))
        except (TypeError, ValueError, AttributeError, TemplateError) as error:
            shown = ", ".join(f"{column} = {value!r:.80}" for column, value in read.items())
            raise OddRow(
                "on which task.where cannot be decided",
                f"task.where = {self.text!r} cannot be decided for {shown}: {error}; compare texts with texts and "
                "numbers with numbers (|float makes a number of a text)",
            ) from error

    def _columns(self, tree: nodes.Node) -> tuple[str, ...]:
        found: list[str] = []
        inside_row: set[int] = set()
        for node in [tree, *tree.find_all(nodes.Node)]:
            if not isinstance(node, _ALLOWED):
                raise self._wrong(f"{type(node).__name__.lower()} is not allowed")
            if isinstance(node, nodes.Getitem):
                of_row = isinstance(node.node, nodes.Name) and node.node.name == ROW
                if not of_row or not isinstance(node.arg, nodes.Const) or not isinstance(node.arg.value, str):
                    raise self._wrong(f"brackets are for {ROW}['column'] only")
                inside_row.add(id(node.node))
                found.append(node.arg.value)
            elif isinstance(node, nodes.Name) and id(node) not in inside_row:
                found.append(node.name)
        if not found:
            raise self._wrong("it reads no column")
        return tuple(dict.fromkeys(found))

    def _wrong(self, why: str) -> DataError:
        return DataError(
            f"task.where = {self.text!r}: {why}; write a condition on columns such as \"label != 'center'\", with ==, "
            f"!=, <, >, in, and, or, not, is none, and the filters {', '.join(FILTERS)}"
        )


def _depth(node: nodes.Node) -> int:
    return 1 + max(map(_depth, node.iter_child_nodes()), default=0)


def _typed(cell: Any) -> Any:
    if not isinstance(cell, str) or (number := _number(cell)) is None:
        return cell
    found = _Cell(cell)
    found.number = number
    return found


def _number(cell: str) -> int | float | None:
    if _TRUTH.fullmatch(cell):
        return cell.lower() == "true"
    if _NUMBER.fullmatch(cell):
        return int(cell) if cell.removeprefix("-").isdigit() else float(cell)
    return None
