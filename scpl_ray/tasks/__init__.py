"""The registry of tasks. A new task needs one folder or file and one record in :data:`TASKS`.

The records name their builders, which are imported when they are called, so reading a config imports no task.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scpl_ray.config import Experiment
from scpl_ray.own import references
from scpl_ray.own.registry import Registry
from scpl_ray.protocols import Card, Task
from scpl_ray.tasks.language import LEAST_MARKED, UNMARKED_KEPT

if TYPE_CHECKING:  # reading a config imports no task
    from scpl_ray.tasks.survey import Survey

DEPENDS_ON = (
    "task",
    "groups.names",
    "model",
    "generation.max_new_tokens",
    "reward.terms",
    "reward.tokens_per_batch",
    "evaluation.prompts_per_group",
    "evaluation.neutral_prompts",
)
"""Sections and keys that the builders of this project's tasks read. One that reads another key must add it here."""
READ_BY_NO_TASK = ("name", "placement", "store", "tracking", "analytic")
"""What no task is built from, whoever wrote it: how a run is called, where it works, and what it keeps and shows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskKind:
    """The properties of a task that are known before it is built."""

    meaning: str
    """What the model writes, in a few words."""
    builder: str
    """``module:function`` that builds the :class:`~scpl_ray.protocols.Task` of an experiment."""
    reads_data: bool
    """Whether the task needs ``task.data``; a task that makes its own text refuses it."""
    judges: tuple[str, ...] = ()
    """The values of ``task.judge`` that the task supports; empty: it has one judge, and the key must be left out."""
    judge_trainer: str | None = None
    """``module:function`` that trains the judge into a new folder and returns its card; ``None``: nothing to train."""
    surveyor: str | None = None
    """``module:function`` that looks at data without a model (:mod:`scpl_ray.tasks.survey`); ``None``: no data."""
    reward_trainer: str | None = None
    """The same for a reward model with one output per group; ``None``: the data contain no users' choices."""
    unmarked_kept: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Fraction, above 0, of the prompts that reveal no group which real text keeps, by ``task.real_text``; empty: 1, it
    answers prompts as users send them, as where both are drawn from one pool of data."""
    least_marked: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Smallest ``task.marker_strength`` at which real text is what it should be, by ``task.real_text``; empty: any."""
    own_kind_weight: float = 0.0
    """Part of an answer's quality, in [0, 1], that is whether it is of the kind which the asking group prefers."""
    own: bool = False
    """Whether it is not a task of this project, so that it is tried before it is used."""

    def build(self, experiment: Experiment) -> Task:
        """Build the task of an experiment.

        Raises:
            DataError: ``task.data`` cannot be used.
            ValueError: it is a task of the user's own, which cannot be imported, fails, or breaks a rule of the
                protocol.
        """
        function = references.load(self.builder, "task.name")
        if not self.own:
            task: Task = function(experiment)
            return task
        from scpl_ray.tasks import trial

        return trial.built(function, experiment)

    def survey(self, experiment: Experiment, *, named: bool) -> Survey:
        """Look at ``task.data``; only for tasks with a ``surveyor``.

        Args:
            experiment: its sections ``task``, ``groups`` and ``generation`` matter.
            named: whether the groups are the user's; otherwise those of the data are taken.

        Raises:
            DataError: the data cannot be read.
        """
        survey: Survey = pkgutil.resolve_name(str(self.surveyor))(experiment, named=named)
        return survey

    def train_judge(self, experiment: Experiment, folder: Path) -> Card:
        """Train the judge into a new folder; only for tasks with a ``judge_trainer``."""
        return _train(self.judge_trainer, experiment, folder)

    def train_reward_model(self, experiment: Experiment, folder: Path) -> Card:
        """Train a reward model into a new folder; only for tasks with a ``reward_trainer``."""
        return _train(self.reward_trainer, experiment, folder)


def _train(trainer: str | None, experiment: Experiment, folder: Path) -> Card:
    if trainer is None:
        raise ValueError(f"task.name = {experiment.task.name!r}: has nothing of this kind to train")
    card: Card = pkgutil.resolve_name(trainer)(experiment, folder)
    return card


_BUILT_IN = {
    "language": TaskKind(
        meaning="sentences of a small made-up language, built in and offline",
        builder="scpl_ray.tasks.language.task:build",
        reads_data=False,
        unmarked_kept=UNMARKED_KEPT,
        least_marked=LEAST_MARKED,
        own_kind_weight=1 / 3,
    ),
    "maths": TaskKind(
        meaning="solutions of problems whose answers can be checked",
        builder="scpl_ray.tasks.maths.task:build",
        reads_data=True,
        surveyor="scpl_ray.tasks.maths.survey:survey",
        judge_trainer="scpl_ray.tasks.maths.task:train_judge",
    ),
    "news": TaskKind(
        meaning="continuations of news articles",
        builder="scpl_ray.tasks.news.task:build",
        reads_data=True,
        surveyor="scpl_ray.tasks.news.survey:survey",
        judges=("tfidf", "encoder"),
        judge_trainer="scpl_ray.tasks.news.judge:train_judge",
    ),
    "preference": TaskKind(
        meaning="answers to questions on which groups prefer different ones",
        builder="scpl_ray.tasks.preference.task:build",
        reads_data=True,
        surveyor="scpl_ray.tasks.preference.survey:survey",
        judge_trainer="scpl_ray.tasks.preference.judge:train_judge",
        reward_trainer="scpl_ray.tasks.preference.task:train_reward_model",
        own_kind_weight=1.0,
    ),
}


def depends_on(experiment: Experiment) -> tuple[str, ...]:
    """The sections and keys that a task is built from. Experiments that agree on them have the same task.

    A task of this project reads what :data:`DEPENDS_ON` says. One of the user's own may read any key, also the seed.
    """
    if not TASKS[experiment.task.name].own:
        return DEPENDS_ON
    return tuple(key for key in type(experiment).model_fields if key not in READ_BY_NO_TASK)


def _adopted(name: str, reference: str) -> TaskKind:
    """A task by the function that builds it; it may read ``task.data`` or not."""
    return TaskKind(meaning=f"built by {reference}", builder=reference, reads_data=True, own=True)


class Tasks(Registry[TaskKind]):
    """The tasks of this project and of installed packages, and any task by a reference to its builder."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and references.is_reference(name))

    def __missing__(self, name: str) -> TaskKind:
        return _adopted(name, name) if references.is_reference(name) else super().__missing__(name)


TASKS = Tasks(_BUILT_IN, "scpl_ray.tasks", _adopted)
"""The tasks, by ``task.name``."""
