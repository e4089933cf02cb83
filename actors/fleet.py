"""The live processes of a driver, kept from run to run where the next one asks for the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import ray

from actors import file_transfer
from actors.feedback import RayPopulation
from actors.file_transfer import SHARED_DISK, Files
from actors.generation import RayGenerator
from actors.placement.cluster import Cluster
from actors.placement.layout import Layout, layout
from actors.placement.memory import known_sizes
from actors.placement.reservation import NODE_LABEL, Reservation, bundles
from actors.reward import RayScorer
from actors.training import RayTrainer
from scpl_ray.config import Experiment
from scpl_ray.protocols import Engines, Task

logger = logging.getLogger(__name__)

Kept = TypeVar("Kept", RayGenerator, RayScorer, RayTrainer, RayPopulation)


class House:
    """Engines, scorers, training workers and the feedback simulator of one driver.

    Processes are caches of what is on disk: the trials of a study that share a model share them, and start-up is paid
    once. Ray must be connected.

    Args:
        folder: for logs and Ray Train's state.
        cluster: what this driver may use.
    """

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._cluster = cluster
        self._reservation: Reservation | None = None
        self._placed: Layout | None = None
        self._kept: dict[str, tuple[str, Any]] = {}
        self._files = SHARED_DISK

    def __enter__(self) -> House:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def engines(self, experiment: Experiment, task: Task) -> Engines:
        """The processes of a run, set up for it; those that are not there yet begin to start.

        Raises:
            PlacementError: they do not fit.
        """
        placed = layout(experiment, self._cluster, known_sizes(experiment, task))
        reservation = self._reserved(placed)
        nodes = [seat.node.id for seat in placed.of(placed.worker)] if placed.worker.gpus else []
        if self._files.courier is None and file_transfer.may_be_needed():
            self._files = Files(file_transfer.start())
        logs = self._folder / "logs"
        asked = asks(experiment)
        population = self._keep("population", "", lambda: RayPopulation(experiment, task))
        population.begin(experiment, task)
        generator = self._keep(
            "generator",
            f"{asked['generator']} {placed.engine}",
            lambda: RayGenerator(
                experiment, placed.engine, logs, self._files, places=reservation.places(placed.engine.name)
            ),
        )
        generator.begin(experiment)
        scorer = self._keep(
            "scorer",
            f"{asked['scorer']} {placed.scorer}",
            lambda: RayScorer(
                experiment, task, placed.scorer, logs, self._files, places=reservation.places(placed.scorer.name)
            ),
        )
        scorer.begin()
        trainer = self._keep(
            "trainer",
            f"{asked['trainer']} {placed.worker} {nodes}",
            lambda: RayTrainer(
                experiment.training,
                experiment.model,
                folder=self._folder / "ray",
                resources_per_worker={"CPU": placed.worker.cpus, "GPU": placed.worker.gpus},
                threads_per_worker=placed.worker.threads,
                files=self._files,
                labels=[{NODE_LABEL: node} for node in nodes],
            ),
        )
        trainer.prepare()
        return Engines(generator, scorer, trainer, population)

    def queues(self) -> dict[str, int]:
        """Unfinished calls of the pools."""
        pools = (("engine", "generator"), ("scorer", "scorer"))
        return {role: self._kept[name][1].unfinished for role, name in pools if name in self._kept}

    def close(self) -> None:
        """End all processes; the house can be used again."""
        while self._kept:
            self._kept.popitem()[1][1].close()
        if self._files.courier is not None:
            ray.kill(self._files.courier)
            self._files = SHARED_DISK
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    def _reserved(self, placed: Layout) -> Reservation:
        """The GPUs of a layout; processes on other ones are ended first."""
        if self._placed is not None and bundles(self._placed) != bundles(placed):
            logger.info("processes move: %s instead of %s", placed, self._placed)
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
            logger.info("%s: another one is asked for, %s instead of %s", name, asked, before)
            del self._kept[name]
            kept.close()
        self._kept[name] = (asked, start())
        return self._kept[name][1]  # type: ignore[no-any-return]


def asks(experiment: Experiment) -> dict[str, str]:
    """What each pool must know before it starts: runs that agree on it can share the pool."""
    values = experiment.model_dump(mode="json")
    generation = {
        key: value
        for key, value in values["generation"].items()
        if key not in ("samples_per_prompt", "prompts_per_chunk")
    }
    reward = {key: value for key, value in values["reward"].items() if key != "choices"}
    asked = {
        "generator": [values["model"], generation, values["task"]["max_prompt_tokens"]],
        # the task judges rule terms there; it is built from these
        "scorer": [values["model"], generation, reward, values["task"], values["groups"]["names"]],
        "trainer": [values["model"], values["training"]],
    }
    return {name: json.dumps(facts, sort_keys=True) for name, facts in asked.items()}
