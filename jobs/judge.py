"""Train a task's judge or reward model and show its card: ``scpl judge train``, ``scpl reward train``."""

from __future__ import annotations

from pathlib import Path

from jobs.terminal.display import card_table, quietly
from scpl_ray.config import Experiment
from scpl_ray.config.errors import ConfigError
from scpl_ray.tasks import TASKS


def train_judge(experiment: Experiment, output: Path) -> None:
    """Train the judge that a run of this experiment uses into a new folder, and print its card.

    Raises:
        ValueError: the task has no trained judge, or the data, the encoder or the folder cannot be used.
    """
    _check(experiment, "judge", [name for name, kind in TASKS.items() if kind.judge_trainer])
    with quietly("training the judge; minutes where an encoder is fine-tuned on a CPU") as console:
        card = TASKS[experiment.task.name].train_judge(experiment, output)
        console.print(card_table(card, f"judge in {output}"))
        console.print(card.summary(), markup=False)


def train_reward_model(experiment: Experiment, output: Path) -> None:
    """Train a reward model on the preference data of an experiment into a new folder, and print its card.

    Raises:
        ValueError: the task's data hold no choices, or the data, the encoder or the folder cannot be used.
    """
    _check(experiment, "reward model", [name for name, kind in TASKS.items() if kind.reward_trainer])
    with quietly("training the reward model; minutes where an encoder is fine-tuned on a CPU") as console:
        card = TASKS[experiment.task.name].train_reward_model(experiment, output)
        console.print(card_table(card, f"reward model in {output}"))
        console.print(card.summary(), markup=False)


def _check(experiment: Experiment, what: str, having: list[str]) -> None:
    if experiment.task.name not in having:
        raise ConfigError(
            f"task.name = {experiment.task.name!r}: this task trains no {what}; set task.name to one of "
            f"{', '.join(sorted(having))}"
        )
