"""The experiments and studies that come with the package."""

from pathlib import Path

_FILES = sorted(Path(__file__).parent.glob("*.yaml"))
CONFIGS = {path.stem: path for path in _FILES if not path.stem.startswith("study_")}
STUDIES = {path.stem: path for path in _FILES if path.stem.startswith("study_")}
