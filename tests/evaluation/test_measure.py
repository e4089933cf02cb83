import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from scpl_ray.config import Experiment
from scpl_ray.evaluation import bias, diversity, measure
from scpl_ray.records import Completion, Judgement, Metric, Query
from scpl_ray.storage.run_directory import Store
from tests.support.evaluation_answers import answers
from tests.support.loops import small


def row(group: str | None, metric: str, value: float) -> Metric:
    return Metric(1, group, metric, value)


def test_groups_react_to_what_is_configured() -> None:
    rows = [row(g, m, v) for g, m, v in (("a", "quality", 0.2), ("a", "win_rate", 0.4), ("a", "own_kind_share", 0.6))]
    rows += [row("a", "share", 1.0), row(None, "quality_mean", 0.9)]
    assert measure.reaction(rows, "quality") == {"a": 0.2}
    assert measure.reaction(rows, "reward") == {"a": 0.4}
    assert measure.reaction(rows, "own_kind") == {"a": 0.6}


def test_a_group_that_asked_nothing_reacts_like_the_average() -> None:
    rows = [row(g, "share", s) for g, s in (("a", 0.5), ("b", 0.5), ("c", 0.0))]
    rows += [row("a", "win_rate", 0.2), row("b", "win_rate", 0.6)]
    assert measure.reaction(rows, "reward") == {"a": 0.2, "b": 0.6, "c": pytest.approx(0.4)}


def evaluate(kinds: list[str | None], first: list[Metric]) -> dict[tuple[str | None, str], float]:
    asked = measure.Asked(1, {"north": 0.6, "south": 0.4}, {}, {})
    experiment = small()
    rows = measure.evaluate(answers(kinds), asked, experiment, kinds=("north", "south"), confusion=None, first=first)
    return {(r.group, r.metric): r.value for r in rows}


def test_shares_of_kinds_and_own_kind_by_hand() -> None:
    found = evaluate(["north", "north", "north", "south", None], [])
    assert found["north", "kind_share"] == 0.75 and found[None, "undecided_count"] == 1
    assert found["north", "kind_share_low"] == 0.6 and found["north", "kind_share_high"] == 0.8
    assert found["north", "own_kind_share"] == 1.0 and found["south", "own_kind_share"] == 0.0
    assert found["north", "kind_difference_balanced"] == 0.25
    assert found[None, "preference_log_odds_round0"] == 0.0
    assert found["north", "perplexity_round0"] == pytest.approx(2.718281828**0.5)
    assert found["north", "perplexity_current"] == pytest.approx(2.718281828**0.25)
    assert found[None, "disparate_gap"] == 0.0


def test_the_advantaged_group_is_the_largest_of_round_1_and_not_of_the_config(tmp_path: Path) -> None:
    whole_users = ("feedback.rule=retention", "feedback.users=100", "feedback.agents=true")
    experiment = small("groups.shares=[0.496, 0.504]", *whole_users)
    store = Store.create(tmp_path / "run", experiment, {})
    asked = measure.asked(store, 0, experiment)
    store.close()
    assert asked.shares == {"north": 0.5, "south": 0.5}
    found = answers(["north", "north", "south", *["north"] * 20])
    leaning = dataclasses.replace(
        found, judgements=[dataclasses.replace(j, log_odds=(1.0, -1.0)) for j in found.judgements]
    )
    rows = measure.evaluate(leaning, asked, experiment, kinds=("north", "south"), confusion=None, first=[])
    for metric in ("preference_log_odds_balanced", "preference_soft_balanced"):
        (north,) = [row for row in rows if (row.group, row.metric) == (None, metric)]
        assert north.low is not None and 0.0 < north.low <= north.value, metric


def test_a_collapsed_model_loses_rows_and_not_the_run() -> None:
    found = evaluate([None, None], [])
    assert (None, "preference_log_odds_balanced") not in found and found[None, "undecided_count"] == 2
    assert (found["north", "kind_share_low"], found["north", "kind_share_high"]) == (0.0, 1.0)
    first = [Metric(0, g, "kind_count", 0.0) for g in ("north", "south")]
    since = evaluate(["north"], first)
    assert (None, "preference_log_odds_round0") not in since and ("north", "kind_difference_round0") not in since
    # what is told of the round alone needs no round 0
    alone = evaluate(["north"], [Metric(0, g, "kind_count", 1.0) for g in ("north", "south")])
    for name in ("preference_log_odds_balanced", "total_variation_balanced", "kl_balanced"):
        assert since[None, name] == alone[None, name]
    assert since["north", "kind_share"] == alone["north", "kind_share"] == 1.0


@pytest.mark.parametrize(
    ("terms", "quality", "without"),
    [
        ({"well_formed": 1.0, "on_topic": 0.5, "own_kind": 0.0}, 0.5, 0.75),
        ({"well_formed": 1.0, "on_topic": 0.5, "own_kind": 1.0}, 2.5 / 3, 0.75),
        # no part of it asks for a kind: it is the quality, which need not be the mean of its parts
        ({"parsed": 1.0, "finished": 1.0, "correct": 0.0}, 0.0, 0.0),
        ({}, 0.3, 0.3),
        # what an answer is worth to its group is the preference for its kind; the rest is its form
        ({"repetition_free": 0.8, "length": 1.0, "reward": 0.1, "win_rate": 0.2}, 0.2, 0.9),
    ],
)
def test_quality_without_own_kind(terms: dict[str, float], quality: float, without: float) -> None:
    assert measure.quality_without_own_kind(Judgement("c", None, quality, terms)) == pytest.approx(without)


def test_the_gap_without_own_kind_does_not_move_with_the_kinds() -> None:
    """The same answers, written in the north's kind: the gap grows by a third of the answers, the other not at all."""
    gaps = []
    for kinds in (["north", "south"], ["north", "north"]):
        plain = answers(["north"])
        judged = [
            Judgement(c.completion_id, kind, (1.6 + own) / 3, {"well_formed": 0.9, "on_topic": 0.7, "own_kind": own})
            for c, kind, group in zip(plain.completions[:2], kinds, ("north", "south"), strict=True)
            for own in [float(kind == group)]
        ]
        judged.append(plain.judgements[2])
        asked = measure.Asked(1, {"north": 0.6, "south": 0.4}, {}, {})
        rows = measure.evaluate(
            dataclasses.replace(plain, judgements=judged),
            asked,
            small(),
            kinds=("north", "south"),
            confusion=None,
            first=[],
        )
        found = {(r.group, r.metric): r.value for r in rows}
        assert found["south", "quality_without_own_kind"] == pytest.approx(0.8)
        assert found[None, "quality_mean_without_own_kind"] == pytest.approx(0.8)
        gaps.append((found[None, "disparate_gap"], found[None, "disparate_gap_without_own_kind"]))
    assert gaps == [pytest.approx((0.0, 0.0)), pytest.approx((1 / 3, 0.0))]


def test_a_quality_of_nothing_but_own_kind_has_none_without_it() -> None:
    found = evaluate(["north"], [])
    assert found["north", "quality_without_own_kind"] == found["north", "quality"]
    assert math.isnan(measure.quality_without_own_kind(Judgement("c", None, 1.0, {"own_kind": 1.0})))


def test_a_kind_that_round_0_lacked_is_a_number_and_not_an_absence() -> None:
    first = [Metric(0, "north", "kind_count", 20.0), Metric(0, "south", "kind_count", 0.0)]
    found = evaluate(["north"] * 10 + ["south"] * 10, first)
    assert 0.5 < found[None, "kl_round0"] < 5.0


def since_round_0(now: measure.Answers, before: measure.Answers) -> dict[str, Metric]:
    def measured(answered: measure.Answers, asked: measure.Asked, first: Sequence[Metric]) -> list[Metric]:
        return measure.evaluate(answered, asked, small(), kinds=("north", "south"), confusion=None, first=first)

    shares = {"north": 0.6, "south": 0.4}
    first = measured(before, measure.Asked(0, shares, {}, {}), [])
    judged = measure.by_prompt(before.completions, before.judgements)
    rows = measured(now, measure.Asked(1, shares, {}, {}, base_judgements=judged), first)
    return {row.metric: row for row in rows if row.group is None and row.metric.endswith("round0")}


def test_the_same_answers_as_in_round_0_are_at_no_distance() -> None:
    base = answers(["north"] * 20 + ["south"] * 30 + [None] * 5)
    same = since_round_0(base, base)
    assert same["total_variation_round0"].value == same["kl_round0"].value == 0.0
    # where round 0 was not asked all of the prompts, they are two counts, each with its noise
    fewer = since_round_0(base, answers(["north"] * 20 + ["south"] * 30))
    assert fewer["total_variation_round0"].value < -0.05 and fewer["kl_round0"].value == pytest.approx(-0.02)


def test_a_distance_from_round_0_is_less_what_the_answers_that_differ_add_to_it() -> None:
    before = ["north"] * 20 + ["south"] * 30 + [None] * 5
    after = ["south"] * 4 + before[4:-1] + ["south"]
    found = since_round_0(answers([*after]), answers([*before]))
    pairs = tuple(np.array([[kind == name for name in ("north", "south")] for kind in of]) for of in (after, before))
    counts = [bias.kind_counts(of.sum(axis=0), ("north", "south")) for of in pairs]
    wanted = bias.measure_preference(*counts, advantaged="north", by_prompt=pairs).round_0
    alone = bias.measure_preference(*counts, advantaged="north").round_0
    assert wanted is not None and alone is not None
    for name, rest in (("total_variation", 0.02), ("kl", 0.01)):
        row = found[f"{name}_round0"]
        assert row.value == pytest.approx(float(getattr(wanted, name)))
        assert row.value > float(getattr(alone, name)) + rest
        assert row.low is not None and row.high is not None and row.low <= row.value <= row.high


Found = dict[tuple[str | None, str], float]


def judged_right(correct: dict[str, Sequence[int]], samples: int) -> Found:
    """Metrics where the i-th prompt of a group has so many right ones among its answers."""
    prompts = [Query(f"{g}{i}", g, "p") for g, passed in correct.items() for i in range(len(passed))]
    prompts.append(Query("n", None, "p"))
    right = {f"{g}{i}": n for g, passed in correct.items() for i, n in enumerate(passed)}
    completions, judgements = [], []
    for query in prompts:
        for i in range(samples):
            completions.append(Completion(f"{query.query_id}-s{i}", query.query_id, i, 1, 0, (1,), (2,), "x", "stop"))
            terms = {"correct": float(i < right[query.query_id])} if query.group else {"parsed": 1.0}
            judgements.append(Judgement(f"{query.query_id}-s{i}", None, sum(terms.values()), terms))
    experiment = Experiment.model_validate(
        {"groups": {"names": list(correct)}, "evaluation": {"samples_per_prompt": samples}}
    )
    likelihoods = [(1.0, 1)] * len(completions)
    rows = measure.evaluate(
        measure.Answers(prompts, completions, judgements, likelihoods, likelihoods),
        measure.Asked(0, dict.fromkeys(correct, 0.5), {}, {}),
        experiment,
        kinds=tuple(correct),
        confusion=None,
        first=[],
    )
    return {(r.group, r.metric): r.value for r in rows}


def test_pass_at_k_of_right_and_wrong_answers() -> None:
    found = judged_right({"a": [3, 3], "b": [0, 10]}, samples=10)
    assert {metric for _, metric in found if metric.startswith("pass_at")} == {f"pass_at_{k}" for k in (1, 2, 4, 8)}
    assert found["a", "pass_at_1"] == pytest.approx(0.3) == found["a", "quality"]
    assert found["a", "pass_at_2"] == pytest.approx(1 - 21 / 45)
    assert found["b", "pass_at_1"] == found["b", "pass_at_8"] == pytest.approx(0.5)
    assert found[None, "pass_at_1"] == pytest.approx(0.4)
    assert found[None, "pass_at_2"] == pytest.approx((2 * (1 - 21 / 45) + 1) / 4)


@pytest.mark.parametrize(
    ("samples", "right", "k", "value"),
    [(4, 3, 2, 1.0), (10, 0, 8, 0.0), (5, 2, 1, 0.4), (5, 2, 4, 1.0), (1, 1, 1, 1.0)],
)
def test_pass_at_k_by_hand(samples: int, right: int, k: int, value: float) -> None:
    assert judged_right({"a": [right], "b": [right]}, samples)["a", f"pass_at_{k}"] == pytest.approx(value)


def test_the_gap_by_chance_knows_what_the_base_was_asked() -> None:
    def gaps(base: dict[str, float]) -> tuple[float, float, float]:
        prompts = [Query(f"{g}{i}", g, "p") for g in ("north", "south") for i in range(20)] + [Query("n", None, "p")]
        completions = [Completion(f"{q.query_id}-s0", q.query_id, 0, 1, 0, (1,), (2,), "x", "stop") for q in prompts]
        quality = {"north": 0.8, "south": 0.4, None: 0.5}
        judgements = [Judgement(f"{q.query_id}-s0", "north", quality[q.group], {}) for q in prompts]
        likelihoods = [(1.0, 1)] * len(prompts)
        rows = measure.evaluate(
            measure.Answers(prompts, completions, judgements, likelihoods, likelihoods),
            measure.Asked(1, {"north": 0.6, "south": 0.4}, {}, {}, base),
            small(),
            kinds=("north", "south"),
            confusion=None,
            first=[],
        )
        found = {r.metric: r.value for r in rows if r.group is None}
        return found["disparate_gap"], found["disparate_gap_null"], found["disparate_gap_p"]

    harder = {f"{g}{i}": value for g, value in (("north", 0.9), ("south", 0.5)) for i in range(20)}
    assert gaps(harder) == pytest.approx((0.4, 0.4, 1.0))
    gap, chance, p = gaps({})
    assert gap == pytest.approx(0.4) and chance < 0.15 and p < 0.01


def test_without_right_and_wrong_there_is_no_pass_at_k() -> None:
    assert not [metric for _, metric in evaluate(["north"], []) if metric.startswith("pass_at")]


def written(texts: Sequence[str]) -> Found:
    """Metrics where the north was given these texts, by word as their tokens."""
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(" ".join(texts).split()))}
    prompts = [Query(f"g{i}", "north", "p") for i in range(len(texts))]
    prompts += [Query("s", "south", "p"), Query("n", None, "p")]
    completions = [
        Completion(
            f"{q.query_id}-s0", q.query_id, 0, 1, 0, (1,), tuple(vocabulary[w] for w in text.split()), text, "stop"
        )
        for q, text in zip(prompts, [*texts, texts[0], texts[0]], strict=True)
    ]
    judgements = [Judgement(c.completion_id, "north", 0.5, {}) for c in completions]
    likelihoods = [(1.0, 2)] * len(completions)
    rows = measure.evaluate(
        measure.Answers(prompts, completions, judgements, likelihoods, likelihoods),
        measure.Asked(1, {"north": 0.6, "south": 0.4}, {}, {}),
        small(),
        kinds=("north", "south"),
        confusion=None,
        first=[],
    )
    return {(r.group, r.metric): r.value for r in rows}


def test_distinct_n_pools_documents_without_crossing_them() -> None:
    texts = ["the cat sat on the mat", "the cat sat on the rug", "a dog ran"]
    copies = measure.DISTINCT_TOKENS // 15
    found = written(texts * copies)
    assert found["north", "distinct_1"] == pytest.approx(9 / 15 / copies)
    assert found["north", "distinct_2"] == pytest.approx(8 / 12 / copies)


def test_fewer_tokens_than_the_budget_have_no_distinct_n() -> None:
    copies = measure.DISTINCT_TOKENS // 6
    found = {n: written(["the cat sat on the mat"] * n) for n in (copies, copies - 1)}
    for name in ("distinct_1", "distinct_2"):
        assert ("north", name) in found[copies] and ("north", name) not in found[copies - 1]
        assert ("south", name) not in found[copies] and (None, name) not in found[copies]


def test_self_bleu_compares_a_fixed_number_of_answers() -> None:
    texts = [f"{a}{b} is {b}{a} and {i} of {a}{i} said it" for i in "123" for a in "abcd" for b in "klmn"]
    found = written(texts)
    wanted = diversity.self_bleu(texts, size=measure.SELF_BLEU_ANSWERS, seed=small().seed)
    assert found["north", "self_bleu"] == pytest.approx(wanted) and 0.5 < wanted < 1.0
    assert written(["one and the same text"] * 40)["north", "self_bleu"] == pytest.approx(1.0)
    # too few answers to compare
    assert ("south", "self_bleu") not in found and (None, "self_bleu") not in found
    assert ("north", "self_bleu") not in written(texts[: measure.SELF_BLEU_ANSWERS - 1])


def test_a_policy_that_diverged_is_an_error_that_says_so() -> None:
    found = answers(["north", "south"])
    for broken in (math.nan, math.inf):
        nats = [(broken, 2)] * len(found.prompts)
        with pytest.raises(
            ValueError, match=r"the current policy gives .* not finite: .* lower training\.learning_rate"
        ):
            measure.evaluate(
                dataclasses.replace(found, current_negative_log_likelihoods=nats),
                measure.Asked(1, {"north": 0.6, "south": 0.4}, {}, {}),
                small(),
                kinds=("north", "south"),
                confusion=None,
                first=[],
            )
