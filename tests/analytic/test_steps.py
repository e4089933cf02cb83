"""Where preference bias enters a simulated round."""

import numpy as np
import pytest

from scpl_ray.analytic.loop import simulate
from scpl_ray.analytic.steps import Steps, steps
from tests.support.configs import defaults

LARGE = ("queries.prompts_per_round=20_000", "reward.choices_per_round=1_000_000", "analytic.seeds=6", "loop.rounds=3")
SHIFTED = ("feedback.rule=schedule", "feedback.step=[0.08, -0.08]", "analytic.prior_rows=4000")


def of(*overrides: str) -> Steps:
    return steps(simulate(defaults([*LARGE, *SHIFTED, *overrides])))


def test_rejection_sampling_adds_what_was_taught_over_beta() -> None:
    found = of("selection.beta=0.5")
    np.testing.assert_allclose(found.taught.mean(axis=0), [0.2, 0.36, 0.52], atol=0.005)
    np.testing.assert_allclose(found.selected.mean(axis=0), found.taught.mean(axis=0) / 0.5, atol=0.04)
    assert np.abs(found.weighted).max() == 0.0
    assert found.asked.mean(axis=0)[0] == pytest.approx(0.19, abs=0.02)  # logit 0.548
    assert found.leaning.mean(axis=0)[0] == 0.0 and (np.diff(found.leaning.mean(axis=0)) > 0).all()
    assert (found.learned.mean(axis=0) > 0.1).all()


def test_each_remedy_is_seen_in_the_step_that_it_pulls() -> None:
    balanced = of("reward.choices=balanced")
    assert np.abs(balanced.taught).max() < 0.01 and np.abs(balanced.selected.mean(axis=0)).max() < 0.03
    np.testing.assert_allclose(balanced.asked[:, 0], of().asked[:, 0])
    nothing = of("selection.strategy=none")
    assert np.abs(nothing.selected).max() == 0.0 and nothing.taught.mean() > 0.3
    by_group = of("selection.strategy=importance")
    assert np.abs(by_group.selected).max() == 0.0 and (by_group.weighted.mean(axis=0) < -0.15).all()
    by_kind = of("selection.strategy=calibrated", "selection.target_of=kinds")
    assert np.abs((by_kind.selected + by_kind.leaning + by_kind.asked).mean(axis=0)).max() < 0.05


def test_what_is_learned_is_what_answers_at_the_runs_temperature_gain() -> None:
    paths = simulate(defaults([*LARGE, *SHIFTED, "generation.temperature=0.5"]))
    before_decoding = np.diff(np.log(paths.neutral_law[..., 0] / paths.neutral_law[..., 1]), axis=1)
    np.testing.assert_allclose(steps(paths).learned, 2.0 * before_decoding)


def test_three_kinds() -> None:
    found = of("groups.names=[a, b, c]", "groups.shares=[0.5, 0.3, 0.2]", "feedback.step=[0.08, -0.04, -0.04]")
    # gain times the share of those who choose above the mean of the two others
    assert found.taught.mean(axis=0)[0] == pytest.approx(0.5 - 0.25, abs=0.005)
    assert found.selected.shape == (6, 3)
