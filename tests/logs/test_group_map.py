"""The map of one log: coverage of its interval on paths of which the slope is known."""

import re

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


def logged(shares: list[float], rows: int) -> Log:
    """A log of so many rows per period, in which group a has these shares, as nearly as rows allow."""
    group = np.concatenate([np.repeat([0, 1], [n := round(share * rows), rows - n]) for share in shares])
    nothing, names = np.full(len(group), np.nan), tuple(map(str, range(len(shares))))
    period = np.repeat(np.arange(len(shares)), rows)
    return Log(names, ("a", "b"), (), period, group, nothing, nothing, np.full(len(group), -1))


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            a_log(np.random.default_rng(1), 0.97, periods=22),
            "the interval holds 1; give more or shorter periods, or more rows in each",
        ),
        (logged([0.5] * 22, 600), "the shares moved too little beside what counting makes; give more or shorter"),
        (logged([0.4, 0.5, 0.6, 0.45] * 6, 10), "the shares moved too little beside what counting makes; give more"),
        (logged([expit(1.0 - 2.0 * 0.97**t) for t in range(25)], 10**5), "show a transient; give more periods"),
        (a_log(np.random.default_rng(2), 0.3), "the interval shows no growth, but a pipeline in use carries more"),
    ],
)
def test_why_it_cannot_be_told_is_said_in_words_of_a_log(log: Log, said: str) -> None:
    found = group_map(log)
    assert found.verdict == "cannot tell" and said in found.reason
    assert not re.search(r"seed|round|evaluation|draws|start", found.reason)


def test_growth_that_is_seen_needs_no_reason() -> None:
    found = group_map(logged([expit(0.05 * 1.12**t - 2.0) for t in range(25)], 10**5))
    assert found.verdict == "unstable" and found.low > 1.0 and not found.reason


def test_blocks_share_their_ends_and_end_with_the_last_period() -> None:
    blocks = _blocks(np.arange(9.0)[:, None])[..., 0]
    assert blocks.tolist() == [[2.0, 3.0, 4.0, 5.0], [5.0, 6.0, 7.0, 8.0]]


def test_too_few_periods_say_so() -> None:
    with pytest.raises(DataError, match=f"at least {FEWEST_PERIODS} are needed"):
        group_map(a_log(np.random.default_rng(8), 0.5, periods=FEWEST_PERIODS - 1))
