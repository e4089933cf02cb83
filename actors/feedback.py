"""The feedback simulator: one Ray actor that holds the population."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray

from actors.file_transfer import beside
from actors.pool import MAX_RESTARTS, MAX_TASK_RETRIES
from scpl_ray.config import Experiment
from scpl_ray.feedback.population import PopulationSimulator
from scpl_ray.protocols import Choice, Task
from scpl_ray.records import Query

DEADLINE_S = 300.0
"""Longest wait for one answer; drawing a round's queries takes milliseconds to seconds."""


class _Simulator:
    """The simulator in its own process. Each call names the run and carries the state, so a restart loses nothing."""

    def __init__(self) -> None:
        self._run: Any = None

    def call(self, run: list[Any], state: Mapping[str, object], method: str, *args: Any) -> Any:
        """Call a method. ``run`` holds the reference of (experiment, task); it is fetched when another run begins."""
        if self._run != run:
            self._simulator = PopulationSimulator(*ray.get(run[0], timeout=DEADLINE_S))
            self._run = run
        self._simulator.restore(state)
        methods: dict[str, Callable[..., Any]] = {
            "shares": self._simulator.shares,
            "draw": self._simulator.draw,
            "choices": self._simulator.choices,
            "step": self._simulator.step,
        }
        result = methods[method](*args)
        return result, self._simulator.state()


class RayPopulation:
    """:class:`scpl_ray.protocols.Population` on Ray.

    Raises:
        ray.exceptions.GetTimeoutError: the actor does not answer within :data:`DEADLINE_S`.
    """

    def __init__(self, experiment: Experiment, task: Task) -> None:
        remote = ray.remote(_Simulator).options(
            num_cpus=0,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_TASK_RETRIES,
            scheduling_strategy=beside(),
        )
        self._actor = remote.remote()
        self.begin(experiment, task)

    def begin(self, experiment: Experiment, task: Task) -> None:
        """Simulate the users of this run from now on, from their first round."""
        self._run = [ray.put((experiment, task))]
        self._state: dict[str, object] = PopulationSimulator(experiment, task).state()
        # not waited for: the actor unpacks the task while the engines start
        self._actor.call.remote(self._run, self._state, "shares")

    def _call(self, method: str, *args: Any) -> Any:
        result, self._state = ray.get(
            self._actor.call.remote(self._run, self._state, method, *args), timeout=DEADLINE_S
        )
        return result

    def shares(self) -> dict[str, float]:
        """Share of each group in the coming round's queries."""
        shares: dict[str, float] = self._call("shares")
        return shares

    def draw(self, round_: int) -> list[Query]:
        """Queries of a round, drawn from the current shares."""
        queries: list[Query] = self._call("draw", round_)
        return queries

    def choices(self, round_: int, count: int) -> list[Choice]:
        """Pairwise choices of users drawn from the current shares (or balanced)."""
        choices: list[Choice] = self._call("choices", round_, count)
        return choices

    def step(self, measured: Mapping[str, float]) -> None:
        """Move the shares by the feedback rule."""
        self._call("step", measured)

    def state(self) -> dict[str, object]:
        """The whole state to be saved, as JSON values."""
        return self._state

    def restore(self, state: Mapping[str, object]) -> None:
        """Continue from a saved state."""
        self._state = dict(state)

    def close(self) -> None:
        """End the actor."""
        ray.kill(self._actor)
