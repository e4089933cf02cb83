"""What the tasks on people's data share: their queries are items of a data set, one pool of them per group and part."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
from scipy.special import expit

from scpl_ray.config import Experiment
from scpl_ray.protocols import Card, Choice, DataReport
from scpl_ray.records import Query
from scpl_ray.seeds import derive_seed, generator
from scpl_ray.tasks.tally import Tally
from scpl_ray.tasks.texts import ModelSide

EVALUATION_SEED = 20_260_105
"""Seed of the order of the held-out prompts, which is the same for every run, whatever its seed."""

Item = TypeVar("Item")


class Grouped(Protocol):
    """An item that one group asks for."""

    @property
    def group(self) -> str:
        """The group."""
        ...


GroupedItem = TypeVar("GroupedItem", bound=Grouped)


class DataTask(abc.ABC, Generic[Item]):
    """A task (:class:`scpl_ray.protocols.Task`) but for what is asked and how it is judged.

    Args:
        train: items to train on, one or more per group.
        evaluation: held-out items by group, in the order in which they are used.
        card: the judge's errors.
        confusion: the judge's errors, where it is better than chance.
        side: the model's template and tokenizer.
    """

    NAME: ClassVar[str]
    """What its streams of random numbers are called."""
    TOO_FEW: ClassVar[str]
    """What is said of held-out ``{items}`` that are too few for more than ``{least}`` evaluation prompts per group."""
    COUNTED: ClassVar[str] = "{n} of {group}"

    def __init__(
        self,
        train: Mapping[str, Sequence[Item]],
        evaluation: Mapping[str, Sequence[Item]],
        *,
        card: Card,
        confusion: tuple[tuple[float, ...], ...] | None,
        side: ModelSide,
    ) -> None:
        self.kinds: tuple[str, ...] = tuple(train)
        self.judge_card: Card | None = card
        self.data_report: DataReport | None = None
        self.confusion = confusion
        self.tokenizer: Path | None = side.made
        self._template = side.template
        self._train, self._evaluation = train, evaluation

    @abc.abstractmethod
    def neutral_prompts(self, count: int) -> list[Query]:
        """Fixed held-out prompts that any group could have asked."""

    @abc.abstractmethod
    def _query(self, query_id: str, item: Item, group: str) -> Query:
        """The query with which a user of a group asks for an item."""

    @abc.abstractmethod
    def _written(self, item: Item, group: str) -> str:
        """The real answer to that query, as a model writes it."""

    @abc.abstractmethod
    def _choice(self, user: str, rng: np.random.Generator) -> Choice:
        """A choice of a user of a group, with texts as :meth:`_written` gives them."""

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        """Draw new training queries by group; no item is repeated before all of its group have occurred once.

        The j-th query of a group does not depend on the other groups' counts.

        Raises:
            ValueError: an unknown group.
        """
        self._check_known("counts", counts)
        queries: list[Query] = []
        for group, items in self._train.items():
            for item in cycle(items, counts.get(group, 0), generator(seed, f"{self.NAME} draw", group)):
                queries.append(self._query(f"{prefix}-q{len(queries):05d}", item, group))
        return queries

    def group_prompts(self, per_group: int) -> list[Query]:
        """The fixed held-out evaluation prompts, equally many per group; a smaller set is a prefix of a larger one.

        Raises:
            ValueError: a group has fewer items in the evaluation part.
        """
        least = min(map(len, self._evaluation.values()))
        if per_group > least:
            have = ", ".join(self.COUNTED.format(n=len(found), group=g) for g, found in self._evaluation.items())
            raise ValueError(
                f"evaluation.prompts_per_group = {per_group}: {self.TOO_FEW.format(items=have, least=least)}"
            )
        return [
            self._query(f"eval-{group}-q{i:05d}", item, group)
            for group, items in self._evaluation.items()
            for i, item in enumerate(items[:per_group])
        ]

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        """Training items with their real answers, the groups in turn; with one seed, fewer are a prefix."""
        k = len(self.kinds)
        drawn = [
            cycle(items, -(-(count - i) // k), generator(seed, f"{self.NAME} real", group))
            for i, (group, items) in enumerate(self._train.items())
        ]
        examples = []
        for i in range(count):
            item, group = drawn[i % k][i // k], self.kinds[i % k]
            examples.append((self._query(f"real-{i:06d}", item, group), self._written(item, group)))
        return examples

    def choices(self, users: Sequence[str], *, seed: int) -> list[Choice]:
        """One pairwise choice per user; the i-th depends on the seed, i and the i-th user's group only.

        Raises:
            ValueError: an unknown group, or users have nothing to choose between.
        """
        self._check_known("users", users)
        self._check_choices()
        return [self._choice(user, generator(seed, f"{self.NAME} choice", i)) for i, user in enumerate(users)]

    def checked(self, experiment: Experiment, tally: Tally, tokens_of: Callable[[str], int]) -> Self:
        """The task with its report, after the evaluation prompts that an experiment asks for were checked.

        Raises:
            DataError: there are too few of them, or a neutral one is too long.
        """
        self.data_report = tally.report()
        limit = experiment.task.max_prompt_tokens
        with tally.reported():
            self.group_prompts(experiment.evaluation.prompts_per_group)
            for query in self.neutral_prompts(experiment.evaluation.neutral_prompts):
                if (length := tokens_of(query.prompt)) > limit:
                    raise ValueError(
                        f"task.max_prompt_tokens = {limit}: the neutral prompt {query.prompt!r} has {length} tokens; "
                        f"set it to {length} or more"
                    )
        return self

    def _check_choices(self) -> None:
        """Raise :class:`ValueError` if users have nothing to choose between."""

    def _check_known(self, what: str, given: Iterable[str]) -> None:
        if unknown := sorted(set(given) - set(self.kinds)):
            raise ValueError(f"{what}: unknown groups {unknown}; the groups are {list(self.kinds)}")


def cycle(found: Sequence[Item], count: int, rng: np.random.Generator) -> list[Item]:
    """``count`` things in random order; every one occurs once before any is repeated."""
    chosen: list[Item] = []
    while len(chosen) < count:
        chosen += [found[i] for i in rng.permutation(len(found))]
    return chosen[:count]


def pick(found: Sequence[Item], rng: np.random.Generator) -> Item:
    """One of them at random."""
    return found[int(rng.integers(len(found)))]


def preferred(prompt: str, texts: Sequence[str], utilities: Sequence[float], rng: np.random.Generator) -> Choice:
    """The choice of a user who prefers a to b with probability sigmoid(u(a) - u(b)) (Bradley and Terry 1952)."""
    a, b = texts if rng.random() < expit(utilities[0] - utilities[1]) else reversed(texts)
    return Choice(prompt, a, b)


def pools(
    found: Iterable[GroupedItem], groups: Sequence[str], stream: str, id_of: Callable[[GroupedItem], str]
) -> dict[str, list[GroupedItem]]:
    """The items of each group, in an order that neither the file's order nor the run's seed changes."""
    ordered = sorted(found, key=lambda item: derive_seed(EVALUATION_SEED, stream, id_of(item)))
    return {group: [item for item in ordered if item.group == group] for group in groups}
