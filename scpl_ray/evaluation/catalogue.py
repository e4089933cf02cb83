"""What every metric is: its definition and unit, and where it is shown.

What computes a metric names it (:mod:`scpl_ray.evaluation.measure`); everything else asks here. Tables, figures and
lists show metrics in the order of :data:`CATALOGUE`. ``docs/metrics.md`` is :func:`markdown`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Literal

Figure = Literal["shares", "preference", "disparity", "diversity", "perplexity"]
PREFERENCE = "preference_log_odds_balanced"
"""The preference bias that is told of where one number is to do."""
_PARTS = {"<k>": r"[1-9]\d*", "<term>": r".+"}
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
    """In the metrics table; ``<k>`` stands for a number from 1 on, ``<term>`` for the name of a part of the quality."""
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
    drift_neutral: DriftNeutral | None = None
    """How it is tested between seeds; ``None``: as the mean of its own numbers."""
    quality_behind: QualityBehind | None = None
    """Of gaps, whose fall is good news only if quality did not fall with it; ``None``: it is no gap."""
    gauge: str = ""
    """Its gauge on the Prometheus endpoint; empty: it has none."""
    gauge_help: str = ""
    """The description of that gauge."""
    analytic: bool = False
    """Whether the analytic mode has it."""

    @property
    def words(self) -> str:
        """Its name for readers."""
        return self.label or self.name.replace("_", " ")

    @property
    def searchable(self) -> bool:
        """Whether a search may optimise it: it has a row over all groups."""
        return self.overall

    @property
    def is_gap(self) -> bool:
        """Whether its fall is good news only if quality did not fall with it."""
        return self.quality_behind is not None

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


QUALITY = QualityBehind("quality", "quality_mean", "quality_worst")


def _tested(scale: Literal["share", "distance"], reference: str, corrected: bool = False) -> DriftNeutral:
    return DriftNeutral(scale, "kind_share_corrected" if corrected else "kind_share", reference == "round0")


_fraction = functools.partial(MetricKind, unit="fraction", low=0.0, high=1.0)
_log_odds = functools.partial(MetricKind, unit="log-odds")

CATALOGUE = (
    _fraction(
        name="share",
        definition="Share of the round's queries that the group sends (in round 0: of round 1's).",
        per_group=True,
        column="share",
        figure="shares",
        gauge="scpl_share",
        gauge_help="Share of the queries that a group sends.",
        analytic=True,
    ),
    MetricKind(
        name="reward",
        definition="Mean reward of the round's completions for the group.",
        unit="reward",
        per_group=True,
        better="higher",
    ),
    _fraction(
        name="win_rate",
        definition="Mean logistic(reward): how often such an answer beats an average one (Bradley-Terry).",
        per_group=True,
        better="higher",
        analytic=True,
    ),
    _fraction(
        name="kept_share",
        definition="Weighted share of the group in what selection kept.",
        per_group=True,
        analytic=True,
    ),
    _log_odds(
        name=PREFERENCE,
        drift_neutral=_tested("share", "balanced"),
        line="preference",
        line_form="+.2f",
        definition="Log-odds, above equal shares, of the kind of the group that was largest in round 1, on neutral "
        "prompts.",
        overall=True,
        label="preference log-odds above balance",
        column="preference\nlog-odds",
        form="+.3f",
        change=True,
        figure="preference",
        gauge="scpl_preference_log_odds",
        gauge_help="Preference bias: balanced log-odds of the first kind on neutral prompts.",
        analytic=True,
    ),
    _log_odds(
        name="preference_log_odds_round0",
        drift_neutral=_tested("share", "round0"),
        definition="The same log-odds, above those of round 0.",
        overall=True,
        label="preference log-odds since round 0",
        column="since\nround 0",
        form="+.3f",
        study_table=True,
        figure="preference",
        analytic=True,
    ),
    MetricKind(
        name="total_variation_balanced",
        unit="fraction",
        high=1.0,
        drift_neutral=_tested("distance", "balanced"),
        definition="Total variation distance of the kinds' shares from equal shares, less what counting so few "
        "answers adds: without a distance it is 0 on average, and may fall below.",
        overall=True,
        better="lower",
        analytic=True,
    ),
    MetricKind(
        name="total_variation_round0",
        unit="fraction",
        high=1.0,
        drift_neutral=_tested("distance", "round0"),
        definition="Total variation distance of the kinds' shares from those of round 0, less what counting so few "
        "answers adds to it.",
        overall=True,
        better="lower",
        analytic=True,
    ),
    MetricKind(
        name="kl_balanced",
        drift_neutral=_tested("distance", "balanced"),
        definition="Kullback-Leibler divergence of the kinds' smoothed shares from equal shares, less what counting "
        "adds, (K - 1) / (2 n) with n answers of a kind.",
        unit="nats",
        overall=True,
        better="lower",
    ),
    MetricKind(
        name="kl_round0",
        drift_neutral=_tested("distance", "round0"),
        definition="Kullback-Leibler divergence of the kinds' smoothed shares from those of round 0, less what "
        "counting adds in both rounds: finite where round 0 lacked a kind.",
        unit="nats",
        overall=True,
        better="lower",
    ),
    _log_odds(
        name="preference_log_odds_balanced_corrected",
        drift_neutral=_tested("share", "balanced", corrected=True),
        definition="The log-odds above equal shares, corrected for the judge's known errors.",
        overall=True,
    ),
    _log_odds(
        name="preference_log_odds_round0_corrected",
        drift_neutral=_tested("share", "round0", corrected=True),
        definition="The log-odds above those of round 0, corrected for the judge's known errors.",
        overall=True,
    ),
    MetricKind(
        name="undecided_count",
        definition="Answers to neutral prompts that are of no kind.",
        unit="answers",
        low=0.0,
        overall=True,
        better="lower",
    ),
    MetricKind(
        name="kind_count",
        definition="Answers to neutral prompts that are of the group's kind.",
        unit="answers",
        low=0.0,
        per_group=True,
    ),
    _fraction(
        name="kind_share",
        definition="Share of the group's kind among the answers to neutral prompts that are of any kind.",
        per_group=True,
        analytic=True,
    ),
    _fraction(
        name="kind_share_low",
        definition="Share of the group's kind if all undecided answers were of the other kinds.",
        per_group=True,
    ),
    _fraction(
        name="kind_share_high",
        definition="Share of the group's kind if all undecided answers were of it.",
        per_group=True,
    ),
    _fraction(
        name="kind_share_corrected",
        definition="The share of the group's kind, corrected for the judge's known errors.",
        per_group=True,
    ),
    MetricKind(
        name="kind_share_corrected_sd",
        definition="Standard error of that share: of counting the answers, and of the texts on which the judge's "
        "errors were counted.",
        unit="fraction",
        low=0.0,
        per_group=True,
    ),
    _log_odds(
        name="kind_log_odds_balanced",
        drift_neutral=_tested("share", "balanced"),
        definition="Smoothed log-odds of the group's kind above equal shares.",
        per_group=True,
    ),
    _log_odds(
        name="kind_log_odds_round0",
        drift_neutral=_tested("share", "round0"),
        definition="Smoothed log-odds of the group's kind above those of round 0.",
        per_group=True,
    ),
    MetricKind(
        name="kind_difference_balanced",
        definition="Share of the group's kind minus the equal share.",
        unit="fraction",
        low=-1.0,
        high=1.0,
        per_group=True,
    ),
    MetricKind(
        name="kind_difference_round0",
        definition="Share of the group's kind minus that of round 0.",
        unit="fraction",
        low=-1.0,
        high=1.0,
        per_group=True,
    ),
    _fraction(
        name="quality",
        definition="Mean quality of the answers to the group's held-out prompts.",
        per_group=True,
        better="higher",
        analytic=True,
    ),
    _fraction(
        name="own_kind_share",
        definition="Share of the answers to the group's held-out prompts that are of the kind the group prefers.",
        per_group=True,
        better="higher",
        analytic=True,
    ),
    _fraction(
        name="disparate_gap",
        line="gap",
        definition="Best minus worst mean quality over the groups.",
        overall=True,
        better="lower",
        column="quality\ngap",
        study_table=True,
        change=True,
        figure="disparity",
        quality_behind=QUALITY,
        gauge="scpl_disparate_gap",
        gauge_help="Best minus worst quality over the groups.",
        analytic=True,
    ),
    _fraction(
        name="disparate_gap_null",
        definition="Mean gap after the prompts were dealt to the groups at random: what chance alone makes.",
        overall=True,
        column="gap by\nchance",
        analytic=True,
    ),
    _fraction(
        name="disparate_gap_p",
        definition="Share of such random deals whose gap is at least the measured one.",
        overall=True,
    ),
    _fraction(
        name="disparate_std",
        definition="Standard deviation of the mean quality between the groups.",
        overall=True,
        better="lower",
        quality_behind=QUALITY,
    ),
    _fraction(
        name="disparate_ratio",
        definition="Worst mean quality over the groups divided by the best; 1 where the best is 0.",
        overall=True,
        better="higher",
    ),
    _fraction(
        name="quality_worst",
        definition="Mean quality of the worst-served group.",
        overall=True,
        better="higher",
        label="quality of the worst-served group",
        column="worst\nquality",
        study_table=True,
        change=True,
        figure="disparity",
        analytic=True,
    ),
    _fraction(
        name="quality_mean",
        line="quality",
        definition="Mean over the groups of their mean quality.",
        overall=True,
        better="higher",
        label="mean quality",
        column="mean\nquality",
        study_table=True,
        change=True,
        figure="disparity",
        analytic=True,
    ),
    _fraction(
        name="distinct_1",
        definition="Distinct tokens among all of the group's answers (overall: of those to neutral prompts), at a "
        "fixed token budget.",
        per_group=True,
        overall=True,
        better="higher",
    ),
    _fraction(
        name="distinct_2",
        definition="Distinct 2-grams among all of the same answers, at the same token budget.",
        per_group=True,
        overall=True,
        better="higher",
        label="distinct 2-grams",
        column="distinct\n2-grams",
        study_table=True,
        change=True,
        figure="diversity",
    ),
    _fraction(
        name="self_bleu",
        definition="Likeness of the answers to each other, of a fixed number of them.",
        per_group=True,
        overall=True,
        better="lower",
        label="self-BLEU",
        figure="diversity",
    ),
    MetricKind(
        name="perplexity_round0",
        definition="Perplexity of the answers under the base model.",
        unit="perplexity",
        low=1.0,
        per_group=True,
        overall=True,
        label="perplexity under the base model",
        column="perplex-\nity",
        form=".2f",
        change=True,
        figure="perplexity",
    ),
    MetricKind(
        name="perplexity_current",
        definition="Perplexity of the answers under the policy that wrote them, where a collapsing policy finds its "
        "own answers ever more likely.",
        unit="perplexity",
        low=1.0,
        per_group=True,
        overall=True,
        label="perplexity under the policy itself",
        figure="perplexity",
    ),
    _fraction(
        name="kept_fraction",
        line="kept",
        line_form=".0%",
        definition="Completions that selection kept, of its candidates.",
        overall=True,
        column="kept",
        form=".0%",
        study_table=True,
        analytic=True,
    ),
    MetricKind(
        name="effective_sample_size",
        definition="Effective sample size of the weights of what selection kept.",
        unit="examples",
        low=0.0,
        overall=True,
        better="higher",
    ),
    _fraction(
        name="duplicate_fraction",
        definition="Duplicates among the candidates of selection.",
        overall=True,
        better="lower",
    ),
    _fraction(
        name="pass_at_<k>",
        definition="Where answers are right or wrong: the chance that one of k is right, for k = 1, 2, 4, ... up to "
        "the samples per prompt.",
        per_group=True,
        overall=True,
        better="higher",
    ),
    _fraction(
        name="quality_<term>",
        definition="Mean of a named part of the quality over the answers to the group's held-out prompts.",
        per_group=True,
    ),
)
"""Every metric; the exact names before the patterns that would match them too."""


def kind_of(name: str) -> MetricKind | None:
    """The kind of a metric; ``None`` for one that no run measures."""
    return next((kind for kind in CATALOGUE if kind.matches(name)), None)


def words(name: str) -> str:
    """A metric in words; its name with spaces where it is not in the catalogue or is one of a family."""
    kind = kind_of(name)
    return kind.words if kind is not None and kind.name == name else name.replace("_", " ")


def searchable() -> tuple[str, ...]:
    """Names and patterns of what a search may optimise."""
    return tuple(kind.name for kind in CATALOGUE if kind.searchable)


def markdown() -> str:
    """The page ``docs/metrics.md``."""
    lines = [
        "# Metrics",
        "",
        "<!-- Written by scpl_ray.evaluation.catalogue.markdown(); change the catalogue, not this page. -->",
        "",
        "The rows of a round's `metrics` table: one number per round, group and metric. A number that does not exist",
        "(nothing is kept in round 0, no answer is of any kind after a collapse) has no row.",
        "",
        "| Metric | What it is | Unit | Range | Rows | Better | Shown in |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in CATALOGUE:
        low, high = ("" if bound is None else f"{bound:g}" for bound in (kind.low, kind.high))
        span = f"{low} to {high}" if low and high else f"from {low}" if low else "any"
        rows = " and ".join(text for there, text in ((kind.per_group, "per group"), (kind.overall, "overall")) if there)
        shown = ", ".join(
            text
            for there, text in (
                (kind.column, "closing table"),
                (kind.study_table, "study table"),
                (kind.change, "report: changes"),
                (kind.figure, f"report: figure {kind.figure}"),
                (kind.searchable, "search"),
                (kind.gauge, f"Prometheus `{kind.gauge}`"),
                (kind.analytic, "analytic mode"),
            )
            if there
        )
        lines.append(f"| `{kind.name}` | {kind.definition} | {kind.unit} | {span} | {rows} | {kind.better} | {shown} |")
    return "\n".join(lines) + "\n"
