"""A feedback rule in one function: groups copy the best served group, but some users of each group never leave.

Without a language model, in a second:

    PYTHONPATH=examples scpl simulate feedback.rule=custom feedback.function=own_rule:imitate

With one, on Ray: the same with ``scpl run``, which brings the file to every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOYAL = 0.02
"""Share of all users that each group keeps, whatever it is given."""
RATE = 0.3
"""Fraction of the remaining users that moves to the group with the largest measurement in a round."""


def imitate(
    shares: NDArray[np.float64],
    measured: NDArray[np.float64],
    *,
    initial_shares: NDArray[np.float64],
    round_: int,
    seed: int,
) -> NDArray[np.float64]:
    """The shares of round ``round_ + 1``.

    Args:
        shares: of this round, shape (K,), summing to 1.
        measured: ``feedback.measure`` per group, in [0, 1], shape (K,).
        initial_shares: of round 1, shape (K,).
        round_: the round that was measured, from 1.
        seed: the run's seed, for rules that draw at random; this one does not.
    """
    moving = RATE * np.maximum(shares - LOYAL, 0.0)
    after = shares - moving
    after[int(measured.argmax())] += moving.sum()
    return after
