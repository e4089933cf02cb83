"""Paths as users give them."""

from __future__ import annotations

from pathlib import Path


def user_path(text: str | Path) -> Path:
    """The path that a user gave, with ``~`` for the home folder; that of a user who does not exist stays as it is."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path
