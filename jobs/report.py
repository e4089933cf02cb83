"""What a study or single runs say, on one page: ``scpl report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jobs.configs import CONFIGS
from scpl_ray.report import data, page
from scpl_ray.store import StoreError

FOLDER = "report"


def write(paths: Sequence[Path], output: Path | None) -> Path:
    """Write the report of study folders and run directories; returns the path of the page.

    Args:
        paths: one or more of either.
        output: folder to write to; ``None``: ``report`` in the folder that was given, or here where several were.

    Raises:
        StoreError: a path that is neither or holds no results, or a folder that cannot be written.
        ValueError: a study file or results that cannot be read.
    """
    parts = data.load(paths, CONFIGS)
    folder = output or (paths[0] / FOLDER if len(paths) == 1 else Path(FOLDER))
    try:
        return page.write(parts, folder)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}; give a folder that can be written with --output") from error
