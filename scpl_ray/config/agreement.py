"""Comparing experiments that share something: the values on which they must agree, as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from scpl_ray.config.schema import Experiment


def agreement(experiment: Experiment, keys: Sequence[str]) -> str:
    """The values of some keys as text, which is the same for two experiments exactly if they agree on all keys.

    Args:
        experiment: the config.
        keys: keys by dotted name, such as ``generation.top_p``, or whole sections.

    Raises:
        KeyError: a key does not exist.
    """
    values = experiment.model_dump(mode="json")
    return json.dumps({key: _value(values, key) for key in keys}, sort_keys=True)


def _value(values: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        values = values[part]
    return values
