"""Selection on counts against the strategies that a run uses, completion by completion."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import norm

from scpl_ray.analytic.cells import Answered
from scpl_ray.analytic.model import Settings, stack
from scpl_ray.analytic.selection import STRATEGIES, keep_best, log_acceptance, select, without_replacement
from scpl_ray.config import Experiment
from scpl_ray.selection import strategies
from scpl_ray.selection.formulas import top_fraction
from tests.support.configs import defaults

PROMPTS = np.array([[14, 6], [8, 4]])
"""Queries per group and context."""
LAW = np.array([[[0.7, 0.3], [0.5, 0.5]], [[0.2, 0.8], [0.5, 0.5]]])
MEANS, SDS = np.array([0.15, 0.0]), np.array([0.3, 0.2])
SAMPLES = 3
REPEATS = 200


def experiment(*overrides: str) -> Experiment:
    sizes = (f"queries.prompts_per_round={PROMPTS.sum()}", f"generation.samples_per_prompt={SAMPLES}")
    rewards = (f"analytic.reward_sd={SDS.tolist()}", "selection.best_of=2", "selection.reward_bound=1.9")
    common = ("generation.engine=transformers", "selection.keep_fraction=0.3", "selection.threshold=0.1")
    return defaults([*sizes, *rewards, *common, *overrides])


def answered(settings: Settings, seed: int = 0, prompts: np.ndarray = PROMPTS) -> Answered:
    b = settings.rows
    law = np.broadcast_to(LAW, (b, 2, 2, 2))
    every = np.broadcast_to(prompts, (b, 2, 2))
    counts = np.random.default_rng(seed).multinomial(every * SAMPLES, law)
    samples = np.full((b, 2), SAMPLES)
    return Answered(3, every, samples, law, counts, np.broadcast_to(MEANS, (b, 2)))


def by_counts(chosen: Experiment, rows: int) -> np.ndarray:
    """Weighted kept rows per cell in every row, shape (rows, 8)."""
    settings = stack([chosen], rows)
    return select(answered(settings), settings, np.random.default_rng(1)).mass.reshape(rows, -1)


def by_completions(chosen: Experiment, rows: int) -> np.ndarray:
    """The same, by drawing every completion and calling what a run calls."""
    draws = np.random.default_rng(2)
    groups, contexts = (np.repeat(x, PROMPTS.ravel() * SAMPLES) for x in ([0, 0, 1, 1], [0, 1, 0, 1]))
    prompts = np.repeat(np.arange(PROMPTS.sum()), SAMPLES)
    ids = [f"q{p:02d}-s{i % SAMPLES}" for i, p in enumerate(prompts)]
    found = np.empty((rows, 8))
    for row in range(rows):
        kinds = (draws.random(len(ids)) >= LAW[groups, contexts, 0]).astype(int)
        rewards = draws.normal(MEANS[kinds], SDS[kinds])
        candidates = strategies.Candidates(ids, prompts, groups, rewards, 2, kinds)
        kept = strategies.select(
            candidates, chosen.selection, round_=1, seed=row, initial_shares=np.array(chosen.groups.shares)
        )
        cell = (groups * 2 + contexts) * 2 + kinds
        found[row] = np.bincount(cell[kept.indices], kept.weights, minlength=8)
    return found


@pytest.mark.parametrize("beta", [1e-4, 1e-10])
def test_where_beta_is_near_0_the_best_completion_alone_is_kept(beta: float) -> None:
    settings = stack([experiment("selection.strategy=vrs", f"selection.beta={beta}")], 200)
    kept = select(answered(settings), settings, np.random.default_rng(1)).rows.sum(axis=(1, 2, 3))
    assert 1.0 <= kept.mean() < 1.02


@pytest.mark.parametrize("steepness", [0.5, 4.0, 3e2, 1e8])
@pytest.mark.parametrize("z", [-3.0, 0.5, 4.0])
def test_the_acceptance_below_a_maximum_is_its_integral(z: float, steepness: float) -> None:
    # at u / steepness sd below the maximum
    mean, _ = quad(lambda u: np.exp(-u) * norm.pdf(z - u / steepness) / steepness, 0.0, 60.0)
    found = np.exp(log_acceptance(np.array(z), np.array(steepness)))
    assert found == pytest.approx(mean / norm.cdf(z), rel=1e-6)


CASES = [
    *[(f"selection.strategy={name}",) for name in STRATEGIES],
    *[
        (f"selection.strategy={name}", f"selection.r_max={r_max}")
        for name in ("vrs", "calibrated", "penalty", "reweight")
        for r_max in ("bound", "prompt")
        if (name, r_max) not in (("penalty", "prompt"), ("reweight", "prompt"))
    ],
    *[(f"selection.strategy={name}", "selection.matched_control=true") for name in ("vrs", "tpp", "quotas")],
    *[
        (f"selection.strategy={name}", "selection.target_of=kinds", f"selection.r_max={r_max}")
        for name, r_max in (
            ("importance", "batch"),
            ("quotas", "batch"),
            ("calibrated", "batch"),
            ("calibrated", "prompt"),
            ("penalty", "bound"),
            ("penalty", "prompt"),
            ("reweight", "batch"),
        )
    ],
    ("selection.strategy=quotas", "selection.target_of=kinds", "selection.matched_control=true"),
    ("selection.strategy=quotas", "selection.target=[0.8, 0.2]"),
    ("selection.strategy=importance", "selection.target=initial"),
    ("selection.strategy=calibrated", "selection.target=[1.0, 0.0]"),
]


def test_every_strategy_of_a_run_is_there() -> None:
    assert set(STRATEGIES) == set(strategies.STRATEGIES)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_counts_have_the_law_of_completions(case: tuple[str, ...]) -> None:
    """Mean and mean square of every cell agree."""
    # a temperature at which none of so many seeds is left without a group
    chosen = experiment(f"selection.beta={1.5 if 'selection.r_max=bound' in case else 0.8}", *case)
    fast, slow = by_counts(chosen, 5_000), by_completions(chosen, REPEATS)
    for power in (1, 2):
        error = (slow**power).std(axis=0) / np.sqrt(REPEATS) + (fast**power).std(axis=0) / np.sqrt(5_000)
        assert_allclose((fast**power).mean(axis=0), (slow**power).mean(axis=0), atol=1e-9 + 4.2 * error.max())
    assert_allclose(fast.sum(axis=1).mean(), slow.sum(axis=1).mean(), rtol=0.08)


def test_one_per_prompt_keeps_one_per_prompt() -> None:
    settings = stack([experiment("selection.strategy=tpp")], 50)
    kept = select(answered(settings), settings, np.random.default_rng(0)).rows
    assert (kept.sum(axis=-1) == PROMPTS).all()


def test_controls_keep_what_their_strategy_fixes() -> None:
    for strategy, axes in (("quotas", (2, 3)), ("tpp", 3), ("top", (1, 2, 3))):
        plain = stack([experiment(f"selection.strategy={strategy}")], 30)
        control = stack([experiment(f"selection.strategy={strategy}", "selection.matched_control=true")], 30)
        a, b = (select(answered(s), s, np.random.default_rng(0)).rows.sum(axis=axes) for s in (plain, control))
        assert (a == b).all()


def test_the_best_of_many_are_those_above_the_closed_form_threshold() -> None:
    shares, means, sds = np.array([0.5, 0.3, 0.2]), np.array([0.5, 0.0, 1.0]), np.array([1.0, 0.5, 2.0])
    rows = np.broadcast_to((shares * 10**7).astype(np.int64), (40, 3))
    spread = (np.broadcast_to(x, rows.shape) for x in (means, sds))
    kept = keep_best(rows, *spread, np.full(40, 2 * 10**6), np.random.default_rng(0))
    assert (kept.sum(axis=1) == 2 * 10**6).all()
    assert_allclose(kept.mean(axis=0) / (2 * 10**6), top_fraction(shares, means, sds, 0.2)[1], atol=5e-4)


def test_the_best_of_few_have_their_exact_law() -> None:
    """One of three draws from N(0.5, 1), N(0, 0.5) and N(0, 1) is largest as often as when they are drawn."""
    means, sds = np.array([0.5, 0.0, 0.0]), np.array([1.0, 0.5, 1.0])
    draws = np.random.default_rng(0)
    largest = draws.normal(means, sds, (50_000, 3)).argmax(axis=1)
    expected = np.bincount(largest) / 50_000
    shape = (50_000, 3)
    kept = keep_best(
        np.ones(shape, int), np.broadcast_to(means, shape), np.broadcast_to(sds, shape), np.ones(50_000, int), draws
    )
    assert (kept.sum(axis=1) == 1).all()
    assert_allclose(kept.mean(axis=0), expected, atol=0.012)


def test_all_or_nothing_is_kept_without_a_draw() -> None:
    rows = np.array([[3, 4], [5, 6], [0, 0]])
    spread = np.ones(rows.shape)
    kept = keep_best(rows, spread, spread, np.array([7, 0, 2]), np.random.default_rng(0))
    assert kept.tolist() == [[3, 4], [0, 0], [0, 0]]


def test_sampling_without_replacement() -> None:
    rows = np.broadcast_to([6, 0, 3, 1], (50_000, 4))
    taken = without_replacement(rows, np.full(50_000, 4), np.random.default_rng(0))
    assert (taken.sum(axis=1) == 4).all() and (taken <= rows).all()
    assert_allclose(taken.mean(axis=0), [2.4, 0.0, 1.2, 0.4], atol=0.02)
    # hypergeometric variance: n p (1 - p) (N - n) / (N - 1)
    assert taken[:, 0].var() == pytest.approx(4 * 0.6 * 0.4 * 6 / 9, rel=0.03)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["selection.strategy=threshold", "selection.threshold=9"], r"round 3, 5 of 5 simulated seeds: nothing was"),
        (["selection.strategy=vrs", "selection.r_max=bound", "selection.reward_bound=0.1"], "a reward exceeds"),
        (["selection.strategy=quotas", "selection.target=[0.1, 0.9]", "selection.keep_fraction=0.9"], "a quota"),
    ],
)
def test_what_would_stop_a_run_stops_a_simulation(overrides: list[str], message: str) -> None:
    settings = stack([experiment(*overrides)], 5)
    with pytest.raises(ValueError, match=message):
        select(answered(settings), settings, np.random.default_rng(0))


def test_a_penalty_has_no_target_of_0() -> None:
    plain = experiment("selection.strategy=penalty")
    chosen = plain.selection.model_copy(update={"target": (1.0, 0.0)})
    settings = stack([plain.model_copy(update={"selection": chosen})], 5)
    with pytest.raises(ValueError, match=r"selection\.target: holds a 0"):
        select(answered(settings), settings, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("strategy", "r_max"),
    [
        *[(strategy, "batch") for strategy in ("importance", "calibrated", "penalty", "reweight")],
        *[(strategy, "prompt") for strategy in ("importance", "calibrated")],
    ],
)
def test_a_wanted_group_without_completions_is_refused(strategy: str, r_max: str) -> None:
    settings = stack([experiment(f"selection.strategy={strategy}", f"selection.r_max={r_max}")], 5)
    with pytest.raises(ValueError, match=r"a group of which nothing is (among the completions|accepted)"):
        select(answered(settings, prompts=np.array([[9, 7], [0, 0]])), settings, np.random.default_rng(0))


def test_a_calibration_without_acceptance_is_refused() -> None:
    """One group writes a kind whose rewards lie 50 standard deviations below the largest."""
    settings = stack([experiment("selection.strategy=calibrated", "analytic.reward_sd=0.003")], 5)
    drawn = answered(settings)
    apart = dataclasses.replace(drawn, counts=np.broadcast_to([[[9, 0], [9, 0]], [[0, 9], [0, 9]]], drawn.counts.shape))
    far = dataclasses.replace(settings, beta=np.full(5, 1e-4))
    with pytest.raises(ValueError, match="every acceptance underflows"):
        select(apart, far, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("selection", "strategy", "best", r"selection.strategy: 'best' is unknown; choose one of none, random"),
        ("selection", "target", (0.5, 0.6), r"selection.target: \[0.5, 0.6\] sums to 1.1"),
        ("analytic", "reward_sd", (0.1, 0.2, 0.3), r"analytic.reward_sd: \[0.1, 0.2, 0.3\]; give one number above 0"),
        ("analytic", "reward_sd", (0.1, -0.2), r"analytic.reward_sd: \[0.1, -0.2\]"),
        ("analytic", "reward_sd", 1e300, r"analytic.reward_sd: 1e\+300; rewards beyond 1e\+06 cannot be computed with"),
        ("analytic", "reward_sd", (0.2, 1e300), r"analytic.reward_sd: 1e\+300"),
        ("analytic", "kind_advantage", -1e300, r"analytic.kind_advantage: -1e\+300"),
        ("feedback", "rule", "vote", r"feedback.rule: 'vote' is unknown"),
    ],
)
def test_settings_that_cannot_be_simulated(section: str, key: str, value: object, message: str) -> None:
    plain = experiment()
    changed = getattr(plain, section).model_copy(update={key: value})
    with pytest.raises(ValueError, match=message):
        stack([plain.model_copy(update={section: changed})], 2)


def test_more_candidates_wanted_than_drawn() -> None:
    plain = experiment()
    chosen = plain.selection.model_copy(update={"strategy": "best_of_n", "best_of": 9})
    with pytest.raises(ValueError, match=r"selection.best_of: 9 but generation.samples_per_prompt is 3"):
        stack([plain.model_copy(update={"selection": chosen})], 2)


def test_a_fraction_that_keeps_nothing() -> None:
    plain = experiment("selection.strategy=top")
    chosen = plain.selection.model_copy(update={"keep_fraction": 0.001})
    with pytest.raises(ValueError, match=r"selection.keep_fraction: 0.001 of 96 completions keeps none"):
        stack([plain.model_copy(update={"selection": chosen})], 2)
