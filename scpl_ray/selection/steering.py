"""Selection that steers by quality: what is asked to measure it, and what follows for the next round's completions.

What steers is measured on held-out prompts of its own. A remedy that steered by the evaluation would be judged by what
it was tuned on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scpl_ray.config import Experiment
from scpl_ray.records import Metric, Query
from scpl_ray.selection.allotment import per_query
from scpl_ray.selection.strategies import completions_per_group, steers

QUALITY = "steering_quality"
"""The metric that steers."""


def steering_prompts(
    experiment: Experiment, group_prompts: Callable[[int], Sequence[Query]], evaluated: Sequence[Query]
) -> list[Query]:
    """The held-out group prompts that steer selection, none of which is evaluated, by id or by text.

    There are none where the strategy does not steer. Of a group of which every held-out text is evaluated, those with
    another id are left.

    Args:
        experiment: the strategy, and the numbers of prompts.
        group_prompts: a task's held-out prompts for a number per group; fewer are a prefix of more in each group.
        evaluated: all prompts of the evaluation.

    Raises:
        ValueError: the task has too few held-out prompts, or fewer of a group are no prefix of more.
    """
    if not steers(experiment.selection):
        return []
    own, beside = experiment.evaluation.steering_prompts_per_group, experiment.evaluation.prompts_per_group
    try:
        held_out = group_prompts(beside + own)
    except ValueError as error:
        raise ValueError(
            f"evaluation.steering_prompts_per_group = {own}: selection.strategy = {experiment.selection.strategy!r} "
            f"steers by so many prompts per group that are not evaluated, beside {beside} that are: {error}"
        ) from error
    ids, texts = {q.query_id for q in evaluated}, {q.prompt for q in evaluated}
    rest = [q for q in held_out if q.query_id not in ids]
    names = experiment.groups.names
    other = [g for g in names if (few := _named(evaluated, g)) != _named(held_out, g)[: len(few)]]
    none = [g for g in names if all(q.group != g for q in rest)]
    if other or none:
        fault = (
            f"does not begin as group_prompts({beside}) for {other[0]!r}" if other else f"has no more of {none[0]!r}"
        )
        raise ValueError(
            f"selection.strategy = {experiment.selection.strategy!r}: steers by prompts of each group that are not "
            f"evaluated, and group_prompts({beside + own}) of task.name = {experiment.task.name!r} {fault}; give more "
            "prompts of every group, the first with the same ids and texts as fewer have, e.g. numbered by group: "
            'prefix=f"eval-{group}"'
        )
    fresh = {q.group for q in rest if q.prompt not in texts}
    return [q for q in rest if q.prompt not in texts or q.group not in fresh]


def _named(prompts: Sequence[Query], group: str) -> list[tuple[str, str]]:
    """The ids and texts of a group's prompts."""
    return [(q.query_id, q.prompt) for q in prompts if q.group == group]


def samples(experiment: Experiment, queries: Sequence[Query], last: Sequence[Metric], *, fewest: int) -> list[int]:
    """Completions of each query, more where the strategy asks for more of a group that was served worse.

    Args:
        experiment: the strategy, the groups, and the completions per query.
        queries: the round's queries.
        last: metrics of the policy that answers, with each group's ``steering_quality`` where the strategy steers.
        fewest: fewest completions of a query that training can use, at most as many as there are per query.

    Raises:
        ValueError: the quality of a group is missing.
    """
    names = experiment.groups.names
    served = {row.group: row.value for row in last if row.metric == QUALITY}
    groups = np.array([names.index(str(q.group)) for q in queries])
    totals = completions_per_group(
        experiment.selection,
        experiment.generation.samples_per_prompt,
        [served.get(name, float("nan")) for name in names],
        np.bincount(groups, minlength=len(names)),
        fewest,
    )
    return per_query(totals, groups)
