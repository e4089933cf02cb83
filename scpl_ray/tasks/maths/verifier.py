"""Whether two answers are equal: mathematics by its value, other answers by their words."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
import threading
import weakref

from scpl_ray.tasks.maths import equality, options, verifier_process
from scpl_ray.tasks.maths.answers import words
from scpl_ray.tasks.maths.nodes import Node
from scpl_ray.tasks.maths.reader import LONGEST, read
from scpl_ray.tasks.maths.units import ABBREVIATED, size_of

logger = logging.getLogger(__name__)

KNOWN = 1 << 16
"""Number of comparisons of formulas that are cached."""


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing an answer with the gold answer."""

    parsed: bool
    """Whether there was an answer that could be read."""
    equal: bool


NO_ANSWER = Comparison(parsed=False, equal=False)


class Verifier:
    """Compares answers; its limited process starts with the first formula that is no plain number, in any thread.

    A comparison that takes longer than :data:`scpl_ray.tasks.maths.verifier_process.CPU_SECONDS` counts as unequal.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._known: dict[tuple[Node, Node], bool] = {}

    def __reduce__(self) -> tuple[type[Verifier], tuple[()]]:
        # the process is not sent along when this object is pickled
        return Verifier, ()

    def compare(self, gold: str, answer: str | None) -> Comparison:
        """Whether an answer, as :func:`scpl_ray.tasks.maths.answers.extract` found it, can be read and equals the
        gold one.

        Raises:
            RuntimeError: the limited process does not start.
        """
        if not answer or len(answer) > LONGEST:
            return NO_ANSWER
        of_gold, given = read(gold), read(answer)
        if gold == answer and (given.node or words(given.text)):
            return Comparison(parsed=True, equal=True)
        if (chosen := options.told(of_gold.text, given.text)) is not None:
            return Comparison(parsed=True, equal=chosen)
        if of_gold.node is None:
            spelling = words(given.text)
            return Comparison(parsed=spelling != "", equal=given.node is None and spelling == words(of_gold.text) != "")
        measured = _measured(given.text, of_gold.node)
        if given.node is None and measured is None:
            return NO_ANSWER
        pairs = [(of_gold.node, node) for node in (given.node, measured) if node]
        pairs += [(of_gold.node, given.other)] if given.other and of_gold.node[0] == "list" else []
        pairs += [(of_gold.other, given.node)] if of_gold.other and given.node and given.node[0] == "list" else []
        return Comparison(parsed=True, equal=any(self._equal(*pair) for pair in pairs))

    def _equal(self, gold: Node, answer: Node) -> bool:
        if _is_number(gold) and _is_number(answer):
            return equality.equal(gold, answer)
        with self._lock:
            pair = gold, answer
            if pair not in self._known:
                if len(self._known) == KNOWN:
                    self._known.clear()
                self._known[pair] = self._asked(gold, answer)
            return self._known[pair]

    def _asked(self, gold: Node, answer: Node) -> bool:
        process = self._process
        if process is None or process.poll() is not None:
            process = self._started()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([gold, answer]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if line:
            return bool(json.loads(line))
        logger.warning("answer %r: gave up comparing (exit code %d): unequal", answer, process.wait())
        self._process = None
        return False

    def _started(self) -> subprocess.Popen[str]:
        # by its path and without its folder on sys.path, in which names of the standard library would be ours
        command = [sys.executable, "-P", verifier_process.__file__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        weakref.finalize(self, _end, process)
        assert process.stdout is not None
        if process.stdout.readline().strip() != verifier_process.READY:
            raise RuntimeError(
                f"the process that compares answers did not start (exit code {process.wait()}); its reason stands in "
                f"the log above. Try: {' '.join(command)}"
            )
        self._process = process
        return process


def _measured(answer: str, gold: Node) -> Node | None:
    """A number whose unit may be letters that are its factors, as in ``25g``: not where the gold answer has no letters,
    or has a unit that measures the same."""
    found = ABBREVIATED.fullmatch(answer) if gold[0] in ("num", "with") else None
    node = read(found[1]).node if found else None
    if found is None or node is None or node[0] != "num":
        return None
    size = size_of(found[2])
    if size is None:
        return node if gold[0] == "num" else None
    return ("with", node, size[0], str(size[1]))


def _is_number(node: Node) -> bool:
    return node[0] == "num" or (node[0] in ("percent", "with") and node[1][0] == "num")


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
