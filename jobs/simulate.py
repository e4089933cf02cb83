"""The analytic mode on a terminal: what ``scpl simulate`` prints and writes."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.placement import limits
from jobs.driver import experiments
from jobs.terminal.display import SHOWN_GROUPS
from scpl_ray.analytic import calibration
from scpl_ray.analytic.calibration import Calibration, PredictionError
from scpl_ray.analytic.fixed_points import LongRun, Rest, stability
from scpl_ray.analytic.loop import simulate
from scpl_ray.analytic.model import Start, ignored_line
from scpl_ray.analytic.paths import Band, Paths, band
from scpl_ray.config import Experiment, loading
from scpl_ray.evaluation.catalogue import CATALOGUE
from scpl_ray.evaluation.disparity import levelled_down_between_seeds
from scpl_ray.evaluation.metric_kind import MetricKind
from scpl_ray.report.words import CLOSED
from scpl_ray.storage import consent
from scpl_ray.storage.run_directory import Reader

SHOWN_ROUNDS = 20


def run(experiment: Experiment, console: Console, *, output: Path | None, start: Start | None = None) -> Paths:
    """Simulate and print a line per round, fixed points and their stability; optionally write all numbers.

    Raises:
        ValueError: a setting cannot be simulated, memory does not suffice, or the file cannot be written.
    """
    check_memory(experiment)
    began = time.perf_counter()
    paths = simulate(experiment, start=start)
    seconds = time.perf_counter() - began
    if output is not None:  # first, so that nothing that is said of the numbers can lose them
        write(paths, output)
    seeds, rounds = experiment.analytic.seeds, experiment.loop.rounds
    console.print(round_table(paths))
    for line in (*levelled_lines(paths), *stability_lines(paths), ignored_line([experiment])):
        if line:
            console.print(line, markup=False)
    console.print(f"{seeds * rounds:,} rounds simulated in {seconds:.2f} s: a model of the loop, not the loop")
    if output is not None:
        console.print(f"{output} written: one row per seed, round, group and metric", markup=False)
    return paths


def check_memory(experiment: Experiment, free_gib: Callable[[], float] = limits.free_memory_gib) -> None:
    """Check that all rounds of all seeds fit into memory.

    Raises:
        ValueError: they do not.
    """
    groups = len(experiment.groups.names)
    numbers = len(dataclasses.fields(Paths)) * groups + groups**2
    seed_rounds = experiment.analytic.seeds * (experiment.loop.rounds + 1)
    # once as the rounds come, once side by side, and half as much again while they are computed
    needed, free = 2.5 * 8 * numbers * seed_rounds / limits.GIB, free_gib()
    if needed > free:
        raise ValueError(
            f"analytic.seeds: {experiment.analytic.seeds:,} seeds of {experiment.loop.rounds:,} rounds need about "
            f"{needed:,.1f} GiB of memory, of which {free:.1f} are free; lower analytic.seeds or loop.rounds"
        )


def run_from(
    run_dir: Path,
    overrides: Sequence[str],
    console: Console,
    *,
    name: str,
    output: Path | None,
    fit_rounds: int | None,
) -> None:
    """Fit to the first rounds of a run, print how well its later rounds are predicted, then simulate the overrides.

    Args:
        run_dir: the run; its lock is not taken.
        overrides: ``key=value`` for the simulation after the fit: what the run would have done with these settings.
        console: where to print.
        name: the name of the run in the output.
        output: Parquet file to write.
        fit_rounds: number of rounds to fit; ``None``: half of them.

    Raises:
        ValueError: the run cannot be fitted, or a setting cannot be simulated.
        StoreError: ``run_dir`` is not a run directory.
    """
    reader, experiment = Reader.open(run_dir, name)
    stated = dict(map(loading.parse_override, overrides))
    how = f"say so: --from {shlex.quote(name)} {consent.PLACE}"
    consent.require(reader.facts.get("id"), [experiment], stated, f"--from {name}", how)
    fitted = calibration.calibrate(calibration.observe(reader, experiment), fit_rounds)
    _, errors = calibration.predict(fitted)
    console.print(_parameter_table(fitted, name))
    console.print(_error_table(fitted, errors))
    learned = [f"analytic.{p.name}={p.after:.12f}" for p in fitted.parameters if p.identified]
    run(experiments.load(run_dir / "config.yaml", [*learned, *overrides]), console, output=output, start=fitted.start)


def write(paths: Paths, output: Path) -> None:
    """Write all numbers as Parquet: the columns of a run's metrics, and ``seed``.

    Raises:
        ValueError: the file cannot be written.
    """
    try:
        with output.open("wb") as file:
            pq.write_table(paths.table(), file, compression="zstd")
    except OSError as error:
        raise ValueError(f"--output {output}: {error.strerror}; give a file in a folder that can be written") from error


def round_table(paths: Paths) -> Table:
    """Rounds in rows: means over seeds, and below each the bounds between which 95% of the seeds lie."""
    experiment = paths.experiment
    rounds = experiment.loop.rounds
    every = -(-rounds // SHOWN_ROUNDS)
    title = f"{escape(experiment.name)}: mean over seeds, and the bounds between which 95% of the seeds lie"
    if every > 1:
        title += f"; rounds in steps of {every}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("\nround", justify="right")
    columns: list[tuple[MetricKind, str | None]] = [
        (kind, group)
        for kind in CATALOGUE
        if kind.column and kind.analytic
        for group in (experiment.groups.names[:SHOWN_GROUPS] if kind.per_group else (None,))
    ]
    for kind, group in columns:
        heading = kind.column if group is None else f"{kind.column}\n{group}"
        table.add_column(escape(heading), justify="right", no_wrap=True)
    series = paths.series()
    bands = [(kind.form, band(series[kind.name, group])) for kind, group in columns]
    for t in sorted({*range(0, rounds + 1, every), rounds}):
        cells = [_cell(b, t, form) for form, b in bands]
        table.add_row(str(t), *cells)
    return table


def _cell(of: Band, t: int, form: str) -> str:
    """The mean and its bounds; empty where there is no number, such as what round 0 kept."""
    if np.isnan(of.mean[t]):
        return ""
    return f"{of.mean[t]:{form}}\n[dim]{of.low[t]:{form}}\n{of.high[t]:{form}}[/]"


def levelled_lines(paths: Paths) -> list[str]:
    """Why the gap is below that of round 0, and in which rounds."""
    if paths.experiment.analytic.seeds < 2:
        return []
    cause = levelled_down_between_seeds(paths.quality).cause
    lines = []
    for why, words in CLOSED.items():
        rounds = (np.flatnonzero(cause == why) + 1).tolist()
        listed = ", ".join(map(str, rounds[:SHOWN_ROUNDS])) + (" ..." if len(rounds) > SHOWN_ROUNDS else "")
        lines += [f"{words}, in rounds {listed}"] if rounds else []
    return lines


def stability_lines(paths: Paths) -> list[str]:
    """The fixed points and whether deviations from them die out, in words."""
    experiment = paths.experiment
    if experiment.analytic.seeds < 2:
        return ["stability: analytic.seeds is 1; give at least 2"]
    found = stability(paths)
    names = experiment.groups.names
    lines = []
    if found.obstacle:
        lines.append(f"fixed points: none to give ({found.obstacle})")
    for when, long_run in (("round 0", found.at_start), (f"round {experiment.loop.rounds}", found.at_end)):
        if long_run is not None:
            found_there = _long_run(long_run, names)
            lines.append(f"fixed points with the kinds of {when}: {found_there}; all this while the kinds stand still")
    if found.estimate is None:
        lines.append(
            "stability of the simulated paths: cannot tell with fewer than 4 rounds, or where a group or kind died out"
        )
    else:
        lines.append(f"stability of the simulated paths: {found.estimate}")
    return lines


def _long_run(found: LongRun, names: Sequence[str]) -> str:
    equal = "equal groups are none"
    if found.equal is not None:
        equal = f"equal groups, {_verdict(found.equal)}"
    if found.settled is None:
        return f"{equal}; the groups come to rest nowhere within reach"
    shares = " ".join(f"{name} {share:.3f}" for name, share in zip(names, found.settled.shares, strict=True))
    return f"{equal}; the groups come to rest at {shares}, {_verdict(found.settled)}"


def _verdict(rest: Rest) -> str:
    if rest.rho != rest.rho:
        return "where a group has died out"
    return f"rho(J) = {rest.rho:.3f}, {'stable' if rest.rho < 1 else 'unstable'}"


def _parameter_table(fitted: Calibration, name: str) -> Table:
    table = Table(title=f"fitted to rounds 0 to {fitted.fit_rounds} of {escape(name)}", title_justify="left")
    for column in ("parameter", "before", "fitted", "95% range"):
        table.add_column(column, justify="left" if column == "parameter" else "right")
    for p in fitted.parameters:
        told = (f"{p.after:.4g}", f"{p.low:.4g} to {p.high:.4g}") if p.identified else ("cannot tell", "")
        table.add_row(f"analytic.{p.name}", f"{p.before:.4g}", *told)
    return table


def _error_table(fitted: Calibration, errors: Sequence[PredictionError]) -> Table:
    first, last = fitted.fit_rounds + 1, fitted.observed.rounds
    title = f"rounds {first} to {last}: root mean squared error of the prediction, and of no change since {first - 1}"
    table = Table(title=title, title_justify="left")
    for column in ("metric", "model", "no change", "in 95% band", "numbers"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for e in errors:
        table.add_row(
            e.metric.replace("_", " "), f"{e.model:.4f}", f"{e.no_change:.4f}", f"{e.within_band:.0%}", str(e.numbers)
        )
    return table
