"""``scpl push``: a policy for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.terminal.command import fail
from jobs.terminal.display import wide_console
from scpl_ray.config.paths import user_path
from scpl_ray.storage.errors import StoreError


def push(
    run_dir: Annotated[Path, typer.Argument(parser=user_path, metavar="RUN_DIR", help="The folder of a run.")],
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The repository on the Hugging Face Hub.")],
    round_: Annotated[int | None, typer.Option("--round", help="Whose policy (default: the last round's).")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Upload it; without this only show what would be.")] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Upload it even where everybody can read the repository.")
    ] = False,
) -> None:
    """Show what a policy would be on the Hugging Face Hub, its files and its model card; with --yes, upload it.

    [bold]scpl push runs/NAME --repo me/my-policy[/] prints files, bytes and card, and uploads nothing. An adapter is
    uploaded where its base model is on the Hub, else the whole model. A new repository is private. What lies in an
    existing one is replaced, and stays in its history.
    """
    from jobs import push as job

    try:
        job.push(run_dir, repo, round_, wide_console(), yes=yes, public=public)
    except (ValueError, StoreError) as error:
        raise fail(error) from error
