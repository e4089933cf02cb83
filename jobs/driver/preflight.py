"""What files on disk and the metadata of the Hub tell about a run before it starts; nothing is made or downloaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ray import cloudpickle

from actors.engines.registry import ENGINES
from jobs.driver import own_code, real_answers
from jobs.driver.ray_session import ADDRESS
from scpl_ray import checks
from scpl_ray.config import Experiment
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.paths import user_path
from scpl_ray.config.schema import FUNCTION_TERM, MODEL_TERM
from scpl_ray.feedback import rules
from scpl_ray.models import limits, loading, prompts, smollm2, sources, tiny, tiny_base
from scpl_ray.own import functions, references
from scpl_ray.protocols import Task
from scpl_ray.storage import cache
from scpl_ray.tasks import bases
from scpl_ray.tasks.own import OwnTask
from scpl_ray.training.objectives import OBJECTIVES

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MOST_ASKED = 1_000_000
"""Largest number of prompts of a kind, or of answers to each, that a run may ask for."""


def check_config(experiment: Experiment, *, on_gpu: bool) -> None:
    """Check what can be known before the task is built.

    Args:
        experiment: the config.
        on_gpu: whether engines may run on GPUs, which serve more models than a CPU.

    Raises:
        ConfigError: the folder, the models or the settings do not fit; the message lists every fault.
    """
    every = (_cache, _own_code, _asked, _rule, _first_round, _lengths, _steps, _model, _reward_model)
    _together(every, experiment, on_gpu)


def check_grows(experiment: Experiment) -> None:
    """Check that ``placement.cluster`` is of a cluster that a run would join.

    Raises:
        ConfigError: ``RAY_ADDRESS`` is not set.
    """
    if experiment.placement.cluster is not None and not os.environ.get(ADDRESS):
        raise ConfigError(
            f"placement.cluster = {experiment.placement.cluster!r}: {ADDRESS} names no cluster that can grow to it; "
            f"set {ADDRESS}, or run on this machine with placement.cluster=null; --dry-run plans for it without an "
            "address"
        )


def check_measured(experiment: Experiment, *, on_gpu: bool) -> None:
    """As :func:`check_config`, for an experiment whose model is measured and not trained.

    Raises:
        ConfigError: as :func:`check_config`.
    """
    _together((_cache, _model), experiment, on_gpu)


def _together(every: Sequence[Callable[[Experiment, bool], None]], experiment: Experiment, on_gpu: bool) -> None:
    found = []
    for check in every:
        try:
            check(experiment, on_gpu)
        except ValueError as error:
            found.append(str(error))
    if found:
        raise ConfigError("\n".join(dict.fromkeys(found)))


def check_task(experiment: Experiment, task: Task) -> None:
    """Check what the task's own prompts, choices and real examples tell.

    Raises:
        ValueError: there are too few prompts, or nothing that users could choose between, or the user's own reward
            function cannot score real answers, or the user's own task cannot be sent to other processes, or its prompts
            would be cut, or real answers are too long to train on.
    """
    check_sent(task)
    settings = experiment.evaluation
    task.group_prompts(settings.prompts_per_group)
    task.neutral_prompts(settings.neutral_prompts)
    if experiment.reward.terms.get(MODEL_TERM) and experiment.reward.model is None:
        task.choices(experiment.groups.names, seed=experiment.seed)
    if experiment.reward.function is not None and experiment.reward.terms.get(FUNCTION_TERM):
        queries = task.group_prompts(1)
        functions.rewards(experiment.reward.function, queries, [query.reference or "" for query in queries])
    with contextlib.suppress(cache.NotMadeError):  # the plan says that the tokenizer is not here
        check_own_prompts(experiment, task)
        real_answers.check(experiment, task)


def check_own_prompts(experiment: Experiment, task: Task) -> None:
    """Check that no prompt of a task of the user's own would be cut.

    Those of this project's tasks were held against the limit when the task was built. The tokenizer of a tiny model is
    made with the model, which checks them then.

    Raises:
        ValueError: one would be.
        NotMadeError: in a plan, the tokenizer is not here.
    """
    if isinstance(task, OwnTask):
        folder = real_answers.tokenizer_of(experiment, task)
        if folder is not None:
            prompts.check(experiment, task, folder)


def check_sent(task: Task) -> None:
    """Check that a task of the user's own can be sent to other processes, as Ray sends it.

    Raises:
        ValueError: it cannot be pickled; the message names the attribute.
    """
    if not isinstance(task, OwnTask):
        return
    who = f"task.name: sending the task of {task.name!r} to other processes"
    try:
        references.called_as(who, cloudpickle.dumps, task.task)
    except references.FailedError as error:
        attributes = vars(task.task) if "__dict__" in dir(task.task) else {}
        bad = [f"its attribute {name} cannot be sent: " for name, value in attributes.items() if not _sent(value)]
        raise ValueError(
            f"{error}; {''.join(bad[:1])}make it where it is used, in the method, and not when the task is built"
        ) from error


def _sent(value: object) -> bool:
    try:
        references.called_as("", cloudpickle.dumps, value)
    except references.FailedError:
        return False
    return True


def made_first(experiment: Experiment, task: Task | None) -> dict[str, str]:
    """What a run makes or downloads before round 0, by name, each with its cost in words; nothing is made here.

    Args:
        experiment: the config.
        task: its task; ``None``: it was not built, because that would have made something costly.
    """
    name, cost = experiment.model.name, {}
    if experiment.model.built_here:
        if bases.made_base(experiment, task) is None:
            cost["tiny base model"] = "minutes, unless it is in the cache"
    elif name == smollm2.NAME and smollm2.found() is None:
        cost[smollm2.ENTRY] = "half a minute: it is converted from its package"
    for key, model, revision in (
        ("model.name", name, experiment.model.revision),
        ("reward.model", experiment.reward.model, None),
    ):
        if model is not None:
            with contextlib.suppress(cache.NotMadeError):
                if size := sources.download_bytes(model, key, revision):
                    cost[model] = f"a download of {size / 1e9:.1f} GB"
    return cost


def _cache(experiment: Experiment, on_gpu: bool) -> None:
    folder = cache.directory()
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{folder}: {there} cannot be written; set SCPL_CACHE to a folder that can be written")


def _own_code(experiment: Experiment, on_gpu: bool) -> None:
    own_code.luggage([experiment])


def _rule(experiment: Experiment, on_gpu: bool) -> None:
    rules.try_custom(experiment.feedback, experiment.groups)


def _asked(experiment: Experiment, on_gpu: bool) -> None:
    generation, evaluation = experiment.generation, experiment.evaluation
    numbers = {
        "queries.prompts_per_round": experiment.queries.prompts_per_round,
        "generation.samples_per_prompt": generation.samples_per_prompt,
        "evaluation.prompts_per_group": evaluation.prompts_per_group,
        "evaluation.neutral_prompts": evaluation.neutral_prompts,
        "evaluation.samples_per_prompt": evaluation.samples_per_prompt,
        "evaluation.steering_prompts_per_group": evaluation.steering_prompts_per_group,
    }
    if over := [f"{key} = {number}" for key, number in numbers.items() if number > MOST_ASKED]:
        raise ValueError(
            f"{', '.join(over)}: a run has all prompts and answers of a round in memory; ask for at most "
            f"{MOST_ASKED:,} of each (scpl simulate, which only counts them, takes more)"
        )


def _first_round(experiment: Experiment, on_gpu: bool) -> None:
    checks.first_round(experiment)


def _lengths(experiment: Experiment, on_gpu: bool) -> None:
    room = experiment.training.tokens_per_micro_batch
    longest, said = _longest(experiment)
    if room < longest:
        raise ValueError(
            f"training.tokens_per_micro_batch = {room}: {said}, and none is cut; raise it to at least {longest}"
        )


def _steps(experiment: Experiment, on_gpu: bool) -> None:
    training = experiment.training
    longest, said = _longest(experiment)
    if training.steps is not None and training.tokens_per_step < longest:
        raise ValueError(
            f"training.tokens_per_step = {training.tokens_per_step}: {said}, and one that is longer than a step has a "
            f"step to itself, so that arms would not train equally much in training.steps = {training.steps}; raise it "
            f"to at least {longest}, or leave training.steps out"
        )


def _longest(experiment: Experiment) -> tuple[int, str]:
    """The tokens that what trains together may have, and the same in words."""
    asked, written = experiment.task.max_prompt_tokens, experiment.generation.max_new_tokens
    pairs = OBJECTIVES[experiment.training.objective].pairs
    longest = (asked + written) * (2 if pairs else 1)
    return longest, (
        f"{'a pair of sequences' if pairs else 'a sequence'} may have {longest} tokens ({asked} of a prompt and "
        f"{written} of a completion{' each' if pairs else ''})"
    )


def _model(experiment: Experiment, on_gpu: bool) -> None:
    """What a model's folder, or the Hub, says; a tiny model's sizes are known before it is made."""
    model = experiment.model
    if model.built_here:
        positions = real_answers.tiny_positions(experiment)
        limits.check_positions(positions, experiment, "the tiny model")
        asked, learned = experiment.task.max_prompt_tokens, tiny_base.PROMPT_POSITIONS
        if asked > learned:
            raise ValueError(
                f"task.max_prompt_tokens = {asked}: the tiny model learns from the first {learned} tokens of a prompt "
                f"only, and would be asked the whole; set it to at most {learned}, or choose another model.name"
            )
        _served(tiny.build_config(model.family, positions), experiment, on_gpu)
        return
    sources.check_model(experiment)
    if model.name != smollm2.NAME and not sources.has_weights(model.name, "model.name", model.revision):
        with contextlib.suppress(cache.NotMadeError):  # the plan says that the Hub was not reached
            sources.check_hub(model.name, "model.name", model.revision)
    config = sources.found_config(experiment)
    if config is None:
        return
    limits.check_config(config, experiment, model.name)
    _served(config, experiment, on_gpu)
    folder = user_path(model.name)
    if folder.is_dir() and sources.has_tokenizer(folder):
        limits.check_tokenizer(folder, config, model.name, trust_remote_code=model.trust_remote_code)
    if folder.is_dir() and not model.trust_remote_code:
        from transformers import AutoModelForCausalLM

        loading.check_names(AutoModelForCausalLM, folder, config, f"model.name: {model.name}")


def _served(config: PreTrainedConfig, experiment: Experiment, on_gpu: bool) -> None:
    engine = ENGINES[experiment.generation.engine].load()
    if fault := engine.refuses(config.get_text_config(), experiment, on_gpu=on_gpu):
        raise ValueError(fault)


def _reward_model(experiment: Experiment, on_gpu: bool) -> None:
    name = experiment.reward.model
    if name is None:
        return
    folder = user_path(name)
    if folder.is_dir():
        trust = experiment.model.trust_remote_code
        sources.checked(folder, "reward.model", name, trust_remote_code=trust)
    elif not sources.has_weights(name, "reward.model", None):
        with contextlib.suppress(cache.NotMadeError):
            sources.check_hub(name, "reward.model", None)
        if sources.known_reward_config(experiment) is None:
            return
    sources.check_reward_model(experiment)
    config = sources.known_reward_config(experiment)
    if folder.is_dir() and config is not None and not experiment.model.trust_remote_code:
        from transformers import AutoModelForSequenceClassification

        loading.check_names(AutoModelForSequenceClassification, folder, config, f"reward.model: {name}")
