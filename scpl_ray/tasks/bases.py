"""The base model from which a run starts: a tiny one trained on the task's text, or an existing one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scpl_ray.config import Experiment
from scpl_ray.models import sources, tiny, tiny_base
from scpl_ray.models.tokens import load_tokenizer
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
    """The config of the base model, if it is known on this machine; nothing is built or downloaded.

    Args:
        experiment: ``model.name`` and the keys that belong to it are used.
        task: the task; ``None``: it could not be built, so a tiny model of its text is not known.

    Returns:
        The config; of a tiny model that is not made yet, with as many tokens as its vocabulary may get. ``None`` if the
        model must first be converted or downloaded, or the task is not known.

    Raises:
        ValueError: the config cannot be read.
    """
    if not experiment.model.built_here:
        return sources.found_config(experiment)
    if task is None:
        return None
    folder = made_base(experiment, task)
    if folder is None:
        return _tiny_config(experiment, task)
    return sources.read_config(folder, "model.name", experiment.model.name, experiment.model.trust_remote_code)


def made_base(experiment: Experiment, task: Task | None) -> Path | None:
    """The folder of a tiny base model that is in the cache; ``None``: it is not, or that is not looked up."""
    written = as_written(task)
    return language_base.found_base(experiment, written) if isinstance(written, Language) else None


def _tiny_config(experiment: Experiment, task: Task) -> PreTrainedConfig:
    written, positions = as_written(task), tiny_base.POSITIONS
    if isinstance(written, Language):
        tokens, positions = len(written.vocabulary) + len(tiny.SPECIAL_TOKENS), tiny.POSITIONS
    elif task.tokenizer is not None:
        tokens = len(load_tokenizer(task.tokenizer))
    else:
        tokens = experiment.model.vocabulary
    special = {"pad_token_id": 0, "eos_token_id": len(tiny.SPECIAL_TOKENS) - 1}
    return tiny.build_config(experiment.model.family, positions, vocab_size=tokens, **special)
