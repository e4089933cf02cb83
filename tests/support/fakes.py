"""A generator, scorer and trainer with the real interfaces, which run the loop in milliseconds.

A policy is a JSON file with the log-odds of each kind; a completion is one word that names a kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from scpl_ray import seeds
from scpl_ray.protocols import Choice, Process, Task, TrainingJob, TrainingResult
from scpl_ray.records import Completion, Example, Judgement, Query, Score, Weights, from_table

Answer = TypeVar("Answer")

WORDS = ("alpha", "beta", "gamma", "delta")
STEP_SECONDS = 0.25
"""What the trainer says that its steps took."""


class Killed(BaseException):
    """Stands for SIGKILL: it is not an Exception, so that no code catches it and continues."""


class FakeTask:
    """Each group prefers one word; quality is 1 for the group's own word and .5 otherwise."""

    confusion = None
    judge_card = None
    data_report = None
    tokenizer = None

    def __init__(self, groups: Sequence[str]) -> None:
        self.kinds = tuple(groups)

    def _queries(self, counts: Mapping[str, int], prefix: str) -> list[Query]:
        names = [g for g, n in counts.items() for _ in range(n)]
        return [Query(f"{prefix}-q{i:05d}", g, f"to {g}", None, None) for i, g in enumerate(names)]

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        return self._queries(counts, prefix)

    def group_prompts(self, per_group: int) -> list[Query]:
        return [query for group in self.kinds for query in self._queries({group: per_group}, f"group-{group}")]

    def neutral_prompts(self, count: int) -> list[Query]:
        return [Query(f"neutral-q{i:05d}", None, "to all", None, None) for i in range(count)]

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        queries = self._queries(dict.fromkeys(self.kinds, count), f"real-{seed % 97}")[:count]
        return [(q, WORDS[self.kinds.index(str(q.group))]) for q in queries]

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        kinds = [self.kinds[WORDS.index(text)] for _, _, text in work]
        own = [1.0 if kind == query.group else 0.5 for kind, (query, _, _) in zip(kinds, work, strict=True)]
        return [Judgement(work[i][1], kinds[i], own[i], {"own_kind": own[i]}) for i in range(len(work))]

    def choices(self, users: Sequence[str], *, seed: int) -> list[Choice]:
        return [Choice("to all", WORDS[self.kinds.index(u)], WORDS[self.kinds.index(u) - 1]) for u in users]

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        return {"first": float(text == WORDS[0])}


def encode(query: Query, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (9,), (WORDS.index(text),)


def make_base(folder: Path, kinds: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "policy.json").write_text(json.dumps([0.0] * kinds))
    return folder


class FakeGenerator:
    def __init__(self, seed: int, chunk: int = 7, kill_after_chunks: int | None = None) -> None:
        self.seed = seed
        self.chunk = chunk
        self.kill_after_chunks = kill_after_chunks
        self.version = -1
        self.asleep = False
        self.logits = np.zeros(1)

    def refresh(self, weights: Weights) -> None:
        self.asleep = False
        self.version = weights.policy_version
        self.logits = np.array(json.loads((weights.model / "policy.json").read_text()))

    def sleep(self) -> None:
        self.asleep = True

    def stream(self, queries: Sequence[Query], *, samples: Sequence[int], purpose: str) -> Iterator[list[Completion]]:
        assert not self.asleep, "completions are asked of a generator that sleeps"
        p = np.exp(self.logits) / np.exp(self.logits).sum()
        starts = list(range(0, len(queries), self.chunk))
        for done, start in enumerate(reversed(starts)):
            if self.kill_after_chunks is not None and done == self.kill_after_chunks:
                raise Killed
            chunk = []
            for q, n in list(zip(queries, samples, strict=True))[start : start + self.chunk]:
                for i in range(n):
                    s = seeds.derive_seed(self.seed, "generation", purpose, q.query_id, i)
                    k = int(np.random.default_rng(s).choice(len(p), p=p))
                    cid = f"{q.query_id}-s{i}"
                    log_p = float(np.log(p[k]))
                    chunk.append(Completion(cid, q.query_id, i, self.version, s, (9,), (k,), WORDS[k], "stop", log_p))
            yield chunk

    def processes(self) -> list[Process]:
        return [Process("engine", 0, "a", 1, "n", 0)]

    def close(self) -> None:
        return


class FakeReading(Generic[Answer]):
    """Reads all at the end."""

    def __init__(self, read: Callable[[Sequence[Completion]], list[Answer]]) -> None:
        self.read = read
        self.submitted: list[Completion] = []

    def submit(self, completions: Sequence[Completion]) -> None:
        self.submitted += completions

    def collect(self) -> dict[str, Answer]:
        submitted, self.submitted = self.submitted, []
        return {c.completion_id: answer for c, answer in zip(submitted, self.read(submitted), strict=True)}


class FakeScorer:
    def __init__(self, task: Task) -> None:
        self.task = task
        self.waiting: list[Score] = []
        self.weights: list[float] | None = None

    def fit(self, choices: Sequence[Choice], *, base: Path, output: Path, seed: int) -> dict[str, float]:
        shares = [sum(c.chosen == w for c in choices) / len(choices) for w in WORDS]
        (output / "reward.json").write_text(json.dumps(shares))
        return {"accuracy": 1.0}

    def use(self, reward_model: Path | None) -> None:
        self.weights = json.loads((reward_model / "reward.json").read_text()) if reward_model else [0.0] * len(WORDS)

    def submit(self, queries: Sequence[Query], completions: Sequence[Completion]) -> None:
        assert self.weights is not None
        for c in completions:
            r = self.weights[c.token_ids[0]]
            self.waiting.append(Score(c.completion_id, r, {"model": r}))

    def collect(self) -> list[Score]:
        scores, self.waiting = self.waiting, []
        return scores

    def benchmarks(self, policy: Weights, tasks: Sequence[str]) -> dict[str, float]:
        return {f"lm_eval_{task}_acc": policy.policy_version / 4 for task in tasks}

    def judging(self, queries: Sequence[Query]) -> FakeReading[Judgement]:
        by_id = {q.query_id: q for q in queries}
        return FakeReading(lambda read: self.task.judge([(by_id[c.query_id], c.completion_id, c.text) for c in read]))

    def likelihoods(self, policy: Weights) -> FakeReading[tuple[float, int]]:
        return FakeReading(lambda read: self.negative_log_likelihood(policy, read))

    def negative_log_likelihood(self, policy: Weights, completions: Sequence[Completion]) -> list[tuple[float, int]]:
        logits = np.array(json.loads((policy.model / "policy.json").read_text()))
        log_p = logits - np.log(np.exp(logits).sum())
        return [(-float(log_p[c.token_ids[0]]), 1) for c in completions]

    def processes(self) -> list[Process]:
        return [Process("scorer", 0, "b", 2, "n", 0)]

    def close(self) -> None:
        return


class FakeTrainer:
    """Adds the log of the data's kind counts to the start policy."""

    def __init__(self) -> None:
        self.prepared = 0

    def prepare(self) -> None:
        self.prepared += 1

    def train(self, job: TrainingJob) -> TrainingResult:
        import pyarrow.parquet as pq

        examples = from_table(pq.read_table(job.dataset), Example)
        logits = np.array(json.loads((job.start.model / "policy.json").read_text()))
        counts = np.ones(len(logits))
        for e in examples:
            counts[e.token_ids[0]] += e.weight
        new = logits + 0.2 * np.log(counts / counts.mean())
        (job.output / "model").mkdir()
        (job.output / "model" / "policy.json").write_text(json.dumps(new.tolist()))
        change = float(np.abs(new - logits).max())
        return TrainingResult(len(examples), len(examples), 1.0, 0.5, change, 0.0, STEP_SECONDS)

    def processes(self) -> list[Process]:
        return [Process("training worker", 0, "c", 3, "n", 0)]

    def close(self) -> None:
        return
