"""What is said about acceptance where few rows were kept, groups are small, or ratings are missing."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from scpl_ray.logs import findings
from scpl_ray.logs.reading import Log

EQUALS = "is what is kept different between groups of equal rating?"
PLAIN = "is what is kept different between groups?"


def about_kept(log: Log) -> findings.Finding:
    return next(one for one in findings.findings(log) if one.question in (EQUALS, PLAIN))


@pytest.mark.parametrize(
    ("sizes", "chance"),
    [
        ([1_000, 5], 0.02),
        ([3, 3], 0.5),
        ([500, 30], 0.01),
        ([300, 100, 20, 10, 5], 0.02),
        ([4] * 12, 0.05),
    ],
)
@pytest.mark.usefixtures("few_draws")
def test_rare_acceptance_and_small_groups_rarely_seem_to_differ(sizes: list[int], chance: float) -> None:
    rng = np.random.default_rng(sum(sizes))
    group = np.repeat(np.arange(len(sizes)), sizes)
    strata = rng.integers(2, size=len(group))
    found = [findings.cochran_mantel_haenszel(group, rng.random(len(group)) < chance, strata) for _ in range(300)]
    assert np.mean(np.array(found) < 0.05) <= 0.08 and np.mean(np.array(found) < 0.01) <= 0.03


@pytest.mark.parametrize(("sizes", "kept"), [((1_000, 5), (20, 1)), ((40, 6), (38, 3)), ((5, 7), (4, 1))])
def test_a_stratum_of_few_has_the_p_value_of_shuffled_labels(sizes: tuple[int, int], kept: tuple[int, int]) -> None:
    group = np.repeat([0, 1], sizes)
    was = np.concatenate([np.arange(n) < k for n, k in zip(sizes, kept, strict=True)])
    law = stats.hypergeom(sum(sizes), sum(kept), sizes[1])
    counts = np.arange(sizes[1] + 1)
    far = np.abs(counts - law.mean()) >= abs(kept[1] - law.mean()) - 1e-9
    found = findings.cochran_mantel_haenszel(group, was, np.zeros(len(group), int))
    assert found == pytest.approx(law.pmf(counts)[far].sum(), rel=0.15)


def test_shuffles_within_strata_have_the_law_of_many_rows_where_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    strata = rng.integers(6, size=900)
    group, kept = rng.integers(3, size=900), rng.random(900) < 0.1 + 0.1 * strata
    kept[(group == 2) & (rng.random(900) < 0.12)] = True
    many = findings.cochran_mantel_haenszel(group, kept, strata)
    monkeypatch.setattr(findings, "FEWEST_EXPECTED", math.inf)
    assert 0.001 < many < 0.1
    assert findings.cochran_mantel_haenszel(group, kept, strata) == pytest.approx(many, rel=0.25)


def test_a_large_difference_of_a_small_group_is_shown() -> None:
    group = np.repeat([0, 1], [1_000, 5])
    kept = np.concatenate([np.arange(1_000) < 20, np.ones(5, bool)])
    assert findings.cochran_mantel_haenszel(group, kept, np.zeros(1_005, int)) < 0.001


def partly_rated(rng: np.random.Generator, chance: tuple[float, float], has: tuple[tuple[float, float], ...]) -> Log:
    """Groups kept with these chances, whose answers (not kept, kept) have a rating with those."""
    n = 1_200
    group, period = rng.integers(2, size=n), rng.integers(3, size=n)
    kept = rng.random(n) < np.array(chance)[group]
    rating = np.where(rng.random(n) < np.array(has)[group, kept.astype(int)], rng.integers(1, 6, size=n), np.nan)
    return Log(("0", "1", "2"), ("north", "south"), (), period, group, kept.astype(float), rating, np.full(n, -1))


@pytest.mark.parametrize(
    "has",
    [
        ((0.5, 1.0), (0.1, 1.0)),
        ((1.0, 1.0), (0.97, 1.0)),
        ((1.0, 1.0), (0.9, 1.0)),
        ((0.6, 0.6), (0.45, 0.6)),
        ((0.9, 0.6), (0.6, 0.9)),
        ((0.8, 0.8), (0.8, 0.8)),
    ],
)
@pytest.mark.usefixtures("few_draws")
def test_ratings_that_are_missing_by_group_and_acceptance_rarely_make_a_difference(
    has: tuple[tuple[float, float], ...],
) -> None:
    rng = np.random.default_rng(1)
    assert np.mean([about_kept(partly_rated(rng, (0.5, 0.5), has)).p < 0.05 for _ in range(120)]) <= 0.1


def test_acceptance_is_compared_without_ratings_that_few_rejected_answers_have() -> None:
    found = about_kept(partly_rated(np.random.default_rng(0), (0.5, 0.5), ((0.5, 1.0), (0.1, 1.0))))
    assert found.question == PLAIN and not found.shown and found.answer.startswith("kept: within a period ")
    log = partly_rated(np.random.default_rng(0), (0.6, 0.2), ((0.02, 1.0), (0.02, 1.0)))
    found = about_kept(log)
    here = [log.kept[log.group == g] for g in range(2)]
    missing = np.isnan(log.rating)
    of = missing[(log.group == 0) & (log.kept == 0)].mean(), missing[(log.group == 1) & (log.kept == 0)].mean()
    most = int(np.argmax(of))
    assert found.shown and found.question == PLAIN
    assert f"in all north {here[0].mean():.3f}, south {here[1].mean():.3f}; ratings are missing for" in found.answer
    assert found.answer.endswith(
        f"for {missing.sum():,} of 1,200 rows, and more of those not kept ({log.groups[most]}: {of[most]:.3f}, "
        "and 0.000 of those kept): acceptance is compared without them"
    )
    turned = about_kept(dataclasses.replace(log, kept=1.0 - log.kept))
    assert f"and more of those kept ({log.groups[most]}: {of[most]:.3f}, and 0.000 of those not kept)" in turned.answer


def test_ratings_that_are_missing_at_random_are_left_out_and_counted() -> None:
    log = partly_rated(np.random.default_rng(5), (0.6, 0.4), ((0.9, 0.9), (0.7, 0.7)))
    found, rows = about_kept(log), int(np.isfinite(log.rating).sum())
    here = [log.kept[log.group == g].mean() for g in range(2)]
    assert found.question == EQUALS and found.shown
    assert (
        f"; in all north {here[0]:.3f}, south {here[1]:.3f}; ratings are compared of {rows:,} rows, and "
        in found.answer
    )
    assert found.answer.endswith(f"missing for {1_200 - rows:,} of 1,200")
