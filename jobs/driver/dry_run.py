"""``--dry-run``: everything is checked and the plan is printed; nothing is started, made or downloaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from rich.console import Console

from actors.placement.cluster import Cluster, described
from actors.placement.disk import Disk, disk
from actors.placement.memory import Sizes, known_sizes
from jobs.driver import preflight, run
from jobs.driver.ray_session import ADDRESS
from jobs.terminal.display import unheard
from jobs.terminal.plan import print_missing, print_plan
from scpl_ray.config import Experiment
from scpl_ray.config.agreement import agreement
from scpl_ray.config.errors import ConfigError
from scpl_ray.protocols import Task
from scpl_ray.storage import cache
from scpl_ray.studies.study import Trial

SETUP = (
    *("groups", "task", "model", "generation", "reward", "selection", "feedback", "training", "placement"),
    "evaluation",
)
"""The sections that a plan checks: trials that agree on them are checked once."""


def print_dry_run(console: Console, experiment: Experiment, cluster: Cluster | None) -> None:
    """Check an experiment and print its plan, with what a run would make first and what could not be checked here.

    Args:
        console: the console to print on.
        experiment: the config.
        cluster: the cluster to plan for; ``None``: what ``placement.cluster`` says, or this machine, unless
            ``RAY_ADDRESS`` names a cluster.

    Raises:
        ValueError: something cannot work.
    """
    can_grow = experiment.placement.cluster
    if cluster is None and can_grow is not None and not os.environ.get(ADDRESS):
        cluster = described(can_grow)
    with cache.planned(elsewhere=cluster is not None) as cached:
        with unheard("checking the config, its data and its models"):
            task, placed = run.plan_of_what_is_here(experiment, cluster)
            made = {**cached.missing, **preflight.made_first(experiment, task)}
            written = run.planned_disk(experiment, task, cluster)
        print_plan(console, experiment, task, placed, written)
        print_missing(console, made, cached.unchecked, whole=task is not None)


@dataclasses.dataclass
class StudyPlan:
    """What the checks of a study found out."""

    made: dict[str, str] = dataclasses.field(default_factory=dict)
    """What the study would make first: the cost of each thing, by its name."""
    written: list[Disk] = dataclasses.field(default_factory=list)
    """The bytes of each trial; empty where they are not known."""
    unchecked: dict[str, str] = dataclasses.field(default_factory=dict)
    """What could not be checked here, and why."""


def check_trials(trials: Sequence[Trial], *, with_tasks: bool, cluster: Cluster | None = None) -> StudyPlan:
    """Check the different set-ups of a study as :func:`print_dry_run` checks one run.

    Args:
        trials: the trials of the study.
        with_tasks: whether tasks are built too, which may take seconds each.
        cluster: the cluster to plan for; ``None``: this machine, unless ``RAY_ADDRESS`` names a cluster.

    Raises:
        ConfigError: a set-up cannot work; the message names its arm.
    """
    different = {agreement(trial.experiment, SETUP): trial for trial in reversed(trials)}
    made: dict[str, str] = {}
    sizes: dict[str, Sizes | None] = {}
    on_gpu = run.gpus_possible(cluster)
    with cache.planned(elsewhere=cluster is not None) as cached:
        for setup, trial in reversed(different.items()):
            task: Task | None = None
            try:
                if with_tasks:
                    task, _ = run.plan_of_what_is_here(trial.experiment, cluster)
                else:
                    preflight.check_config(trial.experiment, on_gpu=on_gpu)
            except ValueError as error:
                raise ConfigError(f"arm {trial.label}: {error}") from error
            if with_tasks:
                made |= preflight.made_first(trial.experiment, task)
                sizes[setup] = known_sizes(trial.experiment, task)
        found = [(trial.experiment, sizes.get(agreement(trial.experiment, SETUP))) for trial in trials]
        written = [disk(experiment, known, on_gpu=on_gpu) for experiment, known in found if known is not None]
        return StudyPlan(cached.missing | made, written if len(written) == len(trials) else [], cached.unchecked)
