"""Wanted shares among what is kept: of the groups that asked, or of the kinds that were written.

A strategy with a target counts every completion by its class: the asking group, which is known, or the kind that the
task's judge tells, which errs. With P(judged j | true i) = C_ij the counts m_j by judged kind hold the true masses t of
Rogan and Gladen (1978), m = C' t. Weights w_j by judged kind turn t_i into t_i (C w)_i. Both assume that the judge's
errors depend on the true kind alone, and not on the reward.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from scpl_ray.config import Selection
from scpl_ray.selection.formulas import importance_weights
from scpl_ray.shares import FloatArray, IntArray, check_shares

NONE = -1
"""The class of a completion of which the judge could not tell the kind: it counts towards no share, and is not kept."""
ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """The wanted shares, and the class by which each completion counts towards them."""

    shares: FloatArray
    """Wanted shares tau, shape (K,)."""
    classes: IntArray
    """Class of each completion in 0..K-1, or :data:`NONE`, shape (N,)."""
    what: str = "group"
    """What a class is, in messages: ``group`` or ``kind``."""
    confusion: FloatArray | None = None
    """P(judged j | true i), shape (K, K), rows sum to 1; ``None``: classes are known without error."""

    def masses(self, rows: IntArray, weights: FloatArray | None = None) -> FloatArray:
        """Number, or weight, of rows by class, shape (K,); rows of no class are left out.

        Args:
            rows: positions of completions, shape (M,).
            weights: their weights, shape (M,).
        """
        classes = self.classes[rows]
        there = classes != NONE
        part: FloatArray = np.ones(int(there.sum()), dtype=np.float64) if weights is None else weights[there]
        return np.asarray(np.bincount(classes[there], part, minlength=len(self.shares)))

    def true(self, masses: FloatArray) -> FloatArray:
        """True masses of masses by class, shape (K,): corrected for the judge's errors, and at least 0."""
        if self.confusion is None:
            return masses
        solved = np.asarray(np.linalg.solve(self.confusion.T, masses))
        return np.asarray(np.where(solved > 0.0, solved, 0.0))

    def weights(self, masses: FloatArray, where: str, remedy: str) -> FloatArray:
        """Weights by class that bring true shares to the target, up to a constant factor, shape (K,).

        They are tau_i / t_i, or where the judge errs w = C^-1 (tau / t).

        Args:
            masses: what there is of each class, shape (K,).
            where: of what there is so much, for the message.
            remedy: how to get more of a class, for the message.

        Raises:
            ValueError: there is nothing of a wanted class, or the judge errs too much to reach the target.
        """
        true = self.true(masses)
        self.check(true, where, remedy)
        wanted = importance_weights(true / true.sum(), self.shares)
        if self.confusion is None:
            return wanted
        found = np.linalg.solve(self.confusion, wanted)
        if found.min() < -ROUNDING * found.max():
            raise ValueError(self.out_of_reach(true / true.sum()))
        return np.asarray(np.clip(found, 0.0, None))

    def as_judged(self, masses: FloatArray | IntArray) -> Target:
        """The target of rows that were chosen by judged class so that they meet this one: the shares of judged classes.

        Among such rows P(judged | true) is no longer the confusion, but P(true | judged) is as it was: whatever part of
        them is used, they meet this target where the judged classes have these shares.

        Args:
            masses: what was sought of each judged class, up to a constant factor, shape (K,).
        """
        if self.confusion is None:
            return self
        return Target(masses / masses.sum(), self.classes, f"judged {self.what}")

    def mixture(self, masses: FloatArray) -> FloatArray:
        """P(true i | judged j), shape (K, K), of masses by class; columns sum to 1, or are 0 where a class is empty."""
        true = self.true(masses)
        joint = np.diag(true) if self.confusion is None else true[:, None] * self.confusion
        judged = joint.sum(axis=0)
        return np.asarray(np.divide(joint, judged, out=np.zeros_like(joint), where=judged > 0))

    def check(self, masses: ArrayLike, where: str, remedy: str) -> None:
        """Refuse a wanted class of which there is nothing.

        Raises:
            ValueError: the message names the class.
        """
        missing = np.flatnonzero((np.asarray(masses) == 0) & (self.shares > 0))
        if len(missing):
            group = int(missing[0])
            raise ValueError(
                f"selection.target: wants share {self.shares[group]:g} of {self.what} {group}, of which nothing is "
                f"{where}; {remedy}"
            )

    def out_of_reach(self, shares: FloatArray) -> str:
        """The message for a target that weights of judged kinds cannot reach from these true shares, shape (K,)."""
        told = ", ".join(f"{share:.3g}" for share in shares)
        return (
            f"selection.target: {self.shares.tolist()} cannot be reached from true shares [{told}] with a judge that "
            f"takes kinds for each other as in {np.round(np.asarray(self.confusion), 3).tolist()}; set a target that "
            "is nearer, or use a better judge"
        )


def target_shares(selection: Selection, n_groups: int, initial_shares: ArrayLike) -> FloatArray:
    """The target shares of the strategies that have one, shape (K,).

    Raises:
        ValueError: not one share per group, or shares that are negative or do not sum to 1.
    """
    match selection.target:
        case "balanced":
            return np.full(n_groups, 1.0 / n_groups)
        case "initial":
            return check_shares("initial_shares", initial_shares, n_groups)
        case shares:
            return check_shares("selection.target", shares, n_groups)
