"""What the controller needs from the outside world.

Ray, vLLM and DeepSpeed stand behind these faces (package ``actors``); ``tests/support/fakes.py`` has others that run in
milliseconds. Every call is idempotent: it is a pure function of its arguments and of what is on disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from scpl_ray.records import Completion, Judgement, Manifest, Metric, Query, Score, Weights


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One pairwise choice of one user, for a Bradley-Terry reward model."""

    prompt: str
    chosen: str
    rejected: str
    group: str | None = None
    """The user's, where a reward model has an output per group."""


@dataclasses.dataclass(frozen=True, slots=True)
class DataReport:
    """How many rows became what."""

    source: str
    rows: int
    kept: int
    dropped: dict[str, int]
    """Rows left out, by reason."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()) if count)
        return f"{self.source}: {self.kept:,} of {self.rows:,} rows kept" + (
            f" (dropped: {reasons})" if reasons else ""
        )

    def without(self, count: int, reason: str) -> DataReport:
        """The same after so many more were left out."""
        if not count:
            return self
        dropped = {**self.dropped, reason: self.dropped.get(reason, 0) + count}
        return dataclasses.replace(self, kept=self.kept - count, dropped=dropped)


class Card(Protocol):
    """What is known of a judge's errors."""

    def summary(self) -> str:
        """One line to stand beside every share that the judge produced."""
        ...

    def table(self) -> list[dict[str, str | int | float]]:
        """One row per measurement, as plain values in the order they are to be shown."""
        ...

    def save(self, folder: Path) -> None:
        """Write ``card.json`` into an existing folder: its key ``table`` holds :meth:`table`."""
        ...


class Task(Protocol):
    """What the model is asked to write, and how it is judged. One file per task in ``scpl_ray/tasks``."""

    kinds: tuple[str, ...]
    """Kinds of text, one per group in the order of the groups: kind k is the one that group k prefers."""
    confusion: tuple[tuple[float, ...], ...] | None
    """The judge's known errors, P(judged j | true i), shape (K, K); ``None``: taken as without error."""
    judge_card: Card | None
    """The judge's errors as measured on text it has not seen; ``None``: it makes none."""
    data_report: DataReport | None
    """What became of the rows of ``task.data``; ``None`` where the task makes its own."""
    tokenizer: Path | None
    """Folder of the tokenizer that prompts were measured with, where it was made from the task's own text for a tiny
    model, which then keeps it; ``None``: a tiny model makes one from real examples."""

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        """New training queries, ``counts[group]`` of each: a function of the seed. Ids are ``<prefix>-q00000``..."""
        ...

    def group_prompts(self, per_group: int) -> list[Query]:
        """The fixed held-out evaluation prompts, equal in number per group."""
        ...

    def neutral_prompts(self, count: int) -> list[Query]:
        """Fixed held-out prompts that any group could have asked."""
        ...

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        """Real data: prompts and real answers; with one seed, a smaller ``count`` gives the first of a larger one."""
        ...

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        """Kind and quality of completions, given as (query, completion id, text), in order; no text sways another."""
        ...

    def choices(self, users: Sequence[str], *, seed: int) -> list[Choice]:
        """One pairwise choice per user, given by group; only needed where the reward model is the task's own."""
        ...

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        """The task's rule-based reward terms, by name, each in [0, 1]."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """A live process behind a pool."""

    role: str
    index: int
    actor_id: str
    pid: int
    node: str
    restarts: int
    """How often it died and was started again; of a training worker: how often its job lost its workers before."""


class Generator(Protocol):
    """The generation pool."""

    def refresh(self, weights: Weights) -> None:
        """Serve these weights from now on, on every replica, prefix caches empty.

        Raises:
            RuntimeError: the replicas disagree on a probe prompt, or new weights left its log-probabilities unchanged.
        """
        ...

    def sleep(self) -> None:
        """Give GPU memory back, where others share it, until :meth:`refresh`; no completion is asked for meanwhile."""
        ...

    def stream(self, queries: Sequence[Query], *, samples: Sequence[int], purpose: str) -> Iterator[list[Completion]]:
        """``samples[i]`` completions of ``queries[i]``: chunks of ``generation.prompts_per_chunk`` queries, any order.

        ``purpose`` enters the per-completion seeds, SHA-256 of (run seed, purpose, query id, sample index).
        """
        ...

    def processes(self) -> list[Process]: ...

    def close(self) -> None: ...


class Scorer(Protocol):
    """The reward-model scorer pool."""

    def fit(self, choices: Sequence[Choice], *, base: Path, output: Path, seed: int) -> dict[str, float]:
        """Train the task's own reward model (Bradley-Terry) into ``output``; returns its training figures."""
        ...

    def use(self, reward_model: Path | None) -> None:
        """Score with this reward model from now on; ``None``: rule terms only."""
        ...

    def submit(self, queries: Sequence[Query], completions: Sequence[Completion]) -> None:
        """Score one chunk in the background."""
        ...

    def collect(self) -> list[Score]:
        """Wait for all submitted chunks; scores in the order of submission."""
        ...

    def negative_log_likelihood(self, policy: Weights, completions: Sequence[Completion]) -> list[tuple[float, int]]:
        """Per completion: summed negative log-likelihood of its tokens given its prompt (nats), and their number."""
        ...

    def processes(self) -> list[Process]: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingJob:
    """One training phase."""

    round: int
    base: Path
    """Folder of the base model."""
    start: Weights
    """Where training starts: the base (``policy_version`` 0), or the last policy."""
    dataset: Path
    """Parquet file of :class:`~scpl_ray.records.Example` rows."""
    output: Path
    """Existing empty folder. Receives ``adapter/`` (LoRA) and, with ``merge`` or without LoRA, ``model/``."""
    merge: bool
    """Also write the merged model, for ``generation.refresh: reload``."""
    seed: int


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training phase did; a job without steps or without changed weights is an error."""

    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens with a loss, over all epochs and workers; of a pair both answers'."""
    first_loss: float
    """Mean loss of the first step: per token (nats), or per pair where the objective is DPO."""
    last_loss: float
    weight_change: float
    """L2 norm of the change of the trained weights over the L2 norm of where they started (or of 1, if that is 0)."""
    startup_seconds: float
    """Waiting for workers before the first step could begin."""
    last_figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """What else the objective measures, of the last step; DPO: ``reward_margin`` and ``reward_accuracy``."""


class TrainingError(RuntimeError):
    """Training ran, but its outcome is worthless: no step, unchanged, diverged or broken weights. Not worth a retry."""


class Trainer(Protocol):
    """Ray Train with DeepSpeed."""

    def prepare(self) -> None:
        """Begin to start the workers of the next job in the background, where none are waiting yet."""
        ...

    def train(self, job: TrainingJob) -> TrainingResult:
        """Run one job; a worker that dies costs a repetition from the job's start.

        Raises:
            ValueError: the job asks for something impossible.
            TrainingError: its outcome is worthless.
            RuntimeError: workers died too often.
            TimeoutError: workers did not start, or made no progress.
        """
        ...

    def processes(self) -> list[Process]: ...

    def close(self) -> None: ...


class Population(Protocol):
    """The feedback simulator: who asks what, and how that changes."""

    def shares(self) -> dict[str, float]: ...

    def draw(self, round_: int) -> list[Query]:
        """Queries of a round from the current shares."""
        ...

    def choices(self, round_: int, count: int) -> list[Choice]:
        """Pairwise choices of users drawn from the current shares (or balanced)."""
        ...

    def step(self, measured: Mapping[str, float]) -> None:
        """Move the shares by the feedback rule."""
        ...

    def state(self) -> dict[str, object]:
        """All there is to save, as JSON values."""
        ...

    def restore(self, state: Mapping[str, object]) -> None: ...


Encode = Callable[[Query, str], tuple[tuple[int, ...], tuple[int, ...]]]
"""Prompt and answer to token ids, end-of-sequence included: the one template of training, generation and scoring."""


class Progress(Protocol):
    """Where a run reports; the command line draws bars, tests listen."""

    def note(self, text: str) -> None:
        """A line for people."""
        ...

    def start(self, round_: int, phase: str, total: int) -> None:
        """A phase begins; ``total`` units of work, 0 where it cannot be counted."""
        ...

    def advance(self, phase: str, count: int) -> None:
        """Units done."""
        ...

    def generated(self, phase: str, chunk: Sequence[Completion]) -> None:
        """Units done, which are completions."""
        ...

    def done(self, manifest: Manifest) -> None:
        """A phase was committed."""
        ...

    def measured(self, round_: int, rows: Sequence[Metric]) -> None:
        """A round's metrics, read from disk or just measured."""
        ...


@dataclasses.dataclass(frozen=True)
class Engines:
    """The live processes that serve a run. They are caches of what is on disk."""

    generator: Generator
    scorer: Scorer
    trainer: Trainer
    population: Population
