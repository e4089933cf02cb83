"""Who gets which CPU and GPU: pure functions.

Generation, scoring and training take turns, so a process asks for a fraction of a core or of a GPU: what one phase
leaves idle the next one uses. Where there are enough GPUs each process gets its own.
"""

from __future__ import annotations

import dataclasses

from scpl_ray.config import Experiment

ENGINE_CPUS, SCORER_CPUS, WORKER_CPUS = 0.4, 0.15, 0.4
"""Shares of a core that a process reserves on a machine without GPUs; together less than one, because the process
that drives a trial of a study reserves a little too."""
ENGINE_GPUS, SCORER_GPUS, WORKER_GPUS = 0.3, 0.1, 0.6
"""Shares of a GPU where the three roles share it."""


class PlacementError(ValueError):
    """The machine or cluster is too small; the message says what was asked, what there is, and what would fit."""


@dataclasses.dataclass(frozen=True)
class Resources:
    """What a machine or cluster has."""

    cpus: float
    gpus: float


@dataclasses.dataclass(frozen=True)
class Role:
    """One kind of process."""

    name: str
    count: int
    cpus: float
    """CPUs reserved per process."""
    gpus: float
    """GPUs reserved per process."""
    threads: int
    """Compute threads per process (``OMP_NUM_THREADS``)."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Who gets what."""

    engine: Role
    scorer: Role
    worker: Role

    @property
    def roles(self) -> tuple[Role, Role, Role]:
        """All roles."""
        return self.engine, self.scorer, self.worker


def layout(experiment: Experiment, resources: Resources) -> Layout:
    """Place an experiment's processes.

    Raises:
        PlacementError: they do not fit.
    """
    counts = (experiment.generation.replicas, experiment.reward.replicas, experiment.training.workers)
    keys = ("generation.replicas", "reward.replicas", "training.workers")
    if resources.gpus:
        own = resources.gpus >= sum(counts)
        gpus = (1.0, 1.0, 1.0) if own else (ENGINE_GPUS, SCORER_GPUS, WORKER_GPUS)
        cpus = (1.0, 1.0, 1.0)
        _check("GPU", keys, counts, gpus, resources.gpus)
    else:
        gpus = (0.0, 0.0, 0.0)
        cpus = (ENGINE_CPUS, SCORER_CPUS, WORKER_CPUS)
    _check("CPU", keys, counts, cpus, resources.cpus)
    # one thread per engine and scorer: their numbers must not depend on how many there are
    worker_threads = max(1, int(resources.cpus) // counts[2])
    return Layout(
        Role("engine", counts[0], cpus[0], gpus[0], 1),
        Role("scorer", counts[1], cpus[1], gpus[1], 1),
        Role("training worker", counts[2], cpus[2], gpus[2], worker_threads),
    )


def _check(
    unit: str, keys: tuple[str, ...], counts: tuple[int, ...], each: tuple[float, ...], available: float
) -> None:
    asked = sum(n * share for n, share in zip(counts, each, strict=True))
    if asked > available + 1e-9:
        parts = ", ".join(f"{key}={n} x {share:g}" for key, n, share in zip(keys, counts, each, strict=True))
        worst = max(range(len(keys)), key=lambda i: counts[i] * each[i])
        room = available - (asked - counts[worst] * each[worst])
        fits = max(1, int((room + 1e-9) / each[worst]))
        raise PlacementError(
            f"{asked:g} {unit}s are asked for ({parts}) but there are {available:g}; "
            f"lower {keys[worst]} to {fits} or run on a larger machine or cluster"
        )
