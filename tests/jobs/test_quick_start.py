"""The quick start in the analytic mode: what its users' leaving does, and what happens where nobody leaves."""

import numpy as np
import pytest

from jobs.driver import experiments
from scpl_ray.analytic.loop import simulate
from scpl_ray.analytic.paths import Paths


def paths(*overrides: str) -> Paths:
    return simulate(experiments.load(None, ["analytic.seeds=400", "evaluation.neutral_prompts=20_000", *overrides]))


def moved(found: Paths) -> np.ndarray:
    """Log-odds of the first group's kind on neutral prompts since round 0, shape (S,)."""
    kinds = np.log(found.kinds[..., 0] / found.kinds[..., 1])
    return np.asarray(kinds[:, -1] - kinds[:, 0])


def test_the_impatient_group_leaves_and_preference_follows_those_who_stay() -> None:
    found = paths("analytic.spillover=0.2")
    shares = found.arrivals / found.arrivals.sum(axis=-1, keepdims=True)
    assert (np.diff(shares[..., 1].mean(axis=0)[1:]) < 0).all() and shares[:, -1, 1].max() < 0.1
    assert (moved(found) >= 0.3).mean() >= 0.9
    assert (found.quality[:, -1, 1] < found.quality[:, 0, 1]).mean() >= 0.9


def test_where_nobody_leaves_preference_stays_on_average() -> None:
    still = moved(paths("feedback.rule=static", "analytic.spillover=0.2"))
    assert still.mean() == pytest.approx(0.0, abs=4 * still.std() / len(still) ** 0.5)
