"""``scpl run --dry-run``: everything is checked and the plan is printed; nothing is started, made or downloaded."""

from __future__ import annotations

import contextlib

from rich.console import Console

from actors.placement.cluster import Cluster
from jobs.driver import preflight, run
from jobs.terminal.display import unheard
from jobs.terminal.plan import print_made, print_plan
from scpl_ray.config import Experiment
from scpl_ray.storage import cache


def print_dry_run(console: Console, experiment: Experiment, cluster: Cluster | None) -> None:
    """Check an experiment and print its plan, with what a run would make first.

    Args:
        console: the console to print on.
        experiment: the config.
        cluster: the cluster to plan for; ``None``: this machine, unless ``RAY_ADDRESS`` names a cluster.

    Raises:
        ValueError: something cannot work.
    """
    with cache.planned() as cached:
        task, placed = None, None
        with unheard("checking the config, its data and its models"):
            # without something costly not all can be checked, and the plan says so
            with contextlib.suppress(cache.NotMadeError):
                task, placed = run.checked_plan(experiment, cluster)
            made = {**cached.missing, **preflight.made_first(experiment, task)}
        if task is not None:
            print_plan(console, experiment, task, placed)
        print_made(console, made, whole=task is not None)
