"""The experiment files that come with the package."""

from pathlib import Path

CONFIGS = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}
