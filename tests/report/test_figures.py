"""The figures: axes that end where they should, bands, chance, intervals of single runs, and claims."""

import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs import report
from scpl_ray.evaluation.catalogue import CATALOGUE, kind_of
from scpl_ray.records import Metric
from scpl_ray.report import axes, figures, forest
from scpl_ray.report.data import Part
from scpl_ray.studies import results, study, verdicts
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import Study, StudyClaim
from tests.support.finished_runs import finished
from tests.support.html_page import read
from tests.support.loops import small

SEEDS, ROUNDS = 8, 5
GAPS = {"loop": 0.02, "static": 0.0}
"""How much the gap grows per round."""


def table(noise: float = 0.01) -> pa.Table:
    rng = np.random.default_rng(1)
    runs = []
    for arm, slope in GAPS.items():
        for seed in range(SEEDS):
            rows = []
            for t in range(ROUNDS + 1):
                gap = 0.05 + slope * t + noise * float(rng.normal())
                rows.append(Metric(t, None, "disparate_gap", gap))
                rows.append(Metric(t, None, "disparate_gap_null", 0.03))
                rows.append(Metric(t, None, "distinct_2", 0.999 - 0.0001 * seed))
                for group, quality in (("a", 0.7), ("b", 0.7 - gap)):
                    rows += [Metric(t, group, "quality", quality), Metric(t, group, "share", 0.5)]
                rows += [Metric(t, None, "quality_worst", 0.7 - gap), Metric(t, None, "quality_mean", 0.7 - gap / 2)]
            runs.append((arm, seed, rows))
    return results.table(runs)


def claim(**more: object) -> StudyClaim:
    values = {"name": "the gap grows", "metric": "disparate_gap", "contrast": {"loop": 1.0, "static": -1.0}, **more}
    return StudyClaim.model_validate(values)


def plan(*claims: StudyClaim) -> Study:
    return Study(
        name="s", mode="analytic", seeds=SEEDS, arms={"loop": {}, "static": {"feedback.rule": "static"}}, claims=claims
    )


def test_figures_of_some_claims_say_of_how_many() -> None:
    claims = [claim(name=f"claim {number}") for number in range(forest.MAX_ROWS + 2)]
    part = part_of(table(), *claims)
    for number in (len(claims), forest.MAX_PATHS):
        family = verdicts.judge(part.series, plan(*claims[:number]))
        for figure in forest.draw_all(part.series, family):
            most = forest.MAX_ROWS if figure.name == "claims" else forest.MAX_PATHS
            said = f"(the first {most} of {number})"
            assert (said in figure.title, said in figure.alt) == (number > most,) * 2, figure.title


@pytest.mark.parametrize(
    ("ends", "settings", "found"),
    [
        ((0.50, 0.51), {"span": 0.2, "lowest": 0.0, "highest": 1.0}, (0.405, 0.605)),
        ((0.99, 1.00), {"span": 0.2, "lowest": 0.0, "highest": 1.0}, (0.8, 1.0)),
        ((0.00, 0.01), {"span": 0.2, "lowest": 0.0, "highest": 1.0}, (0.0, 0.2)),
        ((0.1, 0.9), {"span": 0.2, "lowest": 0.0, "highest": 1.0}, (0.1, 0.9)),
        ((0.0, 1.0), {"span": 0.2, "lowest": 0.0, "highest": 1.0}, (0.0, 1.0)),
        ((-0.01, 0.01), {"span": 1.0}, (-0.5, 0.5)),
        ((1.0, 1.2), {"span": 1.0, "lowest": 1.0}, (1.0, 2.0)),
        ((3.0, 3.0), {}, (2.5, 3.5)),
    ],
)
def test_an_axis_is_no_lower_than_its_span_and_stays_in_what_is_possible(
    ends: tuple[float, float], settings: dict[str, float], found: tuple[float, float]
) -> None:
    low, high = axes.limits(*ends, **settings)
    room = axes.MARGIN * (found[1] - found[0])
    assert (low, high) == pytest.approx((found[0] - room, found[1] + room))
    assert low <= ends[0] and high >= ends[1]


@pytest.mark.parametrize("kind", [k for k in CATALOGUE if k.figure or k.change], ids=lambda kind: kind.name)
def test_every_drawn_metric_has_a_smallest_span(kind) -> None:
    assert kind.span > 0.0 and (kind.low is None or kind.high is None or kind.span <= kind.high - kind.low)
    assert not kind.chance or kind_of(kind.chance) is not None


def test_bands_end_where_the_metric_does() -> None:
    kind = kind_of("distinct_2")
    assert kind is not None
    assert axes.clipped(np.array([-0.2, 0.5, 1.3, np.nan]), kind).tolist()[:3] == [0.0, 0.5, 1.0]
    assert math.isnan(axes.clipped(np.array([np.nan]), kind)[0])
    odds = kind_of("preference_log_odds_balanced")
    assert axes.clipped(np.array([-9.0, 9.0]), odds).tolist() == [-9.0, 9.0]


def part_of(found: pa.Table, *claims: StudyClaim) -> Part:
    series = Series.of(found)
    return Part("t", "here", plan(*claims), ("loop", "static"), found, series, {}, (), (), ())


def test_the_gap_stands_beside_what_chance_alone_makes() -> None:
    drawn = {figure.name: figure for figure in figures.draw_all(part_of(table()), ["loop", "static"])}
    # as text, which every browser has a font for, and not as outlines of a font that may lack it
    assert re.search(rb"<text[^>]*>by chance alone", drawn["disparity"].svg)
    assert b"by chance alone" not in drawn["diversity"].svg
    without = table().filter(pa.compute.not_equal(table()["metric"], "disparate_gap_null"))
    (figure,) = [f for f in figures.draw_all(part_of(without), ["loop"]) if f.name == "disparity"]
    assert b"by chance alone" not in figure.svg


def test_names_that_begin_with_an_underscore_stand_in_the_legend() -> None:
    named = {"loop": "_loop", "static": "static"}
    arms = pa.array([named[arm] for arm in table()["arm"].to_pylist()])
    found = table().set_column(0, "arm", arms)
    part = Part("t", "here", None, ("_loop", "static"), found, Series.of(found), {}, (), (), ())
    for figure in figures.draw_all(part, ["_loop", "static"]):
        shown = [len(re.findall(f">{name}</text>".encode(), figure.svg)) for name in named.values()]
        assert shown == [1, 1], figure.name


def test_groups_that_differ_in_punctuation_alone_have_figures_of_their_own() -> None:
    groups = ("<30", ">30", "-30")
    runs = [
        (arm, seed, [Metric(t, g, "quality", 0.5) for t in (0, 1) for g in groups]) for arm in GAPS for seed in (0, 1)
    ]
    part = part_of(results.table(runs), *(claim(name=g, metric="quality", group=g) for g in groups))
    names = [figure.name for figure in figures.draw_all(part, list(GAPS))]
    assert [name for name in names if name.startswith("claim-")] == [
        "claim-quality-_30",
        "claim-quality-_30-2",
        "claim-quality--30",
    ]


def test_the_figure_of_claims_holds_every_estimate_and_the_paths_end_at_them() -> None:
    claims = (claim(), claim(name="mean of all rounds", at="mean"), claim(name="x", metric="distinct_2", margin=0.1))
    part = part_of(table(), *claims)
    family = verdicts.judge(part.series, plan(*claims))
    drawn = {figure.name: figure for figure in forest.draw_all(part.series, family)}
    assert set(drawn) == {"claims", "differences"}
    for judged in family.judged:
        assert judged.name in drawn["claims"].alt and judged.name.encode() in drawn["claims"].svg
        rounds, path, seeds = forest._path(part.series, judged)
        assert judged.verdict is not None and rounds[-1] == ROUNDS
        assert path.mean[-1] == pytest.approx(judged.verdict.estimate)
        assert seeds.shape == (SEEDS, len(rounds))
    rounds, path, _ = forest._path(part.series, family.judged[0])
    assert rounds == list(range(ROUNDS + 1)) and path.mean[0] == pytest.approx(0.0, abs=0.02)
    assert path.mean[-1] == pytest.approx(GAPS["loop"] * ROUNDS, abs=0.02)
    assert all(figure.alt.startswith("Line chart.") for figure in drawn.values())


def test_a_preference_claim_is_drawn_on_the_scale_that_is_tested() -> None:
    rows = []
    for arm, towards in (("loop", 0.02), ("static", 0.0)):
        for seed in range(SEEDS):
            own = []
            for t in range(3):
                share = 0.5 + towards * t + 0.001 * seed
                for group, value in (("a", share), ("b", 1.0 - share)):
                    own += [Metric(t, group, "kind_share", value), Metric(t, group, "share", 0.5)]
                own.append(Metric(t, None, "total_variation_balanced", abs(share - 0.5)))
            rows.append((arm, seed, own))
    chosen = claim(name="p", metric="total_variation_balanced")
    part = part_of(results.table(rows), chosen)
    (judged,) = verdicts.judge(part.series, plan(chosen)).judged
    _, path, _ = forest._path(part.series, judged)
    assert judged.numbers.scale == "distance" and judged.verdict is not None
    assert path.mean[-1] == pytest.approx(judged.verdict.estimate)
    (drawn, *_) = forest.draw_all(part.series, verdicts.judge(part.series, plan(chosen)))
    assert b"parts of a whole" in drawn.svg


def test_claims_without_numbers_are_not_drawn() -> None:
    part = part_of(table())
    unknown = claim(metric="quality_worst_without_own_kind")
    assert forest.draw_all(part.series, verdicts.judge(part.series, plan(unknown))) == []


def test_the_headline_of_a_run_says_what_changed(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", small("loop.rounds=2", "feedback.rule=schedule", "feedback.step=[0.2, -0.2]"))
    page = report.write([run], tmp_path / "out")
    found = read(page)
    said = found.said()
    assert "From round 0 to round 2: the kind of text that the model chooses by itself" in said
    assert "the gap in quality between groups" in said and "chance alone makes about" in said
    assert "the worst-served group" in said and "Methods, as a paragraph" in said and "References in BibTeX" in said
    assert "we ran 1 arm with 1 seed and 2 self-consuming rounds (Wang et al., 2026) on the task language" in said
    assert "@software{scpl_ray," in page.read_text().replace("\\_", "_")
    assert "prefers-color-scheme: dark" in page.read_text()


def test_a_study_file_of_this_module_is_one(tmp_path: Path) -> None:
    found = plan(claim())
    (tmp_path / study.STUDY_FILE).write_text(study.dump(found))
    results.write(table(), tmp_path)
    page = report.write([tmp_path], tmp_path / "out")
    assert {"claims.svg", "differences.svg", "disparity.svg"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "The claim “the gap grows” is supported." in read(page).said()
