"""Replicas of one kind of actor: started together, called where the load is least, and awaited with a deadline.

A call must be idempotent and carry all that it needs, because Ray restarts a process that dies and repeats its
calls there.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
)

from actors.placement.role import Role
from actors.processes import running, wait_for_end
from scpl_ray.credentials import MaskedLog, MaskedPipe
from scpl_ray.protocols import Process

logger = logging.getLogger(__name__)

MAX_RESTARTS = 5
"""Most restarts of one replica, over its whole life."""
MAX_TASK_RETRIES = 3
"""Most retries of one call: a call that kills its process every time is given up."""
PROGRESS_S = 30.0
DEADLINE_S = 1800.0
"""Longest time without any answer; reading a large model from a slow disk takes minutes."""
LONG_S = 24 * 3600.0
"""Longest time without any answer to calls that are long by themselves, while the processes that work on them live."""
START_POLL_S = 0.2
PENDING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING")
"""States of an actor without a process."""
NODE_LOST = (ActorUnavailableError, ObjectLostError)
"""Errors of calls on a lost node: they and all their retries fail at once until Ray restarts the actors elsewhere."""
UNREACHABLE_POLL_S = 1.0
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable by which Ray, too, tells a process which GPUs are its own."""
WAKE_S = 0.01
"""Ray may end a wait too early by up to this many seconds."""
LOG_TAIL_LINES = 15
NO_LOG = "(no log on this machine)"
STARTED = re.compile(r" INFO actors\.pool: process \d+ started$")
SEVERE = re.compile(r"^\S+ \S+ (ERROR|CRITICAL) |^Traceback |^Fatal Python error")


class Replica:
    """The base class of every actor of a pool: a process with its own log file.

    Args:
        log_file: receives logging, standard output and standard error of this process and of what it loads.
    """

    def __init__(self, log_file: Path) -> None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        stream = MaskedLog(log_file)
        # Kept for the life of the process: code in C and child processes write into it.
        self._output = MaskedPipe(log_file)
        self._output.become(1, 2)
        sys.stdout = sys.stderr = stream
        logging.basicConfig(
            stream=stream, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
        )
        logger.info("process %d started", os.getpid())


class EndsProcess:
    """A block in which an engine works: an error there ends the process, so that Ray's restart applies.

    An engine that failed internally stays broken: its actor would stay alive and fail every retry in the same way.

    Args:
        spare: errors that leave the engine intact and are raised to the caller.
    """

    def __init__(self, *spare: type[Exception]) -> None:
        self._spare = spare

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, self._spare):
            return
        logger.critical("the engine failed; process %d ends", os.getpid(), exc_info=error)
        logging.shutdown()
        os._exit(1)


class Pool:
    """``role.count`` actors of one class.

    The constructor returns at once, while the processes still start.

    Args:
        actor_class: subclass of :class:`Replica`; its constructor takes a log file and ``arguments``.
        role: how many, and what each reserves.
        arguments: of the constructor.
        environment: variables of the processes, besides their thread count.
        logs: folder of the log files, one per replica.
        deadline_s: longest time without an answer.
        concurrency: number of calls that a replica works on at the same time.
        places: Ray's scheduling strategy for each replica; if empty, they are spread over the nodes.
        devices: the GPUs of each replica, where Ray does not give them because it shares several; empty elsewhere.
    """

    def __init__(
        self,
        actor_class: type[Replica],
        role: Role,
        arguments: Sequence[Any],
        *,
        environment: Mapping[str, str],
        logs: Path,
        deadline_s: float = DEADLINE_S,
        concurrency: int = 1,
        places: Sequence[Any] = (),
        devices: Sequence[str] = (),
    ) -> None:
        self._role = role
        self._deadline_s = deadline_s
        self._logs = [logs.absolute() / f"{role.name.replace(' ', '-')}-{i}.log" for i in range(role.count)]
        variables = {"OMP_NUM_THREADS": str(role.threads), "TOKENIZERS_PARALLELISM": "false", **environment}
        options = {
            "num_cpus": role.cpus,
            "num_gpus": role.asked_gpus,
            "max_restarts": MAX_RESTARTS,
            "max_task_retries": MAX_TASK_RETRIES,
            "max_concurrency": concurrency,
        }
        remote = ray.remote(actor_class)
        # Spread over the nodes, and not inside the placement group of a trial in which the driver may run.
        strategies = places or ["SPREAD"] * role.count
        own: list[dict[str, str]] = [{VISIBLE: ids} for ids in devices] or [{}] * role.count
        self._actors = [
            remote.options(
                **options, scheduling_strategy=strategy, runtime_env={"env_vars": {**variables, **visible}}
            ).remote(log, *arguments)
            for log, strategy, visible in zip(self._logs, strategies, own, strict=True)
        ]
        self._load = [0] * role.count
        self._restarts = [0] * role.count
        self._replica_of: dict[Any, int] = {}
        self._calls: dict[Any, tuple[str, tuple[Any, ...], int]] = {}

    def __len__(self) -> int:
        return self._role.count

    @property
    def least_load(self) -> int:
        """Number of unfinished calls of the replica that has the fewest."""
        return min(self._load)

    @property
    def idle(self) -> int:
        """Number of replicas without unfinished calls."""
        return self._load.count(0)

    @property
    def unfinished(self) -> int:
        """Number of calls that were submitted and have neither been collected nor forgotten."""
        return sum(self._load)

    def submit(self, method: str, *arguments: Any, replica: int | None = None) -> Any:
        """Start a call on the given replica, or on the least loaded one, and return its object reference."""
        index = self._load.index(min(self._load)) if replica is None else replica
        reference = getattr(self._actors[index], method).remote(*arguments)
        self._replica_of[reference] = index
        self._calls[reference] = (method, arguments, self._restarts_of(index))
        self._load[index] += 1
        return reference

    def wait_any(self, references: Sequence[Any], what: str, *, long: bool = False) -> Any:
        """One of the references: one whose call has ended.

        Args:
            references: of unfinished calls.
            what: what the calls are doing, for progress and error messages.
            long: whether a call may take longer than the deadline, which then holds for replicas without a process.

        Raises:
            TimeoutError: none has ended within the deadline; the message names what is missing and the logs.
        """
        started, limit = time.monotonic(), self._deadline_s
        while True:
            left = limit - (time.monotonic() - started)
            ready, _ = ray.wait(list(references), num_returns=1, timeout=max(0.0, min(PROGRESS_S, left)))
            if ready:
                return ready[0]
            waited = time.monotonic() - started
            replicas = sorted({self._replica_of[r] for r in references})
            missing = f"{len(references)} calls on {self._role.name} {', '.join(map(str, replicas))}"
            if long and all(self._facts(i).get("State") == "ALIVE" for i in replicas):
                limit = max(self._deadline_s, min(LONG_S, waited + self._deadline_s))
            if waited >= limit - WAKE_S:
                raise TimeoutError(
                    f"{what}: no answer for {waited:.0f} s; missing: {missing}; "
                    f"logs: {', '.join(str(self._logs[i]) for i in replicas)}"
                )
            self._log_restarts([self._restarts_of(i) for i in range(len(self))])
            if homeless := [i for i in replicas if self._facts(i).get("State") in PENDING]:
                logger.warning(
                    "%s: %s %s not started after %.0f s; each asks for %g CPUs and %g GPUs; free are %s of %s",
                    what,
                    self._role.name,
                    ", ".join(map(str, homeless)),
                    waited,
                    self._role.cpus,
                    self._role.asked_gpus,
                    _shown(ray.available_resources()),
                    _shown(ray.cluster_resources()),
                )
            logger.info("%s: waiting for %s, %.0f s", what, missing, waited)

    def ended(self, references: Sequence[Any]) -> list[Any]:
        """Those of the references whose calls have ended by now."""
        if not references:
            return []
        ready, _ = ray.wait(list(references), num_returns=len(references), timeout=0)
        return list(ready)

    def result(self, reference: Any, *, long: bool = False) -> Any:
        """What an ended call returned; the call is repeated, and waited for, if the node of its replica was lost.

        Args:
            reference: of the call.
            long: as in :meth:`wait_any`, for the repetition.

        Raises:
            Exception: what the call raised.
            RuntimeError: the replica died more often than it may be restarted; the message shows the end of its log.
            TimeoutError: the answer did not arrive within the deadline.
        """
        index, (method, arguments, restarts) = self._replica_of[reference], self._calls[reference]
        self.forget([reference])
        seen, until = restarts, time.monotonic() + self._deadline_s
        while True:
            try:
                return ray.get(reference, timeout=self._deadline_s)
            except RayTaskError as error:
                raise error.cause from error
            except GetTimeoutError as error:
                raise TimeoutError(
                    f"{method}: no answer from {self._role.name} {index} for {self._deadline_s:.0f} s; "
                    f"log: {self._logs[index]}"
                ) from error
            except NODE_LOST as error:
                if (now := self._restarts_of(index)) > seen:  # it was back meanwhile
                    seen, until = now, time.monotonic() + self._deadline_s
                # a call that ended its process on every retry fails in the same way; only the restarts tell them apart
                if time.monotonic() > until or now - restarts >= MAX_TASK_RETRIES:
                    raise self._gone(index, error) from error
                logger.warning("%s %d cannot be reached: %s is called again", self._role.name, index, method)
                time.sleep(UNREACHABLE_POLL_S)
                reference = self.submit(method, *arguments, replica=index)
                try:
                    self.wait_any([reference], f"{method}, called again", long=long)
                finally:
                    self.forget([reference])
            except RayActorError as error:
                raise self._gone(index, error) from error

    def _restarts_of(self, index: int) -> int:
        return int(self._facts(index).get("NumRestarts", 0))

    def _gone(self, index: int, error: RayError) -> RuntimeError:
        return RuntimeError(
            f"{self._role.name} {index} is gone ({MAX_TASK_RETRIES} retries of a call, {MAX_RESTARTS} restarts): "
            f"{str(error).strip().splitlines()[0]}\nend of {self._logs[index]}:\n{self._log_tail(index)}"
        )

    def results(self, references: Sequence[Any], what: str, *, long: bool = False) -> list[Any]:
        """What all calls returned, in the order of the references; raises like :meth:`wait_any` and :meth:`result`."""
        waiting = list(references)
        done = {}
        while waiting:
            reference = self.wait_any(waiting, what, long=long)
            waiting.remove(reference)
            done[reference] = self.result(reference, long=long)
        return [done[reference] for reference in references]

    def everywhere(self, method: str, *arguments: Any, what: str) -> list[Any]:
        """Call all replicas and return their answers in order."""
        return self.results([self.submit(method, *arguments, replica=i) for i in range(len(self))], what)

    def forget(self, references: Sequence[Any]) -> None:
        """Stop counting these calls as unfinished."""
        for reference in references:
            self._load[self._replica_of.pop(reference)] -= 1
            del self._calls[reference]

    def forget_all(self) -> None:
        """Stop counting any call as unfinished."""
        self.forget(list(self._calls))

    def processes(self) -> list[Process]:
        """The processes, in order of their index; waits for those that are (re)starting.

        Raises:
            RuntimeError: a replica is gone.
            TimeoutError: one has not started within the deadline.
        """
        until = time.monotonic() + self._deadline_s
        for index in range(len(self)):
            while (state := self._facts(index).get("State", "not registered")) != "ALIVE":
                if state == "DEAD":
                    raise RuntimeError(
                        f"{self._role.name} {index} is gone; end of {self._logs[index]}:\n{self._log_tail(index)}"
                    )
                if time.monotonic() > until:
                    raise TimeoutError(
                        f"{self._role.name} {index}: {state} for {self._deadline_s:.0f} s; log: {self._logs[index]}"
                    )
                time.sleep(START_POLL_S)
        facts = [self._facts(i) for i in range(len(self))]
        self._log_restarts([int(f["NumRestarts"]) for f in facts])
        return [
            Process(self._role.name, i, f["ActorID"], int(f["Pid"]), f["Address"]["NodeID"], int(f["NumRestarts"]))
            for i, f in enumerate(facts)
        ]

    def _log_restarts(self, restarts: Sequence[int]) -> None:
        """Log, for each replica restarted since the last call, the messages of its process before it died."""
        for index, (count, before) in enumerate(zip(restarts, self._restarts, strict=True)):
            if count > before:
                log = self._log(index)
                words = last_words(log) or "(none: killed from outside, or by the system for want of memory)"
                logger.warning(
                    "%s %d died and was started again, restart %d; what it said before, in %s:\n%s",
                    self._role.name,
                    index,
                    count,
                    self._logs[index],
                    words if log else NO_LOG,
                )
        self._restarts = list(restarts)

    def _facts(self, index: int) -> dict[str, Any]:
        # Without its dashboard, Ray shows process ids and restarts only here.
        facts: dict[str, Any] = ray._private.state.actors(actor_id=self._actors[index]._actor_id.hex())
        return facts

    def close(self) -> None:
        """End all processes, and wait until those on this machine are gone."""
        here = ray.get_runtime_context().get_node_id()
        facts = [self._facts(i) for i in range(len(self))]
        alive = [f for f in facts if f.get("State") == "ALIVE" and f["Address"]["NodeID"] == here]
        ending = running([int(f["Pid"]) for f in alive])
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        wait_for_end(ending, self._role.name)

    def _log(self, index: int) -> list[str]:
        if not self._logs[index].is_file():
            return []
        return self._logs[index].read_text(encoding="utf-8", errors="replace").splitlines()

    def _log_tail(self, index: int) -> str:
        return "\n".join(self._log(index)[-LOG_TAIL_LINES:]) or NO_LOG


def last_words(log: Sequence[str]) -> str:
    """The warnings and errors, and the lines after them, of the last but one process in a replica's log.

    Args:
        log: lines of all its processes, each of which begins with :data:`STARTED`.
    """
    starts = [i for i, line in enumerate(log) if STARTED.search(line)]
    of_one = log[starts[-2] : starts[-1]] if len(starts) > 1 else log
    bad = next((i for i, line in enumerate(of_one) if SEVERE.search(line)), len(of_one))
    return "\n".join(of_one[bad:][-LOG_TAIL_LINES:])


def _shown(resources: Mapping[str, float]) -> str:
    """CPUs and GPUs as text for people."""
    return f"{resources.get('CPU', 0.0):g} CPUs, {resources.get('GPU', 0.0):g} GPUs"
