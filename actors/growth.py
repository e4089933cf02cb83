"""A cluster that grows when it is asked: the nodes that a run needs, asked for and waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ray.autoscaler.sdk import request_resources

from actors.cluster import Cluster, described, ray_cluster
from actors.memory import Sizes
from actors.placement import Layout, PlacementError, layout
from scpl_ray.config import Experiment

logger = logging.getLogger(__name__)

GROW_S = 1800.0
"""Longest wait for nodes: a cloud gives them in minutes, and they install their packages."""
POLL_S = 2.0
SAY_S = 30.0


def grown(
    experiment: Experiment,
    cluster: Cluster,
    sizes: Sizes | None,
    *,
    look: Callable[[], Cluster] = ray_cluster,
    ask: Callable[..., None] = request_resources,
    grow_s: float = GROW_S,
    poll_s: float = POLL_S,
) -> Cluster:
    """The cluster once the experiment fits it as it fits ``placement.cluster``; as it is where that is not given.

    Args:
        experiment: the config.
        cluster: the nodes that are there.
        sizes: of the models, see :func:`actors.placement.layout`.
        look: gives the nodes that are there now.
        ask: the autoscaler, for ``bundles`` of resources.
        grow_s: longest wait.
        poll_s: between looks.

    Raises:
        PlacementError: it would not fit the whole cluster either, or nodes did not come in time.
    """
    if experiment.placement.cluster is None:
        return cluster
    wanted = layout(experiment, described(experiment.placement.cluster), sizes)
    bundles = [
        {name: amount for name, amount in (("CPU", role.cpus), ("GPU", role.gpus)) if amount}
        for role in wanted.roles
        for _ in range(role.count)
    ]
    began = said = time.monotonic()
    while (missing := _missing(experiment, cluster, sizes, wanted)) is not None:
        if said == began:
            ask(bundles=bundles)
        now = time.monotonic()
        if now - began > grow_s:
            raise PlacementError(
                f"placement.cluster = {experiment.placement.cluster}: the cluster did not grow to it within "
                f"{grow_s:.0f} s: {missing}; look at `ray status` on its head"
            )
        if said == began or now - said > SAY_S:
            logger.warning("waiting for nodes, %.0f s: %s", now - began, missing)
            said = now
        time.sleep(poll_s)
        cluster = look()
    return cluster


def released(ask: Callable[..., None] = request_resources) -> None:
    """Let idle nodes go."""
    ask(bundles=[])


def _missing(experiment: Experiment, cluster: Cluster, sizes: Sizes | None, wanted: Layout) -> str | None:
    """Why the experiment does not fit yet; ``None``: it does."""
    try:
        found = layout(experiment, cluster, sizes)
    except PlacementError as error:
        return str(error)
    return None if found.mode == wanted.mode else f"there is room for a {found.mode} layout only, not {wanted.mode}"
