"""Train a reward model with one output per group and show how well it orders pairs: ``scpl reward train``."""

from __future__ import annotations

from pathlib import Path

from jobs.judge import trained
from scpl_ray import tasks
from scpl_ray.config import Experiment


def train(experiment: Experiment, output: Path) -> None:
    """Train a reward model on the preference data of an experiment into a new folder, and print its card.

    Raises:
        ValueError: the task's data hold no choices, or data, encoder or folder cannot be used.
    """
    trained(tasks.REWARD_MODELS, experiment, output, "reward model")
