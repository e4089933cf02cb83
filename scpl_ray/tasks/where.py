"""``task.where``: which rows are read, in Jinja's expression language, cut down to what cannot loop, call or grow.

Allowed are the row's columns (``row['my column']`` where a name has blanks), texts, numbers, lists, comparisons,
``in``, ``and``, ``or``, ``not``, tests such as ``is none``, and the filters of :data:`FILTERS`:
``label != 'center' and text|wordcount > 20``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scpl_ray.tasks.tally import DataError, OddRow


class _Cell:
    """A number in a CSV file; it equals the text that was written too, and filters of texts read that."""

    text: str

    def __eq__(self, other: object) -> bool:
        return self.text == other if isinstance(other, str) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return self.text != other if isinstance(other, str) else super().__ne__(other)


class _Whole(_Cell, int):
    """A whole one."""


class _Decimal(_Cell, float):
    """One with a decimal point."""


def _text(value: Any) -> Any:
    return value.text if isinstance(value, _Cell) else value


FILTERS: dict[str, Callable[..., Any]] = {
    "length": lambda value: len(_text(value)),
    "wordcount": lambda value: len(str(_text(value)).split()),
    "lower": lambda value: str.lower(_text(value)),
    "trim": lambda value: str.strip(_text(value)),
    "float": float,
}
TESTS = ("none", "string", "number")
ROW = "row"
DEEPEST = 64
"""Largest number of operations inside each other; Jinja takes seconds to compile some hundreds of them."""
_ALLOWED = (
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Name, nodes.Const),
    *(nodes.List, nodes.Tuple, nodes.Filter, nodes.Test, nodes.Getitem),
)
_NUMBER = re.compile(r"-?(0|[1-9]\d{0,15})(\.\d{1,15})?")


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
        environment.tests = {name: environment.tests[name] for name in TESTS}
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
                number is both here.

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
    if not isinstance(cell, str) or not _NUMBER.fullmatch(cell):
        return cell
    number: _Cell = _Decimal(cell) if "." in cell else _Whole(cell)
    number.text = cell
    return number
