"""The process in which formulas are compared, so that none can hold up or fill up a run.

It reads one JSON pair ``[gold, answer]`` of trees a line (:mod:`scpl_ray.tasks.maths.reader`) and writes whether they
are equal. The system ends it when one comparison takes more than :data:`CPU_SECONDS` of processor time, which a busy
machine does not shorten; memory is bounded, too.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sys
from pathlib import Path

CPU_SECONDS = 1.0
MEMORY_BYTES = 2**30
READY = "ready"


def main() -> None:
    """Answer until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        # the package need not be installed where this file lies
        sys.path.append(str(Path(__file__).parents[3]))
        from scpl_ray.tasks.maths.equality import equal

        out.write(f"{READY}\n")
        out.flush()
        for line in sys.stdin:
            gold, answer = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
            found = equal(gold, answer)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            out.write(f"{json.dumps(found)}\n")
            out.flush()


if __name__ == "__main__":
    main()
