"""The rules that a config must satisfy beyond its types; every conflict is found before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np

from scpl_ray import tasks
from scpl_ray.config import Experiment, code
from scpl_ray.config.errors import nearest
from scpl_ray.config.schema import CUSTOM, FUNCTION_TERM, MODEL_TERM
from scpl_ray.config.values import NAME_RULE, names_folder
from scpl_ray.credentials import mask
from scpl_ray.feedback import rules as feedback
from scpl_ray.feedback.population import first_counts
from scpl_ray.own import references
from scpl_ray.own.registry import Registry
from scpl_ray.selection import group_aware, strategies, targets
from scpl_ray.selection.candidates import kept_rows
from scpl_ray.shares import largest_remainder
from scpl_ray.tracking import flat
from scpl_ray.training.objectives import OBJECTIVES


def conflicts(experiment: Experiment) -> list[str]:
    """List all conflicts between keys, each as ``key = value: the rule that is broken, and what to do``."""
    rules = (
        *(_credentials, _name, _registries, _groups, _own, _engines, _selection, _impossible),
        *(_choices, _real, _objective),
    )
    return [mask(complaint) for rule in rules for complaint in rule(experiment)]


def terms(asked: Iterable[str], known: Collection[str]) -> None:
    """Check that a task has the rule terms that are asked for.

    Args:
        asked: the names in ``reward.terms``; :data:`MODEL_TERM` and :data:`FUNCTION_TERM` may be among them.
        known: the names that the task's ``rule_terms`` returned.

    Raises:
        ValueError: the task lacks one of them.
    """
    if unknown := [name for name in asked if name not in (MODEL_TERM, FUNCTION_TERM, *known)]:
        raise ValueError(f"reward.terms: unknown {unknown}; this task has {[MODEL_TERM, *sorted(known)]}")


def _credentials(experiment: Experiment) -> Iterator[str]:
    for key, value in flat(experiment).items():
        if mask(text := f"{key} = {value}") != text:
            yield f"{mask(key)}: holds a credential; leave it out, give it by environment (HF_TOKEN, AWS_PROFILE, ...)"


def _name(experiment: Experiment) -> Iterator[str]:
    if not names_folder(experiment.name):
        yield f"name = {experiment.name!r}: {NAME_RULE}; it names a folder"


def _unknown(key: str, value: str, known: Registry[Any], otherwise: str) -> Iterator[str]:
    if value not in known:
        names = sorted(known.names)
        yield f"{key} = {value!r}: unknown; one of {', '.join(names)}{otherwise}{nearest(value, names)}"


def _registries(experiment: Experiment) -> Iterator[str]:
    yield from _unknown("task.name", experiment.task.name, tasks.TASKS, ", or your own, FILE.py:build")
    yield from _unknown("selection.strategy", experiment.selection.strategy, strategies.STRATEGIES, "")
    if kind := tasks.TASKS.get(experiment.task.name):
        yield from _task(experiment, kind)
    if not experiment.reward.terms:
        yield "reward.terms = {}: at least one term is needed, e.g. {model: 1.0}"


def _task(experiment: Experiment, kind: tasks.TaskKind) -> Iterator[str]:
    task = experiment.task
    default = type(task).model_fields["judge"].default
    if task.judge != default and task.judge not in kind.judges:
        yield f"task.judge = {task.judge!r}: task.name = {task.name!r} has one judge only; leave task.judge out"
    if task.marker_strength < (least := kind.least_marked.get(task.real_text, 0.0)):
        yield (
            f"task.real_text = {task.real_text!r}: with task.marker_strength = {task.marker_strength:g} the kind of a "
            f"real answer follows from the group; set task.real_text=drawn, or task.marker_strength={least:g} or more"
        )
    if task.data is not None and not kind.reads_data:
        readers = [name for name, other in tasks.TASKS.items() if other.reads_data]
        yield (
            f"task.data = {task.data!r}: task.name = {task.name!r} is built in and reads no data; set task.name to "
            f"{', '.join(readers[:-1])} or {readers[-1]}, or begin with a config such as news_tiny"
        )


def _own(experiment: Experiment) -> Iterator[str]:
    """Functions that are named but not there; the feedback rule says so itself."""
    reward, selection = experiment.reward, experiment.selection
    if reward.terms.get(FUNCTION_TERM) and reward.function is None:
        yield f"reward.terms has {FUNCTION_TERM!r}: reward.function = null; name it: reward.function=FILE.py:function"
    if selection.strategy == CUSTOM and selection.function is None:
        yield f"selection.strategy = {CUSTOM!r}: selection.function = null; name it: selection.function=FILE.py:NAME"
    for key, name in code.references(experiment).items():
        if key == "feedback.function":
            continue
        try:
            references.load(name, key)
        except references.NotFoundError as error:
            yield str(error)


def _groups(experiment: Experiment) -> Iterator[str]:
    k = len(experiment.groups.names)
    for rule in (
        lambda: feedback.validate(experiment.feedback, k),
        lambda: targets.target_shares(experiment.selection, k, experiment.groups.shares),
    ):
        try:
            rule()
        except ValueError as error:
            yield str(error)
    yield from _whole_users(experiment)
    for name, share in zip(experiment.groups.names, experiment.groups.shares, strict=True):
        if share < experiment.feedback.floor <= 1.0 / k:
            yield (
                f"groups.shares = {list(experiment.groups.shares)}: {name} begins below feedback.floor = "
                f"{experiment.feedback.floor:g}; raise its share, or lower the floor"
            )


def _whole_users(experiment: Experiment) -> Iterator[str]:
    """Groups that have a share of the users, but not one of them."""
    groups = experiment.groups
    try:
        feedback.validate(experiment.feedback, len(groups.names))
    except ValueError:
        return  # this is told already
    if not feedback.RULES[experiment.feedback.rule].whole_users(experiment.feedback):
        return
    users = feedback.whole_users(groups, experiment.feedback).astype(int).tolist()
    if none := [name for name, share, n in zip(groups.names, groups.shares, users, strict=True) if share > 0 and not n]:
        yield (
            f"feedback.users = {experiment.feedback.users:g}: in whole users groups.shares = {list(groups.shares)} are "
            f"{users}, none of them of {' and '.join(none)}; raise feedback.users, or set feedback.agents=false"
        )


def _engines(experiment: Experiment) -> Iterator[str]:
    if experiment.generation.refresh == "adapter" and experiment.model.lora is None:
        yield "generation.refresh = 'adapter': full weights have no adapter; set refresh=reload, or model.lora"


def _selection(experiment: Experiment) -> Iterator[str]:
    """Settings under which a strategy cannot do what it is for, or keeps what another one keeps."""
    selection, generation = experiment.selection, experiment.generation
    strategy = strategies.STRATEGIES.get(selection.strategy)
    if strategy is None:
        return
    this = f"selection.strategy = {selection.strategy!r}"
    best_of, samples = selection.best_of, generation.samples_per_prompt
    if strategy.reads_best_of and best_of > samples:
        yield f"selection.best_of = {best_of}: only generation.samples_per_prompt = {samples} candidates are drawn"
    by_prompt = strategy.reads_r_max and selection.r_max == "prompt"
    if by_prompt and strategy.costs_classes and selection.target_of == "groups":
        yield (
            f"selection.r_max = 'prompt': {this} takes the same from all candidates of a prompt, so that it keeps what "
            "vrs keeps; set batch or bound, or use vrs"
        )
    if by_prompt and strategy.more_for_weaker:
        yield (
            f"selection.r_max = 'prompt': {this} draws fewer candidates for groups that are served well, and the best "
            "of few is accepted whatever its reward; set batch or bound"
        )
    if not (by_prompt or strategy.fixes == "prompts"):
        return
    compares = f"{this} compares the candidates of one prompt" + (" (r_max = 'prompt')" if by_prompt else "")
    if samples == 1:
        yield f"generation.samples_per_prompt = 1: {compares}, and keeps everything; draw 2 or more, or use none"
    elif strategy.reads_best_of and best_of == 1:
        yield f"selection.best_of = 1: {compares}, and would take the first whatever its reward; set 2 or more"
    elif generation.temperature == 0:
        yield f"generation.temperature = 0: {compares}, which are all the same text; raise it, or use none"


def _impossible(experiment: Experiment) -> Iterator[str]:
    """Selections that fail in round 1 whatever is answered, and whatever the seed."""
    selection, groups = experiment.selection, experiment.groups
    strategy = strategies.STRATEGIES.built_in(selection.strategy)
    if strategy is None:
        return
    this = f"selection.strategy = {selection.strategy!r}"
    prompts, samples = experiment.queries.prompts_per_round, experiment.generation.samples_per_prompt
    rows = kept_rows(selection.keep_fraction, prompts * samples)
    if strategy.reads_keep_fraction and rows == 0:
        yield (
            f"selection.keep_fraction = {selection.keep_fraction:g}: {this} keeps none of {prompts * samples} "
            f"completions (queries.prompts_per_round = {prompts}, generation.samples_per_prompt = {samples}); raise it"
        )
    if not strategy.reads_target or list(_groups(experiment)):
        return
    target = targets.target_shares(selection, len(groups.names), groups.shares)
    if strategy.costs_classes and not target.all():
        yield f"selection.target = {target.tolist()}: {this}, where the log excess over a 0 is infinite; use quotas"
    elif selection.target_of == "groups":
        sought = largest_remainder(target, rows) if strategy.keep is group_aware.quotas else target
        for name, wanted, share in zip(groups.names, sought, groups.shares, strict=True):
            if wanted > 0 and share == 0:
                yield (
                    f"groups.shares = {list(groups.shares)}: {this} wants completions of {name}, who asks nothing in "
                    "round 1; raise its share, or set selection.target"
                )


def first_round(experiment: Experiment) -> None:
    """Check that selection can work with the queries of each group in round 1, which the seed decides.

    Raises:
        ValueError: a quota exceeds the completions of its group, or a group that is wanted asks nothing.
    """
    selection, names = experiment.selection, experiment.groups.names
    strategy = strategies.STRATEGIES.built_in(selection.strategy)
    if strategy is None or not strategy.reads_target or selection.target_of != "groups":
        return
    asked = first_counts(experiment)
    target = targets.target_shares(selection, len(names), experiment.groups.shares)
    there = asked * experiment.generation.samples_per_prompt
    told = f"in round 1 the groups ask {asked.tolist()} of queries.prompts_per_round = {asked.sum()} prompts"
    if strategy.keep is group_aware.quotas:
        wanted = largest_remainder(target, kept_rows(selection.keep_fraction, int(there.sum())))
        if np.any(wanted > there):
            raise ValueError(
                f"selection.keep_fraction = {selection.keep_fraction:g}: {told}, so that {wanted.tolist()} per group "
                f"cannot be kept of {there.tolist()} completions; lower it, or set selection.target"
            )
    elif missing := [name for name, wanted, n in zip(names, target, asked, strict=True) if wanted > 0 and n == 0]:
        raise ValueError(
            f"selection.target: {told}, and none are of {', '.join(missing)}, of whom selection.strategy = "
            f"{selection.strategy!r} wants a share; raise queries.prompts_per_round, groups.shares, or set the target"
        )


def _choices(experiment: Experiment) -> Iterator[str]:
    reward = experiment.reward
    if reward.choices == type(reward).model_fields["choices"].default:
        return
    this = f"reward.choices = {reward.choices!r}"
    if reward.model is not None:
        yield f"{this}: reward.model = {reward.model!r} is given and learns from no choices; leave one of them out"
    elif reward.terms and not reward.terms.get(MODEL_TERM):
        yield f"{this}: reward.terms has no {MODEL_TERM!r}, so that no reward model learns from choices; leave it out"


def _real(experiment: Experiment) -> Iterator[str]:
    share, rows = experiment.cycle.real_share, experiment.cycle.real_rows
    if share and rows:
        yield f"cycle.real_rows = {rows}: cycle.real_share = {share:g} is given too; leave one of them out"


def _objective(experiment: Experiment) -> Iterator[str]:
    yield from OBJECTIVES[experiment.training.objective].conflicts(experiment)
