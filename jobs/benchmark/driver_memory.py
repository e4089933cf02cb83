"""Memory of the driver in a round of any size, with a pool that draws random tokens instead of using a model.

Completions reach the driver as they do from Ray, as fresh objects; nothing of the engines' own memory is counted.
"""

from __future__ import annotations

import pickle
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jobs.driver.trial import Quiet
from scpl_ray.config import Experiment
from scpl_ray.controller import Loop
from scpl_ray.feedback.population import PopulationSimulator
from scpl_ray.protocols import Card, Choice, DataReport, Engines, Process, TrainingJob, TrainingResult
from scpl_ray.records import Completion, Judgement, Manifest, Query, Score, Weights
from scpl_ray.storage.run_directory import Store

VOCABULARY = 49_152
CHARACTERS_PER_TOKEN = 4
COMPLETIONS_PER_PIECE = 256


def driver_memory(experiment: Experiment, console: Console) -> float:
    """Run the loop with simulated processes, print the peak memory after each phase, and return it in GiB.

    Args:
        experiment: the config; ``task.max_prompt_tokens`` and ``generation.max_new_tokens`` are the lengths of every
            prompt and completion.
        console: where the table is printed.
    """
    table = Table(title=f"driver, {queries_in_words(experiment)}", title_justify="left")
    for column in ("round", "phase", "seconds", "peak GiB so far"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    table.add_row("", "imports", "", f"{peak_gib():.2f}")
    task = _Task(experiment)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        store = Store.create(Path(folder) / "run", experiment, {})
        engines = Engines(_Generator(experiment), _Scorer(task), _Trainer(), PopulationSimulator(experiment, task))
        Loop(experiment, task, store, engines, base, _encode, _Watch(table)).run()
        store.close()
    console.print(table)
    return peak_gib()


def queries_in_words(experiment: Experiment) -> str:
    """The size of a round."""
    return (
        f"{experiment.queries.prompts_per_round:,} prompts of {experiment.task.max_prompt_tokens} tokens, "
        f"{experiment.generation.samples_per_prompt} completions of {experiment.generation.max_new_tokens} each"
    )


def peak_gib() -> float:
    """The most memory that this process has had, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class _Watch(Quiet):
    """Adds a row for every phase that ends."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def done(self, manifest: Manifest) -> None:
        self._table.add_row(str(manifest.round), manifest.phase, f"{manifest.seconds:.1f}", f"{peak_gib():.2f}")


def _text(tokens: int, seed: int) -> str:
    return f"{seed:0{tokens * CHARACTERS_PER_TOKEN}d}"


def _encode(query: Query, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (1,), (2,)


class _Task:
    """Prompts of one length, and a judge that says the same of every text."""

    def __init__(self, experiment: Experiment) -> None:
        self.kinds = tuple(experiment.groups.names)
        self.confusion: tuple[tuple[float, ...], ...] | None = None
        self.judge_card: Card | None = None
        self.data_report: DataReport | None = None
        self.tokenizer: Path | None = None
        self._tokens = experiment.task.max_prompt_tokens

    def _queries(self, groups: Sequence[str | None], prefix: str) -> list[Query]:
        texts = [_text(self._tokens, i) for i in range(len(groups))]
        return [
            Query(f"{prefix}-q{i:05d}", group, text, text)
            for i, (group, text) in enumerate(zip(groups, texts, strict=True))
        ]

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        return self._queries([group for group, count in counts.items() for _ in range(count)], prefix)

    def group_prompts(self, per_group: int) -> list[Query]:
        return self._queries([group for group in self.kinds for _ in range(per_group)], "group")

    def neutral_prompts(self, count: int) -> list[Query]:
        return self._queries([None] * count, "neutral")

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        return [(query, "") for query in self._queries([self.kinds[0]] * count, "real")]

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        return [Judgement(work[i][1], self.kinds[i % len(self.kinds)], 0.5, {"rule": 0.5}) for i in range(len(work))]

    def choices(self, users: Sequence[str], *, seed: int) -> list[Choice]:
        return []

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        return {"rule": 0.5}


class _Generator:
    """Random tokens."""

    def __init__(self, experiment: Experiment) -> None:
        self._lengths = experiment.task.max_prompt_tokens, experiment.generation.max_new_tokens
        self._version = 0

    def refresh(self, weights: Weights) -> None:
        self._version = weights.policy_version

    def sleep(self) -> None:
        return

    def stream(self, queries: Sequence[Query], *, samples: Sequence[int], purpose: str) -> Iterator[list[Completion]]:
        ids = np.random.default_rng(0).integers(300, VOCABULARY, 2**20).tolist()
        starts = np.random.default_rng(1)
        piece: list[Completion] = []
        for query, count in zip(queries, samples, strict=True):
            start, *others = starts.integers(0, len(ids) - max(self._lengths), 1 + count).tolist()
            prompt = tuple(ids[start : start + self._lengths[0]])
            for i, start in enumerate(others):
                tokens = tuple(ids[start : start + self._lengths[1]])
                text = _text(self._lengths[1], i)
                completion_id = f"{query.query_id}-s{i}"
                piece.append(
                    Completion(completion_id, query.query_id, i, self._version, i, prompt, tokens, text, "stop")
                )
            if len(piece) >= COMPLETIONS_PER_PIECE:
                yield pickle.loads(pickle.dumps(piece))
                piece = []
        if piece:
            yield piece

    def processes(self) -> list[Process]:
        return []

    def close(self) -> None:
        return


class _Reading:
    """Answers without reading."""

    def __init__(self, answer: Callable[[Completion], Any]) -> None:
        self._answer = answer
        self._found: dict[str, Any] = {}

    def submit(self, completions: Sequence[Completion]) -> None:
        self._found |= {c.completion_id: self._answer(c) for c in completions}

    def collect(self) -> dict[str, Any]:
        return self._found


class _Scorer:
    """Rewards from a seed."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._draw = np.random.default_rng(1)
        self._scores: list[Score] = []

    def fit(self, choices: Sequence[Choice], *, base: Path, output: Path, seed: int) -> dict[str, float]:
        return {}

    def use(self, reward_model: Path | None) -> None:
        return

    def submit(self, queries: Sequence[Query], completions: Sequence[Completion]) -> None:
        rewards = self._draw.random(len(completions)).tolist()
        self._scores += [
            Score(c.completion_id, reward, {"rule": reward}) for c, reward in zip(completions, rewards, strict=True)
        ]

    def collect(self) -> list[Score]:
        scores, self._scores = self._scores, []
        return scores

    def benchmarks(self, policy: Weights, tasks: Sequence[str]) -> dict[str, float]:
        return {}

    def judging(self, queries: Sequence[Query]) -> _Reading:
        by_id = {q.query_id: q for q in queries}
        return _Reading(lambda c: self._task.judge([(by_id[c.query_id], c.completion_id, c.text)])[0])

    def likelihoods(self, policy: Weights) -> _Reading:
        return _Reading(lambda c: (float(len(c.token_ids)), len(c.token_ids)))

    def negative_log_likelihood(self, policy: Weights, completions: Sequence[Completion]) -> list[tuple[float, int]]:
        return [(float(len(c.token_ids)), len(c.token_ids)) for c in completions]

    def processes(self) -> list[Process]:
        return []

    def close(self) -> None:
        return


class _Trainer:
    """Trains nothing."""

    def prepare(self) -> None:
        return

    def train(self, job: TrainingJob) -> TrainingResult:
        (job.output / "model").mkdir()
        return TrainingResult(1, 1, 1.0, 1.0, 1.0, 0.0, 0.0)

    def processes(self) -> list[Process]:
        return []

    def close(self) -> None:
        return
