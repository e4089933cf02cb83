"""Whether the deviations of an arm die out: the joint map of its shares and kinds, from a results table."""

from __future__ import annotations

import dataclasses

import numpy as np

from scpl_ray.config import Experiment
from scpl_ray.feedback.stability import GroupMap, Part, carried_on, estimate_group_map, estimate_loop_map
from scpl_ray.shares import SUM_TOLERANCE
from scpl_ray.studies.series import Series


def arm_stability(series: Series, arm: str, experiment: Experiment | None) -> tuple[GroupMap | None, str]:
    """The stability of an arm, or ``None`` and why it was not estimated.

    The state is the groups' shares, the kinds on neutral prompts, and each group's share of its own kind, from round 1
    on, since round 0 has no queries and repeats the shares of round 1. Without the kinds, or without the config, which
    tells how many answers were judged and what a round passes on, the shares alone never show that a loop is stable.

    Args:
        series: the results.
        arm: its label.
        experiment: its config; ``None``: not known.
    """
    shares, kinds, own, neutral = (
        series.paths(arm, metric)[:, 1:] for metric in ("share", "kind_share", "own_kind_share", "kind_count")
    )
    n_groups = shares.shape[-1]
    joint = experiment is not None and kinds.shape[-1] == own.shape[-1] == n_groups
    used = [shares, kinds, own] if joint else [shares]
    there = np.logical_and.reduce([~np.isnan(values).any(axis=(1, 2)) for values in used])
    shares, kinds, own = (values[there] if len(values) == len(there) else values for values in (shares, kinds, own))
    if len(shares) < 2 or shares.shape[1] < 2:
        return None, f"{len(shares)} whole seeds of {shares.shape[1]} rounds; at least 2 of each are needed"
    if np.any(shares <= 0):
        return None, "a group died out: its log ratio is infinite"
    if not np.allclose(shares.sum(axis=-1), 1.0, atol=SUM_TOLERANCE):
        return None, "the shares do not sum to 1: a group is missing from the results"
    if not joint or experiment is None:
        return _shares_alone(estimate_group_map(shares, state="shares", draws=np.inf)), ""
    asked = experiment.evaluation
    decided = neutral[there].sum(axis=-1) if neutral.shape[-1] == n_groups else np.full(shares.shape[:2], np.nan)
    decided = np.where(np.isnan(decided), asked.neutral_prompts * asked.samples_per_prompt, decided)
    judged = asked.prompts_per_group * asked.samples_per_prompt
    parts = [Part("shares", shares), Part("kinds", kinds, decided)]
    parts += [Part("kinds", np.stack([own[..., k], 1.0 - own[..., k]], axis=-1), judged) for k in range(n_groups)]
    return estimate_loop_map(parts, carried=carried_on(experiment, whole_policy=False, shares_alone=True)), ""


def _shares_alone(found: GroupMap) -> GroupMap:
    if found.verdict != "stable":
        return found
    reason = (
        f"the interval of rho(J), {found.low:.3f} to {found.high:.3f}, of the shares alone shows no growth, but the "
        "policy carries kinds of text from round to round, which the results or the config leave out"
    )
    return dataclasses.replace(found, verdict="cannot tell", reason=reason)
