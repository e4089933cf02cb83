"""Run a loop: ``python -m jobs.loop`` is ``scpl run``, for ``ray job submit``."""

import typer

from jobs.cli import run

if __name__ == "__main__":
    typer.run(run)
