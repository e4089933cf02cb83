"""Titles, names and legends of the figures: they tell panels apart and fit on the figure."""

import numpy as np
import pytest

from scpl_ray.evaluation.catalogue import PREFERENCE
from scpl_ray.records import Metric
from scpl_ray.report import axes, forest
from scpl_ray.studies import results, verdicts
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import Study, StudyClaim
from scpl_ray.studies.verdicts import Family

BETA = "selection.beta"
LONG = "performative-with-a-rather-long-name feedback.sensitivity=0.25 selection.target_of=kinds selection.beta=0.5"


def claim(name: str, **keys: object) -> StudyClaim:
    values = {"name": name, "metric": "disparate_gap", "contrast": {"loop": 1.0, "static": -1.0}, **keys}
    return StudyClaim.model_validate(values)


def judged(*claims: StudyClaim) -> tuple[Series, Family]:
    """Claims at two points of an axis, with shares of three kinds."""
    asked = Study(name="s", seeds=6, arms={"loop": {}, "static": {}}, axes={BETA: (0.5, 1.0)}, claims=claims)
    rng = np.random.default_rng(3)
    table = []
    for arm in ("loop", "static"):
        for beta in (0.5, 1.0):
            for seed in range(6):
                own = []
                for t in range(3):
                    own.append(Metric(t, None, "disparate_gap", 0.2 + 0.01 * float(rng.normal())))
                    for group, share in zip("abc", rng.dirichlet([50.0] * 3), strict=True):
                        own.append(Metric(t, group, "kind_share", float(share)))
                        own.append(Metric(t, group, "share", 1 / 3))
                table.append((f"{arm} {BETA}={beta}", seed, own))
    series = Series.of(results.table(table))
    return series, verdicts.judge(series, asked)


def test_panels_of_other_numbers_have_other_titles() -> None:
    series, family = judged(
        claim("gap"),
        claim("mean gap", at="mean"),
        claim("a", metric="kind_log_odds_balanced", group="a"),
        claim("b", metric="kind_log_odds_balanced", group="b"),
        claim("b since", metric="kind_log_odds_round0", group="b"),
        claim("largest", metric=PREFERENCE),
        claim("distance", metric="total_variation_balanced"),
        claim("distance since", metric="total_variation_round0"),
    )
    assert all(one.verdict is not None for one in family.judged)
    titles = [forest._title(one) for one in family.judged]
    assert len(set(titles)) == len(titles) == 16
    assert titles[2] == "loop \N{MINUS SIGN} static: share of a's kind, at selection.beta=0.5"
    (drawn,) = [figure for figure in forest.draw_all(series, family) if figure.name == "differences"]
    for title in titles[: forest.MAX_PATHS]:
        for line in axes.lines(title, axes.PANEL_CHARACTERS):
            assert line.replace("'", "&apos;").encode() in drawn.svg or line.encode() in drawn.svg


@pytest.mark.parametrize(
    "claimed", ["gap", "the gap between the groups is smaller in the last round than under the control"]
)
def test_a_claim_is_cut_before_its_point(claimed: str) -> None:
    series, family = judged(claim(claimed))
    (drawn, _) = forest.draw_all(series, family)
    for one in family.judged:
        shown = forest._short(one)
        assert len(shown) <= forest.NAME_CHARACTERS and shown.endswith(f" {BETA}={dict(one.cell)[BETA]}")
        assert shown.encode() in drawn.svg and shown.startswith(claimed[:10])


def test_a_point_on_many_axes_keeps_its_end() -> None:
    _, family = judged(claim("the gap is smaller at the end of the loop"))
    one = family.judged[0]
    object.__setattr__(
        one, "name", f"{one.claim.name} generation.temperature=0.7 selection.target_of=kinds selection.beta=0.5"
    )
    shown = forest._short(one)
    assert (
        len(shown) == forest.NAME_CHARACTERS
        and shown.startswith("the gap is ")
        and shown.endswith("selection.beta=0.5")
    )


@pytest.mark.parametrize(
    "labels", [["loop", "static"], ["a" * 22, "b" * 22], ["a" * 26, "b" * 26], [LONG, "static"], ["x" * 120, "static"]]
)
def test_legends_and_titles_stay_on_the_figure(labels: list[str]) -> None:
    with axes.drawing("f", f"{LONG} {LONG}", "", 4.0 + axes.legend_inches(labels)) as (canvas, done):
        axis = canvas.subplots()
        drawn = {label: axis.plot([0, 1], [0, 1])[0] for label in labels}
        axes.dress(axis, LONG)
        axes.legend(canvas, drawn)
    assert done
    canvas.draw_without_rendering()
    heading = canvas._suptitle  # type: ignore[attr-defined]
    for shown in (canvas.legends[0], axis.title, axis._left_title, heading):
        box = shown.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= canvas.bbox.width, shown
    assert axis.get_window_extent().height > 200.0
