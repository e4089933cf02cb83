"""Where the groups of an experiment come to rest, and whether they stay there.

The round of :mod:`scpl_ray.analytic.loop` is reduced to the groups alone: infinitely many users, the kinds of text
held at those of the base model, the newest data only. What is left is a map of the groups' user masses,

    shares -> kept shares (closed forms of :mod:`scpl_ray.selection.formulas`) -> data shares -> quality -> feedback
    rule,

whose points of rest are found by iterating it, and whose Jacobian there by central differences. Its eigenvalues agree
with closed forms where there are any (the tests hold them against each other). Data of earlier rounds slow the map
down; they move neither its points of rest nor the border between growing and dying deviations where eigenvalues are
positive.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.integrate import solve_ivp

from scpl_ray.analytic import model, selection
from scpl_ray.analytic.model import Start, retention_fixed_point, spectral_radius
from scpl_ray.analytic.paths import Paths
from scpl_ray.config import Experiment
from scpl_ray.feedback import rules
from scpl_ray.feedback.stability import GroupMap, estimate_group_map
from scpl_ray.selection import group_aware, strategies
from scpl_ray.shares import FloatArray

PATIENCE = 1_000
"""Rounds of the map that are tried."""
HORIZON = 1e8
"""Rounds over which slow groups are followed after that."""
TOLERANCE = 1e-9
"""Change of any share per round below which the groups are at rest."""
SMALLEST_SHARE = 1e-6
"""Of a group that has not died out."""
STEP = 1e-6
"""Of the central differences, relative to all users."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rest:
    """A point of rest."""

    arrivals: FloatArray
    """User mass per group, shape (K,)."""
    rho: float
    """Spectral radius of the Jacobian: below 1 deviations die out. NaN where a group has died out."""

    @property
    def shares(self) -> FloatArray:
        """Shape (K,)."""
        return np.asarray(self.arrivals / self.arrivals.sum())


class GroupsAlone:
    """The reduced map of an experiment.

    Raises:
        ValueError: a setting that the analytic mode refuses, or no closed form: see :func:`obstacle`.
    """

    def __init__(self, experiment: Experiment, start: Start | None = None) -> None:
        model.validate(experiment)
        if reason := obstacle(experiment):
            raise ValueError(reason)
        self._experiment = experiment
        self._rule = experiment.feedback.model_copy(update={"agents": False})
        start = start or model.assumed_start(experiment)
        self._law = model.asked_law(start.revealing, start.neutral, experiment.task.marker_strength)
        self._sds = model.reward_sds(experiment)

    def step(self, arrivals: FloatArray) -> FloatArray:
        """Expected users of the next round, shape (K,)."""
        return rules.advance(
            arrivals,
            self.measured(arrivals / arrivals.sum()),
            self._rule,
            initial_shares=self._experiment.groups.shares,
            round_=1,
            seed=self._experiment.seed,
        )

    def measured(self, shares: FloatArray) -> FloatArray:
        """What the groups react to, shape (K,)."""
        analytic = self._experiment.analytic
        own = model.own_kind_share(self._law)
        match self._rule.measure:
            case "own_kind":
                return own
            case "reward":
                return np.asarray(self._law @ model.win_rates(self._means(shares), self._sds))
            case "quality":
                curve = model.learning_curve(
                    self.data_shares(shares), analytic.quality_ceiling, analytic.learning_exponent
                )
                return np.asarray((1.0 - analytic.own_kind_weight) * curve + analytic.own_kind_weight * own)

    def data_shares(self, shares: FloatArray) -> FloatArray:
        """Group shares of the training data, real rows included, shape (K,)."""
        share = self._experiment.cycle.real_share
        return np.asarray((1.0 - share) * self.kept_shares(shares) + share / len(shares))

    def kept_shares(self, shares: FloatArray) -> FloatArray:
        """Expected weighted group shares of what selection keeps, shape (K,)."""
        chosen = self._experiment.selection
        if chosen.matched_control and strategies.STRATEGIES[chosen.strategy].fixes == "size":
            return shares
        target = group_aware.target_shares(chosen, len(shares), self._experiment.groups.shares)
        asked = selection.AskedGroups(chosen, shares, self._law, self._means(shares), self._sds, target)
        return selection.STRATEGIES[chosen.strategy].shares(asked)

    def equal_rest(self) -> Rest | None:
        """The point where all groups are equal; ``None`` where the map leads away from it or grows for ever."""
        k = len(self._experiment.groups.names)
        equal = np.full(k, self._experiment.feedback.users / k)
        users = self.step(equal)
        if rules.RULES[self._rule.rule].total_moves:
            # equal shares fix the measurement, hence the rate of staying, whatever the total
            newcomers = np.broadcast_to(np.asarray(self._rule.arrivals, dtype=np.float64), k)
            rate = (users - newcomers) / equal
            if rate.max() > 1.0 - TOLERANCE or not newcomers.any():
                return None
            users = retention_fixed_point(rate, newcomers)
        if np.ptp(users) > TOLERANCE * users.sum():
            return None
        return self._rest(np.full(k, users.mean()))

    def rest_from(self, arrivals: FloatArray) -> Rest | None:
        """Where the map leads from these users; ``None`` where that is no point of rest, or not found."""
        for _ in range(PATIENCE):
            users = self.step(arrivals)
            moved = np.abs(users - arrivals).max()
            arrivals = users
            if moved < TOLERANCE * users.sum():
                return self._rest(arrivals)
        return self._slow_rest(arrivals)

    def _slow_rest(self, arrivals: FloatArray) -> Rest | None:
        """The same for users that still move, but slowly: along the flow d users / dt = step(users) - users."""

        def flow(_: float, users: FloatArray) -> FloatArray:
            return self.step(np.maximum(users, 0.0)) - users

        total = arrivals.sum()
        end = solve_ivp(flow, (0.0, HORIZON), arrivals, method="LSODA", rtol=1e-10, atol=TOLERANCE * total).y[:, -1]
        moved = np.abs(flow(0.0, end)).max()
        if moved > TOLERANCE * end.sum():
            return None
        found = self._rest(np.maximum(end, 0.0))
        # the flow rests at points around which the rounds themselves swing ever wider
        return found if not found.rho >= 1.0 else None

    def _rest(self, arrivals: FloatArray) -> Rest:
        if (arrivals < SMALLEST_SHARE * arrivals.sum()).any():
            return Rest(arrivals, float("nan"))
        return Rest(arrivals, float(spectral_radius(self.jacobian(arrivals))))

    def jacobian(self, arrivals: FloatArray) -> FloatArray:
        """Of the map at these users: of masses (K, K) where totals move (retention), else of shares (K - 1, K - 1)."""
        directions = self._directions(len(arrivals))
        step = STEP * arrivals.sum()
        ahead = np.array([self.step(arrivals + step * direction) for direction in directions.T])
        behind = np.array([self.step(arrivals - step * direction) for direction in directions.T])
        return np.asarray(directions.T @ (ahead - behind).T / (2.0 * step))

    def _directions(self, k: int) -> FloatArray:
        """Orthonormal directions in which the users can move, as columns: all, or those in which the total stays."""
        if rules.RULES[self._rule.rule].total_moves:
            return np.eye(k)
        return np.asarray(np.linalg.svd(np.ones((1, k)))[2][1:].T)

    def _means(self, shares: FloatArray) -> FloatArray:
        experiment = self._experiment
        choosing = np.full(len(shares), 1.0 / len(shares)) if experiment.reward.choices == "balanced" else shares
        return model.mean_rewards(choosing, model.choice_gain(experiment), experiment.analytic.kind_advantage)


def obstacle(experiment: Experiment) -> str:
    """Why an experiment has no reduced map; empty where it has one."""
    rule, chosen = experiment.feedback.rule, experiment.selection
    if not rules.RULES[rule].reacts:
        return f"feedback.rule: {rule}: users do not react, so there is no point of rest to speak of"
    if chosen.r_max == "prompt" and selection.STRATEGIES[chosen.strategy].one_maximum and not chosen.matched_control:
        return f"selection.r_max: prompt: the shares that {chosen.strategy} keeps have no closed form"
    if experiment.cycle.real_rows:
        return "cycle.real_rows: a number of real rows has no share that all rounds have in common"
    return ""


@dataclasses.dataclass(frozen=True, eq=False)
class LongRun:
    """Points of rest while the kinds of text stay as they are."""

    equal: Rest | None
    """Where all groups are equal; ``None``: that is no point of rest."""
    settled: Rest | None
    """Where the groups come to rest; ``None``: nowhere, or not found."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stability:
    """What is known of the groups of an experiment in the long run."""

    obstacle: str
    """Why there is no reduced map; empty where there is one."""
    at_start: LongRun | None
    """With the kinds of the base model, from the config's shares."""
    at_end: LongRun | None
    """With the mean kinds of the last round, from its mean users."""
    estimate: GroupMap | None
    """From the second half of the simulated rounds; ``None`` with fewer than 4, or where a group has died out."""


def stability(paths: Paths) -> Stability:
    """Points of rest of the reduced map, and what the simulated paths themselves say of the groups' Jacobian.

    Raises:
        ValueError: fewer than two seeds.
    """
    experiment = paths.experiment
    rounds = paths.arrivals.shape[1] - 1
    estimate = None
    late = paths.arrivals[:, rounds - rounds // 2 :]
    if len(late) < 2:
        raise ValueError(f"analytic.seeds: {len(late)}; stability needs at least 2 seeds")
    if rounds >= 4 and (late > 0).all():
        if rules.RULES[experiment.feedback.rule].total_moves:
            estimate = estimate_group_map(late, state="arrivals")
        else:
            estimate = estimate_group_map(late / late.sum(axis=-1, keepdims=True), state="shares")
    if reason := obstacle(experiment):
        return Stability(reason, None, None, estimate)
    long_runs = []
    for t in (0, rounds):
        kinds = Start(paths.revealing_law[:, t].mean(axis=0), paths.neutral_law[:, t].mean(axis=0))
        groups = GroupsAlone(experiment, kinds)
        long_runs.append(LongRun(groups.equal_rest(), groups.rest_from(paths.arrivals[:, t].mean(axis=0))))
    return Stability("", long_runs[0], long_runs[1], estimate)
