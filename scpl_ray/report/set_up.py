"""How runs were set up, in words for a methods paragraph: rewards, selection, data, and what each arm sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scpl_ray.config import Experiment
from scpl_ray.config.schema import FUNCTION_TERM, MODEL_TERM
from scpl_ray.report.text import TIMES, base_name, config_value
from scpl_ray.studies.study import Range, Study

MOST_ARMS = 40
"""Most arms whose keys are listed."""
CHOICES = {"population": "the current users", "balanced": "all groups equally"}
"""Whose choices train a reward model, by ``reward.choices``."""


def rewards(experiment: Experiment) -> str:
    """The terms of the reward with their weights."""
    reward = experiment.reward
    learned = f"a model of choices by {CHOICES[reward.choices]}"
    names = {
        MODEL_TERM: learned if reward.model is None else f"the model {base_name(reward.model)}",
        FUNCTION_TERM: f"the function {base_name(reward.function or '')}",
    }
    weighted = [(weight, names.get(term, f"the term {term}")) for term, weight in reward.terms.items() if weight]
    return " + ".join(name if weight == 1 else f"{weight:g} {TIMES} {name}" for weight, name in weighted) or "0"


def selection(experiment: Experiment) -> str:
    """The strategy, or that of which an arm is the random control."""
    strategy = experiment.selection.strategy
    return f"as many at random as {strategy} keeps" if experiment.selection.matched_control else strategy


def data(experiment: Experiment) -> str:
    """Which of the kept completions, and how much real data, a round trained on."""
    cycle = experiment.cycle
    kept = {
        "replace": "what it kept",
        "accumulate": "what it and all rounds before kept",
        "subsample": f"{cycle.size} of what it and all rounds before kept",
        "window": f"what the last {cycle.window_rounds} rounds kept",
    }[cycle.kind]
    if not (cycle.real_rows or cycle.real_share):
        return kept
    size = f"{cycle.real_rows} rows" if cycle.real_rows else f"a share of {cycle.real_share:g}"
    return f"{kept} with {size} of real data ({cycle.real})"


def keys(plan: Study) -> Iterator[str]:
    """What a study sets on top of its base, as sentences: in all arms, on its axes, and in each arm."""
    if plan.set:
        yield f"Set for all arms: {_keys(plan.set)}."
    if plan.axes:
        how = "sampled from" if plan.mode == "search" else "run at all points of"
        yield f"Arms were {how} the axes {', '.join(f'{key} ({_axis(axis)})' for key, axis in plan.axes.items())}."
    if len(plan.arms) > 1:
        arms = [f"{arm}: {_keys(own)}" for arm, own in list(plan.arms.items())[:MOST_ARMS]]
        if more := len(plan.arms) - len(arms):
            arms.append(f"and {more} more arms, which the study file lists")
        yield f"Set by each arm on top of that: {'; '.join(arms)}."


def _keys(own: Mapping[str, Any]) -> str:
    return ", ".join(_settings(own)) or "nothing"


def _settings(own: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key with its value, also those of sections that are given whole."""
    for key, value in own.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key} = {_value(value)}"


def _axis(values: Range | tuple[Any, ...]) -> str:
    return f"{values.low:g} to {values.high:g}" if isinstance(values, Range) else ", ".join(map(_value, values))


def _value(value: object) -> str:
    return base_name(value) if isinstance(value, str) else config_value(value)
