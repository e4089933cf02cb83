"""A cluster that grows when it is asked: the nodes that a run needs, asked for, waited for and kept.

The autoscaler is asked by placement groups. They belong to the driver's job and go with it however it ends, so that no
node is paid for on behalf of a run that was killed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.placement.cluster import Cluster, described, ray_cluster
from actors.placement.layout import Layout, PlacementError, layout
from actors.placement.memory import Sizes
from actors.placement.reservation import NODE_LABEL
from scpl_ray.config import Experiment

logger = logging.getLogger(__name__)

GROW_S = 1800.0
"""Longest wait for nodes: a cloud gives them in minutes, and they install their packages."""
POLL_S = 2.0
SAY_S = 30.0
HELD_BYTES = 1.0
"""Of each node's memory, as Ray counts it: a node of which something is reserved is not idle."""


class Demand:
    """What a run asks the autoscaler for, until :meth:`close` or the end of the driver."""

    def __init__(self) -> None:
        self._group: PlacementGroup | None = None

    def ask(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Ask for nodes on which all of this has room at once."""
        self.close()
        self._group = placement_group([dict(bundle) for bundle in bundles], strategy="PACK")

    def keep(self, cluster: Cluster) -> None:
        """Ask for nothing more, and keep these nodes: one that waits for its turn in a round is not idle."""
        self.close()
        self._group = placement_group(
            [{"memory": HELD_BYTES} for _ in cluster.nodes],
            strategy="PACK",
            bundle_label_selector=[{NODE_LABEL: node.id} for node in cluster.nodes],
        )

    def close(self) -> None:
        """Let idle nodes go."""
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
    """The cluster once the experiment fits it as it fits ``placement.cluster``; as it is where that is not given.

    Args:
        experiment: the config.
        cluster: the nodes that are there.
        sizes: of the models, see :func:`actors.placement.layout`.
        ask: asks the autoscaler for bundles of resources.
        look: gives the nodes that are there now.
        grow_s: longest wait.
        poll_s: between looks.

    Raises:
        PlacementError: it would not fit the whole cluster either, or nodes did not come in time.
    """
    if experiment.placement.cluster is None:
        return cluster
    wanted = layout(experiment, described(experiment.placement.cluster), sizes)
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
    """What a layout needs at once, by Ray's names: a bundle for each process, or for each GPU that processes share."""
    if wanted.mode == "colocated":
        sharing = range(max(role.count for role in wanted.roles))
        return [{"CPU": sum(role.cpus for role in wanted.roles if i < role.count), "GPU": 1.0} for i in sharing]
    alone = [{"CPU": role.cpus, "GPU": role.gpus} for role in wanted.roles for _ in range(role.count)]
    return [{name: amount for name, amount in bundle.items() if amount} for bundle in alone]


def _missing(experiment: Experiment, cluster: Cluster, sizes: Sizes | None, wanted: Layout) -> str | None:
    """Why the experiment does not fit yet; ``None``: it does."""
    try:
        found = layout(experiment, cluster, sizes)
    except PlacementError as error:
        return str(error)
    return None if found.mode == wanted.mode else f"there is room for a {found.mode} layout only, not {wanted.mode}"
