"""The map of one log: coverage of its interval on paths of which the slope is known."""

import numpy as np
import pytest
from scipy.special import expit

from scpl_ray.logs.group_map import FEWEST_PERIODS, _blocks, group_map
from scpl_ray.logs.reading import Log
from scpl_ray.tasks.tally import DataError

PER_PERIOD = 600


def a_log(rng: np.random.Generator, rho: float, periods: int = 61) -> Log:
    state, shares = 0.3, []
    for _ in range(periods):
        state = 0.3 + rho * (state - 0.3) + 0.15 * rng.normal()
        shares.append(expit(state))
    first = np.array([rng.binomial(PER_PERIOD, share) for share in shares])
    group = np.concatenate([np.repeat([0, 1], [n, PER_PERIOD - n]) for n in first])
    nothing = np.full(len(group), np.nan)
    period = np.repeat(np.arange(periods), PER_PERIOD)
    return Log(
        tuple(map(str, range(periods))), ("a", "b"), (), period, group, nothing, nothing, np.full(len(group), -1)
    )


@pytest.mark.parametrize("rho", [0.3, 0.7])
def test_the_interval_covers_the_slope_and_nothing_is_called_stable(rho: float) -> None:
    rng = np.random.default_rng(7)
    found = [group_map(a_log(rng, rho)) for _ in range(150)]
    assert np.mean([one.low <= rho <= one.high for one in found]) >= 0.9
    assert {one.verdict for one in found} == {"cannot tell"}
    assert any("carries more from period to period" in one.reason for one in found)


def test_blocks_share_their_ends_and_end_with_the_last_period() -> None:
    blocks = _blocks(np.arange(9.0)[:, None])[..., 0]
    assert blocks.tolist() == [[2.0, 3.0, 4.0, 5.0], [5.0, 6.0, 7.0, 8.0]]


def test_too_few_periods_say_so() -> None:
    with pytest.raises(DataError, match=f"at least {FEWEST_PERIODS} are needed"):
        group_map(a_log(np.random.default_rng(8), 0.5, periods=FEWEST_PERIODS - 1))
