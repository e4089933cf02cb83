"""A task of the user's own as the program calls it: what it raises, or gives too little of, is told with its method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scpl_ray.own import references
from scpl_ray.protocols import Choice, ReadsTogether, Task
from scpl_ray.records import Judgement, Query

AGAIN = "where there is no more, repeat what there is"
NEW_IDS = f"{AGAIN}, under new query ids"


class OwnTask:
    """:class:`scpl_ray.protocols.Task` by a task of the user's own.

    Args:
        task: the user's task, with every part of the protocol.
        name: what ``task.name`` says.

    Raises:
        FailedError: from every method, whatever the user's method raises, and where it gives fewer or more than it was
            asked for: a run would go on with other groups than it records. From ``draw`` and ``real_examples`` also
            where a query has no id of its own, and from ``judge`` where it names the terms of a group's queries
            otherwise than when it was first asked.
    """

    def __init__(self, task: Task, name: str) -> None:
        self.task = task
        """The user's."""
        self.name = name
        self.kinds = task.kinds
        self.confusion = task.confusion
        self.judge_card = task.judge_card
        self.data_report = task.data_report
        self.tokenizer = task.tokenizer
        self._terms: dict[str, frozenset[str]] = {}
        """The names of the terms by group, as the judge first gave them; the trial of the task asks it of every group,
        so that all processes to which the task is sent hold it to the same names."""

    def draw(self, counts: Mapping[str, int], *, seed: int, prefix: str) -> list[Query]:
        """New training queries."""
        found: list[Query] = list(self._called(self.task.draw, counts, seed=seed, prefix=prefix))
        if (drawn := Counter(query.group for query in found)) != Counter(counts):
            raise self._other("draw", numbers(drawn), numbers(counts), NEW_IDS)
        self._check_ids("draw", found)
        if strange := [query.query_id for query in found if not query.query_id.startswith(prefix)]:
            raise self._failed(
                "draw",
                f"the query id {strange[0]!r} for prefix={prefix!r}; begin every id with the prefix, by which the "
                "queries of one round are told from those of another",
            )
        return found

    def group_prompts(self, per_group: int) -> list[Query]:
        """The held-out prompts of the groups."""
        found: list[Query] = self._called(self.task.group_prompts, per_group)
        return found

    def neutral_prompts(self, count: int) -> list[Query]:
        """The held-out prompts that any group could have asked."""
        found: list[Query] = self._called(self.task.neutral_prompts, count)
        return found

    def real_examples(self, count: int, *, seed: int) -> list[tuple[Query, str]]:
        """Real prompts with real answers."""
        found: list[tuple[Query, str]] = list(self._called(self.task.real_examples, count, seed=seed))
        if len(found) != count:
            raise self._other("real_examples", f"{len(found)} examples", str(count), NEW_IDS)
        self._check_ids("real_examples", [query for query, _ in found])
        return found

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        """The kind and the quality of each (query, completion id, text)."""
        found: list[Judgement] = list(self._called(self.task.judge, work))
        if strange := [type(one).__name__ for one in found if not isinstance(one, Judgement)]:
            raise self._failed("judge", f"a {strange[0]}; expected scpl_ray.records.Judgement")
        if [one.completion_id for one in found] != [completion_id for _, completion_id, _ in work]:
            raise self._failed("judge", "other completion ids than it was given, or in another order")
        for (query, _, _), one in zip(work, found, strict=True):
            if query.group is None:
                continue
            first = self._terms.setdefault(query.group, frozenset(one.terms))
            if differing := sorted(first ^ one.terms.keys()):
                raise self._failed(
                    "judge",
                    f"some answers to queries of {query.group} {', '.join(differing)} among their terms, and others "
                    "not; give all answers to the queries of one group the same terms, 0 where one says nothing",
                )
        return found

    def choices(self, users: Sequence[str], *, seed: int) -> list[Choice]:
        """One pairwise choice per user."""
        found: list[Choice] = list(self._called(self.task.choices, users, seed=seed))
        if len(found) != len(users):
            raise self._other("choices", f"{len(found)} choices", f"{len(users)}, one per user", AGAIN)
        return found

    def rule_terms(self, query: Query, text: str) -> dict[str, float]:
        """The reward terms that need no model."""
        found: dict[str, float] = self._called(self.task.rule_terms, query, text)
        return found

    def _called(self, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return references.called_as(f"task.name: {method.__name__} of {self.name!r}", method, *arguments, **named)

    def _check_ids(self, method: str, queries: Sequence[Query]) -> None:
        """Raise where two queries of one answer have one id: their completions and examples could not be told apart."""
        counts = Counter(query.query_id for query in queries)
        if twice := [query_id for query_id, count in counts.items() if count > 1]:
            raise self._failed(
                method,
                f"{len(twice)} query ids more than once, first {twice[0]!r}; every query has an id of its own; "
                f"{NEW_IDS}",
            )

    def _other(self, method: str, gave: str, expected: str, remedy: str) -> references.FailedError:
        """The error of a method that gave another number than it was asked for."""
        return self._failed(method, f"{gave}; expected {expected}; {remedy}")

    def _failed(self, method: str, gave: str) -> references.FailedError:
        return references.FailedError(f"task.name: {method} of {self.name!r} gave {gave}")


class OwnTaskReadingTogether(OwnTask):
    """A task of the user's own whose rules read many texts together."""

    def __init__(self, task: Task, together: ReadsTogether, name: str) -> None:
        super().__init__(task, name)
        self._together = together

    def rule_terms_of(self, texts: Sequence[tuple[Query, str]]) -> list[dict[str, float]]:
        """As ``rule_terms`` of each (query, text), in order."""
        found: list[dict[str, float]] = self._called(self._together.rule_terms_of, texts)
        return found


def numbers(asked: Mapping[Any, int]) -> str:
    """How many queries there are of each group, in words; ``None`` is no group."""
    named = ((group if group is not None else "no group", number) for group, number in asked.items() if number)
    return ", ".join(f"{number} of {group}" for group, number in named) or "none"


def as_written(task: Task | None) -> Task | None:
    """The user's own object behind a task, where it is one of the user's: its class may be one of this project."""
    return task.task if isinstance(task, OwnTask) else task


def own(task: Task, name: str) -> OwnTask:
    """A task of the user's own as the program calls it."""
    return OwnTaskReadingTogether(task, task, name) if isinstance(task, ReadsTogether) else OwnTask(task, name)
