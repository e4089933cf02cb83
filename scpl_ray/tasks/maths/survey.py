"""What the maths task would make of a file."""

from __future__ import annotations

from scpl_ray.config import Experiment
from scpl_ray.tasks import rows as data
from scpl_ray.tasks import survey as common
from scpl_ray.tasks.maths import problems
from scpl_ray.tasks.maths.task import neutral_prompts_possible
from scpl_ray.tasks.outlets import EVALUATION
from scpl_ray.tasks.survey import Survey


def survey(experiment: Experiment, *, named: bool) -> Survey:
    """Look at ``task.data``.

    Args:
        experiment: ``task`` and ``groups`` matter.
        named: whether the groups are the user's; otherwise all labels of the data are.

    Raises:
        DataError: the rows cannot be read.
    """
    rows, tally = data.load(experiment, problems.FIELDS, named=named)
    experiment = common.grouped(experiment, rows, "group", tally, named=named)
    names = experiment.groups.names
    rows = data.of_groups(rows, tally, problems.FIELDS, names)
    corpus, stopped = common.attempt(problems.load, experiment)
    found = [] if corpus is None else [problem for of_part in corpus.parts.values() for problem in of_part]
    groups = {}
    for group in names:
        mine = [row for row in rows if row["group"] == group]
        groups[group] = {"rows": len(mine), "words (median)": common.quartiles(row["problem"] for row in mine)[1]}
        if corpus is not None:
            parts = {part: [(problem.group,) for problem in of_part] for part, of_part in corpus.parts.items()}
            groups[group] |= common.by_part(parts, group)
    lengths = {"problem": common.quartiles(row["problem"] for row in rows)}
    settings = [common.fits("task.max_prompt_tokens", [len(row["problem"].split()) for row in rows], "problems")]
    if found:
        lengths["solution"] = common.quartiles(problem.solution for problem in found)
        written = [len(problem.solution.split()) for problem in found]
        settings.append(common.fits("generation.max_new_tokens", written, "solutions"))
    return Survey(
        tally if corpus is None else corpus.tally,
        groups,
        lengths,
        tuple(settings),
        prompts_per_group=None if corpus is None else min(groups[group][EVALUATION] for group in names),
        neutral_prompts=neutral_prompts_possible(),
        stopped=stopped,
    )
