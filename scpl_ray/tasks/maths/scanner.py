"""The place up to which an answer has been read, and the signs that are taken from it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from scpl_ray.tasks.maths.nodes import UnreadableError

_COMMAND = re.compile(r"\\(?:[a-zA-Z]+|.)")


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
        """Absolute values that are open: a further bar closes one."""

    def _peek(self) -> str:
        """The next sign after spaces."""
        while self._text.startswith(" ", self._at):
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _command(self) -> str:
        """The command that stands here, which is not taken."""
        found = _COMMAND.match(self._text, self._at)
        return found[0] if found else ""

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found

    def _sign(self, pattern: re.Pattern[str]) -> str:
        """A sign after spaces; empty if there is none."""
        self._peek()
        found = self._match(pattern)
        return found[0] if found else ""

    def _take(self, sign: str) -> bool:
        self._peek()
        taken = self._text.startswith(sign, self._at)
        self._at += len(sign) if taken else 0
        return taken

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise UnreadableError

    @contextlib.contextmanager
    def _inside(self, opening: str) -> Iterator[None]:
        """What stands after an opening bracket."""
        self._expect(opening)
        self._depth += 1
        self._bars += opening == "|"
        yield
        self._depth -= 1
        self._bars -= opening == "|"
