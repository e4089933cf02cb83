"""Short forms of the simulations of ``python -m tests.theory.stability_calibration``."""

import numpy as np
import pytest

from scpl_ray.analytic.loop import simulate
from tests.theory import stability_calibration as calibration


@pytest.mark.parametrize(
    ("name", "seeds", "rounds"),
    [("share and kind, rho .856", 10, 5), ("share and kind, rho 1", 20, 10), ("share and kind, rho 1.1", 10, 5)],
)
def test_intervals_of_rho_hold_the_truth_in_spite_of_noise(name: str, seeds: int, rounds: int) -> None:
    found = calibration.rho_of_linear_loops(calibration.JACOBIANS[name], seeds, rounds, 200, 60)
    # standard error 2.8%
    assert found.told >= 0.95 and found.coverage >= 0.9
    if "rho 1" in name:
        assert found.stable <= 0.03


def test_noise_that_is_ignored_makes_growth_look_stable() -> None:
    """The fault: as it was, a loop whose deviations never die out was called stable in most of the studies."""
    found = calibration.rho_of_linear_loops([[0.4, 0.2], [0.0, 1.0]], 20, 10, 50, 50)
    assert found.plain_stable >= 0.5
    assert found.stable <= 0.06


def test_noise_that_stays_from_round_to_round_hides_that_a_loop_is_stable_and_never_that_it_is_not() -> None:
    """A real run asks the same prompts from the same seeds in every round, so that answers keep their chance."""
    stable, still, growing = (
        calibration.rho_of_linear_loops(
            calibration.JACOBIANS[f"share and kind, rho {rho}"], 20, 10, 200, 60, same_chance=True
        )
        for rho in (".856", "1", "1.1")
    )
    assert stable.stable <= 0.03 and stable.unstable <= 0.03
    assert still.stable == 0.0 and still.unstable <= 0.09
    assert growing.stable == 0.0 and growing.unstable >= 0.8


def test_a_loop_that_runs_away_slowly_is_not_called_stable() -> None:
    later = simulate(
        calibration.experiment(calibration.SLOW_RUNAWAY, {"loop": {"rounds": 300}, "analytic": {"seeds": 10}})
    )
    shares = np.maximum(later.shares, 1.0 - later.shares)[:, :, 0]
    assert shares[:, 300].mean() > 0.9 > 0.65 > shares[:, 10].mean()
    found = calibration.rho_of_arms(calibration.SLOW_RUNAWAY, 10, 10, 20)
    assert found.plain_stable == 1.0
    assert found.stable == 0.0


def test_a_loop_that_comes_to_rest_is_called_stable_where_enough_was_measured() -> None:
    retraining: dict[str, dict[str, object]] = {
        "loop": {"kind": "retraining"},
        "selection": {"strategy": "none"},
        "queries": {"prompts_per_round": 100},
        "groups": {"shares": (0.5, 0.5)},
    }
    found = calibration.rho_of_arms({**retraining, **calibration.MANY_ANSWERS}, 10, 20, 40)
    assert found.coverage >= 0.9
    assert found.stable >= 0.4 and found.unstable == 0.0 and found.plain_stable == 1.0
    # the same with the 200 and 100 answers of the defaults: the kinds move less than their noise
    assert calibration.rho_of_arms(retraining, 10, 20, 10).stable == 0.0


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_a_gap_by_chance_covers_unequal_difficulty(offset: float) -> None:
    gap, chance, p, equal = calibration.gaps(offset, 60)
    assert chance == pytest.approx(gap, abs=0.03)
    assert p <= 0.1
    if offset:
        # the fault: with equal difficulty assumed, groups that are served alike seem to be served unequally
        assert equal > 0.9


def test_a_gap_that_turned_round_is_found() -> None:
    _, _, p, _ = calibration.gaps(0.2, 40, gain=-0.4)
    assert p >= 0.9


def test_choice_gain_is_consistent_with_three_groups() -> None:
    errors = {}
    for prompts in (500, 20_000):
        gains = calibration.fitted(calibration.fits(prompts, 2), "choice_gain")
        errors[prompts] = np.mean([abs(p.after - 0.7) for p in gains])
        assert all(p.low < p.after < p.high for p in gains)
    # a rest that is divided equally among the other kinds gives .66 and .65, worse with more rows
    assert errors[20_000] < 0.01 and errors[20_000] < errors[500] < 0.06


def test_weakly_determined_parameters_have_ranges_that_hold_the_truth() -> None:
    found = calibration.fits(4000, 2)
    for name, true in (("prior_rows", 100.0), ("spillover", 0.0)):
        ranges = calibration.fitted(found, name)
        assert sum(p.low <= true <= p.high for p in ranges) == 2
        assert all(p.low < p.high for p in ranges)
