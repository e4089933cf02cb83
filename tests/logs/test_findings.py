"""Closed forms, size and power of what is said about a log."""

import dataclasses
import math
import re
import time
import warnings

import numpy as np
import pytest
from scipy import stats

from scpl_ray.logs import findings
from scpl_ray.logs.reading import Log


def a_log(
    rng: np.random.Generator,
    rows: int = 2_000,
    periods: int = 4,
    groups: int = 2,
    *,
    favour: float = 0.0,
    drift: float = 0.0,
) -> Log:
    """Groups rated differently, and kept by rating; ``favour``: log-odds with which group 0 is kept beside that."""
    period = rng.integers(periods, size=rows)
    first = 1.0 / groups + drift * period
    group = np.where(rng.random(rows) < first, 0, 1 + rng.integers(groups - 1, size=rows))
    rating = rng.normal(size=rows) - 0.8 * (group == 0)
    kept = rng.random(rows) < 1.0 / (1.0 + np.exp(-rating - favour * (group == 0)))
    return Log(
        tuple(map(str, range(periods))),
        tuple("abc"[:groups]),
        ("x", "y"),
        period,
        group,
        kept.astype(float),
        rating,
        rng.integers(2, size=rows),
    )


@pytest.mark.parametrize("shape", [(2, 2), (3, 2)])
def test_one_stratum_is_pearsons_test_less_a_degree(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    table = rng.integers(5, 30, size=shape)
    group, kept = (np.repeat(index.ravel(), table.ravel()) for index in np.indices(shape))
    n = table.sum()
    pearson = stats.chi2_contingency(table, correction=False)
    expected = stats.chi2.sf(pearson.statistic * (n - 1) / n, pearson.dof)
    assert findings.cochran_mantel_haenszel(group, kept == 1, np.zeros(n, int)) == pytest.approx(expected)
    assert findings.association(group, kept) == pytest.approx(pearson.pvalue)


def test_two_groups_are_the_textbooks_sum_over_strata() -> None:
    tables = np.array([[[11, 25], [10, 27]], [[16, 4], [22, 10]], [[14, 5], [7, 12]], [[2, 14], [1, 16]]])
    index = np.indices(tables.shape)
    strata, group, column = (np.repeat(one.ravel(), tables.ravel()) for one in index)
    n, row, yes = tables.sum((1, 2)), tables.sum(2)[:, 0], tables.sum(1)[:, 0]
    variance = row * (n - row) * yes * (n - yes) / (n**2 * (n - 1.0))
    expected = (tables[:, 0, 0] - row * yes / n).sum() ** 2 / variance.sum()
    found = findings.cochran_mantel_haenszel(group, column == 0, strata)
    assert found == pytest.approx(stats.chi2.sf(expected, 1))


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_the_sum_over_many_strata_has_a_degree_less_than_groups(groups: int) -> None:
    """Kept at other rates in each of 1,000 strata, which hold other shares of the groups, and never by group."""
    rng = np.random.default_rng(groups)
    chance, share = rng.beta(2.0, 5.0, size=1_000), rng.dirichlet(np.full(groups, 2.0), size=1_000).cumsum(axis=1)
    strata = np.repeat(np.arange(1_000), 12)
    found = []
    for _ in range(400):
        group = (rng.random(len(strata))[:, None] > share[strata, :-1]).sum(axis=1)
        found.append(findings.cochran_mantel_haenszel(group, rng.random(len(strata)) < chance[strata], strata))
    assert 0.03 <= np.mean(np.array(found) < 0.05) <= 0.07
    assert stats.kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize("rows", [150, 6_000, 600_000])
def test_groups_numbers_sum_to_nothing_however_many_rows(rows: int) -> None:
    """So the statistic is that of all groups but one, with their number as degrees of freedom."""
    rng = np.random.default_rng(rows)
    group, strata, kept = rng.integers(4, size=rows), rng.integers(rows // 30, size=rows), rng.random(rows) < 0.3
    table = np.zeros((rows // 30, 4, 2))
    np.add.at(table, (strata, group, kept.astype(int)), 1)
    of, n, yes = table.sum(2)[:, 1:], table.sum((1, 2)), table[..., 1].sum(1)
    excess = (table[:, 1:, 1] - of * (yes / n)[:, None]).sum(0)
    each = (np.einsum("si,ij->sij", of, np.eye(3)) * n[:, None, None] - of[:, :, None] * of[:, None]).T
    covariance = (each * yes * (n - yes) / (n**2 * (n - 1))).sum(-1)
    expected = stats.chi2.sf(excess @ np.linalg.solve(covariance, excess), 3)
    assert findings.cochran_mantel_haenszel(group, kept, strata) == pytest.approx(expected)


@pytest.mark.parametrize("table", [[[3, 0], [2, 7]], [[1, 4], [12, 5]], [[4, 0], [0, 3]]])
def test_a_table_of_few_rows_has_the_p_value_of_shuffled_labels(table: list[list[int]]) -> None:
    """Of two labels each, tables with the same margins have a hypergeometric law."""
    rows, columns = (np.repeat(index.ravel(), np.ravel(table)) for index in np.indices((2, 2)))
    n, first, one = np.sum(table), np.sum(table[0]), np.sum(table, axis=0)[0]
    law = stats.hypergeom(n, first, one)
    counts = np.arange(max(0, first + one - n), min(first, one) + 1)
    far = np.abs(counts - first * one / n) >= abs(table[0][0] - first * one / n) - 1e-9
    assert findings.association(rows, columns) == pytest.approx(law.pmf(counts)[far].sum(), rel=0.1)


@pytest.mark.parametrize(
    ("periods", "rows", "shares"),
    [(100, 10, [0.9] + [0.01] * 10), (300, 5, [0.97, 0.03]), (100, 9, [0.5, 0.48, 0.02]), (4, 500, [0.5, 0.5])],
)
def test_rare_labels_in_many_short_periods_rarely_seem_to_change(
    periods: int, rows: int, shares: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some periods have many more rows than others."""
    monkeypatch.setattr(findings, "TABLES", (999, 999))  # faster than ten times as many
    rng = np.random.default_rng(periods + rows)
    size, busy = periods * rows, rng.dirichlet(np.full(periods, 2.0))
    drawn = ((rng.choice(n, size=size, p=p) for n, p in ((periods, busy), (len(shares), shares))) for _ in range(300))
    found = np.array([findings.association(*labels) for labels in drawn])
    assert 0.02 <= np.mean(found < 0.05) <= 0.08 and np.mean(found < 0.01) <= 0.03


def test_a_table_of_many_rows_has_the_p_value_of_chi_square_and_a_large_one_of_few_is_not_slow() -> None:
    rng = np.random.default_rng(0)
    period, label = rng.integers(20, size=20_000), rng.choice(3, size=20_000, p=[0.5, 0.49, 0.01])
    table = np.zeros((20, 3))
    np.add.at(table, (period, label), 1)
    assert findings.association(period, label) == stats.chi2_contingency(table, correction=False).pvalue
    began = time.process_time()
    large = findings.association(rng.integers(500, size=50_000), rng.integers(50, size=50_000))
    assert 0.001 <= large <= 1.0 and time.process_time() - began < 5.0


def test_groups_that_never_meet_cannot_differ() -> None:
    group = np.array([0, 0, 1, 1])
    assert np.isnan(findings.cochran_mantel_haenszel(group, group == 0, group))
    rng = np.random.default_rng(0)
    strata, kept = rng.integers(3_000, size=90_000), rng.random(90_000) < 0.3
    assert np.isnan(findings.cochran_mantel_haenszel(strata % 3, kept, strata))
    assert findings.association(np.zeros(4, int), group) == 1.0


def test_a_question_that_the_log_cannot_answer_is_told_and_left_out_of_the_family() -> None:
    ratings = np.arange(60.0)
    kept = (ratings > 20).astype(float).tolist()
    # the groups' ratings lie apart, 30 values of two rows each
    apart = rated(np.repeat(ratings[:15], 2).tolist(), np.repeat(ratings[15:30], 2).tolist(), kept=kept)
    one = next(found for found in findings.findings(apart) if found.question == KEPT)
    assert not one.answered and not one.shown and np.isnan(one.p_adjusted)
    assert "no rows of different groups in one period have equal ratings" in one.answer
    (other,) = (found for found in findings.findings(apart) if found.answered)
    assert other.p_adjusted == other.p
    # each group asks in a period of its own, with and without ratings
    for rating, of_ratings in ((1.0, [False, False]), (math.nan, [])):
        alone = rated([], [rating] * 4, before=([rating] * 4, []), kept=[0.0, 1.0] * 4)
        assert [found.answered for found in findings.findings(alone)] == [True, False, *of_ratings]


def test_ratings_that_never_repeat_are_compared_by_levels_of_few_rows() -> None:
    rng = np.random.default_rng(6)
    few = [a_log(rng, rows=45, periods=1, favour=5.0) for _ in range(20)]
    found = [next(one for one in findings.findings(log) if one.question == KEPT) for log in few]
    assert all(one.answered for one in found) and np.mean([one.shown for one in found]) > 0.5


@pytest.mark.usefixtures("few_draws")
def test_ratings_that_repeat_in_a_log_are_compared_with_their_equals_however_short_its_periods() -> None:
    """Stars, of which groups get different ones and by which alone is kept: nothing differs between equals."""
    rng = np.random.default_rng(8)
    found = []
    for _ in range(100):
        log = a_log(rng, rows=800, periods=100)
        stars = rng.binomial(4, np.where(log.group == 0, 0.2, 0.8)).astype(float)
        kept = (rng.random(800) < (stars + 0.5) / 5).astype(float)
        found.append(within_levels(dataclasses.replace(log, rating=stars), kept))
    assert np.mean(np.array(found) < 0.05) <= 0.12


def within_levels(log: Log, kept: np.ndarray) -> float:
    """The p-value of what is kept within periods and levels of rating."""
    return findings.cochran_mantel_haenszel(log.group, kept > 0, findings._strata(log, np.ones(len(kept), bool)))


@pytest.mark.parametrize(("rows", "periods"), [(40, 1), (120, 4), (20_000, 1), (900, 100), (1_440, 120), (2_500, 500)])
@pytest.mark.parametrize("change", [0.0, 1.0])
@pytest.mark.usefixtures("few_draws")
def test_levels_of_few_or_many_rows_find_no_difference_that_is_none(rows: int, periods: int, change: float) -> None:
    """Group 0 is rated 1.5 standard deviations lower, and what is kept follows the rating less what periods add."""
    rng = np.random.default_rng(rows)
    found = []
    for _ in range(1_000 if rows < 1_000 else 200):
        log = a_log(rng, rows, periods)
        rating = log.rating - 0.7 * (log.group == 0)
        kept = rng.random(rows) < 1.0 / (1.0 + np.exp(-2.0 * rating))
        found.append(within_levels(dataclasses.replace(log, rating=rating + change * log.period), kept))
    assert np.mean(np.array(found) < 0.05) <= 0.07


@pytest.mark.usefixtures("few_draws")
def test_a_threshold_of_ratings_in_many_short_periods_is_no_difference_between_groups() -> None:
    """What is kept is what is rated above -0.2; group 0 is rated 0.8 standard deviations lower."""
    rng = np.random.default_rng(4)
    logs = [a_log(rng, 900, 100) for _ in range(400)]
    assert np.mean([within_levels(log, log.rating > -0.2) < 0.05 for log in logs]) <= 0.07


@pytest.mark.usefixtures("few_draws")
def test_a_difference_in_many_short_periods_is_seen() -> None:
    rng = np.random.default_rng(5)
    logs = [a_log(rng, 900, 100, favour=1.2) for _ in range(200)]
    assert np.mean([within_levels(log, log.kept) < 0.05 for log in logs]) > 0.7


def test_kinds_are_compared_between_the_periods_that_have_them() -> None:
    log = a_log(np.random.default_rng(7), periods=4)
    known = dataclasses.replace(log, kind=np.where(log.period == 1, log.kind, -1))
    one = next(found for found in findings.findings(known) if found.question == KINDS)
    assert not one.answered and one.answer == "kinds are logged in 1 alone"
    known = dataclasses.replace(log, kind=np.where(log.period > 0, log.kind, -1))
    one = next(found for found in findings.findings(known) if found.question == KINDS)
    first, last = (np.mean(log.kind[log.period == t] == 0) for t in (1, 3))
    assert one.answered and re.fullmatch(r"[xy] 0\.\d{3} in 1, then 0\.\d{3} in 3", one.answer)
    assert f"{first:.3f} in 1, then {last:.3f} in 3" in one.answer or f"{1 - first:.3f} in 1" in one.answer
    # they moved from the first period that has them
    moved = findings.preference(known)
    assert np.isnan(moved[0]) and moved[1] == 0.0 and np.isfinite(moved[2:]).all()
    assert (
        moved[2]
        == findings.preference(
            dataclasses.replace(
                log, period=np.where(log.period == 0, 1, log.period) - 1, kind=known.kind, periods=("1", "2", "3")
            )
        )[1]
    )
    every = next(found for found in findings.findings(log) if found.question == KINDS)
    assert " in " not in every.answer


def shown(log: Log) -> dict[str, bool]:
    return {one.question: one.shown for one in findings.findings(log)}


KEPT = "is what is kept different between groups of equal rating?"
CHANGE = "do the groups' ratings change differently?"
WHO, KINDS = "does who asks change?", "do the kinds of answers change?"


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.usefixtures("few_draws")
def test_what_is_not_there_is_rarely_shown(groups: int) -> None:
    """Group 0 is kept less because it is rated lower: that is no difference beyond quality."""
    rng = np.random.default_rng(2)
    logs = [shown(a_log(rng, groups=groups)) for _ in range(200)]
    for question in (KEPT, WHO, KINDS, CHANGE):
        assert np.mean([log[question] for log in logs]) <= 0.07, question
    wrong = [any(log[q] for q in log if q != "are groups rated differently in 3?") for log in logs]
    assert np.mean(wrong) <= 0.07
    assert np.mean([log["are groups rated differently in 3?"] for log in logs]) == 1.0


@pytest.mark.usefixtures("few_draws")
def test_what_is_there_is_shown() -> None:
    rng = np.random.default_rng(3)
    logs = [shown(a_log(rng, favour=0.6, drift=0.06)) for _ in range(50)]
    assert np.mean([log[KEPT] for log in logs]) > 0.9 and np.mean([log[WHO] for log in logs]) > 0.9


def rated(*groups: list[float], before: tuple[list[float], ...] = (), kept: list[float] | None = None) -> Log:
    """A log of ratings by group in its last period, and in one before it."""
    periods = [before, groups] if before else [groups]
    rows = [(t, g, r) for t, period in enumerate(periods) for g, ratings in enumerate(period) for r in ratings]
    period, group = (np.array([row[i] for row in rows]) for i in (0, 1))
    names = tuple("abc"[: len(groups)])
    nothing = np.full(len(rows), np.nan)
    return Log(
        tuple("12"[: len(periods)]),
        names,
        (),
        period,
        group,
        nothing if kept is None else np.array(kept),
        np.array([row[2] for row in rows]),
        np.full(len(rows), -1),
    )


def answers(log: Log) -> dict[str, tuple[str, bool]]:
    return {one.question: (one.answer, one.shown) for one in findings.findings(log)}


RATED = "are groups rated differently in 1?"


def test_a_gap_is_seen_where_the_ratings_of_a_group_all_agree() -> None:
    said, shown_ = answers(rated([5.0] * 100, [1.0] * 100))[RATED]
    assert shown_ and said == "gap 4.000, b is served worst (1.000)"
    good, bad = [1.0] * 180 + [0.0] * 20, [1.0] * 60 + [0.0] * 140
    assert answers(rated(good, bad, [1.0] * 2))[RATED][1]
    assert not answers(rated([1.0] * 20, [1.0] * 20))[RATED][1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not answers(rated([1.0] * 38 + [0.0] * 2, [0.0] * 2 + [1.0] * 38))[RATED][1]


def test_groups_with_too_few_ratings_are_left_out_by_name() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(4.0, 1.0, 100).tolist(), rng.normal(3.0, 1.0, 100).tolist()
    said, shown_ = answers(rated(good, bad, [0.0]))[RATED]
    assert shown_ and "b is served worst" in said and "without c" in said
    found = answers(rated(good, bad, [1.0, 1.0], before=(bad, good, [1.0])))
    assert found[CHANGE][1] and "without c" in found[CHANGE][0]


def test_groups_that_change_places_are_said_to_change_and_their_gap_to_stay() -> None:
    rng = np.random.default_rng(1)
    high, low = rng.normal(4.0, 1.0, 300).tolist(), rng.normal(3.0, 1.0, 300).tolist()
    said, shown_ = answers(rated(low, high, before=(high, low)))[CHANGE]
    gap = f"{np.mean(high) - np.mean(low):.3f}"
    assert shown_ and said.startswith("b +") and said.endswith(f"the gap is {gap}, then {gap}")


def test_ratings_of_what_was_kept_alone_hold_nothing_against_acceptance() -> None:
    ratings = [1.0] * 91 + [math.nan] * 9, [1.0] * 32 + [math.nan] * 68
    kept = [1.0] * 91 + [0.0] * 9 + [1.0] * 32 + [0.0] * 68
    found = answers(rated(*ratings, kept=kept))
    assert KEPT not in found
    said, shown_ = found["is what is kept different between groups?"]
    assert shown_ and "; in all a 0.910, b 0.320; no ratings of both" in said
    # 61.5% of all rows are kept
    assert said.startswith("kept: within a period a +0.295, b -0.295 beside what is expected; ")


def test_a_group_that_is_kept_more_at_equal_rating_and_less_in_all_is_said_to_be_favoured() -> None:
    """Group b is mostly rated 1 and group a mostly 5; at each rating b is kept by 0.2 more often."""
    high = [5.0] * 80 + [1.0] * 20
    kept = [1.0] * 56 + [0.0] * 24 + [1.0] * 4 + [0.0] * 16
    low = [5.0] * 20 + [1.0] * 80
    kept += [1.0] * 18 + [0.0] * 2 + [1.0] * 32 + [0.0] * 48
    said, shown_ = answers(rated(high, low, kept=kept))[KEPT]
    # per 100 rows: a is kept 60 times of 66.4 that are expected, b 50 times of 43.6
    assert (
        shown_ and said == "kept: at equal rating b +0.064, a -0.064 beside what is expected; in all a 0.600, b 0.500"
    )


@pytest.mark.parametrize(("kept", "said"), [(1.0, "all 8 rows were kept"), (0.0, "none of the 8")])
def test_what_is_kept_is_asked_where_all_or_nothing_was(kept: float, said: str) -> None:
    log = rated([1.0, 2.0, 3.0, 4.0], [2.0, 3.0, 4.0, 5.0], kept=[kept] * 8)
    for one in (log, dataclasses.replace(log, rating=np.full(len(log.group), np.nan))):
        found = {finding.question: finding for finding in findings.findings(one)}
        finding = found["is what is kept different between groups?"]
        assert not finding.answered and finding.answer.startswith(f"kept: {said}") and KEPT not in found
        assert "nothing" in finding.answer
    unknown = dataclasses.replace(log, kept=np.full(len(log.group), np.nan))
    assert not any("kept" in question for question in answers(unknown))


def test_groups_that_are_alike_are_not_named_twice() -> None:
    """Three groups of which all are kept in equal parts, at one rating that does not change."""
    same = [3.0] * 6
    said, shown_ = answers(rated(same, same, same, kept=[1.0, 0.0] * 18, before=(same, same, same)))[KEPT]
    assert not shown_
    assert said == "kept: at equal rating a +0.000, c +0.000 beside what is expected; in all a 0.500, c 0.500"
    changed, _ = answers(rated(same, same, same, before=(same, same, same)))[CHANGE]
    assert changed.startswith("a +0.000, c +0.000;")
    one = dataclasses.replace(a_log(np.random.default_rng(1), groups=2), group=np.zeros(2_000, dtype=np.int64))
    assert ", b" not in answers(one)[KEPT][0] and answers(one)[KEPT][0].count("a 0.") == 1


def test_questions_about_ratings_are_asked_even_if_they_cannot_be_answered() -> None:
    """The last period has only begun, as the newest week of a log has."""
    before = ([5.0, 4.0] * 30, [1.0, 2.0] * 30)
    for last in (([5.0] * 40, [1.0]), ([5.0] * 40, [])):
        found = {one.question: one for one in findings.findings(rated(*last, before=before))}
        for question in ("are groups rated differently in 2?", CHANGE):
            assert not found[question].answered and f"in 2 a has 40, b has {len(last[1])}" in found[question].answer
    without = dataclasses.replace(rated([1.0] * 5, [2.0] * 5, before=before), rating=np.full(130, np.nan))
    assert set(answers(without)) == {WHO}


def test_groups_with_fewer_than_six_ratings_are_left_out_by_name_where_others_have_more() -> None:
    steady = ([1.0, 2.0] * 20, [2.0, 3.0] * 20)
    few = [0.0, 0.5, 0.1, 0.2, 0.3]
    log = rated(*steady, few, before=(*steady, [4.0] * 40))
    said, shown = answers(log)["are groups rated differently in 2?"]
    assert shown and said == "gap 1.000, a is served worst (1.500); without c, too few of whose ratings can be compared"
    changed, _ = answers(log)[CHANGE]
    assert changed.startswith("a +0.000, b +0.000;") and changed.endswith(
        "without c, too few of whose ratings can be compared"
    )
    six = answers(rated(*steady, [*few, 0.4], before=(*steady, [4.0] * 40)))
    assert "c is served worst" in six["are groups rated differently in 2?"][0] and six[CHANGE][1]
    # with one large group the small ones are compared with it, but not their changes
    one = answers(rated(steady[1], few, before=(steady[1], [4.0] * 40)))
    assert one["are groups rated differently in 2?"][1] and one["are groups rated differently in 2?"][0].endswith(
        "(0.220)"
    )
    assert one[CHANGE] == ("too few ratings to compare: in 1 a has 40, b has 40; in 2 a has 40, b has 5", False)


def test_a_group_whose_ratings_all_agree_counts_among_those_that_change() -> None:
    steady = [1.0] * 200
    said, shown_ = answers(rated(steady, [1.0, 0.0] * 100, before=(steady, steady)))[CHANGE]
    assert shown_ and said.endswith("the gap is 0.000, then 0.500")
    assert not answers(rated([1.0] * 3, [0.0] * 3, before=([1.0] * 3, [1.0] * 3)))[CHANGE][1]  # too few to say so
    assert not answers(rated([1.0] * 9, [1.0] * 9, before=([1.0] * 9, [1.0] * 9)))[CHANGE][1]


def test_decimals_that_all_agree_are_as_sure_as_whole_numbers_that_do() -> None:
    """The variance of .1, .1, .1 is computed to be above 0."""
    found = []
    for low, high in ((0.0, 1.0), (0.1, 0.7)):
        log = rated([low] * 6, [low] * 4 + [high] * 2, before=([low] * 6, [low] * 6))
        found.append(next(one.p for one in findings.findings(log) if one.question == CHANGE))
    assert found[1] == pytest.approx(found[0]) and found[0] > 0.05


@pytest.mark.usefixtures("few_draws")
def test_rare_ratings_rarely_seem_to_change_differently() -> None:
    rng = np.random.default_rng(9)
    found = []
    for _ in range(400):
        draws = [(rng.random(40) < 0.97).astype(float).tolist() for _ in range(4)]
        found.append(answers(rated(*draws[:2], before=tuple(draws[2:])))[CHANGE][1])
    assert np.mean(found) <= 0.05


@pytest.mark.parametrize(("groups", "ratings"), [(2, 2), (3, 10), (6, 2), (10, 3)])
@pytest.mark.usefixtures("few_draws")
def test_groups_with_few_ratings_rarely_seem_to_change_differently(groups: int, ratings: int) -> None:
    """The p-value of equal changes is below .05 in one log of twenty at most, however many groups have how few."""
    rng = np.random.default_rng(groups * 100 + ratings)
    draws = rng.normal(size=(600, 2, groups, ratings))
    found = [findings._change_differently(*one, range(groups)) for one in draws]
    assert np.mean(np.array(found) < 0.05) <= 0.07 and np.mean(np.array(found) < 0.006) <= 0.015


def test_two_groups_with_many_ratings_are_compared_as_welch_does() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=(2, 2, 400)) * 0.5 + np.array([[0.0, 0.0], [0.07, -0.07]])[..., None]
    change = after.mean(axis=1) - before.mean(axis=1)
    variances = (before.var(axis=1, ddof=1) + after.var(axis=1, ddof=1)) / 400
    expected = 2 * stats.norm.sf(abs(change[0] - change[1]) / np.sqrt(variances.sum()))
    assert findings._change_differently(before, after, [0, 1]) == pytest.approx(expected, rel=0.1)


def test_the_first_period_is_no_distance_away_from_itself() -> None:
    log = a_log(np.random.default_rng(6), rows=60)
    moved = findings.preference(log)
    assert moved[0] == 0.0 and np.isfinite(moved).all() and (moved[1:] != 0.0).all()


def test_periods_are_plain_means() -> None:
    log = a_log(np.random.default_rng(4), rows=400)
    for t, one in enumerate(findings.periods(log)):
        here = log.period == t
        assert one.rows == here.sum() and one.shares.sum() == pytest.approx(1.0)
        for g in range(2):
            mine = here & (log.group == g)
            assert one.accepted[g] == pytest.approx(log.kept[mine].mean())
            assert one.ratings[g] == pytest.approx(log.rating[mine].mean())
        assert one.gap == pytest.approx(np.ptp(one.ratings))
        assert one.kinds[0] == pytest.approx(np.mean(log.kind[here] == 0))


def test_a_log_of_period_and_group_alone_answers_one_question() -> None:
    log = a_log(np.random.default_rng(5), rows=300)
    nothing = np.full(300, np.nan)
    bare = Log(log.periods, log.groups, (), log.period, log.group, nothing, nothing, np.full(300, -1))
    assert list(shown(bare)) == [WHO]
    assert np.isnan(findings.preference(bare)).all() and np.isnan(findings.periods(bare)[0].gap)
