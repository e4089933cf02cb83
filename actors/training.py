"""Ray Train + DeepSpeed: training phases, run by workers that live for one round or for the whole run.

Both lifetimes use one mechanism. A Ray Train run starts workers that wait for jobs at a mailbox (an actor). With
``training.worker_lifetime: round`` the run is sent one job and then ended; with ``run`` it is sent all jobs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray

from actors.file_transfer import SHARED_DISK, Files, beside
from actors.processes import running, wait_for_end
from actors.training_mailbox import LONG_POLL_S, Mailbox, News
from scpl_ray.config import Model, Training
from scpl_ray.credentials import MaskedLog
from scpl_ray.protocols import Process, TrainingError, TrainingJob, TrainingResult

logger = logging.getLogger(__name__)

DEPENDS_ON = ("model", "training")
"""Sections that the workers are started with: runs with equal values can share the workers."""
PROGRESS_S = 30.0
CLOSE_S = 20.0
RAY_TRAIN_SETTINGS = {
    # How often the controller looks at its workers; the end of a run waits for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}
"""Ray Train reads these from the environment of the process that calls it, and from nowhere else."""


def serve(config: Mapping[str, Any]) -> None:
    """The train loop of Ray Train: what each worker process runs."""
    import ray.train
    import torch
    import transformers

    context = ray.train.get_context()
    rank = context.get_world_rank()
    Path(config["folder"]).mkdir(parents=True, exist_ok=True)
    log = logging.StreamHandler(MaskedLog(Path(config["folder"]) / f"{config['name']}-worker{rank}.log"))
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(log)
    logging.getLogger("scpl_ray").setLevel(logging.INFO)
    transformers.utils.logging.disable_progress_bar()
    # DeepSpeed calls functions that torch has renamed, once per bucket and step.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")

    if torch.cuda.is_available():
        # DeepSpeed takes the GPU of this number. Ray has chosen one already, by its place among the node's GPUs, which
        # it orders as text (0, 1, 10, 2) where it orders local ranks as numbers.
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())

    from scpl_ray.training.worker import Worker

    worker = Worker(config["training"], config["model"], threads=config["threads"])
    mailbox, files = config["mailbox"], config["files"]
    runtime = ray.get_runtime_context()
    process = Process(
        role="training worker",
        index=rank,
        actor_id=runtime.get_actor_id(),
        pid=os.getpid(),
        node=runtime.get_node_id(),
        restarts=config["restarts"],
    )
    ray.get(mailbox.enter.remote(process, runtime.current_actor), timeout=60)

    def report(step: int, steps: int) -> None:
        if rank == 0:
            mailbox.progress.remote(step, steps)

    done = 0
    while True:
        order = ray.get(mailbox.next_order.remote(done), timeout=LONG_POLL_S + 60)
        if order is None:
            continue
        if order.job is None:
            return
        try:
            # only worker 0 writes files
            with files.output(order.job.output) if rank == 0 else contextlib.nullcontext() as output:
                result = worker.run(_on_this_node(order.job, files, output), report)
        except (ValueError, TrainingError) as error:
            logger.exception("round %d: refused", order.job.round)
            ray.get(mailbox.refuse.remote(error), timeout=60)
            raise
        if rank == 0:
            ray.get(mailbox.finish.remote(result), timeout=60)
        done = order.number


class _WorkersLostError(RuntimeError):
    """The workers of a Ray Train run are gone, for a reason that need not recur."""


class _Run:
    """One Ray Train run, in a background thread."""

    def __init__(
        self,
        name: str,
        *,
        folder: Path,
        workers: int,
        resources: dict[str, float],
        config: dict[str, Any],
        places: Sequence[Any],
        nodes: Sequence[str],
    ):
        self.name = name
        self._logs = folder / f"{name}-worker*.log"
        self._workers, self._resources, self._places, self._nodes = workers, resources, places, nodes
        self._mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=beside()).remote()
        self._error: Exception | None = None
        self._idle = True
        config = {**config, "name": name, "folder": str(folder), "mailbox": self._mailbox}
        self._thread = threading.Thread(target=self._fit, args=(folder, config), name=name, daemon=True)
        self._thread.start()

    def _fit(self, folder: Path, config: dict[str, Any]) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        from actors.reserved_training import Trainer

        gpu = self._resources.get("GPU", 0) > 0
        try:
            trainer = Trainer(
                serve,
                places=self._places,
                train_loop_config=config,
                torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
                scaling_config=ScalingConfig(
                    num_workers=self._workers,
                    use_gpu=gpu,
                    resources_per_worker=self._resources,
                    placement_strategy="SPREAD",
                    label_selector=where([facts["NodeID"] for facts in ray.nodes() if facts["Alive"]], self._nodes),
                ),
                # Ray Train silently resumes a run of the same name, by default retries a broken controller for ever,
                # and would restart workers without their job. Therefore whole runs are repeated here instead.
                run_config=RunConfig(
                    name=self.name,
                    storage_path=str(folder),
                    failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
                ),
            )
            trainer.fit()
        except Exception as error:
            # this thread has no caller, so the error is kept for the code that waits for the workers
            logger.info("%s ended", self.name, exc_info=True)
            self._error = error

    @property
    def alive(self) -> bool:
        """Whether the run has not ended yet."""
        return self._thread.is_alive()

    def _ask(self, call: Any, *arguments: Any) -> Any:
        """Call the mailbox, which stays alive after the run has ended."""
        try:
            return ray.get(call.remote(*arguments), timeout=LONG_POLL_S + 60)
        except ray.exceptions.RayError as error:
            raise _WorkersLostError(f"the mailbox of {self.name} ended: {error}; logs: {self._logs}") from error

    def train(self, job: TrainingJob, startup_deadline_s: float, stall_deadline_s: float) -> TrainingResult:
        """Run one job; see :meth:`RayTrainer.train`."""
        asked = changed = logged = time.monotonic()
        self._idle = False
        self._ask(self._mailbox.post, job)
        startup: float | None = None
        seen = -1
        while True:
            alive = self.alive
            news: News = self._ask(self._mailbox.news, seen, 1.0)
            now = time.monotonic()
            if news.change > seen:
                seen, changed = news.change, now
            if news.refusal is not None:
                raise news.refusal
            if startup is None and news.step >= 0:
                startup = now - asked
            if startup is not None and news.result is not None:
                self._idle = True
                return dataclasses.replace(news.result, startup_seconds=startup)
            if not alive:
                raise _WorkersLostError(f"the training workers of {self.name} ended: {self._error}; logs: {self._logs}")
            up = len(news.processes)
            if up < self._workers:
                where, deadline = f"{up} of {self._workers} training workers are up", startup_deadline_s
            else:
                where, deadline = f"training step {max(news.step, 0)} of {news.steps or '?'}", stall_deadline_s
            if now - changed > deadline:
                raise TimeoutError(
                    f"round {job.round}: {where}, and nothing happened for {deadline:.0f} s; a worker needs "
                    f"{self._resources}, free are {ray.available_resources()}; logs: {self._logs}"
                )
            if now - logged > PROGRESS_S:
                logger.info("round %d: %s, after %.0f s", job.round, where, now - asked)
                logged = now

    def processes(self) -> list[Process]:
        """The workers that are running."""
        news: News = self._ask(self._mailbox.news, -1, 0.0)
        return list(news.processes)

    def close(self) -> None:
        """End all its processes: waiting workers are told to end, busy ones are killed.

        Workers on this machine are gone afterwards, so that their memory is free; on others an engine waits for it.
        """
        here = ray.get_runtime_context().get_node_id()
        ending: list[psutil.Process] = []
        try:
            ending = running(process.pid for process in self.processes() if process.node == here)
            if self._idle:
                self._ask(self._mailbox.post, None)
                self._thread.join(CLOSE_S)
            for actor in self._ask(self._mailbox.actors):
                ray.kill(actor)
            self._thread.join(CLOSE_S)
        except _WorkersLostError as error:
            logger.debug("%s", error)
        if self.alive:
            logger.warning("Ray Train run %s did not end within %.0f s", self.name, CLOSE_S)
        wait_for_end(ending, "training worker")
        ray.kill(self._mailbox)


def where(alive: Collection[str], nodes: Sequence[str]) -> list[dict[str, str]] | None:
    """Ray Train's label selector for each worker: its own node as long as that is alive; ``None``: any.

    Args:
        alive: Ray's ids of the nodes that are there.
        nodes: that of each worker's node; empty: any.
    """
    return [{ray._raylet.RAY_NODE_ID_KEY: node} if node in alive else {} for node in nodes] or None


def _on_this_node(job: TrainingJob, files: Files, output: Path | None) -> TrainingJob:
    """The job with paths on the worker's own node."""
    start = job.start
    if start.policy_version and start.adapter is None:
        # with its float32 weights, which are beside the ones that are served
        start = dataclasses.replace(start, model=files.here(start.model.parent) / start.model.name)
    else:
        start = files.weights(start)
    return dataclasses.replace(
        job,
        base=files.here(job.base),
        start=start,
        dataset=files.here(job.dataset),
        output=output or job.output,
    )


def _absolute(job: TrainingJob) -> TrainingJob:
    """The job with absolute paths, because workers run in a different working directory."""
    return dataclasses.replace(
        job,
        base=job.base.absolute(),
        start=job.start.absolute(),
        dataset=job.dataset.absolute(),
        output=job.output.absolute(),
    )


class RayTrainer:
    """:class:`scpl_ray.protocols.Trainer` on Ray Train V2."""

    def __init__(
        self,
        training: Training,
        model: Model,
        *,
        folder: Path,
        resources_per_worker: Mapping[str, float],
        threads_per_worker: int = 1,
        files: Files = SHARED_DISK,
        attempts: int = 3,
        startup_deadline_s: float = 180.0,
        stall_deadline_s: float = 1800.0,
        places: Sequence[Any] = (),
        nodes: Sequence[str] = (),
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is started yet.

        Args:
            training: the ``training`` section.
            model: the ``model`` section.
            folder: for Ray Train's state and the workers' logs; each node has its own if the disk is not shared.
            resources_per_worker: logical ``CPU`` and ``GPU``; fractions are allowed.
            threads_per_worker: CPU threads of a worker.
            files: how workers read and write the driver's files.
            attempts: how often a job is started before the loss of workers is an error.
            startup_deadline_s: longest wait for the next worker to come up.
            stall_deadline_s: longest wait for a step, or for weights to be loaded or saved.
            places: Ray's scheduling strategy for each worker, in one placement group; if empty, they are spread over
                the nodes.
            nodes: where there are no places, Ray's id of the node on which each worker runs, or elsewhere where that
                one is lost; if empty, any.
            make_room: called before a job: others leave the workers' GPUs.
        """
        self._training = training
        self._config = {"training": training, "model": model, "threads": threads_per_worker, "files": files}
        self._folder = folder.absolute()
        self._resources = {name: amount for name, amount in resources_per_worker.items() if amount > 0}
        self._places, self._nodes = list(places), list(nodes)
        self._make_room = make_room
        self._attempts = attempts
        self._deadlines = startup_deadline_s, stall_deadline_s
        self._token = uuid.uuid4().hex[:8]
        self._started = self._lost = 0
        self._run: _Run | None = None

    def prepare(self) -> None:
        """Begin to start the workers of the next job in the background, unless workers are waiting already."""
        self._waiting()

    def _waiting(self) -> _Run:
        if self._run is not None and self._run.alive:
            return self._run
        self.close()
        os.environ.update(RAY_TRAIN_SETTINGS, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=str(self._deadlines[0]))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._started += 1
        self._run = _Run(
            f"train-{self._token}-{self._started:03d}",
            folder=self._folder,
            workers=self._training.workers,
            resources=self._resources,
            config={**self._config, "restarts": self._lost},
            places=self._places,
            nodes=self._nodes,
        )
        return self._run

    def train(self, job: TrainingJob) -> TrainingResult:
        """Run one job; if workers die, it is repeated from its start, up to ``attempts`` attempts in all.

        Returns:
            The job's figures; ``startup_seconds`` is the time from this call to its first step.

        Raises:
            ValueError: the job asks for something impossible.
            TrainingError: its outcome is worthless.
            RuntimeError: workers died too often.
            TimeoutError: workers did not come up, or made no progress.
        """
        job = _absolute(job)
        self._make_room()
        lost: _WorkersLostError | None = None
        for attempt in range(1, self._attempts + 1):
            run = self._waiting()
            keep = False
            try:
                result = run.train(job, *self._deadlines)
                self._lost = 0
                keep = self._training.worker_lifetime == "run"
                return result
            except _WorkersLostError as error:
                lost = error
                self._lost += 1
                logger.warning("round %d: attempt %d of %d: %s", job.round, attempt, self._attempts, error)
            finally:
                if not keep:
                    self.close()
        raise RuntimeError(f"round {job.round}: gave up after {self._attempts} attempts: {lost}") from lost

    def processes(self) -> list[Process]:
        """The workers that are running."""
        return self._run.processes() if self._run is not None and self._run.alive else []

    def close(self) -> None:
        """End all processes."""
        run, self._run = self._run, None
        if run is not None:
            run.close()
