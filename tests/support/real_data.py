"""Published data beside the checkout (``../shared``), which are no part of it; tests skip where they are missing."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("SCPL_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
"""The folder ``shared`` beside the checkout, or the one that ``SCPL_SHARED`` names."""


def path(name: str) -> Path:
    """A file of the shared folder, e.g. ``cases/answers.tsv``."""
    found = SHARED / name
    if not found.is_file():
        pytest.skip(f"{found} is not here")
    return found


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file of the shared folder."""
    return [json.loads(line) for line in path(name).read_text(encoding="utf-8").splitlines()]
