"""The results of a study or of single runs on one page: ``scpl report``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from jobs.configs import CONFIGS
from scpl_ray.report import data, export, page
from scpl_ray.storage import locations
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies import results, verdicts

FOLDER = "report"


def write(places: Sequence[str | Path], output: Path | None, *, csv: bool = False, latex: bool = False) -> Path:
    """Write the report of study folders and run directories; returns the path of the page.

    In the folder of a study whose claims have verdicts, that they were looked at is noted.

    Args:
        places: one or more study folders or run directories; a run may also be given by URI.
        output: folder to write to; ``None``: ``report`` in the given folder, or in the working directory if several
            places or a URI were given.
        csv: also write the claims as a CSV table.
        latex: also write them as a LaTeX table, with a methods paragraph and BibTeX references.

    Raises:
        StoreError: a path is neither, or holds no results, or the folder cannot be written.
        ValueError: a study file or results cannot be read.
    """
    with locations.readable([str(place) for place in places]) as names:
        parts = data.load(list(names), CONFIGS, names)
        beside = [path / FOLDER for path, name in names.items() if name == str(path)]
        folder = output or (beside[0] if len(beside) == len(places) == 1 else Path(FOLDER))
        try:
            written = page.write(parts, folder)
            export.write(parts, folder, csv=csv, latex=latex)
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror}; give a folder that can be written with --output") from error
    for part in parts:
        _note_look(part)
    return written


def _note_look(part: data.Part) -> None:
    """Note in the folder of a study that its verdicts were shown, finished or not: another look may be the last one.

    Without seeds enough for a verdict there are intervals alone, which add no chance of a false one. A folder that
    cannot be written is somebody else's to continue.
    """
    if part.study is None or not part.study.claims or not verdicts.judge(part.series, part.study).tested:
        return
    with contextlib.suppress(OSError):
        results.note_look(Path(part.source), part.looked_at)
