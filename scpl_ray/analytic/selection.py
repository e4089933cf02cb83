"""Selection by the numbers of completions per group, context and kind, without drawing every completion.

Rewards are N(mu_k, sd_k^2) by kind and independent between completions. What a strategy keeps is then drawn exactly,
cell by cell; a cell is (group, context, kind). :data:`STRATEGIES` has one record per
strategy of :data:`scpl_ray.selection.strategies.STRATEGIES`, which also gives the shares kept of infinitely many
completions.

Where the reference r_max is the round's largest reward, that maximum R is drawn first. Given R, all other rewards
follow their distributions truncated at R, and are accepted independently with probability

    E[exp((r - R) / beta) | r <= R] = exp((mu - R) / beta + sd^2 / (2 beta^2)) Phi(z - sd / beta) / Phi(z),

z = (R - mu) / sd. The best M of N are found by halving the range of rewards and drawing how many fall into each half.
Only ``r_max: prompt`` draws every reward.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcx, log_ndtr, ndtr, ndtri

from scpl_ray.analytic.cells import Answered, AskedGroups, Classes, KeptCounts, Number
from scpl_ray.analytic.draws import Draws, Expected
from scpl_ray.analytic.model import CONTEXTS, Settings
from scpl_ray.selection import strategies
from scpl_ray.selection.formulas import (
    accepted_shares,
    best_of_n_shares,
    calibrated_multipliers,
    importance_weights,
    penalised_shares,
    top_fraction,
)
from scpl_ray.shares import FloatArray, IntArray

CHUNK = 2_000_000
"""Number of rewards in memory at once where every single reward is drawn."""
WIDEST = 40.0
"""Rewards are searched within this many standard deviations of the means."""
SMALLEST_PART = 1e-6
"""Where rows are expectations, which are not whole, so small a part of one counts as none."""
HALVINGS = 60


_Keep = Callable[[Answered, Settings, Draws], tuple[IntArray, FloatArray | None]]
"""Returns kept rows per cell, and weights by class up to a constant factor; ``None``: all weights are equal."""


def select(answered: Answered, settings: Settings, draws: Draws) -> KeptCounts:
    """Keep completions by the configured strategy, or its matched random control.

    Raises:
        ValueError: in one of the rows nothing is kept, nothing of a wanted group is kept, a quota exceeds its group, or
            a reward exceeds ``reward_bound``; a run with that seed would also stop there.
    """
    chosen = settings.common.selection
    rows, weights = STRATEGIES[chosen.strategy].keep(answered, settings, draws)
    classes = Classes.of(chosen)
    if chosen.matched_control:
        rows = _matched_random(answered.counts, rows, strategies.STRATEGIES[chosen.strategy].fixes, classes, draws)
    kept = rows.sum(axis=(1, 2, 3))
    _refuse(kept == 0, answered, "nothing was kept", "keep more: raise selection.beta, or lower selection.threshold")
    if weights is None:
        return KeptCounts(rows, np.ones((len(rows), 1, 1, 1)))
    mass = (weights * classes.totals(rows)).sum(axis=-1)
    return KeptCounts(rows, classes.by_cell(np.asarray(weights * (kept / mass)[:, None])))


def without_replacement(counts: IntArray, size: IntArray, draws: Draws) -> IntArray:
    """A uniform sample of ``size`` rows (...) from cells of ``counts`` rows (..., C), as counts of shape (..., C)."""
    rest, wanted = counts.sum(axis=-1), size
    taken = np.empty_like(counts)
    for cell in range(counts.shape[-1]):
        rest = rest - counts[..., cell]
        taken[..., cell] = draws.hypergeometric(counts[..., cell], rest, wanted)
        wanted = wanted - taken[..., cell]
    return taken


def keep_best(counts: IntArray, means: FloatArray, sds: FloatArray, size: IntArray, draws: Draws) -> IntArray:
    """Counts by cell of the ``size`` (R,) best rewards, shape (R, C), of ``counts`` (R, C) draws from N(means, sds^2).

    The range of rewards is halved until the last one kept and the first one not kept are separated.
    """
    kept, left, open_ = np.zeros_like(counts), size, counts
    low, high = (means - WIDEST * sds).min(axis=-1), (means + WIDEST * sds).max(axis=-1)
    while True:
        everything = left >= open_.sum(axis=-1)
        kept += open_ * everything[:, None]
        open_ = open_ * ~(everything | (left < SMALLEST_PART))[:, None]
        if not open_.any():
            return kept
        middle = (low + high) / 2.0
        above, below, split = (ndtr((means - x[:, None]) / sds) for x in (high, low, middle))
        inside = below - above
        upper = np.divide(split - above, inside, out=np.full(means.shape, 0.5), where=inside > 0)
        found = draws.binomial(open_, np.clip(upper, 0.0, 1.0))
        take = found.sum(axis=-1) <= left
        kept += found * take[:, None]
        left = left - found.sum(axis=-1) * take
        open_ = np.where(take[:, None], open_ - found, found)
        low, high = np.where(take, low, middle), np.where(take, middle, high)


def _none(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    return answered.counts, None


def _random(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    return without_replacement(_flat(answered.counts), settings.budget, draws).reshape(answered.counts.shape), None


def _vrs(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    return _accepted(answered, settings, draws), None


def _tpp(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    return _best_per_prompt(answered, settings, settings.common.generation.samples_per_prompt, draws), None


def _best_of_n(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    return _best_per_prompt(answered, settings, settings.common.selection.best_of, draws), None


def _best_per_prompt(answered: Answered, settings: Settings, n: int, draws: Draws) -> IntArray:
    law = best_of_n_shares(answered.law, answered.means[:, None, None], settings.reward_sd[:, None, None], n)
    return draws.multinomial(answered.prompts, law / law.sum(axis=-1, keepdims=True))


def _top(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    shape = answered.counts.shape
    means = np.broadcast_to(answered.means[:, None, None], shape)
    sds = np.broadcast_to(settings.reward_sd[:, None, None], shape)
    kept = keep_best(_flat(answered.counts), _flat(means), _flat(sds), settings.budget, draws)
    return kept.reshape(shape), None


def _threshold(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    above = ndtr((answered.means - settings.threshold[:, None]) / settings.reward_sd)
    return draws.binomial(answered.counts, above[:, None, None]), None


def _importance(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, FloatArray]:
    classes = Classes.of(settings.common.selection)
    counts = classes.totals(answered.counts)
    _refuse_missing(counts, answered, settings, "among the completions", "raise queries.prompts_per_round")
    weights = importance_weights(counts / counts.sum(axis=-1, keepdims=True), settings.target)
    return answered.counts * classes.by_cell(settings.target > 0), weights


def _quotas(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    classes = Classes.of(settings.common.selection)
    short = np.any(settings.quotas > classes.totals(answered.counts), axis=-1)
    what = settings.common.selection.target_of[:-1]
    _refuse(short, answered, f"a quota exceeds what its {what} has", "lower selection.keep_fraction")
    shape = answered.counts.shape

    def by_class(cells: NDArray[Number]) -> NDArray[Number]:
        rows = np.moveaxis(np.broadcast_to(cells, shape), classes.axis, 1)
        return rows.reshape(shape[0] * shape[1], -1)

    means, sds = by_class(answered.means[:, None, None]), by_class(settings.reward_sd[:, None, None])
    kept = keep_best(by_class(answered.counts), means, sds, settings.quotas.reshape(-1), draws)
    moved = np.moveaxis(np.empty(shape, dtype=np.int64), classes.axis, 1).shape
    return np.moveaxis(kept.reshape(moved), 1, classes.axis), None


def _calibrated(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    counts = Classes.of(settings.common.selection).totals(answered.counts)
    _refuse_missing(counts, answered, settings, "among the completions", "raise queries.prompts_per_round")
    return _accepted(answered, settings, draws, calibrate=True), None


def _penalty(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, None]:
    if np.any(settings.target == 0):
        raise ValueError("selection.target: holds a 0, where the log excess is infinite; use quotas")
    counts = Classes.of(settings.common.selection).totals(answered.counts)
    _refuse_missing(counts, answered, settings, "among the completions", "raise queries.prompts_per_round")
    excess = np.log(counts / counts.sum(axis=-1, keepdims=True) / settings.target)
    return _accepted(answered, settings, draws, cost=settings.penalty[:, None] * excess), None


def _reweight(answered: Answered, settings: Settings, draws: Draws) -> tuple[IntArray, FloatArray]:
    classes = Classes.of(settings.common.selection)
    rows = _accepted(answered, settings, draws)
    counts = classes.totals(rows)
    _refuse_missing(counts, answered, settings, "accepted", "raise selection.beta or generation.samples_per_prompt")
    weights = importance_weights(counts / counts.sum(axis=-1, keepdims=True), settings.target)
    return rows * classes.by_cell(settings.target > 0), weights


def _as_asked(groups: AskedGroups) -> FloatArray:
    return groups.shares


def _as_wanted(groups: AskedGroups) -> FloatArray:
    """The target of groups; where kinds meet a target, each kind's rows are of the groups in which it was written."""
    if groups.selection.target_of == "groups":
        return groups.target
    return np.asarray(groups.shares * (groups.law @ importance_weights(groups.kinds, groups.target)))


def _accepted_share(groups: AskedGroups) -> FloatArray:
    return accepted_shares(groups.shares, groups.acceptance)


def _penalised_share(groups: AskedGroups) -> FloatArray:
    beta, penalty = groups.selection.beta, groups.selection.penalty
    if groups.selection.target_of == "kinds":
        paid = groups.kind_acceptance * (groups.kinds / groups.target) ** (-penalty / beta)
        return accepted_shares(groups.shares, groups.law @ paid)
    return penalised_shares(groups.shares, beta * np.log(groups.acceptance), groups.target, beta, penalty)


def _share_above(groups: AskedGroups) -> FloatArray:
    above = ndtr((groups.means - groups.selection.threshold) / groups.sds)
    return accepted_shares(groups.shares, groups.law @ above)


def _share_of_best(groups: AskedGroups) -> FloatArray:
    k = len(groups.shares)
    cells = (groups.shares[:, None] * groups.law).ravel()
    _, kept = top_fraction(cells, np.tile(groups.means, k), np.tile(groups.sds, k), groups.selection.keep_fraction)
    return np.asarray(kept.reshape(groups.law.shape).sum(axis=-1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analytic:
    """The analytic version of a strategy."""

    keep: _Keep
    """Draws how many completions the strategy keeps in each cell."""
    shares: Callable[[AskedGroups], FloatArray]
    """Expected weighted group shares of what the strategy keeps of infinitely many completions, shape (K,)."""
    one_maximum: bool = False
    """Whether ``shares`` is valid only if all prompts have the same ``selection.r_max``."""


STRATEGIES: dict[str, Analytic] = {
    "none": Analytic(keep=_none, shares=_as_asked),
    "random": Analytic(keep=_random, shares=_as_asked),
    "vrs": Analytic(keep=_vrs, shares=_accepted_share, one_maximum=True),
    "tpp": Analytic(keep=_tpp, shares=_as_asked),
    "top": Analytic(keep=_top, shares=_share_of_best),
    "best_of_n": Analytic(keep=_best_of_n, shares=_as_asked),
    "threshold": Analytic(keep=_threshold, shares=_share_above),
    "importance": Analytic(keep=_importance, shares=_as_wanted),
    "quotas": Analytic(keep=_quotas, shares=_as_wanted),
    "calibrated": Analytic(keep=_calibrated, shares=_as_wanted),
    "penalty": Analytic(keep=_penalty, shares=_penalised_share, one_maximum=True),
    "reweight": Analytic(keep=_reweight, shares=_as_wanted),
}


def _accepted(
    answered: Answered,
    settings: Settings,
    draws: Draws,
    *,
    cost: FloatArray | None = None,
    calibrate: bool = False,
) -> IntArray:
    """Rows accepted with probability exp((r - cost_k - r_max) / beta), times the class's multiplier where calibrated.

    Costs and multipliers are those of the target's classes. A calibrated multiplier is computed from the expected
    acceptance of the class, given the largest reward.
    """
    classes = Classes.of(settings.common.selection)
    penalty = np.zeros(answered.means.shape) if cost is None else cost
    if settings.common.selection.r_max == "prompt":
        assert isinstance(draws, np.random.Generator)  # see check_expected
        return _accepted_per_prompt(answered, settings, draws, classes, penalty, calibrate)
    paid = classes.by_cell(penalty)
    means = answered.means[:, None, None] - paid
    sds, beta = settings.reward_sd[:, None, None], settings.beta[:, None, None, None]
    shape = answered.counts.shape
    maxima = _maxima(answered.counts, np.broadcast_to(means, shape), np.broadcast_to(sds, shape), draws)
    at_top = np.zeros_like(answered.counts)
    if settings.common.selection.r_max == "bound":
        over = np.any(maxima + paid > settings.reward_bound[:, None, None, None], axis=(1, 2, 3))
        _refuse(over, answered, "a reward exceeds selection.reward_bound", "raise it, or use selection.r_max: batch")
        reach = settings.reward_bound[:, None] - penalty
        reference = (settings.reward_bound - penalty.min(axis=-1))[:, None, None, None]
        ceiling = np.broadcast_to(classes.by_cell(reach), shape)
    else:
        at_top = _at_top(answered.counts, maxima, (maxima - means) / sds, draws)
        reference = maxima.max(axis=(1, 2, 3), keepdims=True)
        ceiling = np.broadcast_to(reference, shape)
    exponent = log_acceptance((ceiling - means) / sds, sds / beta) + (ceiling - reference) / beta
    accept = np.exp(np.minimum(exponent, 0.0))
    others = answered.counts - at_top
    if not calibrate:
        return at_top + draws.binomial(others, accept)
    mass = classes.totals(others * accept + at_top)
    _refuse_missing(mass, answered, settings, "accepted, every acceptance underflows", "raise selection.beta")
    multiplier = classes.by_cell(calibrated_multipliers(mass, settings.target, 1.0))
    return draws.binomial(at_top, multiplier) + draws.binomial(others, accept * multiplier)


def log_acceptance(z: FloatArray, steepness: FloatArray) -> FloatArray:
    """ln E[exp((r - R) / beta) | r <= R] for R that lies z sd above the mean, and a = sd / beta.

    It is a^2 / 2 - a z + ln Phi(z - a) - ln Phi(z). Where a exceeds z its terms cancel, and Phi is taken by the scaled
    complementary error function: ln(erfcx((a - z) / sqrt 2) / 2) - z^2 / 2 - ln Phi(z).
    """
    beyond = np.maximum(steepness - z, 0.0)
    scaled = np.log(erfcx(beyond / np.sqrt(2.0)) / 2.0) - z**2 / 2.0
    plain = steepness * (steepness / 2.0 - z) + log_ndtr(z - steepness)
    return np.asarray(np.where(beyond > 0, scaled, plain) - log_ndtr(z))


def _maxima(counts: IntArray, means: FloatArray, sds: FloatArray, draws: Draws) -> FloatArray:
    """The largest reward of each cell, in the shape of ``counts``; -inf in an empty cell.

    Without chance the cells share the median of the largest reward of all of them.
    """
    if isinstance(draws, Expected):
        return np.where(counts > 0, _median_of_largest(counts, means, sds), -np.inf)
    # U^(1/n) is the largest of n uniforms; using its distance to 1 keeps the precision in the upper tail
    tail = -np.expm1(np.log(1.0 - draws.random(counts.shape)) / np.maximum(counts, 1))
    return np.where(counts > 0, means - sds * ndtri(tail), -np.inf)


def _median_of_largest(counts: IntArray, means: FloatArray, sds: FloatArray) -> FloatArray:
    """The R at which all rewards of a row lie below R with probability 1/2, shape (B, 1, 1, 1), by halving."""
    cells = (1, 2, 3)
    low = (means - WIDEST * sds).min(axis=cells, keepdims=True)
    high = (means + WIDEST * sds).max(axis=cells, keepdims=True)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        seldom = (counts * log_ndtr((middle - means) / sds)).sum(axis=cells, keepdims=True) < -np.log(2.0)
        low, high = np.where(seldom, middle, low), np.where(seldom, high, middle)
    return np.asarray(high)


def _at_top(counts: IntArray, maxima: FloatArray, z: FloatArray, draws: Draws) -> IntArray:
    """The one row that has the largest reward, by cell; without chance, how probably it lies in which.

    Args:
        counts: rows by cell, shape (B, K, 2, K).
        maxima: the largest reward of each cell.
        z: the same in standard deviations above the cell's mean.
        draws: whether there is chance.
    """
    if isinstance(draws, Expected):
        there = np.where(counts > 0, z, 0.0)
        density = counts * np.exp(-(there**2) / 2.0 - log_ndtr(there))
        return np.asarray(density / density.sum(axis=(1, 2, 3), keepdims=True))
    rows = np.zeros_like(counts)
    np.put_along_axis(_flat(rows), _flat(maxima).argmax(axis=-1)[:, None], 1, axis=-1)
    return rows


def _accepted_per_prompt(
    answered: Answered,
    settings: Settings,
    draws: np.random.Generator,
    classes: Classes,
    penalty: FloatArray,
    calibrate: bool,
) -> IntArray:
    """Rejection sampling against each prompt's own maximum, for which every reward is drawn.

    All queries of a group have as many completions: no strategy that gives some of them more compares them by prompt.
    """
    b, k = answered.means.shape
    most = int(answered.samples.max())
    queries = int(answered.prompts.sum(axis=(1, 2)).max())
    kept = np.zeros((b, k, CONTEXTS, k), dtype=np.int64)
    chunk = max(1, CHUNK // (queries * most))
    for first in range(0, b, chunk):
        part = slice(first, min(b, first + chunk))
        prompts = answered.prompts[part].reshape(-1, k * CONTEXTS)
        row, cell = np.nonzero(prompts)
        repeats = prompts[row, cell]
        row, cell = np.repeat(row, repeats), np.repeat(cell, repeats)
        cumulative = np.cumsum(answered.law[part].reshape(-1, k * CONTEXTS, k)[row, cell], axis=-1)
        uniforms = draws.random((len(row), most))
        kind = (uniforms[:, :, None] >= cumulative[:, None, :-1]).sum(axis=-1)
        means, sds = answered.means[part], settings.reward_sd[part]
        rewards = means[row[:, None], kind] + sds[row[:, None], kind] * draws.standard_normal(kind.shape)
        group = cell // CONTEXTS
        of_class = kind if classes.axis == 3 else np.broadcast_to(group[:, None], kind.shape)
        rewards = rewards - penalty[part][row[:, None], of_class]
        drawn = np.arange(most) < answered.samples[part][row, group][:, None]
        rewards = np.where(drawn, rewards, -np.inf)
        accept = np.exp((rewards - rewards.max(axis=-1, keepdims=True)) / settings.beta[part][row, None])
        if calibrate:
            where = (row[:, None] * k + of_class).ravel()
            mass = np.bincount(where, accept.ravel(), minlength=len(prompts) * k).reshape(-1, k)
            accept *= calibrated_multipliers(mass, settings.target[part], 1.0)[row[:, None], of_class]
        taken = draws.random(accept.shape) < accept
        index = ((row * k * CONTEXTS + cell)[:, None] * k + kind)[taken]
        kept[part] = np.bincount(index, minlength=prompts.size * k).reshape(-1, k, CONTEXTS, k)
    return kept


def _matched_random(counts: IntArray, kept: IntArray, fixes: str, classes: Classes, draws: Draws) -> IntArray:
    """As many rows as were kept in all, or from each stratum that the strategy fixes, chosen by chance.

    Keeping one candidate of each prompt amounts to drawing completions of its context, as their kinds are independent.
    """
    b, k = counts.shape[:2]
    axis = classes.axis if fixes == "classes" else 1
    strata = {"size": (b, 1), "classes": (b, k), "prompts": (b, k * CONTEXTS)}[fixes]
    every, kept = np.moveaxis(counts, axis, 1), np.moveaxis(kept, axis, 1)
    size = kept.reshape(*strata, -1).sum(axis=-1)
    taken = without_replacement(every.reshape(*strata, -1), size, draws).reshape(every.shape)
    return np.moveaxis(taken, 1, axis)


def _flat(cells: NDArray[Number]) -> NDArray[Number]:
    return cells.reshape(len(cells), -1)


def _refuse_missing(masses: FloatArray | IntArray, answered: Answered, settings: Settings, where: str, do: str) -> None:
    missing = np.any((masses == 0) & (settings.target > 0), axis=-1)
    what = settings.common.selection.target_of[:-1]
    _refuse(missing, answered, f"selection.target wants a {what} of which nothing is {where}", do)


def _refuse(rows: NDArray[np.bool_], answered: Answered, fault: str, remedy: str) -> None:
    if np.any(rows):
        raise ValueError(
            f"selection: in round {answered.round}, {int(rows.sum())} of {len(rows)} simulated seeds: {fault}; {remedy}"
        )
