"""A task in one file, a line about a pet. `scpl run` on it: python examples/own_task.py loop.rounds=2 [KEY=VALUE]..."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.cli import app
from scpl_ray.config import Experiment
from scpl_ray.protocols import Card, Choice, DataReport
from scpl_ray.records import Judgement, Query
from scpl_ray.seeds import generator
from scpl_ray.tasks import TASKS, TaskKind

LINES = {"cats": ("A cat sleeps in the sun.", "The cat purrs."), "dogs": ("A dog runs in the rain.", "The dog barks.")}


class Pets:
    def __init__(self, groups: Sequence[str]) -> None:
        self.kinds: tuple[str, ...] = tuple(groups)
        self.confusion: tuple[tuple[float, ...], ...] | None = None  # the judge below makes no errors
        self.judge_card: Card | None = None
        self.data_report: DataReport | None = None  # no data file
        self.tokenizer: Path | None = None

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        groups = [group for group in self.kinds for _ in range(counts.get(group, 0))]
        return [self._query(f"{prefix}-q{i:05d}", group) for i, group in enumerate(groups)]

    def group_prompts(self, per_group: int) -> list[Query]:
        return [q for g in self.kinds for q in self.draw({g: per_group}, seed=0, prefix=f"eval-{g}")]

    def neutral_prompts(self, count: int) -> list[Query]:
        return [Query(f"eval-neutral-q{i:05d}", None, "A line about a pet:") for i in range(count)]

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        rng = generator(seed, "pets real")
        groups = [self.kinds[i % len(self.kinds)] for i in range(count)]
        return [(self._query(f"real-{i}", g), f" {LINES[g][rng.integers(2)]}") for i, g in enumerate(groups)]

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        return [self._judgement(*one) for one in work]

    def choices(self, users: Sequence[str], *, seed: int) -> list[Choice]:
        other = {user: next(kind for kind in self.kinds if kind != user) for user in self.kinds}
        return [Choice("A line about a pet:", f" {LINES[user][0]}", f" {LINES[other[user]][0]}") for user in users]

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        return {"finished": float(text.endswith(".")), "pet": float(self._kind(text) is not None)}

    def _judgement(self, query: Query, completion_id: str, text: str) -> Judgement:
        terms = self.rule_terms(query, text)
        return Judgement(completion_id, self._kind(text), sum(terms.values()) / len(terms), terms)

    def _kind(self, text: str) -> str | None:
        named = [kind for kind in self.kinds if kind.removesuffix("s") in text.lower().split()]
        return named[0] if len(named) == 1 else None

    def _query(self, query_id: str, group: str) -> Query:
        return Query(query_id, group, f"A line about {group}:", LINES[group][0])


def build(experiment: Experiment) -> Pets:
    return Pets(experiment.groups.names)


if __name__ == "__main__":
    TASKS["pets"] = TaskKind(meaning="lines about pets", builder="__main__:build", reads_data=False)
    app(["run", "task.name=pets", "groups.names=[cats, dogs]", "reward.terms={pet: 1.0}", *sys.argv[1:]])
