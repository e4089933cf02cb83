"""What a pipeline that is in use does to its groups, from its log: ``scpl measure``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scpl_ray.config.errors import ConfigError
from scpl_ray.feedback.stability import GroupMap
from scpl_ray.logs import findings, reading
from scpl_ray.logs.group_map import group_map
from scpl_ray.report import text
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import write_atomically

SHOWN_PERIODS = 40


def measure_log(
    file: str, fields: str | None, by: reading.By | None, console: Console, *, fit: bool, output: Path | None
) -> None:
    """Print what a log shows, and write it if asked to.

    Args:
        file: a JSONL, CSV or Parquet file with one row per answer.
        fields: the log's columns by field, as a YAML mapping; ``None``: they have the fields' names.
        by: the length of a period where the log holds dates.
        console: where it is printed.
        fit: whether the map from one period's shares to the next one's is estimated.
        output: JSON file to write; ``None``: none.

    Raises:
        ConfigError: ``fields`` is no mapping.
        DataError: the log cannot be used.
        StoreError: the file cannot be written.
    """
    log, said = reading.read(file, _mapping(fields), by=by)
    numbers, answers, moved = findings.periods(log), findings.findings(log), findings.preference(log)
    found = group_map(log) if fit else None
    if output is not None:  # first, so that nothing that is said of the numbers can lose them
        _write(output, log, numbers, answers, moved.tolist(), found)
    console.print(said, markup=False, highlight=False)
    console.print(_table(log, numbers, moved.tolist()))
    for one in answers:
        console.print(_said(one), markup=False, highlight=False)
    if found is not None:
        console.print(_growth(found), markup=False, highlight=False)
    console.print(
        "Rows are taken as independent: with several of one user, give one each. What a group is rated may depend on "
        "what it asks; a log alone cannot tell.",
        markup=False,
        style="dim",
    )
    if output is not None:
        console.print(f"{output} written", markup=False)


def _said(one: findings.Finding) -> str:
    """A question and its answer in one line."""
    if not one.answered:
        return f"○ {one.question} cannot tell: {one.answer}"
    sign, word = ("●", "shown") if one.shown else ("○", "not shown")
    return f"{sign} {one.question} {word}: {one.answer} (adjusted p {text.p_value(one.p_adjusted)})"


def _growth(found: GroupMap) -> str:
    """What the map of a log says, in one line; its blocks of transitions share their ends."""
    fitted = "" if math.isnan(found.rho) else f": rho(J) = {found.rho:.3f} [{found.low:.3f}, {found.high:.3f}]"
    why = f": {found.reason}" if found.reason else ""
    periods = found.seeds * found.rounds + 1
    return f"do deviations of the {found.state} grow? {found.verdict}{fitted} in {periods} periods{why}"


def _mapping(fields: str | None) -> dict[str, str]:
    if fields is None:
        return {}
    try:
        value = yaml.safe_load(fields)
    except (yaml.YAMLError, ValueError):
        value = None
    if not isinstance(value, dict) or not all(isinstance(name, str) for pair in value.items() for name in pair):
        raise ConfigError(f"--fields {fields}: expected a mapping of field to column, e.g. '{{group: region}}'")
    return value


def _table(log: reading.Log, numbers: list[findings.Period], moved: list[float]) -> Table:
    shown = numbers if len(numbers) <= SHOWN_PERIODS else numbers[-SHOWN_PERIODS:]
    title = "by period" if len(shown) == len(numbers) else f"the last {len(shown)} of {len(numbers)} periods"
    table = Table(title=title, title_justify="left")
    table.add_column("period")
    columns: list[tuple[str, list[float]]] = []
    for g, group in enumerate(log.groups):
        columns.append((f"share {group}", [float(one.shares[g]) for one in shown]))
        columns.append((f"kept {group}", [float(one.accepted[g]) for one in shown]))
        columns.append((f"rating {group}", [float(one.ratings[g]) for one in shown]))
    columns.append(("gap", [one.gap for one in shown]))
    for m, kind in enumerate(log.kinds):
        columns.append((f"kind {kind}", [float(one.kinds[m]) for one in shown]))
    columns.append(("kinds moved", moved[-len(shown) :]))
    columns = [(name, values) for name, values in columns if any(map(math.isfinite, values))]
    for name in ("rows", *(name for name, _ in columns)):
        table.add_column(escape(name), justify="right")
    for index, one in enumerate(shown):
        table.add_row(escape(one.name), f"{one.rows:,}", *(text.number(values[index]) for _, values in columns))
    return table


def _write(
    output: Path,
    log: reading.Log,
    numbers: list[findings.Period],
    answers: list[findings.Finding],
    moved: list[float],
    fitted: GroupMap | None,
) -> None:
    def named(names: tuple[str, ...], values: Any) -> dict[str, float | None]:
        return {name: float(v) if math.isfinite(v) else None for name, v in zip(names, values, strict=True)}

    found: dict[str, Any] = {
        "periods": [
            {
                "period": one.name,
                "rows": one.rows,
                "share": named(log.groups, one.shares),
                "kept": named(log.groups, one.accepted),
                "rating": named(log.groups, one.ratings),
                "gap": one.gap if math.isfinite(one.gap) else None,
                "kind": named(log.kinds, one.kinds),
                "kinds_moved": far if math.isfinite(far) else None,
            }
            for one, far in zip(numbers, moved, strict=True)
        ],
        "findings": [
            {
                "question": one.question,
                "answer": one.answer,
                "p": one.p if one.answered else None,
                "p_adjusted": one.p_adjusted if one.answered else None,
                "shown": one.shown if one.answered else None,
            }
            for one in answers
        ],
    }
    if fitted is not None:
        numbers_of_map = {"rho": fitted.rho, "low": fitted.low, "high": fitted.high}
        found["map"] = {name: value if math.isfinite(value) else None for name, value in numbers_of_map.items()}
        found["map"] |= {"verdict": fitted.verdict, "reason": fitted.reason, "state": fitted.state}
    try:
        write_atomically(output, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise StoreError(f"{output}: {error.strerror}; give a file that can be written with --output") from error
