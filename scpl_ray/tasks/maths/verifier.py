"""Whether two answers are equal: numbers exactly, words by spelling, other mathematics by ``math-verify``."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import subprocess
import sys
import threading
import weakref

from scpl_ray.tasks.maths import answers, verifier_process

logger = logging.getLogger(__name__)

KNOWN = 1 << 16
"""Number of comparisons by math-verify that are cached."""


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing an answer with the gold answer."""

    parsed: bool
    """Whether there was an answer that could be read."""
    equal: bool


NO_ANSWER = Comparison(parsed=False, equal=False)


class Verifier:
    """Compares answers; its process of math-verify starts with the first answer that needs it, in any thread.

    If math-verify takes longer than :data:`scpl_ray.tasks.maths.verifier_process.CPU_SECONDS`, the answer counts as
    unreadable.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._known: dict[tuple[str, str], Comparison] = {}

    def __reduce__(self) -> tuple[type[Verifier], tuple[()]]:
        # the process is not sent along when this object is pickled
        return Verifier, ()

    def compare(self, gold: str, answer: str | None) -> Comparison:
        """Whether an answer, as :func:`scpl_ray.tasks.maths.answers.extract` found it, can be read and equals the
        gold one.

        Raises:
            RuntimeError: the process of math-verify does not start.
        """
        if not answer or len(answer) > answers.LONGEST:
            return NO_ANSWER
        if answers.words(gold) == answers.words(answer) != "":
            return Comparison(parsed=True, equal=True)
        of_gold, given = answers.number(gold), answers.number(answer)
        if of_gold and given:
            return Comparison(parsed=True, equal=of_gold.equals(given))
        if of_gold is None and not answers.is_mathematics(gold):
            return Comparison(parsed=answers.words(answer) != "", equal=False)
        if given is None and not answers.is_mathematics(answer):
            return NO_ANSWER
        pair = _listed(gold), _listed(answer)
        with self._lock:
            if pair not in self._known:
                if len(self._known) == KNOWN:
                    self._known.clear()
                self._known[pair] = self._verified(*pair)
            return self._known[pair]

    def _verified(self, gold: str, answer: str) -> Comparison:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._started()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([gold, answer]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if line:
            parsed, equal = json.loads(line)
            return Comparison(parsed=parsed, equal=equal)
        logger.warning("answer %r: math-verify gave up (exit code %d): unreadable", answer, process.wait())
        self._process = None
        return NO_ANSWER

    def _started(self) -> subprocess.Popen[str]:
        # by its path and without its folder on sys.path: it imports nothing of ours, and starts in half a second
        command = [sys.executable, "-P", verifier_process.__file__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        weakref.finalize(self, _end, process)
        assert process.stdout is not None
        if process.stdout.readline().strip() != verifier_process.READY:
            raise RuntimeError(
                f"math-verify did not start (exit code {process.wait()}); its reason stands in the log above. Try: "
                f"{' '.join(command)}"
            )
        self._process = process
        return process


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _listed(answer: str) -> str:
    """An answer as the inside of a formula, its alternatives as a list: ``1 or 2`` is ``1, 2``."""
    bare = re.sub(r"^\\[(\[]|\\[)\]]$|(?<!\\)\$", "", answer.strip()).strip()
    return re.sub(r"\s+(?:or|and)\s+|\\text\s*\{\s*(?:or|and)\s*\}", ", ", bare)
