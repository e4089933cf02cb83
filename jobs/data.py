"""What a task would make of a data file: ``scpl data check``. It reads the file and nothing else, within seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scpl_ray.config import Experiment, loading
from scpl_ray.config.errors import ConfigError, nearest
from scpl_ray.selection.strategies import steers
from scpl_ray.tasks import TASKS
from scpl_ray.tasks.minimums import MINIMUMS, NO_NEUTRAL_PROMPTS
from scpl_ray.tasks.survey import Survey, stated_groups, with_groups, without_groups

READING = tuple(name for name, kind in TASKS.items() if kind.surveyor is not None)
"""The tasks that read data."""


def check(file: str, task: str, overrides: Sequence[str], console: Console) -> bool:
    """Print what a task would make of a file.

    Args:
        file: as ``task.data``.
        task: as ``task.name``.
        overrides: further keys as ``key=value``; without ``groups.names`` among them, the groups of the data are taken.
        console: where it is printed.

    Returns:
        Whether a run with these keys could use the file as it is.

    Raises:
        ConfigError: a key is wrong or says which file or task is meant, or the task is unknown or reads no data.
        DataError: the file cannot be read.
    """
    if task not in READING:
        what = "unknown task"
        if task in TASKS:
            what = "its data are read by its own code" if TASKS[task].reads_data else "reads no data"
        raise ConfigError(f"--task {task}: {what}; give one of {', '.join(READING)}{nearest(task, READING)}")
    keys = dict(map(loading.parse_override, overrides))
    for key in dict(loading.dotted(keys.items())):
        if key in ("task.data", "task.name"):
            raise ConfigError(f"{key}: the file and the task are given by FILE and --task TASK; leave the key out")
    source = " ".join(["scpl data check", *overrides])
    stated = stated_groups(keys)
    keys = keys if stated is None else without_groups(keys)
    experiment = loading.build(loading.overlay({}, {**keys, "task.name": task, "task.data": file}), source)
    survey = TASKS[task].survey(experiment, named=stated is None)
    if stated:
        with_groups(experiment, tuple(survey.groups), stated)
    stopped = [*([survey.stopped] if survey.stopped else []), *_too_few(survey, experiment)]
    _print(survey, stopped, console)
    return not stopped


def _too_few(survey: Survey, experiment: Experiment) -> Iterator[str]:
    """The settings that ask for more held-out prompts than there are."""
    evaluation = experiment.evaluation
    grouped, most = evaluation.prompts_per_group, survey.prompts_per_group
    if most is not None and grouped > most:
        yield f"evaluation.prompts_per_group = {grouped}; set it to {most} or fewer"
    elif most is not None and steers(experiment.selection) and grouped + evaluation.steering_prompts_per_group > most:
        yield (
            f"evaluation.steering_prompts_per_group = {evaluation.steering_prompts_per_group}: selection.strategy = "
            f"{experiment.selection.strategy!r} steers by so many beside evaluation.prompts_per_group = {grouped}; "
            + (f"their sum can be {most}" if most > 1 else f"a group has only {most}, so give more rows")
        )
    neutral, most = evaluation.neutral_prompts, survey.neutral_prompts
    if most == 0:
        yield f"evaluation.neutral_prompts = {neutral}: {NO_NEUTRAL_PROMPTS[survey.tally.task]}"
    elif most is not None and neutral > most:
        yield f"evaluation.neutral_prompts = {neutral}; set it to {most} or fewer"


def _print(survey: Survey, stopped: Sequence[str], console: Console) -> None:
    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    report = survey.tally.report()
    say(f"{report} ({survey.tally.form})")
    say("columns: " + ", ".join(f"{field} = {column}" for field, column in report.columns.items()))
    for example in survey.tally.examples():
        say(f"  {example}")
    table = Table(title="groups", title_justify="left")
    table.add_column("group")
    for column in next(iter(survey.groups.values())):
        table.add_column(column, justify="right")
    for group, numbers in survey.groups.items():
        table.add_row(escape(group), *(f"{number:,}" for number in numbers.values()))
    console.print(table)
    for what, (low, median, high) in survey.lengths.items():
        say(f"words of {what}: {median:,} (median); half of them have {low:,} to {high:,}")
    for setting in survey.settings:
        say(f"setting: {setting}")
    for note in survey.notes:
        say(f"note: {note}")
    if survey.prompts_per_group is not None and survey.neutral_prompts is not None:
        say(
            f"evaluation prompts: evaluation.prompts_per_group={survey.prompts_per_group} and "
            f"evaluation.neutral_prompts={survey.neutral_prompts} at most"
        )
    for least in MINIMUMS[survey.tally.task]:
        say(f"needed: {least}")
    for fault in stopped:
        say(f"a run would stop: {fault}")
    if not stopped:
        say("a run can use this")
