"""A strategy, a reward and two hooks in one file, named in the config and run without touching the package.

    scpl run selection.function=examples/own_hooks.py:shortest 'reward.function=examples/own_hooks.py:brevity' \\
        training.callback=examples/own_hooks.py:losses loop.on_round=examples/own_hooks.py:told --dry-run

shows the plan; without --dry-run it runs. Ray brings the file to every worker, and the run keeps its text.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from scpl_ray.config import Selection
from scpl_ray.protocols import RoundDone, TrainingStep
from scpl_ray.records import Query
from scpl_ray.selection.candidates import Candidates
from scpl_ray.shares import FloatArray

logger = logging.getLogger(__name__)

LONG = 20
"""Words from which on an answer is not brief at all."""


def brevity(queries: Sequence[Query], texts: Sequence[str]) -> list[float]:
    """The term ``function`` of ``reward.terms``: 1 for an empty answer, falling to 0 at :data:`LONG` words."""
    return [max(0.0, 1.0 - len(text.split()) / LONG) for text in texts]


def shortest(candidates: Candidates, *, selection: Selection, chance: FloatArray) -> list[int]:
    """Keep the shortest ``selection.keep_fraction`` of all completions; chance breaks ties."""
    order = sorted(range(candidates.size), key=lambda i: (len(candidates.texts[i]), chance[i]))
    return order[: max(1, int(selection.keep_fraction * candidates.size))]


def losses(step: TrainingStep) -> None:
    """Called by the first training worker after every optimizer step; the line is in the worker's log, in ray/."""
    logger.warning("round %d: step %d of %d, loss %.3f", step.round, step.step, step.steps, step.loss)


def told(done: RoundDone) -> None:
    """Called after every round, in a run that is resumed for its earlier ones too: a line per round in a file.

    A run may be stopped before it tells of a round that is on disk, so the file itself says which lines are missing.
    """
    path = Path(done.run_dir, "logs", "rounds.txt")
    there = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if not any(line.startswith(f"{done.round}:") for line in there):
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{done.round}: {done.shares}, gap {done.value('disparate_gap'):.3f}\n")
