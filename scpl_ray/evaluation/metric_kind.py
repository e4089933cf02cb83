"""The record of a metric: what is known of it, and where it is shown."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

Figure = Literal["shares", "preference", "disparity", "diversity", "perplexity"]
Over = Literal["group prompts", "neutral prompts", "each set of prompts", "the round's queries", "steering prompts"]
_PARTS = {"<k>": r"[1-9]\d*", "<term>": r".+", "<task>": r".+"}
"""What a placeholder of a name stands for, as regular expressions."""


@dataclasses.dataclass(frozen=True)
class DriftNeutral:
    """The scale on which a metric of preference is tested between seeds.

    Without any preference the expected share of a kind stays what it was, while its log-odds move away from 0 and every
    distance grows, by chance alone: so it is shares that are averaged over seeds, before anything bent is done to them.
    """

    scale: Literal["share", "distance"]
    """``share``: the share of one kind; ``distance``: the total variation of the *mean* shares from the reference."""
    shares: str
    """The metric, per group, that holds the shares."""
    since_round_0: bool
    """Whether the reference is round 0; else it is equal shares."""
    corrected: bool
    """Whether the shares are corrected for the judge's errors; else they are as it judged."""


@dataclasses.dataclass(frozen=True)
class QualityBehind:
    """The metrics of quality that stand beside a gap, because it also closes where quality falls."""

    per_group: str
    """Per group: the quality of which the gap is."""
    mean: str
    """Its mean over groups."""
    worst: str
    """That of the worst-served group."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricKind:
    """A metric, or a family of metrics whose names share a pattern."""

    name: str
    """In the metrics table; ``<k>`` stands for a number from 1 on, ``<term>`` for the name of a part of the quality,
    ``<task>`` for a task of another package and the name of its score."""
    definition: str
    """One sentence."""
    unit: str
    """``fraction`` for what is counted in parts of a whole."""
    low: float | None = None
    """Smallest possible value; ``None``: there is none."""
    high: float | None = None
    """Largest possible value; ``None``: there is none."""
    per_group: bool = False
    """Whether there is a row per group."""
    overall: bool = False
    """Whether there is a row over all groups."""
    better: Literal["higher", "lower", "neither"] = "neither"
    """The side that is good news by itself."""
    label: str = ""
    """In reports and figures; empty: its name with spaces."""
    column: str = ""
    """Heading of its column in the closing table of a run; empty: it has none."""
    form: str = ".3f"
    """Format of its numbers in that table."""
    line: str = ""
    """Its word in the line that a round or a trial ends with; empty: it is not there."""
    line_form: str = ".3f"
    """Format of its number in that line."""
    study_table: bool = False
    """Whether the table of a study's last rounds has it."""
    change: bool = False
    """Whether reports describe its change since round 0."""
    figure: Figure | None = None
    """The figure of reports that has it."""
    interval_over: Over | None = None
    """The prompts over which it has a 95% within-run interval (:mod:`scpl_ray.evaluation.within_run`); ``None``: it is
    no function of sums over prompts, and has none."""
    drift_neutral: DriftNeutral | None = None
    """How it is tested between seeds; ``None``: as the mean of its own numbers."""
    of_share: DriftNeutral | None = None
    """Of a share of a kind, or its difference from a reference, which is tested as the mean of its own numbers: which
    one, so that undecided answers bound it; ``None``: it is none."""
    of_named_group: str = ""
    """Of a metric of the kind of the group that was largest in round 1, which arms need not have in common: the metric
    of the kind of a group that is named; empty: it is none."""
    quality_behind: QualityBehind | None = None
    """Of gaps, whose fall is good news only if quality did not fall with it; ``None``: it is no gap."""
    chance: str = ""
    """The metric that says how large this one is by chance alone; empty: it is not known, or nothing."""
    span: float = 0.0
    """Smallest height of an axis that shows it, so that noise is not drawn as large as an effect; 0: any."""
    gauge: str = ""
    """Its gauge on the Prometheus endpoint; empty: it has none."""
    gauge_help: str = ""
    """The description of that gauge."""
    analytic: bool = False
    """Whether the analytic mode has it."""
    predicted: bool = False
    """Whether a fit of the analytic mode to a run is judged by how well it predicts it."""

    @property
    def words(self) -> str:
        """Its name for readers."""
        return self.label or self.name.replace("_", " ")

    @property
    def searchable(self) -> bool:
        """Whether a search may optimise it: it has a row over all groups."""
        return self.overall

    @property
    def is_fraction(self) -> bool:
        """Whether it lies in [0, 1]."""
        return (self.low, self.high) == (0.0, 1.0)

    def matches(self, name: str) -> bool:
        """Whether a metric of this name is of this kind."""
        return re.fullmatch(_pattern(self.name), name) is not None


def _pattern(name: str) -> str:
    pattern = re.escape(name)
    for part, stands_for in _PARTS.items():
        pattern = pattern.replace(re.escape(part), stands_for)
    return pattern


def tested(scale: Literal["share", "distance"], reference: str, corrected: bool = False) -> DriftNeutral:
    """How a metric of preference is tested against a reference, ``balanced`` or ``round0``, on shares as they were
    judged or corrected for the judge's errors."""
    shares = "kind_share_corrected" if corrected else "kind_share"
    return DriftNeutral(scale, shares, reference == "round0", corrected)
