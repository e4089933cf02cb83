"""What the preference task would make of a file."""

from __future__ import annotations

from scpl_ray.config import Experiment
from scpl_ray.judges.preference_card import MOST, not_apart
from scpl_ray.tasks import rows as data
from scpl_ray.tasks import survey as common
from scpl_ray.tasks.outlets import EVALUATION
from scpl_ray.tasks.preference import judge, questions
from scpl_ray.tasks.preference.questions import NORMAL, OPTIONAL, PAIR_FIELDS, QUERY, Corpus
from scpl_ray.tasks.preference.task import held_out
from scpl_ray.tasks.rows import DataError
from scpl_ray.tasks.survey import Survey

UNCUT_TOKENS = 1_000_000
"""A length of answers that cuts none."""


def survey(experiment: Experiment, *, named: bool) -> Survey:
    """Look at ``task.data``.

    Args:
        experiment: ``task``, ``groups`` and ``generation.max_new_tokens`` (the length of answers) matter.
        named: whether the groups are the user's; otherwise all labels, or in rows of responses all other columns, are.

    Raises:
        DataError: the rows cannot be read.
    """
    if questions.has_pairs(experiment):
        rows, tally = data.load(experiment, PAIR_FIELDS, named=named)
        experiment = common.grouped(experiment, rows, "group", tally, named=named)
        rows = data.of_groups(rows, tally, PAIR_FIELDS, experiment.groups.names)
        counts = {group: sum(row["group"] == group for row in rows) for group in experiment.groups.names}
    else:
        if not named:
            experiment = common.with_groups(experiment, _response_columns(experiment))
        rows, tally = data.load(experiment, questions.response_fields(experiment.groups.names))
        counts = dict.fromkeys(experiment.groups.names, len(rows))
    corpus, stopped = common.attempt(questions.load, experiment)
    groups = {group: {"rows": count} for group, count in counts.items()}
    if corpus is None:
        return Survey(tally, groups, {}, (), stopped=stopped)
    found = [question for of_part in corpus.parts.values() for question in of_part]
    for group in groups:
        mine = [question for question in found if group in question.groups]
        groups[group] |= {
            "questions": len(mine),
            "of several turns": sum(len(question.turns) > 1 for question in mine),
            "with a system line": sum(question.system is not None for question in mine),
        }
        parts = {part: [question.groups for question in of_part] for part, of_part in corpus.parts.items()}
        groups[group] |= common.by_part(parts, group)
    return _whole(experiment, corpus, groups, stopped)


def _whole(experiment: Experiment, corpus: Corpus, groups: dict[str, dict[str, int]], stopped: str | None) -> Survey:
    found = [question for of_part in corpus.parts.values() for question in of_part]
    prompts = [question.transcript() for question in found]
    # the answers of the corpus are cut to the length that is set, which says nothing about the length to set
    uncut = experiment.generation.model_copy(update={"max_new_tokens": UNCUT_TOKENS})
    whole = questions.load(experiment.model_copy(update={"generation": uncut}))
    answers = [pair.chosen for of_part in whole.parts.values() for question in of_part for pair in question.pairs]
    asked, neutral = held_out(corpus.parts[EVALUATION], tuple(groups))
    own = judge.own_questions(corpus, tuple(groups))
    return Survey(
        corpus.tally,
        groups,
        {"prompt": common.quartiles(prompts), "answer": common.quartiles(answers)},
        (
            common.fits("task.max_prompt_tokens", [len(prompt.split()) for prompt in prompts], "prompts"),
            common.fits("generation.max_new_tokens", [len(answer.split()) for answer in answers], "answers"),
        ),
        prompts_per_group=min(map(len, asked.values())),
        neutral_prompts=len(neutral),
        notes=(not_apart(own),) if own > MOST else (),
        stopped=stopped,
    )


def _response_columns(experiment: Experiment) -> tuple[str, ...]:
    """The columns that may be groups, as ``task.fields`` names them: all that are no field of the task."""
    named = {column: field for field, column in experiment.task.fields.items() if column is not None}
    fields = (QUERY, NORMAL, *OPTIONAL)
    columns = data.columns_of(experiment.task, {*fields, *named})
    found = tuple(name for name in (named.get(column, column) for column in columns) if name not in fields)
    if len(found) < 2:
        raise DataError(
            f"{experiment.task.data}: has the columns {data.listed(columns)}; rows of {QUERY} need one answer per "
            "group, so two columns or more beside it"
        )
    return found
