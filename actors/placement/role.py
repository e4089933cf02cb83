"""What one kind of process reserves. Every process of a pool imports this module, so it imports nothing itself."""

from __future__ import annotations

import dataclasses

GPU_MEMORY_SHARE = 0.9
"""Part of a GPU's memory that an engine uses if no other process uses that GPU."""


@dataclasses.dataclass(frozen=True)
class Role:
    """One kind of process."""

    name: str
    count: int
    cpus: float
    """CPUs reserved per process."""
    gpus: float
    """GPUs per process: whole ones, all on one node, or a share of one or of each of several."""
    threads: int
    """Number of compute threads per process (``OMP_NUM_THREADS``)."""
    memory_share: float = GPU_MEMORY_SHARE
    """Part of the memory of its GPUs that an engine uses."""
    sleeps: bool = False
    """Whether it gives its GPU memory back while other processes work."""
    shares: int = 1
    """Number of GPUs that it has a share of, where ``gpus`` is less than a whole one."""

    @property
    def asked_gpus(self) -> float:
        """GPUs that a process asks Ray for.

        Ray gives a share of one GPU only. A process that shares several asks for none, and is told which they are; see
        :meth:`actors.placement.reservation.Reservation.devices`.
        """
        return self.gpus if self.shares == 1 else 0.0
