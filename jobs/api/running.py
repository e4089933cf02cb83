"""Runs, studies and simulations that are started from Python."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from jobs.api.plain import dumped, plain
from jobs.api.reading import Run, Study
from scpl_ray.config import Experiment
from scpl_ray.protocols import RoundDone

if TYPE_CHECKING:
    import pandas as pd

    from scpl_ray.protocols import Task
    from scpl_ray.storage.run_directory import Store
    from scpl_ray.studies.study import Study as Plan
    from scpl_ray.studies.study import Trial

Callbacks = Sequence[Callable[[RoundDone], object]]


def load(config: str | Path | None = None, keys: Mapping[str, object] | None = None) -> Experiment:
    """Read a config with every check that the command line makes.

    Args:
        config: a YAML file, or the name of a built-in config; ``None``: the quick start.
        keys: values by dotted key, on top of it; a preset among them sets its own keys too.

    Raises:
        ConfigError: every fault of it, one per line.

    >>> load(keys={"loop.rounds": 2, "feedback.rule": "static"}).loop.rounds
    2
    >>> load("quickstrt")
    Traceback (most recent call last):
    ...
    scpl_ray.config.errors.ConfigError: quickstrt: no such file; ...
    """
    from jobs.configs import QUICK_START
    from jobs.driver import experiments
    from jobs.terminal.command import config_path
    from scpl_ray.config import loading

    path = config_path(str(config) if config is not None else QUICK_START)
    return experiments.build(loading.overlay(loading.read(path), plain(keys or {})), str(path))


def run(
    experiment: Experiment | str | Path | None = None,
    *,
    run_dir: str | Path | None = None,
    callbacks: Callbacks = (),
    verbose: bool = False,
) -> Run:
    """Run a loop to its end in this process's own Ray, or in that of ``RAY_ADDRESS``. A line is printed per round.

    Args:
        experiment: a config, or what :func:`load` reads.
        run_dir: a new folder; ``None``: ``runs/NAME-TIME``.
        callbacks: called with a :class:`~scpl_ray.protocols.RoundDone` after every round, round 0 included.
        verbose: whether ``logs/driver.log`` also holds debug messages.

    Raises:
        ValueError: the config cannot run, or this process is connected to Ray; nothing was started.
        StoreError: the folder cannot be used.
        RuntimeError, OSError: the run stopped; :func:`resume` continues it.
    """
    from jobs.driver import inputs, provenance
    from jobs.driver import run as driver
    from jobs.driver.ray_session import check_address, check_unconnected
    from scpl_ray.storage import locations
    from scpl_ray.storage.run_directory import Store

    checked = _checked(experiment)
    check_unconnected()
    check_address()
    task = driver.checked_plan(checked)[0]
    checked = inputs.anchored(checked)
    folder = locations.local(str(run_dir or driver.new_run_dir(checked)), "run_dir")
    store = Store.create(folder, checked, driver.versions(), provenance.began())
    return _play(store, checked, task, callbacks, verbose)


def resume(
    run_dir: str | Path,
    keys: Mapping[str, object] | None = None,
    *,
    callbacks: Callbacks = (),
    verbose: bool = False,
) -> Run:
    """Continue a run where it stopped, or for more rounds; a finished one is only opened.

    Args:
        run_dir: its folder.
        keys: what may change in a run, such as ``{"loop.rounds": 9}``; and, of a run that was not begun here, the keys
            that run code.
        callbacks: as for :func:`run`; they are told of the rounds that are on disk too.
        verbose: as for :func:`run`.

    Raises:
        StoreError: there is no such run, or something cannot change in it, or it asks for code to be agreed to.
        ValueError: the run cannot be continued here.
        RuntimeError, OSError: the run stopped again.
    """
    from jobs.driver import resuming

    given = [f"{key}={dumped(value, flow=True)}" for key, value in (keys or {}).items()]
    store, experiment, task = resuming.reopen(str(run_dir), given)
    if task is None:
        store.close()
        return Run(store.root)
    return _play(store, experiment, task, callbacks, verbose)


def sweep(
    study: str | Path | Mapping[str, object], *, study_dir: str | Path | None = None, quick: bool = False
) -> Study:
    """Run a study: arms, controls and seeds under Ray Tune, or without a language model.

    Args:
        study: a study file, the name of a built-in study, or its content.
        study_dir: a new folder; ``None``: ``studies/NAME-TIME``.
        quick: the seeds and arms of its section ``quick``.

    Raises:
        ValueError: the study cannot run, or this process is connected to Ray; nothing was started.
        StoreError: the folder cannot be used.
        RuntimeError: it stopped, and ``scpl sweep --resume`` continues it; failed trials alone are no error, see
            :attr:`Study.failed`.

    >>> content = {"name": "two", "mode": "analytic", "seeds": 3, "set": {"loop.rounds": 2},
    ...            "arms": {"static": {"feedback.rule": "static"}, "moving": {}}}
    >>> sweep(content, study_dir="studies/two").arms  # doctest: +ELLIPSIS
    2 arms x 3 seeds simulated in ...
    ['static', 'moving']
    """
    import tempfile

    from jobs.configs import CONFIGS
    from jobs.terminal.command import study_path
    from scpl_ray.studies import study as studies

    with tempfile.TemporaryDirectory(prefix="scpl-") as scratch:
        if isinstance(study, Mapping):
            path = Path(scratch) / "study.yaml"
            path.write_text(dumped(_anchored(plain(study))), encoding="utf-8")
        else:
            path = study_path(str(study))
        folder, plan, trials = _begun(studies.load(path, CONFIGS, quick=quick), study_dir)
    return _performed(folder, plan, trials)


def compare(
    config: str | Path | None = None,
    keys: Mapping[str, object] | None = None,
    *,
    against: str = "static",
    seeds: int = 6,
    simulated: bool = False,
    study_dir: str | Path | None = None,
) -> Study:
    """Run a loop and its control over seeds, and ask whether the loop amplifies, as ``scpl compare`` does.

    Args:
        config: as for :func:`load`.
        keys: as for :func:`load`.
        against: the control: ``static``, ``retraining``, or ``KEY=VALUE``.
        seeds: seeds of each; fewer than 6 give an interval and no verdict.
        simulated: without a language model, in the analytic mode.
        study_dir: as for :func:`sweep`.

    Raises:
        ValueError: nothing can be compared, or something cannot run; nothing was started.
        StoreError, RuntimeError: as :func:`sweep`.

    >>> compare(keys={"loop.rounds": 2}, simulated=True, study_dir="studies/beside").arms  # doctest: +ELLIPSIS
    2 arms x 6 seeds simulated in ...
    ['loop', 'static']
    """
    from jobs.terminal.command import base_name, config_path
    from scpl_ray.studies.comparison import comparison

    if seeds < 2:
        raise ValueError(f"seeds: {seeds} of each are compared; give at least 2")
    own = plain(keys or {})
    base = base_name(config_path(str(config)) if config is not None else None)
    plan = comparison(load(config, own), against, base=base, own=own, seeds=int(seeds), simulated=simulated)
    return _performed(*_begun(plan, study_dir))


def _begun(plan: Plan, study_dir: str | Path | None) -> tuple[Path, Plan, list[Trial]]:
    """The folder of a new study, the study, and its trials, after every check."""
    from jobs.driver import study as job
    from scpl_ray.storage import locations

    if plan.mode != "analytic":
        from jobs.driver.ray_session import check_unconnected  # imports Ray

        check_unconnected()
    folder = locations.local(str(study_dir), "study_dir") if study_dir is not None else job.new_folder(plan)
    plan, trials, _ = job.checked(plan, dry_run=False)
    job.create(folder, plan)
    return folder, plan, trials


def _performed(folder: Path, plan: Plan, trials: list[Trial]) -> Study:
    from jobs.driver import study as job
    from jobs.terminal.interrupts import STOPPED
    from scpl_ray.studies import results

    code = job.run(folder, plan, trials)
    if code == STOPPED:
        raise KeyboardInterrupt
    if not (folder / results.FILE).is_file():
        raise RuntimeError(f"{folder}: the study stopped before its results were written; what stopped it stands above")
    return Study(folder)


def _anchored(study: Mapping[str, object]) -> dict[str, object]:
    """The keys of a study whose base, and what it extends, are files of the working directory."""
    from jobs.configs import CONFIGS
    from scpl_ray.config.paths import user_path
    from scpl_ray.studies.study import DEFAULTS

    named = {key: value for key in ("base", "extends") if isinstance(value := study.get(key), str)}
    files = {key: str(user_path(name).absolute()) for key, name in named.items() if name not in {DEFAULTS, *CONFIGS}}
    return {**study, **files}


def simulate(experiment: Experiment | str | Path | None = None, *, seeds: int | None = None) -> pd.DataFrame:
    """Simulate a loop without a language model: ``seed``, ``round``, ``group``, ``metric``, ``value``.

    Args:
        experiment: a config, or what :func:`load` reads.
        seeds: repetitions; ``None``: ``analytic.seeds``.

    Raises:
        ValueError: a setting cannot be simulated, or there are no repetitions.

    >>> paths = simulate(load(keys={"loop.rounds": 2}), seeds=4)
    >>> len(paths[(paths.metric == "share") & (paths.group == "north")])
    12
    """
    from scpl_ray.analytic.loop import simulate as simulated

    checked = _checked(experiment)
    if seeds is not None:
        if isinstance(seeds, bool) or seeds != int(seeds) or seeds < 1:
            raise ValueError(f"seeds: {seeds} repetitions; give a whole number of at least 1")
        checked = checked.model_copy(update={"analytic": checked.analytic.model_copy(update={"seeds": int(seeds)})})
    return simulated(checked).table().drop_columns(["low", "high"]).to_pandas()


def _checked(experiment: Experiment | str | Path | None) -> Experiment:
    """A config with its preset's keys set, after every check."""
    from jobs.driver import experiments

    if not isinstance(experiment, Experiment):
        return load(experiment)
    return experiments.build(experiment.model_dump(mode="json", exclude_unset=True), "experiment")


def _play(store: Store, experiment: Experiment, task: Task, callbacks: Callbacks, verbose: bool) -> Run:
    from jobs.driver import run as driver

    with contextlib.closing(store), _logging_restored():
        driver.run(store, experiment, task, verbose=verbose, callbacks=callbacks, screen=_screen())
    return Run(store.root)


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """A run logs to its own folder; afterwards the caller's logging is as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    # basicConfig(force=True) closes the handlers that it finds
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


def _screen() -> TextIO | None:
    """Where the caller's prints go, as in a notebook; ``None``: to this process's standard output."""
    try:
        return None if sys.stdout.fileno() == 1 else sys.stdout
    except (io.UnsupportedOperation, AttributeError):
        return sys.stdout
