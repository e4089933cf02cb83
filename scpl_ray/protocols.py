"""The interfaces through which the controller uses everything outside the loop itself.

The package ``actors`` implements them with Ray, vLLM and DeepSpeed; ``tests/support/fakes.py`` has implementations that
run in milliseconds. Every call is idempotent: it is a pure function of its arguments and of what is on disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar, runtime_checkable

from scpl_ray.records import Completion, Judgement, Manifest, Metric, Query, Score, Weights

Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One pairwise choice of one user, for a Bradley-Terry reward model."""

    prompt: str
    chosen: str
    rejected: str
    group: str | None = None
    """The user's group, where the reward model has one output per group."""


@dataclasses.dataclass(frozen=True, slots=True)
class DataReport:
    """How many rows of a data set were used, and how many were left out."""

    source: str
    rows: int
    kept: int
    dropped: dict[str, int]
    """Number of rows that were left out, by reason."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """The user's column by the task's field name, where there is one."""

    def __str__(self) -> str:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.dropped.items()) if count)
        return f"{self.source}: {self.kept:,} of {self.rows:,} rows used" + (
            f" (dropped: {reasons})" if reasons else ""
        )


class Card(Protocol):
    """What is known about a judge's errors."""

    def summary(self) -> str:
        """One line that is shown beside every share that the judge produced."""
        ...

    def table(self) -> list[dict[str, str | int | float]]:
        """One row per measurement, as plain values in the order in which they are shown."""
        ...

    def confusion_counts(self) -> tuple[tuple[int, ...], ...]:
        """How many texts of true kind i, unseen by the judge, it called j, shape (K, K): how sure its rates are."""
        ...

    def save(self, folder: Path) -> None:
        """Write ``card.json`` into an existing folder; its key ``table`` holds the rows of :meth:`table`."""
        ...


@runtime_checkable
class FittedCard(Protocol):
    """A card of a judge that was fitted on this machine, so that it can be told from one that is fitted anew."""

    @property
    def fitted_files(self) -> Mapping[str, str]:
        """SHA-256 of the files of the judge, by name; empty: not known."""
        ...


class Task(Protocol):
    """What the model is asked to write, and how its answers are judged. ``scpl_ray/tasks`` has one file per task."""

    kinds: tuple[str, ...]
    """Kinds of text, one per group in the order of the groups: kind k is the one that group k prefers."""
    confusion: tuple[tuple[float, ...], ...] | None
    """The judge's known errors, P(judged j | true i), shape (K, K); ``None``: the judge is taken to make no errors."""
    judge_card: Card | None
    """The judge's errors as measured on text that it has not seen; ``None``: the judge makes no errors."""
    data_report: DataReport | None
    """How the rows of ``task.data`` were used; ``None`` where the task generates its own data."""
    tokenizer: Path | None
    """Folder of the tokenizer with which prompt lengths were measured, where it was made from the task's own text for a
    tiny model; that model then uses it too. ``None``: a tiny model makes its tokenizer from real examples."""

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        """New training queries, ``counts[group]`` per group, a function of the seed; ids are ``<prefix>-q00000``..."""
        ...

    def group_prompts(self, per_group: int) -> list[Query]:
        """The fixed held-out evaluation prompts, equal in number per group.

        In each group fewer are the first ones of more, with the same ids: what steers selection is asked beside them.
        """
        ...

    def neutral_prompts(self, count: int) -> list[Query]:
        """Fixed held-out prompts that any group could have asked."""
        ...

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        """Real prompts with real answers; with one seed, a smaller ``count`` gives the first ones of a larger count.

        Where the task has fewer it repeats them; every query has an id of its own.
        """
        ...

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        """Judge the kind and quality of each (query, completion id, text), in order and independently of the others.

        The judgements of one group's queries have terms of the same names.
        """
        ...

    def choices(self, users: Sequence[str], *, seed: int) -> list[Choice]:
        """One pairwise choice per user, given by group; needed only if the reward model is the task's own."""
        ...

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        """The task's rule-based reward terms, by name, each in [0, 1]."""
        ...


@runtime_checkable
class ReadsTogether(Protocol):
    """A task whose rules read many texts in less time than one after another, because a model is among them."""

    def rule_terms_of(self, texts: Sequence[tuple[Query, str]]) -> list[dict[str, float]]:
        """As ``rule_terms`` of each (query, text), in order and independently of the others."""
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
    """How often it died and was restarted; for a training worker: how often its job lost its workers before."""


class Generator(Protocol):
    """The generation pool."""

    def refresh(self, weights: Weights) -> None:
        """Serve these weights from now on, on every replica, with empty prefix caches.

        Raises:
            RuntimeError: the replicas read different weights or the old ones, or answer a probe prompt as if.
        """
        ...

    def sleep(self) -> None:
        """Free GPU memory that others share, until :meth:`refresh`; no completions are requested in between."""
        ...

    def stream(self, queries: Sequence[Query], *, samples: Sequence[int], purpose: str) -> Iterator[list[Completion]]:
        """``samples[i]`` completions of ``queries[i]``, some at a time as they are finished, in any order.

        The seed of each completion is the SHA-256 of (run seed, ``purpose``, query id, sample index).
        """
        ...

    def processes(self) -> list[Process]: ...

    def close(self) -> None: ...


class Background(Protocol[Answer]):
    """Work on completions that goes on while others are still being written."""

    def submit(self, completions: Sequence[Completion]) -> None:
        """Begin with these."""
        ...

    def collect(self) -> dict[str, Answer]:
        """Wait for all that was submitted; returns the answers by completion id."""
        ...


class Scorer(Protocol):
    """The scorer pool: reward models, likelihoods, and the task's rule terms and judge."""

    def fit(self, choices: Sequence[Choice], *, base: Path, output: Path, seed: int) -> dict[str, float]:
        """Train the task's own reward model (Bradley-Terry) and save it in ``output``; returns training statistics."""
        ...

    def use(self, reward_model: Path | None) -> None:
        """Score with this reward model from now on; ``None``: score by the rule terms only."""
        ...

    def submit(self, queries: Sequence[Query], completions: Sequence[Completion]) -> None:
        """Score some of a round's completions in the background."""
        ...

    def collect(self) -> list[Score]:
        """Wait for all that was submitted; returns the scores in the order of submission."""
        ...

    def judging(self, queries: Sequence[Query]) -> Background[Judgement]:
        """The task's judge, for completions of these queries."""
        ...

    def likelihoods(self, policy: Weights) -> Background[tuple[float, int]]:
        """As :meth:`negative_log_likelihood`, in the background."""
        ...

    def negative_log_likelihood(self, policy: Weights, completions: Sequence[Completion]) -> list[tuple[float, int]]:
        """Per completion: its summed negative log-likelihood given its prompt (nats), and its number of tokens."""
        ...

    def benchmarks(self, policy: Weights, tasks: Sequence[str]) -> dict[str, float]:
        """What a policy scores on tasks of lm-evaluation-harness, by the name of the metric."""
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
    """Existing empty folder; it receives ``adapter/`` (LoRA) and, with ``merge`` or without LoRA, ``model/``."""
    merge: bool
    """Also write the merged model, for ``generation.refresh: reload``."""
    seed: int
    continued: bool = True
    """Whether a later job may start from what this one trains. Then ``master/`` is written beside ``model/``, its
    float32 weights, where ``model/`` holds rounded ones."""


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingResult:
    """The outcome of a training phase; a job that makes no step or leaves the weights unchanged is an error."""

    steps: int
    """Number of optimizer steps."""
    tokens: int
    """Number of tokens with a loss, over all epochs and workers; for a pair, those of both answers."""
    first_loss: float
    """Mean loss of the first step: per token (nats), or per pair where the objective is DPO."""
    last_loss: float
    weight_change: float
    """L2 norm of the change of the trained weights, divided by their L2 norm at the start (by 1 where that is 0)."""
    startup_seconds: float
    """Seconds spent waiting for the workers before the first step could begin."""
    step_seconds: float
    """Seconds that all steps took, without what comes before and after them: starting, merging, writing."""
    last_figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Other quantities of the objective in the last step; for DPO ``reward_margin`` and ``reward_accuracy``."""


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingStep:
    """One optimizer step, as ``training.callback`` is told of it."""

    round: int
    step: int
    """From 1."""
    steps: int
    """Steps of the round in all."""
    loss: float
    """Mean loss of the step over all workers, before its weights changed: per unit of the objective (nats)."""
    learning_rate: float
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Other quantities of the objective; for DPO ``reward_margin`` and ``reward_accuracy``."""


@dataclasses.dataclass(frozen=True, slots=True)
class RoundDone:
    """A round that is on disk, as ``loop.on_round`` and the callbacks of :func:`scpl_ray.run` are told of it."""

    round: int
    """0 is the evaluation of the base model."""
    rounds: int
    """Rounds after round 0 in all."""
    run_dir: Path
    """The folder of the run; of a run in an object store, its working copy."""
    metrics: tuple[Metric, ...]
    """Every number of the round."""
    from_disk: bool
    """Whether an earlier process had done the round already, as in a run that is resumed. It need not have told of it:
    it may have been stopped between the two, or a hook have failed. What is done once per round looks if it was."""

    def value(self, metric: str, group: str | None = None) -> float:
        """One number of the round; NaN if it does not exist.

        >>> rows = (Metric(1, "north", "share", 0.6), Metric(1, None, "disparate_gap", 0.02))
        >>> done = RoundDone(1, 5, Path("runs/first"), rows, from_disk=False)
        >>> done.value("disparate_gap"), done.value("share", "north")
        (0.02, 0.6)
        """
        found = (row.value for row in self.metrics if (row.metric, row.group) == (metric, group))
        return next(found, float("nan"))

    @property
    def shares(self) -> dict[str, float]:
        """Share of the round's queries by group."""
        return {str(row.group): row.value for row in self.metrics if row.metric == "share"}


class TrainingError(RuntimeError):
    """Training ran but is unusable (no step; unchanged, diverged or broken weights); a retry would not help."""


class Trainer(Protocol):
    """The trainer: Ray Train with DeepSpeed."""

    def prepare(self) -> None:
        """Start the workers of the next job in the background, unless some are waiting already."""
        ...

    def train(self, job: TrainingJob) -> TrainingResult:
        """Run one job; if a worker dies, the job is repeated from its start.

        Raises:
            ValueError: the job asks for something impossible.
            TrainingError: the result is unusable.
            RuntimeError: workers died too often.
            TimeoutError: workers did not start, or made no progress.
        """
        ...

    def processes(self) -> list[Process]: ...

    def close(self) -> None: ...


class Population(Protocol):
    """The simulated users: who asks what, and how their shares change."""

    def shares(self) -> dict[str, float]: ...

    def draw(self, round_: int) -> list[Query]:
        """Draw the queries of a round from the current shares."""
        ...

    def choices(self, round_: int, count: int) -> list[Choice]:
        """Pairwise choices of users who are drawn from the current shares (or equally from all groups)."""
        ...

    def step(self, measured: Mapping[str, float]) -> None:
        """Move the shares by the feedback rule."""
        ...

    def state(self) -> dict[str, object]:
        """The whole state that has to be saved, as JSON values."""
        ...

    def restore(self, state: Mapping[str, object]) -> None: ...


SAMPLING_BOUND = 0.05
"""Largest mean difference between two measurements of a text's log-probability, in nats per token, that rounding in
bfloat16 explains."""

Encode = Callable[[Query, str], tuple[tuple[int, ...], tuple[int, ...]]]
"""Turns (query, answer) into token ids, end-of-sequence included, alike in training, generation and scoring."""


class Progress(Protocol):
    """Receives the reports of a run; the command line shows them as progress bars, tests record them."""

    def note(self, text: str) -> None:
        """Show a line of text to the user."""
        ...

    def start(self, round_: int, phase: str, total: int) -> None:
        """A phase begins; ``total`` is its number of units of work, 0 where they cannot be counted."""
        ...

    def advance(self, phase: str, count: int) -> None:
        """``count`` units of work were done."""
        ...

    def generated(self, phase: str, chunk: Sequence[Completion]) -> None:
        """A chunk of completions was generated: as many units of work were done."""
        ...

    def done(self, manifest: Manifest) -> None:
        """A phase was committed."""
        ...

    def measured(self, round_: int, rows: Sequence[Metric]) -> None:
        """A round's metrics were read from disk or have just been measured."""
        ...


@dataclasses.dataclass(frozen=True)
class Engines:
    """The live processes that serve a run. They hold no state that could not be rebuilt from what is on disk."""

    generator: Generator
    scorer: Scorer
    trainer: Trainer
    population: Population
    sampling_bound: float = SAMPLING_BOUND
    """Largest mean difference, in nats per token, between the log-probabilities that the generator drew with and those
    of a pass of the scorer, with which both hold the same weights."""
    shares_gpus: bool = False
    """Whether the generator, the scorer and the trainer take turns on the same GPUs."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """The number format that they compute in; ``None``: they compute nothing, as fakes do."""


def judge_errors(task: Task) -> tuple[tuple[float, ...], ...] | None:
    """The errors by which a task's shares are corrected: as counts, where a card says on how many texts."""
    if task.confusion is None or task.judge_card is None:
        return task.confusion
    return task.judge_card.confusion_counts()
