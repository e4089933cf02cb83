"""The experiments and studies that come with the package."""

from pathlib import Path

_FILES = sorted(Path(__file__).parent.glob("*.yaml"))
_OF_STUDIES = ("study_", "paper_")
CONFIGS = {path.stem: path for path in _FILES if not path.stem.startswith(_OF_STUDIES)}
QUICK_START = "quickstart"
"""The config that runs where none is named."""
STUDIES = {path.stem: path for path in _FILES if path.stem.startswith(_OF_STUDIES)}
