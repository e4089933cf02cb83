"""The feedback simulator: one Ray actor that holds the population."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

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
        Exception: from every method, what the simulator raised, such as the error of a rule of the user's own.
        RuntimeError: its process died too often.
        TimeoutError: it did not answer within :data:`DEADLINE_S`.
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
        result, self._state = answer(self._actor.call.remote(self._run, self._state, method, *args), method)
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


def answer(call: Any, method: str) -> Any:
    """What a call of the simulator returned.

    Args:
        call: its object reference.
        method: what it was asked, for error messages.

    Raises:
        Exception: what the simulator raised.
        RuntimeError: its process died too often.
        TimeoutError: it did not answer within :data:`DEADLINE_S`.
    """
    try:
        return ray.get(call, timeout=DEADLINE_S)
    except GetTimeoutError as error:  # before the next: one that the simulator itself met is both
        raise TimeoutError(
            f"the feedback simulator: no answer to {method!r} within {DEADLINE_S:.0f} s; if feedback.function is "
            "yours, make it faster; else free the CPUs of this machine, and continue the run"
        ) from error
    except RayTaskError as error:
        raise error.cause from error
    except RayActorError as error:
        raise RuntimeError(
            f"the feedback simulator is gone ({MAX_TASK_RETRIES} retries of a call, {MAX_RESTARTS} restarts): "
            f"{str(error).strip().splitlines()[0]}; it holds the users and the task's data, so free memory of this "
            "machine, and continue the run"
        ) from error
