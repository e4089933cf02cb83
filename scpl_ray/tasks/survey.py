"""What a task would make of a data set, found out in seconds without a model: ``scpl data check``.

Every task that reads data has a function that makes a :class:`Survey`; what they share stands here.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from scpl_ray.config import Experiment, loading
from scpl_ray.tasks.outlets import PARTS
from scpl_ray.tasks.rows import DataError, Row, Tally, check_groups
from scpl_ray.tasks.texts import tokens

MOST_GROUPS = 20
"""A column with more labels than this is not taken for the groups unasked."""
NOTHING: Mapping[str, Any] = MappingProxyType({})

Loaded = TypeVar("Loaded")


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a task would make of a data set."""

    tally: Tally
    """How the rows are written, the mapping found, rows kept and rows left out by reason."""
    groups: dict[str, dict[str, int]]
    """Numbers by group, each with its word: rows, sources, medians of lengths, and the rows of each part."""
    lengths: dict[str, tuple[int, int, int]]
    """First quartile, median and third quartile, in words, by what is measured."""
    settings: tuple[str, ...]
    """Keys that fit the lengths."""
    prompts_per_group: int | None = None
    """Largest ``evaluation.prompts_per_group``, before ``task.max_prompt_tokens``; ``None``: see ``stopped``."""
    neutral_prompts: int | None = None
    """Largest possible ``evaluation.neutral_prompts``."""
    notes: tuple[str, ...] = ()
    """What a run on these data cannot say."""
    stopped: str | None = None
    """Why a run with these settings would stop; ``None``: it would not."""


def grouped(experiment: Experiment, rows: Sequence[Row], field: str, tally: Tally, *, named: bool) -> Experiment:
    """The experiment with the groups that it names, else with all labels of the data, evenly shared.

    Raises:
        DataError: there is only one label, or too many to take all of them, or a named one never occurs.
    """
    labels = tuple(sorted({row[field] for row in rows}))
    with tally.reported():
        if named or len(labels) < 2:
            check_groups(rows, field, experiment.groups.names, tally.source)
            return experiment
        if len(labels) > MOST_GROUPS:
            raise DataError(
                f"{tally.source}: {tally.columns[field]} has {len(labels):,} labels; name two or more of them with "
                f"groups.names=[A, B], or map another column with task.fields={{{field}: COLUMN}}"
            )
    return with_groups(experiment, labels)


def stated_groups(keys: Mapping[str, Any]) -> dict[str, Any] | None:
    """What given keys say of the groups beside their names, such as ``shares``; ``None``: they say what the names are.

    Raises:
        ConfigError: a key lies below something that is not a section.
    """
    stated = loading.overlay({}, keys).get("groups", {})
    return stated if isinstance(stated, dict) and "names" not in stated else None


def without_groups(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Given keys without those of the groups."""
    return {key: value for key, value in keys.items() if key.split(".")[0] != "groups"}


def with_groups(experiment: Experiment, names: Sequence[str], stated: Mapping[str, Any] = NOTHING) -> Experiment:
    """The experiment with other groups, evenly shared unless ``stated`` says otherwise.

    Raises:
        ConfigError: what is stated does not fit the groups.
    """
    groups = {"names": list(names), "shares": [1.0 / len(names)] * len(names), **stated}
    return loading.build(loading.overlay(experiment.model_dump(mode="json"), {"groups": groups}), "groups of the data")


def attempt(load: Callable[[Experiment], Loaded], experiment: Experiment) -> tuple[Loaded | None, str | None]:
    """What a loader makes of the data, or why it stops."""
    try:
        return load(experiment), None
    except DataError as error:
        return None, str(error)


def quartiles(texts: Iterable[str]) -> tuple[int, int, int]:
    """First quartile, median and third quartile of the number of words."""
    found = sorted(len(text.split()) for text in texts)
    if len(found) < 2:
        return (found or [0])[0], (found or [0])[0], (found or [0])[0]
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    return round(low), round(median), round(high)


def by_part(parts: Mapping[str, Iterable[Sequence[str]]], group: str) -> dict[str, int]:
    """The number of things of a group in every part, from the groups of each thing."""
    return {part: sum(group in groups for groups in parts[part]) for part in PARTS if part in parts}


def fits(key: str, words: Sequence[int], what: str) -> str:
    """A length key that fits: what its median and nine in ten need."""
    ordered = sorted(words) or [0]
    median, most = statistics.median_high(ordered), ordered[min(len(ordered) - 1, len(ordered) * 9 // 10)]
    return f"{key}={tokens(median)} fits half of the {what} ({median:,} words), {tokens(most)} nine in ten"
