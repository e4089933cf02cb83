"""Which functions of the user's own a config names."""

from __future__ import annotations

from scpl_ray.config.schema import CUSTOM, FUNCTION_TERM, Experiment

KEYS = (
    "task.name",
    "feedback.function",
    "selection.function",
    "reward.function",
    "training.callback",
    "loop.on_round",
)
"""The keys that may name a function of the user's own."""


def references(experiment: Experiment) -> dict[str, str]:
    """The functions that a run of this config would call, by key; those that another key leaves unused are left out.

    >>> from scpl_ray.config import Experiment, Feedback
    >>> references(Experiment(feedback=Feedback(function="rules.py:crowding")))
    {'feedback.function': 'rules.py:crowding'}
    """
    e = experiment
    unused_here = unused(experiment)
    named = {
        # any other name of a task is looked up
        "task.name": e.task.name if ":" in e.task.name else None,
        "feedback.function": e.feedback.function,
        "selection.function": e.selection.function,
        "reward.function": e.reward.function,
        "training.callback": e.training.callback,
        "loop.on_round": e.loop.on_round,
    }
    return {key: name for key, name in named.items() if name is not None and key not in unused_here}


def unused(experiment: Experiment) -> dict[str, str]:
    """The functions that are named and that another key leaves unused, as in a control arm: that key, by key.

    >>> from scpl_ray.config import Experiment, Feedback
    >>> unused(Experiment(feedback=Feedback(function="rules.py:crowding", rule="static")))
    {'feedback.function': "feedback.rule = 'static'"}
    """
    e = experiment
    found = {}
    if e.feedback.function is not None and e.feedback.rule != CUSTOM:
        found["feedback.function"] = f"feedback.rule = {e.feedback.rule!r}"
    if e.selection.function is not None and e.selection.strategy != CUSTOM:
        found["selection.function"] = f"selection.strategy = {e.selection.strategy!r}"
    if e.reward.function is not None and not e.reward.terms.get(FUNCTION_TERM):
        found["reward.function"] = f"reward.terms = {e.reward.terms}"
    return found
