"""Intervals in the figures: where they are drawn, what the page says of them, and axes that hold them."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure as Canvas

from scpl_ray.evaluation.catalogue import kind_of
from scpl_ray.records import Metric
from scpl_ray.report import figures
from scpl_ray.report.data import Part
from scpl_ray.studies import results
from scpl_ray.studies.series import MeanPath, Series, mean_path

ROUNDS = 5


def runs(arms: Mapping[str, int], rounds: int = ROUNDS, within: Iterable[int] | None = None) -> Part:
    """Arms with so many seeds each; in the rounds ``within`` the metric has an interval within the run."""
    bounded = range(rounds + 1) if within is None else within
    table = []
    for arm, seeds in arms.items():
        for seed in range(seeds):
            own = []
            for t in range(rounds + 1):
                value = 0.5 + 0.01 * t + 0.002 * seed
                bounds = (value - 0.05, value + 0.05) if t in bounded else (None, None)
                own.append(Metric(t, None, "quality_mean", value, *bounds))
            table.append((arm, seed, own))
    found = results.table(table)
    return Part("t", "here", None, tuple(arms), found, Series.of(found), {}, (), (), ())


def panel(part: Part) -> Axes:
    """The panel of the quality, as it is drawn."""
    (paths,) = (paths for name, _, paths in figures._plans(part, part.arms) if name == "disparity")
    ((metric, by_arm),) = paths.items()
    axis = Canvas().subplots()
    figures._panel(part, axis, metric, by_arm)
    return axis


def test_an_axis_holds_the_whole_of_every_error_bar() -> None:
    table = results.table([("one", 0, [Metric(t, None, "quality_mean", 0.5, 0.1, 0.9) for t in range(3)])])
    low, high = panel(Part("t", "here", None, ("one",), table, Series.of(table), {}, (), (), ())).get_ylim()
    assert low <= 0.1 and high >= 0.9


def test_bounds_on_one_side_of_a_number_stay_there() -> None:
    """A distance less what counting adds may be below 0, where its bounds cannot be."""
    rows = [Metric(t, None, "total_variation_balanced", -0.02, 0.0, 0.03) for t in range(3)]
    found = Series.of(results.table([("one", 0, rows)]))
    sides = found.within_run("one", "total_variation_balanced")
    assert sides is not None
    np.testing.assert_allclose(sides, [[-0.02, 0.05]] * 3)
    axis = Canvas().subplots()
    path = mean_path(found.path("one", "total_variation_balanced"))
    ends = figures._within_run(axis, path, sides, 0, 1, kind_of("total_variation_balanced"))
    np.testing.assert_allclose(ends, [0.0] * 3 + [0.03] * 3, atol=1e-12)


def test_bounds_within_runs_are_the_mean_over_seeds() -> None:
    table = results.table(
        [("a", s, [Metric(0, None, "quality_mean", 0.5, 0.5 - w, 0.5 + w)]) for s, w in ((0, 0.1), (1, 0.3))]
    )
    sides = Series.of(table).within_run("a", "quality_mean")
    assert sides is not None
    np.testing.assert_allclose(sides, [[0.2, 0.2]])
    assert Series.of(table).within_run("a", "quality_worst") is None


BETWEEN = "95% t-intervals between seeds"
ONE_RUN = "Capped error bars: 95% intervals of one run over its prompts"


@pytest.mark.parametrize(
    ("arms", "rounds", "said", "drawn"),
    [
        (
            {"a": 1},
            5,
            f"Mean between seeds per round; there are no intervals between seeds, as no arm has two. {ONE_RUN}, in "
            "every round that has one; another seed may differ by more.",
            [6],
        ),
        ({"a": 1}, 30, f"{ONE_RUN}, in up to 12 rounds; another seed may differ by more.", [12]),
        (
            {"a": 3, "b": 3},
            5,
            f"Mean between seeds per round; shaded bands: {BETWEEN}. {ONE_RUN}, mean over seeds, in the last round; "
            "they say nothing of other seeds.",
            [1, 1],
        ),
        (
            {"a": 3, "b": 1},
            5,
            f"shaded bands: {BETWEEN} (none where an arm has one seed). {ONE_RUN}, of an arm with one seed in every "
            "round that has one, of others mean over seeds, in the last round; they say nothing of other seeds.",
            [1, 6],
        ),
        (
            {f"a{i}": 3 for i in range(5)},
            5,
            f"bars without caps: {BETWEEN}. With more than 4 arms, intervals of one run are drawn for no arm with "
            "several seeds; they are in report.json.",
            [],
        ),
        (
            {f"a{i}": 3 for i in range(5)},
            12,
            f"bars without caps: {BETWEEN}, in the last round where there are more than 12. With more than 4 arms",
            [],
        ),
        (
            {**{f"a{i}": 3 for i in range(4)}, "lone": 1},
            5,
            f"(none where an arm has one seed). {ONE_RUN}, in every round that has one; another seed "
            "may differ by more. With more than 4 arms, intervals of one run are drawn for no arm with several seeds",
            [6],
        ),
    ],
)
def test_what_is_said_of_intervals_is_what_is_drawn(
    arms: dict[str, int], rounds: int, said: str, drawn: Sequence[int]
) -> None:
    part = runs(arms, rounds)
    assert said in figures.described(part, part.arms)
    bars = [one for one in panel(part).containers if isinstance(one, ErrorbarContainer)]
    assert [len(one.lines[2][0].get_segments()) for one in bars] == drawn


def test_without_intervals_within_runs_none_are_spoken_of() -> None:
    assert "one run" not in figures.described(runs({"a": 3}, within=()), ["a"])
    assert "one run" not in figures.described(
        runs({f"a{i}": 3 for i in range(5)}, within=()), [f"a{i}" for i in range(5)]
    )


def test_bars_between_seeds_stand_in_the_last_round_that_has_one() -> None:
    axis = Canvas().subplots()
    path = MeanPath(*(np.append(np.linspace(low, low + 0.2, 20), np.nan) for low in (0.5, 0.4, 0.6)), np.full(21, 3))
    figures._line(axis, path, 0, 5)
    (drawn,) = axis.collections
    (segment,) = drawn.get_segments()
    assert segment[:, 1].tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("groups", "title"),
    [
        (2, "Share of queries \\(g1: the rest\\)"),
        (4, "Share of queries<"),
        (7, "Share of queries \\(the first 4 of 7 groups;.*report.json\\)"),
    ],
)
def test_the_figure_of_shares_says_which_groups_it_leaves_out(groups: int, title: str) -> None:
    rows = [Metric(t, f"g{k}", "share", 1 / groups) for t in range(2) for k in range(groups)]
    table = results.table([("a", 0, rows)])
    part = Part("t", "here", None, ("a",), table, Series.of(table), {}, (), (), ())
    (figure,) = figures.draw_all(part, ["a"])
    assert re.search(title, figure.svg.decode(), re.DOTALL)
    assert figure.svg.decode().count(">share, g") == min(groups - (groups == 2), 4)
