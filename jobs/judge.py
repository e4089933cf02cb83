"""Train the judge of a task and show its card: ``scpl judge train``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from jobs.display import card_table, quietly
from scpl_ray import tasks
from scpl_ray.config import Experiment
from scpl_ray.configfile import ConfigError
from scpl_ray.protocols import Card


def train(experiment: Experiment, output: Path) -> None:
    """Train the judge that a run of this experiment uses into a new folder, and print its card.

    Raises:
        ValueError: the task has no trained judge, or data, encoder or folder cannot be used.
    """
    trained(tasks.JUDGES, experiment, output, "judge")


def trained(
    trainers: Mapping[str, Callable[[Experiment, Path], Card]], experiment: Experiment, output: Path, what: str
) -> None:
    """Train what a task offers into a new folder, and print its card.

    Args:
        trainers: by ``task.name``.
        experiment: the config.
        output: new or empty folder.
        what: is trained.

    Raises:
        ValueError: the task does not offer it, or data, encoder or folder cannot be used.
    """
    name = experiment.task.name
    if name not in trainers:
        raise ConfigError(
            f"task.name = {name!r}: this task trains no {what}; set task.name to one of {', '.join(sorted(trainers))}"
        )
    with quietly(f"training the {what}; minutes where an encoder is fine-tuned on a CPU") as console:
        card = trainers[name](experiment, output)
        console.print(card_table(card, f"{what} in {output}"))
        console.print(card.summary())
