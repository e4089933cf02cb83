"""The evaluation phase: from judged completions to one number per round, group and metric.

The metrics are defined in :mod:`scpl_ray.evaluation.catalogue` and described for readers in ``docs/metrics.md``.

A number that does not exist (no kept data in round 0, no completion of any kind after a collapse, too few answers for
``self_bleu``) has no row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy.special import expit

from scpl_ray.config import Experiment
from scpl_ray.evaluation import bias, disparity, diversity, quality, within_run
from scpl_ray.evaluation.quality import CORRECT, quality_without_own_kind
from scpl_ray.feedback.population import initial_shares
from scpl_ray.records import Completion, Judgement, Metric, Query, Score
from scpl_ray.storage import facts, redoing
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Store

DISTINCT_TOKENS = 600
"""Token budget of distinct-n: equal for all rounds and groups, because distinct-n falls with the amount of text."""
SELF_BLEU_ANSWERS = 32
"""Number of answers compared by self-BLEU: equal for all rounds and groups, because it grows with this number."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """The answers to the evaluation prompts; all sequences have the same order."""

    prompts: Sequence[Query]
    completions: Sequence[Completion]
    judgements: Sequence[Judgement]
    negative_log_likelihoods: Sequence[tuple[float, int]]
    """Under the base model: summed nats and number of tokens of each answer."""
    current_negative_log_likelihoods: Sequence[tuple[float, int]]
    """The same under the policy that wrote the answers."""
    sampling_differences: Sequence[float] = ()
    """How far the engines' log-probabilities of some answers are from a separate pass's, in nats per token."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """The results of the round's phases before the evaluation."""

    round: int
    shares: Mapping[str, float]
    rewards: Mapping[str, Sequence[float]]
    """Rewards of the round's completions, by group; empty in round 0."""
    selection: Mapping[str, Any]
    """Statistics of the selection; empty in round 0."""
    base_quality: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Mean quality of the base model's answers to each evaluation prompt, by query id; empty in round 0."""
    base_judgements: Mapping[str, Sequence[Judgement]] = dataclasses.field(default_factory=dict)
    """What the judge said of those answers, by query id; empty in round 0."""
    reward_queries: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    """The query of each of ``rewards``, by group; empty in round 0."""
    loss: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    """Shares of the training loss by ``origin`` and by ``group``; empty in round 0."""


def asked(store: Store, round_: int, experiment: Experiment) -> Asked:
    """Read the results of a round's earlier phases from the run directory.

    Raises:
        StoreError: a phase is missing, or they do not belong together.
    """
    groups = experiment.groups
    if round_ == 0:
        # checkpoints are measured without users, whose shares would be told here
        users = () if store.checkpoints else zip(groups.names, initial_shares(experiment).tolist(), strict=True)
        return Asked(0, dict(users), {}, {})
    if store.checkpoints:
        first = _first(store)
        return Asked(round_, {}, {}, {}, base_quality=_means(first), base_judgements=first)
    asked = store.table(round_, "queries", "queries", Query, ["query_id", "group"])
    group_of = dict(zip(asked["query_id"].to_pylist(), asked["group"].to_pylist(), strict=True))
    rewards: dict[str, list[float]] = {name: [] for name in groups.names}
    reward_queries: dict[str, list[str]] = {name: [] for name in groups.names}
    answered = store.column(round_, "completions", Completion, "query_id").to_pylist()
    scored = store.column(round_, "scores", Score, "reward").to_pylist()
    if len(answered) != len(scored) or any(group_of.get(query_id) not in rewards for query_id in answered):
        raise StoreError(
            f"{store.name}: queries, completions and scores of round {round_} do not belong together; restore them, or "
            f"{redoing.remedy(store.root, round_, 'completions')}"
        )
    for query_id, reward in zip(answered, scored, strict=True):
        rewards[str(group_of[query_id])].append(reward)
        reward_queries[str(group_of[query_id])].append(query_id)
    selection, dataset = store.manifest(round_, "selection"), store.manifest(round_, "dataset")
    if selection is None or dataset is None:
        raise StoreError(
            f"{store.name}: selection and dataset of round {round_} are not both committed; resume the run"
        )
    first = _first(store)
    remedy = functools.partial(redoing.remedy, store.root, round_, "selection")
    kept = facts.by_group(selection, "shares_after", groups.names, store.name, remedy)
    shares = facts.shares(store.read_json(round_, "queries", "shares"), groups.names, f"{store.name}: round {round_}")
    return Asked(
        round_,
        shares,
        rewards,
        {**selection.facts, "shares_after": [*kept.values()]},
        base_quality=_means(first),
        base_judgements=first,
        reward_queries=reward_queries,
        # a round that an older version began has no shares of the loss
        loss=dataset.facts.get("loss_shares", {}),
    )


def _first(store: Store) -> dict[str, list[Judgement]]:
    """What the judge said of the answers to each prompt in round 0, by query id."""
    return by_prompt(
        store.read(0, "evaluation", "completions", Completion), store.read(0, "evaluation", "judgements", Judgement)
    )


def _means(judged: Mapping[str, Sequence[Judgement]]) -> dict[str, float]:
    """Mean quality of the answers to each prompt, by query id."""
    return {query: float(np.mean([j.quality for j in of])) for query, of in judged.items()}


def by_prompt(completions: Sequence[Completion], judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    """What the judge said of the answers to each prompt, by query id."""
    found: dict[str, list[Judgement]] = {}
    for completion, judgement in zip(completions, judgements, strict=True):
        found.setdefault(completion.query_id, []).append(judgement)
    return found


def evaluate(
    answers: Answers,
    asked: Asked,
    experiment: Experiment,
    *,
    kinds: Sequence[str],
    confusion: Sequence[Sequence[float]] | None,
    first: Sequence[Metric],
    steering: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> list[Metric]:
    """All metrics of a round.

    Args:
        answers: judged answers to the evaluation prompts.
        asked: the results of the round's earlier phases.
        experiment: the config; its groups and seed are used.
        kinds: kind k is the one that group k prefers.
        confusion: the judge's errors where they are known; see :func:`scpl_ray.evaluation.bias.measure_preference`.
        first: the metrics of round 0; empty in round 0 itself.
        steering: quality of each answer to the prompts that steer selection, by group; empty where nothing is steered.
    """
    prompt_of = {q.query_id: q for q in answers.prompts}
    by_group: dict[str | None, list[int]] = {name: [] for name in (*experiment.groups.names, None)}
    for i, completion in enumerate(answers.completions):
        by_group[prompt_of[completion.query_id].group].append(i)
    rows = list(
        chain(
            _asked(asked),
            _quality(answers, asked.base_quality, by_group, experiment, kinds),
            _without_own_kind(answers, by_group, experiment.groups.names),
            _steering(steering),
            _passes(answers, by_group, experiment),
            _preference(answers, by_group[None], asked.base_judgements, experiment, kinds, confusion, first),
            _soft(answers, by_group[None], asked.base_judgements, experiment, kinds),
            _text(answers, by_group, experiment),
            _sampling(answers.sampling_differences),
        )
    )
    found = within_run.bounds(answers, asked, experiment, kinds, confusion, steering)
    return [
        _row(asked.round, group, metric, float(value), found.get((group, metric)))
        for group, metric, value in rows
        if not np.isnan(float(value))
    ]


def _row(round_: int, group: str | None, metric: str, value: float, bounds: tuple[float, float] | None) -> Metric:
    """A number with its interval, which holds it: what counting adds is taken off a distance, not off its bounds."""
    if bounds is None:
        return Metric(round_, group, metric, value)
    return Metric(round_, group, metric, value, min(bounds[0], value), max(bounds[1], value))


def qualities(
    prompts: Sequence[Query], completions: Sequence[Completion], judgements: Sequence[Judgement]
) -> dict[str, list[float]]:
    """Mean quality of the answers to each prompt, by group."""
    group_of = {q.query_id: str(q.group) for q in prompts}
    found: dict[str, list[float]] = {}
    for query, judged in by_prompt(completions, judgements).items():
        found.setdefault(group_of[query], []).append(float(np.mean([j.quality for j in judged])))
    return found


def reaction(rows: Sequence[Metric], measure: str) -> dict[str, float]:
    """The measure to which the groups react: ``quality``, ``reward`` (mean logistic) or ``own_kind``, each in [0, 1].

    A group that asked nothing has no rewards; it reacts to the mean of the other groups.
    """
    metric = {"quality": "quality", "reward": "win_rate", "own_kind": "own_kind_share"}[measure]
    measured = {r.group: r.value for r in rows if r.metric == metric and r.group is not None}
    names = [r.group for r in rows if r.metric == "share" and r.group is not None]
    return {name: measured.get(name, float(np.mean(list(measured.values())))) for name in names}


_Rows = Iterator[tuple[str | None, str, float]]


def _steering(quality: Mapping[str, Sequence[float]]) -> _Rows:
    for name, values in quality.items():
        yield name, "steering_quality", float(np.mean(values))


def _asked(asked: Asked) -> _Rows:
    for name, share in asked.shares.items():
        yield name, "share", share
    for name, rewards in asked.rewards.items():
        if rewards:
            yield name, "reward", float(np.mean(rewards))
            yield name, "win_rate", float(np.mean(expit(rewards)))
    if asked.selection:
        chosen = asked.selection
        for name, share in zip(asked.shares, chosen["shares_after"], strict=True):
            yield name, "kept_share", share
        yield None, "kept_fraction", chosen["kept"] / chosen["candidates"]
        yield None, "effective_sample_size", chosen["effective_sample_size"]
        yield None, "duplicate_fraction", chosen["duplicates"] / chosen["candidates"]
    if asked.loss:
        for name in asked.shares:
            yield name, "loss_share", asked.loss.get("group", {}).get(name, 0.0)
        yield None, "loss_share_real", asked.loss.get("origin", {}).get("real", 0.0)


def _quality(
    answers: Answers,
    base: Mapping[str, float],
    by_group: Mapping[str | None, Sequence[int]],
    experiment: Experiment,
    kinds: Sequence[str],
) -> _Rows:
    names = experiment.groups.names
    for name, kind in zip(names, kinds, strict=True):
        judged = [answers.judgements[i] for i in by_group[name]]
        yield name, "quality", float(np.mean([j.quality for j in judged]))
        yield name, "own_kind_share", float(np.mean([j.kind == kind for j in judged]))
        for term in judged[0].terms:
            yield name, f"quality_{term}", float(np.mean([j.terms[term] for j in judged]))
    judged_of = by_prompt(answers.completions, answers.judgements)
    asked = [q for q in answers.prompts if q.group is not None]
    quality_of = np.array([np.mean([j.quality for j in judged_of[q.query_id]]) for q in asked])
    base_of = np.array([base[q.query_id] for q in asked]) if base else None
    groups = np.array([names.index(str(q.group)) for q in asked])
    unequal = disparity.disparate_bias(disparity.group_means(quality_of, groups, len(names)))
    null = disparity.gap_null(quality_of, groups, len(names), seed=experiment.seed, base=base_of)
    yield None, "disparate_gap", float(unequal.gap)
    yield None, "disparate_gap_null", null.null_mean
    yield None, "disparate_gap_p", null.p
    yield None, "disparate_std", float(unequal.std)
    yield None, "disparate_ratio", float(unequal.ratio)
    yield None, "quality_worst", float(unequal.worst)
    yield None, "quality_mean", float(unequal.mean)


def _without_own_kind(answers: Answers, by_group: Mapping[str | None, Sequence[int]], names: Sequence[str]) -> _Rows:
    """Quality and its inequality where the preferred kind counts for nothing.

    Preference bias is what kinds are written. A quality that asks for the own kind moves with it by construction.
    """
    found = {name: np.mean([quality_without_own_kind(answers.judgements[i]) for i in by_group[name]]) for name in names}
    for name, value in found.items():
        yield name, "quality_without_own_kind", float(value)
    if np.isfinite(list(found.values())).all():
        unequal = disparity.disparate_bias(list(found.values()))
        yield None, "disparate_gap_without_own_kind", float(unequal.gap)
        yield None, "quality_worst_without_own_kind", float(unequal.worst)
        yield None, "quality_mean_without_own_kind", float(unequal.mean)


def _passes(answers: Answers, by_group: Mapping[str | None, Sequence[int]], experiment: Experiment) -> _Rows:
    """Pass@k (Chen et al. 2021), averaged over prompts."""
    passed: dict[str, list[float]] = {}
    for name in experiment.groups.names:
        of_prompt: dict[str, list[float]] = {}
        for i in by_group[name]:
            if CORRECT not in answers.judgements[i].terms:
                return
            of_prompt.setdefault(answers.completions[i].query_id, []).append(answers.judgements[i].terms[CORRECT])
        passed[name] = [sum(found) for found in of_prompt.values()]
    samples = experiment.evaluation.samples_per_prompt
    for k in (2**power for power in range(samples.bit_length())):
        for name, correct in passed.items():
            yield name, f"pass_at_{k}", float(np.mean(quality.pass_at_k(samples, correct, k)))
        yield None, f"pass_at_{k}", float(np.mean(quality.pass_at_k(samples, [*chain(*passed.values())], k)))


def _preference(
    answers: Answers,
    neutral: Sequence[int],
    base: Mapping[str, Sequence[Judgement]],
    experiment: Experiment,
    kinds: Sequence[str],
    confusion: Sequence[Sequence[float]] | None,
    first: Sequence[Metric],
) -> _Rows:
    names = experiment.groups.names
    counts = bias.count_kinds((answers.judgements[i].kind for i in neutral), kinds)
    answers_in_all = counts.decided + counts.undecided
    for name, count in zip(names, counts.counts, strict=True):
        yield name, "kind_count", count
        yield name, "kind_share_low", count / answers_in_all
        yield name, "kind_share_high", (count + counts.undecided) / answers_in_all
    yield None, "undecided_count", counts.undecided
    if counts.decided == 0:
        return
    start = {r.group: int(r.value) for r in first if r.metric == "kind_count"}
    round_0 = bias.kind_counts([start[name] for name in names], kinds) if first else counts
    advantaged = bias.advantaged_kind(kinds, initial_shares(experiment))
    now = by_prompt([answers.completions[i] for i in neutral], [answers.judgements[i] for i in neutral])
    pairs = within_run.of_both_rounds(now, base, kinds)
    preference = bias.measure_preference(counts, round_0, advantaged=advantaged, confusion=confusion, by_prompt=pairs)
    for k, name in enumerate(names):
        yield name, "kind_share", preference.balanced.shares[k]
        if preference.correction is not None:
            yield name, "kind_share_corrected", preference.correction.shares[k]
            yield name, "kind_share_corrected_sd", preference.correction.sd[k]
    for suffix, found, corrected in (
        ("balanced", preference.balanced, preference.corrected_balanced),
        ("round0", preference.round_0, preference.corrected_round_0),
    ):
        if found is None:
            continue  # the base model wrote nothing of any kind
        for k, name in enumerate(names):
            yield name, f"kind_log_odds_{suffix}", found.kind_log_odds[k]
            yield name, f"kind_difference_{suffix}", found.differences[k]
        yield None, f"preference_log_odds_{suffix}", float(found.log_odds)
        yield None, f"total_variation_{suffix}", float(found.total_variation)
        yield None, f"kl_{suffix}", float(found.kl)
        if corrected is not None:
            yield None, f"preference_log_odds_{suffix}_corrected", float(corrected.log_odds)


def _soft(
    answers: Answers,
    neutral: Sequence[int],
    first: Mapping[str, Sequence[Judgement]],
    experiment: Experiment,
    kinds: Sequence[str],
) -> _Rows:
    """The judge's calibrated log-odds on neutral prompts, where it errs; in round 0 nothing has changed since."""
    odds = [answers.judgements[i].log_odds for i in neutral]
    if not odds or not all(odds):
        return
    names = experiment.groups.names
    advantaged = kinds.index(bias.advantaged_kind(kinds, initial_shares(experiment)))
    now = np.mean(np.array(odds, dtype=np.float64), axis=0)
    asked = dict.fromkeys(answers.completions[i].query_id for i in neutral)
    before = [judgement.log_odds for query in asked for judgement in first.get(query, ())]
    rows = [("balanced", now)]
    if not first:
        rows.append(("round0", np.zeros(len(names))))
    elif before and all(before):
        rows.append(("round0", now - np.mean(np.array(before, dtype=np.float64), axis=0)))
    for suffix, found in rows:
        yield from ((name, f"kind_soft_{suffix}", float(found[k])) for k, name in enumerate(names))
        yield None, f"preference_soft_{suffix}", float(found[advantaged])


def _sampling(differences: Sequence[float]) -> _Rows:
    if differences:
        yield None, "sampling_logp_difference", float(np.mean(differences))
        yield None, "sampling_logp_difference_worst", float(np.max(differences))


def _text(answers: Answers, by_group: Mapping[str | None, Sequence[int]], experiment: Experiment) -> _Rows:
    for name, indices in by_group.items():
        documents = [answers.completions[i].token_ids for i in indices]
        for n in (1, 2):
            found = diversity.distinct_n(documents, n, budget_tokens=DISTINCT_TOKENS, seed=experiment.seed)
            if found.tokens == found.budget:
                yield name, f"distinct_{n}", found.value
        if len(indices) >= SELF_BLEU_ANSWERS:
            texts = [answers.completions[i].text for i in indices]
            yield name, "self_bleu", diversity.self_bleu(texts, size=SELF_BLEU_ANSWERS, seed=experiment.seed)
        for policy, likelihoods in (
            ("round0", answers.negative_log_likelihoods),
            ("current", answers.current_negative_log_likelihoods),
        ):
            nats, tokens = zip(*(likelihoods[i] for i in indices), strict=True)
            if not np.isfinite(nats).all():
                raise ValueError(
                    f"the {policy} policy gives answers likelihoods that are not finite: its training diverged; lower "
                    "training.learning_rate"
                )
            if sum(tokens):
                yield name, f"perplexity_{policy}", quality.perplexity(nats, tokens)
