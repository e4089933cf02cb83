"""Arguments that several subcommands take."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.configs import CONFIGS

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...",
        help="A YAML file or a built-in config (" + ", ".join(CONFIGS) + "), then keys to change, e.g. loop.rounds=3. "
        "Without a config: the quick start, offline, on a CPU.",
    ),
]
CHECKING = "checking the config, its data and its models"
"""Shown while a command checks whether it can start."""
