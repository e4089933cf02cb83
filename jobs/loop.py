"""Run a loop: ``python -m jobs.loop`` does what ``scpl run`` does, for use with ``ray job submit``."""

import typer

from jobs.cli import run

if __name__ == "__main__":
    typer.run(run)
