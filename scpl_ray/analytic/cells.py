"""What selection by counts works on: the completions of a round, what is kept of them, and the classes of a target."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from scpl_ray.config import Selection
from scpl_ray.shares import FloatArray, IntArray

Number = TypeVar("Number", np.int64, np.float64)
Value = TypeVar("Value", np.bool_, np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class Answered:
    """The completions of a round, as counts."""

    round: int
    prompts: IntArray
    """Queries per group and context, shape (B, K, 2)."""
    samples: IntArray
    """Completions per query of each group, shape (B, K); a remedy gives some queries of a group one more."""
    law: FloatArray
    """P(kind | group, context), shape (B, K, 2, K)."""
    counts: IntArray
    """Completions per cell, shape (B, K, 2, K)."""
    means: FloatArray
    """Mean reward of each kind, shape (B, K)."""


@dataclasses.dataclass(frozen=True, eq=False)
class KeptCounts:
    """The kept completions of a round, as counts."""

    rows: IntArray
    """Kept completions per cell, shape (B, K, 2, K)."""
    weights: FloatArray
    """Training weight of a kept row by cell, with mean 1 over the kept rows; broadcasts to (B, K, 2, K)."""

    @property
    def mass(self) -> FloatArray:
        """Weighted rows per cell, shape (B, K, 2, K)."""
        return np.asarray(self.rows * self.weights)


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes whose shares the target is about: groups, or kinds, which are known without error here."""

    axis: int
    """The axis of the cells (B, K, 2, K) along which they lie."""

    @classmethod
    def of(cls, selection: Selection) -> Classes:
        """The classes of ``selection.target_of``."""
        return cls(3 if selection.target_of == "kinds" else 1)

    def totals(self, cells: NDArray[Number]) -> NDArray[Number]:
        """Sums by class, shape (B, K), of cells (B, K, 2, K)."""
        return np.asarray(np.moveaxis(cells, self.axis, 1).sum(axis=(2, 3)))

    def by_cell(self, values: NDArray[Value]) -> NDArray[Value]:
        """Values by class (B, K) in a shape that broadcasts to the cells."""
        return values[:, :, None, None] if self.axis == 1 else values[:, None, None, :]


@dataclasses.dataclass(frozen=True, eq=False)
class AskedGroups:
    """Infinitely many completions, of which only the groups' shares change from round to round."""

    selection: Selection
    shares: FloatArray
    """Shares of the groups among the completions, shape (K,)."""
    law: FloatArray
    """P(kind | group), shape (K, K)."""
    means: FloatArray
    """Mean reward of each kind, shape (K,)."""
    sds: FloatArray
    """Standard deviation of the rewards of each kind, shape (K,)."""
    target: FloatArray
    """Target shares of strategies that have a target, shape (K,)."""

    @property
    def kind_acceptance(self) -> FloatArray:
        """Mean acceptance exp((r - r_max) / beta) of each kind, up to a common factor, shape (K,)."""
        exponent = self.means / self.selection.beta + self.sds**2 / (2.0 * self.selection.beta**2)
        return np.asarray(np.exp(exponent - exponent.max()))

    @property
    def acceptance(self) -> FloatArray:
        """The same of each group, shape (K,)."""
        return np.asarray(self.law @ self.kind_acceptance)

    @property
    def kinds(self) -> FloatArray:
        """Shares of the kinds among the completions, shape (K,)."""
        return np.asarray(self.shares @ self.law)
