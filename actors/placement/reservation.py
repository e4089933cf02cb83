"""Reservation of a layout's GPUs: one Ray placement group with each bundle on the node that the layout names.

Ray assigns GPUs in the order in which processes ask. Without a reservation, two engines could get halves of one GPU
while a worker waits for ever, an engine that needs two GPUs of one node could find one free GPU on each of two nodes,
or a worker of one trial of a study could sit on a GPU of another. The bundles hold whole GPUs and everything that runs
on them, training workers too. What is reserved together stays together, also through restarts.

Where processes share GPUs a bundle has one, so that Ray cannot put two scorers on one GPU of a bundle and none on
another. An engine that is split over several such GPUs is in the bundle of the first, and is told all of them by their
ids.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.placement.cluster import Node
from actors.placement.layout import Layout, PlacementError, Seat

logger = logging.getLogger(__name__)

NODE_LABEL = "ray.io/node-id"
"""The label that Ray itself gives every node."""
LITTLE = 0.01
"""A share of a GPU that is left beside all that share it: a split engine asks for none."""
RESERVE_S = 300.0
"""Longest wait for resources that another job may still hold."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Resources that are reserved together."""

    node: str
    """Ray's id of the node."""
    cpus: float
    gpus: float
    members: tuple[tuple[str, int], ...]
    """Role and index of the processes inside."""
    used_by: tuple[tuple[str, int], ...] = ()
    """Role and index of processes of other bundles that use the GPU of this one too."""

    def resources(self) -> dict[str, float]:
        """The resources by Ray's names; zeros are left out, because Ray does not accept them."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}


def bundles(placed: Layout) -> tuple[Bundle, ...]:
    """What a run reserves, in the order of the layout's seats; nothing on a machine without GPUs.

    Dedicated: one bundle per process. Colocated: one bundle per GPU that processes share, even if only a worker runs
    there.
    """
    if placed.mode == "cpu":
        return ()
    cpus = {role.name: role.cpus for role in placed.roles}
    inside: dict[tuple[Node, tuple[int, ...]], list[Seat]] = {}
    used: dict[tuple[Node, tuple[int, ...]], list[Seat]] = {}
    for seat in placed.seats:
        sets: list[tuple[int, ...]] = [seat.gpus] if placed.mode == "dedicated" else [(gpu,) for gpu in seat.gpus]
        first, *others = sets
        inside.setdefault((seat.node, first), []).append(seat)
        for gpus in others:
            inside.setdefault((seat.node, gpus), [])
            used.setdefault((seat.node, gpus), []).append(seat)
    return tuple(
        Bundle(
            node.id,
            sum(cpus[seat.role] for seat in seats),
            float(len(gpus)),
            tuple((seat.role, seat.index) for seat in seats),
            tuple((seat.role, seat.index) for seat in used.get((node, gpus), ())),
        )
        for (node, gpus), seats in inside.items()
    )


def own_gpus() -> list[str]:
    """The GPUs that Ray gave to this process, by their ids on its node."""
    return [str(gpu) for gpu in ray.get_gpu_ids()]


class Reservation:
    """The bundles of a layout, held until :meth:`close`.

    Raises:
        PlacementError: the resources did not become free in time.
    """

    def __init__(self, placed: Layout) -> None:
        self._bundles = bundles(placed)
        self._group: PlacementGroup | None = None
        self._ids: list[str] | None = None
        if not self._bundles:
            return
        self._group = placement_group(
            [bundle.resources() for bundle in self._bundles],
            strategy="PACK",
            bundle_label_selector=[{NODE_LABEL: bundle.node} for bundle in self._bundles],
        )
        if not self._group.wait(RESERVE_S):
            self.close()
            raise PlacementError(
                f"{len(self._bundles)} bundles of {self._bundles[0].gpus:g} GPUs were not free for {RESERVE_S:g} s; "
                f"free are {ray.available_resources()}; end what holds the others, or ask for fewer processes"
            )
        logger.info("reserved: %s", self._bundles)

    def places(self, role: str) -> list[Any]:
        """Ray's scheduling strategies for the processes of a role, by index; empty if nothing is reserved."""
        found = {
            index: PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            for number, bundle in enumerate(self._bundles)
            for name, index in bundle.members
            if name == role
        }
        return [found[index] for index in sorted(found)]

    def devices(self, role: str) -> list[str]:
        """The GPUs of each process of a role, by index, as ``CUDA_VISIBLE_DEVICES`` names them.

        Empty unless the processes share several GPUs each: in every other case Ray says it itself.

        Raises:
            ray.exceptions.GetTimeoutError: Ray did not say in time which GPU a bundle has.
        """
        sharing = {member for bundle in self._bundles for member in bundle.used_by if member[0] == role}
        if not sharing:
            return []
        if self._ids is None:
            ask = ray.remote(num_cpus=0, num_gpus=LITTLE)(own_gpus)
            places = [PlacementGroupSchedulingStrategy(self._group, i) for i in range(len(self._bundles))]
            asked = [ask.options(scheduling_strategy=place).remote() for place in places]
            self._ids = [gpu for (gpu,) in ray.get(asked, timeout=RESERVE_S)]
        return [
            ",".join(
                gpu
                for gpu, bundle in zip(self._ids, self._bundles, strict=True)
                if member in (*bundle.members, *bundle.used_by)
            )
            for member in sorted(sharing)
        ]

    def close(self) -> None:
        """Release all bundles."""
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
