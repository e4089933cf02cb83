"""Claims about distances of shares: what would have been found, and what undecided answers leave possible."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from rich.console import Console

from jobs.driver.pilot import AT_LEAST, print_power
from scpl_ray.evaluation import catalogue
from scpl_ray.records import Metric
from scpl_ray.report import text, words
from scpl_ray.studies import results, verdicts
from scpl_ray.studies.pilot import outlook
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import STUDY_FILE, Study, dump
from scpl_ray.studies.verdicts import Family, Judged

SEEDS = 8
BALANCED, SINCE = "total_variation_balanced", "total_variation_round0"


def shares_of(
    arms: Mapping[str, Sequence[float]], undecided: Mapping[str, float], metric: str = "kind_share"
) -> Series:
    """Shares of kinds per seed, which begin as equal ones, with a fraction of undecided answers by arm."""
    table = []
    for arm, last in arms.items():
        rng = np.random.default_rng(len(arm))
        for seed in range(SEEDS):
            own = []
            for t, shares in enumerate((np.full(len(last), 1.0 / len(last)), np.array(last))):
                drawn = np.abs(shares + 0.01 * rng.normal(size=len(shares)))
                drawn, open_ = drawn / drawn.sum(), undecided.get(arm, 0.0)
                for k, share in enumerate(drawn.tolist()):
                    own += [Metric(t, f"g{k}", metric, share), Metric(t, f"g{k}", "share", 0.5 - 0.1 * k)]
                    low = share * (1.0 - open_)
                    own += [
                        Metric(t, f"g{k}", "kind_share_low", low),
                        Metric(t, f"g{k}", "kind_share_high", low + open_),
                    ]
                own.append(Metric(t, None, BALANCED, float(np.abs(drawn - 1.0 / len(last)).sum()) / 2.0))
            table.append((arm, seed, own))
    return Series.of(results.table(table))


def plan(metric: str = BALANCED, **keys: object) -> Study:
    claim = {"name": "c", "metric": metric, "contrast": {"loop": 1.0, "static": -1.0}, **keys}
    return Study.model_validate({"name": "s", "seeds": SEEDS, "arms": {"loop": {}, "static": {}}, "claims": (claim,)})


def judged(series: Series, metric: str = BALANCED, **keys: object) -> tuple[Judged, Family]:
    family = verdicts.judge(series, plan(metric, **keys))
    return family.judged[0], family


TWO = {"loop": (0.51, 0.49), "static": (0.5, 0.5)}
THREE = {"loop": (0.34, 0.33, 0.33), "static": (0.33, 0.34, 0.33)}


def test_of_three_or_more_kinds_no_detectable_effect_is_given() -> None:
    for arms, given in ((TWO, True), (THREE, False)):
        one, family = judged(shares_of(arms, {}))
        assert one.verdict is not None and one.outcome == "cannot tell" and one.numbers.scale == "distance"
        assert math.isnan(one.verdict.minimum_detectable_effect) != given
        assert ("would have been found with 80% power" in words.sentence(one, family)) == given
        assert (words.detectable(one.verdict.minimum_detectable_effect) == words.NOT_GIVEN) != given
    assert [words.detectable(effect) for effect in (math.inf, 0.25)] == ["none", "0.250"]


@pytest.mark.parametrize("metric", [BALANCED, SINCE, "kl_balanced"])
def test_a_family_too_large_for_its_seeds_finds_nothing_of_whatever_kinds(metric: str) -> None:
    claims = [{"name": f"c{i}", "metric": metric, "contrast": {"loop": 1.0, "static": -1.0}} for i in range(9)]
    asked = Study.model_validate({"name": "s", "arms": {"loop": {}, "static": {}}, "claims": claims})
    first = verdicts.judge(shares_of(THREE, {}), asked).judged[0].verdict
    assert first is not None and first.minimum_detectable_effect == math.inf


def test_a_pilot_says_at_least_so_many_seeds_of_three_or_more_kinds() -> None:
    (two,), (three,) = (outlook(shares_of(arms, {}), plan(), seeds=SEEDS) for arms in (TWO, THREE))
    assert not two.at_least and two.detectable < math.inf and three.at_least and math.isnan(three.detectable)
    (few,) = outlook(shares_of(THREE, {}), plan(), seeds=5)
    assert few.at_least and few.detectable == math.inf


def test_the_table_of_a_pilot_says_so_in_one_line(tmp_path) -> None:
    moved = {"loop": (0.6, 0.2, 0.2), "static": (0.34, 0.33, 0.33)}
    for arms, said in ((moved, True), (TWO, False)):
        folder = tmp_path / str(said)
        folder.mkdir()
        series, rows = shares_of(arms, {}), []
        for (arm, own), seed in itertools.product(series.values.items(), range(SEEDS)):
            rows.append((arm, seed, [Metric(t, g, m, path[seed, t]) for (m, g), path in own.items() for t in (0, 1)]))
        results.write(results.table(rows), folder)
        (folder / STUDY_FILE).write_text(dump(plan()))
        console = Console(file=io.StringIO(), width=200)
        print_power(console, plan(), [], folder)
        found = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
        assert (AT_LEAST in found) == ("at least 6" in found) == (words.NOT_GIVEN in found) == said


def by_hand(series: Series, arm: str, since: bool) -> tuple[float, float]:
    """The nearest and the furthest the mean shares of an arm can be, by trying how undecided answers may be divided."""
    low = series.paths(arm, "kind_share_low").mean(axis=0)
    steps = np.linspace(0.0, 1.0, 41)
    parts = np.array([(a, b, 1.0 - a - b) for a in steps for b in steps if a + b <= 1.0 + 1e-9])
    start, end = (low[t] + (1.0 - low[t].sum()) * parts for t in (0, 1))
    if not since:
        start = np.full((1, 3), 1.0 / 3.0)
    apart = np.abs(end[:, None] - start[None]).sum(axis=-1) / 2.0
    return float(apart.min()), float(apart.max())


@pytest.mark.parametrize(("metric", "since"), [(BALANCED, False), (SINCE, True)])
def test_undecided_answers_bound_a_distance_however_they_are_divided(metric: str, since: bool) -> None:
    series = shares_of({"loop": (0.8, 0.15, 0.05), "static": (0.4, 0.35, 0.25)}, {"loop": 0.2, "static": 0.1})
    one, family = judged(series, metric)
    (near, far), (control_near, control_far) = (by_hand(series, arm, since) for arm in ("loop", "static"))
    bounds = one.numbers.bounds
    assert bounds == pytest.approx((near - control_far, far - control_near), abs=0.01)
    assert bounds is not None and one.verdict is not None and bounds[0] <= one.verdict.estimate <= bounds[1]
    said = text.interval(*bounds, signed=True)
    assert f"Undecided answers leave {said} possible." in words.sentence(one, family)


def test_without_undecided_answers_nothing_is_said_of_them() -> None:
    for arms in (TWO, THREE):
        one, family = judged(shares_of(arms, {}))
        assert one.numbers.bounds is None and one.numbers.undecided == {}
        assert "ndecided" not in words.sentence(one, family)


def test_the_bounds_of_a_distance_hold_its_estimate() -> None:
    one, _ = judged(shares_of(THREE, {"loop": 1e-6}))
    bounds = one.numbers.bounds
    assert bounds is not None and one.verdict is not None and bounds[0] <= one.verdict.estimate <= bounds[1]


@pytest.mark.parametrize(
    ("metric", "keys"),
    [(f"{catalogue.PREFERENCE}_corrected", {}), ("kind_share_corrected", {"group": "g0"})],
)
def test_where_nothing_bounds_undecided_answers_their_fraction_is_said(metric: str, keys: dict[str, str]) -> None:
    ends = {"loop": (0.7, 0.3), "static": (0.5, 0.5)}
    one, family = judged(shares_of(ends, {"loop": 0.25}, "kind_share_corrected"), metric, **keys)
    assert one.outcome == "supported" and one.numbers.bounds is None
    assert one.numbers.undecided == pytest.approx({"loop": 0.25})
    assert "Undecided are 0.250 in loop of the answers; what they leave possible is not bounded." in words.sentence(
        one, family
    )
