"""What a log shows: numbers per period and group, and tests of whether they drift or differ between groups.

Every test takes rows as independent. Rows of one user, or near copies of one question, are not: then p-values are too
small, and one row per user is the remedy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scpl_ray import seeds
from scpl_ray.evaluation import bias
from scpl_ray.logs import ratings
from scpl_ray.logs.reading import Log
from scpl_ray.shares import FloatArray, IntArray
from scpl_ray.studies.statistics import holm

RATING_LEVELS = 200
"""Most levels of rating in a log: few enough for large logs, and narrower than what ratings within one still say."""
ROWS_PER_LEVEL = 5
"""Rows of a period per level of rating, where ratings are cut into levels: rows are compared within one only."""
LEVELS_PER_ROOT = 0.5
"""Fewest levels, in square roots of the number of rows: the error of a sum over rows grows as that root, and what the
ratings within levels still say stays below it."""
FEWEST_EXPECTED = 5.0
"""Rows that every cell of a table has to expect for its chi-square to have the law of many rows (Cochran 1954), and
rows that have to be possible above and below what a group expects in a sum over tables (Mantel and Fleiss 1980)."""
FEWEST_RATINGS = 6
"""Ratings of a group and period for its mean to be compared beside others: the variance of fewer is hardly known."""
TABLES, CELLS, CELLS_AT_ONCE = (999, 9_999), 20_000_000, 2_000_000
"""Fewest and most tables that are drawn instead, cells in all, and in memory."""
LEVEL = 0.05
NO_EQUALS = "; no rows of different groups in one period have equal ratings"
NO_CHANCE = " and were in part kept, in part not; give longer periods or more rows"
ROUNDING = 1e-9
"""Largest part of a variance that may be nothing but the rounding of the sums that it is the difference of."""


@dataclasses.dataclass(frozen=True, eq=False)
class Period:
    """The numbers of one period; NaN where there is nothing to count."""

    name: str
    rows: int
    shares: FloatArray
    """Share of the rows by group, shape (K,)."""
    accepted: FloatArray
    """Share of a group's rows that were kept, of those of which it is logged, shape (K,)."""
    ratings: FloatArray
    """Mean rating by group, shape (K,)."""
    gap: float
    """Best minus worst mean rating over the groups: the disparate gap."""
    kinds: FloatArray
    """Share of each kind among the answers that have one, shape (M,)."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """The answer to one question about a log."""

    question: str
    answer: str
    p: float
    """NaN where the log holds nothing that could be compared; the answer then says why."""
    p_adjusted: float
    """Adjusted for all questions that the log can answer (Holm)."""

    @property
    def answered(self) -> bool:
        """Whether the log can answer the question at all."""
        return not math.isnan(self.p)

    @property
    def shown(self) -> bool:
        """Whether the answer is yes at the level .05 over all questions."""
        return self.answered and self.p_adjusted < LEVEL


def periods(log: Log) -> list[Period]:
    """The numbers of every period, earliest first."""
    found = []
    k = len(log.groups)
    for index, name in enumerate(log.periods):
        here = log.period == index
        group = log.group[here]
        rated = _means(log.rating[here], group, k)
        finite = rated[np.isfinite(rated)]
        kinds = np.bincount(log.kind[here & (log.kind >= 0)], minlength=len(log.kinds)).astype(np.float64)
        found.append(
            Period(
                name=name,
                rows=int(here.sum()),
                shares=np.bincount(group, minlength=k) / max(1, int(here.sum())),
                accepted=_means(log.kept[here], group, k),
                ratings=rated,
                gap=float(np.ptp(finite)) if len(finite) >= 2 else float("nan"),
                kinds=kinds / kinds.sum() if kinds.sum() else np.full(len(kinds), np.nan),
            )
        )
    return found


def preference(log: Log) -> FloatArray:
    """Total variation of each period's kinds from those of the first with any, less what counting makes, shape (T,).

    NaN where a period has no kinds.
    """
    counts = np.array([_counts(log.kind[log.period == t], len(log.kinds)) for t in range(len(log.periods))])
    moved, told = [np.nan] * len(counts), [t for t, row in enumerate(counts) if row.sum()]
    if len(log.kinds) > 1:
        for t in told:
            first, now = (bias.kind_counts(counts[one], log.kinds) for one in (told[0], t))
            measured = bias.measure_preference(first if t == told[0] else now, first, advantaged=log.kinds[0])
            assert measured.round_0 is not None  # the first of these periods has kinds
            moved[t] = float(measured.round_0.total_variation)
    return np.array(moved)


def findings(log: Log) -> list[Finding]:
    """Every question that can be asked of the log, with p-values adjusted for all that it can answer."""
    asked = list(_questions(log))
    p_values = np.array([p for _, _, p in asked])
    adjusted, told = np.full(len(asked), np.nan), np.isfinite(p_values)
    if told.any():
        adjusted[told] = holm(p_values[told])
    return [Finding(question, answer, p, float(a)) for (question, answer, p), a in zip(asked, adjusted, strict=True)]


def _questions(log: Log) -> Iterator[tuple[str, str, float]]:
    numbers = periods(log)
    first, last = numbers[0], numbers[-1]
    if len(numbers) > 1:
        moved = int(np.argmax(np.abs(last.shares - first.shares)))
        p = association(log.period, log.group)
        yield (
            "does who asks change?",
            f"{log.groups[moved]} {_from_to(first.shares, last.shares, moved)} of the rows",
            p,
        )
        if len(log.kinds) > 1:
            yield _of_kinds(log, [one for one in numbers if np.isfinite(one.kinds).all()])
    if np.isfinite(log.kept).any():
        yield _of_kept(log)
    if np.isfinite(log.rating).any():
        yield from _of_ratings(log, first, last, len(numbers))


def _of_kinds(log: Log, told: Sequence[Period]) -> tuple[str, str, float]:
    """Whether kinds change between the periods of which they are logged."""
    question = "do the kinds of answers change?"
    if len(told) < 2:
        return question, f"kinds are logged in {told[0].name} alone", float("nan")
    first, last = told[0], told[-1]
    moved, known = int(np.argmax(np.abs(last.kinds - first.kinds))), log.kind >= 0
    p = association(log.period[known], log.kind[known])
    ends = (first.name, last.name)
    named = ends if ends != (log.periods[0], log.periods[-1]) else None
    return question, f"{log.kinds[moved]} {_from_to(first.kinds, last.kinds, moved, named)}", p


def _of_kept(log: Log) -> tuple[str, str, float]:
    """Whether groups are kept differently: at equal rating, or within a period where no ratings say."""
    known = np.isfinite(log.kept)
    question, kept = "is what is kept different between groups?", int(log.kept[known].sum())
    if kept in (0, int(known.sum())):
        told = f"all {kept} rows were" if kept else f"none of the {known.sum()} rows was"
        return question, f"kept: {told} kept, so that there is nothing else to hold against them", float("nan")
    rated, in_all = known & np.isfinite(log.rating), f"in all {_kept(log, known)}"
    why = "no ratings of both what was kept and what was not to hold against it"
    if rated.any() and 0.0 < log.kept[rated].mean() < 1.0:
        why = _missing_by_kept(log, known, rated)
        if not why:
            return "is what is kept different between groups of equal rating?", *_of_equals(log, rated, in_all)
    p = cochran_mantel_haenszel(log.group[known], log.kept[known] > 0, log.period[known])
    said = f"{in_all}; {why}"
    if math.isfinite(p):
        said = f"within a period {_kept_beside(log, known, log.period[known])}; {said}"
    else:
        said += "; no period has rows of different groups" + NO_CHANCE
    return question, f"kept: {said}", p


def _of_equals(log: Log, rated: NDArray[np.bool_], in_all: str) -> tuple[str, float]:
    """What is kept of each group at equal rating, and the p-value; the rated rows are counted where not all are."""
    strata, known = _strata(log, rated), int(np.isfinite(log.kept).sum())
    p = cochran_mantel_haenszel(log.group[rated], log.kept[rated] > 0, strata)
    if math.isfinite(p):
        said = f"at equal rating {_kept_beside(log, rated, strata)}; {in_all}"
    else:
        said = in_all + NO_EQUALS + NO_CHANCE
    if rated.sum() < known:
        said += f"; ratings are compared of {rated.sum():,} rows, and missing for {known - rated.sum():,} of {known:,}"
    return f"kept: {said}", p


def _missing_by_kept(log: Log, known: NDArray[np.bool_], rated: NDArray[np.bool_]) -> str:
    """Why rows without a rating cannot be left out; empty where within groups they do not depend on what was kept.

    Where those of one group that were not kept have fewer ratings, more of its rated rows were kept than of its rows.
    """
    k, kept = len(log.groups), log.kept[known] > 0
    # one label per group and answer, in strata of one group: the sum has a degree of freedom for each
    group, has = log.group[known], rated[known]
    p = cochran_mantel_haenszel(2 * group + kept, has, log.period[known] * k + group)
    if not p < LEVEL:
        return ""
    missing = _means((~has).astype(float), 2 * group + kept, 2 * k).reshape(k, 2)
    apart = missing[:, 0] - missing[:, 1]
    most = int(np.nanargmax(np.abs(apart)))
    more, less = missing[most] if apart[most] > 0 else missing[most][::-1]
    of, others = ("not kept", "kept") if apart[most] > 0 else ("kept", "not kept")
    return (
        f"ratings are missing for {int((~has).sum()):,} of {len(has):,} rows, and more of those {of} "
        f"({log.groups[most]}: {more:.3f}, and {less:.3f} of those {others}): acceptance is compared without them"
    )


def _of_ratings(log: Log, first: Period, last: Period, count: int) -> Iterator[tuple[str, str, float]]:
    """Groups with too few ratings are left out, by name."""
    before, after = (_samples(log, t) for t in (0, len(log.periods) - 1))
    many = [g for g, one in enumerate(after) if len(one) >= FEWEST_RATINGS]
    now = many if len(many) > 1 else [g for g, one in enumerate(after) if len(one) > 1]
    question = f"are groups rated differently in {last.name}?"
    if len(now) < 2:
        yield question, f"too few ratings to compare: {_counted(log, after, last)}", float("nan")
    else:
        worst = min(now, key=last.ratings.__getitem__)
        said = f"gap {np.ptp(last.ratings[now]):.3f}, {log.groups[worst]} is served worst ({last.ratings[worst]:.3f})"
        yield question, said + _without(log, now), _differ([after[g] for g in now])
    if count < 2:
        return
    told = [g for g in many if len(before[g]) >= FEWEST_RATINGS]
    question = "do the groups' ratings change differently?"
    if len(told) < 2:
        counted = f"{_counted(log, before, first)}; {_counted(log, after, last)}"
        yield question, f"too few ratings to compare: {counted}", float("nan")
    else:
        change = np.full(len(log.groups), np.nan)
        change[told] = (last.ratings - first.ratings)[told]
        said = f"{_ends(log, change, '+.3f')}; the gap is "
        said += f"{np.ptp(first.ratings[told]):.3f}, then {np.ptp(last.ratings[told]):.3f}"
        yield question, said + _without(log, told), _change_differently(before, after, told)


def _counted(log: Log, samples: Sequence[FloatArray], period: Period) -> str:
    """How many ratings each group has in a period."""
    return f"in {period.name} " + ", ".join(f"{g} has {len(one)}" for g, one in zip(log.groups, samples, strict=True))


def _change_differently(before: Sequence[FloatArray], after: Sequence[FloatArray], groups: Sequence[int]) -> float:
    """P-value that the mean ratings of these groups change alike."""
    return ratings.alike([before[g] for g in groups], [after[g] for g in groups])


def _differ(samples: Sequence[FloatArray]) -> float:
    """P-value that the mean ratings of groups are alike."""
    return ratings.alike(samples)


def _without(log: Log, told: Sequence[int]) -> str:
    """The groups that a question leaves out; empty where it is asked of all."""
    rest = [group for g, group in enumerate(log.groups) if g not in told]
    return f"; without {', '.join(rest)}, too few of whose ratings can be compared" if rest else ""


def _kept(log: Log, rows: NDArray[np.bool_]) -> str:
    """The largest and the smallest share of a group's rows, of these, that was kept."""
    return _ends(log, _means(log.kept[rows], log.group[rows], len(log.groups)), ".3f")


def _kept_beside(log: Log, rows: NDArray[np.bool_], strata: IntArray) -> str:
    """The groups that are kept most and least beside what is expected within strata, which the test holds equal."""
    beside = kept_beside_expected(log.group[rows], log.kept[rows] > 0, strata)
    return f"{_ends(log, beside, '+.3f')} beside what is expected"


def _ends(log: Log, values: FloatArray, form: str) -> str:
    """The groups with the largest and the smallest value, two of them even where all are equal; NaN: it has none."""
    order = [g for g in np.argsort(-values, kind="stable") if np.isfinite(values[g])]
    return ", ".join(f"{log.groups[g]} {values[g]:{form}}" for g in dict.fromkeys([order[0], order[-1]]))


def association(rows: IntArray, columns: IntArray) -> float:
    """P-value of Pearson's chi-square test that two labels are independent; 1 where one of them never varies.

    Where a cell expects fewer than :data:`FEWEST_EXPECTED` rows, the statistic does not have the law of chi-square. It
    is then compared with those of tables that shuffled labels give, which are drawn with a fixed seed.
    """
    table = np.zeros((rows.max(initial=0) + 1, columns.max(initial=0) + 1), dtype=np.int64)
    np.add.at(table, (rows, columns), 1)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return 1.0
    if stats.contingency.expected_freq(table).min() < FEWEST_EXPECTED:
        return _shuffled(table)
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def _shuffled(table: IntArray) -> float:
    """P-value of Pearson's chi-square among tables with the same margins."""
    margins = table.sum(axis=1), table.sum(axis=0)
    # beside a constant and a factor, which tables with the same margins share
    weights = 1.0 / np.outer(*margins)
    observed = float((table**2 * weights).sum()) * (1.0 - ROUNDING)
    rng, law = seeds.generator(0, "tables with the same margins"), stats.random_table(*margins)
    drawn = int(np.clip(CELLS // table.size, *TABLES))
    at_once = max(1, CELLS_AT_ONCE // table.size)
    as_large = 1
    for first in range(0, drawn, at_once):
        found = law.rvs(min(at_once, drawn - first), random_state=rng)
        as_large += int((np.einsum("bij,ij->b", found**2, weights) >= observed).sum())
    return as_large / (drawn + 1)


def cochran_mantel_haenszel(group: IntArray, kept: NDArray[np.bool_], strata: IntArray) -> float:
    """P-value that within strata, what is kept does not depend on the group (Mantel 1963; Agresti 2013, section 8.4).

    The statistic sums over strata the numbers kept per group less those expected, with their hypergeometric covariance.
    Where the sum of a group can lie fewer than :data:`FEWEST_EXPECTED` rows above or below what is expected, it does
    not have the law of chi-square. It is then compared with those of labels shuffled within strata, with a fixed seed.

    Args:
        group: index of each row's group, shape (N,).
        kept: whether each row was kept, shape (N,).
        strata: any number per row; rows with the same one are compared, shape (N,).

    Returns:
        The p-value; NaN where no stratum holds rows of different groups of which some were kept and others were not.
    """
    table = _tables(group, kept, strata)
    table = table[table.sum(axis=(1, 2)) > 1]
    rows, n, yes = table.sum(axis=2), table.sum(axis=(1, 2)), table[..., 1].sum(axis=1)
    excess = _excess(table)
    scale = yes * (n - yes) / (n**2 * (n - 1.0))
    alone = (scale[:, None] * rows * n[:, None]).sum(axis=0)
    variances, directions = np.linalg.eigh(np.diag(alone) - np.einsum("s,si,sj->ij", scale, rows, rows))
    # where the groups' numbers determine each other, nothing but rounding errors of the sums is left
    free = variances > ROUNDING * alone.sum()
    if not free.any():
        return float("nan")
    scaled = directions[:, free] / np.sqrt(variances[free])
    expected = rows * (yes / n)[:, None]
    above = (np.minimum(rows, yes[:, None]) - expected).sum(axis=0)
    below = (expected - np.maximum(0.0, rows - (n - yes)[:, None])).sum(axis=0)
    # a group of which no other sum is possible adds nothing
    moves = above + below > 0.5
    if min(above[moves].min(), below[moves].min()) < FEWEST_EXPECTED:
        return _shuffled_within(table, scaled)
    return float(stats.chi2.sf(((excess @ scaled) ** 2).sum(), int(free.sum())))


def _shuffled_within(table: FloatArray, scaled: FloatArray) -> float:
    """P-value of the sum of squares of groups' excess among tables whose strata have the same margins.

    Args:
        table: numbers of rows by stratum, group, and whether they were kept, shape (S, K, 2).
        scaled: directions of the excess in which it has variance 1, shape (K, D).
    """
    rows, yes = table.sum(axis=2).astype(np.int64), table[..., 1].sum(axis=1).astype(np.int64)
    # what the largest group keeps is what the others leave, so most draws are spared
    order = np.argsort(rows.sum(axis=0), kind="stable")
    rows, scaled, expected = (
        rows[:, order],
        scaled[order],
        (rows * (yes / rows.sum(axis=1))[:, None]).sum(axis=0)[order],
    )
    observed = (((table[..., 1].sum(axis=0)[order] - expected) @ scaled) ** 2).sum() * (1.0 - ROUNDING)
    rng = seeds.generator(0, "labels shuffled within strata")
    most, at_once = int(np.clip(CELLS // rows.size, *TABLES)), int(np.clip(CELLS_AT_ONCE // len(rows), 1, TABLES[0]))
    as_large, drawn = 1, 0
    while drawn < most and as_large <= ratings.PLENTY:
        left = np.tile(yes, (min(at_once, most - drawn), 1))
        drawn += len(left)
        kept, others = np.empty((len(left), len(order))), rows.sum(axis=1)
        for g, own in enumerate(rows.T[:-1]):
            here = np.flatnonzero(own)
            others = others - own
            found = rng.hypergeometric(own[here], others[here], left[:, here])
            left[:, here] -= found
            kept[:, g] = found.sum(axis=1)
        kept[:, -1] = left.sum(axis=1)
        as_large += int(((((kept - expected) @ scaled) ** 2).sum(axis=1) >= observed).sum())
    return as_large / (drawn + 1)


def kept_beside_expected(group: IntArray, kept: NDArray[np.bool_], strata: IntArray) -> FloatArray:
    """Share of each group's rows that were kept, less the share expected if within strata the group did not matter.

    Args:
        group: index of each row's group, shape (N,).
        kept: whether each row was kept, shape (N,).
        strata: any number per row; rows with the same one are compared, shape (N,).

    Returns:
        Shape (K,), over the rows of strata that hold rows of other groups too; NaN for a group without any.
    """
    table = _tables(group, kept, strata)
    table = table[(table.sum(axis=2) > 0).sum(axis=1) > 1]
    rows = table.sum(axis=(0, 2))
    return np.asarray(np.divide(_excess(table), rows, out=np.full(len(rows), np.nan), where=rows > 0))


def _tables(group: IntArray, kept: NDArray[np.bool_], strata: IntArray) -> FloatArray:
    """Numbers of rows by stratum, group, and whether they were kept, shape (S, K, 2)."""
    _, stratum = np.unique(strata, return_inverse=True)
    table = np.zeros((int(stratum.max(initial=0)) + 1, int(group.max(initial=0)) + 1, 2))
    np.add.at(table, (stratum, group, kept.astype(np.int64)), 1.0)
    return table


def _excess(table: FloatArray) -> FloatArray:
    """Rows kept of each group, less those expected within strata, shape (K,)."""
    expected = table.sum(axis=2) * (table[..., 1].sum(axis=1) / table.sum(axis=(1, 2)))[:, None]
    return np.asarray((table[..., 1] - expected).sum(axis=0))


def _strata(log: Log, rows: NDArray[np.bool_]) -> IntArray:
    """A number for the period and the level of rating of each of these rows.

    A level is the rating itself where the log's ratings repeat, as stars do, else one of :func:`_levels`.
    """
    period, rating = log.period[rows], log.rating[rows]
    different, level = np.unique(rating, return_inverse=True)
    if len(different) > min(RATING_LEVELS, len(rating) // 2):
        level = _levels(period, rating)
    return np.asarray(period * RATING_LEVELS + level)


def _levels(period: IntArray, rating: FloatArray) -> IntArray:
    """The level of each rating, of about equally many rows of the log, less the median of its period.

    The period of an average row gets a level for every :data:`ROWS_PER_LEVEL` of its rows. Where periods are short that
    is too wide: what ratings within a level still say is little in one period, and adds up over many.
    """
    sizes = np.bincount(period)
    wanted = max(sizes @ sizes / len(period) / ROWS_PER_LEVEL, LEVELS_PER_ROOT * np.sqrt(len(period)))
    levels = int(np.clip(wanted, 1, RATING_LEVELS))
    middle = np.lexsort((rating, period))[np.cumsum(sizes) - 1 - sizes // 2]
    apart = rating - rating[middle][period]
    edges = np.quantile(apart, np.linspace(0.0, 1.0, levels + 1)[1:-1])
    return np.asarray(np.searchsorted(edges, apart, side="right"))


def _samples(log: Log, t: int) -> Sequence[FloatArray]:
    here = (log.period == t) & np.isfinite(log.rating)
    return [log.rating[here & (log.group == g)] for g in range(len(log.groups))]


def _means(values: FloatArray, group: IntArray, k: int) -> FloatArray:
    """Mean of the known values by group, shape (K,); NaN where there is none."""
    known = np.isfinite(values)
    counts = np.bincount(group[known], minlength=k)
    sums = np.bincount(group[known], weights=values[known], minlength=k)
    return np.asarray(np.divide(sums, counts, out=np.full(k, np.nan), where=counts > 0))


def _counts(kind: IntArray, kinds: int) -> IntArray:
    return np.bincount(kind[kind >= 0], minlength=kinds)


def _from_to(first: FloatArray, last: FloatArray, index: int, named: tuple[str, str] | None = None) -> str:
    """A first and a last value, with the names of their periods where they are not the log's first and last."""
    early, late = (f" in {name}" for name in named) if named else ("", "")
    return f"{first[index]:.3f}{early}, then {last[index]:.3f}{late}"
