"""Selection with a target: importance weights, quotas, calibration, penalty, reweighting.

Quotas, weights and calibration bring the kept shares to the target, of groups or of kinds; a penalty leaves a bias.
"""

from __future__ import annotations

import numpy as np

from scpl_ray.config import Selection
from scpl_ray.selection.candidates import Candidates, Draw, Kept, acceptance, accepted, budget
from scpl_ray.selection.targets import NONE, Target
from scpl_ray.shares import FloatArray, IntArray, largest_remainder

SETTLED = 25
"""How often quotas of judged kinds are corrected for what the last ones would keep; each time changes them less."""
LARGEST_MISS = 0.01
"""By how much the true share of a kind may miss its target, beyond a row, before the target counts as out of reach."""
AMONG = "among the completions", "raise queries.prompts_per_round"


def importance(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep all completions of the wanted classes, weighted by tau_k / p_k."""
    rows = _classified(draw.target)
    weights = draw.target.weights(draw.target.masses(rows), *AMONG)
    return weighted(rows, weights, draw.target)


def quotas(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep the best m_k of each class, m_k = tau_k M by largest remainder."""
    target = draw.target
    order = candidates.best_first[target.classes[candidates.best_first] != NONE]
    size = budget(candidates, selection)
    shares = quota_shares(target, candidates.rewards, order, size)
    counts, there = largest_remainder(shares, size), target.masses(order).astype(np.int64)
    if np.any(counts > there):
        wanted = shares > 0
        most = float((there[wanted] / shares[wanted]).min()) / candidates.size
        raise ValueError(
            f"selection.keep_fraction: {selection.keep_fraction} asks for {counts.tolist()} per {target.what} of "
            f"{there.tolist()}; quotas are feasible up to about {most:.4g}"
        )
    rows = np.concatenate([order[target.classes[order] == k][:count] for k, count in enumerate(counts)])
    return Kept(rows, meets=target.as_judged(counts))


def quota_shares(target: Target, rewards: FloatArray, order: IntArray, size: int) -> FloatArray:
    """The shares by class of ``size`` rows of which each class's best are kept, shape (K,).

    They are the target's where classes are known. Where the judge errs, the best rows that are judged j hold the true
    kinds in proportions that depend on how many they are: quotas are found at which the true kinds meet the target.

    Args:
        target: the wanted shares.
        rewards: rewards of all completions, shape (N,).
        order: the rows that can be kept, best first.
        size: number of rows to be kept.

    Raises:
        ValueError: the judge errs too much to reach the target.
    """
    if target.confusion is None:
        return target.shares
    target.check(target.true(target.masses(order)), *AMONG)
    by_class = [rewards[order[target.classes[order] == k]] for k in range(len(target.shares))]
    held = target.mixture(target.masses(order))
    shares = found = np.asarray(np.linalg.lstsq(held, target.shares, rcond=None)[0])
    for _ in range(SETTLED):
        shares = np.maximum(found, 0.0) / np.maximum(found, 0.0).sum()
        for k, own in enumerate(by_class):
            count = min(len(own), max(1, round(shares[k] * size)))
            if count:
                above = np.array([np.count_nonzero(other >= own[count - 1]) for other in by_class], dtype=np.float64)
                held[:, k] = target.mixture(above)[:, k]
        found = (shares + np.linalg.lstsq(held, target.shares, rcond=None)[0]) / 2.0
    if np.abs(held @ shares - target.shares).max() > LARGEST_MISS + 1.0 / size:
        raise ValueError(target.out_of_reach(target.true(target.masses(order)) / target.masses(order).sum()))
    return np.asarray(shares)


def calibrated(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Rejection sampling with acceptance a c_k, c_k ~ tau_k / (p_k Z_k) and Z_k the mean acceptance in class k."""
    target, rows = draw.target, _classified(draw.target)
    target.check(target.masses(rows), *AMONG)
    accept = acceptance(candidates, selection)
    # the mass is N p_k Z_k, which is needed only up to a constant factor
    mass = target.masses(rows, accept[rows])
    weights = target.weights(mass, "accepted, every acceptance underflows", "raise selection.beta")
    rows = accepted(accept * _by_row(weights / weights.max(), target), draw)
    return Kept(rows, meets=target.as_judged(mass * weights))


def penalty(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Rejection sampling by reward minus lambda ln(s_k / tau_k); a judged kind pays what it is expected to be."""
    target, rows = draw.target, _classified(draw.target)
    if np.any(target.shares == 0):
        raise ValueError(
            f"selection.target: {target.shares.tolist()} holds a 0, where the log excess is infinite; use quotas"
        )
    masses = target.masses(rows)
    true = target.true(masses)
    target.check(true, *AMONG)
    excess = target.mixture(masses).T @ np.log(true / true.sum() / target.shares)
    accept = acceptance(candidates, selection, selection.penalty * _by_row(excess, target))
    return Kept(accepted(np.where(target.classes != NONE, accept, 0.0), draw))


def reweight(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Rejection sampling by reward, then weights by class that bring the kept shares to the target.

    Our reading of reward-based rejection sampling with reweighting (Wang et al., ACL 2026): the weights come from the
    imbalance among the kept completions, and :mod:`scpl_ray.selection.allotment` gives a weaker group more candidates.
    """
    rows = accepted(acceptance(candidates, selection), draw)
    remedy = "raise selection.beta or generation.samples_per_prompt"
    return weighted(rows, draw.target.weights(draw.target.masses(rows), "accepted", remedy), draw.target)


PAIRED = "paired", "raise generation.samples_per_prompt or generation.temperature"


def meet_by_weight(candidates: Candidates, target: Target, rows: IntArray) -> tuple[IntArray, FloatArray]:
    """Positions in ``rows`` of the wanted classes, and the weights that bring them to the target.

    Raises:
        ValueError: there is nothing of a wanted class, or the judge errs too much to reach the target.
    """
    weights = _by_row(target.weights(target.masses(rows), *PAIRED), target)[rows]
    kept = np.flatnonzero(weights > 0)
    return kept, weights[kept]


def meet_by_number(candidates: Candidates, target: Target, rows: IntArray) -> tuple[IntArray, FloatArray]:
    """Positions in ``rows`` of the best of each class, as many as can be kept in the target shares, and equal weights.

    Raises:
        ValueError: there is nothing of a wanted class, or the judge errs too much to reach the target.
    """
    place = np.full(candidates.size, -1)
    place[rows] = np.arange(len(rows))
    order = candidates.best_first[(place[candidates.best_first] >= 0)]
    order = order[target.classes[order] != NONE]
    there = target.masses(order)
    target.check(there, *PAIRED)
    for size in range(len(order), 0, -1):
        counts = largest_remainder(quota_shares(target, candidates.rewards, order, size), size)
        if np.all(counts <= there):
            break
    kept = np.concatenate([order[target.classes[order] == k][:count] for k, count in enumerate(counts)])
    return np.sort(place[kept]), np.ones(len(kept))


def _classified(target: Target) -> IntArray:
    """The rows that have a class, ascending."""
    return np.flatnonzero(target.classes != NONE)


def _by_row(values: FloatArray, target: Target) -> FloatArray:
    """Values by class (K,) as values by completion, shape (N,); 0 for one of no class."""
    return np.append(values, 0.0)[target.classes]


def weighted(rows: IntArray, weights: FloatArray, target: Target, meets: Target | None = None) -> Kept:
    """Those of the rows, shape (M,), of which the class has a weight, with the weights by class, shape (K,)."""
    return Kept(rows[_by_row(weights, target)[rows] > 0], weights, meets)
