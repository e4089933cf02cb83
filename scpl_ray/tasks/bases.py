"""The base model from which a run starts: a tiny one trained on the task's text, or an existing one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scpl_ray.config import Experiment
from scpl_ray.models import sources, tiny_base
from scpl_ray.protocols import Task
from scpl_ray.tasks.language import base_model as language_base
from scpl_ray.tasks.language.task import Language
from scpl_ray.tasks.own import as_written

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def base_model(experiment: Experiment, task: Task, progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of the base model of a run, which is policy version 0.

    Args:
        experiment: ``model.name`` and the keys that belong to it are used.
        task: the task whose text a tiny model learns.
        progress: called with the number of training steps done and of all steps while a tiny model is trained.

    Raises:
        ValueError: there is no such model, or it cannot be used; see :func:`scpl_ray.models.sources.resolve_model`.
        RuntimeError: a model that was built or converted here fails its check.
    """
    if not experiment.model.built_here:
        return sources.resolve_model(experiment)
    written = as_written(task)
    if isinstance(written, Language):
        return language_base.ensure_base(experiment, written, progress=progress).path
    return tiny_base.ensure_task_base(experiment, task, progress=progress).path


def known_config(experiment: Experiment, task: Task | None) -> PreTrainedConfig | None:
    """The config of the base model, if it is already on this machine; nothing is built or downloaded.

    Args:
        experiment: ``model.name`` and the keys that belong to it are used.
        task: the task; ``None``: it could not be built, so a tiny model of its text is not known.

    Returns:
        The config; ``None`` if the model must first be built, converted or downloaded.

    Raises:
        ValueError: the config cannot be read.
    """
    if not experiment.model.built_here:
        return sources.found_config(experiment)
    written = as_written(task)
    folder = language_base.found_base(experiment, written) if isinstance(written, Language) else None
    return sources.read_config(folder, "model.name", experiment.model.name, experiment.model.trust_remote_code)
