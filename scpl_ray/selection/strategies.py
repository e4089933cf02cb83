"""Which completions become training data: rejection sampling strategies, group-aware remedies, and their controls.

Random choices use one uniform per completion, derived from its id, and rows are sorted by (reward, prompt, candidate):
the result does not depend on the order of the rows. A strategy is one function and one record in :data:`STRATEGIES`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from scpl_ray.config import Selection
from scpl_ray.config.schema import CUSTOM
from scpl_ray.own import references
from scpl_ray.own.registry import Registry
from scpl_ray.seeds import uniforms
from scpl_ray.selection import allotment, group_aware
from scpl_ray.selection.candidates import (
    Candidates,
    Draw,
    Kept,
    Selected,
    acceptance,
    accepted,
    budget,
    selected,
)
from scpl_ray.selection.targets import NONE, Target, target_shares
from scpl_ray.shares import FloatArray, IntArray, largest_remainder

__all__ = [
    "STRATEGIES",
    "Candidates",
    "Selected",
    "Strategy",
    "completions_per_group",
    "needs_kinds",
    "select",
    "steers",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strategy:
    """A registered strategy and its properties."""

    meaning: str
    """What the strategy keeps, in a few words."""
    keep: Callable[[Candidates, Selection, Draw], Kept]
    fixes: Literal["size", "prompts", "classes"] = "size"
    """What its random control has in common with it: the number kept in total, also per prompt, or also per class of
    the target, which is a group or a true kind."""
    rejects: Literal["nothing", "classes", "completions"] = "completions"
    """``classes``: only whole groups or kinds are dropped, none of their completions for its reward."""
    reads_target: bool = False
    """Whether it uses ``selection.target``."""
    meet: Callable[[Candidates, Target, IntArray], tuple[IntArray, FloatArray]] | None = None
    """Brings a part of what it kept to the target again, as where some of it found no partner for a pair: positions in
    the given rows, and weights. ``None``: what it keeps need not have the target's shares."""
    reads_keep_fraction: bool = False
    """Whether ``selection.keep_fraction`` says how many completions it keeps."""
    reads_best_of: bool = False
    """Whether it uses the first ``selection.best_of`` candidates of each prompt; so many must have been drawn."""
    reads_r_max: bool = False
    """Whether it accepts by the distance of a reward to ``selection.r_max``."""
    costs_classes: bool = False
    """Whether it takes from rewards what depends on the group alone, and so is equal for all candidates of a prompt."""
    modelled: bool = True
    """Whether the analytic mode, which has no single completions, can tell what it keeps."""
    more_for_weaker: bool = False
    """Whether groups with lower quality get more candidates per query; otherwise all groups get the same number."""


def _none(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep everything."""
    return Kept(np.arange(candidates.size))


def _random(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep a uniform sample without replacement."""
    order = np.lexsort((candidates.candidate_rank, draw.chance))
    return Kept(order[: budget(candidates, selection)])


def _vrs(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Vanilla rejection sampling: accept with probability exp((r - r_max) / beta)."""
    return Kept(accepted(acceptance(candidates, selection), draw))


def _tpp(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep the best of each prompt."""
    return Kept(_first_per_prompt(candidates, candidates.best_first))


def _top(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep the best overall."""
    return Kept(candidates.best_first[: budget(candidates, selection)])


def _best_of_n(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep the best among the first n candidates of each prompt."""
    by_prompt = np.lexsort((candidates.candidate_rank, candidates.prompts))
    _, starts, counts = np.unique(candidates.prompts[by_prompt], return_index=True, return_counts=True)
    if counts.min() < selection.best_of:
        raise ValueError(
            f"selection.best_of: {selection.best_of} but a prompt has {counts.min()} candidates; "
            "lower it or raise generation.samples_per_prompt"
        )
    place = np.empty(candidates.size, dtype=np.int64)
    place[by_prompt] = np.arange(candidates.size) - np.repeat(starts, counts)
    order = candidates.best_first
    return Kept(_first_per_prompt(candidates, order[place[order] < selection.best_of]))


def _threshold(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep every completion whose reward is at or above the threshold."""
    rows = np.flatnonzero(candidates.rewards >= selection.threshold)
    if len(rows) == 0:
        raise ValueError(
            f"selection.threshold: no reward reaches {selection.threshold}, the largest is "
            f"{candidates.rewards.max():g}; lower it"
        )
    return Kept(rows)


def _custom(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    if selection.function is None:
        raise ValueError(
            "selection.function: null; the custom strategy needs 'package.module:function' or 'FILE.py:function'"
        )
    function = references.load(selection.function, "selection.function")
    return _by_function(function, selection.function, "selection.function", candidates, selection, draw)


def _by_function(
    function: Callable[..., ArrayLike],
    name: str,
    key: str,
    candidates: Candidates,
    selection: Selection,
    draw: Draw,
) -> Kept:
    """What a ``function(candidates, *, selection, chance) -> positions`` keeps.

    Raises:
        ValueError: it fails, or what it returns are not positions of completions, each at most once.
    """
    given = copy.deepcopy(candidates)  # what it changes of them is its own
    found = references.called(name, key, function, given, selection=selection, chance=draw.chance.copy())
    return Kept(_positions(found, name, key, candidates.size))


def _by_strategy(
    strategy: Strategy, name: str, key: str, candidates: Candidates, selection: Selection, draw: Draw
) -> Kept:
    """What a :class:`Strategy` of an installed package keeps.

    Raises:
        ValueError: as :func:`_by_function`.
    """
    found = references.called(name, key, strategy.keep, copy.deepcopy(candidates), selection, draw)
    if not isinstance(found, Kept):
        raise ValueError(f"{key}: {name} returned a {type(found).__name__}; return scpl_ray.selection.candidates.Kept")
    return dataclasses.replace(found, rows=_positions(found.rows, name, key, candidates.size))


def _positions(found: ArrayLike, name: str, key: str, size: int) -> IntArray:
    """The positions that the user's own code returned.

    Raises:
        ValueError: they are not those of completions, each at most once.
    """
    rows = np.asarray(found)
    if rows.dtype.kind not in "iu" or rows.ndim != 1 or rows.size == 0:
        raise ValueError(
            f"{key}: what {name} returned is {found!r:.80}; return the positions of the completions that are kept, "
            f"whole numbers from 0 to {size - 1}, at least one"
        )
    if rows.min() < 0 or rows.max() >= size or len(np.unique(rows)) < rows.size:
        raise ValueError(
            f"{key}: what {name} returned holds {rows.size} positions from {rows.min()} to {rows.max()}, "
            f"{len(np.unique(rows))} of them different; each is given once and lies in 0 to {size - 1}"
        )
    return rows.astype(np.int64)


def _adopted(name: str, reference: str) -> Strategy:
    """The strategy that an installed package offers: a :class:`Strategy`, or a function as ``selection.function``."""
    key = "selection.strategy"
    found = references.find(reference, f"{key} = {name!r}")
    if isinstance(found, Strategy):
        keep = functools.partial(_by_strategy, found, name, key)
        meet = None if found.meet is None else functools.partial(references.called, name, key, found.meet)
        return dataclasses.replace(found, keep=keep, meet=meet, modelled=False)
    meaning = " ".join((found.__doc__ or reference).strip().splitlines()[0].split())
    return Strategy(meaning=meaning, keep=functools.partial(_by_function, found, name, key), modelled=False)


_BUILT_IN = {
    "none": Strategy(meaning="all", keep=_none, rejects="nothing"),
    "random": Strategy(meaning="a random fraction", keep=_random, reads_keep_fraction=True),
    "vrs": Strategy(meaning="rejection sampling: accepted with exp((r - r_max) / beta)", keep=_vrs, reads_r_max=True),
    "tpp": Strategy(meaning="the best of each prompt", keep=_tpp, fixes="prompts"),
    "top": Strategy(meaning="the best of all", keep=_top, reads_keep_fraction=True),
    "best_of_n": Strategy(
        meaning="the best of each prompt's first best_of", keep=_best_of_n, fixes="prompts", reads_best_of=True
    ),
    "threshold": Strategy(meaning="every reward at or above the threshold", keep=_threshold),
    "importance": Strategy(
        meaning="all, weighted to the target shares",
        keep=group_aware.importance,
        fixes="classes",
        rejects="classes",
        reads_target=True,
        meet=group_aware.meet_by_weight,
    ),
    "quotas": Strategy(
        meaning="the best of each group or kind, in the target shares",
        keep=group_aware.quotas,
        fixes="classes",
        reads_keep_fraction=True,
        reads_target=True,
        meet=group_aware.meet_by_number,
    ),
    "calibrated": Strategy(
        meaning="vrs, acceptance scaled per group or kind to the target shares",
        keep=group_aware.calibrated,
        fixes="classes",
        reads_r_max=True,
        reads_target=True,
        meet=group_aware.meet_by_weight,
    ),
    "penalty": Strategy(
        meaning="vrs, groups or kinds above their target share pay",
        keep=group_aware.penalty,
        reads_r_max=True,
        reads_target=True,
        costs_classes=True,
    ),
    "reweight": Strategy(
        meaning="vrs, then weights per group or kind, and more candidates for weaker groups",
        keep=group_aware.reweight,
        fixes="classes",
        reads_r_max=True,
        reads_target=True,
        meet=group_aware.meet_by_weight,
        more_for_weaker=True,
    ),
}
_BY_KEY = {CUSTOM: Strategy(meaning="your function, named by selection.function", keep=_custom, modelled=False)}
STRATEGIES = Registry(_BUILT_IN, "scpl_ray.selectors", _adopted, _BY_KEY)
"""The strategies by ``selection.strategy``: these, and those of installed packages."""


def steers(selection: Selection) -> bool:
    """Whether the strategy draws more for groups that were served worse, so that their quality has to be known."""
    return STRATEGIES[selection.strategy].more_for_weaker


def reads_texts(selection: Selection) -> bool:
    """Whether a strategy may read the texts: the user's own code and that of packages may, ours goes by numbers."""
    return not STRATEGIES[selection.strategy].modelled


def needs_kinds(selection: Selection) -> bool:
    """Whether the kinds of all completions have to be judged before selection."""
    return selection.target_of == "kinds" and STRATEGIES[selection.strategy].reads_target


def completions_per_group(
    selection: Selection, samples_per_prompt: int, quality: ArrayLike, queries: ArrayLike, fewest: int = 1
) -> IntArray:
    """Completions to sample for the queries of each group in all, shape (..., K); they sum to n N for N queries.

    They are n per query for all groups, unless the strategy draws more for groups with lower quality: see
    :func:`scpl_ray.selection.allotment.more_for_weaker`.

    Args:
        selection: the strategy.
        samples_per_prompt: n >= 1.
        quality: q_k in [0, 1] of the policy that answers, shape (..., K); not used by other strategies.
        queries: number of queries of each group, shape (..., K).
        fewest: fewest completions of a query that can be used, at most n.

    Raises:
        ValueError: a quality that is NaN or outside [0, 1], or fewer than one sample.
    """
    asked = np.asarray(queries)
    if samples_per_prompt < 1:
        raise ValueError(f"samples_per_prompt: {samples_per_prompt} is below 1; sample at least one completion")
    if not steers(selection):
        return np.asarray(asked * samples_per_prompt)
    q = np.asarray(quality, dtype=np.float64)
    if not np.all((q >= 0) & (q <= 1)):
        raise ValueError(f"quality: {q.tolist()} holds NaN or a number outside [0, 1]; measure every group")
    return allotment.more_for_weaker(samples_per_prompt, q, asked, fewest)


def select(
    candidates: Candidates,
    selection: Selection,
    *,
    round_: int,
    seed: int,
    initial_shares: ArrayLike,
    confusion: ArrayLike | None = None,
) -> Selected:
    """Keep completions by the configured strategy, or its matched random control.

    Args:
        candidates: the round's completions; with ``selection.target_of: kinds`` their kinds have been judged.
        selection: strategy and settings.
        round_: enters the random stream.
        seed: the run's seed.
        initial_shares: shares of round 1, shape (K,); the target where ``selection.target`` is ``initial``.
        confusion: the judge's P(judged j | true i), shape (K, K); ``None``: it makes no errors.

    Raises:
        ValueError: an unknown strategy, a target that is not a vector of shares or that the judge's errors put out of
            reach, a bound below a reward, an infeasible quota, a wanted group or kind that is empty, kinds that are
            wanted but not judged, or nothing accepted; the message says what to change.
    """
    if selection.strategy not in STRATEGIES:
        raise ValueError(
            f"selection.strategy: {selection.strategy!r} is unknown; choose one of {', '.join(STRATEGIES.names)}"
        )
    strategy = STRATEGIES[selection.strategy]
    target = _target(candidates, selection, initial_shares, confusion)
    kept = strategy.keep(candidates, selection, Draw(_chance(candidates, "selection", round_, seed), target))
    name = selection.strategy
    if selection.matched_control:
        kept = _matched_random(candidates, kept, strategy, target, _chance(candidates, "control", round_, seed))
        name = f"random control of {name}"
    indices = np.sort(kept.rows)
    weights = np.ones(len(indices)) if kept.class_weights is None else kept.class_weights[target.classes[indices]]
    ranked = candidates
    if selection.matched_control:  # what keeps the target among pairs must not look at rewards either
        ranked = dataclasses.replace(candidates, rewards=_chance(candidates, "control pairs", round_, seed))
    meet = None if strategy.meet is None else functools.partial(strategy.meet, ranked, kept.meets or target)
    return selected(candidates, indices, weights, name, meet)


def _target(
    candidates: Candidates, selection: Selection, initial_shares: ArrayLike, confusion: ArrayLike | None
) -> Target:
    shares = target_shares(selection, candidates.n_groups, initial_shares)
    if not needs_kinds(selection):
        return Target(shares, candidates.groups)
    if candidates.kinds is None:
        raise ValueError(
            "selection.target_of: 'kinds', but the kinds of the completions were not judged; give Candidates.kinds"
        )
    return Target(shares, candidates.kinds, "kind", None if confusion is None else np.asarray(confusion, dtype=float))


def _first_per_prompt(candidates: Candidates, order: IntArray) -> IntArray:
    """The first row of each prompt in this order of rows."""
    _, first = np.unique(candidates.prompts[order], return_index=True)
    return order[first]


def _chance(candidates: Candidates, purpose: str, round_: int, seed: int) -> FloatArray:
    return uniforms(seed, purpose, round_, list(candidates.completion_ids))


def _matched_random(candidates: Candidates, kept: Kept, strategy: Strategy, target: Target, chance: FloatArray) -> Kept:
    """As many rows as were kept, from each stratum that the strategy fixes, chosen by chance instead of by reward.

    Rows of no class are strata of their own, since a strategy leaves them out whatever their reward. The class weights
    of the strategy are used unchanged. Every stratum keeps its first m rows in random order. Where the strategy brings
    kinds to a target and the judge errs, :func:`_matched_kinds` holds the true kinds fixed instead of the judged ones.
    """
    if strategy.fixes == "classes" and strategy.meet is not None and target.confusion is not None:
        return _matched_kinds(candidates, kept, target, chance)
    strata = {"size": np.zeros(candidates.size, np.int64), "prompts": candidates.prompts, "classes": target.classes}
    _, fixed = np.unique(strata[strategy.fixes], return_inverse=True)
    stratum = 2 * fixed + (target.classes == NONE)
    wanted = np.bincount(stratum[kept.rows], minlength=stratum.max() + 1)
    return Kept(_first_of_each(candidates, stratum, wanted, chance), kept.class_weights)


def _matched_kinds(candidates: Candidates, kept: Kept, target: Target, chance: FloatArray) -> Kept:
    """As many rows as were kept, chosen by chance, of which the true kinds meet the target although the judge errs.

    Rows that are judged alike hold other true kinds where chance chose them than where rewards did, so that as many of
    each judged kind would miss the target. A strategy that brings the kinds there by their numbers has a control with
    numbers of its own, of fewer rows where there are not so many of a kind. One that does it by weights has a control
    with the same numbers, and with weights of its own.

    Raises:
        ValueError: the judge errs too much to reach the target, or the strategy kept nothing of a kind that is needed.
    """
    every = target.masses(np.arange(candidates.size))
    judged = target.as_judged(every * target.weights(every, *group_aware.AMONG))
    wanted = target.masses(kept.rows)
    if kept.class_weights is None:
        sought = judged.shares > 0
        size = min(len(kept.rows), int((every[sought] / judged.shares[sought]).min()))
        wanted = np.minimum(largest_remainder(judged.shares, size), every)
        judged = target.as_judged(wanted)
    # the last stratum is that of no kind, of which nothing is wanted
    stratum = np.where(target.classes == NONE, len(wanted), target.classes)
    rows = _first_of_each(candidates, stratum, np.append(wanted, 0), chance)
    if kept.class_weights is None:
        return Kept(rows, meets=judged)
    weights = judged.weights(wanted, "kept", "set a target that is nearer, or use a better judge")
    return group_aware.weighted(rows, weights, target, judged)


def _first_of_each(
    candidates: Candidates, stratum: IntArray, wanted: FloatArray | IntArray, chance: FloatArray
) -> IntArray:
    """As many rows of each stratum as are wanted of it, shape (strata,), the first in random order."""
    order = np.lexsort((candidates.candidate_rank, chance, stratum))
    sizes = np.bincount(stratum, minlength=len(wanted))
    place = np.arange(candidates.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(order[place < wanted[stratum[order]]])
