"""Where preference bias enters a simulated round: how far each step moves the log-odds of one kind."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import logit

from scpl_ray.analytic import model
from scpl_ray.analytic.paths import Paths
from scpl_ray.evaluation.bias import smoothed_logit
from scpl_ray.feedback.population import initial_shares
from scpl_ray.shares import FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """What the steps of rounds 1..T add to the kind A of the group that is largest in round 1; shapes (S, T)."""

    taught: FloatArray
    """Mean reward of A above the mean of the other kinds, in units of reward: what users' choices taught."""
    leaning: FloatArray
    """Log-odds of A, above the base model's, that the answering policy writes if all groups ask equally often."""
    asked: FloatArray
    """Log-odds that the candidates gain because the groups do not ask equally often."""
    selected: FloatArray
    """Log-odds that what is kept gains on the candidates."""
    weighted: FloatArray
    """Log-odds that its weights add."""
    learned: FloatArray
    """Log-odds that neutral answers gain from the round's training."""


def steps(paths: Paths) -> Steps:
    """The steps of every seed and round.

    Candidates and what is kept are counted, and their log-odds smoothed by one half; policies are known exactly.
    """
    experiment = paths.experiment
    a = int(np.argmax(initial_shares(experiment)))
    temperature = experiment.generation.temperature
    neutral = model.tempered(paths.neutral_law, temperature)
    law = model.asked_law(
        model.tempered(paths.revealing_law[:, :-1], temperature),
        neutral[:, :-1],
        experiment.task.marker_strength,
    )
    equally = logit(law[..., a].mean(axis=-1))
    as_asked = logit((law[..., a] * paths.shares[:, 1:]).sum(axis=-1))
    completions = experiment.queries.prompts_per_round * experiment.generation.samples_per_prompt
    kept = np.maximum(paths.kept_fraction[:, 1:] * completions, 1.0)
    candidates = smoothed_logit(_fraction(paths.candidate_kinds[:, 1:, a]), completions)
    rows, data = (smoothed_logit(_fraction(x[:, 1:, a]), kept) for x in (paths.kept_kinds, paths.data_kinds))
    rewards = paths.mean_rewards[:, 1:]
    others = (rewards.sum(axis=-1) - rewards[..., a]) / (rewards.shape[-1] - 1)
    return Steps(
        taught=np.asarray(rewards[..., a] - others),
        leaning=np.asarray(equally - equally[:, :1]),
        asked=np.asarray(as_asked - equally),
        selected=np.asarray(rows - candidates),
        weighted=np.asarray(data - rows),
        learned=np.asarray(np.diff(logit(neutral[..., a]), axis=1)),
    )


def _fraction(shares: FloatArray) -> FloatArray:
    """Shares whose last digit floats may have missed."""
    return np.clip(shares, 0.0, 1.0)
