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
from actors.placement.layout import Layout, PlacementError, layout, on_fewest_nodes, settled
from actors.placement.memory import Mode, Sizes
from actors.placement.reservation import NODE_LABEL
from scpl_ray.config import Experiment

logger = logging.getLogger(__name__)

GROW_S = 1800.0
"""Longest wait for nodes: a cloud takes minutes to start them, and then they install their packages."""
POLL_S = 2.0
SAY_S = 30.0
MODES: tuple[Mode, ...] = ("cpu", "colocated", "dedicated")
"""What a layout gives to each process, least first."""
HELD_BYTES = 1.0
"""Memory reserved on each node, as Ray counts it: a node on which something is reserved is not idle."""


class Demand:
    """What a run asks the autoscaler for, until :meth:`close` or the end of the driver."""

    def __init__(self) -> None:
        self._group: PlacementGroup | None = None

    def ask(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Ask for as many nodes as there are bundles, each with room for one of them."""
        self.close()
        self._group = placement_group([dict(bundle) for bundle in bundles], strategy="STRICT_SPREAD")

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

    Nodes may have less memory than described: Ray keeps a part of it for its objects. So the wait ends as well once
    as many have joined, with as many CPUs and GPUs; whether the experiment fits these, its layout says.

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
    whole = described(experiment.placement.cluster)
    wanted = layout(experiment, whole, sizes)
    described_nodes = [_without_zeros({"CPU": node.cpus, "GPU": float(node.gpus)}) for node in whole.nodes]
    left, asked = [demands(wanted, whole), described_nodes], list[dict[str, float]]()
    began = said = time.monotonic()
    while (missing := _missing(experiment, cluster, sizes, wanted)) is not None:
        if _carries(cluster, described_nodes):
            logger.warning("all nodes have joined, but not with the memory that placement.cluster says: %s", missing)
            break
        if left and _carries(cluster, asked):
            ask(asked := left.pop(0))
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


def demands(wanted: Layout, cluster: Cluster) -> list[dict[str, float]]:
    """What a layout needs of each node of the cluster that it was made for, in Ray's names.

    Memory is not asked for: how much Ray leaves of a node's is not known before it has joined. So every bundle is for a
    node of its own, and nodes that fill up with memory first are asked for too.
    """
    cpus = {role.name: role.cpus for role in wanted.roles}
    return [
        _without_zeros(
            {
                "CPU": round(sum(cpus[seat.role] for seat in seats), 4),  # Ray counts in ten thousandths
                "GPU": float(len({gpu for seat in seats for gpu in seat.gpus})),
            }
        )
        for seats in on_fewest_nodes(wanted, cluster)
    ]


def _without_zeros(bundle: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in bundle.items() if amount}


def _carries(cluster: Cluster, bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether each of the bundles has a node of its own with as many CPUs and GPUs."""
    free = list(cluster.nodes)
    # Those with most GPUs first, each on the node with the fewest CPUs that will do: others need no more GPUs than it.
    for bundle in sorted(bundles, key=lambda each: each.get("GPU", 0.0), reverse=True):
        fitting = [n for n in free if n.gpus >= bundle.get("GPU", 0.0) and n.cpus >= bundle.get("CPU", 0.0)]
        if not fitting:
            return False
        free.remove(min(fitting, key=lambda node: node.cpus))
    return True


def _missing(experiment: Experiment, cluster: Cluster, sizes: Sizes | None, wanted: Layout) -> str | None:
    """Why the experiment does not fit yet; ``None`` if it fits."""
    # What would fit fewer nodes too is no reason to begin before all have joined. But a layout takes GPUs where there
    # are any, and as many engines as on cores are not meant there.
    if wanted.mode != "cpu" or not cluster.gpus:
        experiment = settled(experiment, wanted.engine.count, wanted.scorer.count)
    try:
        found = layout(experiment, cluster, sizes)
    except PlacementError as error:
        return str(error)
    if MODES.index(found.mode) < MODES.index(wanted.mode):
        return f"there is room for a {found.mode} layout only, not {wanted.mode}"
    return None
