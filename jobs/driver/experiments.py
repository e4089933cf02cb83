"""Reading experiments with every check: conflicts between keys, and settings that the chosen engine cannot serve.

The rules of :mod:`scpl_ray.checks` know no engine, because engines belong to :mod:`actors`. This module combines both,
so that one message lists all conflicts of a config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.engines import registry
from jobs.configs import CONFIGS, QUICK_START
from scpl_ray import checks
from scpl_ray.config import Experiment, loading
from scpl_ray.credentials import mask


def conflicts(experiment: Experiment) -> list[str]:
    """All conflicts of an experiment, each as ``key = value: rule and way out``."""
    return [*checks.conflicts(experiment), *map(mask, registry.conflicts(experiment))]


def load(path: Path | None, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment as :func:`scpl_ray.config.loading.load` does, and check it; without a path, the quick start.

    Raises:
        ConfigError: every conflict, one per line.
    """
    source = None if path else "quick start"
    return loading.load(path or CONFIGS[QUICK_START], overrides, conflicts, source)


def loads(text: str, source: str, keys: Mapping[str, Any] | None = None) -> Experiment:
    """Read an experiment as :func:`scpl_ray.config.loading.loads` does, and check it.

    Raises:
        ConfigError: every conflict, one per line.
    """
    return loading.loads(text, source, keys, conflicts)


def build(values: Mapping[str, Any], source: str) -> Experiment:
    """Build an experiment as :func:`scpl_ray.config.loading.build` does, and check it.

    Raises:
        ConfigError: every conflict, one per line.
    """
    return loading.build(values, source, conflicts)
