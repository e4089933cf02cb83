"""The generation pool: actors that each hold an engine and are kept from round to round."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from actors.engines.base import Engine, EngineSettings, Probe, Request
from actors.engines.registry import ENGINES
from actors.file_transfer import SHARED_DISK, Files
from actors.placement.role import Role
from actors.pool import DEADLINE_S, EndsProcess, Pool, Replica
from scpl_ray.config import Experiment
from scpl_ray.models.tokens import decode, encode_prompt, load_tokenizer
from scpl_ray.protocols import Process
from scpl_ray.records import Completion, Query, Weights
from scpl_ray.seeds import derive_seed

logger = logging.getLogger(__name__)

DEPENDS_ON = (
    "model",
    # A tiny model's vocabulary comes from the task, and a running engine can reload only models of the same shape.
    *("task.name", "task.data", "task.fields", "groups.names", "task.max_prompt_tokens"),
    *("generation.engine", "generation.tensor_parallel", "generation.max_new_tokens"),
    *("generation.temperature", "generation.top_p", "generation.refresh"),
)
"""Sections and keys that the engines are started with: runs with equal values can share the engines."""
CHUNKS_IN_FLIGHT = 2
"""Per engine: the next chunk waits in the actor's own queue, so that an engine never waits for the driver."""


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Work for one engine: the completions of some queries."""

    run_seed: int
    purpose: str
    queries: tuple[tuple[str, str, int], ...]
    """Query id, prompt, number of completions."""


class GenerationActor(Replica):
    """One engine.

    Every call names the weights that it needs. An engine that serves other weights, or none because its process was
    restarted, loads them first.
    """

    def __init__(self, log_file: Path, engine: type[Engine], settings: EngineSettings, files: Files) -> None:
        super().__init__(log_file)
        self._settings = settings
        self._files = files
        self._engine = engine(settings)
        self._served: Weights | None = None
        self._tokenizer: Any = None

    def refresh(self, weights: Weights) -> Probe:
        """Load these weights, even if they are served already, and answer the probe prompt."""
        self._load(weights)
        return self._engine.probe()

    def generate(self, weights: Weights, chunk: Chunk) -> list[Completion]:
        """All completions of a chunk, in the order of its queries and their samples."""
        if self._served != weights or self._engine.asleep:
            self._load(weights)
        numbered = []
        requests = []
        cut = 0
        for query_id, prompt, samples in chunk.queries:
            whole = encode_prompt(self._tokenizer, prompt, self._settings.max_prompt_tokens + 1)
            ids = whole[: self._settings.max_prompt_tokens]
            cut += len(whole) > len(ids)
            for i in range(samples):
                seed = derive_seed(chunk.run_seed, "generation", chunk.purpose, query_id, i)
                numbered.append((query_id, i))
                requests.append(Request(ids, seed))
        if cut:
            logger.warning(
                "%d of %d prompts were cut to task.max_prompt_tokens = %d",
                cut,
                len(chunk.queries),
                self._settings.max_prompt_tokens,
            )
        with EndsProcess():
            sampled = self._engine.generate(requests)
        return [
            Completion(
                completion_id=f"{query_id}-s{i}",
                query_id=query_id,
                sample_index=i,
                policy_version=weights.policy_version,
                seed=request.seed,
                prompt_token_ids=request.prompt_token_ids,
                token_ids=one.token_ids,
                text=decode(self._tokenizer, one.token_ids),
                finish_reason=one.finish_reason,
                log_probability=one.log_probability,
            )
            for (query_id, i), request, one in zip(numbered, requests, sampled, strict=True)
        ]

    def sleep(self) -> None:
        """Give GPU memory back until weights are loaded again."""
        with EndsProcess():
            self._engine.sleep()

    def _load(self, weights: Weights) -> None:
        here = self._files.weights(weights)
        self._engine.check(here)
        self._tokenizer = load_tokenizer(here.model, trust_remote_code=self._settings.trust_remote_code)
        with EndsProcess(ValueError):
            self._engine.load(here)
        self._served = weights


class RayGenerator:
    """:class:`scpl_ray.protocols.Generator` on Ray.

    The constructor returns at once, while the processes still start and import.

    Args:
        experiment: the config.
        role: how many engines, and what each reserves.
        logs: folder of the engines' log files.
        files: how engines read the driver's files.
        deadline_s: longest time without any answer.
        places: Ray's scheduling strategy for each engine; if empty, they are spread over the nodes.
    """

    def __init__(
        self,
        experiment: Experiment,
        role: Role,
        logs: Path,
        files: Files = SHARED_DISK,
        *,
        deadline_s: float = DEADLINE_S,
        places: Sequence[Any] = (),
    ) -> None:
        kind = ENGINES[experiment.generation.engine]
        self.begin(experiment)
        self._settings = EngineSettings.of(experiment, role.gpus, memory_share=role.memory_share, sleeps=role.sleeps)
        self._pool = Pool(
            GenerationActor,
            role,
            (kind.load(), self._settings, files),
            environment=kind.environment(role.gpus),
            logs=logs,
            deadline_s=deadline_s,
            places=places,
        )
        self._weights: Weights | None = None
        self._probe: Probe | None = None

    def begin(self, experiment: Experiment) -> None:
        """Work for this run from now on; it must ask for the same engines."""
        self._chunk_size = experiment.generation.prompts_per_chunk
        self._run_seed = experiment.seed

    def refresh(self, weights: Weights) -> None:
        """Serve these weights from now on, on every replica, starting with empty prefix caches.

        Raises:
            ValueError: these weights cannot be served.
            RuntimeError: the replicas disagree on a probe prompt, a prefix cache is stale, or new weights left the
                probe's log-probabilities unchanged.
            TimeoutError: no engine answered within the deadline.
        """
        weights = weights.absolute()
        probes: list[Probe] = self._pool.everywhere(
            "refresh", weights, what=f"loading policy version {weights.policy_version}"
        )
        for index, probe in enumerate(probes):
            if not probe.agrees(probes[0], self._settings.tolerance):
                raise RuntimeError(
                    f"engines 0 and {index} disagree after loading {weights}: to the probe prompt one answers "
                    f"{probes[0]}, the other {probe}"
                )
        changed = self._weights is not None and self._weights.policy_version != weights.policy_version
        if changed and probes[0] == self._probe:
            raise RuntimeError(
                f"policy versions {self._weights.policy_version if self._weights else None} and "
                f"{weights.policy_version} answer the probe prompt alike, {probes[0]}: the new weights in {weights} "
                "are the old ones, or were not loaded"
            )
        self._weights, self._probe = weights, probes[0]

    def sleep(self) -> None:
        """Give GPU memory back to others until :meth:`refresh`.

        Engines that have their own GPUs, or none, have nothing to give back, and no call is sent.

        Raises:
            RuntimeError: an engine died too often.
            TimeoutError: no engine answered within the deadline.
        """
        if self._settings.sleeps:
            self._pool.everywhere("sleep", what="falling asleep")

    def stream(self, queries: Sequence[Query], *, samples: Sequence[int], purpose: str) -> Iterator[list[Completion]]:
        """Yield ``samples[i]`` completions of ``queries[i]``, one chunk of queries at a time, in any order.

        Raises:
            RuntimeError: there are no weights yet, or an engine died too often.
            TimeoutError: no engine answered within the deadline.
            ValueError: a prompt has no tokens, or the numbers of queries and samples differ.
        """
        if self._weights is None:
            raise RuntimeError("no weights are served yet; call refresh first")
        wanted = [(q.query_id, q.prompt, n) for q, n in zip(queries, samples, strict=True) if n > 0]
        size = self._chunk_size
        cut = [tuple(wanted[i : i + size]) for i in range(0, len(wanted), size)]
        waiting = [Chunk(self._run_seed, purpose, of_one) for of_one in reversed(cut)]
        running: list[Any] = []
        done, total = 0, len(waiting)
        try:
            while waiting or running:
                while waiting and self._pool.least_load < CHUNKS_IN_FLIGHT:
                    running.append(self._pool.submit("generate", self._weights, waiting.pop()))
                what = f"generation for {purpose}, {done} of {total} chunks done"
                reference = self._pool.wait_any(running, what)
                running.remove(reference)
                completions: list[Completion] = self._pool.result(reference)
                done += 1
                yield completions
        finally:
            self._pool.forget(running)

    @property
    def sampling_bound(self) -> float:
        """See :attr:`scpl_ray.protocols.Engines.sampling_bound`."""
        return self._settings.sampling_bound

    @property
    def unfinished(self) -> int:
        """Calls that the engines have not finished."""
        return self._pool.unfinished

    def processes(self) -> list[Process]:
        """The engines' processes."""
        return self._pool.processes()

    def close(self) -> None:
        """End the engines."""
        self._pool.close()
