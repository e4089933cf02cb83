"""Which policy the engines serve, and the loading of the next one while other work goes on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from scpl_ray.protocols import Generator
from scpl_ray.records import Weights


class Served:
    """The policy that a generator serves; it changes one policy at a time, in the background.

    Training writes a policy's files, the run directory then waits until they are on the disk and computes their
    checksums, and engines read them. The last two need nothing of each other: engines begin as soon as the files are
    written, when they are still in memory, and their phase is committed meanwhile. A run that is killed in between has
    no such policy, and trains it again.

    Args:
        generator: the generation pool.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="serving")
        self._version: int | None = None
        self._loading: Future[None] | None = None

    def begin(self, policy: Weights) -> None:
        """Begin to serve a policy, unless it is served already."""
        if self._version != policy.policy_version:
            self._loading = self._thread.submit(self._generator.refresh, policy)
            self._version = policy.policy_version

    def load(self, policy: Weights) -> None:
        """Serve a policy, and wait until it is served; raises what :meth:`Generator.refresh` raises."""
        self.begin(policy)
        if self._loading is not None:
            self._loading.result()
