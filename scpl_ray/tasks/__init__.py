"""What a model can be asked to write. Adding a task is one file and one line of :data:`TASKS`."""

from collections.abc import Callable

from scpl_ray.config import Experiment
from scpl_ray.protocols import Task
from scpl_ray.tasks import language, maths, news

TASKS: dict[str, Callable[[Experiment], Task]] = {
    "language": language.build,
    "maths": maths.build,
    "news": news.build,
}
"""Builders by ``task.name``."""
