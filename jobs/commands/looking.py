"""The subcommands that look at what is there: ``scpl sample``, ``scpl status`` and ``scpl list``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal.command import fail
from jobs.terminal.display import wide_console
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.paths import user_path
from scpl_ray.storage.errors import StoreError


def sample(
    run_dir: Annotated[Path, typer.Argument(parser=user_path, metavar="RUN_DIR", help="The folder of a run.")],
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="With --prompt: sampling keys, e.g. generation.temperature=0.5."),
    ] = None,
    round_: Annotated[
        list[int] | None,
        typer.Option("--round", help="Whose policy answers; several stand side by side (default: the last)."),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="What is asked; - reads one prompt per line.")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="Answers per prompt; recorded ones: prompts per group.")] = 3,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="With --prompt, of the answers: one seed gives the same answers again (default: 0)."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="With --prompt: send prompts without the model's chat template.")
    ] = False,
) -> None:
    """Ask the policies of a run, or see what they answered, side by side.

    [bold]scpl sample runs/NAME[/] shows the recorded answers of the first and the last round to the same prompts.
    [bold]scpl sample runs/NAME --prompt "the cat" --round 0 --round 5[/] asks two policies, on this machine and
    without Ray. [bold]scpl sample runs/NAME --prompt -[/] talks to the last one.
    """
    from jobs import sample as job

    try:
        changes = [*(keys or []), *(["--seed"] if seed is not None else []), *(["--raw"] if raw else [])]
        if changes and prompt is None:
            raise ConfigError(f"{changes[0]}: changes how a policy is asked; give --prompt too")
        asked = itertools.chain.from_iterable(_lines() if text == "-" else [text] for text in prompt or ())
        job.sample(
            run_dir,
            round_ or [],
            asked if prompt is not None else None,
            keys or [],
            wide_console(),
            number=number,
            seed=seed or 0,
            raw=raw,
        )
    except (ValueError, StoreError) as error:
        raise fail(error) from error


def _lines() -> Iterator[str]:
    """Prompts from standard input, one a line; a person at a terminal sees where to write."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")


def status(
    path: Annotated[Path, typer.Argument(parser=user_path, metavar="PATH", help="The folder of a run or study.")],
) -> None:
    """Say how far a run or study has come, whether somebody is running it, and how it continues."""
    from jobs import status as job

    try:
        job.show(path, wide_console())
    except (ValueError, StoreError) as error:
        raise fail(error) from error


def names(
    what: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="configs, studies, tasks, rules, strategies, presets, ...")
    ] = None,
) -> None:
    """List the names that a config may use, each with one line: configs, tasks, rules, strategies, presets, engines."""
    from jobs import listing as job

    try:
        job.show(what, wide_console())
    except ConfigError as error:
        raise fail(error) from error
