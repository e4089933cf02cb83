"""Real rows in the analytic mode: how many of them answer prompts that reveal nobody, as in the task's real text."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scpl_ray.analytic import model
from scpl_ray.analytic.loop import Start, simulate, simulate_grid
from scpl_ray.config import Experiment
from scpl_ray.tasks import TASKS
from tests.support.configs import defaults

CALM = ("feedback.rule=static", "selection.strategy=none", "analytic.prior_rows=0", "generation.samples_per_prompt=1")


def of_task(name: str, *overrides: str) -> Experiment:
    experiment = defaults([*CALM, "task.marker_strength=0.5", *overrides])
    return experiment.model_copy(update={"task": experiment.task.model_copy(update={"name": name})})


@pytest.mark.parametrize(("name", "unmarked"), [("language", 1 / 21), ("news", 0.5), ("own.py:build", 0.5)])
def test_neutral_prompts_have_the_share_of_the_tasks_real_text(name: str, unmarked: float) -> None:
    """Nearly all rows are real, so the noise of a fitted policy tells how many of them answered its prompts."""
    real = ("cycle.real_rows=100_000", "queries.prompts_per_round=1", "loop.rounds=1", "analytic.seeds=500")
    paths = simulate(of_task(name, *real))
    assert paths.neutral_law[:, 1, 0].var() == pytest.approx(0.25 / (100_000 * unmarked), rel=0.25)
    assert paths.revealing_law[:, 1, 0, 0].var() == pytest.approx(0.16 / (100_000 * (1.0 - unmarked) / 2), rel=0.25)


def test_a_share_of_real_data_is_weaker_on_the_prompts_that_it_seldom_answers() -> None:
    """Without a prior, what a round kept moves a prompt's kinds as far as its own rows are not real."""
    shifted = ("analytic.kind_advantage=1.0", "selection.strategy=vrs", "loop.rounds=1", "cycle.real_share=0.5")
    start = Start(np.full((2, 2), 0.5), np.full(2, 0.5))
    paths = simulate_grid([of_task(name, *shifted) for name in ("language", "news")], start=start, chance=False)
    lean = [path.neutral_law[0, 1, 0] - 0.5 for path in paths]
    kept = paths[0].kept_kinds[0, 1, 0] - 0.5
    assert kept > 0.1
    assert_allclose(lean, [kept * 21 / 23, kept / 2], atol=1e-3)


def test_real_text_that_nothing_is_asked_in_answers_nobody() -> None:
    assert model.marked_in_real(of_task("language", "task.marker_strength=0.0")) == 0.0
    assert model.marked_in_real(of_task("language", "task.marker_strength=1.0")) == 1.0
    assert model.marked_in_real(of_task("language")) == pytest.approx(20 / 21)
    assert model.marked_in_real(of_task("language", "task.real_text=even")) == 0.5
    assert [name for name, kind in TASKS.items() if kind.unmarked_kept] == ["language"]
