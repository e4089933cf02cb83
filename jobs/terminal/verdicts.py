"""What a study says, in the terminal: verdicts on its claims, the paths behind them, and what else differs."""

from __future__ import annotations

import heapq
import textwrap
from collections.abc import Callable

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scpl_ray.evaluation.catalogue import kind_of
from scpl_ray.report import text, words
from scpl_ray.report.data import Part
from scpl_ray.shares import FloatArray
from scpl_ray.studies import verdicts
from scpl_ray.studies.contrasts import contrast_of
from scpl_ray.studies.series import Series, mean_path
from scpl_ray.studies.statistics import Interval, mean_interval
from scpl_ray.studies.study import StudyClaim
from scpl_ray.studies.verdicts import CHANGES, QUALITY, Family

BARS = "▁▂▃▄▅▆▇█"
PATH_ARMS = 16
GROUPS = 8
"""Most groups whose quality is compared: of more, those that differ most."""
WIDTH = 118


def print_verdicts(console: Console, part: Part) -> None:
    """Print the verdict on every claim as a sentence, then the mean paths of what they are about.

    A study of two arms also gets a table of the other metrics and of each group's quality: paired differences,
    described and not tested.
    """
    assert part.study is not None
    family = verdicts.judge(part.series, part.study)
    if lacking := words.unfinished(part):
        console.print(lacking, markup=False, highlight=False)
    for judged in family.judged:
        question = f"{judged.claim.question}: " if judged.claim.question else ""
        console.print(
            f"{words.SYMBOLS[judged.outcome]} {escape(question + judged.name)}: [bold]{judged.outcome}[/]",
            highlight=False,
        )
        said = " ".join(filter(None, (words.sentence(judged, family), words.left_out(judged))))
        console.print(textwrap.indent(textwrap.fill(said, WIDTH), "  "), markup=False)
    console.print(_paths(part, family))
    if len(part.arms) == 2:
        console.print(_differences(part, *part.arms))
    console.print(textwrap.fill(words.condition(part), WIDTH), markup=False, style="dim")


def sparkline(path: FloatArray, low: float, high: float) -> str:
    """A path as one bar per round, scaled between two numbers; a round without a number is a blank."""
    span = high - low or 1.0
    return "".join(
        BARS[min(int((value - low) / span * len(BARS)), len(BARS) - 1)] if np.isfinite(value) else " " for value in path
    )


def _paths(part: Part, family: Family) -> Table:
    """Mean over seeds per round, of every metric that a claim is about, for the arms of the claims."""
    table = Table(title="mean over seeds by round", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("metric", "arm", "round 0", "", "last"):
        table.add_column(name, justify="right" if name in ("round 0", "last") else "left", no_wrap=name != "metric")
    asked = dict.fromkeys((one.claim.metric, one.claim.group) for one in family.judged)
    arms = list(dict.fromkeys(arm for one in family.judged for arm, _ in one.contrast))[:PATH_ARMS]
    for metric, group in asked:
        means = {arm: mean_path(part.series.path(arm, metric, group)).mean for arm in arms}
        numbers = np.concatenate([path[np.isfinite(path)] for path in means.values()])
        if not len(numbers):
            continue
        for arm, path in means.items():
            form = _form(metric)
            bars = sparkline(path, float(numbers.min()), float(numbers.max()))
            name = escape(text.metric_name(metric, group))
            table.add_row(name, escape(arm), form(path[0]), bars, form(path[-1]))
        table.add_section()
    return table


def _differences(part: Part, first: str, second: str) -> Table:
    """What else differs between two arms in the last round, seed by seed; the means are of the seeds that both have."""
    table = Table(
        title=escape(f"{first} {text.MINUS} {second} in the last round")
        + ", per seed: each interval by itself, not tested",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("metric", first, second, "difference", "95% interval"):
        table.add_column(escape(name), justify="left" if name == "metric" else "right")
    found = [_difference(part.series, first, second, metric) for metric in CHANGES]
    of_groups = [_difference(part.series, first, second, QUALITY, g) for g in part.series.groups(first, QUALITY)]
    most = heapq.nlargest(GROUPS, of_groups, key=lambda one: abs(one[1].estimate) if one else -1.0)
    for row in (*found, *(one for one in of_groups if one in most)):
        if row is not None:
            name, own, ends = row
            table.add_row(name, *ends, text.signed(own.estimate), text.interval(own.low, own.high, signed=True))
    return table


def _difference(
    series: Series, first: str, second: str, metric: str, group: str | None = None
) -> tuple[str, Interval, tuple[str, str]] | None:
    """A metric in words, the difference between two arms, and both; ``None``: fewer than two seeds have it in both."""
    claim = StudyClaim(name=metric, metric=metric, group=group, contrast={first: 1.0, second: -1.0})
    numbers = contrast_of(series, tuple(claim.contrast.items()), claim)
    own = numbers.own
    if own is None and len(numbers.paired.seeds) >= 2:
        own = mean_interval(numbers.paired.differences)
    if own is None:
        return None
    form, rows = _form(metric), [series.seeds.index(seed) for seed in numbers.paired.seeds]
    last = [form(series.path(arm, metric, group)[rows, -1].mean()) for arm in (first, second)]
    return escape(text.metric_name(metric, group)), own, (last[0], last[1])


def _form(metric: str) -> Callable[[float], str]:
    kind = kind_of(metric)
    assert kind is not None
    return lambda value: "" if np.isnan(value) else f"{value:{kind.form}}".replace("-", text.MINUS)
