"""Which completions become training data: rejection sampling strategies, group-aware remedies, and their controls.

Chance is one uniform per completion, keyed by its id, and ties are broken by (reward, prompt, candidate): the outcome
does not depend on the order of the rows. A strategy is one function and one line in :data:`STRATEGIES`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from scpl_ray.config import Selection
from scpl_ray.seeds import uniforms
from scpl_ray.selection import group_aware
from scpl_ray.selection.candidates import (
    Candidates,
    Draw,
    Kept,
    Selected,
    acceptance,
    accepted,
    budget,
    selected,
)
from scpl_ray.selection.group_aware import candidates_per_group
from scpl_ray.shares import FloatArray, IntArray

__all__ = ["STRATEGIES", "Candidates", "Selected", "Strategy", "candidates_per_group", "select"]


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A registered strategy."""

    keep: Callable[[Candidates, Selection, Draw], Kept]
    fixes: Literal["size", "prompts", "groups"] = "size"
    """What its random control shares with it: the size, or also the number per prompt, or also per group."""


def _none(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Everything."""
    return Kept(np.arange(candidates.size))


def _random(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """A uniform sample without replacement."""
    order = np.lexsort((candidates.candidate_rank, draw.chance))
    return Kept(order[: budget(candidates, selection)])


def _vrs(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Vanilla rejection sampling: accept with exp((r - r_max) / beta)."""
    return Kept(accepted(acceptance(candidates, selection), draw))


def _tpp(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """The best of each prompt."""
    return Kept(_first_per_prompt(candidates, candidates.best_first))


def _top(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """The best overall."""
    return Kept(candidates.best_first[: budget(candidates, selection)])


def _best_of_n(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """The best among the first n candidates of each prompt."""
    by_prompt = np.lexsort((candidates.candidate_rank, candidates.prompts))
    _, starts, counts = np.unique(candidates.prompts[by_prompt], return_index=True, return_counts=True)
    if counts.min() < selection.best_of:
        raise ValueError(
            f"selection.best_of: {selection.best_of} but a prompt has {counts.min()} candidates; "
            "lower it or raise generation.samples_per_prompt"
        )
    place = np.empty(candidates.size, dtype=np.int64)
    place[by_prompt] = np.arange(candidates.size) - np.repeat(starts, counts)
    order = candidates.best_first
    return Kept(_first_per_prompt(candidates, order[place[order] < selection.best_of]))


def _threshold(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Every reward at or above the threshold."""
    rows = np.flatnonzero(candidates.rewards >= selection.threshold)
    if len(rows) == 0:
        raise ValueError(
            f"selection.threshold: no reward reaches {selection.threshold}, the largest is "
            f"{candidates.rewards.max():g}; lower it"
        )
    return Kept(rows)


STRATEGIES: dict[str, Strategy] = {
    "none": Strategy(_none),
    "random": Strategy(_random),
    "vrs": Strategy(_vrs),
    "tpp": Strategy(_tpp, fixes="prompts"),
    "top": Strategy(_top),
    "best_of_n": Strategy(_best_of_n, fixes="prompts"),
    "threshold": Strategy(_threshold),
    "importance": Strategy(group_aware.importance, fixes="groups"),
    "quotas": Strategy(group_aware.quotas, fixes="groups"),
    "calibrated": Strategy(group_aware.calibrated, fixes="groups"),
    "penalty": Strategy(group_aware.penalty),
    "reweight": Strategy(group_aware.reweight, fixes="groups"),
}


def select(
    candidates: Candidates, selection: Selection, *, round_: int, seed: int, initial_shares: ArrayLike
) -> Selected:
    """Keep completions by the configured strategy, or its matched random control.

    Args:
        candidates: the round's completions.
        selection: strategy and settings.
        round_: enters the random stream.
        seed: the run's seed.
        initial_shares: shares of round 1, shape (K,); the target where ``selection.target`` is ``initial``.

    Raises:
        ValueError: an unknown strategy, a target that is no share vector, a bound below a reward, an infeasible quota,
            a wanted group that is empty, or nothing accepted; the message says what to change.
    """
    if selection.strategy not in STRATEGIES:
        raise ValueError(
            f"selection.strategy: {selection.strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}"
        )
    strategy = STRATEGIES[selection.strategy]
    target = group_aware.target_shares(selection, candidates.n_groups, initial_shares)
    kept = strategy.keep(candidates, selection, Draw(_chance(candidates, "selection", round_, seed), target))
    if not selection.matched_control:
        return _selected(candidates, kept, selection.strategy)
    control = _matched_random(candidates, kept, strategy.fixes, _chance(candidates, "control", round_, seed))
    return _selected(candidates, control, f"random control of {selection.strategy}")


def _first_per_prompt(candidates: Candidates, order: IntArray) -> IntArray:
    """The first row of each prompt in this order of rows."""
    _, first = np.unique(candidates.prompts[order], return_index=True)
    return order[first]


def _chance(candidates: Candidates, purpose: str, round_: int, seed: int) -> FloatArray:
    return uniforms(seed, purpose, round_, list(candidates.completion_ids))


def _matched_random(candidates: Candidates, kept: Kept, fixes: str, chance: FloatArray) -> Kept:
    """As many rows as were kept, from each stratum that the strategy fixes, chosen by chance instead of by reward.

    Weights by group are the strategy's own. Every stratum keeps its first m rows in the order of chance.
    """
    strata = {"size": np.zeros(candidates.size, np.int64), "prompts": candidates.prompts, "groups": candidates.groups}
    _, stratum = np.unique(strata[fixes], return_inverse=True)
    wanted = np.bincount(stratum[kept.rows], minlength=stratum.max() + 1)
    order = np.lexsort((candidates.candidate_rank, chance, stratum))
    sizes = np.bincount(stratum)
    place = np.arange(candidates.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return Kept(order[place < wanted[stratum[order]]], kept.group_weights)


def _selected(candidates: Candidates, kept: Kept, strategy: str) -> Selected:
    indices = np.sort(kept.rows)
    weights = np.ones(len(indices)) if kept.group_weights is None else kept.group_weights[candidates.groups[indices]]
    return selected(candidates, indices, weights, strategy)
