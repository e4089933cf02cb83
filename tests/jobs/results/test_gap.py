"""The page on the disparate gap: its committed numbers are those of the code."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from jobs.results import gap
from jobs.results.drawing import WORDS
from scpl_ray.analytic.fixed_points import GroupsAlone
from tests.docs.pages import DOCS

COMMITTED = json.loads((DOCS / "results" / "gap.json").read_bytes())
SOME = 4
"""Points of each panel that are computed again."""


@pytest.mark.parametrize(
    ("diagram", "panel"), [(d, panel) for d in gap.DIAGRAMS for panel in d.panels], ids=lambda x: getattr(x, "name", x)
)
def test_some_points_of_every_panel_are_what_is_committed(diagram: gap.Diagram, panel: str) -> None:
    facts = COMMITTED[diagram.name]
    assert (facts["x"], facts["y"]) == (list(diagram.x.values), list(diagram.y.values))
    there = [(i, j) for j in range(len(facts["y"])) for i in range(len(facts["x"]))]
    some = [there[k] for k in np.linspace(0, len(there) - 1, SOME).astype(int)]
    found = gap.at(diagram, panel, [(diagram.x.values[i], diagram.y.values[j]) for i, j in some])
    for (i, j), cell in zip(some, found, strict=True):
        for t in diagram.rounds:
            committed = facts["panels"][panel][str(t)]
            assert_allclose(cell[str(t)]["gap"], committed["gap"][j][i], atol=0.002)
            assert_allclose(cell[str(t)]["share"], committed["share"][j][i], atol=0.002)
            for name in ("since", "static"):
                assert cell[str(t)][name] == committed[name][j][i]


def test_the_table_of_the_page_is_the_committed_one_and_that_is_computed() -> None:
    panel = "incremental"
    assert gap.points([panel]) == [row for row in COMMITTED["points"] if row["panel"] == panel]
    assert gap.table(COMMITTED["points"]) in (DOCS / "results" / "gap.md").read_text()


@pytest.mark.parametrize(
    ("before", "after", "letter"),
    [
        ((0.9, 0.7), (0.9, 0.6), "+"),
        ((0.9, 0.7), (0.9, 0.7), "="),
        ((0.9, 0.7), (0.902, 0.7), "="),
        ((0.9, 0.7), (0.85, 0.8), "g"),
        ((0.9, 0.7), (0.75, 0.75), "m"),
        ((0.9, 0.7), (0.7, 0.65), "l"),
        ((0.9, 0.7), (0.8, 0.7), "l"),
        ((0.9, 0.8, 0.7), (0.85, 0.803, 0.703), "l"),
        ((0.9, 0.8, 0.7), (0.85, 0.84, 0.703), "u"),
    ],
)
def test_what_became_of_a_gap(before: tuple[float, ...], after: tuple[float, ...], letter: str) -> None:
    assert gap.letter(np.array(before), np.array(after)) == letter
    assert letter in WORDS


def test_the_border_of_the_figure_is_where_equal_shares_stop_attracting() -> None:
    facts = COMMITTED["reacting"]
    at = facts["y"].index(2.0)
    for panel in ("incremental", "incremental, half real"):
        found = gap.borders(panel, 2.0)
        assert found == pytest.approx(facts["borders"][panel][at], abs=2e-3)
        rest = GroupsAlone(gap.REACTING.experiment(panel, found["shares"], 2.0)).equal_rest()
        assert rest is not None and rest.rho == pytest.approx(1.0, abs=1e-3)
    # nothing brings the kinds of an incremental loop back, and the closed form is that of the newest data
    assert facts["borders"]["incremental"][at]["all"] == 0.0
    assert facts["borders"]["incremental, accumulated"][at]["all"] is None
