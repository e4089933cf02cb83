"""The results table as arrays: one path per arm, seed, metric and group."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
from scipy import stats

from scpl_ray.config.schema import MOST_ROUNDS
from scpl_ray.shares import FloatArray, IntArray, check_fraction

Key = tuple[str, str | None]
"""Metric and group (``None``: over all groups)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Paths of every arm over its rounds 0..T; numbers that do not exist are NaN, infinite ones stay."""

    arms: tuple[str, ...]
    """Labels of the arms, in the order of the table."""
    seeds: tuple[int, ...]
    """The seeds of all arms together and those that were planned, ascending; they are the rows of every path."""
    values: Mapping[str, Mapping[Key, FloatArray]]
    """The paths by arm and key, each of shape (S, T + 1)."""
    within: Mapping[str, Mapping[Key, FloatArray]] = dataclasses.field(default_factory=dict)
    """Bounds of the within-run intervals by arm and key, each of shape (S, T + 1, 2), of metrics that have them."""

    @classmethod
    def of(cls, table: pa.Table, planned: Iterable[int] = ()) -> Series:
        """Read the paths from a table with the schema :data:`scpl_ray.studies.results.SCHEMA`.

        Args:
            table: the table.
            planned: seeds that a study was to have: one without a number in any arm is missing, and is not forgotten.

        Raises:
            ValueError: a round below 0, or a number that occurs twice.
        """
        arm, arms = _codes(table["arm"])
        metric, metrics = _codes(table["metric"])
        group, groups = _codes(table["group"])
        seeds = np.union1d(table["seed"].to_numpy(), np.array(list(planned), dtype=np.int64))
        seed = np.searchsorted(seeds, table["seed"].to_numpy())
        round_, value = table["round"].to_numpy(), table["value"].to_numpy()
        if len(round_) and round_.min() < 0:
            raise ValueError(f"results: round {round_.min()} is below 0; the table is damaged, write it again")
        if len(round_) and round_.max() > MOST_ROUNDS:
            raise ValueError(
                f"results: round {round_.max():,} is beyond the {MOST_ROUNDS:,} rounds that a run can have; the table "
                "is damaged, write it again"
            )
        key = (arm * len(metrics) + metric) * len(groups) + group
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        longest = np.zeros(len(arms), dtype=np.int64)
        np.maximum.at(longest, arm, round_)
        bounds = np.stack([table[name].to_numpy() for name in ("low", "high")], axis=-1)
        values: dict[str, dict[Key, FloatArray]] = {str(name): {} for name in arms}
        within: dict[str, dict[Key, FloatArray]] = {str(name): {} for name in arms}
        for rows in np.split(order, starts[1:]) if len(order) else []:
            a = arm[rows[0]]
            name = (str(metrics[metric[rows[0]]]), groups[group[rows[0]]])
            path = np.full((len(seeds), longest[a] + 1), np.nan)
            if len(np.unique(seed[rows] * path.shape[1] + round_[rows])) < len(rows):
                raise ValueError(f"results: {arms[a]} {name} has two numbers for one seed and round; write it again")
            path[seed[rows], round_[rows]] = value[rows]
            values[str(arms[a])][name] = path
            if not np.isnan(bounds[rows]).all():
                within[str(arms[a])][name] = np.full((*path.shape, 2), np.nan)
                within[str(arms[a])][name][seed[rows], round_[rows]] = bounds[rows]
        return cls(tuple(map(str, arms)), tuple(seeds.tolist()), values, within)

    @property
    def measured(self) -> tuple[int, ...]:
        """The seeds that have any number in any arm."""
        there = np.any([self.reached(arm) >= 0 for arm in self.arms], axis=0) if self.arms else ()
        return tuple(seed for seed, ok in zip(self.seeds, there, strict=False) if ok)

    def path(self, arm: str, metric: str, group: str | None = None) -> FloatArray:
        """A path, shape (S, T + 1); all NaN if the arm lacks the metric, and one round long if it has no metrics."""
        own = self.values.get(arm, {})
        rounds = next((values.shape[1] for values in own.values()), 1)
        found = own.get((metric, group))
        return np.full((len(self.seeds), rounds), np.nan) if found is None else found

    def within_run(self, arm: str, metric: str, group: str | None = None) -> FloatArray | None:
        """How far the within-run bounds are below and above a path, mean over seeds, shape (T + 1, 2).

        Below 0 where both bounds are on one side: a distance from which chance is taken may be negative, its bounds are
        not. NaN in rounds in which no seed has bounds; ``None``: there are none.
        """
        found = self.within.get(arm, {}).get((metric, group))
        if found is None:
            return None
        sides = (found - self.path(arm, metric, group)[..., None]) * np.array([-1.0, 1.0])
        there = ~np.isnan(sides)
        n = there.sum(axis=0)
        total = np.where(there, sides, 0.0).sum(axis=0)
        return np.asarray(np.divide(total, n, out=np.full(n.shape, np.nan), where=n > 0))

    def groups(self, arm: str, metric: str) -> tuple[str, ...]:
        """Groups for which the arm has the metric, in the order of the table."""
        return tuple(group for name, group in self.values.get(arm, {}) if name == metric and group is not None)

    def paths(self, arm: str, metric: str) -> FloatArray:
        """Paths of all groups, shape (S, T + 1, K) in the order of :meth:`groups`; without the metric K is 0."""
        found = [self.path(arm, metric, group) for group in self.groups(arm, metric)]
        return np.stack(found, axis=-1) if found else np.empty((len(self.seeds), 1, 0))

    def reached(self, arm: str) -> IntArray:
        """Last round in which each seed has any number, shape (S,); -1 where it has none."""
        last = np.full(len(self.seeds), -1, dtype=np.int64)
        for values in self.values.get(arm, {}).values():
            there = ~np.isnan(values)
            own = values.shape[1] - 1 - there[:, ::-1].argmax(axis=1)
            last = np.maximum(last, np.where(there.any(axis=1), own, -1))
        return last

    def last(self, *arms: str) -> int:
        """The last round that any seed of these arms reached; -1 where none has any result."""
        return max((int(self.reached(arm).max(initial=-1)) for arm in arms), default=-1)


def _codes(column: pa.ChunkedArray) -> tuple[IntArray, list[str | None]]:
    """Integer codes in the order of first appearance, and the values they stand for; null counts as a value."""
    encoded = column.combine_chunks().dictionary_encode("encode")
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


@dataclasses.dataclass(frozen=True, eq=False)
class MeanPath:
    """Mean between seeds with its t-interval, per round; arrays of shape (T + 1,)."""

    mean: FloatArray
    """Mean over seeds; NaN where no seed has a number."""
    low: FloatArray
    """Lower bound of the interval; NaN where fewer than two seeds have a number."""
    high: FloatArray
    seeds: IntArray
    """Number of seeds that have a number in each round."""


def mean_path(paths: FloatArray, *, confidence: float = 0.95) -> MeanPath:
    """Mean and t-interval per round over the seeds that have a number in it.

    Args:
        paths: shape (S, T + 1), NaN where there is no number.
        confidence: confidence level of the two-sided interval.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    check_fraction("confidence", confidence)
    there = ~np.isnan(paths)
    n = there.sum(axis=0)
    nan = np.full(paths.shape[1], np.nan)
    mean = np.divide(np.where(there, paths, 0.0).sum(axis=0), n, out=nan.copy(), where=n > 0)
    with np.errstate(invalid="ignore"):  # where a number is infinite, the mean is too and has no interval
        squares = np.where(there, (paths - mean) ** 2, 0.0).sum(axis=0)
    sd = np.sqrt(np.divide(squares, n - 1, out=nan.copy(), where=n > 1))
    half = stats.t.ppf(0.5 + confidence / 2.0, np.maximum(n - 1, 1)) * sd / np.sqrt(np.maximum(n, 1))
    return MeanPath(mean, np.asarray(mean - half), np.asarray(mean + half), n)
