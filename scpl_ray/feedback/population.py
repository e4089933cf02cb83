"""The simulated users: what they ask, what they choose, and how their shares change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from scpl_ray import seeds
from scpl_ray.config import Experiment
from scpl_ray.feedback import rules
from scpl_ray.feedback.state import PopulationState
from scpl_ray.protocols import Choice, Task
from scpl_ray.records import Query
from scpl_ray.shares import FloatArray, IntArray


def query_counts(experiment: Experiment, shares: FloatArray, round_: int) -> IntArray:
    """Queries of each group in a round that has these shares, shape (K,): multinomial, by the run's seed."""
    seed = seeds.derive_seed(experiment.seed, "query counts", round_)
    return rules.draw_counts(shares, experiment.queries.prompts_per_round, seed)


def initial_shares(experiment: Experiment) -> FloatArray:
    """Shares of the queries of round 1, shape (K,): ``groups.shares`` in whole users, and lifted to ``feedback.floor``.

    The largest, of equal ones the first, is that of the group whose kind preference bias is told of.
    """
    return rules.initial_state(experiment.groups, experiment.feedback).shares


def first_counts(experiment: Experiment) -> IntArray:
    """Queries of each group in round 1, shape (K,)."""
    return query_counts(experiment, initial_shares(experiment), 1)


class PopulationSimulator:
    """Holds the population state and applies to it the pure rules of :mod:`scpl_ray.feedback.rules`.

    Every draw is a function of the run seed, the round and the state, so a retry draws the same.
    """

    def __init__(self, experiment: Experiment, task: Task) -> None:
        self._experiment = experiment
        self._task = task
        self._round = 1
        self._state = rules.initial_state(experiment.groups, experiment.feedback)

    def shares(self) -> dict[str, float]:
        """Share of each group in the next round's queries."""
        return dict(zip(self._experiment.groups.names, map(float, self._state.shares), strict=True))

    def draw(self, round_: int) -> list[Query]:
        """Queries of a round: counts per group are multinomial in the current shares."""
        drawn = query_counts(self._experiment, self._state.shares, round_)
        counts = dict(zip(self._experiment.groups.names, map(int, drawn), strict=True))
        prefix = f"r{round_:03d}"
        if self._experiment.queries.prompts == "fresh":
            return self._task.draw(counts, seed=self._draw_seed(round_), prefix=prefix)
        return self._reuse(counts, prefix)

    def _draw_seed(self, round_: int) -> int:
        return seeds.derive_seed(self._experiment.seed, "queries", round_)

    def _reuse(self, counts: Mapping[str, int], prefix: str) -> list[Query]:
        """Repeat each group's first-round prompts, in order, and from the start again where they are too few."""
        groups = self._experiment.groups
        first = dict(zip(groups.names, map(int, first_counts(self._experiment)), strict=True))
        # a group that sent nothing in round 1 still needs prompts when it arrives later
        pool = self._task.draw({g: max(1, n) for g, n in first.items()}, seed=self._draw_seed(1), prefix="pool")
        by_group = {g: [q for q in pool if q.group == g] for g in groups.names}
        asked = [by_group[g][i % len(by_group[g])] for g, n in counts.items() for i in range(n)]
        return [dataclasses.replace(q, query_id=f"{prefix}-q{i:05d}") for i, q in enumerate(asked)]

    def choices(self, round_: int, count: int) -> list[Choice]:
        """Pairwise choices of users drawn from the current shares, or equally from all groups."""
        groups = self._experiment.groups
        balanced = self._experiment.reward.choices == "balanced"
        shares = np.full(len(groups.names), 1.0 / len(groups.names)) if balanced else self._state.shares
        seed = seeds.derive_seed(self._experiment.seed, "choices", round_)
        counts = rules.draw_counts(shares, count, seed)
        users = [name for name, n in zip(groups.names, counts, strict=True) for _ in range(int(n))]
        return self._task.choices(users, seed=seed)

    def step(self, measured: Mapping[str, float]) -> None:
        """Move to the next round's shares by the configured rule."""
        groups = self._experiment.groups
        self._state = rules.step(
            self._state,
            np.array([measured[name] for name in groups.names]),
            self._experiment.feedback,
            initial_shares=np.asarray(groups.shares, dtype=np.float64),
            round_=self._round,
            seed=seeds.derive_seed(self._experiment.seed, "population", self._round),
        )
        self._round += 1

    def state(self) -> dict[str, object]:
        """The next round to be asked and the user mass per group, as JSON values."""
        return {"round": self._round, "arrivals": list(self._state.arrivals)}

    def restore(self, state: Mapping[str, object]) -> None:
        """The inverse of :meth:`state`.

        Raises:
            ValueError: the state has another shape.
        """
        match state:
            case {"round": int(round_), "arrivals": list(arrivals)} if len(arrivals) == len(
                self._experiment.groups.names
            ) and all(type(mass) in (int, float) and 0.0 <= mass < math.inf for mass in arrivals):
                self._round = round_
                self._state = PopulationState(tuple(float(a) for a in arrivals))
            case _:
                raise ValueError(f"population state {state!r}: needs a round and one arrival per group, at least 0")
