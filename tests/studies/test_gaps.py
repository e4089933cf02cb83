"""Claims about gaps: which arm's gap is said to be smaller, and whether all are served worse there."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from scpl_ray.evaluation.disparity import ALL_LOST, GAIN, WORST_GAINED
from scpl_ray.records import Metric
from scpl_ray.report import headline, words
from scpl_ray.studies import results, verdicts
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import Study
from scpl_ray.studies.verdicts import Family

Served = Sequence[tuple[float, float]]
"""Quality of the worse and of the better served group, by seed."""
CONTROL = [(0.6, 0.9), (0.62, 0.9), (0.58, 0.9), (0.61, 0.89)] * 2
WORSE = [(0.5, 0.6), (0.52, 0.61), (0.49, 0.6), (0.5, 0.62)] * 2
BETTER = [(0.8, 0.9), (0.82, 0.91), (0.8, 0.9), (0.81, 0.89)] * 2
MIXED = [(0.65, 0.7), (0.66, 0.7), (0.65, 0.71), (0.66, 0.69)] * 2
WIDER = [(0.2, 0.9), (0.22, 0.9), (0.18, 0.9), (0.21, 0.91)] * 2


def judged(arms: Mapping[str, Served], contrast: Mapping[str, float], **keys: Any) -> Family:
    """The verdict on a claim about the gap of two arms."""
    table = []
    for arm, seeds in arms.items():
        for seed, (low, high) in enumerate(seeds):
            numbers = {"disparate_gap": high - low, "quality_mean": (low + high) / 2, "quality_worst": low}
            own = [Metric(t, None, m, v) for t in (0, 1) for m, v in numbers.items()]
            own += [Metric(t, g, "quality", v) for t in (0, 1) for g, v in (("a", low), ("b", high))]
            table.append((arm, seed, own))
    claim = {"name": "gap", "metric": "disparate_gap", "contrast": contrast, **keys}
    asked = Study.model_validate({"name": "s", "arms": {arm: {} for arm in arms}, "claims": (claim,)})
    return verdicts.judge(Series.of(results.table(table)), asked)


@pytest.mark.parametrize("weight", [1.0, -1.0, 0.5])
@pytest.mark.parametrize(
    ("loop", "smaller", "cause", "levelled"),
    [
        (WORSE, "loop", ALL_LOST, True),
        (BETTER, "loop", GAIN, False),
        (MIXED, "loop", WORST_GAINED, True),
        (WIDER, "static", GAIN, False),
    ],
)
def test_what_is_said_of_two_gaps_does_not_depend_on_which_arm_is_subtracted(
    loop: Served, smaller: str, cause: str, levelled: bool, weight: float
) -> None:
    family = judged({"loop": loop, "static": CONTROL}, {"loop": weight, "static": -weight})
    (one,) = family.judged
    other = {"loop": "static", "static": "loop"}[smaller]
    assert one.smaller_gap == (smaller, other) and one.cause == cause and one.levelled_down == levelled
    assert f"The gap in {smaller} is smaller than in {other}, {words.SMALLER[cause]}." in words.sentence(one, family)
    assert ("look at the quality behind it" in headline.of_claims(family)) == (cause == ALL_LOST)


def test_of_more_than_two_arms_none_is_said_to_have_the_smaller_gap() -> None:
    arms = {"loop": WORSE, "static": CONTROL, "other": CONTROL}
    (one,) = judged(arms, {"loop": 1.0, "static": -0.5, "other": -0.5}, direction="below 0").judged
    assert one.outcome == "supported" and one.smaller_gap is None and one.cause == "" and not one.levelled_down


def test_beside_a_margin_a_gap_is_smaller_where_that_is_shown_too() -> None:
    """That no more than the margin is lost is no evidence that anything is gained."""
    means, n, said = (0.0, 0.02, -0.02), 8, []
    for mean in means:
        moved = mean + 0.004 * np.array([1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 1.5, -1.5])
        loop = [(0.7 + d, 0.9) for d in moved]
        (one,) = judged(
            {"loop": loop, "static": [(0.7, 0.9)] * n}, {"loop": 1.0, "static": -1.0}, direction="below 0", margin=0.1
        ).judged
        assert one.outcome == "supported"
        said.append(one.smaller_gap)
    assert said == [None, ("loop", "static"), ("static", "loop")]


def test_where_gaps_are_alike_a_margin_makes_no_sentence_that_one_is_smaller() -> None:
    """As rarely as the level of the family allows, with as many claims as there are arms beside the control."""
    rng, seeds, arms, studies, said = np.random.default_rng(7), 10, 8, 30, 0
    for _ in range(studies):
        table = []
        for arm in range(arms + 1):
            for seed, gap in enumerate(0.2 + 0.02 * rng.normal(size=seeds)):
                numbers = {"disparate_gap": gap, "quality_mean": 0.7, "quality_worst": 0.6}
                own = [Metric(t, None, m, float(v)) for t in (0, 1) for m, v in numbers.items()]
                table.append((f"a{arm}", seed, own))
        claims = [
            {
                "name": f"c{arm}",
                "metric": "disparate_gap",
                "contrast": {f"a{arm}": 1.0, f"a{arms}": -1.0},
                "direction": "below 0",
                "margin": 0.1,
            }
            for arm in range(arms)
        ]
        plan = Study.model_validate({"name": "s", "arms": {f"a{i}": {} for i in range(arms + 1)}, "claims": claims})
        family = verdicts.judge(Series.of(results.table(table)), plan)
        assert all(one.outcome == "supported" for one in family.judged)
        said += any(one.smaller_gap is not None for one in family.judged)
    assert said <= 0.1 * studies
