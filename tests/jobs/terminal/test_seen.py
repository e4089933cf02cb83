"""The last words of a run: they say no more than the run's own intervals show."""

import pytest

from jobs.terminal.seen import closing_words, seen
from scpl_ray.records import Metric

Bounds = tuple[float, float]


def rows(
    shares: tuple[float, ...],
    quality: tuple[float, ...],
    moved: tuple[float, float | None, float | None] | None = None,
    *,
    gap: Bounds | None = None,
    wide: float = 0.02,
) -> list[Metric]:
    found = [Metric(0, name, "share", value) for name, value in zip("abc", shares, strict=False)]
    found += [
        Metric(0, name, "quality", value, value - wide, value + wide)
        for name, value in zip("abc", quality, strict=False)
    ]
    if gap is not None:
        found.append(Metric(0, None, "disparate_gap", max(quality) - min(quality), *gap))
    return found + ([] if moved is None else [Metric(0, None, "preference_log_odds_round0", *moved)])


FIRST = rows((0.6, 0.4), (0.86, 0.85))
STILL = "answers to neutral prompts are not shown to have moved"
NOBODY = "no group is shown to be served worst"


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (
            rows((0.75, 0.25), (0.9, 0.8), (0.41, 0.2, 0.6), gap=(0.05, 0.15)),
            "b asks less (0.40 of the queries, then 0.25)|moved towards what a prefers (log-odds +0.41 since round 0)|"
            "b is served worst (quality 0.85, then 0.80)",
        ),
        (
            rows((0.6, 0.4), (0.7, 0.9), (-0.2, -0.3, -0.1), gap=(0.1, 0.3)),
            "as many of each group ask as in round 0|moved away from what a prefers|a is served worst",
        ),
        (rows((0.6, 0.4), (0.7, 0.9), (0.41, -0.1, 0.9)), f"{STILL} (log-odds +0.41 since round 0)"),
        (rows((0.6, 0.4), (0.7, 0.9), (-0.41, -0.9, 0.1)), f"{STILL} (log-odds -0.41 since round 0)"),
        (rows((0.6, 0.4), (0.7, 0.9), (0.41, None, None)), STILL),
        (rows((0.6, 0.4), (0.7, 0.9), (-0.0, 0.0, 0.0)), f"{STILL} (log-odds +0.00 since round 0)"),
        (
            rows((0.3, 0.7), (0.7, 0.7), gap=(0.0, 0.1)),
            f"a asks less (0.60 of the queries, then 0.30)|{NOBODY} (lowest is a: quality 0.86, then 0.70)",
        ),
        (rows((0.3, 0.7), (0.9, 0.8), gap=(0.0, 0.2)), f"{NOBODY} (lowest is b: quality 0.85, then 0.80)"),
        (rows((0.3, 0.7), (0.9, 0.8)), NOBODY),
    ],
)
def test_what_changed_is_said_where_it_is_shown(last: list[Metric], said: str) -> None:
    found = seen(FIRST, last, ["a", "b"])
    assert [part in found for part in said.split("|")] == [True] * len(said.split("|"))
    assert ("neutral" in found) == any(row.metric == "preference_log_odds_round0" for row in last)


@pytest.mark.parametrize(
    ("quality", "wide", "shown"),
    [((0.9, 0.8, 0.7), 0.02, True), ((0.9, 0.71, 0.7), 0.02, False), ((0.9, 0.7, 0.7), 0.0, False)],
)
def test_of_three_groups_the_worst_is_one_whose_interval_meets_no_other(
    quality: tuple[float, ...], wide: float, shown: bool
) -> None:
    last = rows((0.4, 0.3, 0.3), quality, gap=(0.1, 0.3), wide=wide)
    found = seen(rows((0.4, 0.3, 0.3), (0.9, 0.9, 0.9)), last, ["a", "b", "c"])
    assert ("c is served worst" in found) == shown == (NOBODY not in found)


def test_a_run_ends_with_the_caveat_and_the_next_command() -> None:
    said = closing_words(FIRST, FIRST, ["a", "b"], "runs/my run/config.yaml")
    assert "supports no claim" in said and said.endswith("scpl compare 'runs/my run/config.yaml'")
