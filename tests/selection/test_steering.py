"""What steers selection is measured on prompts that are not evaluated."""

from collections.abc import Sequence

import pytest

from scpl_ray.records import Metric, Query
from scpl_ray.selection import steering
from tests.support.loops import small

STEERED = small(
    "selection.strategy=reweight", "evaluation.prompts_per_group=3", "evaluation.steering_prompts_per_group=4"
)


def held_out(texts: Sequence[str], per_group: int) -> list[Query]:
    return [Query(f"{g}{i}", g, f"{text} {g}") for g in ("north", "south") for i, text in enumerate(texts[:per_group])]


def test_only_a_strategy_that_steers_asks_more() -> None:
    assert steering.steering_prompts(small(), lambda n: held_out("abcdefg", n), []) == []


def test_prompts_are_beside_the_evaluated_ones() -> None:
    found = steering.steering_prompts(STEERED, lambda n: held_out("abcdefg", n), held_out("abcdefg", 3))
    assert [q.query_id for q in found] == [f"{g}{i}" for g in ("north", "south") for i in (3, 4, 5, 6)]


def test_a_text_that_is_evaluated_does_not_steer() -> None:
    evaluated = [*held_out("abcbeaf", 3), Query("n0", None, "e north")]
    found = steering.steering_prompts(STEERED, lambda n: held_out("abcbeaf", n), evaluated)
    assert [q.query_id for q in found] == ["north6", "south4", "south6"]


def test_a_task_with_one_text_per_group_steers_by_other_prompts_of_that_text() -> None:
    found = steering.steering_prompts(STEERED, lambda n: held_out("a" * n, n), held_out("aaa", 3))
    assert len(found) == 8 and {q.query_id for q in found}.isdisjoint(q.query_id for q in held_out("aaa", 3))


def test_a_task_with_too_few_prompts_says_what_they_are_for() -> None:
    def few(per_group: int) -> list[Query]:
        raise ValueError(f"evaluation.prompts_per_group = {per_group}: there are 5; set it to 5")

    with pytest.raises(ValueError, match=r"steering_prompts_per_group = 4: .*'reweight' .* beside 3 that are: ev"):
        steering.steering_prompts(STEERED, few, [])


def test_prompts_that_are_numbered_across_groups_are_refused() -> None:
    def numbered(per_group: int) -> list[Query]:
        return [Query(f"eval-q{i}", "north" if i < per_group else "south", f"text {i}") for i in range(2 * per_group)]

    said = (
        r"of task.name = 'language' does not begin as group_prompts\(3\) for 'south'; give more prompts of every group"
    )
    with pytest.raises(ValueError, match=rf"selection.strategy = 'reweight': steers by .*group_prompts\(7\) {said}"):
        steering.steering_prompts(STEERED, numbered, numbered(3))


def test_a_task_that_gives_the_evaluated_prompts_alone_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"group_prompts\(7\) of .* has no more of 'north'; give more .*eval-\{group\}"
    ):
        steering.steering_prompts(STEERED, lambda n: held_out("abc", n), held_out("abc", 3))


def test_the_weaker_group_gets_more_of_as_many_completions() -> None:
    queries = [Query(f"q{i}", "north" if i < 9 else "south", "p") for i in range(10)]
    last = [Metric(1, g, m, v) for m in ("quality", "steering_quality") for g, v in (("north", 0.9), ("south", 0.5))]
    counts = steering.samples(STEERED, queries, last, fewest=1)
    assert sum(counts) == 4 * len(queries) and counts[-1] == 8 and set(counts[:9]) == {3, 4}
    with pytest.raises(ValueError, match="measure every group"):
        steering.samples(STEERED, queries, [row for row in last if row.metric == "quality"], fewest=1)
    assert steering.samples(small("selection.strategy=vrs"), queries, [], fewest=1) == [4] * 10


def test_no_query_gets_fewer_completions_than_training_can_use() -> None:
    queries = [Query(f"q{i}", "north" if i < 5 else "south", "p") for i in range(10)]
    last = [Metric(1, group, steering.QUALITY, value) for group, value in (("north", 0.9), ("south", 0.3))]
    for samples, expected in ((2, [2, 2]), (3, [2, 4]), (4, [2, 6])):
        steered = small("selection.strategy=reweight", f"generation.samples_per_prompt={samples}")
        alone, paired = (steering.samples(steered, queries, last, fewest=fewest) for fewest in (1, 2))
        assert alone[0] == 1 and [paired[0], paired[-1]] == expected and sum(alone) == sum(paired) == 10 * samples
