"""The live processes of a driver, which are kept for the next run if that run asks for the same processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors import file_transfer, generation, reward, training
from actors.feedback import RayPopulation
from actors.file_transfer import SHARED_DISK, Files
from actors.generation import RayGenerator
from actors.placement.cluster import Cluster
from actors.placement.layout import Layout, layout
from actors.placement.memory import known_sizes
from actors.placement.reservation import Reservation, bundles
from actors.placement.role import Role
from actors.reward import RayScorer, readers_beside
from actors.training import RayTrainer
from scpl_ray.config import Experiment
from scpl_ray.config.agreement import agreement
from scpl_ray.models import precision
from scpl_ray.protocols import Engines, Task

logger = logging.getLogger(__name__)

Kept = TypeVar("Kept", RayGenerator, RayScorer, RayTrainer, RayPopulation)


class Fleet:
    """The engines, scorers, training workers and the feedback simulator of one driver.

    Their whole state is on disk. The trials of a study that ask for the same processes share them, so that they
    are started once. Ray must be connected.

    Args:
        folder: where logs and Ray Train's state are written.
        cluster: the nodes, CPUs and GPUs that this driver may use.
    """

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._cluster = cluster
        self._reservation: Reservation | None = None
        self._placed: Layout | None = None
        self._kept: dict[str, tuple[str, Any]] = {}
        self._files = SHARED_DISK

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def engines(self, experiment: Experiment, task: Task) -> Engines:
        """The processes of a run, ready to work for it. Those that are not running yet are started in the background.

        Raises:
            PlacementError: the processes do not fit the cluster.
        """
        experiment, placed, reservation = self._placing(experiment, task)
        population = self._keep("population", "", lambda: RayPopulation(experiment, task))
        population.begin(experiment, task)
        generator, scorer = self._answering(experiment, task, placed, reservation)
        trainer = self._keep(
            "trainer",
            f"{asks(experiment)['trainer']} {placed.worker} {nodes(placed, placed.worker)}",
            lambda: RayTrainer(
                experiment.training,
                experiment.model,
                folder=self._folder / "ray",
                resources_per_worker={"CPU": placed.worker.cpus, "GPU": placed.worker.gpus},
                threads_per_worker=placed.worker.threads,
                files=self._files,
                places=reservation.places(placed.worker.name),
                nodes=nodes(placed, placed.worker) if self._spread(placed) else (),
                make_room=lambda: self._kept["scorer"][1].sleep(),
            ),
        )
        trainer.prepare()
        dtype = experiment.model.dtype
        assert dtype != "auto"
        return Engines(
            generator,
            scorer,
            trainer,
            population,
            generator.sampling_bound,
            shares_gpus=placed.mode == "colocated",
            dtype=dtype,
        )

    def measuring(self, experiment: Experiment, task: Task) -> tuple[RayGenerator, RayScorer, Experiment]:
        """The engines and scorers that measure policies, without any training worker.

        Returns:
            Both, and the experiment with ``model.dtype`` as these processes compute.

        Raises:
            PlacementError: the processes do not fit the cluster.
        """
        experiment, placed, reservation = self._placing(experiment, task)
        return *self._answering(experiment, task, placed, reservation), experiment

    def _placing(self, experiment: Experiment, task: Task) -> tuple[Experiment, Layout, Reservation]:
        """The experiment with ``model.dtype`` decided, the layout of its processes, and what is reserved for them."""
        sizes = known_sizes(experiment, task)
        placed = layout(experiment, self._cluster, sizes)
        parameters = sizes.policy.parameters if sizes else None
        experiment = precision.suited(experiment, self._cluster.without_bfloat16)
        experiment = precision.decided(experiment, parameters, on_gpu=placed.mode != "cpu")
        reservation = self._reserved(placed)
        if self._files.transfer is None and file_transfer.may_be_needed():
            self._files = Files(file_transfer.start())
        return experiment, placed, reservation

    def _answering(
        self, experiment: Experiment, task: Task, placed: Layout, reservation: Reservation
    ) -> tuple[RayGenerator, RayScorer]:
        logs, readers = self._folder / "logs", readers_beside(placed.scorer)
        asked = asks(experiment)
        generator = self._keep(
            "generator",
            f"{asked['generator']} {placed.engine} {nodes(placed, placed.engine)}",
            lambda: RayGenerator(
                experiment,
                placed.engine,
                logs,
                self._files,
                places=self._places(placed, reservation, placed.engine),
                devices=reservation.devices(placed.engine.name),
            ),
        )
        generator.begin(experiment)
        scorer = self._keep(
            "scorer",
            f"{asked['scorer']} {placed.scorer} {nodes(placed, placed.scorer)}",
            lambda: RayScorer(
                experiment,
                task,
                placed.scorer,
                logs,
                self._files,
                readers=readers,
                reader_places=seat_places(placed, placed.scorer) if readers is not None else (),
                places=self._places(placed, reservation, placed.scorer),
            ),
        )
        scorer.begin()
        return generator, scorer

    def queues(self) -> dict[str, int]:
        """Number of unfinished calls of each pool, by the role of its processes."""
        pools = (("engine", "generator"), ("scorer", "scorer"))
        return {role: self._kept[name][1].unfinished for role, name in pools if name in self._kept}

    def close(self) -> None:
        """End all processes; the fleet can be used again."""
        while self._kept:
            self._kept.popitem()[1][1].close()
        if self._files.transfer is not None:
            ray.kill(self._files.transfer)
            self._files = SHARED_DISK
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    def _spread(self, placed: Layout) -> bool:
        """Whether nothing is reserved that would say on which of several nodes each process sits."""
        return placed.mode == "cpu" and len(self._cluster.nodes) > 1

    def _places(self, placed: Layout, reservation: Reservation, role: Role) -> Sequence[Any]:
        return seat_places(placed, role) if self._spread(placed) else reservation.places(role.name)

    def _reserved(self, placed: Layout) -> Reservation:
        """Reserve the GPUs of a layout; processes that sit on other GPUs are ended first."""
        if self._placed is not None and bundles(self._placed) != bundles(placed):
            logger.info("the processes move to another layout, %s instead of %s", placed, self._placed)
            self.close()
        if self._reservation is None:
            self._reservation = Reservation(placed)
        self._placed = placed
        return self._reservation

    def _keep(self, name: str, asked: str, start: Callable[[], Kept]) -> Kept:
        if name in self._kept:
            before, kept = self._kept[name]
            if before == asked:
                return kept  # type: ignore[no-any-return]
            logger.info("the %s is replaced, because this run asks for %s instead of %s", name, asked, before)
            del self._kept[name]
            kept.close()
        self._kept[name] = (asked, start())
        return self._kept[name][1]  # type: ignore[no-any-return]


def nodes(placed: Layout, role: Role) -> list[str]:
    """Ray's ids of the nodes on which the processes of a role sit, by index."""
    return [seat.node.id for seat in placed.of(role)]


def seat_places(placed: Layout, role: Role) -> list[NodeAffinitySchedulingStrategy]:
    """Where each process of a role starts, by index: on the node of its seat, or elsewhere where that one is lost.

    Left to Ray, a process that reserves little or nothing starts on any node: a reader, which reserves no CPU, on a
    head that has none, and an engine without a GPU on a node whose memory cannot hold its model.
    """
    return [NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes(placed, role)]


def asks(experiment: Experiment) -> dict[str, str]:
    """The settings that each pool is started with, by pool name: runs with equal settings can share the pool."""
    depends_on = {
        "generator": generation.DEPENDS_ON,
        "scorer": reward.depends_on(experiment),
        "trainer": training.DEPENDS_ON,
    }
    return {name: agreement(experiment, keys) for name, keys in depends_on.items()}
