"""Run a study: ``python -m jobs.sweep`` does what ``scpl sweep`` does, for use with ``ray job submit``."""

import typer

from jobs.commands.studies import sweep

if __name__ == "__main__":
    typer.run(sweep)
