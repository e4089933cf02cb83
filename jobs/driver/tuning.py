"""The trials of a study under Ray Tune: a grid or a search."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.error import TuneError
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from actors.fleet import asks
from actors.placement.cluster import Cluster
from actors.placement.layout import PlacementError, layout
from actors.placement.memory import Sizes, known_sizes
from jobs.driver import alike, machine, own_code, provenance
from jobs.driver import run as loop
from jobs.driver.dry_run import SETUP
from jobs.driver.shared_phases import INDEX
from jobs.driver.trial import LoopTrial, task_key, trial_folder
from jobs.terminal.display import chatter_to, line_parts, wide_console
from jobs.terminal.interrupts import Interrupts
from scpl_ray import tasks
from scpl_ray.config import Experiment, loading
from scpl_ray.config.agreement import agreement
from scpl_ray.credentials import masked
from scpl_ray.models import precision
from scpl_ray.protocols import Task
from scpl_ray.report import sessions
from scpl_ray.report.sessions import Session
from scpl_ray.studies import study
from scpl_ray.studies.study import Study, Trial
from scpl_ray.tasks.bases import base_model

logger = logging.getLogger(__name__)

TRIAL_CPUS = 0.01
"""CPUs that the process that drives a trial reserves; the engines reserve their own."""
SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
"""Ray Tune's own log files repeat what is in the run directories, its handler of Ctrl-C waits for whole rounds, and it
would end a search because of one failed trial, whose result lacks the metric."""
GRACE_ROUNDS = 2
"""Number of rounds, including round 0, before ASHA may stop a trial."""


def run(folder: Path, plan: Study, trials: Sequence[Trial]) -> dict[str, str]:
    """Run all trials that are not finished; returns the reasons of failures, by folder.

    Raises:
        PlacementError: not even one trial fits the machine.
        RuntimeError, OSError: Ray or the folder cannot be used any longer; details are in ``output.log``.
        KeyboardInterrupt: SIGINT or SIGTERM was received.
    """
    os.environ.update(loop.QUIET | SETTINGS)
    with Interrupts().handled(), chatter_to(folder / "output.log") as screen:
        by_mode = _search if plan.mode == "search" else _grid
        try:
            return by_mode(folder.absolute(), plan, trials, wide_console(screen))
        except (RuntimeError, OSError):
            logger.exception("the study stopped")
            raise
        except (ray.exceptions.RayError, TuneError) as error:
            logger.exception("the study stopped")
            raise RuntimeError(f"{type(error).__name__}: {_last_line(error)}") from error


def concurrent_trials(trials: Sequence[Trial], cluster: Cluster, sizes: Sequence[Sizes | None] | None = None) -> int:
    """How many trials fit the machine or cluster at the same time.

    Args:
        trials: the trials.
        cluster: the machine or cluster, of which each trial gets an equal part.
        sizes: sizes of each trial's models; without them, only CPUs and GPUs are counted and no memory.

    Raises:
        PlacementError: not even one trial fits.
    """
    fits = 0
    while fits < len(trials):
        share = cluster.share(fits + 1, cpus_aside=TRIAL_CPUS)
        if fits and cluster.gpus and not share.gpus:
            break
        try:
            for trial, known in zip(trials, sizes or [None] * len(trials), strict=True):
                layout(trial.experiment, share, known)
        except PlacementError:
            if fits:
                break
            raise
        fits += 1
    return fits


class _Progress(tune.Callback):  # type: ignore[misc]
    """Shows a bar over all rounds and a line per finished trial, and collects failures."""

    def __init__(self, console: Console, trials: int, rounds: int) -> None:
        self.failed: dict[str, str] = {}
        self._console, self._trials, self._finished = console, trials, 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("rounds", total=rounds)
        self._bar.start()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **_: Any
    ) -> None:
        """A round is done."""
        self._bar.advance(self._task, 1)
        if "error" in result:
            self._end(result["folder"], f"failed: {result['error']}")
            self.failed[result["folder"]] = result["error"]
        elif result["done"]:
            self._end(result["folder"], f"{'  '.join(line_parts(result))}  {result['time_total_s']:.0f} s")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The process of a trial died."""
        folder = trial_folder(trial.config)
        self.failed[folder] = masked(_last_line(trial.get_error() or "the process of the trial died"))
        self._end(folder, f"failed: {self.failed[folder]}")

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune saves its callbacks, but this one is never read again."""
        return {}

    def close(self) -> None:
        """Remove the bar."""
        self._bar.stop()

    def _end(self, folder: str, text: str) -> None:
        self._finished += 1
        self._console.print(f"trial {self._finished}/{self._trials}  {folder}  {text}", markup=False)


class _Optuna(OptunaSearch):  # type: ignore[misc]
    """Optuna search that skips rounds without the metric: round 0, for example, selects nothing."""

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A round is done."""
        if self.metric in result:
            super().on_trial_result(trial_id, result)


def _last_line(error: object) -> str:
    """The last line of an error's message, which says what went wrong if the message is a traceback."""
    return [type(error).__name__, *str(error).strip().splitlines()][-1]


def _grid(folder: Path, plan: Study, trials: Sequence[Trial], console: Console) -> dict[str, str]:
    """Run all trials that are not finished under Ray Tune; returns the reasons of failures, by folder."""
    began = time.monotonic()
    left = [trial for trial in trials if not (folder / trial.folder / "summary.json").exists()]
    console.print(f"study {plan.name}: {len(trials)} trials, {len(trials) - len(left)} finished before", markup=False)
    if not left:
        return {}
    for line in alike.upgraded(folder, plan, loop.versions()):
        console.print(line, markup=False)
    beginnings = alike.Beginnings(alike.begun(folder, plan))
    sizes = prepare(left, console, beginnings)
    peaks = machine.measured(left[0].experiment)
    prepared = time.monotonic()
    code = own_code.luggage([trial.experiment for trial in trials])
    with loop.connected(folder / "logs/ray", console.print, code) as cluster:
        decided = in_format(left, cluster, sizes, beginnings)
        side_by_side = concurrent_trials(decided, cluster, sizes)
        for line in unused_gpus(decided, cluster, side_by_side, sizes):
            console.print(line, markup=False)
        ordered = in_order(left, side_by_side)
        started = time.monotonic()
        space = [{"folder": trial.folder, "experiment": loading.dump(trial.experiment)} for trial in ordered]
        progress = _Progress(console, len(left), sum(trial.experiment.loop.rounds + 1 for trial in left))
        try:
            tune.Tuner(
                tune.with_resources(LoopTrial, {"CPU": TRIAL_CPUS}),
                param_space={
                    "study": str(folder),
                    "cluster": trial_share(cluster, side_by_side),
                    "peaks": peaks,
                    "formats": formats(left, decided),
                    "began": provenance.began(),
                    "trial": tune.grid_search(space),
                },
                tune_config=tune.TuneConfig(max_concurrent_trials=side_by_side, reuse_actors=True),
                run_config=_run_config(folder, progress),
            ).fit()
        finally:
            progress.close()
            done = sum((folder / trial.folder / "summary.json").exists() for trial in left)
            _note(folder, done, side_by_side, (began, prepared, started))
    if not progress.failed:
        shutil.rmtree(folder / INDEX, ignore_errors=True)
    return progress.failed


def _note(folder: Path, finished: int, side_by_side: int, times: tuple[float, float, float]) -> None:
    """Note where the time of this command went, for the report: when it began, was prepared, and began its trials."""
    began, prepared, started = times
    ran_s = time.monotonic() - started
    sessions.add(folder, Session(finished, side_by_side, prepared - began, started - prepared, ran_s))


def in_format(
    trials: Sequence[Trial], cluster: Cluster, sizes: Sequence[Sizes | None], beginnings: alike.Beginnings
) -> list[Trial]:
    """The trials with ``model.dtype`` decided: as those that were begun, or else as this machine or cluster suggests.

    It is decided here for all of them, because the nodes of a cluster may have other processors.
    """
    found = []
    for trial, known in zip(trials, sizes, strict=True):
        parameters = known.policy.parameters if known else None
        experiment = precision.suited(beginnings.in_format(trial.experiment), cluster.without_bfloat16)
        experiment = precision.decided(experiment, parameters, on_gpu=cluster.gpus > 0)
        found.append(dataclasses.replace(trial, experiment=experiment))
    return found


def formats(trials: Sequence[Trial], decided: Sequence[Trial]) -> dict[str, str]:
    """The format of each trial, by :func:`jobs.driver.alike.machine_key`.

    Args:
        trials: as they were planned.
        decided: the same, from :func:`in_format`.
    """
    return {
        alike.machine_key(trial.experiment): one.experiment.model.dtype
        for trial, one in zip(trials, decided, strict=True)
    }


def trial_share(cluster: Cluster, side_by_side: int) -> Cluster:
    """The part of a cluster that each trial lays its processes out on.

    Where there are GPUs, less what the trial's own process holds: with ``auto`` counts a layout takes every CPU there
    is. Without GPUs, processes hold less than a core each.
    """
    return cluster.share(side_by_side, cpus_aside=TRIAL_CPUS if cluster.gpus else 0.0)


def unused_gpus(
    trials: Sequence[Trial], cluster: Cluster, side_by_side: int, sizes: Sequence[Sizes | None] | None = None
) -> list[str]:
    """A line that says how many GPUs no trial uses while others wait; none if there are no such GPUs or trials.

    Args:
        trials: those that are left.
        cluster: the machine or cluster.
        side_by_side: how many trials run at the same time; see :func:`concurrent_trials`.
        sizes: sizes of each trial's models.
    """
    share, waiting = trial_share(cluster, side_by_side), len(trials) - side_by_side
    if waiting <= 0 or not share.gpus:
        return []
    layouts = [
        layout(trial.experiment, share, known)
        for trial, known in zip(trials, sizes or [None] * len(trials), strict=True)
    ]
    used = max(len({(seat.node, gpu) for seat in placed.seats for gpu in seat.gpus}) for placed in layouts)
    if (unused := cluster.gpus - side_by_side * used) <= 0:
        return []
    return [
        f"{unused} of {cluster.gpus} GPUs stay unused while {waiting} trials wait: {side_by_side} at a time "
        f"{'get' if side_by_side > 1 else 'gets'} an equal part of every node, in whole GPUs; give each trial more "
        "(generation.replicas=auto, reward.replicas=auto, more training.workers), or take fewer nodes with more GPUs "
        "each"
    ]


def in_order(trials: Sequence[Trial], side_by_side: int) -> list[Trial]:
    """The order in which trials begin.

    Trials that share their engines run one after the other, so that engines start once. As many seeds as run side by
    side go through all arms before the next seeds do: trials at the same time then have different seeds, and each finds
    what an earlier arm of its seed has done alike.
    """
    shared = {id(trial): _shared(trial.experiment) for trial in trials}
    keys = list(dict.fromkeys(shared.values()))
    arms = list(dict.fromkeys(trial.label for trial in trials))
    seeds = sorted({trial.seed for trial in trials})
    return sorted(
        trials,
        key=lambda trial: (
            keys.index(shared[id(trial)]),
            seeds.index(trial.seed) // side_by_side,
            arms.index(trial.label),
            trial.seed,
        ),
    )


def _shared(experiment: Experiment) -> str:
    """What trials share that run one after the other; scorers of a task of the user's own are shared by no others."""
    return str({**asks(experiment), "scorer": agreement(experiment, (*tasks.DEPENDS_ON, "reward.function"))})


def _search(folder: Path, plan: Study, trials: Sequence[Trial], console: Console) -> dict[str, str]:
    """Sample settings and run one trial for each; returns the reasons of failures, by folder.

    The sampler is seeded, and run directories are named after the settings: a resumed search samples the same settings
    again and finds their rounds on disk.
    """
    assert plan.search is not None
    began = time.monotonic()
    for line in alike.upgraded(folder, plan, loop.versions()):
        console.print(line, markup=False)
    beginnings = alike.Beginnings(alike.begun(folder, plan))
    sizes = prepare(trials, console, beginnings)[:1]
    peaks = machine.measured(trials[0].experiment)
    prepared = time.monotonic()
    rounds = trials[0].experiment.loop.rounds + 1
    before = _sampled(folder)
    progress = _Progress(console, plan.search.trials, rounds * plan.search.trials)
    code = own_code.luggage([trial.experiment for trial in trials])
    with loop.connected(folder / "logs/ray", console.print, code) as cluster:
        decided = in_format(trials[:1], cluster, sizes, beginnings)
        every, known = decided * plan.search.trials, sizes * plan.search.trials
        side_by_side = concurrent_trials(every, cluster, known)
        for line in unused_gpus(every, cluster, side_by_side, known):
            console.print(line, markup=False)
        started = time.monotonic()
        try:
            tune.Tuner(
                tune.with_resources(LoopTrial, {"CPU": TRIAL_CPUS}),
                param_space={
                    "study": str(folder),
                    "cluster": trial_share(cluster, side_by_side),
                    "peaks": peaks,
                    "formats": formats(trials[:1], decided),
                    "began": provenance.began(),
                    "trial": {"folder": "", "experiment": loading.dump(trials[0].experiment)},
                    "sampled": {key: _sampler(values) for key, values in plan.axes.items()},
                },
                tune_config=tune.TuneConfig(
                    metric=plan.search.metric,
                    mode=plan.search.direction,
                    num_samples=plan.search.trials,
                    max_concurrent_trials=side_by_side,
                    reuse_actors=True,
                    scheduler=_scheduler(plan.search, rounds),
                    search_alg=_sampling(plan.search, trials[0].experiment.seed, side_by_side),
                ),
                run_config=_run_config(folder, progress),
            ).fit()
        finally:
            progress.close()
            _note(folder, _sampled(folder) - before, side_by_side, (began, prepared, started))
    return progress.failed


def _sampled(folder: Path) -> int:
    """Number of finished runs of a search."""
    return sum(1 for _ in (folder / study.SAMPLED).glob("*/summary.json"))


def _sampler(values: study.Range | tuple[Any, ...]) -> Any:
    if isinstance(values, tuple):
        return tune.choice(list(values))
    return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)


def _scheduler(search: study.Search, rounds: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if search.scheduler == "fifo":
        return FIFOScheduler()
    return ASHAScheduler(time_attr="training_iteration", max_t=rounds, grace_period=min(GRACE_ROUNDS, rounds))


def _sampling(search: study.Search, seed: int, side_by_side: int) -> Any:
    from ray.tune.search import BasicVariantGenerator

    if search.sampler == "optuna":
        return _Optuna(seed=seed)
    # only this generator ignores TuneConfig.max_concurrent_trials
    return BasicVariantGenerator(max_concurrent=side_by_side, random_state=seed)


def _run_config(folder: Path, progress: _Progress) -> tune.RunConfig:
    name = time.strftime("%Y%m%d-%H%M%S")
    return tune.RunConfig(name=name, storage_path=str(folder / "tune"), callbacks=[progress], verbose=0)


def prepare(trials: Sequence[Trial], console: Console, beginnings: alike.Beginnings) -> list[Sizes | None]:
    """Check each set-up of the trials and build or find its base model, before any trial starts.

    Args:
        trials: the trials that are left.
        console: where people read.
        beginnings: the models and judges that trials of this study began with.

    Returns:
        The sizes of the models of each trial.

    Raises:
        StoreError: a trial would start otherwise than those that were begun.
    """
    built: dict[str, Task] = {}
    known: dict[str, Sizes | None] = {}
    bases = set()
    sizes = []
    for trial in trials:
        experiment = trial.experiment
        setup, key = agreement(experiment, SETUP), task_key(experiment)
        if setup not in known:
            built[key], _ = loop.checked_plan(beginnings.in_format(experiment), task=built.get(key))
            base = base_model(experiment, built[key])
            beginnings.check(experiment, built[key], base)
            bases.add(base)
            logger.info("%s is checked; its base model is there", trial.label)
            known[setup] = known_sizes(experiment, built[key])
        sizes.append(known[setup])
    console.print(f"{len(known)} set-ups are checked; base models ready: {len(bases)}", markup=False)
    return sizes
