"""How often groups of which some have few ratings are said to be rated differently, or to change differently."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from scpl_ray.logs import findings, ratings

Law = Callable[[np.random.Generator, int], np.ndarray]
LAWS: dict[str, Law] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "stars": lambda rng, n: rng.choice(5, p=[0.05, 0.05, 0.1, 0.2, 0.6], size=n) + 1.0,
    "thumbs": lambda rng, n: (rng.random(n) < 0.9).astype(float),
    "exponential": lambda rng, n: rng.exponential(size=n),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("few", "groups"), [(2, 8), (4, 3), (6, 8), (10, 8), (30, 8)])
@pytest.mark.usefixtures("few_draws")
def test_groups_with_few_ratings_beside_large_ones_rarely_seem_to_differ(few: int, groups: int, law: str) -> None:
    """In the last period alone, or in both."""
    rng = np.random.default_rng(few)
    large, small = [150, 100], [few] * groups
    found = []
    for _ in range(100):
        before, now, other = (
            [LAWS[law](rng, n) for n in sizes] for sizes in (large + [60] * groups, large + small, large + small)
        )
        every = range(groups + 2)
        found.append(
            (
                findings._differ(now),
                findings._change_differently(before, now, every),
                findings._change_differently(other, now, every),
            )
        )
    assert (np.mean(np.array(found) < 0.05, axis=0) <= 0.1).all()


@pytest.mark.parametrize("apart", [0.0, 2.0])
@pytest.mark.usefixtures("few_draws")
def test_groups_that_are_rated_apart_and_change_alike_rarely_seem_to_change_differently(apart: float) -> None:
    rng = np.random.default_rng(1)
    level, sizes = apart * rng.normal(size=6), [150, 100, 8, 8, 8, 8]
    found = []
    for _ in range(150):
        draws = [[rng.normal(size=n) + own + t for n, own in zip(sizes, level, strict=True)] for t in (0.0, 1.0)]
        found.append(findings._change_differently(*draws, range(6)))
    assert np.mean(np.array(found) < 0.05) <= 0.09


@pytest.mark.usefixtures("few_draws")
def test_a_difference_of_large_groups_is_seen_beside_small_ones() -> None:
    rng = np.random.default_rng(2)
    found = []
    for _ in range(40):
        before, now = ([LAWS["stars"](rng, n) for n in [300, 300] + [8] * 6] for _ in range(2))
        now[0] = np.maximum(1.0, now[0] - (rng.random(300) < 0.7))
        found.append((findings._differ(now), findings._change_differently(before, now, range(8))))
    assert (np.mean(np.array(found) < 0.05, axis=0) > 0.8).all()


def test_equal_means_with_unequal_variances_rarely_seem_to_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratings, "DRAWN", (199, 199))
    rng = np.random.default_rng(3)
    found = [
        findings._differ([rng.normal(size=40), 4.0 * rng.normal(size=20), rng.normal(size=60)]) for _ in range(300)
    ]
    assert np.mean(np.array(found) < 0.05) <= 0.08


def test_many_ratings_are_compared_by_the_law_of_many_as_few_are_by_shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    samples = [rng.normal(size=400) * (1.0 + i) + 0.28 * i for i in range(3)]
    shuffled = findings._differ(samples)
    monkeypatch.setattr(ratings, "MANY_RATINGS", 400)
    many = findings._differ(samples)
    assert many == pytest.approx(stats.alexandergovern(*samples).pvalue, rel=0.1)
    assert shuffled == pytest.approx(many, rel=0.2) and 0.001 < many < 0.1
