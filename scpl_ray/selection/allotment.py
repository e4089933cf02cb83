"""How many completions each query gets: more where the asking group was served worse, and as many in all as without."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scpl_ray.shares import FloatArray, IntArray

SMALLEST_LACK = 1e-9
"""A group whose quality is 1 lacks this much, so that what others cannot take is not lost."""
HALVINGS = 100


def more_for_weaker(samples_per_prompt: int, quality: FloatArray, queries: IntArray, fewest: int = 1) -> IntArray:
    """Completions of each group in all, shape (..., K), in proportion to its queries and to what its quality lacks.

    The n N completions of a round are divided by n_k = c (1 - q_k) per query, at least ``fewest`` and at most 2 n, with
    the c at which they add up to n N exactly, whatever the shares of the N queries; whole numbers by largest remainder.
    Where every q_k is the same, n_k = n.

    Args:
        samples_per_prompt: n.
        quality: q_k in [0, 1], shape (..., K).
        queries: number of queries of each group, shape (..., K).
        fewest: fewest completions of a query that can be used, at most n.
    """
    lack = np.maximum(1.0 - quality, SMALLEST_LACK)
    total = samples_per_prompt * queries.sum(axis=-1, keepdims=True)

    def divided(log_scale: FloatArray) -> FloatArray:
        return np.asarray(queries * np.clip(np.exp(log_scale) * lack, float(fewest), 2.0 * samples_per_prompt))

    low = np.log(1.0 / lack.max(axis=-1, keepdims=True))
    high = np.log(2.0 * samples_per_prompt / lack.min(axis=-1, keepdims=True))
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        few = divided(middle).sum(axis=-1, keepdims=True) < total
        low, high = np.where(few, middle, low), np.where(few, high, middle)
    wanted = divided(high)
    # rounded first, so that a whole number that floats miss by their last digit is one
    counts = np.floor(np.round(wanted, 6)).astype(np.int64)
    order = np.argsort(-np.round(wanted - counts, 6), axis=-1, kind="stable")
    place = np.argsort(order, axis=-1, kind="stable")
    return np.asarray(counts + (place < total - counts.sum(axis=-1, keepdims=True)))


def per_query(totals: ArrayLike, groups: IntArray) -> list[int]:
    """Completions of each query: those of its group divided equally, and the first queries get what is left over.

    Args:
        totals: completions of each group, shape (K,).
        groups: the group of each query, 0..K-1, shape (N,).
    """
    every = np.asarray(totals, dtype=np.int64)
    asked = np.bincount(groups, minlength=len(every))
    base, rest = np.divmod(every, np.maximum(asked, 1))
    place = np.empty(len(groups), dtype=np.int64)
    for k in range(len(every)):
        place[groups == k] = np.arange(asked[k])
    return [int(n) for n in base[groups] + (place < rest[groups])]
