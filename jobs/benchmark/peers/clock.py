"""What every script of the chain has in common: an order to read, a result to write, and the time of its parts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Clock:
    """Seconds of the parts of a script, one after the other, from the moment its process was started.

    Args:
        began: Unix time of that moment, by the clock of the process that started this one.
    """

    def __init__(self, began: float) -> None:
        self._last = began
        self.seconds: dict[str, float] = {}

    def mark(self, part: str) -> None:
        """A part has ended: everything since the last mark was spent on it."""
        now = time.time()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now


def main(work: Callable[[dict[str, Any], Clock], dict[str, Any]]) -> None:
    """Run a script: ``python -m jobs.benchmark.peers.SCRIPT ORDER RESULT BEGAN``.

    Args:
        work: gets the order (a JSON object) and the clock; what it returns is written beside the seconds.
    """
    order, result, began = sys.argv[1:]
    clock = Clock(float(began))
    found = work(json.loads(Path(order).read_text()), clock)
    Path(result).write_text(json.dumps({"seconds": clock.seconds, **found}))
