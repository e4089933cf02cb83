"""How much base models differ from each other before any loop, in a study that trains one per seed."""

from __future__ import annotations

import dataclasses

import numpy as np

from scpl_ray.studies.preference import kind_names, share_paths
from scpl_ray.studies.series import Series


@dataclasses.dataclass(frozen=True)
class BetweenBases:
    """Spread of a kind's share in round 0 over base models."""

    group: str
    """The group whose kind's share differs most."""
    bases: int
    mean: float
    sd: float
    """Standard deviation of the measured shares between bases."""
    counting_sd: float
    """What counting so few answers of equal bases would make of it, on average."""

    @property
    def between(self) -> float:
        """Standard deviation between the bases themselves: what is left when counting is taken off; 0 if nothing is."""
        return float(np.sqrt(max(0.0, self.sd**2 - self.counting_sd**2)))


def between_bases(series: Series, arm: str) -> BetweenBases | None:
    """The spread in round 0 of an arm; ``None`` with fewer than two seeds or without shares of kinds."""
    paths = share_paths(series, arm)
    if paths is None:
        return None
    first = paths[~np.isnan(paths[:, 0]).any(axis=1), 0]
    if len(first) < 2:
        return None
    answers = np.full(len(first), np.inf)
    if series.groups(arm, "kind_count"):
        counts = np.nan_to_num(series.paths(arm, "kind_count")[:, 0]).sum(axis=1)
        answers = counts[~np.isnan(paths[:, 0]).any(axis=1)]
    sds = first.std(axis=0, ddof=1)
    k = int(sds.round(12).argmax())  # of two kinds, whose spreads are the same, the first
    counting = np.mean(first[:, k] * (1.0 - first[:, k]) / np.maximum(answers, 1.0))
    name = kind_names(series, arm)[k]
    return BetweenBases(name, len(first), float(first[:, k].mean()), float(sds[k]), float(np.sqrt(counting)))
