"""The users of a round, by group."""

from __future__ import annotations

import dataclasses

import numpy as np

from scpl_ray.shares import FloatArray, normalise


@dataclasses.dataclass(frozen=True, slots=True)
class PopulationState:
    """The users of a round.

    Raises:
        ValueError: fewer than 2 groups, a negative or not finite mass, or no users at all.
    """

    arrivals: tuple[float, ...]
    """User mass lambda_k per group, K numbers; whole numbers where the rule draws agents."""

    def __post_init__(self) -> None:
        masses = np.asarray(self.arrivals, dtype=np.float64)
        if masses.ndim != 1 or len(masses) < 2:
            raise ValueError(f"arrivals: {self.arrivals} holds fewer than 2 groups; give one mass per group")
        if not np.all(np.isfinite(masses)) or np.any(masses < 0) or masses.sum() == 0:
            raise ValueError(f"arrivals: {self.arrivals} must be finite, >= 0, and above 0 for at least one group")

    @property
    def shares(self) -> FloatArray:
        """s_k = lambda_k / sum of lambda, shape (K,)."""
        return normalise("arrivals", np.asarray(self.arrivals, dtype=np.float64))
