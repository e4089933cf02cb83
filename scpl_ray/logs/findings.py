"""What a log shows: numbers per period and group, and tests of whether they drift or differ between groups.

Every test takes rows as independent. Rows of one user, or near copies of one question, are not: then p-values are too
small, and one row per user is the remedy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from scpl_ray.evaluation import bias
from scpl_ray.logs.reading import Log
from scpl_ray.shares import FloatArray, IntArray
from scpl_ray.studies.statistics import holm

RATING_LEVELS = 50
"""Ratings with more different values are cut into so many levels of equally many rows."""
LEVEL = 0.05


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
    p_adjusted: float
    """Adjusted for all questions that were asked of the log (Holm)."""

    @property
    def shown(self) -> bool:
        """Whether the answer is yes at the level .05 over all questions."""
        return self.p_adjusted < LEVEL


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
    """Total variation of each period's kinds from those of the first period, less what counting makes, shape (T,)."""
    counts = np.array([_counts(log.kind[log.period == t], len(log.kinds)) for t in range(len(log.periods))])
    if len(log.kinds) < 2 or not counts[0].sum():
        return np.full(len(log.periods), np.nan)
    first = bias.kind_counts(counts[0], log.kinds)
    moved = [np.nan] * len(counts)
    for t, row in enumerate(counts):
        if row.sum():
            now = bias.kind_counts(row, log.kinds)
            measured = bias.measure_preference(now, first, advantaged=log.kinds[0])
            moved[t] = float(measured.round_0.total_variation)
    return np.array(moved)


def findings(log: Log) -> list[Finding]:
    """Every question that the log can answer, with p-values adjusted for all of them."""
    asked = list(_questions(log))
    adjusted = holm([p for _, _, p in asked])
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
            told = log.kind >= 0
            moved = int(np.argmax(np.abs(np.nan_to_num(last.kinds - first.kinds))))
            p = association(log.period[told], log.kind[told])
            yield "do the kinds of answers change?", f"{log.kinds[moved]} {_from_to(first.kinds, last.kinds, moved)}", p
    known = np.isfinite(log.kept)
    if known.any() and 0.0 < log.kept[known].mean() < 1.0:
        accepted = _means(log.kept, log.group, len(log.groups))
        best, worst = int(np.nanargmax(accepted)), int(np.nanargmin(accepted))
        said = f"{log.groups[best]} {accepted[best]:.3f}, {log.groups[worst]} {accepted[worst]:.3f}"
        rated = known & np.isfinite(log.rating)
        if rated.any():
            strata = log.period[rated] * (RATING_LEVELS + 1) + _levels(log.rating[rated])
            p = cochran_mantel_haenszel(log.group[rated], log.kept[rated] > 0, strata)
            yield "is what is kept different between groups of equal rating?", f"kept: {said}", p
        else:
            p = cochran_mantel_haenszel(log.group[known], log.kept[known] > 0, log.period[known])
            yield (
                "is what is kept different between groups?",
                f"kept: {said}; no rating is logged to hold against it",
                p,
            )
    yield from _of_ratings(log, first, last, len(numbers))


def _of_ratings(log: Log, first: Period, last: Period, count: int) -> Iterator[tuple[str, str, float]]:
    samples = [_samples(log, t) for t in (0, len(log.periods) - 1)]
    if all(len(one) > 1 for one in samples[1]):
        p = float(stats.alexandergovern(*samples[1]).pvalue) if all(np.ptp(s) > 0 for s in samples[1]) else 1.0
        worst = int(np.nanargmin(last.ratings))
        said = f"gap {last.gap:.3f}, {log.groups[worst]} is served worst ({last.ratings[worst]:.3f})"
        yield f"are groups rated differently in {last.name}?", said, p
    if count > 1 and all(len(one) > 1 for both in samples for one in both):
        change = last.ratings - first.ratings
        variance = np.array([sum(one.var(ddof=1) / len(one) for one in both) for both in zip(*samples, strict=True)])
        if np.all(variance > 0):
            mean = (change / variance).sum() / (1.0 / variance).sum()
            p = float(stats.chi2.sf(((change - mean) ** 2 / variance).sum(), len(change) - 1))
            yield "does the gap between groups change?", f"gap {first.gap:.3f}, then {last.gap:.3f}", p


def association(rows: IntArray, columns: IntArray) -> float:
    """P-value of Pearson's chi-square test that two labels are independent; 1 where one of them never varies."""
    table = np.zeros((rows.max(initial=0) + 1, columns.max(initial=0) + 1))
    np.add.at(table, (rows, columns), 1.0)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    return float(stats.chi2_contingency(table, correction=False).pvalue) if min(table.shape) > 1 else 1.0


def cochran_mantel_haenszel(group: IntArray, kept: NDArray[np.bool_], strata: IntArray) -> float:
    """P-value that within strata, what is kept does not depend on the group (Mantel 1963; Agresti 2013, section 8.4).

    The statistic sums over strata the numbers kept per group less those expected, with their hypergeometric covariance.

    Args:
        group: index of each row's group, shape (N,).
        kept: whether each row was kept, shape (N,).
        strata: any number per row; rows with the same one are compared, shape (N,).
    """
    k = int(group.max(initial=0)) + 1
    _, stratum = np.unique(strata, return_inverse=True)
    table = np.zeros((int(stratum.max(initial=0)) + 1, k, 2))
    np.add.at(table, (stratum, group, kept.astype(np.int64)), 1.0)
    table = table[table.sum(axis=(1, 2)) > 1]
    rows, n, yes = table.sum(axis=2), table.sum(axis=(1, 2)), table[..., 1].sum(axis=1)
    excess = (table[..., 1] - rows * (yes / n)[:, None]).sum(axis=0)
    scale = yes * (n - yes) / (n**2 * (n - 1.0))
    covariance = np.diag((scale[:, None] * rows * n[:, None]).sum(axis=0)) - np.einsum("s,si,sj->ij", scale, rows, rows)
    rank = int(np.linalg.matrix_rank(covariance)) if covariance.size else 0
    if rank == 0:
        return 1.0
    return float(stats.chi2.sf(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess, rank))


def _levels(rating: FloatArray) -> IntArray:
    """The level of each rating: the value itself where there are few, else one of equally many rows."""
    different, which = np.unique(rating, return_inverse=True)
    if len(different) <= RATING_LEVELS:
        return np.asarray(which)
    edges = np.quantile(rating, np.linspace(0.0, 1.0, RATING_LEVELS + 1)[1:-1])
    return np.searchsorted(edges, rating, side="right")


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


def _from_to(first: FloatArray, last: FloatArray, index: int) -> str:
    return f"{first[index]:.3f}, then {last[index]:.3f}"
