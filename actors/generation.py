"""The generation pool: actors that each hold an engine and are kept from round to round."""

from __future__ import annotations

import dataclasses
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from actors.engines import gpu_memory
from actors.engines.base import MAX_SEQUENCES, Engine, EngineSettings, Probe, Request
from actors.engines.proof import Checksums, Loaded, check
from actors.engines.registry import ENGINES
from actors.engines.thread import EngineThread
from actors.file_transfer import SHARED_DISK, Files
from actors.placement.role import Role
from actors.pool import DEADLINE_S, EndsProcess, Pool, Replica
from scpl_ray.config import Experiment
from scpl_ray.models.tokens import decode_all, encode_prompts, load_tokenizer
from scpl_ray.protocols import Process
from scpl_ray.records import Completion, Query, Weights
from scpl_ray.seeds import derive_seed

logger = logging.getLogger(__name__)

DEPENDS_ON = (
    "model",
    # A tiny model's vocabulary comes from the task, and a running engine can reload only models of the same shape.
    *("task.name", "task.data", "task.fields", "groups.names", "task.max_prompt_tokens"),
    *("generation.engine", "generation.tensor_parallel", "generation.max_new_tokens"),
    *("generation.temperature", "generation.top_p", "generation.refresh", "generation.max_sequences"),
)
"""Sections and keys that the engines are started with: runs with equal values can share the engines."""
AHEAD = 2
"""An engine has this many times as many sequences before it as it writes at the same time."""
SEQUENCES_PER_CALL = (8, 256)
"""Fewest and most sequences of one call. Few, so that finished ones leave soon; but an engine's thread waits for the
threads of its calls, which hold Python's lock: 2,048 sequences in one call took a tenth less than in 32."""
CALLS_PER_ENGINE = 8
"""Number of calls of an engine that a phase is cut into where that keeps their sizes, so that engines end together."""
SEQUENCES_ALONE = 64
"""Most sequences of a call where each call is written by itself."""
MAX_CALLS = 64
"""Most calls that an engine works on at the same time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Chunk:
    """Work for one engine: some completions of some queries."""

    run_seed: int
    purpose: str
    queries: tuple[tuple[str, str, int], ...]
    """Query id, prompt, number of completions."""
    first_sample: int = 0
    """Index of the first query's first completion; those of the other queries begin at 0."""


def chunks(run_seed: int, purpose: str, wanted: Sequence[tuple[str, str, int]], size: int) -> Iterator[Chunk]:
    """Cut work into chunks of ``size`` completions; the last one may be smaller.

    Args:
        run_seed: seed of the run.
        purpose: what the completions are for.
        wanted: query id, prompt and number of completions, at least 1.
        size: number of completions of a chunk.
    """
    taken: list[tuple[str, str, int]] = []
    room, first = size, 0
    for query_id, prompt, samples in wanted:
        begin = 0
        while begin < samples:
            if not taken:
                first = begin
            count = min(room, samples - begin)
            taken.append((query_id, prompt, count))
            begin, room = begin + count, room - count
            if not room:
                yield Chunk(run_seed, purpose, tuple(taken), first)
                taken, room = [], size
    if taken:
        yield Chunk(run_seed, purpose, tuple(taken), first)


def sequences_per_call(total: int, engines: int) -> int:
    """How many sequences a call has if a phase has ``total`` of them for so many engines."""
    fewest, most = SEQUENCES_PER_CALL
    return min(most, max(fewest, -(-total // (CALLS_PER_ENGINE * engines))))


def sequences_alone(total: int) -> int:
    """How many sequences a call has where each is written by itself: as many whatever the number of engines.

    The number of calls is even, so that two engines end together.
    """
    calls = 2 * -(-total // (2 * SEQUENCES_ALONE))
    return -(-total // calls) if total else SEQUENCES_ALONE


class GenerationActor(Replica):
    """One engine, which several calls share.

    Every call names the weights that it needs. An engine that serves other weights, or none because its process was
    restarted, loads them first. Prompts become tokens and tokens text in the threads of the calls.
    """

    def __init__(self, log_file: Path, engine: type[Engine], settings: EngineSettings, files: Files) -> None:
        super().__init__(log_file)
        self._settings = settings
        self._files = files
        self._engine = engine(settings)
        self._thread = EngineThread(self._engine, together=settings.together)
        self._checksums = Checksums()
        self._served: Weights | None = None
        self._lock = threading.Lock()
        """Of the tokenizer, which only one thread may use at a time."""
        self._tokenizer: tuple[Path, Any] | None = None

    def refresh(self, weights: Weights) -> Loaded:
        """Load these weights, even if they are served already, and answer the probe prompt."""

        def load() -> Loaded:
            with ThreadPoolExecutor(1) as beside:
                # The disk's pages are read once for both.
                checksum = beside.submit(self._checksum, weights)
                self._load(weights)
            return Loaded(checksum.result(), self._engine.probe(), self._engine.max_sequences)

        return self._thread.alone(load)

    def probe(self, weights: Weights) -> Probe:
        """Answer the probe prompt."""

        def answer() -> Probe:
            if not self._serves(weights):
                self._load(weights)
            return self._engine.probe()

        return self._thread.alone(answer)

    def generate(self, weights: Weights, chunk: Chunk) -> list[Completion]:
        """All completions of a chunk, in the order of its queries and their samples."""
        with self._lock:
            tokenizer = self._tokenizer_of(weights)
            numbered, requests = self._requests(tokenizer, chunk)
        sampled = self._thread.write(
            requests,
            is_ready=lambda: self._serves(weights),
            make_ready=lambda: self._load(weights),
        )
        with self._lock:
            texts = decode_all(tokenizer, [one.token_ids for one in sampled])
        return [
            Completion(
                completion_id=f"{query_id}-s{i}",
                query_id=query_id,
                sample_index=i,
                policy_version=weights.policy_version,
                seed=request.seed,
                prompt_token_ids=request.prompt_token_ids,
                token_ids=one.token_ids,
                text=text,
                finish_reason=one.finish_reason,
                log_probability=one.log_probability,
            )
            for (query_id, i), request, one, text in zip(numbered, requests, sampled, texts, strict=True)
        ]

    def sleep(self) -> None:
        """Give GPU memory back until weights are loaded again."""

        def sleep() -> None:
            with EndsProcess():
                self._engine.sleep()

        self._thread.alone(sleep)

    def _requests(self, tokenizer: Any, chunk: Chunk) -> tuple[list[tuple[str, int]], list[Request]]:
        numbered = []
        requests = []
        cut = 0
        prompts = [prompt for _, prompt, _ in chunk.queries]
        encoded = encode_prompts(tokenizer, prompts, self._settings.max_prompt_tokens + 1)
        for number, ((query_id, _, samples), whole) in enumerate(zip(chunk.queries, encoded, strict=True)):
            ids = whole[: self._settings.max_prompt_tokens]
            cut += len(whole) > len(ids)
            first = 0 if number else chunk.first_sample
            for i in range(first, first + samples):
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
        return numbered, requests

    def _tokenizer_of(self, weights: Weights) -> Any:
        if self._tokenizer is None or self._tokenizer[0] != weights.model:
            here = self._files.weights(weights).model
            trust = self._settings.trust_remote_code
            self._tokenizer = (weights.model, load_tokenizer(here, trust_remote_code=trust))
        return self._tokenizer[1]

    def _serves(self, weights: Weights) -> bool:
        return self._served == weights and not self._engine.asleep

    def _checksum(self, weights: Weights) -> str:
        return self._checksums.of(self._files.weights(weights), adapter=self._settings.adapter_rank is not None)

    def _load(self, weights: Weights) -> None:
        here = self._files.weights(weights)
        self._engine.check(here)
        try:
            with EndsProcess(ValueError, ImportError, gpu_memory.NoRoomError):
                self._engine.load(here)
        except ImportError as error:
            logger.exception("the engine cannot be loaded")
            raise RuntimeError(
                f"engine on {socket.gethostname()}: {error}; a new process would lack the same; `scpl doctor --gpu` "
                "there tries what engines need"
            ) from error
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
        devices: the GPUs of each engine, where each shares several; see
            :meth:`actors.placement.reservation.Reservation.devices`.
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
        devices: Sequence[str] = (),
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
            concurrency=MAX_CALLS,
            places=places,
            devices=devices,
        )
        self._weights: Weights | None = None
        self._loaded: Loaded | None = None
        self._max_sequences = MAX_SEQUENCES

    def begin(self, experiment: Experiment) -> None:
        """Work for this run from now on; it must ask for the same engines."""
        self._run_seed = experiment.seed

    def refresh(self, weights: Weights) -> None:
        """Serve these weights from now on, on every replica, starting with empty prefix caches.

        Raises:
            ValueError: these weights cannot be served.
            RuntimeError: the replicas read different weights or the old ones, or answer the probe prompt as if; see
                :func:`actors.engines.proof.check`; or others hold the GPU memory that one needs to wake.
            TimeoutError: no engine answered within the deadline.
        """
        weights = weights.absolute()
        loaded: list[Loaded] = self._pool.everywhere(
            "refresh", weights, what=f"loading policy version {weights.policy_version}"
        )
        before = (self._weights, self._loaded) if self._weights and self._loaded else None

        def ask(index: int) -> Probe:
            call = self._pool.submit("probe", weights, replica=index)
            answer: Probe = self._pool.results([call], "asking the probe prompt again")[0]
            return answer

        check(loaded, weights, before, tolerance=self._settings.tolerance, ask=ask)
        self._weights, self._loaded = weights, loaded[0]
        self._max_sequences = max(one.max_sequences for one in loaded)

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
        """Yield ``samples[i]`` completions of ``queries[i]``, some at a time as they are finished, in any order.

        Every engine has at least :data:`AHEAD` times as many sequences before it as it writes at the same time, as long
        as there are as many.

        Raises:
            RuntimeError: there are no weights yet, or an engine died too often.
            TimeoutError: no engine answered within the deadline.
            ValueError: a prompt has no tokens, or the numbers of queries and samples differ.
        """
        if self._weights is None:
            raise RuntimeError("no weights are served yet; call refresh first")
        wanted = [(q.query_id, q.prompt, n) for q, n in zip(queries, samples, strict=True) if n > 0]
        total = sum(n for _, _, n in wanted)
        together = self._settings.together
        size = sequences_per_call(total, len(self._pool)) if together else sequences_alone(total)
        # One call more, because the place of a finished one is empty for a moment.
        calls = min(MAX_CALLS, -(-AHEAD * self._max_sequences // size) + 1)
        waiting = list(chunks(self._run_seed, purpose, wanted, size))[::-1]
        running: list[Any] = []
        done = 0
        try:
            while waiting or running:
                while waiting and self._pool.least_load < calls:
                    running.append(self._pool.submit("generate", self._weights, waiting.pop()))
                what = f"generation for {purpose}, {done:,} of {total:,} completions done"
                reference = self._pool.wait_any(running, what)
                running.remove(reference)
                completions: list[Completion] = self._pool.result(reference)
                done += len(completions)
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
