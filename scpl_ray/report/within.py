"""How sure a run's own numbers are: the intervals that its metrics come with, where they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from scpl_ray.records import Metric
from scpl_ray.report.data import Part
from scpl_ray.shares import FloatArray
from scpl_ray.studies.series import Key

Intervals = Mapping[Key, tuple[FloatArray, FloatArray]]
"""Lower and upper bounds per round, each of shape (T + 1,), by metric and group; NaN where there is none."""
LOW, HIGH = "low", "high"
"""The columns of a metrics table that hold them."""


def of_arm(part: Part, arm: str) -> Intervals:
    """The intervals of an arm of one seed; empty where it has several, which say more, or where there are none."""
    runs = [run for run in part.runs if run.arm == arm]
    if len(runs) != 1:
        return {}
    (run,) = runs
    rounds = [t for t in range(run.experiment.loop.rounds + 1) if run.reader.manifest(t, "evaluation") is not None]
    return of_tables([run.reader.table(t, "evaluation", "metrics", Metric) for t in rounds], rounds)


def of_tables(tables: Sequence[pa.Table], rounds: Sequence[int]) -> Intervals:
    """The intervals in the metrics tables of some rounds."""
    found: dict[Key, tuple[FloatArray, FloatArray]] = {}
    for table, t in zip(tables, rounds, strict=True):
        if not {LOW, HIGH} <= set(table.column_names):
            return {}
        for row in table.select(["metric", "group", LOW, HIGH]).to_pylist():
            if row[LOW] is None or row[HIGH] is None:
                continue
            key = (row["metric"], row["group"])
            if key not in found:
                found[key] = (np.full(rounds[-1] + 1, np.nan), np.full(rounds[-1] + 1, np.nan))
            found[key][0][t], found[key][1][t] = row[LOW], row[HIGH]
    return found
