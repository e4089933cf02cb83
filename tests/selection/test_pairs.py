"""Which completion is chosen over which."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.config import Selection
from scpl_ray.selection import pairs, strategies
from scpl_ray.selection.candidates import Candidates, Selected, selected

REWARDS = [0.1, 0.9, 0.5, 0.3, 0.3, 0.7, 0.7, 0.7, 0.2]
PROMPTS = [0, 0, 0, 1, 1, 2, 2, 2, 3]
"""Prompt 1 has two equal rewards, prompt 2 three, prompt 3 one completion."""
TOKENS = [(i,) for i in range(9)]


def candidates(rewards=REWARDS, prompts=PROMPTS) -> Candidates:
    return Candidates(
        [f"q{p}-s{i}" for i, p in enumerate(prompts)],
        np.array(prompts),
        np.array(prompts) % 2,
        np.array(rewards, dtype=float),
        2,
    )


def kept(rows: list[int], weights: list[float] | None = None, of: Candidates | None = None) -> Selected:
    return selected(of or candidates(), np.array(rows), np.array(weights or [1.0] * len(rows)), "test")


def make(rule: str, of: Candidates, chosen: Selected, tokens=TOKENS, **changes) -> pairs.Pairs:
    return pairs.pair(of, chosen, tokens, rule, **{"control": False, "round_": 1, "seed": 0} | changes)


def rows(made: pairs.Pairs) -> list[tuple[int, int]]:
    return list(zip(made.chosen.indices.tolist(), made.rejected.tolist(), strict=True))


def test_best_against_worst_by_hand() -> None:
    made = make("best_worst", candidates(), kept(list(range(9))))
    assert rows(made) == [(1, 0)]
    assert {k: n for k, n in made.left_out.items() if n} == {"no_partner": 1, "tie": 2} and made.inverted == 0
    assert made.chosen.weights.tolist() == [1.0] and made.chosen.acceptance_rate == pytest.approx(1 / 9)


def test_accepted_against_the_worst_rejected_by_hand() -> None:
    made = make("accepted_rejected", candidates(), kept([1, 2, 3, 5, 8], [1.0, 2.0, 1.0, 1.0, 1.0]))
    # 1 and 2 have only 0 left to reject; 3 and 5 tie; 8 is alone
    assert rows(made) == [(1, 0), (2, 0)]
    assert made.left_out == {"no_partner": 1, "identical": 0, "tie": 2, "inverted": 0, "target": 0}
    assert made.chosen.weights == pytest.approx([2 / 3, 4 / 3])
    assert made.chosen.effective_sample_size == pytest.approx(9 / 5)


def test_a_pair_that_would_prefer_the_worse_answer_is_refused_but_where_chance_pairs() -> None:
    # 0 and 2 have only 1 left to reject, which is better than both
    of = candidates([*REWARDS[:3], 0.1, 0.3], PROMPTS[:5])
    chosen = kept([0, 2, 4], of=of)
    made = make("accepted_rejected", of, chosen)
    assert rows(made) == [(4, 3)] and made.inverted == 0 and made.left_out["inverted"] == 2
    by_chance = make("accepted_rejected", of, chosen, control=True)
    assert rows(by_chance) == [(0, 1), (2, 1), (4, 3)] and by_chance.inverted == 2
    assert by_chance.left_out["inverted"] == 0


def test_the_rejected_one_has_the_lowest_reward_and_is_the_last_such() -> None:
    of = candidates([0.5, 0.2, 0.1, 0.1], [0, 0, 0, 0])
    assert rows(make("accepted_rejected", of, kept([0], of=of))) == [(0, 3)]


def test_equal_texts_are_no_pair() -> None:
    of = candidates([0.5, 0.2, 0.9, 0.1], [0, 0, 1, 1])
    made = make("best_worst", of, kept([0, 1, 2, 3], of=of), tokens=[(1,), (7, 7), (7, 7), (7, 7)])
    assert rows(made) == [(0, 1)] and {k for k, n in made.left_out.items() if n} == {"identical"}


@pytest.mark.parametrize("rule", pairs.RULES)
def test_no_pair_at_all_counts_the_reasons(rule: str) -> None:
    of = candidates([0.5, 0.5, 0.9], [0, 0, 1])
    with pytest.raises(
        ValueError, match=r"no pair among 3 completions \(no_partner 1, identical 0, tie 1, inverted 0, target 0\)"
    ):
        make(rule, of, kept([0, 2], of=of))


def many(seed: int = 0) -> Candidates:
    draw = np.random.default_rng(seed)
    return candidates(draw.normal(size=2000), np.repeat(np.arange(500), 4).tolist())


def margin(of: Candidates, made: pairs.Pairs) -> float:
    """Mean reward of the chosen above that of the rejected, in standard errors."""
    found = of.rewards[made.chosen.indices] - of.rewards[made.rejected]
    return float(found.mean() / found.std() * len(found) ** 0.5)


@pytest.mark.parametrize(("rule", "strategy"), [("best_worst", "none"), ("accepted_rejected", "vrs")])
def test_pairs_prefer_reward_and_those_of_the_control_do_not(rule: str, strategy: str) -> None:
    of = many()
    for control in (False, True):
        settings = Selection(strategy=strategy, matched_control=control)
        chosen = strategies.select(of, settings, round_=1, seed=0, initial_shares=np.array([0.5, 0.5]))
        made = make(rule, of, chosen, [(i,) for i in range(2000)], control=control)
        assert abs(margin(of, made)) < 3 if control else margin(of, made) > 8
        again = make(rule, of, chosen, [(i,) for i in range(2000)], control=control, round_=2)
        assert (rows(again) != rows(made)) == control


@settings(max_examples=60, deadline=None)
@given(
    rewards=st.lists(st.integers(0, 3), min_size=2, max_size=24),
    per_prompt=st.integers(1, 5),
    rule=st.sampled_from(sorted(pairs.RULES)),
    control=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pairs_are_of_one_prompt_and_do_not_depend_on_the_order_of_rows(
    rewards: list[int], per_prompt: int, rule: str, control: bool, seed: int
) -> None:
    of = candidates(rewards, [i // per_prompt for i in range(len(rewards))])
    draw = np.random.default_rng(seed)
    chosen_rows = np.sort(draw.choice(of.size, draw.integers(1, of.size + 1), replace=False))
    order = draw.permutation(of.size)
    shuffled = Candidates(
        [of.completion_ids[i] for i in order], of.prompts[order], of.groups[order], of.rewards[order], of.n_groups
    )
    moved = np.sort(np.flatnonzero(np.isin(order, chosen_rows)))
    tokens = [(i % 7,) for i in range(of.size)]
    try:
        made = make(rule, of, kept(chosen_rows.tolist(), of=of), tokens, control=control)
    except ValueError as error:
        assert "finds no pair" in str(error)
        return
    for chosen, rejected in rows(made):
        assert chosen != rejected and of.prompts[chosen] == of.prompts[rejected]
        assert of.rewards[chosen] != of.rewards[rejected] and tokens[chosen] != tokens[rejected]
    assert made.chosen.weights.mean() == pytest.approx(1.0)
    attempts = len(chosen_rows) if rule == "accepted_rejected" else len(set(of.prompts.tolist()))
    assert len(made.rejected) + sum(made.left_out.values()) == attempts
    again = make(rule, shuffled, kept(moved.tolist(), of=shuffled), [tokens[i] for i in order], control=control)
    assert {(order[c], order[r]) for c, r in rows(again)} == set(rows(made))
    assert again.left_out == made.left_out


def unequal(seed: int, groups: int = 2) -> Candidates:
    """The first group asks most, and the last writes answers of which fewer are rejected."""
    draw = np.random.default_rng(seed)
    of_prompt = draw.choice(groups, 300, p=np.array([0.7, 0.3] if groups == 2 else [0.5, 0.3, 0.2]))
    prompts = np.repeat(np.arange(300), 4)
    of = of_prompt[prompts]
    return Candidates([f"q{p}-s{i}" for i, p in enumerate(prompts)], prompts, of, draw.normal(0.4 * of, 0.4), groups)


WITH_A_TARGET = [name for name, s in strategies.STRATEGIES.items() if s.meet is not None and s.rejects == "completions"]


@pytest.mark.parametrize("strategy", WITH_A_TARGET)
@pytest.mark.parametrize("target", ["balanced", (0.3, 0.7), (0.5, 0.2, 0.3)])
@pytest.mark.parametrize("control", [False, True])
def test_pairs_meet_the_target_and_prefer_the_better_answer(strategy: str, target, control: bool) -> None:
    """Dropping prompts without a partner turned quotas of .5 and .5 into .786 and .214."""
    of = unequal(3, 3 if len(target) == 3 else 2)
    chosen_by = Selection(strategy=strategy, target=target, keep_fraction=0.3, matched_control=control)
    some = strategies.select(of, chosen_by, round_=1, seed=0, initial_shares=np.full(of.n_groups, 1 / of.n_groups))
    made = make("accepted_rejected", of, some, [(i,) for i in range(of.size)], control=control)
    wanted = np.full(2, 0.5) if target == "balanced" else np.array(target)
    within = 1 / len(made.rejected) if strategy == "quotas" else 1e-9
    assert np.abs(made.chosen.shares_after - wanted).max() <= within
    assert made.chosen.weights.mean() == pytest.approx(1.0)
    better = of.rewards[made.chosen.indices] > of.rewards[made.rejected]
    assert made.inverted == (~better).sum() and (control or better.all())
    assert made.left_out["inverted"] == 0 or (not control and strategy != "quotas")
    attempts = len(some.indices)
    assert len(made.rejected) + sum(made.left_out.values()) == attempts


def test_a_control_meets_its_target_without_a_look_at_rewards() -> None:
    of = unequal(4)
    other = dataclasses.replace(of, rewards=np.random.default_rng(9).permutation(of.rewards))
    chosen_by = Selection(strategy="quotas", target=(0.3, 0.7), keep_fraction=0.3, matched_control=True)
    met = []
    for one in of, other:
        some = strategies.select(one, chosen_by, round_=1, seed=0, initial_shares=np.array([0.5, 0.5]))
        assert some.meet is not None
        half = some.indices[::2]
        met.append((half[some.meet(half)[0]].tolist(), some.indices.tolist()))
    assert met[0] == met[1]


def test_a_wanted_group_without_a_pair_is_refused() -> None:
    of = candidates([0.9, 0.1, 0.8, 0.1, 0.7, 0.1, 0.6, 0.1], [0, 0, 2, 2, 4, 4, 1, 1])
    some = strategies.select(
        of, Selection(strategy="quotas", keep_fraction=0.5), round_=1, seed=0, initial_shares=np.array([0.5, 0.5])
    )
    # two of each group are kept: of group 1 both answers to one prompt, which leaves nothing to reject there
    assert some.indices.tolist() == [0, 2, 6, 7]
    with pytest.raises(ValueError, match=r"wants share 0.5 of group 1, of which nothing is paired; raise generation"):
        make("accepted_rejected", of, some)


def test_no_pair_of_a_target_of_kinds_is_left_unweighted() -> None:
    of = dataclasses.replace(unequal(1), kinds=np.random.default_rng(0).choice([-1, 0, 1], 1200, p=[0.1, 0.6, 0.3]))
    chosen_by = Selection(strategy="reweight", target_of="kinds")
    some = strategies.select(of, chosen_by, round_=1, seed=0, initial_shares=np.array([0.5, 0.5]))
    made = make("accepted_rejected", of, some, [(i,) for i in range(of.size)])
    shares = np.bincount(of.kinds[made.chosen.indices], made.chosen.weights) / made.chosen.weights.sum()
    assert shares == pytest.approx([0.5, 0.5]) and (of.kinds[made.chosen.indices] >= 0).all()
