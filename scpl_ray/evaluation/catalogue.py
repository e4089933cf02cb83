"""What every metric is: its definition and unit, and where it is shown.

What computes a metric names it (:mod:`scpl_ray.evaluation.measure`); everything else asks here. Tables, figures and
lists show metrics in the order of :data:`CATALOGUE`.
"""

from __future__ import annotations

import functools

from scpl_ray.evaluation.metric_kind import MetricKind, QualityBehind, tested

PREFERENCE = "preference_log_odds_balanced"
"""The preference bias that is told of where one number is to do."""
QUALITY = QualityBehind("quality", "quality_mean", "quality_worst")
WITHOUT_OWN_KIND = QualityBehind(*(f"{name}_without_own_kind" for name in ("quality", "quality_mean", "quality_worst")))

_fraction = functools.partial(MetricKind, unit="fraction", low=0.0, high=1.0, span=0.1)
_on_groups = functools.partial(_fraction, interval_over="group prompts")
_on_neutral = functools.partial(MetricKind, interval_over="neutral prompts")
_kind_fraction = functools.partial(_on_neutral, unit="fraction", low=0.0, high=1.0, span=0.1, per_group=True)
_log_odds = functools.partial(_on_neutral, unit="log-odds", span=1.0)
_of_largest = functools.partial(_log_odds, overall=True)
_distance = functools.partial(_on_neutral, overall=True, better="lower")
_perplexity = functools.partial(
    MetricKind, unit="perplexity", low=1.0, span=1.0, per_group=True, overall=True, interval_over="each set of prompts"
)
_apart = functools.partial(MetricKind, unit="nats per token", low=0.0, overall=True, better="lower")

CATALOGUE = (
    _fraction(
        name="share",
        span=0.2,
        definition="Share of the round's queries that the group sends (in round 0: of round 1's).",
        per_group=True,
        column="share",
        figure="shares",
        gauge="scpl_share",
        gauge_help="Share of the queries that a group sends.",
        analytic=True,
        predicted=True,
    ),
    MetricKind(
        name="reward",
        interval_over="the round's queries",
        definition="Mean reward of the round's completions for the group.",
        unit="reward",
        per_group=True,
        better="higher",
    ),
    _fraction(
        name="win_rate",
        interval_over="the round's queries",
        definition="Mean logistic(reward), 0.5 for a reward of 0. How often an answer beats one of reward 0 only where "
        "a unit of reward is a nat of log-odds; the task's own reward model is scaled to a standard deviation of 1.",
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
    _fraction(
        name="loss_share",
        definition="Share of the training loss that the group's examples have, of those of any group.",
        per_group=True,
        column="loss",
        form=".0%",
    ),
    _fraction(
        name="loss_share_real",
        definition="Share of the training loss that real data have.",
        overall=True,
        column="loss\nreal",
        form=".0%",
    ),
    _of_largest(
        name=PREFERENCE,
        of_named_group="kind_log_odds_balanced",
        drift_neutral=tested("share", "balanced"),
        line="preference",
        line_form="+.2f",
        definition="Log-odds, above equal shares, of the kind of the group that was largest in round 1, on neutral "
        "prompts.",
        label="preference log-odds above balance",
        column="preference\nlog-odds",
        form="+.3f",
        change=True,
        figure="preference",
        gauge="scpl_preference_log_odds",
        gauge_help="Preference bias: balanced log-odds of the first kind on neutral prompts.",
        analytic=True,
        predicted=True,
    ),
    _of_largest(
        name="preference_log_odds_round0",
        of_named_group="kind_log_odds_round0",
        drift_neutral=tested("share", "round0"),
        definition="The same log-odds, above those of round 0.",
        label="preference log-odds since round 0",
        column="since\nround 0",
        form="+.3f",
        study_table=True,
        figure="preference",
        analytic=True,
    ),
    _of_largest(
        name="preference_soft_balanced",
        of_named_group="kind_soft_balanced",
        definition="Soft preference: mean over the answers to neutral prompts of the judge's calibrated log-odds that "
        "the text is of the kind of the group that was largest in round 1, at even odds beforehand; only of a judge "
        "that errs.",
        label="soft preference",
        column="soft\npreference",
        form="+.3f",
        change=True,
        figure="preference",
    ),
    _of_largest(
        name="preference_soft_round0",
        of_named_group="kind_soft_round0",
        definition="Soft preference minus that of round 0, on the same prompts.",
        label="soft preference since round 0",
        figure="preference",
    ),
    _distance(
        name="total_variation_balanced",
        unit="fraction",
        high=1.0,
        span=0.2,
        drift_neutral=tested("distance", "balanced"),
        definition="Total variation distance of the kinds' shares from equal shares, less what counting so few "
        "answers adds: without a distance it is 0 on average, and may fall below.",
        analytic=True,
    ),
    _distance(
        name="total_variation_round0",
        unit="fraction",
        high=1.0,
        span=0.2,
        drift_neutral=tested("distance", "round0"),
        definition="Total variation distance of the kinds' shares from those of round 0, less what chance adds in the "
        "answers that differ: what both rounds answer alike to a prompt adds nothing.",
        analytic=True,
    ),
    _distance(
        name="kl_balanced",
        span=0.1,
        drift_neutral=tested("distance", "balanced"),
        definition="Kullback-Leibler divergence of the kinds' smoothed shares from equal shares, less what counting "
        "adds, (K - 1) / (2 n) with n answers of a kind.",
        unit="nats",
    ),
    _distance(
        name="kl_round0",
        span=0.1,
        drift_neutral=tested("distance", "round0"),
        definition="Kullback-Leibler divergence of the kinds' smoothed shares from those of round 0, less what "
        "chance adds in the answers that differ: finite where round 0 lacked a kind.",
        unit="nats",
    ),
    _of_largest(
        name="preference_log_odds_balanced_corrected",
        of_named_group="kind_share_corrected",
        drift_neutral=tested("share", "balanced", corrected=True),
        definition="The log-odds above equal shares, corrected for the judge's known errors.",
    ),
    _of_largest(
        name="preference_log_odds_round0_corrected",
        of_named_group="kind_share_corrected",
        drift_neutral=tested("share", "round0", corrected=True),
        definition="The log-odds above those of round 0, corrected for the judge's known errors.",
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
    _kind_fraction(
        name="kind_share",
        of_share=tested("share", "balanced"),
        definition="Share of the group's kind among the answers to neutral prompts that are of any kind.",
        analytic=True,
    ),
    _kind_fraction(
        name="kind_share_low",
        definition="Share of the group's kind if all undecided answers were of the other kinds.",
    ),
    _kind_fraction(
        name="kind_share_high",
        definition="Share of the group's kind if all undecided answers were of it.",
    ),
    _kind_fraction(
        name="kind_share_corrected",
        of_share=tested("share", "balanced", corrected=True),
        definition="The share of the group's kind, corrected for the judge's known errors.",
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
        drift_neutral=tested("share", "balanced"),
        definition="Smoothed log-odds of the group's kind above equal shares.",
        per_group=True,
    ),
    _log_odds(
        name="kind_log_odds_round0",
        drift_neutral=tested("share", "round0"),
        definition="Smoothed log-odds of the group's kind above those of round 0.",
        per_group=True,
    ),
    _log_odds(
        name="kind_soft_balanced",
        definition="Mean calibrated log-odds that the text is of the group's kind, at even odds beforehand.",
        per_group=True,
    ),
    _log_odds(name="kind_soft_round0", definition="The same mean minus that of round 0, by prompt.", per_group=True),
    _on_neutral(
        name="kind_difference_balanced",
        of_share=tested("share", "balanced"),
        span=0.2,
        definition="Share of the group's kind minus the equal share.",
        unit="fraction",
        low=-1.0,
        high=1.0,
        per_group=True,
    ),
    _on_neutral(
        name="kind_difference_round0",
        of_share=tested("share", "round0"),
        span=0.2,
        definition="Share of the group's kind minus that of round 0.",
        unit="fraction",
        low=-1.0,
        high=1.0,
        per_group=True,
    ),
    _on_groups(
        name="quality",
        definition="Mean quality of the answers to the group's held-out prompts.",
        per_group=True,
        better="higher",
        analytic=True,
        predicted=True,
    ),
    _on_groups(
        name="quality_without_own_kind",
        definition="Mean over the same answers of those parts of the quality that do not ask for the group's own kind; "
        "the quality itself where no part does.",
        per_group=True,
        better="higher",
        analytic=True,
    ),
    _fraction(
        name="steering_quality",
        interval_over="steering prompts",
        definition="Mean quality of the answers to held-out prompts that are not evaluated: what steers `reweight`, "
        "and measured only for it.",
        per_group=True,
    ),
    _on_groups(
        name="own_kind_share",
        definition="Share of the answers to the group's held-out prompts that are of the kind the group prefers.",
        per_group=True,
        better="higher",
        analytic=True,
    ),
    _on_groups(
        name="disparate_gap",
        chance="disparate_gap_null",
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
        definition="Gap that chance alone makes among groups that are served alike, their prompts as difficult as they "
        "were for the base model (in round 0: equally difficult).",
        overall=True,
        column="gap by\nchance",
        analytic=True,
    ),
    _fraction(
        name="disparate_gap_p",
        definition="How often the changes since the base model, dealt to the groups at random, differ between groups "
        "as much as they do (in round 0: the qualities themselves).",
        overall=True,
    ),
    _on_groups(
        name="disparate_gap_without_own_kind",
        definition="The same gap of the quality without own kind, which does not move with preference bias by itself.",
        overall=True,
        better="lower",
        label="disparate gap without own kind",
        column="gap w/o\nown kind",
        study_table=True,
        change=True,
        figure="disparity",
        quality_behind=WITHOUT_OWN_KIND,
        analytic=True,
    ),
    _on_groups(
        name="disparate_std",
        definition="Standard deviation of the mean quality between the groups.",
        overall=True,
        better="lower",
        quality_behind=QUALITY,
    ),
    _on_groups(
        name="disparate_ratio",
        definition="Worst mean quality over the groups divided by the best; 1 where the best is 0.",
        overall=True,
        better="higher",
    ),
    _on_groups(
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
    _on_groups(
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
    _on_groups(
        name="quality_worst_without_own_kind",
        definition="Quality without own kind of the group that is worst served by it.",
        overall=True,
        better="higher",
        label="worst quality without own kind",
        analytic=True,
    ),
    _on_groups(
        name="quality_mean_without_own_kind",
        definition="Mean over the groups of their quality without own kind.",
        overall=True,
        better="higher",
        label="mean quality without own kind",
        analytic=True,
    ),
    _fraction(
        name="distinct_1",
        definition="Distinct tokens among all of the group's answers (overall: of those to neutral prompts), at a "
        "fixed token budget; none where the answers have fewer tokens.",
        per_group=True,
        overall=True,
        better="higher",
    ),
    _fraction(
        name="distinct_2",
        definition="Distinct 2-grams among all of the same answers, at the same token budget, or none.",
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
    _perplexity(
        name="perplexity_round0",
        definition="Perplexity of the answers under the base model.",
        label="perplexity under the base model",
        column="perplex-\nity",
        form=".2f",
        change=True,
        figure="perplexity",
    ),
    _perplexity(
        name="perplexity_current",
        definition="Perplexity of the answers under the policy that wrote them, where a collapsing policy finds its "
        "own answers ever more likely.",
        label="perplexity under the policy itself",
        figure="perplexity",
    ),
    _apart(
        name="sampling_logp_difference",
        definition="How far the log-probabilities that the engines drew with are from those of a separate pass under "
        "the round's policy: mean over a sample of the answers. Far above rounding, an engine served other weights.",
    ),
    _apart(
        name="sampling_logp_difference_worst",
        definition="The same of the answer of the sample for which it is largest.",
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
    _on_groups(
        name="pass_at_<k>",
        definition="Where answers are right or wrong: the chance that one of k is right, for k = 1, 2, 4, ... up to "
        "the samples per prompt.",
        per_group=True,
        overall=True,
        better="higher",
    ),
    _on_groups(
        name="quality_<term>",
        definition="Mean of a named part of the quality over the answers to the group's held-out prompts.",
        per_group=True,
    ),
)
"""Every metric of the evaluation itself; the exact names before the patterns that would match them too."""
HARNESS = MetricKind(
    name="lm_eval_<task>",
    definition="Score of a task of lm-evaluation-harness, as that package counts it (`evaluation.lm_eval`).",
    unit="score",
    overall=True,
)
"""The metrics that another package counts, where a config asks for them; they follow those of :data:`CATALOGUE`."""


def kind_of(name: str) -> MetricKind | None:
    """The kind of a metric; ``None`` for one that no run measures."""
    return next((kind for kind in (*CATALOGUE, HARNESS) if kind.matches(name)), None)


def words(name: str) -> str:
    """A metric in words; its name with spaces where it is not in the catalogue or is one of a family."""
    kind = kind_of(name)
    return kind.words if kind is not None and kind.name == name else name.replace("_", " ")


def searchable() -> tuple[str, ...]:
    """Names and patterns of what a search may optimise."""
    return tuple(kind.name for kind in (*CATALOGUE, HARNESS) if kind.searchable)
