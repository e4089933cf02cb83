"""Completions per query: more for the weaker group, and as many in all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scpl_ray.selection.allotment import more_for_weaker, per_query


@pytest.mark.parametrize(
    ("quality", "queries", "expected"),
    [
        # 4 per query in all; per query in proportion to 1 - q: c (.1 * 60 + .2 * 40) = 400
        ([0.9, 0.8], [60, 40], [171, 229]),
        ([0.5, 0.5], [60, 40], [240, 160]),
        ([1.0, 1.0], [60, 40], [240, 160]),
        # at most 8 per query: the rest goes to the group that lacks nothing
        ([1.0, 0.2], [60, 40], [80, 320]),
        ([1.0, 0.2], [92, 8], [336, 64]),
        # at least 1 per query
        ([0.99, 0.2], [50, 50], [50, 350]),
        ([0.9, 0.9, 0.0], [10, 10, 10], [20, 20, 80]),
        ([0.9, 0.8], [0, 5], [0, 20]),
    ],
)
def test_by_hand(quality: list[float], queries: list[int], expected: list[int]) -> None:
    assert more_for_weaker(4, np.array(quality), np.array(queries)).tolist() == expected


def test_a_remedy_does_not_change_the_amount_of_data_with_the_shares() -> None:
    """It drew 3.24 completions per query at shares .92 and .08, and 4.20 at .6 and .4."""
    quality = np.array([0.88, 0.80])
    for share in (0.5, 0.6, 0.75, 0.92, 1.0):
        queries = np.array([round(1000 * share), round(1000 * (1 - share))])
        assert more_for_weaker(4, quality, queries).sum() == 4000


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 300)), min_size=2, max_size=8),
    st.integers(1, 16),
    st.integers(1, 2),
)
def test_bounds_and_order(groups: list[tuple[float, int]], n: int, fewest: int) -> None:
    quality, queries = np.array([q for q, _ in groups]), np.array([k for _, k in groups])
    fewest = min(fewest, n)
    totals = more_for_weaker(n, quality, queries, fewest)
    assert totals.sum() == n * queries.sum()
    assert np.all((totals >= fewest * queries) & (totals <= 2 * n * queries))
    asked = queries > 0
    per = totals[asked] / queries[asked]
    best_first = np.argsort(-quality[asked], kind="stable")
    # rounding gives a group at most one completion more
    assert np.all(np.diff(per[best_first]) >= -2.0 / queries[asked].min() - 1e-9) if asked.any() else True


def test_a_batch_is_its_rows() -> None:
    quality = np.array([[0.9, 0.8], [1.0, 1.0], [1.0, 0.2]])
    queries = np.array([[60, 40], [30, 70], [92, 8]])
    batch = more_for_weaker(4, quality, queries)
    assert batch.tolist() == [more_for_weaker(4, q, k).tolist() for q, k in zip(quality, queries, strict=True)]


def test_queries_of_a_group_get_equally_many_within_one() -> None:
    assert per_query([7, 4], np.array([0, 1, 0, 0, 1])) == [3, 2, 2, 2, 2]
    assert per_query([0, 4], np.array([1, 1])) == [2, 2]
