"""Run a study: ``python -m jobs.sweep`` is ``scpl sweep``, for ``ray job submit``."""

import typer

from jobs.cli import sweep

if __name__ == "__main__":
    typer.run(sweep)
