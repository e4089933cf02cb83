"""The loop near equal shares as a linear map: against the simulator without chance, and against the groups alone."""

import numpy as np
import pytest

from scpl_ray.analytic import linear
from scpl_ray.analytic.fixed_points import GroupsAlone
from scpl_ray.analytic.loop import simulate_grid
from scpl_ray.analytic.model import spectral_radius
from scpl_ray.config import Experiment
from tests.support.configs import defaults

PUSH = 1e-9
LOOPS = {
    "incremental": (),
    "retraining": ("loop.kind=retraining",),
    "half real": ("cycle.real_share=0.5", "cycle.real=fresh"),
    "no prior": ("analytic.prior_rows=0",),
}


def loop(*overrides: str) -> Experiment:
    return defaults(["loop.rounds=60", "groups.shares=[0.5, 0.5]", *overrides])


def growth(*overrides: str) -> tuple[float, float]:
    """By what a small lean of the shares grows per round in the end, and the rows that a round trains on."""
    chosen = loop(f"groups.shares=[{0.5 + PUSH}, {0.5 - PUSH}]", *overrides)
    (path,) = simulate_grid([chosen], chance=False)
    lean = np.abs(path.shares[0, 1:, 0] - 0.5)
    # as long as it is small, what it started as is forgotten
    last = int(np.argmax(lean > 1e-3)) if lean.max() > 1e-3 else len(lean) - 1
    kept = path.kept_fraction[0, 1] * chosen.queries.prompts_per_round * chosen.generation.samples_per_prompt
    return float(lean[last - 1] / lean[last - 2]), float(kept / (1.0 - chosen.cycle.real_share))


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("sensitivity", [2.0, 6.0])
def test_a_small_lean_grows_as_the_map_says(name: str, sensitivity: float) -> None:
    keys = (f"feedback.beta={sensitivity}", *LOOPS[name])
    found, rows = growth(*keys)
    assert found == pytest.approx(float(spectral_radius(linear.two_group_map(loop(*keys), rows))), abs=2e-3)


@pytest.mark.parametrize(
    "keys",
    [
        (),
        ("feedback.beta=9.0", "analytic.choice_gain=2.0"),
        ("cycle.real_share=0.4", "feedback.noise=0.2", "feedback.inertia=0.3"),
        ("reward.choices=balanced", "task.marker_strength=0.5"),
        ("selection.beta=0.25", "analytic.own_kind_weight=0.6", "analytic.own_kind=0.9"),
    ],
)
def test_the_groups_alone_are_its_first_entry_without_the_kinds(keys: tuple[str, ...]) -> None:
    rest = GroupsAlone(loop(*keys)).equal_rest()
    assert rest is not None
    assert linear.held(loop(*keys)) + linear.shares_alone(loop(*keys)) == pytest.approx(rest.rho, abs=1e-5)


@pytest.mark.parametrize("sensitivity", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_an_incremental_loop_without_real_data_never_comes_to_rest_at_equal_shares(
    sensitivity: float, gain: float
) -> None:
    keys = (f"feedback.beta={sensitivity}", f"analytic.choice_gain={gain}")
    assert spectral_radius(linear.two_group_map(loop(*keys), 800.0)) > 1.0
    # what takes the lean of those who choose, or of the kinds, out of the loop lets it rest
    for cure in ("reward.choices=balanced", "analytic.own_kind_weight=0.0"):
        assert spectral_radius(linear.two_group_map(loop("feedback.beta=0.5", cure), 800.0)) == pytest.approx(1.0)
    calm = linear.two_group_map(loop("feedback.beta=0.5", "loop.kind=retraining"), 800.0)
    assert spectral_radius(calm) < 1.0


def test_other_set_ups_are_refused() -> None:
    for key, name in (
        ("feedback.rule=static", "feedback.rule"),
        ("selection.strategy=tpp", "selection.strategy"),
        ("cycle.kind=accumulate", "cycle.kind"),
        ("analytic.quality_ceiling=[0.9, 0.8]", "analytic.quality_ceiling"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: the linear map is that of the defaults"):
            linear.two_group_map(loop(key), 100.0)
    assert np.shape(linear.two_group_map(loop(), 100.0)) == (3, 3)
