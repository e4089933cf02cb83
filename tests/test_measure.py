import pytest

from scpl_ray import measure
from scpl_ray.records import Completion, Judgement, Metric, Query
from tests.test_controller import small


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


def answers(kinds: list[str | None]) -> measure.Answers:
    prompts = [Query(f"g{i}", g, "p") for i, g in enumerate(("north", "south"))]
    prompts += [Query(f"n{i}", None, "p") for i in range(len(kinds))]
    completions = [Completion(f"{q.query_id}-s0", q.query_id, 0, 1, 0, (1,), (2, 3), "x y", "stop") for q in prompts]
    judged = [
        Judgement(c.completion_id, k, 0.5, {}) for c, k in zip(completions, ["north", "north", *kinds], strict=True)
    ]
    return measure.Answers(prompts, completions, judged, [(1.0, 2)] * len(prompts), [(0.5, 2)] * len(prompts))


def evaluate(kinds: list[str | None], first: list[Metric]) -> dict[tuple[str | None, str], float]:
    asked = measure.Asked(1, {"north": 0.6, "south": 0.4}, {}, {})
    experiment = small()
    rows = measure.evaluate(answers(kinds), asked, experiment, kinds=("north", "south"), confusion=None, first=first)
    return {(r.group, r.metric): r.value for r in rows}


def test_shares_of_kinds_and_own_kind_by_hand() -> None:
    found = evaluate(["north", "north", "north", "south", None], [])
    assert found["north", "kind_share"] == 0.75 and found[None, "undecided_count"] == 1
    assert found["north", "own_kind_share"] == 1.0 and found["south", "own_kind_share"] == 0.0
    assert found["north", "kind_difference_balanced"] == 0.25
    assert found[None, "preference_log_odds_round0"] == 0.0
    assert found["north", "perplexity_round0"] == pytest.approx(2.718281828**0.5)
    assert found["north", "perplexity_current"] == pytest.approx(2.718281828**0.25)
    assert found[None, "disparate_gap"] == 0.0


def test_a_collapsed_model_loses_rows_and_not_the_run() -> None:
    found = evaluate([None, None], [])
    assert (None, "preference_log_odds_balanced") not in found and found[None, "undecided_count"] == 2
    first = [Metric(0, g, "kind_count", 0.0) for g in ("north", "south")]
    assert (None, "preference_log_odds_round0") not in evaluate(["north"], first)
