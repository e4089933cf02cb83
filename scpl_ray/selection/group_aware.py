"""Selection that uses the groups: importance weights, quotas, calibration, penalty, reweighting.

Quotas, weights and calibration bring the kept shares to the target; a penalty leaves a bias.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from scpl_ray.config import Selection
from scpl_ray.selection.candidates import Candidates, Draw, Kept, acceptance, accepted, budget
from scpl_ray.selection.formulas import calibrated_multipliers, importance_weights
from scpl_ray.shares import FloatArray, IntArray, check_shares, largest_remainder


def target_shares(selection: Selection, n_groups: int, initial_shares: ArrayLike) -> FloatArray:
    """The target group shares of the group-aware strategies, shape (K,).

    Raises:
        ValueError: not one share per group, or shares that are negative or do not sum to 1.
    """
    match selection.target:
        case "balanced":
            return np.full(n_groups, 1.0 / n_groups)
        case "initial":
            return check_shares("initial_shares", initial_shares, n_groups)
        case shares:
            return check_shares("selection.target", shares, n_groups)


def more_for_weaker(samples_per_prompt: int, quality: FloatArray) -> IntArray:
    """Completions per query of each group, more where its quality is lower, shape (..., K) like ``quality``.

    n_g = n (1 - q_g) / mean_j (1 - q_j), rounded, at least 1 and at most 2 n. If all groups ask equally
    often, the mean is about n per query, or less where the cap limits the weakest. Where every q_g = 1, n_g = n.
    """
    samples = np.full(quality.shape, samples_per_prompt)
    lack = 1.0 - quality
    mean = np.broadcast_to(lack.mean(axis=-1, keepdims=True), quality.shape)
    wanted = np.divide(samples * lack, mean, out=samples.astype(np.float64), where=mean > 0)
    return np.asarray(np.clip(np.floor(wanted + 0.5), 1, 2 * samples_per_prompt), dtype=np.int64)


def importance(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep all completions of the wanted groups, weighted by tau_g / p_g."""
    _check_groups(candidates.group_counts, draw.target, "among the completions", "raise queries.prompts_per_round")
    rows = np.flatnonzero(draw.target[candidates.groups] > 0)
    return Kept(rows, importance_weights(candidates.shares, draw.target))


def quotas(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Keep the best m_g of each group, m_g = tau_g M by largest remainder."""
    counts = largest_remainder(draw.target, budget(candidates, selection))
    if np.any(counts > candidates.group_counts):
        wanted = draw.target > 0
        most = float((candidates.group_counts[wanted] / draw.target[wanted]).min()) / candidates.size
        raise ValueError(
            f"selection.keep_fraction: {selection.keep_fraction} asks for {counts.tolist()} per group of "
            f"{candidates.group_counts.tolist()}; quotas are feasible up to about {most:.4g}"
        )
    order = candidates.best_first
    rows = [order[candidates.groups[order] == g][:count] for g, count in enumerate(counts)]
    return Kept(np.concatenate(rows))


def calibrated(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Rejection sampling with acceptance a c_g, c_g ~ tau_g / (p_g Z_g) and Z_g the mean acceptance in group g."""
    _check_groups(candidates.group_counts, draw.target, "among the completions", "raise queries.prompts_per_round")
    accept = acceptance(candidates, selection)
    mass = np.bincount(candidates.groups, weights=accept, minlength=candidates.n_groups)
    _check_groups(mass, draw.target, "accepted, every acceptance underflows", "raise selection.beta")
    # mass is N p_g Z_g, which is needed only up to a constant factor
    multipliers = calibrated_multipliers(mass, draw.target, 1.0)
    return Kept(accepted(accept * multipliers[candidates.groups], draw))


def penalty(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Rejection sampling by reward minus lambda ln(s_g / tau_g)."""
    if np.any(draw.target == 0):
        raise ValueError(
            f"selection.target: {draw.target.tolist()} holds a 0, where the log excess is infinite; use quotas"
        )
    _check_groups(candidates.group_counts, draw.target, "among the completions", "raise queries.prompts_per_round")
    return Kept(accepted(acceptance(candidates, selection, np.log(candidates.shares / draw.target)), draw))


def reweight(candidates: Candidates, selection: Selection, draw: Draw) -> Kept:
    """Rejection sampling by reward, then group weights that bring the kept shares to the target.

    Our reading of reward-based rejection sampling with reweighting (Wang et al., ACL 2026): the weights come from the
    imbalance among the kept completions, and :func:`more_for_weaker` gives the weaker group more candidates.
    """
    rows = accepted(acceptance(candidates, selection), draw)
    counts = np.bincount(candidates.groups[rows], minlength=candidates.n_groups)
    _check_groups(counts, draw.target, "accepted", "raise selection.beta or generation.samples_per_prompt")
    wanted = rows[draw.target[candidates.groups[rows]] > 0]
    return Kept(wanted, importance_weights(counts / len(rows), draw.target))


def _check_groups(masses: ArrayLike, target: FloatArray, where: str, remedy: str) -> None:
    missing = np.flatnonzero((np.asarray(masses) == 0) & (target > 0))
    if len(missing):
        group = int(missing[0])
        raise ValueError(
            f"selection.target: wants share {target[group]:g} of group {group}, of which nothing is {where}; {remedy}"
        )
