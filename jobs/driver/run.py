"""Run one loop: ``scpl run`` and ``ray job submit -- python -m jobs.loop`` both call this module."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import ray

from actors import harness
from actors.engines import registry
from actors.fleet import Fleet
from actors.local_ray import LOOPBACK, NO_IDLE_WORKERS, on_loopback
from actors.placement import autoscaling
from actors.placement.cluster import Cluster, described, local_cluster, ray_cluster
from actors.placement.disk import Disk, disk
from actors.placement.layout import Layout, layout
from actors.placement.memory import known_sizes
from actors.prometheus import WatchedProgress
from jobs.driver import advice, inputs, machine, own_code, preflight, provenance
from jobs.driver.own_code import OnRound
from jobs.driver.ray_session import ADDRESS, check_unconnected, join, keep_logs, temporary_folder
from jobs.terminal.display import Display, chatter_to, closing_table, lookup, restarts_line, seconds_table
from jobs.terminal.interrupts import STOPPED, Interrupts, handlers_kept
from jobs.terminal.plan import unused_code
from jobs.terminal.seen import closing_words
from scpl_ray import checks, tasks, tracking
from scpl_ray.config import Experiment, schema
from scpl_ray.controller import Loop
from scpl_ray.credentials import MaskedLog, masked
from scpl_ray.models import precision
from scpl_ray.models.precision import Format
from scpl_ray.models.sources import check_model, check_reward_model, resolve_reward_model
from scpl_ray.models.tokens import encode_answer, encode_prompt, load_tokenizer
from scpl_ray.own.sources import NO_CODE, Luggage
from scpl_ray.protocols import Encode, Progress, RoundDone, Task
from scpl_ray.records import Metric, Query
from scpl_ray.report.roofline import Machine
from scpl_ray.report.seconds import phase_seconds
from scpl_ray.report.text import short_names
from scpl_ray.selection.steering import steering_prompts
from scpl_ray.storage import cache, manifests, retention
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import BASE, Reader, Store
from scpl_ray.tasks.bases import base_model

logger = logging.getLogger(__name__)

PACKAGES = (
    *("scpl_ray", "ray", "torch", "transformers", "peft", "deepspeed"),
    *(name for kind in registry.ENGINES.values() if kind.package for name in kind.package.distributions),
    *("numpy", "pyarrow"),
)
QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment variables of the driver and of every process that it starts."""


def versions() -> dict[str, str]:
    """Installed versions of the packages that a result depends on."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def connected(logs: Path, say: Callable[[str], None] = logger.warning, code: Luggage = NO_CODE) -> Iterator[Cluster]:
    """Connect to Ray during the block: to ``RAY_ADDRESS`` if it is set (a submitted job), else to a new local Ray.

    Args:
        logs: folder that receives the log files of a local Ray. The rest of its session folder is removed.
        say: tells a person what is unusual about this Ray.
        code: the user's code that every worker must be able to import.

    Raises:
        ValueError: this process is connected to a Ray already.
        RuntimeError: there is no Ray at ``RAY_ADDRESS``, or none can be started here.
    """
    check_unconnected()
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    environment = code.environment(same_machine=not os.environ.get(ADDRESS))
    environment["env_vars"] = {**QUIET, **environment.get("env_vars", {})}
    with contextlib.ExitStack() as ending:
        if os.environ.get(ADDRESS):
            with handlers_kept():
                join(runtime_env=environment, **quiet)
            local = None
        else:
            local = local_cluster()
            folder = ending.enter_context(temporary_folder(say))
            with on_loopback(), handlers_kept():
                ray.init(
                    address="local",
                    num_cpus=int(local.cpus),
                    num_gpus=local.gpus,
                    include_dashboard=False,
                    runtime_env=environment,
                    _node_ip_address=LOOPBACK,
                    _system_config=NO_IDLE_WORKERS,
                    **folder,
                    **quiet,
                )
        session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
        try:
            yield ray_cluster() if local is None else local.started(ray.nodes()[0]["NodeID"])
        finally:
            ray.shutdown()
            if local is not None:
                keep_logs(session / "logs", logs)
                shutil.rmtree(session, ignore_errors=True)


@contextlib.contextmanager
def _grown(experiment: Experiment, task: Task, cluster: Cluster) -> Iterator[Cluster]:
    """During the block, the cluster with the nodes of ``placement.cluster``; a local Ray stays as it is."""
    if experiment.placement.cluster is None or not os.environ.get(ADDRESS):
        yield cluster
        return
    demand = autoscaling.Demand()
    try:
        there = autoscaling.grown(experiment, cluster, known_sizes(experiment, task), ask=demand.ask)
        demand.keep(there)
        yield there
    finally:
        demand.close()


def plan(
    experiment: Experiment, cluster: Cluster | None = None, task: Task | None = None
) -> tuple[Task, Layout | None]:
    """Check everything that can be checked without starting any process.

    Args:
        experiment: the config.
        cluster: the cluster to plan for; ``None``: this machine, unless ``RAY_ADDRESS`` names a cluster.
        task: its task, where another experiment has the same; ``None``: it is built.

    Returns:
        The task, and the layout; ``None`` if the layout depends on a cluster that is not connected yet.

    Raises:
        ValueError: the data or the machine do not suffice for this experiment.
    """
    task = _built(experiment, task)
    return task, _placed(experiment, task, cluster)


def _built(experiment: Experiment, task: Task | None = None) -> Task:
    """The task, built unless it is given, after the packages, models and reward terms of an experiment were checked."""
    registry.check_installed(experiment)
    harness.check(experiment)
    tracking.check(experiment)
    check_model(experiment)
    check_reward_model(experiment)
    task = task or tasks.TASKS[experiment.task.name].build(experiment)
    if any(name not in schema.NOT_OF_THE_TASK for name in experiment.reward.terms):
        checks.terms(experiment.reward.terms, task.rule_terms(task.group_prompts(1)[0], ""))
    settings = experiment.evaluation
    evaluated = [*task.group_prompts(settings.prompts_per_group), *task.neutral_prompts(settings.neutral_prompts)]
    steering_prompts(experiment, task.group_prompts, evaluated)
    return task


def _placed(experiment: Experiment, task: Task | None, cluster: Cluster | None) -> Layout | None:
    can_grow = described(experiment.placement.cluster) if experiment.placement.cluster is not None else None
    if cluster is None and os.environ.get(ADDRESS):
        if can_grow is None:
            return None
        cluster = can_grow
    cluster = cluster or local_cluster()
    return layout(experiment, cluster, known_sizes(experiment, task))


def planned_disk(experiment: Experiment, task: Task | None, cluster: Cluster | None = None) -> Disk | None:
    """The bytes that a run will write and keep; ``None``: a model's config is not on this machine yet."""
    sizes = known_sizes(experiment, task)
    if sizes is None:
        return None
    if cluster is None and not os.environ.get(ADDRESS):
        cluster = local_cluster()
    suited = precision.suited(experiment, cluster.without_bfloat16) if cluster else experiment
    return disk(suited, sizes, on_gpu=gpus_possible(cluster))


def checked_plan(
    experiment: Experiment, cluster: Cluster | None = None, task: Task | None = None
) -> tuple[Task, Layout | None]:
    """As :func:`plan`, after everything that files on disk and the Hub's metadata tell was checked.

    Raises:
        ValueError: as :func:`plan`; or a model, the user's own code, or a setting cannot work.
    """
    if cluster is None:
        preflight.check_grows(experiment)
    preflight.check_config(experiment, on_gpu=gpus_possible(cluster))
    task, placed = plan(experiment, cluster, task)
    preflight.check_task(experiment, task)
    return task, placed


def plan_of_what_is_here(experiment: Experiment, cluster: Cluster | None = None) -> tuple[Task | None, Layout | None]:
    """As :func:`checked_plan`, inside :func:`scpl_ray.storage.cache.planned`, where something may be missing.

    Returns:
        The task, ``None`` if it lacks something that a run would make or that is not on this machine; and the layout,
        which does not depend on it, but for the memory of a tiny model.
    """
    preflight.check_config(experiment, on_gpu=gpus_possible(cluster))
    task: Task | None = None
    with contextlib.suppress(cache.NotMadeError):
        built = _built(experiment)
        preflight.check_task(experiment, built)
        task = built
    return task, _placed(experiment, task, cluster)


def gpus_possible(cluster: Cluster | None = None) -> bool:
    """Whether a run may get GPUs: those of this cluster; ``None``: of this machine, or of one that is not asked yet."""
    if cluster is None and os.environ.get(ADDRESS):
        return True
    return (cluster or local_cluster()).gpus > 0


def run(
    store: Store,
    experiment: Experiment,
    task: Task,
    *,
    verbose: bool = False,
    callbacks: Sequence[OnRound] = (),
    screen: TextIO | None = None,
) -> None:
    """Run or resume the loop of a run directory until it is finished.

    Args:
        store: the run.
        experiment: its config.
        task: its task.
        verbose: whether the log also holds debug messages.
        callbacks: called after every round, besides ``loop.on_round``.
        screen: where people read; ``None``: standard output.
    """
    with displayed(store, experiment, task, verbose=verbose, screen=screen) as display:
        peaks = machine.measured(experiment) if store.manifest(0, "base") is None else None
        for line in unused_code(experiment):
            display.note(line)
        with (
            connected(store.root / "logs/ray", display.note, own_code.luggage([experiment])) as there,
            _grown(inputs.in_its_format(store, experiment), task, there) as cluster,
            Fleet(store.root, cluster) as fleet,
        ):
            measured = list(rounds(store, experiment, task, fleet, display, peaks, callbacks))
        seconds = seconds_by_round(store, experiment)
        table = [(t, rows, seconds[t]) for t, rows in enumerate(measured)]
        display.console.print(closing_table(table, experiment.groups.names))
        if task.judge_card is not None:
            display.note(task.judge_card.summary())
        display.console.print(seconds_table(phase_seconds([(store, experiment)])))
        display.note(restarts_line(manifests.restarts(store.committed())))
        display.note(f"run directory {store.name}\n  metrics.parquet, tensorboard/, rounds/*/ ; logs in logs/")
        config = str(store.root / "config.yaml")
        display.note(closing_words(measured[0], measured[-1], experiment.groups.names, config))


@contextlib.contextmanager
def displayed(
    store: Store, experiment: Experiment, task: Task, *, verbose: bool = False, screen: TextIO | None = None
) -> Iterator[Display]:
    """Inside, work on a run directory is shown, logged, and may be interrupted between two commits.

    Args:
        store: the run.
        experiment: its config.
        task: its task.
        verbose: whether the log also holds debug messages.
        screen: where people read; ``None``: standard output.
    """
    os.environ.update(QUIET)
    log_to(store.root / "logs" / "driver.log", verbose=verbose)
    interrupts = Interrupts()
    store.commits = interrupts.commit
    with (
        interrupts.handled(),
        chatter_to(store.root / "logs" / "output.log") as terminal,
        Display(
            screen or terminal, experiment.groups.names, experiment.loop.rounds, short_names(store.checkpoints)
        ) as display,
    ):
        interrupts.say = display.note
        display.note(f"run directory {store.name}")
        if store.name != str(store.root):
            display.note(f"working copy {store.root}")
        if task.data_report is not None:
            display.note(str(task.data_report))
        yield display


def rounds(
    store: Store,
    experiment: Experiment,
    task: Task,
    fleet: Fleet,
    progress: Progress,
    peaks: Machine | None = None,
    callbacks: Sequence[OnRound] = (),
    dtype: Format | None = None,
) -> Iterator[list[Metric]]:
    """Run the loop of a run directory in the processes of a fleet; yields the metrics of rounds 0, 1, ...

    A new run notes the peaks of its machine, where they were measured, and the number format that ``model.dtype: auto``
    is there, which it keeps wherever it is resumed. In a study that format is given, as ``dtype``.
    """
    own_code.keep(store, experiment, progress.note)
    provenance.keep_versions(store, experiment, versions(), progress.note)
    hooks = [*own_code.on_round(experiment), *callbacks]
    engines = fleet.engines(precision.in_format(inputs.in_its_format(store, experiment), dtype), task)
    progress = WatchedProgress(progress, "/".join(store.place.split("/")[-2:]), fleet.queues)
    base = _base(store, experiment, task, progress, peaks, engines.dtype)
    if task.judge_card is not None:
        task.judge_card.save(store.root)
    given = resolve_reward_model(experiment)
    loop = Loop(experiment, task, store, engines, base, encoder(experiment, base), progress, reward_model=given)
    measured: list[list[Metric]] = []
    boards = tracking.Boards(experiment, store.root, store.place, store.facts.get("id"))
    try:
        for round_ in range(experiment.loop.rounds + 1):
            from_disk = manifests.read(store.root, round_, "evaluation") is not None
            measured.append(loop.round(round_) if round_ else loop.evaluation(0))
            retention.tidy(store, experiment, round_)
            boards.write(measured[-1])
            done = RoundDone(round_, experiment.loop.rounds, store.root, tuple(measured[-1]), from_disk)
            for hook in hooks:
                hook(done)
            if round_ == experiment.loop.rounds:
                # last, so that a run whose hook failed is resumed and not taken for finished
                store.finish([row for rows in measured for row in rows], summary(store, experiment, measured[-1]))
            yield measured[-1]
    finally:
        boards.close(finished=len(measured) > experiment.loop.rounds)


def encoder(experiment: Experiment, base: Path) -> Encode:
    """The one template of training, generation and scoring, with the tokenizer of a base model."""
    tokenizer = load_tokenizer(base, trust_remote_code=experiment.model.trust_remote_code)

    def encode(query: Query, answer: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        prompt = encode_prompt(tokenizer, query.prompt, experiment.task.max_prompt_tokens)
        return prompt, encode_answer(tokenizer, answer)

    return encode


def _base(
    store: Store,
    experiment: Experiment,
    task: Task,
    progress: Progress,
    peaks: Machine | None,
    dtype: Format | None = None,
) -> Path:
    """The base model. The SHA-256 of its weights is committed, because a resumed run must find the same weights.

    So is that of the data and of the judge, and the number format of the run.

    Raises:
        StoreError: the run was started from different weights, or with other data or another judge.
    """

    def built(done: int, total: int) -> None:
        if done == 1:
            progress.note("training the tiny base model, once; it is kept for other runs")
            progress.start(0, "base", total)
        progress.advance("base", 1)

    if store.manifest(0, "base") is None:
        with store.phase(0, "base") as phase:
            base = base_model(experiment, task, built)
            phase.write_json("base", inputs.weights(base))
            phase.facts[BASE] = str(base.absolute())
            phase.write_json(inputs.FILE, inputs.digests(experiment))
            if judge := inputs.judge_files(task):
                phase.write_json(inputs.JUDGE, judge)
            if dtype:
                phase.write_json(inputs.FORMAT, {inputs.DTYPE: dtype})
            phase.facts |= machine.facts(peaks, base, precision.in_format(experiment, dtype))
            if task.data_report is not None:
                phase.facts["data"] = dataclasses.asdict(task.data_report)
        committed = store.manifest(0, "base")
        assert committed is not None
        progress.done(committed)
    else:
        inputs.check_same(store, experiment)
        inputs.check_judge(store, task)
        base = base_model(experiment, task)
    digests = inputs.weights(base)
    if (before := store.read_json(0, "base", "base")) != digests:
        raise StoreError(
            f"{store.name}: began with the weights {before}, but {base} holds {digests}; bring the first model back"
        )
    return base


def supervise(store: Store, experiment: Experiment, task: Task, *, verbose: bool = False) -> int:
    """Run a loop to its end and turn whatever stops it into a message and an exit code (0, 1 or 130)."""
    return watched(
        store,
        lambda: run(store, experiment, task, verbose=verbose),
        lambda message: advice.resumed_with(message, store.name),
    )


def watched(store: Store, work: Callable[[], None], again: Callable[[str], str]) -> int:
    """Do some work on a run directory, turn whatever stops it into a message, and close the directory.

    Args:
        store: the run.
        work: what is done.
        again: the command that continues it, given the message of what stopped it; empty after Ctrl-C.

    Returns:
        The exit code: 0, 1 or 130.
    """
    try:
        work()
        return 0
    except KeyboardInterrupt:
        print(f"scpl: stopped; the state is on disk; continue with: {again('')}", file=sys.stderr)
        return STOPPED
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        logger.exception("the run stopped")
        print(
            f"scpl: {masked(error)}\nlogs are in {store.root / 'logs'}; the state is on disk; continue with: "
            f"{again(str(error))}",
            file=sys.stderr,
        )
        return 1
    finally:
        store.close()


def summary(store: Store, experiment: Experiment, last: Sequence[Metric]) -> dict[str, object]:
    """What a script needs to know about a finished run."""
    return {
        "name": experiment.name,
        "seed": experiment.seed,
        "rounds": experiment.loop.rounds,
        "seconds": sum(seconds_by_round(store, experiment).values()),
        "shares": {g: lookup(last, "share", g) for g in experiment.groups.names},
        "metrics": {r.metric: r.value for r in last if r.group is None and r.value == r.value},
        "versions": versions(),
    }


def seconds_by_round(store: Reader, experiment: Experiment) -> dict[int, float]:
    """Seconds of each round."""
    seconds = dict.fromkeys(range(experiment.loop.rounds + 1), 0.0)
    for manifest in store.committed():
        # the reward model is fitted while completions are generated, so its seconds are part of theirs
        if manifest.phase != "reward_model" and manifest.round in seconds:
            seconds[manifest.round] += manifest.seconds
    return seconds


def log_to(path: Path, *, verbose: bool) -> None:
    """Send this process's log messages to a file."""
    logging.basicConfig(
        stream=MaskedLog(path),
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )


def new_run_dir(experiment: Experiment) -> str:
    """``runs/<name>-<time>`` below the working directory."""
    return f"runs/{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"


if __name__ == "__main__":
    import typer

    from jobs.cli import run as run_command

    typer.run(run_command)
