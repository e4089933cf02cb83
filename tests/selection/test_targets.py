"""Targets of kinds, which a judge tells with errors, and of groups, which are known."""

import dataclasses
import time

import numpy as np
import pytest

from scpl_ray.config import Selection
from scpl_ray.selection import pairs
from scpl_ray.selection.candidates import Candidates, Selected
from scpl_ray.selection.strategies import STRATEGIES, select
from scpl_ray.selection.targets import NONE, Target

MEET = [name for name, strategy in STRATEGIES.items() if strategy.meet is not None]
REJECT = [name for name in MEET if STRATEGIES[name].rejects == "completions"]
WITH_TARGET = [name for name, strategy in STRATEGIES.items() if strategy.reads_target]


def world(
    true_shares: list[float], means: list[float], confusion: np.ndarray, size: int, seed: int, undecided: float = 0.1
) -> tuple[Candidates, np.ndarray]:
    """Completions whose rewards depend on their true kinds, which a judge mistakes; and the true kinds."""
    draws, k = np.random.default_rng(seed), len(true_shares)
    kinds = draws.choice(k, size, p=true_shares)
    judged = (draws.random(size)[:, None] > np.cumsum(confusion, axis=1)[kinds]).sum(axis=1)
    judged = np.where(draws.random(size) < undecided, NONE, judged)
    rewards = draws.normal(np.array(means)[kinds], 0.3)
    groups = draws.integers(0, k, size)
    ids = [f"q{i // 4:05d}-s{i % 4}" for i in range(size)]
    return Candidates(ids, np.arange(size) // 4, groups, rewards, k, judged), kinds


def true_after(kept: Selected, kinds: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(kinds[kept.indices], kept.weights, minlength=k) / kept.weights.sum()


def keep(candidates: Candidates, confusion: np.ndarray | None, **settings) -> Selected:
    settings = {"target_of": "kinds", "keep_fraction": 0.2, "beta": 0.5} | settings
    initial = np.full(candidates.n_groups, 1 / candidates.n_groups)
    return select(candidates, Selection(**settings), round_=1, seed=0, initial_shares=initial, confusion=confusion)


CASES = {
    "two": ([0.65, 0.35], [0.2, 0.0], np.array([[0.9, 0.1], [0.2, 0.8]]), "balanced"),
    "a poor judge": ([0.6, 0.4], [0.1, 0.0], np.array([[0.75, 0.25], [0.3, 0.7]]), "balanced"),
    "the rarer wanted": ([0.5, 0.5], [0.3, 0.0], np.array([[0.95, 0.05], [0.1, 0.9]]), (0.3, 0.7)),
    "three": (
        [0.5, 0.3, 0.2],
        [0.2, 0.1, 0.0],
        np.array([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9]]),
        "balanced",
    ),
}


@pytest.mark.parametrize("strategy", MEET)
@pytest.mark.parametrize("case", CASES)
def test_true_kinds_meet_the_target_although_the_judge_errs(case: str, strategy: str) -> None:
    shares, means, confusion, target = CASES[case]
    wanted = np.full(len(shares), 1 / len(shares)) if target == "balanced" else np.array(target)
    found, naive, effective = [], [], 0.0
    for seed in range(4):
        candidates, kinds = world(shares, means, confusion, 12_000, seed)
        kept = keep(candidates, confusion, strategy=strategy, target=target)
        found.append(true_after(kept, kinds, len(shares)))
        naive.append(true_after(keep(candidates, None, strategy=strategy, target=target), kinds, len(shares)))
        effective += kept.effective_sample_size
    # the correction divides its noise by the smallest singular value of the judge's errors
    error = np.sqrt(wanted.max() * (1 - wanted.max()) / effective) / np.linalg.svd(confusion, compute_uv=False).min()
    assert np.abs(np.mean(found, axis=0) - wanted).max() < 4 * error
    assert np.abs(np.mean(naive, axis=0) - wanted).max() > 0.02 or case == "the rarer wanted"


def true_shares(
    confusion: np.ndarray, means: list[float], *, seeds: int, in_pairs: bool, **settings
) -> tuple[np.ndarray, float]:
    """True shares of what is kept, or chosen in pairs, where .8 and .2 are written; and four standard errors."""
    found, effective = [], 0.0
    for seed in range(seeds):
        candidates, kinds = world([0.8, 0.2], means, confusion, 8_000, seed)
        kept = keep(candidates, confusion, **settings)
        if in_pairs:
            control = settings.get("matched_control", False)
            tokens = range(candidates.size)
            kept = pairs.pair(candidates, kept, tokens, "accepted_rejected", control=control, round_=1, seed=0).chosen
        found.append(true_after(kept, kinds, 2))
        effective += kept.effective_sample_size
    error = np.sqrt(0.25 / effective) / np.linalg.svd(confusion, compute_uv=False).min()
    return np.mean(found, axis=0), 4 * error


@pytest.mark.parametrize("strategy", REJECT)
@pytest.mark.parametrize("accuracy", [0.95, 0.9, 0.85])
@pytest.mark.parametrize("control", [False, True])
def test_pairs_hold_the_true_kinds_of_the_target_although_the_judge_errs(
    strategy: str, accuracy: float, control: bool
) -> None:
    """Corrected a second time for the judge's errors, .5 became .60 to .75 in pairs, or the run stopped."""
    confusion = np.array([[accuracy, 1 - accuracy], [1 - accuracy, accuracy]])
    settings = {"strategy": strategy, "matched_control": control}
    found, bound = true_shares(confusion, [0.0, 0.0], seeds=4, in_pairs=True, **settings)
    assert abs(found[0] - 0.5) < bound < 0.1


@pytest.mark.parametrize("strategy", MEET)
@pytest.mark.parametrize("in_pairs", [False, True])
def test_a_control_holds_the_true_kinds_of_its_arm_where_rewards_depend_on_them(strategy: str, in_pairs: bool) -> None:
    """As many of each judged kind as the arm kept, drawn at random, were .35 to .43 of kind 0 where .5 was wanted."""
    if in_pairs and strategy not in REJECT:
        pytest.skip("rejects nothing that could be paired")
    confusion = np.array([[0.92, 0.08], [0.08, 0.92]])
    settings = {"strategy": strategy, "matched_control": True}
    found, bound = true_shares(confusion, [0.3, 0.0], seeds=8, in_pairs=in_pairs, **settings)
    assert abs(found[0] - 0.5) < min(bound, 0.05)


def test_a_control_has_as_many_rows_as_its_arm_unless_a_kind_runs_out() -> None:
    confusion = np.array([[0.9, 0.1], [0.2, 0.8]])
    candidates, kinds = world([0.65, 0.35], [0.0, 0.3], confusion, 12_000, 0)
    for fraction, whole in ((0.2, True), (0.6, False)):
        settings = {"strategy": "quotas", "keep_fraction": fraction}
        arm, control = (keep(candidates, confusion, matched_control=c, **settings) for c in (False, True))
        assert len(arm.indices) == round(fraction * candidates.size)
        assert (len(control.indices) == len(arm.indices)) == whole and len(control.indices) > 0.9 * len(arm.indices)
        assert true_after(control, kinds, 2) == pytest.approx([0.5, 0.5], abs=0.03) and set(control.weights) == {1.0}


def test_pairs_of_many_prompts_meet_their_number_at_once() -> None:
    """Quotas of judged kinds were sought anew for every number of pairs: 105 seconds for 16,000 prompts."""
    confusion = np.array([[0.9, 0.1], [0.1, 0.9]])
    candidates, _ = world([0.8, 0.2], [0.3, 0.0], confusion, 64_000, 0)
    kept = keep(candidates, confusion, strategy="quotas")
    started = time.process_time()
    met, _ = kept.meet(kept.indices[::2])
    assert len(met) > 1_000 and time.process_time() - started < 5


@pytest.mark.parametrize("strategy", MEET)
def test_without_errors_the_judged_kinds_meet_the_target(strategy: str) -> None:
    candidates, kinds = world([0.7, 0.3], [0.2, 0.0], np.eye(2), 4_000, 0)
    kept = keep(candidates, None, strategy=strategy)
    assert np.all(candidates.kinds[kept.indices] != NONE)
    bound = 4 * np.sqrt(0.25 / len(kept.indices)) if strategy == "calibrated" else 1 / len(kept.indices) + 1e-9
    assert np.abs(true_after(kept, kinds, 2) - 0.5).max() <= bound


def test_a_target_of_groups_leaves_the_kinds_alone_and_the_other_way_round() -> None:
    draws = np.random.default_rng(99)
    candidates, kinds = world([0.7, 0.3], [0.2, 0.0], np.eye(2), 4_000, 0, undecided=0.0)
    candidates = dataclasses.replace(candidates, groups=(draws.random(4_000) < 0.2).astype(int))
    for target_of, groups, written in (("groups", 0.5, 0.7), ("kinds", 0.8, 0.5)):
        kept = keep(candidates, None, strategy="importance", target_of=target_of)
        assert kept.shares_after[0] == pytest.approx(groups, abs=0.03)
        assert true_after(kept, kinds, 2)[0] == pytest.approx(written, abs=0.03)


def test_a_penalty_of_kinds_is_paid_by_what_a_judged_kind_is_expected_to_be() -> None:
    confusion = np.array([[0.9, 0.1], [0.2, 0.8]])
    target = Target(np.array([0.5, 0.5]), np.repeat([0, 1], [74, 26]), "kind", confusion)
    masses = target.masses(np.arange(100))
    true = target.true(masses)
    assert true == pytest.approx(100 * (np.array([0.74, 0.26]) @ np.linalg.inv(confusion)))
    # Bayes: P(true i | judged j) = t_i C_ij / m_j
    assert target.mixture(masses) == pytest.approx(true[:, None] * confusion / masses)
    candidates, kinds = world([0.7, 0.3], [0.0, 0.0], confusion, 12_000, 1)
    free, paid = (true_after(keep(candidates, confusion, strategy="penalty", penalty=p), kinds, 2) for p in (0.0, 0.3))
    assert free[0] == pytest.approx(0.7, abs=0.045) and 0.52 < paid[0] < free[0] - 0.04


def test_the_control_keeps_as_many_of_each_kind_by_chance() -> None:
    candidates, _ = world([0.6, 0.4], [0.3, 0.0], np.eye(2), 2_000, 2)
    kept, control = (keep(candidates, None, strategy="quotas", matched_control=c) for c in (False, True))
    counts = [np.bincount(candidates.kinds[s.indices], minlength=2).tolist() for s in (kept, control)]
    assert counts[0] == counts[1] == [200, 200]
    assert candidates.rewards[kept.indices].mean() > candidates.rewards[control.indices].mean() + 0.2


@pytest.mark.parametrize("strategy", WITH_TARGET)
def test_neither_a_strategy_nor_its_control_keeps_what_is_of_no_kind(strategy: str) -> None:
    candidates, _ = world([0.6, 0.4], [0.3, 0.0], np.eye(2), 4_000, 5, undecided=0.4)
    kept, control = (keep(candidates, None, strategy=strategy, matched_control=c) for c in (False, True))
    assert len(kept.indices) == len(control.indices)
    for one in (kept, control):
        assert not np.any(candidates.kinds[one.indices] == NONE)


@pytest.mark.parametrize("strategy", MEET)
def test_a_target_that_the_judge_puts_out_of_reach_is_refused(strategy: str) -> None:
    confusion = np.array([[0.7, 0.3], [0.3, 0.7]])
    candidates, _ = world([0.85, 0.15], [0.0, 0.0], confusion, 8_000, 3)
    with pytest.raises(ValueError, match=r"selection.target: \[0.2, 0.8\] cannot be reached .* use a better judge"):
        keep(candidates, confusion, strategy=strategy, target=(0.2, 0.8))


@pytest.mark.parametrize("strategy", ["importance", "calibrated", "reweight", "penalty"])
def test_a_kind_of_which_nothing_is_written_is_refused(strategy: str) -> None:
    candidates, _ = world([0.5, 0.5], [0.0, 0.0], np.eye(2), 400, 4)
    one = dataclasses.replace(candidates, kinds=np.minimum(candidates.kinds, 0))
    with pytest.raises(ValueError, match=r"wants share 0.5 of kind 1, of which nothing is"):
        keep(one, None, strategy=strategy)
    # fewer are judged to be of the kind than the judge's mistakes alone would make
    with pytest.raises(ValueError, match=r"of kind 1, of which nothing is"):
        keep(one, np.array([[0.9, 0.1], [0.1, 0.9]]), strategy=strategy)


def test_kinds_have_to_be_judged_where_they_are_wanted_and_only_there() -> None:
    candidates, _ = world([0.5, 0.5], [0.0, 0.0], np.eye(2), 400, 5)
    plain = dataclasses.replace(candidates, kinds=None)
    with pytest.raises(ValueError, match=r"selection.target_of: 'kinds', but the kinds .* were not judged"):
        keep(plain, None, strategy="quotas")
    assert len(keep(plain, None, strategy="vrs").indices) > 0
    for bad, message in ((np.full(400, 2), "kinds: from 2 to 2"), (np.zeros(3, int), r"kinds: shape \(3,\)")):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(candidates, kinds=bad)
