"""Calls of the user's functions whose answers are checked where they arrive."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scpl_ray.own import references
from scpl_ray.records import Query

REWARD = "reward.function"


def rewards(reference: str, queries: Sequence[Query], texts: Sequence[str]) -> list[float]:
    """What ``reward.function`` says of answers: ``function(queries, texts)`` returns one number per text.

    Args:
        reference: the function.
        queries: of the texts, in their order; a query stands here once per answer.
        texts: the answers.

    Raises:
        ValueError: it fails, or does not return one finite number per text.
    """
    function = references.load(reference, REWARD)
    found = references.called(reference, REWARD, function, list(queries), list(texts))
    values: list[float] = references.called(reference, REWARD, lambda: [float(value) for value in found])
    if len(values) != len(texts):
        raise ValueError(f"{REWARD}: {reference!r} returned {len(values)} numbers for {len(texts)} texts; one for each")
    if bad := [value for value in values if not math.isfinite(value)]:
        raise ValueError(f"{REWARD}: {reference!r} returned {bad[0]}; rewards are finite numbers")
    return values
