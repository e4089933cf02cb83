"""A layout's GPUs, reserved: one Ray placement group, each bundle on the node that the layout says.

Ray gives out GPUs in the order in which processes ask. Two engines could get halves of one GPU while a worker waits for
ever, or an engine that needs two GPUs of one node could find one free on each of two. What is reserved together stays
together, through restarts too. Training workers are placed by Ray Train, into what the bundles leave.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.placement.layout import Layout, PlacementError, Seat

logger = logging.getLogger(__name__)

NODE_LABEL = "ray.io/node-id"
"""Ray's own label of every node."""
RESERVE_S = 300.0
"""Longest wait for what another job may still hold."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """What is reserved together."""

    node: str
    """Ray's id."""
    cpus: float
    gpus: float
    members: tuple[tuple[str, int], ...]
    """Role and index of the processes inside."""

    def resources(self) -> dict[str, float]:
        """By Ray's names; it takes no zeros."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount}


def bundles(placed: Layout) -> tuple[Bundle, ...]:
    """What engines and scorers reserve, sorted as the layout's nodes and devices; nothing on a machine without GPUs.

    Dedicated: a bundle per process. Colocated: a bundle per GPU, also where only a worker sits, so that no GPU has room
    for two workers.
    """
    if placed.mode == "cpu":
        return ()
    reserved = (placed.engine, placed.scorer)
    if placed.mode == "dedicated":
        return tuple(
            Bundle(seat.node.id, role.cpus, role.gpus, ((role.name, seat.index),))
            for role in reserved
            for seat in placed.of(role)
        )
    shared: dict[tuple[str, tuple[int, ...]], list[Seat]] = {}
    for seat in placed.seats:
        shared.setdefault((seat.node.id, seat.gpus), []).append(seat)
    gpus = sum(role.gpus for role in reserved)
    by_name = {role.name: role for role in reserved}
    return tuple(
        Bundle(
            node,
            sum(by_name[seat.role].cpus for seat in seats if seat.role in by_name),
            gpus,
            tuple((seat.role, seat.index) for seat in seats if seat.role in by_name),
        )
        for (node, _), seats in shared.items()
    )


class Reservation:
    """The bundles of a layout, held until :meth:`close`.

    Raises:
        PlacementError: the cluster did not have them free in time.
    """

    def __init__(self, placed: Layout) -> None:
        self._bundles = bundles(placed)
        self._group: PlacementGroup | None = None
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
        """Ray's scheduling strategies for the processes of a role, by index; none where nothing is reserved."""
        found = {
            index: PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number)
            for number, bundle in enumerate(self._bundles)
            for name, index in bundle.members
            if name == role
        }
        return [found[index] for index in sorted(found)]

    def close(self) -> None:
        """Give everything back."""
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None
