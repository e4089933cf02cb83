"""A task of the user's own is tried before a run begins: every part that the run needs is asked once, and what it
answers is checked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from scpl_ray.config import Experiment
from scpl_ray.config.schema import MODEL_TERM
from scpl_ray.evaluation import bias
from scpl_ray.own import references
from scpl_ray.protocols import Choice, ReadsTogether, Task
from scpl_ray.records import Query
from scpl_ray.shares import check_shares
from scpl_ray.tasks.own import OwnTask, numbers, own

KEY = "task.name"


def built(function: Callable[..., Any], experiment: Experiment) -> OwnTask:
    """Build a task of the user's own and try it. Whatever its methods raise later is told with its name.

    Raises:
        ValueError: the builder or a method fails, or what it returns breaks a rule of
            :class:`scpl_ray.protocols.Task`; the message lists every broken rule.
    """
    name = experiment.task.name
    task: Task = references.called(name, KEY, function, experiment)
    parts = [part for part in (*Task.__annotations__, *vars(Task)) if not part.startswith("_")]
    if lacks := [part for part in parts if part not in dir(task)]:
        raise ValueError(
            f"{KEY}: {name!r} returned a {type(task).__name__} without {', '.join(lacks)}; "
            "`scpl init --task FILE.py` writes a task with every part"
        )
    tried: OwnTask = references.called(name, KEY, own, task, name)
    if found := references.called(name, KEY, lambda: list(_faults(tried, experiment))):
        raise ValueError("\n".join(f"{KEY}: {name!r}: {fault}" for fault in found))
    return tried


def _faults(task: Task, experiment: Experiment) -> Iterator[str]:
    groups, reward = experiment.groups.names, experiment.reward
    if len(task.kinds) != len(groups):
        yield f"kinds = {task.kinds}: {len(groups)} groups need one kind each, in the order of groups.names"
    yield from _errors(task, len(groups))
    drawn = task.draw(dict.fromkeys(groups, 2), seed=1, prefix="try")
    per_group, count = experiment.evaluation.prompts_per_group, experiment.evaluation.neutral_prompts
    fixed, neutral = task.group_prompts(per_group), task.neutral_prompts(count)
    for what, queries, wanted in (
        ('draw(2 per group, seed=1, prefix="try")', drawn, dict.fromkeys(groups, 2)),
        (f"group_prompts({per_group})", fixed, dict.fromkeys(groups, per_group)),
        (f"neutral_prompts({count})", neutral, {None: count}),
    ):
        given = Counter(query.group for query in queries)
        if given != Counter(wanted):
            yield f"{what} gave {numbers(given)}; expected {numbers(Counter(wanted))}"
        if len({query.query_id for query in queries}) < len(queries):
            yield f"{what} gave one query_id twice; ids are unique within a round"
        if not all(query.prompt for query in queries):
            yield f"{what} gave an empty prompt; the model continues it"
    if twice := sorted({query.query_id for query in fixed} & {query.query_id for query in neutral}):
        yield f"group_prompts and neutral_prompts both gave the query_id {twice[0]!r}; ids are unique over both"
    if task.draw(dict.fromkeys(groups, 2), seed=1, prefix="try") != drawn:
        yield "draw gave other queries for the same seed; draw every random number from the seed"
    work = [(query, f"try-s{i}", text) for i, (query, text) in enumerate(task.real_examples(2, seed=1))]
    few = [*({query.group: query for query in fixed}.values()), *neutral[:2]]
    texts = ("", work[0][2])  # terms may differ with what was asked, and not with the answer
    asked = [(query, f"{query.query_id}-s{i}", text) for query in few for i, text in enumerate(texts)]
    yield from _judged(task, [*work, *asked])
    pairs = [(query, text) for query, _, text in work]
    if isinstance(task, ReadsTogether) and task.rule_terms_of(pairs) != [task.rule_terms(*one) for one in pairs]:
        yield "rule_terms_of gave other terms than rule_terms of each (query, text), in order"
    learns = reward.terms.get(MODEL_TERM) and reward.model is None
    for choice in task.choices([groups[0]], seed=1) if learns else ():
        if not isinstance(choice, Choice):
            yield f"choices gave a {type(choice).__name__}; expected scpl_ray.protocols.Choice"


def _errors(task: Task, k: int) -> Iterator[str]:
    """What is wrong with the judge's errors, by which shares of the k kinds are corrected."""
    if task.confusion is None:
        return
    even = bias.balanced(k)
    try:
        bias.correct_shares(even, check_shares("confusion", task.confusion))
    except (TypeError, ValueError) as error:
        yield (
            f"{error}; confusion is P(judged j | true i): one row of {k} numbers that sum to 1 for each true kind; of "
            "counts, divide each by the sum of its row"
        )
    if task.judge_card is not None:
        try:
            bias.correct_shares(even, bias.confusion_of_counts(task.judge_card.confusion_counts()))
        except (TypeError, ValueError) as error:
            yield f"judge_card.confusion_counts(): {error}"


def _judged(task: Task, work: Sequence[tuple[Query, str, str]]) -> Iterator[str]:
    for one in task.judge(work):
        numbers = {"quality": one.quality, **one.terms}
        if one.kind is not None and one.kind not in task.kinds:
            yield f"judge said kind = {one.kind!r}; the kinds are {list(task.kinds)}, or None where it cannot tell"
        elif bad := [name for name, value in numbers.items() if not 0.0 <= value <= 1.0]:
            yield f"judge gave {bad[0]} = {numbers[bad[0]]}; quality and terms lie in [0, 1]"
        elif one.log_odds is not None and not _whole(one.log_odds, len(task.kinds)):
            yield f"judge gave log_odds = {one.log_odds}; a tuple of one finite number per kind, or None"
        else:
            continue
        return


def _whole(log_odds: Any, kinds: int) -> bool:
    return isinstance(log_odds, tuple) and len(log_odds) == kinds and all(math.isfinite(one) for one in log_odds)
