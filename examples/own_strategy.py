"""A selection strategy in one function: keep the completions whose reward lies nearest to the median.

    python examples/own_strategy.py --dry-run
    python examples/own_strategy.py loop.rounds=2 selection.keep_fraction=0.5

are ``scpl run`` with this strategy; any options and keys of ``scpl run`` may follow. ``--resume RUN_DIR`` continues a
run, which must be asked of this file too, because ``scpl run`` does not know the strategy. Selection happens in the
driver, so no other process has to know this file. A strategy that comes with the package is registered in
scpl_ray/selection/strategies.py.
"""

from __future__ import annotations

import sys

import numpy as np

from jobs.cli import app
from scpl_ray.config import Selection
from scpl_ray.selection.candidates import Candidates, Draw, Kept, budget
from scpl_ray.selection.strategies import STRATEGIES, Strategy


def median(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """The ``selection.keep_fraction`` of all rows nearest to the median reward; chance breaks ties."""
    distance = np.abs(candidates.rewards - np.median(candidates.rewards))
    order = np.lexsort((draw.chance, distance))
    return Kept(order[: budget(candidates, selection)])


MEDIAN = Strategy(
    meaning="what lies nearest to the median reward",
    keep=median,
    fixes="size",
    reads_keep_fraction=True,
    modelled=False,  # the analytic mode does not know it
)

if __name__ == "__main__":
    STRATEGIES["median"] = MEDIAN
    app(["run", "selection.strategy=median", *sys.argv[1:]])
