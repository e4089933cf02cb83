"""The completions of a round, those that are kept, and the steps that several strategies share."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from scpl_ray.config import Selection
from scpl_ray.selection.formulas import effective_sample_size, vrs_acceptance
from scpl_ray.selection.targets import Target
from scpl_ray.shares import FloatArray, IntArray


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """The N completions of a round, in any order.

    Raises:
        ValueError: see :meth:`validate`.
    """

    completion_ids: Sequence[str]
    """N distinct ids; a prompt's candidates are sorted by them, with numbers by value: ``s2`` before ``s10``."""
    prompts: IntArray
    """Number of the prompt that each completion answers, shape (N,). Of equal rewards that of the lower number goes
    first, so that prompts are numbered by chance and not by group."""
    groups: IntArray
    """Group index in 0..K-1, shape (N,)."""
    rewards: FloatArray
    """Rewards, all finite, shape (N,)."""
    n_groups: int
    """Number of groups K >= 2."""
    kinds: IntArray | None = None
    """Judged kind of each completion in 0..K-1, -1 where the judge told none, shape (N,); ``None``: not judged."""
    texts: Sequence[str] = ()
    """The N completions as text, for strategies that read them; empty where nobody does."""

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Check the columns.

        Raises:
            ValueError: no rows, columns of different lengths, ids that repeat, a group that does not exist, or a reward
                that is NaN or infinite.
        """
        n = len(self.completion_ids)
        if n == 0:
            raise ValueError("completion_ids: empty; selection needs at least one completion")
        indices = [("prompts", self.prompts), ("groups", self.groups)]
        if self.kinds is not None:
            indices.append(("kinds", self.kinds))
        for name, column in (*indices, ("rewards", self.rewards)):
            if column.shape != (n,):
                raise ValueError(f"{name}: shape {column.shape} for {n} completion_ids; needs shape ({n},)")
        for name, column in indices:
            if column.dtype.kind not in "iu":
                raise ValueError(f"{name}: of type {column.dtype}; indices are whole numbers")
        if len(set(self.completion_ids)) != n:
            repeated = next(i for i in self.completion_ids if list(self.completion_ids).count(i) > 1)
            raise ValueError(f"completion_ids: {repeated!r} occurs more than once; ids are unique within a round")
        if self.n_groups < 2 or self.groups.min() < 0 or self.groups.max() >= self.n_groups:
            raise ValueError(
                f"groups: from {self.groups.min()} to {self.groups.max()} with n_groups {self.n_groups}; "
                "indices lie in 0..n_groups-1 and n_groups is at least 2"
            )
        if self.kinds is not None and (self.kinds.min() < -1 or self.kinds.max() >= self.n_groups):
            raise ValueError(
                f"kinds: from {self.kinds.min()} to {self.kinds.max()} with n_groups {self.n_groups}; a kind is one of "
                "0..n_groups-1, or -1 for none"
            )
        if not np.all(np.isfinite(self.rewards)):
            at = int(np.flatnonzero(~np.isfinite(self.rewards))[0])
            raise ValueError(
                f"rewards: {self.rewards[at]} of completion {self.completion_ids[at]!r}; rewards are finite, "
                "check the reward terms"
            )

    @property
    def size(self) -> int:
        """Number of completions N."""
        return len(self.completion_ids)

    @cached_property
    def group_counts(self) -> IntArray:
        """Completions per group, shape (K,)."""
        return np.bincount(self.groups, minlength=self.n_groups)

    @property
    def shares(self) -> FloatArray:
        """Group shares of the completions, shape (K,)."""
        return np.asarray(self.group_counts / self.size)

    @cached_property
    def candidate_rank(self) -> IntArray:
        """Position of each completion in the order of ids, shape (N,)."""
        ids = self.completion_ids
        keys = [[int(part) if k % 2 else part for k, part in enumerate(re.split(r"([0-9]+)", i))] for i in ids]
        rank = np.empty(self.size, dtype=np.int64)
        rank[sorted(range(self.size), key=lambda row: (keys[row], ids[row]))] = np.arange(self.size)
        return rank

    @cached_property
    def best_first(self) -> IntArray:
        """Rows sorted by (-reward, prompt, candidate), shape (N,): ties between prompts are broken by their numbers."""
        return np.asarray(np.lexsort((self.candidate_rank, self.prompts, -self.rewards)))


@dataclasses.dataclass(frozen=True, eq=False)
class Selected:
    """The kept completions: M of N."""

    indices: IntArray
    """Ascending positions in the candidates, shape (M,)."""
    weights: FloatArray
    """Training weights with mean 1, shape (M,)."""
    acceptance_rate: float
    """M / N."""
    effective_sample_size: float
    """(sum w)^2 / sum w^2, at most M."""
    shares_before: FloatArray
    """Group shares of the candidates, shape (K,)."""
    shares_after: FloatArray
    """Weighted group shares of the kept completions, shape (K,)."""
    strategy: str
    """Name of the strategy, with the prefix ``random control of`` where this is its control."""
    meet: Meet | None = None
    """Brings a part of the kept completions to the strategy's target again; ``None``: it has no target to meet."""


@dataclasses.dataclass(frozen=True, eq=False)
class Draw:
    """What a strategy needs in addition to candidates and settings."""

    chance: FloatArray
    """One uniform in [0, 1) per completion, shape (N,)."""
    target: Target
    """The wanted shares, and the class by which each completion counts towards them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """What a strategy returns."""

    rows: IntArray
    """Positions of the kept completions, in any order, shape (M,)."""
    class_weights: FloatArray | None = None
    """Weight of a kept row by its class of the target, up to a constant factor, shape (K,); ``None``: all are equal."""
    meets: Target | None = None
    """What a part of the rows is to meet: where they were chosen by class,
    :meth:`~scpl_ray.selection.targets.Target.as_judged`; ``None``: the target."""


Meet = Callable[[IntArray], tuple[IntArray, FloatArray]]
"""From rows (M,) to those of them that are kept, as positions in ``rows``, and their weights up to a factor."""


def selected(
    candidates: Candidates, indices: IntArray, weights: FloatArray, strategy: str, meet: Meet | None = None
) -> Selected:
    """The kept completions with their statistics.

    Args:
        candidates: the completions.
        indices: ascending positions of the kept completions, shape (M,).
        weights: their weights up to a constant factor, shape (M,).
        strategy: name of the strategy that kept them.
        meet: brings a part of them to the strategy's target.
    """
    groups = candidates.groups[indices]
    weights = weights / weights.mean()
    return Selected(
        indices=indices,
        weights=weights,
        acceptance_rate=len(indices) / candidates.size,
        effective_sample_size=effective_sample_size(weights),
        shares_before=candidates.shares,
        shares_after=np.bincount(groups, weights=weights, minlength=candidates.n_groups) / weights.sum(),
        strategy=strategy,
        meet=meet,
    )


def acceptance(candidates: Candidates, selection: Selection, cost: FloatArray | None = None) -> FloatArray:
    """Acceptance probabilities exp((r - r_max) / beta), shape (N,).

    Args:
        candidates: the completions.
        selection: ``beta``, ``r_max`` and ``reward_bound``.
        cost: what is subtracted from each reward first, shape (N,). The bound is shifted by the smallest cost, so that
            it bounds these rewards too.

    Raises:
        ValueError: ``reward_bound`` lies below a reward.
    """
    cost = np.zeros(candidates.size) if cost is None else cost
    rewards = candidates.rewards - cost
    match selection.r_max:
        case "bound":
            top = int(candidates.rewards.argmax())
            if candidates.rewards[top] > selection.reward_bound:
                raise ValueError(
                    f"selection.reward_bound: {selection.reward_bound} lies below reward {candidates.rewards[top]:g} "
                    f"of completion {candidates.completion_ids[top]!r}; raise it, or use selection.r_max: batch"
                )
            r_max = np.array(selection.reward_bound - cost.min())
        case "batch":
            r_max = rewards.max()
        case "prompt":
            _, prompt = np.unique(candidates.prompts, return_inverse=True)
            highest = np.full(prompt.max() + 1, -np.inf)
            np.maximum.at(highest, prompt, rewards)
            r_max = highest[prompt]
    return vrs_acceptance(rewards, selection.beta, r_max)


def accepted(probabilities: FloatArray, draw: Draw) -> IntArray:
    """Rows whose uniform lies below their acceptance probability, ascending.

    Raises:
        ValueError: no row is accepted.
    """
    rows = np.flatnonzero(draw.chance < probabilities)
    if len(rows) == 0:
        raise ValueError(
            f"selection: none of {len(probabilities)} completions was accepted, {probabilities.sum():.3g} were "
            "expected; raise selection.beta, or use selection.r_max: batch"
        )
    return rows


def kept_rows(keep_fraction: float, completions: int) -> int:
    """Number of completions that ``keep_fraction`` allows, rounded down."""
    return int(np.floor(round(keep_fraction * completions, 9)))


def budget(candidates: Candidates, selection: Selection) -> int:
    """Number of rows that ``keep_fraction`` allows, rounded down.

    Raises:
        ValueError: that number is 0.
    """
    rows = kept_rows(selection.keep_fraction, candidates.size)
    if rows == 0:
        raise ValueError(
            f"selection.keep_fraction: {selection.keep_fraction} of {candidates.size} completions keeps none; raise it"
        )
    return rows
