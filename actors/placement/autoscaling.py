"""Autoscaling: requests the nodes that a run needs from the autoscaler, waits for them and keeps them.

The requests are placement groups. They belong to the driver's job and are removed with it however it ends, so that no
node is paid for on behalf of a run that was killed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.placement.cluster import Cluster, described, ray_cluster
from actors.placement.layout import Layout, PlacementError, layout, settled, shared
from actors.placement.memory import Sizes
from actors.placement.reservation import NODE_LABEL
from scpl_ray.config import Experiment

logger = logging.getLogger(__name__)

GROW_S = 1800.0
"""Longest wait for nodes: a cloud takes minutes to start them, and then they install their packages."""
POLL_S = 2.0
SAY_S = 30.0
HELD_BYTES = 1.0
"""Memory reserved on each node, as Ray counts it: a node on which something is reserved is not idle."""


class Demand:
    """What a run asks the autoscaler for, until :meth:`close` or the end of the driver."""

    def __init__(self) -> None:
        self._group: PlacementGroup | None = None

    def ask(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Ask for nodes that have room for all of these bundles at once."""
        self.close()
        self._group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")

    def keep(self, cluster: Cluster) -> None:
        """Ask for nothing more, and keep these nodes, even while one of them has nothing to do in a phase."""
        self.close()
        self._group = placement_group(
            [{"memory": HELD_BYTES} for _ in cluster.nodes],
            strategy="PACK",
            bundle_label_selector=[{NODE_LABEL: node.id} for node in cluster.nodes],
        )

    def close(self) -> None:
        """Release the nodes, so that idle ones can be removed."""
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None


def grown(
    experiment: Experiment,
    cluster: Cluster,
    sizes: Sizes | None,
    *,
    ask: Callable[[Sequence[Mapping[str, float]]], None],
    look: Callable[[], Cluster] = ray_cluster,
    grow_s: float = GROW_S,
    poll_s: float = POLL_S,
) -> Cluster:
    """Wait until the experiment fits the cluster as it fits ``placement.cluster``; without that key, do not wait.

    Args:
        experiment: the config.
        cluster: the nodes that are there.
        sizes: sizes of the models, see :func:`actors.placement.layout`.
        ask: asks the autoscaler for bundles of resources.
        look: returns the cluster as it is now.
        grow_s: longest wait, in seconds.
        poll_s: seconds between two calls of ``look``.

    Returns:
        The cluster with the nodes that have joined.

    Raises:
        PlacementError: the experiment would not fit even ``placement.cluster``, or nodes did not join in time.
    """
    if experiment.placement.cluster is None:
        return cluster
    wanted = layout(experiment, described(experiment.placement.cluster), sizes)
    # What would fit fewer nodes too is no reason to begin before all have joined.
    experiment = settled(experiment, wanted.engine.count, wanted.scorer.count)
    began = said = time.monotonic()
    while (missing := _missing(experiment, cluster, sizes, wanted)) is not None:
        if said == began:
            ask(demands(wanted))
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


def demands(wanted: Layout) -> list[dict[str, float]]:
    """What a layout needs at once, in Ray's names: a bundle for each process, or for GPUs that processes share."""
    if wanted.mode == "colocated":
        cpus = {role.name: role.cpus for role in wanted.roles}
        return [{"CPU": sum(cpus[seat.role] for seat in seats), "GPU": float(gpus)} for gpus, seats in shared(wanted)]
    alone = [{"CPU": role.cpus, "GPU": role.gpus} for role in wanted.roles for _ in range(role.count)]
    return [{name: amount for name, amount in bundle.items() if amount} for bundle in alone]


def _missing(experiment: Experiment, cluster: Cluster, sizes: Sizes | None, wanted: Layout) -> str | None:
    """Why the experiment does not fit yet; ``None`` if it fits."""
    try:
        found = layout(experiment, cluster, sizes)
    except PlacementError as error:
        return str(error)
    return None if found.mode == wanted.mode else f"there is room for a {found.mode} layout only, not {wanted.mode}"
