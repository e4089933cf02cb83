"""The first sentences of a page, and those of a verdict: they say no more than is shown."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from scpl_ray.evaluation.catalogue import PREFERENCE
from scpl_ray.evaluation.disparity import ALL_LOST, GAIN, UNCLEAR, WORST_GAINED
from scpl_ray.records import Metric
from scpl_ray.report import headline, words
from scpl_ray.report.data import Part
from scpl_ray.studies import results, verdicts
from scpl_ray.studies.contrasts import Served
from scpl_ray.studies.series import Series
from scpl_ray.studies.statistics import Interval
from scpl_ray.studies.study import Study, StudyClaim
from scpl_ray.studies.verdicts import Family

SEEDS = 8


def claim(name: str, metric: str = "disparate_gap", **keys: object) -> StudyClaim:
    values = {"name": name, "metric": metric, "contrast": {"loop": 1.0, "static": -1.0}, **keys}
    return StudyClaim.model_validate(values)


def judged(*claims: StudyClaim, seeds: int = SEEDS, last: float = 0.15, richness: float = 0.9) -> Family:
    """Claims about a loop whose gap grows from 0.05 beside one whose gap stays, and whose texts are alike."""
    rng = np.random.default_rng(1)
    table = []
    for arm, gap in (("loop", last), ("static", 0.05)):
        for seed in range(seeds):
            gaps = (
                Metric(t, None, "disparate_gap", value) for t, value in ((0, 0.05), (1, gap + 0.001 * rng.normal()))
            )
            alike = richness if arm == "loop" else 0.9 + 0.001 * (seed % 2) - 0.0005
            table.append((arm, seed, [*gaps, *(Metric(t, None, "distinct_2", alike) for t in (0, 1))]))
    asked = Study(name="s", seeds=seeds, arms={"loop": {}, "static": {}}, claims=claims)
    return verdicts.judge(Series.of(results.table(table)), asked)


GROWS = claim("the gap grows")
FALLS = claim("the gap falls", direction="below 0")
LOST = claim("nobody measured it", "quality_worst_without_own_kind")
SAME = claim("text gets richer", "distinct_2")


def test_the_headline_says_what_became_of_one_claim() -> None:
    assert headline.of_claims(judged(GROWS)) == "The claim “the gap grows” is supported."
    assert headline.of_claims(judged(FALLS)) == "The claim “the gap falls” is false, the opposite is supported."
    assert headline.of_claims(judged(SAME)) == "The claim “text gets richer” can be told neither way."


def test_the_headline_says_what_became_of_many_claims() -> None:
    said = headline.of_claims(judged(GROWS, FALLS, SAME, LOST))
    assert said.startswith("1 of 4 claims is supported: the gap grows. Of 1 the opposite is supported: the gap falls.")
    assert "1 cannot be told either way, which is no evidence that there is nothing: text gets richer." in said
    assert "1 is not judged; the table says why: nobody measured it." in said
    many = headline.of_claims(judged(*(claim(f"c{i}") for i in range(5))))
    assert "5 of 5 claims are supported: c0; c1; c2; and 2 more." in many


def test_a_claim_that_is_not_judged_says_why() -> None:
    said = headline.of_claims(judged(LOST))
    assert said.startswith(
        "The claim “nobody measured it” is not judged: 0 seeds with quality_worst_without_own_kind in"
    )
    few = headline.of_claims(judged(GROWS, seeds=1))
    assert "is not judged: 1 seed with disparate_gap in every arm; at least 2 are needed." in few
    broken = headline.of_claims(judged(SAME, richness=math.inf))
    assert broken.startswith("The claim “text gets richer” can be told neither way: distinct_2 is infinite in seed 0")


def test_an_interval_without_a_width_is_said_to_say_nothing_of_other_seeds() -> None:
    table = [
        (arm, seed, [Metric(t, None, "distinct_2", 0.5) for t in (0, 1)])
        for arm in ("loop", "static")
        for seed in range(3)
    ]
    family = verdicts.judge(
        Series.of(results.table(table)), Study(name="s", seeds=3, arms={"loop": {}, "static": {}}, claims=(SAME,))
    )
    assert "has no width, and says nothing of other seeds" in words.sentence(family.judged[0], family)
    wide = judged(SAME)
    assert "no width" not in words.sentence(wide.judged[0], wide)


FELL = Interval(-0.1, -0.2, -0.05, 0.95, SEEDS)
ROSE = Interval(0.1, 0.05, 0.2, 0.95, SEEDS)


@pytest.mark.parametrize(
    ("served", "cause"),
    [
        (Served(FELL, FELL, (-1.0, -1.0), False, True), ALL_LOST),
        (Served(FELL, ROSE, (-1.0, 1.0), True, True), WORST_GAINED),
        (Served(ROSE, ROSE, (1.0, 1.0), True, False), GAIN),
        (Served(FELL, FELL, (-1.0, 0.0), True, True), UNCLEAR),
        (Served(FELL, FELL, (0.0, 0.0), False, False), UNCLEAR),
    ],
)
def test_why_a_gap_is_smaller_than_the_controls_is_said_and_not_that_it_closed(served: Served, cause: str) -> None:
    family = judged(FALLS, last=0.01)
    one = dataclasses.replace(family.judged[0], served=served)
    family = dataclasses.replace(family, judged=(one,))
    assert one.outcome == "supported" and one.cause == cause
    said = words.sentence(one, family)
    assert f"The gap in loop is smaller than in static, {words.SMALLER[cause]}." in said and "closed" not in said
    assert ("no group is shown to be served better" in headline.of_claims(family)) == (cause == ALL_LOST)


@pytest.mark.parametrize(
    ("contrast", "said"),
    [
        ({"loop": 1.0, "static": -1.0}, "The gap in loop is smaller than in static, by gain."),
        ({"static": -1.0, "loop": 1.0}, "The gap in loop is smaller than in static, by gain."),
        ({"static": 1.0, "loop": -1.0}, "The gap in loop is smaller than in static, by gain."),
        ({"loop": 0.5, "static": -0.5}, "The gap in loop is smaller than in static, by gain."),
        ({"loop": 1.0, "static": -0.5, "other": -0.5}, ""),
        ({"loop": 1.0, "static": -1.0, "other": 1.0, "last": -1.0}, ""),
    ],
)
def test_why_a_gap_is_smaller_is_said_of_one_arm_beside_another_alone(contrast: dict[str, float], said: str) -> None:
    ends = {"loop": (0.8, 0.9), "static": (0.4, 0.9), "other": (0.4, 0.9), "last": (0.4, 0.9)}
    table = []
    for (arm, (worst, best)), seed in itertools.product(ends.items(), range(SEEDS)):
        low, high = worst + 0.001 * seed, best
        numbers = {headline.GAP: high - low, headline.WORST: low, headline.MEAN: (low + high) / 2}
        start = {headline.GAP: 0.01, headline.WORST: 0.9, headline.MEAN: 0.9}
        table.append(
            (arm, seed, [Metric(t, None, m, v) for t, own in enumerate((start, numbers)) for m, v in own.items()])
        )
    direction = "above 0" if contrast["loop"] < 0 else "below 0"
    one = claim("the gap is smaller", direction=direction, contrast=contrast)
    asked = Study.model_validate({"name": "s", "arms": {arm: {} for arm in ends}, "claims": (one,)})
    family = verdicts.judge(Series.of(results.table(table)), asked)
    (found,) = family.judged
    assert found.outcome == "supported" and bool(found.cause) == bool(said)
    assert said in words.sentence(found, family) and "losed" not in words.sentence(found, family)
    assert ("smaller than in" in words.sentence(found, family)) == bool(said)


Bounds = tuple[float, float]


def changed(
    ends: Mapping[str, Sequence[float]],
    bounds: Mapping[str, tuple[Bounds, Bounds]] | None = None,
    *,
    seeds: int = 1,
    groups: int = 2,
    kinds: tuple[Sequence[float], Sequence[float]] | None = None,
) -> str:
    """What is said of one arm with these numbers in rounds 0 and 1, and these bounds within the run."""
    rng = np.random.default_rng(2)
    table = []
    for seed in range(seeds):
        own = [Metric(t, f"g{k}", "share", 1 / groups) for t in (0, 1) for k in range(groups)]
        for metric, values in ends.items():
            for t, value in enumerate(values):
                noise = 0.001 * float(rng.normal()) if seeds > 1 else 0.0
                own.append(Metric(t, None, metric, value + noise, *(bounds or {}).get(metric, ((), ()))[t]))
        for t, shares in enumerate(kinds or ()):
            moved = np.array(shares) + 0.001 * rng.normal(size=len(shares))
            own += [Metric(t, f"g{k}", "kind_share", float(v)) for k, v in enumerate(moved / moved.sum())]
        table.append(("a", seed, own))
    found = results.table(table)
    part = Part("t", "here", None, ("a",), found, Series.of(found), {}, (), (), ())
    return headline.of_changes(part, verdicts.flags(part.series, "a"))


@pytest.mark.parametrize(
    ("first", "last", "interval", "groups", "said"),
    [
        (-0.5, 0.5, (0.6, 1.4), 2, "moved (log-odds"),  # across balance, as far from it as before
        (0.5, 1.5, (0.6, 1.4), 2, "moved away from balance"),
        (-0.5, -1.5, (-1.4, -0.6), 2, "moved away from balance"),
        (1.5, 0.5, (-1.4, -0.6), 2, "moved towards balance"),
        (0.5, 1.5, (-0.1, 2.1), 2, "is not shown to have moved"),
        (0.0, 0.0, (0.0, 0.0), 2, "is not shown to have moved"),
        (0.5, 1.5, (0.6, 1.4), 3, "moved (log-odds"),
        (1.5, 0.5, (-1.4, -0.6), 3, "moved (log-odds"),
        (0.5, 1.5, (-0.1, 2.1), 3, "is not shown to have moved"),
    ],
)
def test_of_one_seed_preference_moved_where_its_interval_leaves_out_0(
    first: float, last: float, interval: Bounds, groups: int, said: str
) -> None:
    ends = {PREFERENCE: (first, last), headline.SINCE: (0.0, last - first)}
    found = changed(ends, {headline.SINCE: ((0.0, 0.0), interval)}, groups=groups)
    assert f"that the model chooses by itself {said}" in found and "stayed" not in found
    assert groups == 2 or "balance" not in found


def test_without_an_interval_nothing_is_shown_to_have_moved() -> None:
    found = changed({PREFERENCE: (0.0, 3.0), "disparate_gap": (0.1, 0.5)})
    assert "is not shown to have moved" in found and "between groups is not shown to have changed (0.100" in found


@pytest.mark.parametrize(
    ("last", "bounds", "gap", "worst"),
    [
        (0.5, (0.45, 0.55), "grew", "is served better"),
        (0.1, (0.05, 0.15), "shrank", "is served worse"),
        (0.5, (0.32, 0.68), "is not shown to have changed", "is not shown to have changed"),
    ],
)
def test_of_one_seed_a_number_changed_where_its_intervals_do_not_meet(
    last: float, bounds: Bounds, gap: str, worst: str
) -> None:
    metrics = (headline.GAP, headline.WORST, headline.MEAN)
    found = changed(dict.fromkeys(metrics, (0.3, last)), dict.fromkeys(metrics, ((0.25, 0.35), bounds)))
    assert f"the gap in quality between groups {gap} (0.300" in found
    assert f"the worst-served group {worst} (quality 0.300" in found


@pytest.mark.parametrize(
    ("kinds", "seeds", "said"),
    [
        (((0.5, 0.5), (0.8, 0.2)), 8, "moved away from balance"),
        (((0.8, 0.2), (0.5, 0.5)), 8, "moved towards balance"),
        (((0.8, 0.2), (0.2, 0.8)), 8, "moved (log-odds"),
        (((0.5, 0.5), (0.5, 0.5)), 8, "is not shown to have moved"),
        (((0.5, 0.5), (0.8, 0.2)), 5, "is not shown to have moved"),
        (((0.3, 0.3, 0.4), (0.1, 0.1, 0.8)), 8, "moved away from balance"),
    ],
)
def test_of_several_seeds_preference_moved_as_their_test_says(
    kinds: tuple[Sequence[float], Sequence[float]], seeds: int, said: str
) -> None:
    # the log-odds stay: between seeds it is the shares that are tested
    found = changed({PREFERENCE: (1.0, 1.0)}, seeds=seeds, groups=len(kinds[0]), kinds=kinds)
    assert f"that the model chooses by itself {said}" in found


def test_a_change_between_seeds_takes_six_of_them() -> None:
    ends = {headline.GAP: (0.1, 0.3), headline.WORST: (0.5, 0.5), headline.MEAN: (0.6, 0.6)}
    assert "between groups grew (0.1" in changed(ends, seeds=6)
    assert "between groups is not shown to have changed (0.1" in changed(ends, seeds=5)
    assert "the worst-served group is not shown to have changed" in changed(ends, seeds=6)
