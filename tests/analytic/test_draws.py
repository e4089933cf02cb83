"""The analytic mode without chance: every draw is its expectation."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scpl_ray.analytic.loop import Paths, simulate_grid
from scpl_ray.config import Experiment
from tests.support.configs import defaults

MANY = (
    "queries.prompts_per_round=20_000",
    "reward.choices_per_round=1_000_000",
    "analytic.prior_rows=4000",
    "analytic.seeds=8",
    "evaluation.prompts_per_group=1_000_000",
    "evaluation.neutral_prompts=1_000_000",
    "loop.rounds=3",
    "cycle.size=10_000",
)
"""So many of everything that chance is small."""


def many(*overrides: str) -> Experiment:
    return defaults([*MANY, *overrides])


def close(found: Paths, expected: Paths, within: float) -> None:
    for name in ("shares", "kept_shares", "kept_fraction", "quality", "own_kind", "kinds", "neutral_law", "data_kinds"):
        assert_allclose(getattr(found, name).mean(axis=0), getattr(expected, name)[0], atol=within, err_msg=name)


@pytest.mark.parametrize(
    "keys",
    [
        ("selection.strategy=none",),
        ("selection.strategy=random",),
        ("selection.strategy=vrs",),
        ("selection.strategy=vrs", "selection.matched_control=true", "feedback.rule=retention"),
        ("selection.strategy=vrs", "selection.r_max=bound", "selection.reward_bound=1.6", "loop.kind=retraining"),
        ("selection.strategy=tpp",),
        ("selection.strategy=top", "feedback.rule=replicator"),
        ("selection.strategy=threshold", "selection.threshold=0.2"),
        ("selection.strategy=importance", "selection.target_of=kinds"),
        ("selection.strategy=quotas", "selection.keep_fraction=0.1"),
        ("selection.strategy=calibrated", "selection.target=[0.3, 0.7]"),
        ("selection.strategy=penalty", "cycle.kind=accumulate"),
        ("cycle.kind=subsample", "cycle.real_share=0.3"),
        ("cycle.kind=window", "cycle.real_share=0.3", "cycle.real=fresh", "generation.temperature=0.9"),
        ("groups.names=[a, b, c]", "groups.shares=[0.5, 0.3, 0.2]", "analytic.spillover=0.3", "feedback.rule=linear"),
    ],
    ids=lambda keys: " ".join(key.split(".")[1] for key in keys[:2]),
)
def test_without_chance_a_path_is_that_of_many_completions(keys: tuple[str, ...]) -> None:
    chosen = [many(*keys)]
    close(simulate_grid(chosen)[0], simulate_grid(chosen, chance=False)[0], 0.012)


def test_one_path_which_does_not_depend_on_its_batch() -> None:
    grid = [many("feedback.beta=4.0"), many("feedback.beta=8.0"), many("selection.strategy=top")]
    together = simulate_grid(grid, chance=False)
    assert all(len(paths.shares) == 1 for paths in together)
    for alone, paths in zip((simulate_grid([one], chance=False)[0] for one in grid), together, strict=True):
        assert_allclose(alone.quality, paths.quality, atol=1e-12)
    # fewer than one completion in a cell is none of an error
    few = simulate_grid([many("queries.prompts_per_round=3", "groups.shares=[0.99, 0.01]")], chance=False)[0]
    assert np.isfinite(few.quality).all()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("feedback.rule=retention", "feedback.agents=true"), r"feedback\.agents: true draws whole users"),
        (("selection.r_max=prompt",), r"selection\.r_max: prompt: what vrs expects to keep has no closed form"),
        (("selection.strategy=reweight",), "reweight divides whole completions by quality"),
    ],
)
def test_what_has_no_expectation_is_refused(keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate_grid([many(*keys)], chance=False)
    # what does not read the key is not refused for it
    assert simulate_grid([many("selection.r_max=prompt", "selection.strategy=top")], chance=False)


def test_a_group_that_is_harder_to_serve_has_a_ceiling_of_its_own() -> None:
    keys = ("analytic.quality_ceiling=[0.9, 0.6]", "analytic.own_kind_weight=0.0", "feedback.rule=static")
    equal = simulate_grid([many(*keys, "groups.shares=[0.5, 0.5]", "selection.strategy=none")], chance=False)[0]
    assert_allclose(equal.quality[0], np.broadcast_to([0.9, 0.6], (4, 2)), atol=1e-9)
    # what the base model cannot do for a group is difficulty, which is the gap by chance
    assert_allclose(equal.gap_null[0, 1:], 0.3, atol=1e-9)


@pytest.mark.parametrize("ceilings", ["[0.9]", "[0.9, 0.8, 0.7]", "[0.9, 1.2]", "[-0.1, 0.9]"])
def test_ceilings_are_one_per_group(ceilings: str) -> None:
    with pytest.raises(ValueError, match=r"analytic\.quality_ceiling: \[.*\]; give one number in \[0, 1\], or one per"):
        simulate_grid([many(f"analytic.quality_ceiling={ceilings}")])
