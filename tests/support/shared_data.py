"""Real data and cases that lie beside the project, in a folder ``shared`` above it; without them a test is skipped."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def case(name: str) -> Path:
    """A file of ``shared/cases``."""
    for folder in ROOT.parents:
        if (path := folder / "shared" / "cases" / name).is_file():
            return path
    pytest.skip(f"shared/cases/{name} is not on this machine")
