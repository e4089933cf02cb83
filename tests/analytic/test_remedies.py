"""Which remedy pulls which bias, in the loop without a language model."""

import numpy as np
import pytest

from scpl_ray import seeds
from scpl_ray.analytic import loop, model
from scpl_ray.analytic.fixed_points import GroupsAlone
from scpl_ray.config import Experiment
from tests.support.configs import defaults

REMEDIES = ("importance", "calibrated", "reweight", "quotas")


def config(*overrides: str) -> Experiment:
    return defaults(["generation.engine=transformers", "feedback.rule=static", *overrides])


def remedied(strategy: str, *overrides: str) -> tuple[float, float]:
    """Preference log-odds above balance, and the gap without own kind, in round 8; north sends 0.7 of the queries."""
    at = ("loop.rounds=8", "groups.shares=[0.7, 0.3]", "analytic.seeds=60")
    series = loop.simulate(config(f"selection.strategy={strategy}", *at, *overrides)).series()
    preference, gap = "preference_log_odds_balanced", "disparate_gap_without_own_kind"
    return float(series[preference, None][:, -1].mean()), float(series[gap, None][:, -1].mean())


def test_without_a_remedy_both_biases_are_there() -> None:
    drift, gap = remedied("vrs")
    assert drift > 2.0 and gap > 0.14


@pytest.mark.parametrize("strategy", REMEDIES)
def test_a_target_of_groups_closes_the_gap_and_one_of_kinds_stops_the_drift(strategy: str) -> None:
    """A target of groups balances who asked, and kinds go on drifting.

    The base model writes these users 0.6 of the north's kind, 0.8 (0.7 * 0.8 + 0.3 * 0.2) + 0.2 / 2: a target of kinds
    that keeps what they are written keeps neutral prompts neutral.
    """
    by_group = remedied(strategy)
    by_kind = remedied(strategy, "selection.target_of=kinds", "selection.target=[0.6, 0.4]")
    assert by_group[1] < 0.06
    assert abs(by_kind[0]) < 0.4 and by_kind[1] > by_group[1] + 0.02
    # importance weights select nothing by reward, so that there is no drift to stop
    assert by_group[0] > 1.2 or strategy == "importance"


def test_equal_kinds_among_all_data_lean_to_the_other_side_where_groups_ask_unequally() -> None:
    assert -0.8 < remedied("quotas", "selection.target_of=kinds")[0] < -0.2
    equal = remedied("quotas", "selection.target_of=kinds", "groups.shares=[0.5, 0.5]")
    assert abs(equal[0]) < 0.1


@pytest.mark.parametrize("target_of", ["groups", "kinds"])
@pytest.mark.parametrize("strategy", ["importance", "quotas", "calibrated", "reweight", "penalty"])
def test_the_closed_form_of_the_kept_groups_is_that_of_many_completions(strategy: str, target_of: str) -> None:
    chosen = config(
        f"selection.strategy={strategy}",
        f"selection.target_of={target_of}",
        "selection.target=[0.3, 0.7]",
        "selection.keep_fraction=0.1",
        "selection.r_max=bound",
        "selection.reward_bound=2.0",
        "queries.prompts_per_round=40000",
        "groups.shares=[0.7, 0.3]",
        "analytic.kind_advantage=0.1",
        "loop.rounds=1",
        "analytic.seeds=20",
    )
    reacting = chosen.model_copy(update={"feedback": chosen.feedback.model_copy(update={"rule": "softmax"})})
    if (strategy, target_of) == ("reweight", "kinds"):
        # whose candidates there are more of follows from the last round's quality
        with pytest.raises(ValueError, match="reweight draws by quality"):
            GroupsAlone(reacting)
        return
    expected = GroupsAlone(reacting).kept_shares(np.array([0.7, 0.3]))
    kept = loop.simulate(chosen).kept_shares[:, 1].mean(axis=0)
    assert kept == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize("shares", [[0.6, 0.4], [0.92, 0.08]])
def test_reweighting_draws_as_many_completions_as_no_remedy(shares: list[float]) -> None:
    chosen = config(f"groups.shares={shares}", "selection.strategy=reweight")
    batch = loop._Loop(model.stack([chosen], 20), [model.assumed_start(chosen)], seeds.generator(0, "simulate"))
    batch.evaluation(np.array([[0.6, 0.4]] * 20))
    answered = batch.generation(1)
    wanted = chosen.queries.prompts_per_round * chosen.generation.samples_per_prompt
    assert (answered.counts.sum(axis=(1, 2, 3)) == wanted).all()
    # some queries get one completion more than others of their group
    assert (answered.counts.sum(axis=-1) > answered.prompts * answered.samples[:, :, None]).any()
