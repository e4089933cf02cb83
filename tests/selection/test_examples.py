import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from scpl_ray import records
from scpl_ray.config import Selection
from scpl_ray.records import Judgement, Query
from scpl_ray.selection.examples import Tokens, candidates_of
from scpl_ray.selection.strategies import select

GROUPS = ("first", "second")
ASKED = (300, 200)


def answered(rewards, *, samples=2, round_=1, judged=False):
    """Candidates of the queries of a round, which come in the order of groups as tasks give them."""
    names = [group for group, count in zip(GROUPS, ASKED, strict=True) for _ in range(count)]
    queries = [Query(f"r001-q{i:05d}", group, "") for i, group in enumerate(names)]
    asked = [query.query_id for query in queries for _ in range(samples)]
    ids = [f"{query_id}-s{i % samples}" for i, query_id in enumerate(asked)]
    # half of what each group gets is of either kind
    kinds = [Judgement(one, GROUPS[i // 2 % 2], 0.0, {}) for i, one in enumerate(ids)] if judged else []
    table = pa.table({"completion_id": ids, "query_id": asked})
    return candidates_of(queries, table, rewards, GROUPS, GROUPS, kinds, round_=round_, seed=0)


def right_or_wrong():
    return np.random.default_rng(3).integers(0, 2, sum(ASKED) * 2).astype(float)


@pytest.mark.parametrize("strategy", ["top", "quotas"])
def test_of_equal_rewards_those_of_no_group_are_kept_first(strategy):
    settings = Selection(strategy=strategy, target_of="kinds", keep_fraction=0.25)
    for rewards in (np.zeros(sum(ASKED) * 2), right_or_wrong()):
        kept = select(answered(rewards, judged=True), settings, round_=1, seed=0, initial_shares=[0.6, 0.4])
        # the two answers of a prompt are kept together where all rewards are equal
        prompts = len(kept.indices) / 2
        assert abs(kept.shares_after[0] - 0.6) < 3 * np.sqrt(0.6 * 0.4 / prompts)


def test_of_equal_pairs_those_of_no_group_meet_the_target_first():
    of = answered(np.zeros(sum(ASKED) * 2), judged=True)
    settings = Selection(strategy="quotas", target_of="kinds", target=(0.9, 0.1), keep_fraction=0.5)
    kept = select(of, settings, round_=1, seed=0, initial_shares=[0.6, 0.4])
    rows = np.arange(of.size)
    met = rows[kept.meet(rows)[0]]
    rare = met[of.kinds[met] == 1]
    assert abs((of.groups[rare] == 0).mean() - 0.6) < 3 * np.sqrt(0.6 * 0.4 / (len(rare) / 2))


def test_equal_rewards_are_ordered_anew_in_each_round_and_candidates_of_a_prompt_never():
    first, second = (answered(np.zeros(1000), round_=round_) for round_ in (1, 2))
    assert first.best_first.tolist() != second.best_first.tolist()
    assert first.best_first.tolist() == answered(np.zeros(1000)).best_first.tolist()
    assert [first.completion_ids[row][-2:] for row in first.best_first] == ["s0", "s1"] * 500


def test_different_rewards_are_kept_whatever_the_order_of_prompts():
    of = answered(np.random.default_rng(1).normal(size=1000))
    in_order = dataclasses.replace(of, prompts=np.repeat(np.arange(500), 2))
    assert of.prompts.tolist() != in_order.prompts.tolist()
    for strategy in ("top", "quotas", "tpp", "best_of_n", "vrs", "random"):
        for control in (False, True):
            settings = Selection(strategy=strategy, matched_control=control, best_of=2)
            one, other = (select(c, settings, round_=1, seed=0, initial_shares=[0.6, 0.4]) for c in (of, in_order))
            assert one.indices.tolist() == other.indices.tolist()


def test_token_ids_are_those_of_their_completions_however_many_there_are(monkeypatch):
    column = pa.chunked_array([pa.array(ids, pa.list_(pa.int32())) for ids in ([[1, 2], []], [[3], [1, 2]])])
    few = list(Tokens(column))
    monkeypatch.setattr(records, "MOST_AT_ONCE", 1)
    assert list(Tokens(column)) == few == [np.array(ids, np.int32).tobytes() for ids in ([1, 2], [], [3], [1, 2])]
