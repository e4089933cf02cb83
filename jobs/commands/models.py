"""The subcommands about judges, reward models and data: ``scpl judge``, ``scpl reward`` and ``scpl data``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.arguments import Arguments
from jobs.driver import experiments
from jobs.terminal.command import fail, split_arguments
from jobs.terminal.display import wide_console
from scpl_ray.config.paths import user_path

judge = typer.Typer(no_args_is_help=True, help="The judge that tells kinds of text: train it and print its card.")
reward = typer.Typer(no_args_is_help=True, help="Reward models with one output per group: train one for reward.model.")
data = typer.Typer(no_args_is_help=True, help="Data of your own: look at a file before a run.")
Output = Annotated[
    Path, typer.Option(parser=user_path, metavar="PATH", help="New folder for the model and its card.json.")
]


@judge.command("train")
def judge_train(output: Output, arguments: Arguments = None) -> None:
    """Train the judge that a run of this config uses, and print how often it errs on text it has not seen.

    [bold]scpl judge train news_smollm2 task.data=ARTICLES.jsonl --output judges/news[/] fits a TF-IDF classifier in
    seconds, as it does for maths; with [bold]task.judge=encoder[/] an encoder is fine-tuned, which takes minutes.
    [bold]scpl judge train preference_smollm2 task.data=ANSWERS.jsonl --output judges/preference[/] fits a reward model
    with one output per group. A run trains the same judge by itself, once, and keeps it.
    """
    from jobs.judge import train_judge

    try:
        train_judge(experiments.load(*split_arguments(arguments or [])), output)
    except ValueError as error:
        raise fail(error) from error


@reward.command("train")
def reward_train(output: Output, arguments: Arguments = None) -> None:
    """Train a reward model with one output per group on the training questions, and print how it orders unseen pairs.

    [bold]scpl reward train preference_smollm2 task.data=ANSWERS.jsonl --output rewards/mine[/], then
    [bold]scpl run preference_smollm2 task.data=ANSWERS.jsonl reward.model=rewards/mine 'reward.terms={model: 1.0}'[/]:
    each query is scored by the output of the group that asks it.
    """
    from jobs.judge import train_reward_model

    try:
        train_reward_model(experiments.load(*split_arguments(arguments or [])), output)
    except ValueError as error:
        raise fail(error) from error


@data.command("check")
def data_check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="As task.data: a file or a Hub data set id.")],
    task: Annotated[str, typer.Option(help="maths, news or preference.")],
    keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As for scpl run.")] = None,
) -> None:
    """Say what a task makes of a file: rows used and left out by reason, groups, lengths, and settings that fit.

    [bold]scpl data check ARTICLES.csv --task news 'task.fields={text: body}'[/] answers within seconds, without a
    model. It ends with 1 where a run would stop.
    """
    from jobs.data import check

    try:
        usable = check(file, task, keys or [], wide_console())
    except ValueError as error:
        raise fail(error) from error
    if not usable:
        raise typer.Exit(1)
