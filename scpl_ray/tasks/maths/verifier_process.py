"""The process in which ``math-verify`` compares two answers, so that no expression can hold up or fill up a run.

It reads one JSON pair ``[gold, answer]`` a line and writes ``[parsed, equal]``. The system ends it when one comparison
takes more than :data:`CPU_SECONDS` of processor time, which a busy machine does not shorten; memory is bounded, too.
math-verify's own timeouts are off: they need the main thread and cannot interrupt one long integer operation.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import signal
import sys
from typing import Any

CPU_SECONDS = 3.0
MEMORY_BYTES = 2 * 2**30
READY = "ready"


def compare(gold: str, answer: str) -> tuple[bool, bool]:
    """Whether the answer could be read, and whether it equals the gold answer (math-verify, strict sets and tuples)."""
    import math_verify

    def parse(text: str) -> list[Any]:
        return list(math_verify.parse(f"${text}$", fallback_mode="no_fallback", parsing_timeout=None))

    given = parse(answer)
    if not given:
        return False, False
    return True, bool(math_verify.verify(parse(gold), given, timeout_seconds=None))


def main() -> None:
    """Answer until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        compare("1", "1")
        out.write(f"{READY}\n")
        out.flush()
        for line in sys.stdin:
            gold, answer = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            found = compare(gold, answer)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            out.write(f"{json.dumps(found)}\n")
            out.flush()


if __name__ == "__main__":
    main()
