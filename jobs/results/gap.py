"""Under which feedback, reward and data cycle the disparate gap narrows or widens, in the analytic mode without chance.

A diagram has two axes of config keys and a panel for each of some further keys. At every point of it the loop and its
static control run as the mean field (:mod:`scpl_ray.analytic.draws`), and what became of the gap is one letter:

=====  ================================================================================================
``+``  the gap is wider
``=``  the gap is the same within :data:`TOLERANCE`
``g``  the gap is narrower by gain: the worst-served group gained and the mean did not fall
``m``  the gap is narrower, the worst-served group gained and the mean fell
``l``  the gap is narrower because all lost: the mean or the worst-served group lost and no group gained
``u``  the gap is narrower, and none of these is why
=====  ================================================================================================

``m`` and ``l`` are levelled down.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq

from jobs.driver import experiments
from scpl_ray.analytic import linear
from scpl_ray.analytic.loop import simulate_grid
from scpl_ray.analytic.model import spectral_radius
from scpl_ray.analytic.paths import Paths
from scpl_ray.config import Experiment, loading
from scpl_ray.evaluation.disparity import ALL_LOST, GAIN, UNCLEAR, WORST_GAINED, cause_of
from scpl_ray.shares import FloatArray

TOLERANCE = 0.005
"""Changes of a gap, a mean or a group's quality that are smaller count as none."""
WIDER, SAME = "+", "="
LETTERS = {GAIN: "g", WORST_GAINED: "m", ALL_LOST: "l", UNCLEAR: "u"}
STATIC = {"feedback.rule": "static"}
DECIMALS = 3
LEAST, ROUNDING = 0.01, 1e-6
"""The smallest sensitivity at which a border is looked for, and what counts as no growth."""
SAID = ("since", "static", "gap", "share")
"""What is said of a point in a round: the letters of both comparisons, the gap, the first group's share."""


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a diagram."""

    label: str
    values: tuple[float, ...]
    keys: Any
    """Maps a value to config keys."""


@dataclasses.dataclass(frozen=True, eq=False)
class Diagram:
    """Points on two axes, and panels beside each other."""

    name: str
    title: str
    x: Axis
    y: Axis
    keys: Mapping[str, Any]
    """Keys of all points."""
    panels: Mapping[str, Mapping[str, Any]]
    """Further keys by the panel's name."""
    rounds: tuple[int, ...]
    """Rounds in which the gap is looked at."""
    since: int
    """The round that a loop is compared with; the other comparison is with the static control in the same round."""

    def experiment(self, panel: str, x: float, y: float, further: Mapping[str, Any] | None = None) -> Experiment:
        """The loop at one point."""
        keys = {"loop.rounds": max(self.rounds), **self.keys, **self.panels[panel], **self.x.keys(x), **self.y.keys(y)}
        return experiments.build(loading.overlay({}, {**keys, **(further or {})}), f"{self.name}, {panel}")


def _span(first: float, last: float, n: int) -> tuple[float, ...]:
    return tuple(np.linspace(first, last, n).round(6).tolist())


BETA = 0.5
"""Temperature of rejection sampling in all diagrams, the default."""
SENSITIVITY = Axis("sensitivity of the users to quality, beta_u", _span(0, 12, 13), lambda x: {"feedback.beta": x})
PULL = Axis(
    "pull of the users' choices, G / beta", _span(0, 4, 11), lambda y: {"analytic.choice_gain": round(y * BETA, 6)}
)
REACTING = Diagram(
    "reacting",
    "Users who react to quality",
    SENSITIVITY,
    PULL,
    {"feedback.rule": "softmax", "selection.beta": BETA},
    {
        "incremental": {},
        "retraining": {"loop.kind": "retraining"},
        "incremental, accumulated": {"cycle.kind": "accumulate"},
        "incremental, half real": {"cycle.real_share": 0.5},
    },
    (5, 200),
    1,
)
SHIFTED = Diagram(
    "shifted",
    "Users who are shifted by a schedule",
    Axis(
        "share of the first group in round 5 (0.6 in round 1)",
        _span(0.1, 0.95, 18),
        lambda x: {"feedback.step": [round((x - 0.6) / 4, 6), round((0.6 - x) / 4, 6)]},
    ),
    Axis(
        "how much easier the first group is to serve, q0_1 - q0_2",
        _span(-0.2, 0.2, 9),
        lambda y: {"analytic.quality_ceiling": [round(0.8 + y / 2, 6), round(0.8 - y / 2, 6)]},
    ),
    {"feedback.rule": "schedule"},
    {
        "learning exponent 0.2": {},
        "learning exponent 0.02": {"analytic.learning_exponent": 0.02},
    },
    (5,),
    0,
)
DECODED = Diagram(
    "decoded",
    "Decoding temperature",
    Axis("decoding temperature", _span(0.85, 1.3, 10), lambda x: {"generation.temperature": x}),
    PULL,
    {"feedback.rule": "softmax", "feedback.beta": 4.0, "selection.beta": BETA},
    {"incremental": {}, "retraining": {"loop.kind": "retraining"}},
    (5, 30),
    1,
)
DIAGRAMS = (REACTING, SHIFTED, DECODED)


def computed(diagram: Diagram) -> dict[str, Any]:
    """All panels of a diagram, as JSON: per panel and round the letters of both comparisons, and the numbers."""
    points = [(x, y) for y in diagram.y.values for x in diagram.x.values]
    width = len(diagram.x.values)
    facts: dict[str, Any] = {"x": list(diagram.x.values), "y": list(diagram.y.values), "panels": {}}
    for panel in diagram.panels:
        found = at(diagram, panel, points)
        facts["panels"][panel] = {
            str(t): {name: _rows([cell[str(t)][name] for cell in found], width) for name in SAID}
            for t in diagram.rounds
        }
    return facts


def _rows(cells: Sequence[Any], width: int) -> list[Any]:
    """Cells as rows of the diagram, from its lowest; letters are joined."""
    rows = [list(cells[i : i + width]) for i in range(0, len(cells), width)]
    return ["".join(row) for row in rows] if isinstance(cells[0], str) else rows


def at(diagram: Diagram, panel: str, points: Sequence[tuple[float, float]]) -> list[dict[str, dict[str, Any]]]:
    """What became of the gap at some points of a panel, by round: two letters, the gap, the first group's share."""
    loops = [diagram.experiment(panel, x, y) for x, y in points]
    controls = [diagram.experiment(panel, x, y, STATIC) for x, y in points]
    found = simulate_grid([*loops, *controls], chance=False)
    return [
        {str(t): _cell(loop, control, t, diagram.since) for t in diagram.rounds}
        for loop, control in zip(found[: len(loops)], found[len(loops) :], strict=True)
    ]


def _cell(loop: Paths, control: Paths, t: int, since: int) -> dict[str, Any]:
    quality = loop.quality[0]
    return {
        "since": letter(quality[since], quality[t]),
        "static": letter(control.quality[0, t], quality[t]),
        "gap": round(float(np.ptp(quality[t])), DECIMALS),
        "share": round(float(loop.shares[0, t, 0]), DECIMALS),
    }


def letter(before: FloatArray, after: FloatArray) -> str:
    """What became of the gap, from the quality of every group, shape (K,) each."""
    gap = _sign(np.ptp(after) - np.ptp(before))
    if gap >= 0:
        return WIDER if gap else SAME
    mean, worst = after.mean() - before.mean(), after.min() - before.min()
    gained = bool((after - before).max() > TOLERANCE)
    return LETTERS[str(cause_of(gap, _sign(mean), _sign(worst), gained, mean))]


def _sign(change: float) -> int:
    return int(np.sign(change)) if abs(change) > TOLERANCE else 0


def borders(panel: str, y: float) -> dict[str, float | None]:
    """The sensitivities at which equal shares stop attracting, at one pull of the first diagram, by the closed form.

    ``shares``: while the kinds stand still; ``all``: when they do not. 0 where nobody may be sensitive; ``None``: where
    the closed form does not hold, which is that of the newest data.
    """
    equal = {"groups.shares": [0.5, 0.5], "loop.rounds": 1}
    found: dict[str, float | None] = {"shares": _root(lambda x: _alone(REACTING.experiment(panel, x, y)) - 1.0)}
    point = REACTING.experiment(panel, 1.0, y, equal)
    if point.cycle.kind != "replace":
        return {**found, "all": None}
    rows = _rows_trained_on(simulate_grid([point], chance=False)[0])

    def beyond(x: float) -> float:
        return float(spectral_radius(linear.two_group_map(REACTING.experiment(panel, x, y), rows))) - 1.0

    return {**found, "all": _root(beyond)}


def _root(beyond: Callable[[float], float]) -> float:
    """The sensitivity at which an increasing function is 0; 0 where it is not below 0 for the smallest."""
    return 0.0 if beyond(LEAST) >= -ROUNDING else float(brentq(beyond, LEAST, 1e3, xtol=1e-3))


def _alone(point: Experiment) -> float:
    """By what a round multiplies a lean of the shares while the kinds stand still."""
    return linear.held(point) + linear.shares_alone(point)


def _rows_trained_on(path: Paths) -> float:
    loop = path.experiment
    completions = loop.queries.prompts_per_round * loop.generation.samples_per_prompt
    return float(path.kept_fraction[0, 1] * completions / (1.0 - loop.cycle.real_share))


POINTS = (2.0, 4.0, 8.0, 12.0)
"""Sensitivities of the table, at the default pull."""
DEFAULT_PULL = 2.0


def points(panels: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of the page's table: fixed points and gaps of some sensitivities, for panels of the first diagram."""
    rows = []
    for panel in panels:
        loops = [REACTING.experiment(panel, x, DEFAULT_PULL) for x in POINTS]
        for x, loop, path in zip(POINTS, loops, simulate_grid(loops, chance=False), strict=True):
            last = max(REACTING.rounds)
            accumulates = loop.cycle.kind == "accumulate"
            whole = None if accumulates else linear.two_group_map(loop, _rows_trained_on(path))
            rows.append(
                {
                    "panel": panel,
                    "sensitivity": x,
                    "rho_shares": None if accumulates else round(_alone(loop), DECIMALS),
                    "rho": None if whole is None else round(float(spectral_radius(whole)), DECIMALS),
                    "share": [round(float(path.shares[0, t, 0]), DECIMALS) for t in (1, 5, last)],
                    "gap": [round(float(np.ptp(path.quality[0, t])), DECIMALS) for t in (1, 5, last)],
                    "without": [
                        round(float(np.ptp(path.quality_without_own_kind[0, t])), DECIMALS) for t in (1, 5, last)
                    ],
                    "worst": [round(float(path.quality[0, t].min()), DECIMALS) for t in (1, 5, last)],
                }
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of the page in Markdown."""
    lines = [
        "| loop, data | beta_u | rho, shares | rho, all | share of the first group | gap | without own kind | worst |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rho = " | ".join("" if row[name] is None else f"{row[name]:.3f}" for name in ("rho_shares", "rho"))
        names = ("share", "gap", "without", "worst")
        paths = " | ".join(", ".join(f"{value:.3f}" for value in row[name]) for name in names)
        lines.append(f"| {row['panel']} | {row['sensitivity']:g} | {rho} | {paths} |")
    return "\n".join(lines)
