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
    named = {
        # any other name of a task is looked up
        "task.name": e.task.name if ":" in e.task.name else None,
        "feedback.function": e.feedback.function if e.feedback.rule == CUSTOM else None,
        "selection.function": e.selection.function if e.selection.strategy == CUSTOM else None,
        "reward.function": e.reward.function if e.reward.terms.get(FUNCTION_TERM) else None,
        "training.callback": e.training.callback,
        "loop.on_round": e.loop.on_round,
    }
    return {key: name for key, name in named.items() if name is not None}
