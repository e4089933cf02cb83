"""Run a study under Ray Tune or without a language model; ``scpl sweep`` and submitted jobs call this module."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.util
import json
import operator
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.configs import CONFIGS
from jobs.driver import alike, claims, experiments, inputs, lost_runs, own_code, strays, study_identity
from jobs.terminal.display import wide_console
from jobs.terminal.interrupts import STOPPED
from jobs.terminal.verdicts import print_verdicts
from scpl_ray.analytic.loop import simulate
from scpl_ray.analytic.model import ignored_line
from scpl_ray.analytic.paths import Paths
from scpl_ray.config import loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.credentials import masked
from scpl_ray.evaluation.catalogue import CATALOGUE
from scpl_ray.records import Metric
from scpl_ray.report import data
from scpl_ray.storage import consent, inside
from scpl_ray.storage.errors import InUseError, StoreError
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.run_directory import Reader
from scpl_ray.studies import results, study
from scpl_ray.studies.power import seeds_needed
from scpl_ray.studies.study import Search, Study, Trial

if TYPE_CHECKING:
    from actors.placement.cluster import Cluster
    from jobs.driver.dry_run import StudyPlan

SHOWN = tuple(kind.name for kind in CATALOGUE if kind.study_table)
SHOWN_ARMS = 40


def new_folder(plan: Study) -> Path:
    """``studies/<name>-<time>`` below the working directory."""
    return Path("studies") / f"{plan.name}-{time.strftime('%Y%m%d-%H%M%S')}"


def create(folder: Path, plan: Study) -> None:
    """Make the folder of a new study.

    Raises:
        StoreError: the folder is not empty, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(path.name != study_identity.FILE for path in folder.iterdir()):
            raise StoreError(
                f"{folder}: not empty; if it holds a study, continue that with: scpl sweep --resume "
                f"{shlex.quote(str(folder))}; else give another folder with --study-dir"
            )
        identity = study_identity.new(folder)
        write_atomically(folder / study.STUDY_FILE, study.dump(plan).encode())
        for trial in study.trials(plan.model_copy(update={"seeds": 1}), CONFIGS):
            consent.give(identity, trial.experiment)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}; give a folder that can be written with --study-dir") from error


def open_study(folder: Path, keys: Mapping[str, Any] | None = None) -> Study:
    """The study of a folder that is to be resumed, with more seeds where ``keys`` ask for them.

    Raises:
        StoreError: the folder holds no study, or one that was not begun here and names code that would run, or
            finished trials of another config, or runs of no arm of the study, or results without their runs, or data,
            models or code are not those that its trials began with.
        ConfigError: the study file is damaged; a key is not ``seeds``, or not to more.
    """
    file = folder / study.STUDY_FILE
    if not file.is_file():
        raise StoreError(f"{folder}: no study, {study.STUDY_FILE} is missing; give the folder that `scpl sweep` made")
    plan = study.load(file, CONFIGS)
    if keys:
        plan = _with_seeds(folder, plan, keys)
    named = [trial.experiment for trial in study.trials(plan.model_copy(update={"seeds": 1}), CONFIGS)]
    identity = study_identity.of(folder)
    consent.require(identity, named, {}, f"--resume {folder}", f"begin the study here: scpl sweep {file}")
    for experiment in named:
        own_code.find_again(identity, experiment)
    if plan.mode != "analytic" and not is_finished(folder, plan):
        plan = inputs.anchored_axes(plan)
        strays.check(folder, plan)
        lost_runs.check(folder, plan)
        _check_finished(folder, plan)
        alike.check_inputs(folder, plan)
        alike.check_code(folder, plan)
    return plan


def _check_finished(folder: Path, plan: Study) -> None:
    """Check that finished trials have the config that others would now be run with.

    Raises:
        StoreError: the study file, or a base that it names, was edited since.
    """
    if plan.mode != "engines":
        return
    for trial in study.trials(plan, CONFIGS):
        run_dir = folder / trial.folder
        if not (run_dir / "summary.json").is_file():
            continue
        before = Reader.open(run_dir)[1]
        if other := alike.other_keys(before, trial.experiment):
            raise StoreError(
                f"{run_dir} was finished with {alike.told(other, before, trial.experiment)}: trials of one study "
                f"differ in nothing but their arms and seeds; undo the change of {folder / study.STUDY_FILE} or of its "
                "base, or begin a new study"
            )


def _with_seeds(folder: Path, plan: Study, keys: Mapping[str, Any]) -> Study:
    """The study with more seeds; if it was finished, that look at its results is noted."""
    seeds = keys.get("seeds")
    if plan.search is not None:
        raise ConfigError(f"--resume {folder}: {study.NO_SEEDS}")
    if set(keys) != {"seeds"} or not isinstance(seeds, int) or isinstance(seeds, bool) or seeds <= plan.seeds:
        said = " ".join(f"{key}={value}" for key, value in keys.items())
        raise ConfigError(
            f"--resume {folder}: {said}: a study may only get more seeds than its {plan.seeds}; begin a new one for "
            "anything else"
        )
    noted = results.looks(folder)
    if not noted and (folder / results.FILE).is_file():  # as older versions left it
        noted = (plan.seeds,)
    looks = {*plan.interim, *noted}
    return plan.model_copy(update={"seeds": seeds, "interim": tuple(sorted(n for n in looks if n < seeds))})


def extend(folder: Path, plan: Study) -> None:
    """Note the larger number of seeds of a study in its folder.

    Raises:
        InUseError: another process is running the study.
    """
    with _locked(folder):
        write_atomically(folder / study.STUDY_FILE, study.dump(plan).encode())


def is_finished(folder: Path, plan: Study) -> bool:
    """Whether every trial of a study is on disk to its end, so that its tables need no code, data or model."""
    if plan.mode != "engines":
        return False
    return all((folder / trial.folder / "summary.json").is_file() for trial in study.trials(plan, CONFIGS))


def checked(
    plan: Study, *, dry_run: bool, cluster: Cluster | None = None
) -> tuple[Study, list[Trial], StudyPlan | None]:
    """A study whose paths are absolute, its trials, and what its engines would make and write, after every check.

    Args:
        plan: the study.
        dry_run: whether tasks are built too, which may take seconds each.
        cluster: the cluster to plan for; ``None``: this machine, unless ``RAY_ADDRESS`` names a cluster.

    Raises:
        ValueError: something cannot work; nobody answers at ``RAY_ADDRESS``.
    """
    plan = inputs.anchored_study(plan, CONFIGS)
    trials = study.trials(plan, CONFIGS, experiments.build)
    check(plan, trials)
    if plan.mode == "analytic":
        return plan, trials, None
    # these import Ray and torch, for which a study without a language model need not wait
    from jobs.driver.dry_run import check_trials
    from jobs.driver.ray_session import check_address

    found = check_trials(trials, with_tasks=dry_run, cluster=cluster)
    if not dry_run:
        check_address()
    return plan, trials, found


def check(plan: Study, trials: Sequence[Trial]) -> None:
    """Refuse a study that cannot run as configured.

    Raises:
        ConfigError: something is missing, or a setting is not allowed in studies.
    """
    if plan.search is not None and plan.search.sampler == "optuna" and importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "search.sampler = 'optuna': Optuna is not installed; pip install scpl_ray[search], or set it to random"
        )
    grows = any(trial.experiment.placement.cluster is not None for trial in trials)
    if plan.mode != "analytic" and (grows or "placement.cluster" in plan.axes):
        raise ConfigError(
            f"study {plan.name}: placement.cluster is given, but a study uses the nodes that are there; start them "
            "first (min_workers in cluster.yaml) and leave placement.cluster out"
        )
    if faults := [fault for claim in plan.claims for fault in claims.faults(claim, plan, trials)]:
        raise ConfigError(loading.problems(f"study {plan.name}", faults))


def run(folder: Path, plan: Study, trials: Sequence[Trial]) -> int:
    """Run or resume a study up to its results table, and turn whatever stops it into a message.

    Returns:
        The exit code: 0; 1 if trials failed or the study could not continue; 130 if it was told to stop.

    Raises:
        InUseError: another process is running the study.
        PlacementError: not even one trial fits the machine.
    """
    again = f"continue with: scpl sweep --resume {shlex.quote(str(folder))}"
    try:
        with _locked(folder):
            return _run(folder, plan, trials, again)
    except KeyboardInterrupt:
        print(f"scpl: stopped; finished rounds are on disk; {again}", file=sys.stderr)
        return STOPPED
    except InUseError:
        raise
    except (RuntimeError, OSError) as error:
        print(f"scpl: {masked(error)}\nfinished rounds and logs are in {folder}; {again}", file=sys.stderr)
        return 1


def _run(folder: Path, plan: Study, trials: Sequence[Trial], again: str) -> int:
    console = wide_console()
    failed: dict[str, str] = {}
    if plan.mode == "analytic":
        began = time.perf_counter()
        found = simulated(plan, trials)
        seconds = time.perf_counter() - began
        arms = len({trial.label for trial in trials})
        console.print(
            f"{arms} arms x {plan.seeds} seeds simulated in {seconds:.1f} s: a model of the loop, not the loop"
        )
        if ignored := ignored_line(trial.experiment for trial in trials):
            console.print(ignored, markup=False, highlight=False)
    else:
        from jobs.driver import tuning  # imports Ray: a study without a language model need not wait

        if not is_finished(folder, plan):  # what is written there is older than what now begins
            with contextlib.suppress(FileNotFoundError):
                (folder / results.FILE).replace(folder / results.BEFORE)
            (folder / study.FAILED_FILE).unlink(missing_ok=True)
        failed = tuning.run(folder, plan, trials)
        found = collect(folder, plan, trials)
    write_atomically(folder / study.FAILED_FILE, (json.dumps(failed, indent=1) + "\n").encode())
    results.write(found, folder)
    (folder / results.BEFORE).unlink(missing_ok=True)
    console.print(last_round(found))
    if plan.search is None and found.num_rows:
        (part,) = data.load([folder], CONFIGS)
        results.note_look(folder, part.looked_at)
        if plan.claims:
            print_verdicts(console, part)
    for name, reason in failed.items():
        console.print(f"failed: {name}: {reason}", markup=False)
    if failed:
        of = len(trials) if plan.search is None else plan.search.trials
        console.print(f"{len(failed)} of {of} trials failed; to try them again, {again}", markup=False)
    console.print(f"{folder / results.FILE} written; now: scpl report {shlex.quote(str(folder))}", markup=False)
    if plan.search is not None:
        facts = best(folder, plan.search, list(plan.axes))
        write_atomically(folder / study.SEARCH_FILE, (json.dumps(facts, indent=1) + "\n").encode())
        keys = " ".join(f"{key}={setting}" for key, setting in facts["keys"].items())
        console.print(f"best: {facts['metric']} {facts['value']:.4f} with {keys}", markup=False)
    return 1 if failed else 0


def best(folder: Path, search: Search, keys: Sequence[str]) -> dict[str, Any]:
    """The best trial of those that reached their last round: ``metric``, its ``value``, and the sampled ``keys``.

    Raises:
        RuntimeError: none of these trials has the metric.
    """
    runs = (path.parent for path in sorted((folder / study.SAMPLED).glob("*/summary.json")))
    finished = {run: json.loads((run / "summary.json").read_bytes())["metrics"] for run in runs}
    values = {run: found[search.metric] for run, found in finished.items() if search.metric in found}
    if not finished:
        raise RuntimeError("no trial of the search reached its last round; change what made them fail")
    if not values:
        there = ", ".join(sorted({name for found in finished.values() for name in found}))
        raise RuntimeError(
            f"search.metric = {search.metric!r}: no trial has it in its last round; name one of these in "
            f"{folder / study.STUDY_FILE}: {there}"
        )
    run = (min if search.direction == "min" else max)(values, key=values.__getitem__)
    config = loading.read(run / "config.yaml")
    sampled = {key: functools.reduce(operator.getitem, key.split("."), config) for key in keys}
    return {"metric": search.metric, "value": values[run], "keys": sampled}


def print_plan(console: Console, plan: Study, trials: Sequence[Trial], found: StudyPlan | None) -> None:
    """Print the arms, the number of rounds that would be run, their bytes, and the cost of what would be made first."""
    tried = f"{plan.seeds} seeds per arm" if plan.search is None else f"{plan.search.trials} settings"
    table = Table(title=f"study {plan.name}: {plan.mode}, {tried}", title_justify="left")
    table.add_column("arm")
    table.add_column("keys")
    for trial in {t.label: t for t in trials}.values():
        keys = {**plan.set, **dict(trial.cell), **plan.arms[trial.arm]}
        table.add_row(escape(trial.label), escape(" ".join(f"{key}={value}" for key, value in keys.items())))
    console.print(table)
    if found is not None and found.made:
        console.print("the study would make first, once, and keep:", markup=False)
        for name, cost in found.made.items():
            console.print(f"  {name}: {cost}", markup=False)
    if found is not None:
        # these import torch, for which analytic studies need not wait
        from actors.placement.disk import study_line
        from jobs.terminal.plan import print_unchecked

        written = found.written if plan.search is None else found.written[:1] * plan.search.trials
        unknown = "disk: unknown until the models' configs are on this machine"
        console.print(study_line(written) if written else unknown, markup=False)
        print_unchecked(console, found.unchecked)
    rounds = [trial.experiment.loop.rounds for trial in trials]
    if plan.search is None:
        count = f"{len(trials)} trials, {sum(rounds)} rounds; {len(plan.claims)} claims"
    else:
        count = f"at most {plan.search.trials} trials, {plan.search.trials * rounds[0]} rounds"
    console.print(f"{count}; nothing was started", markup=False)
    family = len(plan.claims) * len(study.points(plan))
    needed = seeds_needed(family)
    if family and (needed is None or plan.seeds < needed):
        enough = "no number of seeds can" if needed is None else f"that takes {needed}"
        console.print(
            f"{plan.seeds} seeds cannot support the first of {family} claims, whatever comes out: {enough}; they give "
            "intervals",
            markup=False,
        )


def collect(folder: Path, plan: Study, trials: Sequence[Trial]) -> pa.Table:
    """The results table of the run directories of a study, finished or not."""
    if plan.mode == "search":
        found = [(path.name, trials[0].seed, path) for path in sorted((folder / study.SAMPLED).glob("*"))]
    else:
        found = [(trial.label, trial.seed, folder / trial.folder) for trial in trials]
    return results.table([(arm, seed, results.run_rows(path)) for arm, seed, path in found])


def simulated_arms(plan: Study, trials: Sequence[Trial]) -> Iterator[tuple[str, Callable[[], Paths]]]:
    """Every arm and point by its label, and what simulates it without a language model, with all seeds at once.

    A simulation raises :class:`ValueError` where a seed of a setting cannot go on.
    """
    arms: dict[str, Trial] = {}
    for trial in trials:
        arms.setdefault(trial.label, trial)
    for label, trial in arms.items():
        few = trial.experiment.analytic.model_copy(update={"seeds": plan.seeds})
        yield label, functools.partial(simulate, trial.experiment.model_copy(update={"analytic": few}))


def simulated(plan: Study, trials: Sequence[Trial]) -> pa.Table:
    """The results table of all arms of an analytic study, with the seeds of its trials.

    Raises:
        ValueError: a setting cannot be simulated.
    """
    parts = []
    for label, simulation in simulated_arms(plan, trials):
        paths = simulation()
        table = paths.table()
        table = table.add_column(0, "arm", pa.array([label] * len(table))).select(results.SCHEMA.names)
        place, seeds = table.schema.get_field_index("seed"), table["seed"].cast(pa.int64())
        parts.append(table.set_column(place, "seed", pc.add(seeds, paths.experiment.seed)).cast(results.SCHEMA))
    return pa.concat_tables(parts)


def last_round(found: pa.Table) -> Table:
    """Means over seeds at each arm's last round; only the first arms are shown."""
    table = Table(title_justify="left")
    for column in ("arm", "seeds", *SHOWN):
        table.add_column(column.replace("_", " "), justify="left" if column == "arm" else "right")
    by_arm: dict[str, dict[int, list[Metric]]] = {}
    for arm, seed, row in results.records(found):
        if row.group is None and row.metric in SHOWN:
            by_arm.setdefault(arm, {}).setdefault(seed, []).append(row)
    for arm, seeds in list(by_arm.items())[:SHOWN_ARMS]:
        last = max(row.round for rows in seeds.values() for row in rows)
        there = sum(any(row.round == last for row in rows) for rows in seeds.values())
        cells = []
        for metric in SHOWN:
            values = [r.value for rows in seeds.values() for r in rows if r.metric == metric and r.round == last]
            cells.append(f"{sum(values) / len(values):.3f}" if values else "")
        table.add_row(escape(arm), str(there), *cells)
    more = f"; {SHOWN_ARMS} of {len(by_arm)} arms" if len(by_arm) > SHOWN_ARMS else ""
    table.title = f"mean over seeds at the last round{more}"
    return table


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with os.fdopen(inside.open_below(folder, "lock", os.O_RDWR | os.O_CREAT), "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(f"{folder}: in use by {file.read().strip()}; wait for it, or stop it") from None
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        yield


if __name__ == "__main__":
    import typer

    from jobs.commands.studies import sweep

    typer.run(sweep)
