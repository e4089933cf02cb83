"""How much of the quality is the own kind in the analytic mode: what the quality of the task asks for."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from scpl_ray.analytic import linear
from scpl_ray.analytic.fixed_points import GroupsAlone
from scpl_ray.analytic.loop import simulate
from scpl_ray.config import Experiment
from tests.support.configs import defaults

SMALL = ("analytic.seeds=40", "loop.rounds=3", "queries.prompts_per_round=100")


def of_task(name: str, *overrides: str) -> Experiment:
    experiment = defaults([*SMALL, *overrides])
    return experiment.model_copy(update={"task": experiment.task.model_copy(update={"name": name})})


@pytest.mark.parametrize(
    ("name", "weight"), [("language", 1 / 3), ("news", 0.0), ("maths", 0.0), ("preference", 1.0), ("own.py:build", 0.0)]
)
def test_quality_asks_for_the_own_kind_as_the_tasks_does(name: str, weight: float) -> None:
    paths = simulate(of_task(name))
    assert_allclose(paths.quality, (1.0 - weight) * paths.quality_without_own_kind + weight * paths.own_kind)
    told = simulate(of_task(name, f"analytic.own_kind_weight={weight}"))
    assert_array_equal(told.shares, paths.shares)
    shares = np.array([0.6, 0.4])
    alone, as_told = (GroupsAlone(one.experiment).measured(shares) for one in (paths, told))
    assert_array_equal(alone, as_told)
    assert_array_equal(*(linear.two_group_map(one.experiment, 800.0) for one in (paths, told)))


def test_a_weight_that_is_given_is_used_whatever_the_task() -> None:
    paths = simulate(of_task("news", "analytic.own_kind_weight=0.25"))
    assert_allclose(paths.quality, 0.75 * paths.quality_without_own_kind + 0.25 * paths.own_kind)


def test_the_gaps_of_a_quality_that_asks_for_no_kind_are_one() -> None:
    series = simulate(of_task("news")).series()
    assert_array_equal(series["disparate_gap", None], series["disparate_gap_without_own_kind", None])
