"""Where the numbers of a simulated round come from: a random stream, or the expectation of every draw.

With :class:`Expected` the simulator becomes its own mean field: the same code, in which every count is the mean of its
law, so that one path shows what is left without chance. It is the limit of many completions, not the mean of many
seeds: the two differ where a round bends what chance spread.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from scpl_ray.config import Experiment
from scpl_ray.selection import strategies
from scpl_ray.shares import FloatArray, IntArray


class Expected:
    """Every draw is its expectation, so that counts are not whole; the methods are those of NumPy's generators."""

    def multinomial(self, n: IntArray | int, pvals: FloatArray, /) -> IntArray:
        """n p, shape (..., K), for n (...) draws with probabilities (..., K)."""
        return cast(IntArray, np.asarray(n)[..., None] * pvals)

    def binomial(self, n: IntArray, p: FloatArray, /) -> IntArray:
        """n p."""
        return cast(IntArray, np.asarray(n * p))

    def hypergeometric(self, ngood: IntArray, nbad: IntArray, nsample: IntArray, /) -> IntArray:
        """The sample's size times the share of the good; 0 where there is nothing to sample."""
        total = np.asarray(ngood + nbad, dtype=np.float64)
        share = np.divide(ngood, total, out=np.zeros_like(total), where=total > 0)
        return cast(IntArray, np.asarray(nsample * share))


Draws = np.random.Generator | Expected


def check_expected(experiment: Experiment) -> None:
    """Refuse settings whose rounds have no expectation in closed form.

    Raises:
        ValueError: whole users, every prompt's own maximum, or numbers of completions that follow quality.
    """
    chosen, strategy = experiment.selection, strategies.STRATEGIES[experiment.selection.strategy]
    if experiment.feedback.agents:
        raise ValueError("feedback.agents: true draws whole users, which have no expectation here; set it to false")
    if chosen.r_max == "prompt" and strategy.reads_r_max:
        raise ValueError(
            f"selection.r_max: prompt: what {chosen.strategy} expects to keep has no closed form; use batch"
        )
    if strategies.steers(chosen):
        raise ValueError(
            f"selection.strategy: {chosen.strategy} divides whole completions by quality, which has no expectation "
            "in closed form; simulate seeds"
        )
