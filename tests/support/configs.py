"""Configs for tests that do not ask what the quick start is."""

from collections.abc import Sequence

from jobs.driver import experiments
from scpl_ray.config import Experiment, loading


def defaults(overrides: Sequence[str] = ()) -> Experiment:
    """The default of every key with some overrides, checked as on the command line."""
    return loading.load(None, overrides, experiments.conflicts)
