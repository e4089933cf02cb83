"""The formulas of the analytic mode, and the settings of many experiments as arrays.

The model itself is described in :mod:`scpl_ray.analytic.loop`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, ndtr

from scpl_ray.config import Experiment
from scpl_ray.config.code import references
from scpl_ray.config.schema import MODEL_TERM, NOT_OF_THE_TASK
from scpl_ray.feedback import rules
from scpl_ray.selection import targets
from scpl_ray.selection.candidates import kept_rows
from scpl_ray.selection.cycles import real_rows_needed
from scpl_ray.selection.strategies import STRATEGIES
from scpl_ray.shares import FloatArray, IntArray, check_shares, largest_remainder, normalise
from scpl_ray.tasks import TASKS
from scpl_ray.training.objectives import OBJECTIVES

CONTEXTS = 2
"""Number of contexts: a prompt reveals its group (0) or is neutral (1)."""
LARGEST_REWARD = 1e6
"""Largest difference of rewards, or standard deviation of them, that squares and exponentials are computed of."""
WIN_NODES, WIN_WEIGHTS = np.polynomial.hermite_e.hermegauss(20)
LOGISTIC_NODES, _STEP = np.linspace(-40.0, 40.0, 161, retstep=True)
LOGISTIC_WEIGHTS = _STEP * expit(LOGISTIC_NODES) * expit(-LOGISTIC_NODES)


@dataclasses.dataclass(frozen=True, eq=False)
class Start:
    """The shares of kinds that the base model writes."""

    revealing: FloatArray
    """P_0(kind | a prompt that reveals group g), shape (K, K)."""
    neutral: FloatArray
    """P_0(kind | a neutral prompt), shape (K,)."""

    def __post_init__(self) -> None:
        check_shares("start.neutral", self.neutral)
        check_shares("start.revealing", self.revealing, len(self.neutral))


def assumed_start(experiment: Experiment) -> Start:
    """Own kind with probability ``analytic.own_kind`` where a prompt reveals the group; all kinds equally elsewhere.

    These are the true shares of the built-in language.
    """
    k = len(experiment.groups.names)
    own = experiment.analytic.own_kind
    revealing = np.full((k, k), (1.0 - own) / (k - 1))
    np.fill_diagonal(revealing, own)
    return Start(revealing, np.full(k, 1.0 / k))


def learning_curve(data_share: ArrayLike, ceiling: ArrayLike, exponent: ArrayLike) -> FloatArray:
    """L_k = min(1, q0 (K d_k)^gamma), shape (..., K): q0 is reached at an equal share of the training data."""
    share = np.asarray(data_share, dtype=np.float64)
    return np.asarray(np.minimum(1.0, np.asarray(ceiling) * (share.shape[-1] * share) ** np.asarray(exponent)))


def asked_law(revealing: FloatArray, neutral: FloatArray, marked: ArrayLike) -> FloatArray:
    """P(kind | group) over a group's prompts, shape (..., K, K), of which a fraction ``marked`` reveals the group."""
    m = np.asarray(marked, dtype=np.float64)
    return np.asarray(m * revealing + (1.0 - m) * neutral[..., None, :])


def own_kind_share(law: FloatArray) -> FloatArray:
    """P(kind g | group g), shape (..., K), of P(kind | group), shape (..., K, K)."""
    return np.asarray(np.diagonal(law, axis1=-2, axis2=-1))


def mean_rewards(choices: FloatArray, gain: ArrayLike, advantage: ArrayLike) -> FloatArray:
    """mu_k = gain (c_k - 1/K) + advantage [k is the first kind], shape (..., K), from the shares c of users who chose.

    ``gain`` broadcasts against ``choices``, ``advantage`` against one number per row.
    """
    means = np.asarray(gain) * (choices - 1.0 / choices.shape[-1])
    means[..., 0] += advantage
    return np.asarray(means, dtype=np.float64)


def win_rates(means: FloatArray, sds: FloatArray) -> FloatArray:
    """E logistic(r) of r ~ N(mu, sd^2), shape (..., K).

    Up to sd 1 by Gauss-Hermite, with an error below 1e-6. Wider rewards see a step: the same number is the mean of
    Phi((mu - l) / sd) over l of the logistic distribution, by the trapezoid rule, exact to 1e-12.
    """
    values = expit(means[..., None] + sds[..., None] * WIN_NODES)
    narrow = np.asarray(values @ WIN_WEIGHTS / WIN_WEIGHTS.sum())
    if np.all(sds <= 1.0):
        return narrow
    wide = np.maximum(sds, 1.0)[..., None]
    return np.where(sds <= 1.0, narrow, ndtr((means[..., None] - LOGISTIC_NODES) / wide) @ LOGISTIC_WEIGHTS)


def reacted_to(win_rate: FloatArray) -> FloatArray:
    """The win rates to which the groups react, shape (..., K): that of a group that asked nothing is NaN on entry.

    It reacts to the mean of the groups that asked, as :func:`scpl_ray.evaluation.measure.reaction` has it in a run.
    """
    return np.where(np.isnan(win_rate), np.nanmean(win_rate, axis=-1, keepdims=True), win_rate)


def marked_in_real(experiment: Experiment) -> float:
    """Fraction of the task's real text that answers prompts which reveal their group; equal groups share it."""
    marked = experiment.task.marker_strength
    task = experiment.task
    unmarked = (1.0 - marked) * TASKS[task.name].unmarked_kept.get(task.real_text, 1.0)
    return marked / (marked + unmarked)


def reward_weight(experiment: Experiment) -> float:
    """What multiplies all rewards: the weight of the reward model where it is the only term; 1 where others count too.

    Means and spread grow with it alike, so that it changes nothing that is kept by rank, and rejection sampling sees it
    as a lower temperature. What further terms add is not known here: ``analytic.reward_sd`` and
    ``analytic.kind_advantage`` are then those of the whole reward.
    """
    terms = {name: weight for name, weight in experiment.reward.terms.items() if weight}
    return terms[MODEL_TERM] if terms.keys() == {MODEL_TERM} else 1.0


def choice_gain(experiment: Experiment) -> float:
    """Reward per unit of the share of choosing users; 0 where the reward model is not learned from their choices."""
    learned = experiment.reward.model is None
    return experiment.analytic.choice_gain * experiment.reward.terms.get(MODEL_TERM, 0.0) * learned


def kind_advantage(experiment: Experiment) -> float:
    """Reward of the first kind above the others' that any scorer gives."""
    return experiment.analytic.kind_advantage * reward_weight(experiment)


def own_kind_weight(experiment: Experiment) -> float:
    """w_q, the part of the quality that is the share of own kinds: what was given, or that of the task's quality."""
    given = experiment.analytic.own_kind_weight
    return TASKS[experiment.task.name].own_kind_weight if given == "auto" else given


def reward_sds(experiment: Experiment) -> FloatArray:
    """Standard deviation of rewards within each kind, shape (K,)."""
    given = np.asarray(experiment.analytic.reward_sd, dtype=np.float64) * abs(reward_weight(experiment))
    return np.broadcast_to(given, len(experiment.groups.names))


def quality_ceilings(experiment: Experiment) -> FloatArray:
    """q0 of the learning curve of each group, shape (K,)."""
    given = np.asarray(experiment.analytic.quality_ceiling, dtype=np.float64)
    return np.broadcast_to(given, len(experiment.groups.names))


def validate(experiment: Experiment) -> None:
    """Check what the analytic mode uses of a config, beyond what the schema checks.

    Raises:
        ValueError: an unknown strategy, another objective than SFT, a target that is not a vector of shares, wrong
            feedback settings, both kinds of real rows, more candidates than are drawn, standard deviations that
            are not one per kind and above 0, rewards beyond :data:`LARGEST_REWARD`, or ceilings that are not one per
            group and in [0, 1].
    """
    k = len(experiment.groups.names)
    chosen, sd = experiment.selection, experiment.analytic.reward_sd
    if chosen.strategy not in STRATEGIES:
        raise ValueError(f"selection.strategy: {chosen.strategy!r} is unknown; choose one of {', '.join(STRATEGIES)}")
    if not STRATEGIES[chosen.strategy].modelled:
        raise ValueError(
            f"selection.strategy: {chosen.strategy!r} is not modelled in the analytic mode, which has numbers of "
            "completions and no texts; choose one of this project, or run the loop with a model"
        )
    if not OBJECTIVES[experiment.training.objective].modelled:
        raise ValueError(
            f"training.objective: {experiment.training.objective!r} is not modelled in the analytic mode; set sft"
        )
    if isinstance(sd, tuple) and (len(sd) != k or min(sd) <= 0):
        raise ValueError(f"analytic.reward_sd: {list(sd)}; give one number above 0, or one per kind, {k}")
    assumed = {"choice_gain": experiment.analytic.choice_gain, "kind_advantage": experiment.analytic.kind_advantage}
    largest = sd if isinstance(sd, float) else max(sd)
    scaled = {"choice_gain": experiment.reward.terms.get(MODEL_TERM, 0.0)}
    for name, value in (assumed | {"reward_sd": largest}).items():
        weight = scaled.get(name, reward_weight(experiment))
        if abs(value) * max(1.0, abs(weight)) > LARGEST_REWARD:
            times = f" times reward.terms.{MODEL_TERM} = {weight:g}" if abs(weight) > 1.0 else ""
            raise ValueError(
                f"analytic.{name}: {value:g}{times}; rewards beyond {LARGEST_REWARD:g} cannot be computed with: give "
                "less"
            )
    ceiling = experiment.analytic.quality_ceiling
    if isinstance(ceiling, tuple) and (len(ceiling) != k or min(ceiling) < 0 or max(ceiling) > 1):
        raise ValueError(f"analytic.quality_ceiling: {list(ceiling)}; give one number in [0, 1], or one per group, {k}")
    if STRATEGIES[chosen.strategy].reads_best_of and chosen.best_of > experiment.generation.samples_per_prompt:
        raise ValueError(
            f"selection.best_of: {chosen.best_of} but generation.samples_per_prompt is "
            f"{experiment.generation.samples_per_prompt}; lower it or draw more"
        )
    targets.target_shares(chosen, k, experiment.groups.shares)
    rules.validate(experiment.feedback, k)
    real_rows_needed(1, experiment.cycle)


def without_effect(experiment: Experiment) -> list[str]:
    """Settings that were given but have no effect in this model, as ``key=value``."""
    found = {
        "queries.prompts=reused": experiment.queries.prompts == "reused",
        f"generation.top_p={experiment.generation.top_p:g}": experiment.generation.top_p < 1,
        "training.loss_on=all": experiment.training.loss_on == "all",
    }
    terms = [
        f"reward.terms.{name}={weight:g}"
        for name, weight in experiment.reward.terms.items()
        if weight and name not in NOT_OF_THE_TASK
    ]
    own = [f"{key}={name}" for key, name in references(experiment).items() if key != "feedback.function"]
    return [text for text, given in found.items() if given] + terms + own


def ignored_line(experiments: Iterable[Experiment]) -> str:
    """A line that names what is :func:`without_effect` in any of them; empty where nothing is."""
    found = dict.fromkeys(text for experiment in experiments for text in without_effect(experiment))
    return f"without effect in the analytic mode: {', '.join(found)}" if found else ""


def shape_of(experiment: Experiment) -> Hashable:
    """What experiments must have in common to be simulated in one batch: all settings that cannot differ by row."""
    e = experiment
    return (
        len(e.groups.names),
        e.loop.rounds,
        e.loop.kind,
        e.generation.samples_per_prompt,
        e.generation.temperature,
        (e.reward.choices, e.reward.choices_per_round),
        (e.selection.strategy, e.selection.matched_control, e.selection.r_max, e.selection.best_of),
        e.selection.target_of,
        (e.cycle.kind, e.cycle.window_rounds, e.cycle.real),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
    """The numeric settings of B = G S rows: row i is seed i mod S of experiment i // S."""

    common: Experiment
    """One experiment of the batch, used for the settings that all have in common (:func:`shape_of`)."""
    experiments: tuple[Experiment, ...]
    seeds: int
    n_groups: int
    initial_shares: FloatArray
    """Shape (B, K), like ``reward_sd``, ``target``, ``quotas`` and ``ceiling``; all others have shape (B,)."""
    marked: FloatArray
    marked_in_real: FloatArray
    prompts: IntArray
    gain: FloatArray
    advantage: FloatArray
    reward_sd: FloatArray
    beta: FloatArray
    reward_bound: FloatArray
    threshold: FloatArray
    penalty: FloatArray
    target: FloatArray
    budget: IntArray
    """Number of completions that ``keep_fraction`` allows."""
    quotas: IntArray
    cycle_size: IntArray
    real_share: FloatArray
    real_rows: IntArray
    group_answers: IntArray
    """Number of evaluated answers per group."""
    steering_answers: IntArray
    """Number of answers per group to the prompts that steer ``reweight``."""
    neutral_answers: IntArray
    prior_rows: FloatArray
    spillover: FloatArray
    ceiling: FloatArray
    exponent: FloatArray
    own_weight: FloatArray

    @property
    def rows(self) -> int:
        """Number of rows B."""
        return len(self.prompts)


def stack(experiments: Sequence[Experiment], seeds: int) -> Settings:
    """Settings of experiments that have :func:`shape_of` in common, ``seeds`` rows each.

    Raises:
        ValueError: as :func:`validate`, or if ``keep_fraction`` keeps nothing.
    """
    for experiment in experiments:
        validate(experiment)
    k = len(experiments[0].groups.names)

    def column(value: Callable[[Experiment], ArrayLike]) -> FloatArray:
        return np.repeat(np.array([value(e) for e in experiments], dtype=np.float64), seeds, axis=0)

    def count(value: Callable[[Experiment], ArrayLike]) -> IntArray:
        return np.repeat(np.array([value(e) for e in experiments], dtype=np.int64), seeds, axis=0)

    def target(e: Experiment) -> FloatArray:
        return targets.target_shares(e.selection, k, e.groups.shares)

    return Settings(
        common=experiments[0],
        experiments=tuple(experiments),
        seeds=seeds,
        n_groups=k,
        initial_shares=column(lambda e: e.groups.shares),
        marked=column(lambda e: e.task.marker_strength),
        marked_in_real=column(marked_in_real),
        prompts=count(lambda e: e.queries.prompts_per_round),
        gain=column(choice_gain),
        advantage=column(kind_advantage),
        reward_sd=column(reward_sds),
        beta=column(lambda e: e.selection.beta),
        reward_bound=column(lambda e: e.selection.reward_bound),
        threshold=column(lambda e: e.selection.threshold),
        penalty=column(lambda e: e.selection.penalty),
        target=column(target),
        budget=count(_budget),
        quotas=count(lambda e: largest_remainder(target(e), _budget(e))),
        cycle_size=count(lambda e: e.cycle.size),
        real_share=column(lambda e: e.cycle.real_share),
        real_rows=count(lambda e: e.cycle.real_rows),
        group_answers=count(lambda e: e.evaluation.prompts_per_group * e.evaluation.samples_per_prompt),
        steering_answers=count(lambda e: e.evaluation.steering_prompts_per_group),
        neutral_answers=count(lambda e: e.evaluation.neutral_prompts * e.evaluation.samples_per_prompt),
        prior_rows=column(lambda e: e.analytic.prior_rows),
        spillover=column(lambda e: e.analytic.spillover),
        ceiling=column(quality_ceilings),
        exponent=column(lambda e: e.analytic.learning_exponent),
        own_weight=column(own_kind_weight),
    )


def _budget(experiment: Experiment) -> int:
    completions = experiment.queries.prompts_per_round * experiment.generation.samples_per_prompt
    rows = kept_rows(experiment.selection.keep_fraction, completions)
    if rows == 0 and STRATEGIES[experiment.selection.strategy].reads_keep_fraction:
        raise ValueError(
            f"selection.keep_fraction: {experiment.selection.keep_fraction} of {completions} completions keeps none; "
            "raise it"
        )
    return rows


def tempered(shares: ArrayLike, temperature: float) -> FloatArray:
    """Shares of kinds drawn at a decoding temperature, logit' = logit / T, shape (..., K).

    T = 1 changes nothing, T < 1 amplifies in every round, and T = 0 (greedy) keeps only the largest, ties equally.

    Raises:
        ValueError: a negative temperature.
    """
    shares = np.asarray(shares, dtype=np.float64)
    if temperature < 0:
        raise ValueError(f"temperature: {temperature} is negative; give 0 (greedy) or more")
    largest = shares.max(axis=-1, keepdims=True)
    if temperature == 0:
        return normalise("shares", (shares == largest).astype(np.float64))
    return normalise("shares", (shares / largest) ** (1.0 / temperature))


def retention_fixed_point(rate: ArrayLike, newcomers: ArrayLike) -> FloatArray:
    """lambda* = b / (1 - nu) of lambda' = nu lambda + b with a constant rate, shape (..., K).

    Raises:
        ValueError: a rate of 1 or more (the group grows without bound) or below 0.
    """
    rate = np.asarray(rate, dtype=np.float64)
    if not np.all((rate >= 0) & (rate < 1)):
        raise ValueError(f"rate: {rate.tolist()} must lie in [0, 1) for a fixed point; lower the retention")
    return np.asarray(np.asarray(newcomers, dtype=np.float64) / (1.0 - rate))


def spectral_radius(jacobian: ArrayLike) -> FloatArray:
    """rho(J), the largest modulus of an eigenvalue, of shape (...) for J of shape (..., K, K); stable iff below 1."""
    return np.asarray(np.abs(np.linalg.eigvals(np.asarray(jacobian, dtype=np.float64))).max(axis=-1))
