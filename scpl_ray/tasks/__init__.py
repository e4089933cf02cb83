"""What a model can be asked to write. Adding a task is one file and one line of :data:`TASKS`."""

from collections.abc import Callable
from pathlib import Path

from scpl_ray.config import Experiment
from scpl_ray.protocols import Card, Task
from scpl_ray.tasks import language, leaning, maths, news, preference, preference_judge

TASKS: dict[str, Callable[[Experiment], Task]] = {
    "language": language.build,
    "maths": maths.build,
    "news": news.build,
    "preference": preference.build,
}
"""Builders by ``task.name``."""
JUDGES: dict[str, Callable[[Experiment, Path], Card]] = {
    "news": leaning.train_judge,
    "preference": preference_judge.train_judge,
}
"""Of tasks whose judge is trained: trains it into a new folder and returns its card; by ``task.name``."""
REWARD_MODELS: dict[str, Callable[[Experiment, Path], Card]] = {"preference": preference.train_reward_model}
"""Of tasks whose data hold users' choices: trains a reward model with one output per group; by ``task.name``."""
