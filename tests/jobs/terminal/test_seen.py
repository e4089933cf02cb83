"""The last words of a run."""

import pytest

from jobs.terminal.seen import closing_words, seen
from scpl_ray.records import Metric


def rows(shares: tuple[float, float], quality: tuple[float, float], moved: float | None = None) -> list[Metric]:
    found = [Metric(0, name, "share", value) for name, value in zip("ab", shares, strict=True)]
    found += [Metric(0, name, "quality", value) for name, value in zip("ab", quality, strict=True)]
    return found + ([] if moved is None else [Metric(0, None, "preference_log_odds_round0", moved)])


FIRST = rows((0.6, 0.4), (0.86, 0.85))


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (
            rows((0.75, 0.25), (0.9, 0.8), 0.41),
            "b asks less (0.40 of the queries, then 0.25)|moved towards what a prefers (log-odds +0.41 since round 0)|"
            "b is served worst (quality 0.85, then 0.80)",
        ),
        (
            rows((0.6, 0.4), (0.7, 0.9), -0.2),
            "as many of each group ask as in round 0|moved away from what a prefers|a is served worst",
        ),
        (rows((0.6, 0.4), (0.7, 0.9), -0.0), "answers to neutral prompts lean as in round 0"),
        (rows((0.6, 0.4), (0.7, 0.9), -0.004), "answers to neutral prompts lean as in round 0"),
        (rows((0.3, 0.7), (0.7, 0.7)), "a asks less (0.60 of the queries, then 0.30)|a is served worst"),
    ],
)
def test_what_changed_is_said(last: list[Metric], said: str) -> None:
    found = seen(FIRST, last, ["a", "b"])
    assert [part in found for part in said.split("|")] == [True] * len(said.split("|"))
    assert ("neutral" in found) == any(row.metric == "preference_log_odds_round0" for row in last)


def test_a_run_ends_with_the_caveat_and_the_next_command() -> None:
    said = closing_words(FIRST, FIRST, ["a", "b"], "runs/my run/config.yaml")
    assert "supports no claim" in said and said.endswith("scpl compare 'runs/my run/config.yaml'")
