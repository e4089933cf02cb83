"""Fit the analytic mode to the first rounds of a run with a language model, then predict its later rounds.

Each parameter is estimated from the measurements that depend on it, in rounds 0..h:

=============================== =====================================================================================
kinds at the start              own-kind shares and neutral kinds of round 0 (counts plus 1/2)
``choice_gain``                 slope of the groups' mean rewards on the mean of c_k - 1/K over what they were given
(or ``kind_advantage``)         slope on the share of the first kind, where no reward model is learned from choices
``reward_sd``                   spread of rewards within group and round, minus the part that kinds explain
``quality_ceiling``             least squares of ln((q - w own) / (1 - w)) on ln(K d), d: the groups' shares of the
and ``learning_exponent``       training data
``prior_rows``, ``spillover``   the pair on a grid with the largest likelihood of own-kind shares and log-odds of
                                preference: each is taken as normal with the mean and variance of the simulated seeds
                                (Wood 2010)
=============================== =====================================================================================

A parameter whose measurements do not vary in the run is not identified and keeps its value. ``own_kind_weight`` is not
fitted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from scpl_ray.analytic import model
from scpl_ray.analytic.loop import Start, simulate, simulate_grid
from scpl_ray.analytic.paths import Paths
from scpl_ray.config import Analytic, Experiment
from scpl_ray.evaluation.bias import SMOOTHING
from scpl_ray.records import Completion, Example, Metric, Query, Score
from scpl_ray.shares import FloatArray
from scpl_ray.storage.run_directory import Reader

PRIOR_ROWS = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0, 30_000.0)
SPILLOVERS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
GRID_SEEDS = 100
SMALLEST_SPREAD = 1e-6
"""A regressor whose spread is smaller than this counts as constant."""
SMALLEST_QUALITY = 1e-3
SMALLEST_VARIANCE = 1e-6
"""Added to the variance of simulated own-kind shares and log-odds, which is 0 where all seeds agree."""
PREDICTED = ("share", "preference_log_odds_balanced", "quality")


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
    """What a run measured in rounds 0..T; NaN where there is no measurement."""

    experiment: Experiment
    shares: FloatArray
    """Shares of the groups in the queries, shape (T + 1, K); so are all arrays below unless stated otherwise."""
    quality: FloatArray
    own_kind: FloatArray
    kind_counts: FloatArray
    """Number of answers to neutral prompts of each kind."""
    log_odds: FloatArray
    """Preference log-odds against equal shares, shape (T + 1,)."""
    rewards: FloatArray
    """Mean reward of each group's completions; NaN in round 0."""
    reward_variance: FloatArray
    """Variance of rewards within each group; NaN in round 0."""
    data_shares: FloatArray
    """Weighted shares of the groups in the training data; equal in round 0."""

    @property
    def rounds(self) -> int:
        """The last round T."""
        return len(self.shares) - 1

    def metric(self, name: str) -> FloatArray:
        """One of :data:`PREDICTED`, shape (T + 1, K or 1)."""
        return {"share": self.shares, "preference_log_odds_balanced": self.log_odds[:, None], "quality": self.quality}[
            name
        ]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """One parameter of the fit."""

    name: str
    before: float
    after: float
    identified: bool
    """False: the run does not determine the parameter, which kept its value."""


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The analytic mode fitted to a run."""

    observed: Observed
    experiment: Experiment
    """The run's config with the fitted parameters."""
    start: Start
    fit_rounds: int
    """The last fitted round h."""
    parameters: tuple[Fitted, ...]


@dataclasses.dataclass(frozen=True)
class PredictionError:
    """The errors of the predictions of rounds h + 1..T."""

    metric: str
    model: float
    """Root mean squared error of the simulated mean."""
    no_change: float
    """Root mean squared error of predicting the value of the last fitted round."""
    within_band: float
    """Fraction of the run's numbers inside the 95% band of the simulated seeds."""
    numbers: int


def observe(run: Reader, experiment: Experiment) -> Observed:
    """Read what a run measured, up to its last evaluated round, without locking the run directory.

    Raises:
        ValueError: round 0 was not evaluated.
    """
    names = experiment.groups.names
    rows: list[Metric] = []
    rounds = -1
    while run.manifest(rounds + 1, "evaluation") is not None:
        rounds += 1
        rows += run.read(rounds, "evaluation", "metrics", Metric)
    if rounds < 0:
        raise ValueError(f"--from {run.root}: round 0 was not evaluated; let the run go on to its end")
    value = {(r.round, r.metric, r.group): r.value for r in rows}

    def path(metric: str, groups: Sequence[str | None] = names) -> FloatArray:
        return np.array([[value.get((t, metric, g), np.nan) for g in groups] for t in range(rounds + 1)])

    reward_variance = np.full((rounds + 1, len(names)), np.nan)
    data_shares = np.full((rounds + 1, len(names)), 1.0 / len(names))
    for t in range(1, rounds + 1):
        group_of = {q.query_id: q.group for q in run.read(t, "queries", "queries", Query)}
        asked = [group_of[c.query_id] for c in run.read(t, "completions", "completions", Completion)]
        rewards = np.array([s.reward for s in run.read(t, "scores", "scores", Score)])
        data = run.read(t, "dataset", "dataset", Example)
        weights = np.array([e.weight for e in data])
        for k, name in enumerate(names):
            own = rewards[[group == name for group in asked]]
            reward_variance[t, k] = own.var(ddof=1) if len(own) > 1 else np.nan
            data_shares[t, k] = weights[[e.group == name for e in data]].sum() / weights.sum()
    return Observed(
        experiment=experiment,
        shares=path("share"),
        quality=path("quality"),
        own_kind=path("own_kind_share"),
        kind_counts=path("kind_count"),
        log_odds=path("preference_log_odds_balanced", [None])[:, 0],
        rewards=path("reward"),
        reward_variance=reward_variance,
        data_shares=data_shares,
    )


def calibrate(observed: Observed, fit_rounds: int | None = None) -> Calibration:
    """Fit the analytic mode to rounds 0..h of a run.

    Args:
        observed: the measurements of the run.
        fit_rounds: h in 1..T - 1, so that something is left to predict; ``None``: half of T, rounded up.

    Raises:
        ValueError: fewer than 2 rounds, or an h outside 1..T - 1.
    """
    if observed.rounds < 2:
        raise ValueError(f"--from: the run has {observed.rounds} evaluated rounds; fitting and predicting need 2")
    h = (observed.rounds + 1) // 2 if fit_rounds is None else fit_rounds
    if not 1 <= h < observed.rounds:
        raise ValueError(f"--fit-rounds: {h} of {observed.rounds} rounds; give 1 to {observed.rounds - 1}")
    before = observed.experiment.analytic
    start = _start(observed)
    found = _reward_law(observed, h) | _learning_curve(observed, h)
    experiment = _with(observed.experiment, found)
    found |= _training(observed, experiment, start, h)
    parameters = []
    for name in ("choice_gain", "kind_advantage", "reward_sd", *_CURVE, "prior_rows", "spillover"):
        old = float(np.mean(getattr(before, name)))
        parameters.append(Fitted(name, old, found.get(name, old), name in found))
    return Calibration(observed, _with(observed.experiment, found), start, h, tuple(parameters))


def predict(calibration: Calibration) -> tuple[Paths, tuple[PredictionError, ...]]:
    """Simulate the run from start to end, and compare rounds h + 1..T with what the run measured."""
    observed, h = calibration.observed, calibration.fit_rounds
    loop = calibration.experiment.loop.model_copy(update={"rounds": observed.rounds})
    paths = simulate(calibration.experiment.model_copy(update={"loop": loop}), start=calibration.start)
    series = paths.series()
    errors = []
    for metric in PREDICTED:
        groups = [None] if (metric, None) in series else observed.experiment.groups.names
        simulated = np.stack([series[metric, g] for g in groups], axis=-1)[:, h + 1 :]
        seen = observed.metric(metric)[h + 1 :]
        there = ~np.isnan(seen)
        low, high = np.quantile(simulated, [0.025, 0.975], axis=0)
        errors.append(
            PredictionError(
                metric,
                model=_rms((simulated.mean(axis=0) - seen)[there]),
                no_change=_rms((observed.metric(metric)[h] - seen)[there]),
                within_band=float(((seen >= low) & (seen <= high))[there].mean()),
                numbers=int(there.sum()),
            )
        )
    return paths, tuple(errors)


_CURVE = ("quality_ceiling", "learning_exponent")


def _rms(values: FloatArray) -> float:
    return float(np.sqrt((values**2).mean()))


def _with(experiment: Experiment, found: dict[str, float]) -> Experiment:
    analytic = Analytic.model_validate(experiment.analytic.model_dump() | found)
    return experiment.model_copy(update={"analytic": analytic})


def _start(observed: Observed) -> Start:
    counts = observed.kind_counts[0] + SMOOTHING
    neutral = counts / counts.sum()
    m = observed.experiment.task.marker_strength
    # the own-kind share of a group is a mixture over prompts that reveal the group and prompts that do not
    own = np.clip((observed.own_kind[0] - (1.0 - m) * neutral) / m, 0.0, 1.0) if m > 0 else neutral
    return Start(_own_and_others(own), neutral)


def _own_and_others(own: FloatArray) -> FloatArray:
    """P(kind | group), shape (..., K, K), where the other kinds share the rest equally."""
    k = own.shape[-1]
    law = np.repeat(((1.0 - own) / (k - 1))[..., None], k, axis=-1)
    np.einsum("...kk->...k", law)[...] = own
    return np.asarray(law)


def _reward_law(observed: Observed, h: int) -> dict[str, float]:
    """Regress group means of rewards on the quantities that the kinds determine, with one intercept per round."""
    e = observed.experiment
    k = len(e.groups.names)
    law = _own_and_others(observed.own_kind[:h])
    learned = model.choice_gain(e.model_copy(update={"analytic": Analytic(choice_gain=1.0)}))
    name, kinds = "kind_advantage", np.broadcast_to(np.eye(k)[0], (h, k))
    if learned:
        choosing = np.full((h, k), 1.0 / k) if e.reward.choices == "balanced" else observed.shares[1 : h + 1]
        name, kinds = "choice_gain", learned * (choosing - 1.0 / k)
    x = np.einsum("tgk,tk->tg", law, kinds)
    y = observed.rewards[1 : h + 1]
    x, y = (np.where(np.isnan(y), np.nan, z) for z in (x, y))
    x, y = (z - np.nanmean(z, axis=1, keepdims=True) for z in (x, y))
    spread = float(np.nansum(x**2))
    found: dict[str, float] = {}
    if spread > SMALLEST_SPREAD:
        found[name] = float(np.nansum(x * y)) / spread
    slope = found.get(name, 0.0)
    means = slope * kinds[:, None]
    between = (law * (means - (law * means).sum(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    within = float(np.nanmean(observed.reward_variance[1 : h + 1] - between))
    if within > SMALLEST_VARIANCE:
        found["reward_sd"] = float(np.sqrt(within))
    return found


def _learning_curve(observed: Observed, h: int) -> dict[str, float]:
    w = observed.experiment.analytic.own_kind_weight
    if w == 1.0:
        return {}
    share = observed.data_shares[: h + 1].ravel() * observed.data_shares.shape[-1]
    learned = ((observed.quality - w * observed.own_kind) / (1.0 - w))[: h + 1].ravel()
    there = (share > 0) & (learned > SMALLEST_QUALITY)
    if not there.any():
        return {}
    x, y = np.log(share[there]), np.log(learned[there])
    spread = float(((x - x.mean()) ** 2).sum())
    found: dict[str, float] = {}
    gamma = observed.experiment.analytic.learning_exponent
    if spread > SMALLEST_SPREAD:
        gamma = found["learning_exponent"] = max(0.0, float((x - x.mean()) @ y) / spread)
    found["quality_ceiling"] = float(min(1.0, np.exp((y - gamma * x).mean())))
    return found


def _training(observed: Observed, experiment: Experiment, start: Start, h: int) -> dict[str, float]:
    """Find the pair of ``prior_rows`` and ``spillover`` on the grid with the highest likelihood."""
    loop = experiment.loop.model_copy(update={"rounds": h})
    pairs = [{"prior_rows": n, "spillover": s} for n in PRIOR_ROWS for s in SPILLOVERS]
    grid = [_with(experiment, {**pair, "seeds": GRID_SEEDS}).model_copy(update={"loop": loop}) for pair in pairs]
    seen = np.concatenate([observed.own_kind[1 : h + 1], observed.log_odds[1 : h + 1, None]], axis=-1)
    scores = []
    for paths in simulate_grid(grid, start=start):
        odds = paths.preference("balanced").log_odds[:, 1:, None]
        simulated = np.concatenate([paths.own_kind[:, 1:], odds], axis=-1)
        variance = simulated.var(axis=0) + SMALLEST_VARIANCE
        scores.append(float(np.nansum((seen - simulated.mean(axis=0)) ** 2 / variance + np.log(variance))))
    return pairs[int(np.argmin(scores))]
