"""The fixed points of an experiment's groups, and whether they are stable.

The round of :mod:`scpl_ray.analytic.loop` is reduced to the groups alone: there are infinitely many users, the kinds of
text stay those of the base model, decoded at the experiment's temperature, and only the newest data are used. What
remains is a map of the groups' user masses,

    shares -> kept shares (closed forms of :mod:`scpl_ray.selection.formulas`) -> data shares -> quality -> feedback
    rule,

whose fixed points are found by iteration, and whose Jacobian there is computed by central differences. Its eigenvalues
agree with closed forms where these exist (the tests compare them). Data of earlier rounds slow the map down; they
change neither its fixed points nor, where eigenvalues are positive, the border between growing and
shrinking deviations.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.integrate import solve_ivp

from scpl_ray.analytic import model, selection
from scpl_ray.analytic.cells import AskedGroups
from scpl_ray.analytic.model import Start, retention_fixed_point, spectral_radius
from scpl_ray.analytic.paths import Paths
from scpl_ray.config import Experiment
from scpl_ray.feedback import rules
from scpl_ray.feedback.stability import GroupMap, Part, carried_on, estimate_loop_map
from scpl_ray.selection import strategies, targets
from scpl_ray.shares import FloatArray

PATIENCE = 1_000
"""Largest number of times that the map is iterated."""
HORIZON = 1e8
"""Number of rounds over which slowly changing groups are followed after that."""
TOLERANCE = 1e-9
"""If no share changes by more than this per round, the groups are at a fixed point."""
SMALLEST_SHARE = 1e-6
"""A group with a smaller share has died out."""
STEP = 1e-6
"""Step of the central differences, relative to the number of all users."""


@dataclasses.dataclass(frozen=True, eq=False)
class Rest:
    """A fixed point."""

    arrivals: FloatArray
    """User mass per group, shape (K,)."""
    rho: float
    """Spectral radius of the Jacobian: below 1 deviations die out. NaN where a group has died out."""

    @property
    def shares(self) -> FloatArray:
        """Shares of the groups, shape (K,)."""
        return np.asarray(self.arrivals / self.arrivals.sum())


class GroupsAlone:
    """The reduced map of an experiment, in which only the groups change.

    Raises:
        ValueError: a setting that the analytic mode refuses, or one without a closed form (see :func:`obstacle`).
    """

    def __init__(self, experiment: Experiment, start: Start | None = None) -> None:
        model.validate(experiment)
        if reason := obstacle(experiment):
            raise ValueError(reason)
        self._experiment = experiment
        self._rule = experiment.feedback.model_copy(update={"agents": False})
        start = start or model.assumed_start(experiment)
        revealing, neutral = (
            model.tempered(kinds, experiment.generation.temperature) for kinds in (start.revealing, start.neutral)
        )
        self._law = model.asked_law(revealing, neutral, experiment.task.marker_strength)
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
        """The measure to which the groups react, shape (K,)."""
        analytic = self._experiment.analytic
        own = model.own_kind_share(self._law)
        match self._rule.measure:
            case "own_kind":
                return own
            case "reward":
                won = self._law @ model.win_rates(self._means(shares), self._sds)
                return model.reacted_to(np.where(shares > 0, won, np.nan))
            case "quality":
                curve = model.learning_curve(
                    self.data_shares(shares), model.quality_ceilings(self._experiment), analytic.learning_exponent
                )
                weight = model.own_kind_weight(self._experiment)
                return np.asarray((1.0 - weight) * curve + weight * own)

    def data_shares(self, shares: FloatArray) -> FloatArray:
        """Group shares of the training data, real rows included, shape (K,)."""
        share = self._experiment.cycle.real_share
        return np.asarray((1.0 - share) * self.kept_shares(shares) + share / len(shares))

    def kept_shares(self, shares: FloatArray) -> FloatArray:
        """Expected weighted group shares of what selection keeps, shape (K,)."""
        chosen = self._experiment.selection
        if chosen.matched_control and strategies.STRATEGIES[chosen.strategy].fixes == "size":
            return shares
        target = targets.target_shares(chosen, len(shares), self._experiment.groups.shares)
        asked = AskedGroups(chosen, shares, self._law, self._means(shares), self._sds, target)
        return selection.STRATEGIES[chosen.strategy].shares(asked)

    def equal_rest(self) -> Rest | None:
        """The fixed point with equal groups; ``None`` where equal groups do not stay equal or grow without bound."""
        k = len(self._experiment.groups.names)
        equal = np.full(k, self._experiment.feedback.users / k)
        users = self.step(equal)
        if rules.RULES[self._rule.rule].total_moves:
            # equal shares determine the measurement, and hence the retention rate, for any total
            newcomers = np.broadcast_to(np.asarray(self._rule.arrivals, dtype=np.float64), k)
            rate = (users - newcomers) / equal
            if rate.max() > 1.0 - TOLERANCE or not newcomers.any():
                return None
            users = retention_fixed_point(rate, newcomers)
        if np.ptp(users) > TOLERANCE * users.sum():
            return None
        return self._rest(np.full(k, users.mean()))

    def rest_from(self, arrivals: FloatArray) -> Rest | None:
        """The fixed point that the map reaches from these users.

        ``None``: there is none, as where some leave and nobody arrives, or it is not found.
        """
        if rules.RULES[self._rule.rule].total_moves and not np.any(self._rule.arrivals):
            return None
        for _ in range(PATIENCE):
            users = self.step(arrivals)
            moved = np.abs(users - arrivals).max()
            arrivals = users
            if moved < TOLERANCE * users.sum():
                return self._rest(arrivals)
        return self._slow_rest(arrivals)

    def _slow_rest(self, arrivals: FloatArray) -> Rest | None:
        """The same for users that still change slowly, by following the flow d users / dt = step(users) - users."""

        def flow(_: float, users: FloatArray) -> FloatArray:
            return self.step(np.maximum(users, 0.0)) - users

        total = arrivals.sum()
        end = solve_ivp(flow, (0.0, HORIZON), arrivals, method="LSODA", rtol=1e-10, atol=TOLERANCE * total).y[:, -1]
        moved = np.abs(flow(0.0, end)).max()
        if moved > TOLERANCE * end.sum():
            return None
        found = self._rest(np.maximum(end, 0.0))
        # the flow can also converge to points around which the rounds themselves oscillate with growing amplitude
        return found if not found.rho >= 1.0 else None

    def _rest(self, arrivals: FloatArray) -> Rest:
        if (arrivals < SMALLEST_SHARE * arrivals.sum()).any():
            return Rest(arrivals, float("nan"))
        return Rest(arrivals, float(spectral_radius(self.jacobian(arrivals))))

    def jacobian(self, arrivals: FloatArray) -> FloatArray:
        """Jacobian at these users: of masses (K, K) if the total changes (retention), else of shares (K - 1, K - 1)."""
        directions = self._directions(len(arrivals))
        step = STEP * arrivals.sum()
        ahead = np.array([self.step(arrivals + step * direction) for direction in directions.T])
        behind = np.array([self.step(arrivals - step * direction) for direction in directions.T])
        return np.asarray(directions.T @ (ahead - behind).T / (2.0 * step))

    def _directions(self, k: int) -> FloatArray:
        """Orthonormal directions in which users can change, as columns: all, or those that keep the total constant."""
        if rules.RULES[self._rule.rule].total_moves:
            return np.eye(k)
        return np.asarray(np.linalg.svd(np.ones((1, k)))[2][1:].T)

    def _means(self, shares: FloatArray) -> FloatArray:
        experiment = self._experiment
        choosing = np.full(len(shares), 1.0 / len(shares)) if experiment.reward.choices == "balanced" else shares
        return model.mean_rewards(choosing, model.choice_gain(experiment), model.kind_advantage(experiment))


def obstacle(experiment: Experiment) -> str:
    """The reason why an experiment has no reduced map; empty where it has one."""
    rule, chosen = experiment.feedback.rule, experiment.selection
    if not rules.RULES[rule].reacts:
        return f"feedback.rule: {rule}: users do not react, so there is no point of rest to speak of"
    if chosen.r_max == "prompt" and selection.STRATEGIES[chosen.strategy].one_maximum and not chosen.matched_control:
        return f"selection.r_max: prompt: the shares that {chosen.strategy} keeps have no closed form"
    if strategies.needs_kinds(chosen) and strategies.steers(chosen):
        return f"selection.target_of: kinds: {chosen.strategy} draws by quality, and what it keeps has no closed form"
    if experiment.cycle.real_rows:
        return "cycle.real_rows: a number of real rows has no share that all rounds have in common"
    return ""


@dataclasses.dataclass(frozen=True, eq=False)
class LongRun:
    """Fixed points while the kinds of text do not change."""

    equal: Rest | None
    """The fixed point with equal groups; ``None``: equal groups are not a fixed point."""
    settled: Rest | None
    """The fixed point that the groups reach; ``None``: there is none, or it was not found."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stability:
    """What is known about the long-run behaviour of an experiment's groups."""

    obstacle: str
    """The reason why there is no reduced map; empty where there is one."""
    at_start: LongRun | None
    """Fixed points with the kinds of the base model, starting from the config's shares."""
    at_end: LongRun | None
    """Fixed points with the mean kinds of the last round, starting from its mean users."""
    estimate: GroupMap | None
    """Joint map of users and kinds, estimated from the second half of the simulated rounds; ``None`` with fewer than 4
    rounds, or if a group or a kind died out."""


def stability(paths: Paths) -> Stability:
    """Fixed points of the reduced map, and the Jacobian of users and kinds as estimated from the simulated paths.

    The fixed points are those of the groups while the kinds stand still. The paths show both: users, and the kinds that
    the policy writes in every context, which are known exactly and are all that there is to it here.

    Raises:
        ValueError: fewer than two seeds.
    """
    experiment = paths.experiment
    rounds = paths.arrivals.shape[1] - 1
    estimate = None
    if len(paths.arrivals) < 2:
        raise ValueError(f"analytic.seeds: {len(paths.arrivals)}; stability needs at least 2 seeds")
    parts = _state(paths, rounds - rounds // 2)
    if rounds >= 4 and all((part.values > 0).all() for part in parts):
        estimate = estimate_loop_map(parts, carried=carried_on(experiment, whole_policy=True))
    if reason := obstacle(experiment):
        return Stability(reason, None, None, estimate)
    long_runs = []
    for t in (0, rounds):
        kinds = Start(paths.revealing_law[:, t].mean(axis=0), paths.neutral_law[:, t].mean(axis=0))
        groups = GroupsAlone(experiment, kinds)
        long_runs.append(LongRun(groups.equal_rest(), groups.rest_from(paths.arrivals[:, t].mean(axis=0))))
    return Stability("", long_runs[0], long_runs[1], estimate)


def _state(paths: Paths, first: int) -> list[Part]:
    """The whole state of a simulated loop from a round on: users, and the kinds in every context."""
    moves = rules.RULES[paths.experiment.feedback.rule].total_moves
    users = Part("users", paths.arrivals, total_moves=True) if moves else Part("shares", paths.shares)
    groups = range(paths.revealing_law.shape[2])
    kinds = [paths.neutral_law, *(paths.revealing_law[:, :, g] for g in groups)]
    parts = [users, *(Part("kinds", law) for law in kinds)]
    return [dataclasses.replace(part, values=part.values[:, first:]) for part in parts]
