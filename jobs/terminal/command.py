"""What every subcommand of ``scpl`` needs: paths as users give them, and the message that ends a command."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from scpl_ray.credentials import masked


def user_path(text: str | Path) -> Path:
    """The path that a user gave, with ``~`` for the home folder."""
    return Path(text).expanduser()


def fail(error: Exception) -> typer.Exit:
    """One message on stderr, exit code 2: nothing was started."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"scpl: {masked(error)}", markup=False)
    return typer.Exit(2)
