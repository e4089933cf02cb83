"""What a correct program must show, in the analytic mode: small, seconds in all, and false when a mechanism breaks."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit, logit

from scpl_ray.analytic.fixed_points import GroupsAlone
from scpl_ray.analytic.loop import Paths, Start, simulate, simulate_grid
from scpl_ray.config import Experiment, Feedback
from scpl_ray.evaluation import sign_flips
from scpl_ray.feedback import rules
from scpl_ray.feedback.stability import estimate_group_map
from tests.support.configs import defaults
from tests.theory import closed_forms
from tests.theory.cycle_theory import accumulated_variance, anchored_share_variance, replaced_variance

BARE = (
    "generation.engine=transformers",
    "feedback.rule=static",
    "selection.strategy=none",
    "analytic.prior_rows=0",
    "analytic.own_kind_weight=0.0",
    "generation.samples_per_prompt=1",
)
"""No feedback, no selection, maximum likelihood, quality by the learning curve alone."""


def bare(*overrides: str) -> Experiment:
    return defaults([*BARE, *overrides])


def neutral_log_odds(paths: Paths) -> np.ndarray:
    """Exact log-odds of the first kind on neutral prompts, shape (S, T + 1)."""
    return logit(paths.neutral_law[..., 0])


def within_standard_errors(values: np.ndarray, expected: float, errors: float = 4.0) -> bool:
    return bool(abs(values.mean() - expected) <= errors * values.std(ddof=1) / np.sqrt(len(values)))


# 1: data cycles


def diversity(kind: str, rounds: int, *more: str) -> np.ndarray:
    """Mean Gini-Simpson index over its initial value, 4 kinds, 50 rows a round, shape (T + 1,)."""
    groups = ("groups.names=[a, b, c, d]", "groups.shares=[0.25, 0.25, 0.25, 0.25]", "task.marker_strength=0.0")
    sizes = ("queries.prompts_per_round=50", "cycle.size=50", f"loop.rounds={rounds}", "analytic.seeds=1000")
    law = simulate(bare(*groups, *sizes, f"cycle.kind={kind}", *more)).neutral_law
    index = 1.0 - (law**2).sum(axis=-1)
    return np.asarray(index.mean(axis=0) / index[0, 0])


def test_replacing_collapses_accumulating_is_bounded_and_subsampling_lies_between() -> None:
    replace, accumulate, subsample = (diversity(kind, 40) for kind in ("replace", "accumulate", "subsample"))
    assert_allclose(replace, replaced_variance(50, np.arange(41)), atol=0.02)
    assert replace[40] == pytest.approx(0.4457, abs=0.02)
    assert_allclose(accumulate, accumulated_variance(50, 40), atol=0.004)
    assert accumulate[40] == pytest.approx(0.9679, abs=0.004)
    assert_allclose(subsample[[10, 20, 40]], [0.947, 0.943, 0.946], atol=0.02)
    assert np.all(replace[5:] < subsample[5:]) and np.all(subsample[5:] < accumulate[5:])


@pytest.mark.parametrize("kind", ["retraining", "incremental"])
def test_training_that_forgets_its_start_collapses_in_both_kinds_of_loop(kind: str) -> None:
    assert diversity("replace", 20, f"loop.kind={kind}")[20] == pytest.approx(0.98**20, abs=0.02)


def test_real_data_is_a_floor() -> None:
    sizes = ("queries.prompts_per_round=90", "task.marker_strength=0.0", "loop.rounds=40", "analytic.seeds=2000")
    anchored = simulate(bare(*sizes, "cycle.real_share=0.1", "cycle.real=fresh")).neutral_law[..., 0]
    expected = float(anchored_share_variance(0.5, 0.1, 100))
    assert anchored[:, 40].var() == pytest.approx(expected, rel=0.1)
    assert anchored[:, 30].var() == pytest.approx(expected, rel=0.1)
    alone = simulate(bare(*sizes, "queries.prompts_per_round=100")).neutral_law[..., 0]
    assert alone[:, 40].var() == pytest.approx(0.25 * (1 - 0.99**40), rel=0.1)
    assert alone[:, 40].var() > 5 * expected


# 2: retention


@pytest.mark.parametrize("noise", [0.2, 0.24, 0.26, 0.3])
def test_retention_is_unstable_exactly_where_rho_exceeds_one(noise: float) -> None:
    """Two Gaussian groups (Hashimoto et al. 2018): the fair point is stable iff d^2 / 4 < s."""
    instance = closed_forms.TwoGaussians(noise, distance=1.0)
    rule = Feedback(rule="retention", sensitivity=0.8, arrivals=10.0)
    fair = instance.fair_mass(0.8, 10.0)

    def imbalance(balanced_training: bool) -> float:
        users = np.array([fair * 1.01, fair * 0.99])
        for t in range(1, 61):
            shares = np.array([0.5, 0.5]) if balanced_training else users / users.sum()
            served = 1.0 - instance.risks(shares)
            users = rules.advance(users, served, rule, initial_shares=[0.5, 0.5], round_=t, seed=0)
        return float(users[0] - users[1]) / fair

    rho = max(instance.linear_eigenvalues(0.8))
    assert (imbalance(False) > 0.02) == (rho > 1.0) == (noise < 0.25)
    assert abs(imbalance(True)) < 1e-6


RETENTION = (
    "feedback.rule=retention",
    "feedback.sensitivity=0.8",
    "feedback.arrivals=100.0",
    "feedback.users=1000.0",
    "groups.shares=[0.5, 0.5]",
    "queries.prompts_per_round=4000",
    "analytic.learning_exponent=0.5",
    "loop.rounds=10",
    "analytic.seeds=400",
)


@pytest.mark.parametrize(("quality", "unstable"), [(0.55, False), (0.62, False), (0.71, True), (0.78, True)])
def test_retention_on_a_learning_curve_is_unstable_above_its_threshold(quality: float, unstable: bool) -> None:
    """Stable iff q* (1 + gamma) < 1, by the closed form, by the reduced map and by what simulated seeds show."""
    curve = closed_forms.LearningCurve(quality * 2**0.5, 0.5)
    contrast = curve.eigenvalues(0.8, 2)[1]
    experiment = bare(*RETENTION, f"analytic.quality_ceiling={quality}")
    rest = GroupsAlone(experiment).equal_rest()
    assert rest is not None and rest.rho == pytest.approx(contrast, abs=1e-6)
    assert (rest.rho > 1.0) == unstable == (not curve.is_stable(2))

    # seeds that start where the masses rest, and stay near: long enough to estimate, too short to run away
    users = float(rest.arrivals.sum())
    paths = simulate(bare(*RETENTION, f"analytic.quality_ceiling={quality}", f"feedback.users={users}"))
    found = estimate_group_map(paths.arrivals[:, 1:], state="arrivals")
    assert found.low - 0.03 < contrast < found.high + 0.03
    assert (found.rho > 1.0) == unstable


def test_balanced_training_removes_the_instability() -> None:
    balanced = bare(*RETENTION, "analytic.quality_ceiling=0.78", "selection.strategy=importance", "loop.rounds=60")
    rest = GroupsAlone(balanced).equal_rest()
    assert rest is not None and rest.rho == pytest.approx(1.0 - 0.8 * 0.22, abs=1e-6)
    weighted, free = simulate_grid([balanced, bare(*RETENTION, "analytic.quality_ceiling=0.78", "loop.rounds=60")])
    assert np.abs(weighted.shares[:, 60, 0] - 0.5).max() < 0.1
    assert np.abs(free.shares[:, 60, 0] - 0.5).mean() > 0.3


# 3 and the mechanisms: what moves the kinds of text, and what does not

MANY = ("queries.prompts_per_round=400_000_000", "analytic.seeds=12", "loop.rounds=4", "task.marker_strength=0.5")
"""So many that the maximum likelihood fit is nearly exact; counting them costs nothing."""


def drift_per_round(experiment: Experiment) -> np.ndarray:
    """Change of log-odds per round and seed, on neutral prompts."""
    log_odds = neutral_log_odds(simulate(experiment))
    return np.asarray((log_odds[:, -1] - log_odds[:, 0]) / (log_odds.shape[1] - 1))


@pytest.mark.parametrize("sds", [(0.2, 0.2), (0.3, 0.2), (0.2, 0.3)])
def test_selection_by_a_biased_reward_moves_log_odds_by_the_closed_form(sds: tuple[float, float]) -> None:
    chosen = ("selection.strategy=vrs", "selection.r_max=bound", "selection.reward_bound=2.2", "selection.beta=0.25")
    biased = ("reward.choices=balanced", "analytic.kind_advantage=0.1", f"analytic.reward_sd={list(sds)}")
    exact = float(closed_forms.selection_drift(0.1, sds, 0.25))
    assert exact == pytest.approx(0.1 / 0.25 + (sds[0] ** 2 - sds[1] ** 2) / (2 * 0.25**2))
    # choices of 1,024 users are balanced on average only
    calm = ("analytic.choice_gain=0.0",)
    moved = drift_per_round(bare(*MANY, *chosen, *biased, *calm))
    assert_allclose(moved, exact, atol=0.03)
    control = drift_per_round(bare(*MANY, *chosen, *biased, *calm, "selection.matched_control=true"))
    assert_allclose(control, 0.0, atol=0.03)


@pytest.mark.parametrize(("choices", "expected"), [("population", 0.8), ("balanced", 0.0)])
def test_a_majority_pulls_the_kinds_through_its_choices(choices: str, expected: float) -> None:
    """dmu = G (s_A - s_B): the reward model is learned from choices of a population of 3 to 2."""
    chosen = ("selection.strategy=vrs", "selection.r_max=bound", "selection.reward_bound=2.2", "selection.beta=0.25")
    moved = drift_per_round(bare(*MANY, *chosen, "analytic.reward_sd=0.2", f"reward.choices={choices}"))
    noise = 2 * np.sqrt(0.25 / 1024) / 0.25 / np.sqrt(4 * 12)
    assert moved.mean() == pytest.approx(expected, abs=4 * noise)


@pytest.mark.parametrize("loop", ["retraining", "incremental"])
@pytest.mark.parametrize("prior_rows", [0, 200])
def test_more_queries_of_one_group_change_no_conditional(loop: str, prior_rows: int) -> None:
    """The covariate-shift null: an exact learner of its own draws, under the steepest share path, does not drift."""
    path = ("feedback.rule=schedule", "feedback.step=[0.095, -0.095]", "loop.rounds=5", "analytic.seeds=4000")
    paths = simulate(bare(*path, f"loop.kind={loop}", f"analytic.prior_rows={prior_rows}", "task.marker_strength=0.5"))
    assert_allclose(paths.shares[:, 5, 0], 0.98, atol=1e-12)
    assert within_standard_errors(paths.neutral_law[:, 5, 0], 0.5)
    for group in range(2):
        assert within_standard_errors(paths.revealing_law[:, 5, group, group], 0.8)


def test_spillover_carries_the_mix_of_the_data_to_neutral_prompts() -> None:
    path = ("feedback.rule=schedule", "feedback.step=[0.095, -0.095]", "loop.rounds=5", "analytic.seeds=500")
    moved = neutral_log_odds(simulate(bare(*path, "analytic.spillover=0.2")))[:, 5]
    assert moved.mean() > 0.4
    assert within_standard_errors(simulate(bare(*path)).neutral_law[:, 5, 0], 0.5)


# 4 and 5: what selection does to group shares


def kept_share(*overrides: str) -> np.ndarray:
    """Share of the first group among the kept of round 1, which ask 80 : 20 and are rewarded for their own kind."""
    sizes = ("groups.shares=[0.8, 0.2]", "loop.rounds=1", "analytic.seeds=400", "generation.samples_per_prompt=4")
    biased = ("analytic.kind_advantage=0.3", "analytic.choice_gain=0.0", "queries.prompts_per_round=500")
    return np.asarray(simulate(bare(*sizes, *biased, *overrides)).kept_shares[:, 1, 0])


def test_quotas_and_weights_hold_the_target_and_a_penalty_does_not() -> None:
    assert np.abs(kept_share("selection.strategy=quotas", "selection.keep_fraction=0.1") - 0.5).max() <= 1 / 200
    assert_allclose(kept_share("selection.strategy=importance"), 0.5, atol=1e-12)
    assert_allclose(kept_share("selection.strategy=reweight"), 0.5, atol=1e-12)
    assert within_standard_errors(kept_share("selection.strategy=calibrated"), 0.5)

    free, penalised = kept_share("selection.strategy=vrs"), kept_share("selection.strategy=penalty")
    assert free.mean() > 0.82
    # logit s' = logit s + dq / beta - (lambda / beta) (logit s - logit tau) with lambda = beta leaves dq / beta
    left = logit(free.mean()) - logit(0.8)
    assert left > 0.2
    assert logit(penalised.mean()) == pytest.approx(left, abs=0.05)


def test_one_per_prompt_keeps_prompt_shares_and_best_overall_does_not() -> None:
    per_prompt = kept_share("selection.strategy=tpp")
    assert within_standard_errors(per_prompt, 0.8)
    assert per_prompt.std() == pytest.approx(np.sqrt(0.16 / 500), rel=0.15)
    overall = kept_share("selection.strategy=top", "selection.keep_fraction=0.25")
    assert overall.mean() > 0.84


# 6: softmax feedback


@pytest.mark.parametrize(("sensitivity", "larger"), [(1.0, 0.5), (1.9, 0.5), (2.2, None), (3.0, 0.929280)])
def test_softmax_choice_bifurcates_at_its_threshold(sensitivity: float, larger: float | None) -> None:
    """Quality is the share itself (q0 = 1/2, gamma = 1), so that beta a = beta; the threshold is 2."""
    rule = ("feedback.rule=softmax", f"feedback.beta={sensitivity}", "feedback.inertia=0.0")
    curve = ("analytic.quality_ceiling=0.5", "analytic.learning_exponent=1.0", "groups.shares=[0.55, 0.45]")
    exact = ("queries.prompts_per_round=10_000_000", "evaluation.prompts_per_group=10_000_000", "analytic.seeds=4")
    share = simulate(bare(*rule, *curve, *exact, "loop.rounds=150")).shares[:, 150, 0]
    assert_allclose(share, closed_forms.softmax_choice_fixed_point(sensitivity), atol=0.01)
    if larger is not None:
        assert_allclose(share, larger, atol=0.01)


# 8: the drift null


def risen(treatment: Experiment, control: Experiment, studies: int, seeds: int) -> float:
    """Of ``studies`` independent studies with ``seeds`` paired seeds each, how many say that preference rose."""
    share = [p.kinds[..., 0] for p in simulate_grid([treatment, control])]
    treated, static = ((s[:, -1] - s[:, 0]).reshape(studies, seeds) for s in share)
    d = treated - static
    return float(((sign_flips.two_sided_p(d) < 0.05) & (d.mean(axis=1) > 0)).mean())


def test_without_preference_amplified_is_rarely_claimed() -> None:
    sizes = ("analytic.seeds=5000", "loop.rounds=4", "queries.prompts_per_round=200", "groups.shares=[0.7, 0.3]")
    assert risen(bare(*sizes, "feedback.rule=softmax"), bare(*sizes), 500, 10) <= 0.05
    chosen = ("selection.strategy=vrs", "generation.samples_per_prompt=4")
    assert risen(bare(*sizes, *chosen, "feedback.rule=softmax"), bare(*sizes), 500, 10) > 0.5


# 9: temperature


def tempered_path(temperature: float, share: float) -> np.ndarray:
    start = Start(np.array([[0.8, 0.2], [0.2, 0.8]]), np.array([share, 1.0 - share]))
    sizes = (*MANY[:2], "loop.rounds=10", "task.marker_strength=0.0")
    return np.asarray(simulate(bare(*sizes, f"generation.temperature={temperature}"), start=start).neutral_law[..., 0])


@pytest.mark.parametrize(
    ("temperature", "rounds", "expected"),
    [(1.0, [5, 10], [0.6, 0.6]), (0.9, [5, 10], [0.665223, 0.761852]), (1.1, [10], [0.539002])],
)
def test_temperature_one_is_neutral_and_below_it_amplifies(
    temperature: float, rounds: Sequence[int], expected: Sequence[float]
) -> None:
    path = tempered_path(temperature, 0.6)
    assert_allclose(path[:, rounds], np.broadcast_to(expected, (len(path), len(rounds))), atol=0.005)
    assert expit(logit(0.6) / temperature ** rounds[-1]) == pytest.approx(expected[-1], abs=1e-6)


def test_greedy_decoding_collapses_at_once() -> None:
    assert_allclose(tempered_path(0.0, 0.6)[:, 1:], 1.0)
