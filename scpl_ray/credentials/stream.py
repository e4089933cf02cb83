"""Masking of text that arrives in pieces, and the process that masks what others write.

``main`` runs in a process of its own, so that whatever a process wrote before it died still reaches the file. It
imports nothing but this package and starts in a few hundredths of a second.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence

from scpl_ray.credentials.patterns import MASK, PRIVATE_KEY, PRIVATE_KEY_END, held_by, mask

LONGEST = 2**16
"""A line is masked as a whole up to this length; a longer one is cut where no credential is cut."""
TAIL = 2**12
MOST_HELD = 2**20
KEY_CHARACTERS = 2**15
"""Longest private key: what follows is shown again, even if the key has no end."""
CHUNK = 2**16


class Masker:
    """Masks text that arrives in pieces, wherever it is cut: what it is given comes out line by line."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = list(known)
        self._held = ""
        self._in_key = 0

    def feed(self, text: str) -> str:
        """Take more text; returns what can be shown by now, masked."""
        self._held += text
        cut = max(self._held.rfind("\n"), self._held.rfind("\r")) + 1
        if not cut and len(self._held) > LONGEST:
            cut = self._cut()
        ready, self._held = self._held[:cut], self._held[cut:]
        return self._masked(ready)

    def finish(self) -> str:
        """The rest, masked."""
        ready, self._held = self._held, ""
        return self._masked(ready)

    def _cut(self) -> int:
        """Where a long line can be cut so that masking its parts is masking the whole; 0: nowhere yet."""
        text = self._held
        whole = mask(text, self._known)
        for cut in range(len(text) - TAIL, len(text) - TAIL // 2, TAIL // 32):
            if mask(text[:cut], self._known) + mask(text[cut:], self._known) == whole:
                return cut
        if len(text) > MOST_HELD:
            self._held = MASK
            return len(MASK)
        return 0

    def _masked(self, text: str) -> str:
        if not text:
            return ""
        shown = ""
        if self._in_key:
            end = PRIVATE_KEY_END.search(text)
            self._in_key -= len(text)
            if end is None and self._in_key > 0:
                return ""
            self._in_key = 0
            shown, text = "\n" if end else "", text[end.end() :].lstrip("\r\n") if end else text
        begins = [begin.end() for begin in PRIVATE_KEY.finditer(text)]
        if begins and PRIVATE_KEY_END.search(text, begins[-1]) is None:
            self._in_key = KEY_CHARACTERS
        return shown + mask(text, self._known)


def copy(source: int, target: int, known: Sequence[str]) -> None:
    """Append to a file, masked, what comes from a pipe, until all of its writers have ended.

    What cannot be written, because the disk is full, is dropped: the writers must not stop for want of a log.
    """
    masker = Masker(known)
    while data := os.read(source, CHUNK):
        _write(target, masker.feed(data.decode("utf-8", "surrogateescape")))
    _write(target, masker.finish())


def _write(target: int, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    try:
        while data:
            data = data[os.write(target, data) :]
    except OSError:
        return


def main() -> None:
    """Copy standard input to standard output, in a process that nobody waits for and no signal of a terminal ends."""
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    copy(0, 1, held_by(os.environ))
