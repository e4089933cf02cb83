from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scpl_ray.shares import check_shares, largest_remainder, normalise


@pytest.mark.parametrize(
    ("shares", "total", "counts"),
    [
        ([0.5, 0.3, 0.2], 10, [5, 3, 2]),
        ([1 / 3, 1 / 3, 1 / 3], 10, [4, 3, 3]),
        ([0.29, 0.71], 100, [29, 71]),
        ([0.25, 0.75], 2, [1, 1]),
        ([0.1, 0.2, 0.7], 7, [1, 1, 5]),
        ([0.0, 1.0], 5, [0, 5]),
        ([0.05, 0.15, 0.8], 8, [1, 1, 6]),
        ([0.6, 0.4], 0, [0, 0]),
    ],
)
def test_largest_remainder(shares, total, counts):
    assert largest_remainder(shares, total).tolist() == counts


@given(st.lists(st.integers(1, 19), min_size=2, max_size=6), st.integers(0, 200))
def test_largest_remainder_is_exact_on_rationals(masses, total):
    quotas = [Fraction(m * total, sum(masses)) for m in masses]
    expected = [int(q) for q in quotas]
    order = sorted(range(len(masses)), key=lambda g: (expected[g] - quotas[g], g))
    for g in order[: total - sum(expected)]:
        expected[g] += 1
    assert largest_remainder(np.array(masses) / sum(masses), total).tolist() == expected


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20).filter(sum), st.integers(0, 5000))
def test_largest_remainder_sums_to_the_total_and_stays_within_one(masses, total):
    shares = np.array(masses) / sum(masses)
    counts = largest_remainder(shares, total)
    assert counts.sum() == total
    assert np.all(np.abs(counts - shares * total) < 1 + 1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "fewer than 2 groups"),
        (1.0, "fewer than 2 groups"),
        ([0.5, 0.6], "sums to 1.1; shares sum to 1"),
        ([[0.5, 0.5], [0.5, 0.4]], "sums to 0.9"),
        ([1.2, -0.2], "negative"),
        ([float("nan"), 1.0], "not finite"),
        ([0.2, 0.3, 0.5], "3 shares for 2 groups"),
    ],
)
def test_invalid_shares_are_named(values, message):
    with pytest.raises(ValueError, match=f"selection.target: .*{message}"):
        check_shares("selection.target", values, 2)


def test_any_number_of_groups_where_none_is_asked():
    assert check_shares("s", [0.2, 0.3, 0.5]).tolist() == [0.2, 0.3, 0.5]


def test_no_mass_has_no_shares():
    with pytest.raises(ValueError, match="arrivals: every group's mass is 0"):
        normalise("arrivals", np.array([[1.0, 2.0], [0.0, 0.0]]))


def test_negative_total():
    with pytest.raises(ValueError, match="total: -1 is negative"):
        largest_remainder([0.5, 0.5], -1)
