"""``evaluation.lm_eval``: tasks of lm-evaluation-harness, asked of every policy where that package is installed.

The harness brings its own prompts and counts its own answers (https://github.com/EleutherAI/lm-evaluation-harness); its
data come from the Hub. It says whether a policy still can what the base model could, beside what the loop is about.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from scpl_ray.config import Experiment
from scpl_ray.config.errors import nearest
from scpl_ray.evaluation.catalogue import HARNESS

PACKAGE, MODULE, KEY = "lm_eval", "lm_eval", "evaluation.lm_eval"
PLAIN = "none"
"""The filter of answers that are counted as they are; others are part of a score's name."""


def check(experiment: Experiment) -> None:
    """Check that the harness is installed and has the tasks that are asked for.

    Raises:
        ValueError: it is not, or has not.
    """
    asked = experiment.evaluation.lm_eval
    if not asked:
        return
    if importlib.util.find_spec(MODULE) is None:
        raise ValueError(
            f"{KEY} = {list(asked)}: lm-evaluation-harness is not installed; pip install {PACKAGE}, or leave the key "
            "out"
        )
    from lm_eval.tasks import TaskManager

    known = list(TaskManager().all_tasks)
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(
            f"{KEY} = {list(asked)}: lm-evaluation-harness has no task {unknown[0]}; `lm_eval ls tasks` lists its tasks"
            f"{nearest(unknown[0], known)}"
        )


def measured(model: Any, tokenizer: Any, tasks: Sequence[str], batch: int) -> dict[str, float]:
    """What a model in memory scores on tasks of the harness, by the name of the metric.

    Args:
        model: a causal language model of transformers, which may hold an adapter.
        tokenizer: its tokenizer.
        tasks: names of tasks, or of groups or tags of the harness, which stand for several.
        batch: sequences at a time.

    Raises:
        OSError, ValueError: the data of a task cannot be had.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch),
        tasks=list(tasks),
        log_samples=False,
        bootstrap_iters=0,
    )
    return scores(found or {}, tasks)


def scores(found: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, float]:
    """The scores in what the harness returns, by the name of the metric; standard errors are left out.

    A name that has no score of its own, a tag or a group that adds nothing up, stands for the tasks that were asked.

    >>> results = {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.1, "exact,strict": 1.0}}
    >>> scores({"results": results}, ["arc_easy"])
    {'lm_eval_arc_easy_acc': 0.5, 'lm_eval_arc_easy_exact_strict': 1.0}
    >>> scores({"results": results}, ["ai2_arc"]) == scores({"results": results}, ["arc_easy"])
    True

    Raises:
        ValueError: a name has no score, and nor has any task.
    """
    every = {**found.get("results", {}), **found.get("groups", {})}
    of_task = {task: _scores_of(task, values) for task, values in every.items()}
    named: dict[str, float] = {}
    for asked in tasks:
        own = of_task.get(asked) or {name: score for one in of_task.values() for name, score in one.items()}
        if not own:
            raise ValueError(f"{KEY}: lm-evaluation-harness returned no score of {asked}")
        named |= own
    return named


def _scores_of(task: str, values: Mapping[str, Any]) -> dict[str, float]:
    """The scores of one task or group, by the name of the metric."""
    named = {}
    for key, value in values.items():
        # a score is keyed METRIC,FILTER; what has no filter describes the task
        name, comma, filter_ = key.partition(",")
        if comma and isinstance(value, int | float) and not name.endswith("_stderr"):
            whole = "_".join([task, name, *([filter_] if filter_ != PLAIN else [])])
            named[HARNESS.name.replace("<task>", whole)] = float(value)
    return named
