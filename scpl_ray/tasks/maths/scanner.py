"""The place up to which a text has been read, and the signs that are taken from it."""

from __future__ import annotations

import re
from typing import Any

Node = tuple[Any, ...]
"""A node of the tree of an answer; its kinds are listed in :mod:`scpl_ray.tasks.maths.reader`."""

DEEPEST = 32
"""Largest number of operands inside each other."""
STRUCTURES = frozenset({"list", "set", "tuple", "union", "matrix", "chain", "colon", "dots", "with", "percent"})
"""Kinds of nodes that cannot be operands."""
_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)")


class UnreadableError(ValueError):
    """A text is not mathematics, or more than is known here."""


class Scanner:
    """A text in the one notation; every method starts at ``_at`` and moves it past what it takes.

    Args:
        text: the text.
        commas: whether commas outside of brackets may separate thousands.
    """

    def __init__(self, text: str, *, commas: bool) -> None:
        self._text = text
        self._at = 0
        self._commas = commas
        self._depth = 0
        self._bars = 0
        self._nested = 0

    def _plain(self, *nodes: Node) -> None:
        """Refuse sets, lists and other structures as operands."""
        if any(node[0] in STRUCTURES for node in nodes):
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
        """Note an opening bracket; ``bars`` of an absolute value cannot open another one before they close."""
        self._depth += 1
        self._bars += bars

    def leave(self, *, bars: bool) -> None:
        """Note a closing bracket."""
        self._depth -= 1
        self._bars -= bars


class Level:
    """A pair of brackets."""

    def __init__(self, scanner: Scanner, *, bars: bool = False) -> None:
        self._scanner, self._is_bars = scanner, bars

    def __enter__(self) -> None:
        self._scanner.enter(bars=self._is_bars)

    def __exit__(self, *_: object) -> None:
        self._scanner.leave(bars=self._is_bars)
