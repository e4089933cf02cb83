"""The within-run intervals of a round: how far its numbers may lie from those of all prompts of the same kind.

They are conditional on the run: on its policy, and on the error rates of the judge where shares are corrected. They
cover the choice of the prompts, and the answers drawn to them. Another seed of the loop may differ by more.

A metric has one where the catalogue says over which prompts (:attr:`MetricKind.interval_over`). All metrics of a set of
prompts are taken from the same resamples, and changes since round 0 from the same prompts in both rounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, rel_entr

from scpl_ray.config import Experiment
from scpl_ray.evaluation import bias, intervals
from scpl_ray.evaluation.intervals import Estimates, Prompts
from scpl_ray.evaluation.quality import CORRECT, pass_at_k, quality_without_own_kind
from scpl_ray.feedback.population import initial_shares
from scpl_ray.records import Judgement
from scpl_ray.shares import FloatArray, IntArray

if TYPE_CHECKING:  # the measurement asks for the intervals of what it measures
    from scpl_ray.evaluation.measure import Answers, Asked

Bounds = tuple[float, float]
Found = Iterator[tuple[str | None, str, float, float]]
"""Group, metric, and the bounds of its 95% interval."""


def bounds(
    answers: Answers,
    asked: Asked,
    experiment: Experiment,
    kinds: Sequence[str],
    confusion: Sequence[Sequence[float]] | None,
    steering: Mapping[str, Sequence[float]],
) -> dict[tuple[str | None, str], Bounds]:
    """The intervals of a round, by group and metric; none where there are fewer than two prompts.

    Arguments are those of :func:`scpl_ray.evaluation.measure.evaluate`.
    """
    groups = [_Answered(answers, name, experiment.seed) for name in experiment.groups.names]
    groups = [group for group in groups if group.prompts is not None]
    neutral = _Answered(answers, None, experiment.seed)
    found: list[Found] = [_rounds_prompts(asked, experiment.seed), _steering(steering, experiment.seed)]
    found += [_perplexity(one, answers) for one in (*groups, neutral)]
    if len(groups) == len(experiment.groups.names):
        found += [_quality(groups, kinds), _passes(groups, experiment.evaluation.samples_per_prompt)]
    if neutral.prompts is not None:
        then = [asked.base_judgements.get(query, ()) for query in neutral.queries]
        advantaged = kinds.index(bias.advantaged_kind(kinds, initial_shares(experiment)))
        about = (neutral.prompts, experiment.groups.names, advantaged)
        now = _counts(neutral.judged, kinds)
        first = _counts(then, kinds) if all(then) else None
        found += [kinds_now(*about, now, confusion), _soft(neutral, *about, then)]
        if first is not None:
            found.append(kinds_since(*about, now, first, confusion))
    return {
        (group, metric): (float(low), float(high))
        for group, metric, low, high in itertools.chain(*found)
        if np.isfinite(low) and np.isfinite(high)
    }


class _Answered:
    """The answers to the prompts of a group, or to the neutral ones, by prompt."""

    def __init__(self, answers: Answers, group: str | None, seed: int) -> None:
        self.group = group
        self.queries = [query.query_id for query in answers.prompts if query.group == group]
        place = {query: i for i, query in enumerate(self.queries)}
        rows = [i for i, c in enumerate(answers.completions) if c.query_id in place]
        self.rows = np.array(rows, dtype=np.int64)
        """Which answers of all they are."""
        self.prompt = np.array([place[answers.completions[i].query_id] for i in rows], dtype=np.int64)
        """The prompt of each, as its place among these."""
        self.judged: list[list[Judgement]] = [[] for _ in self.queries]
        for i, prompt in zip(rows, self.prompt.tolist(), strict=True):
            self.judged[prompt].append(answers.judgements[i])
        self.counts = np.bincount(self.prompt, minlength=len(self.queries)).astype(np.float64)
        self.prompts: Prompts | None = None
        """Their resamples; ``None``: there are too few of them."""
        if len(self.queries) > 1 and (self.counts > 0).all():
            self.prompts = Prompts(len(self.queries), seed, "neutral" if group is None else f"group {group}")

    @property
    def judgements(self) -> list[Judgement]:
        """Of all answers, in the order of :attr:`rows` by prompt."""
        return [judgement for of_prompt in self.judged for judgement in of_prompt]

    def summed(self, values: ArrayLike) -> FloatArray:
        """Sums over each prompt's answers, shape (n, Q), of values in the order of :attr:`judgements`, (A, Q)."""
        ends = np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)
        return np.asarray(np.add.reduceat(np.asarray(values, dtype=np.float64), ends, axis=0))

    def fractions(self, values: FloatArray) -> Estimates:
        """Means of values in [0, 1], shape (A, Q), in the order of :attr:`judgements`."""
        assert self.prompts is not None
        return self.prompts.fractions(self.summed(values), self.counts, roughness(values))


def roughness(values: FloatArray) -> FloatArray:
    """Variance of values in [0, 1], shape (A, Q), in units of the largest that their mean allows; 1 at 0 and at 1."""
    mean = values.mean(axis=0)
    most = mean * (1.0 - mean)
    return np.asarray(np.divide(values.var(axis=0), most, out=np.ones_like(mean), where=most > 0).clip(0.0, 1.0))


def _rounds_prompts(asked: Asked, seed: int) -> Found:
    """Rewards of the round's own completions, over the queries that users sent."""
    for group, rewards in asked.rewards.items():
        queries, place = np.unique(asked.reward_queries.get(group, ()), return_inverse=True)
        if len(queries) < 2:
            continue
        counts = np.bincount(place).astype(np.float64)
        prompts = Prompts(len(queries), seed, f"round's queries of {group}")
        values = np.asarray(rewards, dtype=np.float64)
        found = prompts.means(np.bincount(place, weights=values)[:, None], counts)
        yield group, "reward", found.low[0], found.high[0]
        wins = expit(values)
        won = prompts.fractions(np.bincount(place, weights=wins)[:, None], counts, roughness(wins[:, None]))
        yield group, "win_rate", won.low[0], won.high[0]


def _steering(quality: Mapping[str, Sequence[float]], seed: int) -> Found:
    for group, values in quality.items():
        found = np.atleast_1d(np.asarray(values, dtype=np.float64))[:, None]
        if len(found) > 1:
            prompts = Prompts(len(found), seed, f"steering {group}")
            of_all = prompts.fractions(found, np.ones(len(found)), roughness(found))
            yield group, "steering_quality", of_all.low[0], of_all.high[0]


def _perplexity(one: _Answered, answers: Answers) -> Found:
    if one.prompts is None:
        return
    for policy, likelihoods in (
        ("round0", answers.negative_log_likelihoods),
        ("current", answers.current_negative_log_likelihoods),
    ):
        both = np.array([likelihoods[i] for i in one.rows], dtype=np.float64)
        nats, tokens = (np.bincount(one.prompt, weights=column, minlength=one.prompts.n) for column in both.T)
        if tokens.sum():
            found = one.prompts.means(nats[:, None], tokens)
            yield one.group, f"perplexity_{policy}", np.exp(found.low[0]), np.exp(found.high[0])


def _quality(groups: Sequence[_Answered], kinds: Sequence[str]) -> Found:
    """Quality by group and its parts, and how unequal it is."""
    quality: list[Estimates] = []
    without: list[Estimates] = []
    for one, kind in zip(groups, kinds, strict=True):
        judged = one.judgements
        columns = {"quality": [j.quality for j in judged], "own_kind_share": [float(j.kind == kind) for j in judged]}
        columns |= {f"quality_{term}": [j.terms[term] for j in judged] for term in judged[0].terms}
        columns["quality_without_own_kind"] = [quality_without_own_kind(j) for j in judged]
        usable = {name: values for name, values in columns.items() if np.isfinite(values).all()}
        found = one.fractions(np.array([*usable.values()], dtype=np.float64).T)
        for i, name in enumerate(usable):
            yield one.group, name, found.low[i], found.high[i]
            if name in ("quality", "quality_without_own_kind"):
                (quality if name == "quality" else without).append(found[i])
    for suffix, parts in (("", quality), ("_without_own_kind", without)):
        if len(parts) == len(groups):
            yield from unequal(independent(parts), suffix)


def independent(parts: Sequence[Estimates]) -> Estimates:
    """Estimates from independent samples, one after the other."""
    columns = zip(*((part.value, part.low, part.high, part.draws) for part in parts), strict=True)
    return Estimates(*(np.concatenate(column, axis=-1) for column in columns))


def unequal(parts: Estimates, suffix: str) -> Found:
    """Gap, worst and mean of the groups' qualities, and for the quality itself spread and ratio."""
    k = len(parts.value)
    pairs = np.array([np.eye(k)[i] - np.eye(k)[j] for i, j in itertools.permutations(range(k), 2)])
    low, high = intervals.largest(pairs, parts)
    yield None, f"disparate_gap{suffix}", max(0.0, low), min(1.0, high)
    low, high = intervals.largest(-np.eye(k), parts)
    yield None, f"quality_worst{suffix}", -high, -low
    yield None, f"quality_mean{suffix}", *intervals.combined(np.full(k, 1.0 / k), parts)
    if suffix:
        return
    apart = parts.value - parts.value.mean()
    spread = float(parts.value.std())
    slopes = apart / (k * spread) if spread > 0 else np.zeros(k)
    along = np.einsum("bk,k->b", parts.draws, slopes)
    found = intervals.distance(spread, lambda x: x.std(axis=-1), apart, parts.draws, along)
    yield None, "disparate_std", *found
    if (parts.value > 0).all() and (parts.low > 0).all():
        logs = Estimates(np.log(parts.value), np.log(parts.low), np.log(parts.high), parts.draws / parts.value)
        low, high = intervals.largest(pairs, logs)
        yield None, "disparate_ratio", np.exp(-high), min(1.0, np.exp(-low))


def _passes(groups: Sequence[_Answered], samples: int) -> Found:
    """Pass@k by group, and over all prompts."""
    if any(CORRECT not in judgement.terms for one in groups for judgement in one.judgements):
        return
    powers = [2**power for power in range(samples.bit_length())]
    parts = []
    for one in groups:
        correct = [sum(j.terms[CORRECT] for j in of_prompt) for of_prompt in one.judged]
        passed = np.stack([pass_at_k(samples, correct, k) for k in powers], axis=-1)
        assert one.prompts is not None
        parts.append(one.prompts.fractions(passed, np.ones(len(passed)), roughness(passed)))
        for i, k in enumerate(powers):
            yield one.group, f"pass_at_{k}", parts[-1].low[i], parts[-1].high[i]
    sizes = np.array([len(one.queries) for one in groups], dtype=np.float64)
    for i, k in enumerate(powers):
        of_all = independent([part[i] for part in parts])
        yield None, f"pass_at_{k}", *intervals.combined(sizes / sizes.sum(), of_all)


def _counts(judged: Sequence[Sequence[Judgement]], kinds: Sequence[str]) -> IntArray:
    """Number of answers of each kind and of none, by prompt, shape (n, K + 1)."""
    column = {kind: i for i, kind in enumerate(kinds)}
    found = np.zeros((len(judged), len(kinds) + 1), dtype=np.int64)
    for row, of_prompt in zip(found, judged, strict=True):
        for judgement in of_prompt:
            row[len(kinds) if judgement.kind is None else column[judgement.kind]] += 1
    return found


def of_both_rounds(
    now: Mapping[str, Sequence[Judgement]], base: Mapping[str, Sequence[Judgement]], kinds: Sequence[str]
) -> tuple[IntArray, IntArray] | None:
    """Number of answers of each kind to each prompt in a round and in round 0, shape (n, K) each.

    Args:
        now: what the judge said of the answers to each prompt, by query id.
        base: the same in round 0.
        kinds: the kinds.

    Returns:
        ``None`` where round 0 was not asked all of the prompts.
    """
    then = [base.get(query, ()) for query in now]
    return (_counts([*now.values()], kinds)[:, :-1], _counts(then, kinds)[:, :-1]) if all(then) else None


def kinds_now(
    prompts: Prompts,
    names: Sequence[str],
    advantaged: int,
    now: IntArray,
    confusion: Sequence[Sequence[float]] | None,
) -> Found:
    """Shares of the kinds, and how far they are from equal ones."""
    of_kinds, undecided, k = now[:, :-1], now[:, -1:], len(names)
    for bound, answers in (("low", of_kinds), ("high", of_kinds + undecided)):
        found = prompts.fractions(answers, now.sum(axis=1))
        for i, name in enumerate(names):
            yield name, f"kind_share_{bound}", found.low[i], found.high[i]
    decided = of_kinds.sum(axis=1)
    if decided.sum() == 0:
        return
    equal = 1.0 / k
    shares, odds = prompts.fractions(of_kinds, decided), prompts.log_odds(of_kinds, decided)
    for i, name in enumerate(names):
        yield name, "kind_share", shares.low[i], shares.high[i]
        yield name, "kind_difference_balanced", shares.low[i] - equal, shares.high[i] - equal
        yield name, "kind_log_odds_balanced", odds.low[i] - logit(equal), odds.high[i] - logit(equal)
    lean = odds[advantaged]
    yield None, "preference_log_odds_balanced", lean.low[0] - logit(equal), lean.high[0] - logit(equal)
    counts = bias.KindCounts(tuple(names), of_kinds.sum(axis=0), int(undecided.sum()))
    yield from _distances("balanced", counts, None, shares.draws, np.zeros_like(shares.draws), None)
    if confusion is not None:
        found = _corrected(prompts, of_kinds, confusion)
        low, high = _possible(found, counts, confusion)
        for i, name in enumerate(names):
            yield name, "kind_share_corrected", low[i], high[i]
        if _inside(found.value):
            ends = bias.smoothed_logit((low[advantaged], high[advantaged]), counts.decided) - logit(equal)
            yield None, "preference_log_odds_balanced_corrected", ends[0], ends[1]


def kinds_since(
    prompts: Prompts,
    names: Sequence[str],
    advantaged: int,
    now: IntArray,
    first: IntArray,
    confusion: Sequence[Sequence[float]] | None,
) -> Found:
    """Changes of the kinds since round 0, on the same prompts."""
    after, before = now[:, :-1], first[:, :-1]
    decided, then = after.sum(axis=1), before.sum(axis=1)
    if decided.sum() == 0 or then.sum() == 0:
        return
    odds = prompts.log_odds_changes(after, decided, before, then)
    moved = prompts.changes(after, decided, before, then, counted=True)
    for i, name in enumerate(names):
        yield name, "kind_log_odds_round0", odds.low[i], odds.high[i]
        yield name, "kind_difference_round0", max(-1.0, moved.low[i]), min(1.0, moved.high[i])
    yield None, "preference_log_odds_round0", odds.low[advantaged], odds.high[advantaged]
    counts, round_0 = (
        bias.KindCounts(tuple(names), found[:, :-1].sum(axis=0), int(found[:, -1].sum())) for found in (now, first)
    )
    shares = prompts.fractions(after, decided)
    variance = bias.paired_variance(after, before)
    yield from _distances("round0", counts, round_0, shares.draws, shares.draws - moved.draws, variance)
    if confusion is not None:
        found = _corrected_since(prompts, after, before, advantaged, confusion)
        if found is not None:
            yield None, "preference_log_odds_round0_corrected", found.low[0], found.high[0]


def _distances(
    suffix: str,
    counts: bias.KindCounts,
    first: bias.KindCounts | None,
    draws: FloatArray,
    before: FloatArray,
    variance: FloatArray | None,
) -> Found:
    """Total variation and KL divergence from equal shares, or from those of round 0.

    Args:
        suffix: names the reference.
        counts: the round's counts.
        first: those of round 0; ``None``: the reference is equal shares.
        draws: how far the shares of resamples are from the shares, shape (B, K).
        before: the same of the reference.
        variance: see :func:`scpl_ray.evaluation.bias.preference_bias`.
    """
    shares, total = counts.shares(), counts.decided
    reference = bias.balanced(len(shares)) if first is None else first.shares()
    counted = None if first is None else first.decided
    apart = shares - reference
    value = float(bias.debiased_total_variation(shares, reference, total, counted, variance))
    along = np.einsum("bk,k->b", draws - before, np.sign(apart) / 2.0)
    low, high = intervals.distance(value, lambda x: np.abs(x).sum(axis=-1) / 2.0, apart, draws - before, along)
    yield None, f"total_variation_{suffix}", low, min(1.0, high)
    # near 0 the divergence is half the square of a weighted length, and its root is a distance
    s, tau = bias.smoothed_shares(shares, total), bias.smoothed_shares(reference, counted)
    root, middle = float(np.sqrt(2.0 * max(0.0, rel_entr(s, tau).sum()))), (s + tau) / 2.0
    change = np.einsum("bk,k->b", draws, np.log(s / tau)) - np.einsum("bk,k->b", before, s / tau)
    low, high = intervals.distance(
        root,
        lambda x: np.sqrt((x**2 / middle).sum(axis=-1)),
        apart,
        draws - before,
        change / root if root > 0 else change,
    )
    yield None, f"kl_{suffix}", max(low, 0.0) ** 2 / 2.0, high**2 / 2.0


def _corrected(prompts: Prompts, of_kinds: IntArray, confusion: Sequence[Sequence[float]]) -> Estimates:
    """Shares that are corrected for the judge's errors, before they are clipped to what shares can be."""
    inverse, k = bias.inverse_errors(confusion), of_kinds.shape[1]

    def statistic(totals: FloatArray) -> FloatArray:
        return np.asarray(np.einsum("...qj,jq->...q", _shares(totals), inverse))

    sums = np.broadcast_to(of_kinds[:, None, :].astype(np.float64), (len(of_kinds), k, k))
    return prompts.studentised(sums, statistic, np.eye(k), intervals.HALF)


def _possible(
    found: Estimates, counts: bias.KindCounts, confusion: Sequence[Sequence[float]]
) -> tuple[FloatArray, FloatArray]:
    """Bounds in [0, 1] of corrected shares, shape (K,) each, which hold the shares.

    The solution of the correction may lie outside [0, 1], and part of its interval, or all of it, is then no share. The
    bounds are as far from the clipped share as they are from the solution, and no closer than two standard errors of
    independent answers of these shares (Mandelkern and Schultz 2000): else an interval would be the shorter, the less
    the answers agree with the judge's errors.
    """
    if _inside(found.value):
        return np.clip(found.low, 0.0, 1.0), np.clip(found.high, 0.0, 1.0)
    rates = bias.confusion_of_counts(confusion)
    shares = bias.correct_shares(counts.shares(), rates).shares
    least = 2.0 * bias.correct_shares(shares @ rates, rates, total=counts.decided).sd
    low = np.minimum(found.low, shares - np.maximum(least, found.value - found.low))
    high = np.maximum(found.high, shares + np.maximum(least, found.high - found.value))
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def _inside(solved: FloatArray) -> bool:
    """Whether corrected shares, before they are clipped, lie between 0 and 1: at 0 or 1 log-odds have no interval."""
    return bool(((solved > 0) & (solved < 1)).all())


def _corrected_since(
    prompts: Prompts, after: IntArray, before: IntArray, advantaged: int, confusion: Sequence[Sequence[float]]
) -> Estimates | None:
    """Change of the corrected log-odds of the advantaged kind; ``None`` where a corrected share lies at 0 or 1."""
    inverse, k = bias.inverse_errors(confusion), after.shape[1]
    for counts in (after, before):
        if not _inside(counts.sum(axis=0) / counts.sum() @ inverse):
            return None
    totals = [float(after.sum()), float(before.sum())]

    def statistic(sums: FloatArray) -> FloatArray:
        shares = [np.clip(_shares(part) @ inverse[:, advantaged], 0.0, 1.0) for part in (sums[..., :k], sums[..., k:])]
        now, then = (bias.smoothed_logit(share, total) for share, total in zip(shares, totals, strict=True))
        return np.asarray(now - then)

    sums = np.concatenate([after, before], axis=1)[:, None, :].astype(np.float64)
    return prompts.studentised(sums, statistic, np.eye(2 * k), intervals.HALF)


def _shares(totals: FloatArray) -> FloatArray:
    """Shares of counts, shape (..., K); equal ones where nothing was counted."""
    count = totals.sum(axis=-1, keepdims=True)
    equal = np.full(totals.shape, 1.0 / totals.shape[-1])
    return np.asarray(np.divide(totals, count, out=equal, where=count > 0))


def _soft(
    neutral: _Answered,
    prompts: Prompts,
    names: Sequence[str],
    advantaged: int,
    then: Sequence[Sequence[Judgement]],
) -> Found:
    """The judge's calibrated log-odds, and their change since round 0 on the same prompts."""
    now = [judgement.log_odds for judgement in neutral.judgements]
    if not all(now):
        return
    sums = neutral.summed(np.array(now, dtype=np.float64))
    found = prompts.means(sums, neutral.counts)
    for i, name in enumerate(names):
        yield name, "kind_soft_balanced", found.low[i], found.high[i]
    yield None, "preference_soft_balanced", found.low[advantaged], found.high[advantaged]
    first = [[judgement.log_odds for judgement in of_prompt] for of_prompt in then]
    if not all(of_prompt and all(of_prompt) for of_prompt in first):
        return
    before = np.array([np.sum(np.array(of_prompt, dtype=np.float64), axis=0) for of_prompt in first])
    moved = prompts.changes(sums, neutral.counts, before, np.array([len(of_prompt) for of_prompt in first]))
    for i, name in enumerate(names):
        yield name, "kind_soft_round0", moved.low[i], moved.high[i]
    yield None, "preference_soft_round0", moved.low[advantaged], moved.high[advantaged]
