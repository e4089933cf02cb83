"""Fit the analytic mode to the first rounds of a run with a language model, then predict its later rounds.

Each parameter is estimated from the measurements that depend on it, in rounds 0..h:

=============================== =====================================================================================
kinds at the start              own-kind shares and neutral kinds of round 0 (counts plus 1/2), which were decoded at
                                ``generation.temperature``: what the base model writes at 1 is taken from them
``choice_gain``                 slope of the groups' mean rewards on the mean of c_k - 1/K over what they were given
(or ``kind_advantage``)         slope on the share of the first kind, where no reward model is learned from choices
``reward_sd``                   spread of rewards within group and round, minus the part that kinds explain
``own_kind_weight``             slope of quality on own-kind shares, both less the quality without own kind
``quality_ceiling``             least squares of ln L on ln(K d), L: quality without own kind, d: the groups' shares of
and ``learning_exponent``       the training data
``prior_rows``, ``spillover``   the pair on a grid with the largest synthetic likelihood of own-kind shares and log-odds
                                of preference (:mod:`scpl_ray.analytic.likelihood`)
=============================== =====================================================================================

Every estimate has a 95% range. A parameter whose measurements do not vary in the run is not identified and keeps its
value. The learning curve is not fitted where ``quality_ceiling`` is given per group. A run that did not record quality
without own kind has the config's weight w of own kind, and L = (q - w own) / (1 - w).

What a group was given is measured for its own kind only. With two groups that is all; with more, the rest is divided
among the other kinds as in the simulation of the fit, whose kinds drift apart as those of the run do: a rest that is
divided equally biases ``choice_gain``, the more so the more data a round has. Rewards and kinds are therefore fitted in
turn until ``choice_gain`` stands still. The noise with which own-kind shares are measured, which would pull the slope
towards 0, is taken out of its moments (errors in variables, Fuller 1987).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from scpl_ray.analytic import model
from scpl_ray.analytic.likelihood import SMALLEST_VARIANCE, Explained, explain, mean_law
from scpl_ray.analytic.loop import Start, simulate
from scpl_ray.analytic.paths import Paths
from scpl_ray.config import Analytic, Experiment
from scpl_ray.evaluation.bias import SMOOTHING
from scpl_ray.evaluation.catalogue import CATALOGUE
from scpl_ray.records import Completion, Example, Metric, Query, Score
from scpl_ray.shares import FloatArray
from scpl_ray.storage.run_directory import Reader

GRID_SEEDS = 100
SMALLEST_SPREAD = 1e-6
"""A regressor whose spread is smaller than this counts as constant."""
SMALLEST_RELIABILITY = 0.1
"""Smallest part of a regressor's spread that must be left after the noise of measuring it is taken out."""
SMALLEST_QUALITY = 1e-3
CONFIDENCE = 0.95
MOST_TURNS = 8
"""Largest number of times that rewards and kinds are fitted in turn."""
SMALLEST_STEP = 1e-3
"""A slope that changes by a smaller fraction stands still."""


@dataclasses.dataclass(frozen=True, eq=False)
class Observed:
    """What a run measured in rounds 0..T; NaN where there is no measurement."""

    experiment: Experiment
    shares: FloatArray
    """Shares of the groups in the queries, shape (T + 1, K); so are all arrays below unless stated otherwise."""
    quality: FloatArray
    quality_without_own_kind: FloatArray
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
        """A metric that the catalogue calls predicted, shape (T + 1, K or 1)."""
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
    low: float
    """The 95% range of values that explain the run; NaN where the parameter is not identified."""
    high: float


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
        quality_without_own_kind=path("quality_without_own_kind"),
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
        ValueError: fewer than 2 rounds, an h outside 1..T - 1, or greedy decoding.
    """
    if observed.rounds < 2:
        raise ValueError(f"--from: the run has {observed.rounds} evaluated rounds; fitting and predicting need 2")
    h = (observed.rounds + 1) // 2 if fit_rounds is None else fit_rounds
    if not 1 <= h < observed.rounds:
        raise ValueError(f"--fit-rounds: {h} of {observed.rounds} rounds; give 1 to {observed.rounds - 1}")
    if observed.experiment.generation.temperature == 0:
        raise ValueError(
            "--from: the run has generation.temperature: 0, and greedy answers do not tell how often the base model "
            "writes each kind; give a run with a temperature above 0"
        )
    config = observed.experiment
    before = config.analytic.model_copy(update={_WEIGHT: model.own_kind_weight(config)})
    start = _start(observed)
    quality = _quality_law(observed, h)
    rewards, kinds = _in_turn(observed, quality, start, h)
    estimates = quality | rewards | {n: _Estimate(v, *kinds.ranges[n]) for n, v in kinds.values.items()}
    parameters = []
    for name in ("choice_gain", "kind_advantage", "reward_sd", _WEIGHT, *_CURVE, *kinds.values):
        old = float(np.mean(getattr(before, name)))
        found = estimates.get(name, _Estimate(old, np.nan, np.nan))
        parameters.append(Fitted(name, old, found.value, name in estimates, found.low, found.high))
    return Calibration(observed, _with(config, _values(estimates)), start, h, tuple(parameters))


@dataclasses.dataclass(frozen=True)
class _Estimate:
    """A parameter with its 95% range."""

    value: float
    low: float
    high: float


def _values(estimates: dict[str, _Estimate]) -> dict[str, float]:
    return {name: found.value for name, found in estimates.items()}


def _in_turn(
    observed: Observed, quality: dict[str, _Estimate], start: Start, h: int
) -> tuple[dict[str, _Estimate], Explained]:
    """Fit rewards given how the kinds are divided, and training given the rewards, until the slope stands still."""
    law = _own_and_others(observed.own_kind[:h])
    seen = np.concatenate([observed.own_kind[1 : h + 1], observed.log_odds[1 : h + 1, None]], axis=-1)
    rewards = _reward_law(observed, h, law)
    kinds = explain(seen, _at(observed, quality | rewards, h), start, confidence=CONFIDENCE)
    if law.shape[-1] == 2:
        return rewards, kinds
    for _ in range(MOST_TURNS):
        expected = kinds.law
        before = _slope(rewards)
        for _ in range(MOST_TURNS):
            last = _slope(rewards)
            rewards = _reward_law(observed, h, _like(observed.own_kind[:h], expected[:h]))
            if abs(_slope(rewards) - last) <= SMALLEST_STEP * abs(last):
                break
            expected = mean_law(simulate(_at(observed, quality | rewards, h)(kinds.values), start=start))
        kinds = explain(seen, _at(observed, quality | rewards, h), start, confidence=CONFIDENCE)
        if abs(_slope(rewards) - before) <= 10 * SMALLEST_STEP * abs(before):
            break
    return rewards, kinds


def _slope(rewards: dict[str, _Estimate]) -> float:
    return next((found.value for name, found in rewards.items() if name in _SLOPES), 0.0)


def _at(observed: Observed, found: dict[str, _Estimate], h: int) -> Callable[[dict[str, float]], Experiment]:
    """The experiment of h rounds with what is fitted so far, for values of the other parameters."""
    experiment = _with(observed.experiment, _values(found))
    loop = experiment.loop.model_copy(update={"rounds": h})

    def at(values: dict[str, float]) -> Experiment:
        return _with(experiment, {**values, "seeds": GRID_SEEDS}).model_copy(update={"loop": loop})

    return at


def predict(calibration: Calibration) -> tuple[Paths, tuple[PredictionError, ...]]:
    """Simulate the run from start to end, and compare rounds h + 1..T with what the run measured."""
    observed, h = calibration.observed, calibration.fit_rounds
    loop = calibration.experiment.loop.model_copy(update={"rounds": observed.rounds})
    paths = simulate(calibration.experiment.model_copy(update={"loop": loop}), start=calibration.start)
    series = paths.series()
    errors = []
    for metric in (kind.name for kind in CATALOGUE if kind.predicted):
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


_WEIGHT = "own_kind_weight"
_CURVE = ("quality_ceiling", "learning_exponent")
_SLOPES = ("choice_gain", "kind_advantage")


def _rms(values: FloatArray) -> float:
    return float(np.sqrt((values**2).mean()))


def _with(experiment: Experiment, found: dict[str, float]) -> Experiment:
    analytic = Analytic.model_validate(experiment.analytic.model_dump() | found)
    return experiment.model_copy(update={"analytic": analytic})


def _start(observed: Observed) -> Start:
    """The kinds of the base model, of which round 0 measured what its decoding temperature makes of them."""
    counts = observed.kind_counts[0] + SMOOTHING
    neutral = counts / counts.sum()
    m = observed.experiment.task.marker_strength
    # the own-kind share of a group is a mixture over prompts that reveal the group and prompts that do not
    own = np.clip((observed.own_kind[0] - (1.0 - m) * neutral) / m, 0.0, 1.0) if m > 0 else neutral
    sharper = 1.0 / observed.experiment.generation.temperature
    return Start(model.tempered(_own_and_others(own), sharper), model.tempered(neutral, sharper))


def _own_and_others(own: FloatArray) -> FloatArray:
    """P(kind | group), shape (..., K, K), where the other kinds share the rest equally."""
    k = own.shape[-1]
    law = np.repeat(((1.0 - own) / (k - 1))[..., None], k, axis=-1)
    np.einsum("...kk->...k", law)[...] = own
    return np.asarray(law)


def _like(own: FloatArray, law: FloatArray) -> FloatArray:
    """P(kind | group), shape (..., K, K), with this share of the own kind, and the rest divided as in ``law``."""
    k = own.shape[-1]
    others = np.where(np.eye(k, dtype=bool), 0.0, law)
    total = others.sum(axis=-1, keepdims=True)
    divided = np.divide(others, total, out=(1.0 - np.eye(k)) / (k - 1) * np.ones_like(others), where=total > 0)
    return np.asarray((1.0 - own)[..., None] * divided + own[..., None] * np.eye(k))


def _reward_law(observed: Observed, h: int, law: FloatArray) -> dict[str, _Estimate]:
    """Regress group means of rewards on the quantities that the kinds determine, with one intercept per round.

    Args:
        observed: the measurements.
        h: the last fitted round.
        law: P(kind | group) of the policies of rounds 0..h - 1, shape (h, K, K).
    """
    e = observed.experiment
    k = len(e.groups.names)
    learned = model.choice_gain(e.model_copy(update={"analytic": Analytic(choice_gain=1.0)}))
    weight = model.reward_weight(e)
    name, kinds = _SLOPES[1], np.broadcast_to(np.eye(k)[0] * weight, (h, k))
    if learned:
        choosing = np.full((h, k), 1.0 / k) if e.reward.choices == "balanced" else observed.shares[1 : h + 1]
        name, kinds = _SLOPES[0], learned * (choosing - 1.0 / k)
    x = np.einsum("tgk,tk->tg", law, kinds)
    y = observed.rewards[1 : h + 1]
    there = ~np.isnan(x + y)
    noise = np.where(there, _noise_of_means(observed, h, law, kinds), 0.0)
    x, y = (np.where(there, z, np.nan) for z in (x, y))
    rounds = there.any(axis=1)
    per_round = there.sum(axis=1, keepdims=True)[rounds]
    x, y = (z[rounds] - np.nanmean(z[rounds], axis=1, keepdims=True) for z in (x, y))
    raw = float(np.nansum(x**2))
    spread = raw - float((noise[rounds] * (1.0 - 1.0 / per_round)).sum())
    found: dict[str, _Estimate] = {}
    if raw > SMALLEST_SPREAD and spread > SMALLEST_RELIABILITY * raw:
        slope = float(np.nansum(x * y)) / spread
        rest = float(np.nansum((y - slope * x) ** 2))
        found[name] = _ranged(slope, rest, int(there.sum()) - int(rounds.sum()) - 1, np.sqrt(raw) / spread)
    means = _slope(found) * kinds[:, None]
    between = (law * (means - (law * means).sum(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    within = observed.reward_variance[1 : h + 1] - between
    within = within[~np.isnan(within)]
    if len(within) and within.mean() > SMALLEST_VARIANCE:
        rest = float(((within - within.mean()) ** 2).sum())
        variance = _ranged(float(within.mean()), rest, len(within) - 1, 1.0 / np.sqrt(len(within)))
        ends = np.sqrt(np.maximum([variance.value, variance.low, variance.high], 0.0)) / abs(weight)
        found["reward_sd"] = _Estimate(*ends.tolist())
    return found


def _noise_of_means(observed: Observed, h: int, law: FloatArray, kinds: FloatArray) -> FloatArray:
    """Variance of the mean of ``kinds`` over what a group was given, from counting its own kind, shape (h, K)."""
    asked = observed.experiment.evaluation
    own = observed.own_kind[:h]
    others = np.einsum("tgk,tk->tg", law, kinds) - own * kinds
    step = kinds - np.divide(others, 1.0 - own, out=np.zeros_like(others), where=own < 1.0)
    return np.asarray(step**2 * own * (1.0 - own) / (asked.prompts_per_group * asked.samples_per_prompt))


def _ranged(value: float, rest: float, freedom: int, scale: float) -> _Estimate:
    """An estimate whose standard error is ``scale`` times that of one residual; ``rest``: the residuals' squares."""
    if freedom < 1:
        return _Estimate(value, -np.inf, np.inf)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, freedom) * np.sqrt(rest / freedom) * scale)
    return _Estimate(value, value - half, value + half)


def _quality_law(observed: Observed, h: int) -> dict[str, _Estimate]:
    """The weight of own kind in the quality, and the learning curve of the rest."""
    found = _own_kind_weight(observed, h)
    given = model.own_kind_weight(observed.experiment)
    return found | _learning_curve(observed, h, found[_WEIGHT].value if found else given)


def _own_kind_weight(observed: Observed, h: int) -> dict[str, _Estimate]:
    """w of q - L = w (own - L), by least squares; exact where the task's quality is a mean of own kind and the rest."""
    rest = observed.quality_without_own_kind[: h + 1].ravel()
    x, y = observed.own_kind[: h + 1].ravel() - rest, observed.quality[: h + 1].ravel() - rest
    there = ~np.isnan(x + y)
    x, y = x[there], y[there]
    spread = float(x @ x)
    if spread <= SMALLEST_SPREAD:
        return {}
    slope = float(x @ y) / spread
    ranged = _ranged(slope, float(((y - slope * x) ** 2).sum()), len(x) - 1, 1.0 / np.sqrt(spread))
    return {_WEIGHT: _Estimate(*np.clip([ranged.value, ranged.low, ranged.high], 0.0, 1.0).tolist())}


def _learning_curve(observed: Observed, h: int, weight: float) -> dict[str, _Estimate]:
    if isinstance(observed.experiment.analytic.quality_ceiling, tuple):
        return {}
    share = observed.data_shares[: h + 1].ravel() * observed.data_shares.shape[-1]
    learned = _without_own_kind(observed, weight)[: h + 1].ravel()
    there = (share > 0) & (learned > SMALLEST_QUALITY)
    if not there.any():
        return {}
    x, y = np.log(share[there]), np.log(learned[there])
    spread = float(((x - x.mean()) ** 2).sum())
    found: dict[str, _Estimate] = {}
    gamma, freedom, shift = observed.experiment.analytic.learning_exponent, len(y) - 1, 0.0
    if spread > SMALLEST_SPREAD:
        slope, freedom, shift = float((x - x.mean()) @ y) / spread, len(y) - 2, float(x.mean()) ** 2 / spread
        gamma = max(0.0, slope)
        rest = float(((y - y.mean() - slope * (x - x.mean())) ** 2).sum())
        ranged = _ranged(slope, rest, freedom, 1.0 / np.sqrt(spread))
        found[_CURVE[1]] = _Estimate(gamma, max(0.0, ranged.low), max(0.0, ranged.high))
    rest = float(((y - y.mean() - gamma * (x - x.mean())) ** 2).sum())
    ranged = _ranged(float((y - gamma * x).mean()), rest, freedom, float(np.sqrt(1.0 / len(y) + shift)))
    ends = np.minimum(1.0, np.exp([ranged.value, ranged.low, ranged.high]))
    found[_CURVE[0]] = _Estimate(*ends.tolist())
    return found


def _without_own_kind(observed: Observed, weight: float) -> FloatArray:
    """Quality without own kind, shape (T + 1, K): as the run recorded it, else what this weight of own kind leaves."""
    left = np.full_like(observed.quality, np.nan)
    if weight < 1.0:
        left = (observed.quality - weight * observed.own_kind) / (1.0 - weight)
    recorded = observed.quality_without_own_kind
    return np.where(np.isnan(recorded), left, recorded)
