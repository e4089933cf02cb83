"""A task of your own: one line about a pet. Change it part by part; every part says what it is for.

Check it, without starting anything, then run it:

    scpl run task.name=FILE:build --dry-run
    scpl run task.name=FILE:build loop.rounds=2

With rule terms in the place of the learned reward model: 'reward.terms={pet: 1.0}'. A class that has these attributes
and methods is a task (scpl_ray.protocols.Task); it need not inherit from anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scpl_ray.config import Experiment
from scpl_ray.protocols import Card, Choice, DataReport
from scpl_ray.records import Judgement, Query
from scpl_ray.seeds import generator

ANIMALS = ("cat", "dog", "hen", "cow")
"""What the first group prefers to read about, the second, ..."""
ACTIONS = ("sleeps in the sun", "eats its breakfast", "runs in the rain", "waits at the door")
NEUTRAL = "A line about a pet:"


def build(experiment: Experiment) -> Pets:
    """The task of an experiment: ``task.name=FILE:build`` calls this once in the driver.

    ``experiment`` is the whole config. Read from it what the task depends on: the groups, ``task.data`` for a file of
    your own, and other keys of the section ``task``. The returned object is sent to other processes, so keep it small
    and picklable.
    """
    return Pets(experiment.groups.names)


class Pets:
    """Each group likes lines about one animal.

    A prompt is sent as it is, and has at most ``task.max_prompt_tokens`` tokens. Where the model is a chat model, write
    its template around each: ``scpl_ray.tasks.texts.model_side(experiment, ()).template.apply(text)``.
    """

    confusion: tuple[tuple[float, ...], ...] | None = None
    """The judge's errors, P(judged j | true i), so that shares are also reported corrected. ``None``: it makes none."""
    judge_card: Card | None = None
    """How the judge's errors were measured, where it was learned from data. ``None``: it makes none."""
    data_report: DataReport | None = None
    """How many rows of ``task.data`` were used, and why others were not. ``None``: the task makes its own text."""
    tokenizer: Path | None = None
    """Folder of a tokenizer of your own for the tiny model. ``None``: it is made from the real examples."""

    def __init__(self, groups: Sequence[str]) -> None:
        if len(groups) > len(ANIMALS):
            raise ValueError(f"groups.names: {len(groups)} groups, and there are {len(ANIMALS)} animals")
        self.kinds: tuple[str, ...] = tuple(groups)
        """Kinds of text, one per group, in the order of the groups: kind k is the one that group k prefers."""
        self.animals = dict(zip(groups, ANIMALS, strict=False))

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        """What users ask in a round: ``counts[group]`` queries per group, with ids ``<prefix>-q00000``, ...

        Every round calls it with another seed. One seed must always give the same queries, so that a run can be
        resumed: take all randomness from ``generator(seed, ...)``. Where there are too few, repeat them under new ids.
        """
        groups = [group for group in self.kinds for _ in range(counts.get(group, 0))]
        return [self._query(f"{prefix}-q{i:05d}", group) for i, group in enumerate(groups)]

    def group_prompts(self, per_group: int) -> list[Query]:
        """The fixed evaluation prompts of each group, asked every round: they give quality and disparate bias.

        Fewer per group are the first ones of more, with the same ids, so every group is numbered by itself: a strategy
        that steers by quality, such as ``reweight``, asks for more and takes those that are not evaluated.
        """
        return [q for g in self.kinds for q in self.draw({g: per_group}, seed=0, prefix=f"eval-{g}")]

    def neutral_prompts(self, count: int) -> list[Query]:
        """Fixed prompts that reveal no group: the kinds of their answers give preference bias."""
        return [Query(f"eval-neutral-q{i:05d}", None, NEUTRAL) for i in range(count)]

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        """Real prompts with real answers: what a tiny model learns to write from, and real data in the data cycle.

        With one seed, fewer examples are the first ones of more, and every one has an id of its own. An answer
        continues its prompt, so it begins with a space.
        """
        chance = generator(seed, "pets")
        groups = [self.kinds[i % len(self.kinds)] for i in range(count)]
        lines = [self._line(group, int(chance.integers(len(ACTIONS)))) for group in groups]
        return [(self._query(f"real-{i:05d}", group), lines[i]) for i, group in enumerate(groups)]

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        """The kind and the quality of each (query, completion id, text), in order.

        ``kind`` is one of :attr:`kinds`, or ``None`` where the text is of none; ``quality`` and all terms lie in
        [0, 1]. The text stands for itself: the same text must always get the same judgement. The queries of one group
        have terms of the same names, whatever the text.
        """
        judged = []
        for query, completion_id, text in work:
            kind = self._kind(text)
            terms = {**self.rule_terms(query, text), "own_kind": float(kind is not None and kind == query.group)}
            quality = (terms["finished"] + terms["pet"] + terms["own_kind"]) / 3
            judged.append(Judgement(completion_id, kind, quality, terms))
        return judged

    def choices(self, users: Sequence[str], *, seed: int) -> list[Choice]:
        """One choice between two answers per user, given by group: what the learned reward model is trained on.

        It is asked only where ``reward.terms`` holds ``model`` and ``reward.model`` names none.
        """
        chance = generator(seed, "choices")
        found = []
        for user in users:
            other = self.kinds[(self.kinds.index(user) + 1) % len(self.kinds)]
            action = int(chance.integers(len(ACTIONS)))
            found.append(Choice(NEUTRAL, self._line(user, action), self._line(other, action), user))
        return found

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        """Reward terms that need no model, each in [0, 1]; ``reward.terms`` gives them weights by these names."""
        return {"finished": float(text.rstrip().endswith(".")), "pet": float(self._kind(text) is not None)}

    def _kind(self, text: str) -> str | None:
        words = text.lower().replace(".", " ").split()
        named = [group for group, animal in self.animals.items() if animal in words]
        return named[0] if len(named) == 1 else None

    def _line(self, group: str, action: int) -> str:
        return f" The {self.animals[group]} {ACTIONS[action]}."

    def _query(self, query_id: str, group: str) -> Query:
        return Query(query_id, group, f"A line about a {self.animals[group]}:", self._line(group, 0))
