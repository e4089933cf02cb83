"""A second implementation of the analytic mode with the default keys, in plain Python: slow, short, and independent.

The benchmark and the tests compare the array code with it. It knows one set-up only: rejection sampling against the
round's maximum, the newest data, incremental training, and users who choose by softmax on quality.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from scpl_ray.config import Experiment
from scpl_ray.tasks import TASKS

_RULE = ("softmax", "quality", "population", "model")


def simulate_plainly(experiment: Experiment, seed: int) -> tuple[list[list[float]], list[float]]:
    """Simulate one seed: shares per round (T + 1 lists of K numbers), and the exact final kinds on neutral prompts (K).

    Raises:
        ValueError: the set-up differs from that of the default keys.
    """
    e, a = experiment, experiment.analytic
    shape = (e.selection.strategy, e.selection.r_max, e.selection.matched_control, e.cycle.kind, e.loop.kind)
    rule = (e.feedback.rule, e.feedback.measure, e.reward.choices, *e.reward.terms)
    if shape != ("vrs", "batch", False, "replace", "incremental") or rule != _RULE:
        raise ValueError(f"experiment: {shape} {rule}; the plain loop knows that of the default keys only")
    draws = random.Random(seed)
    k = len(e.groups.names)
    weight = e.reward.terms["model"]
    sds = [abs(weight) * sd for sd in (a.reward_sd if isinstance(a.reward_sd, tuple) else [a.reward_sd] * k)]
    own, other = a.own_kind, (1.0 - a.own_kind) / (k - 1)
    # K laws for prompts that reveal their group, and one last law for neutral prompts
    laws = [[own if j == g else other for j in range(k)] for g in range(k)] + [[1.0 / k] * k]
    shares, path = list(e.groups.shares), [list(e.groups.shares), list(e.groups.shares)]
    for t in range(1, e.loop.rounds + 1):
        asked = e.reward.choices_per_round
        choosing = draws.choices(range(k), shares, k=asked)
        means = [weight * a.choice_gain * (choosing.count(j) / asked - 1.0 / k) for j in range(k)]
        means[0] += weight * a.kind_advantage
        answered = []
        for _ in range(e.queries.prompts_per_round):
            group = draws.choices(range(k), shares)[0]
            context = group if draws.random() < e.task.marker_strength else k
            for _ in range(e.generation.samples_per_prompt):
                kind = draws.choices(range(k), laws[context])[0]
                answered.append((group, context, kind, draws.gauss(means[kind], sds[kind])))
        highest = max(reward for *_, reward in answered)
        counts = [[0.0] * k for _ in range(k + 1)]
        groups = [0] * k
        for group, context, kind, reward in answered:
            if draws.random() < math.exp((reward - highest) / e.selection.beta):
                counts[context][kind] += 1
                groups[group] += 1
        for context, law in enumerate(laws):
            total = sum(counts[context]) + a.prior_rows
            laws[context] = [(n + a.prior_rows * p) / total for n, p in zip(counts[context], law, strict=True)]
        if t < e.loop.rounds:
            shares = _next(e, shares, [n / sum(groups) for n in groups], laws, draws)
            path.append(shares)
    return path, laws[k]


def _next(
    e: Experiment, shares: Sequence[float], data: Sequence[float], laws: Sequence[Sequence[float]], draws: random.Random
) -> list[float]:
    """Shares of the next round, after a measurement on finitely many prompts."""
    k, a, m = len(shares), e.analytic, e.task.marker_strength
    ceilings = list(a.quality_ceiling) if isinstance(a.quality_ceiling, tuple) else [a.quality_ceiling] * k
    n = e.evaluation.prompts_per_group * e.evaluation.samples_per_prompt
    weight = TASKS[e.task.name].own_kind_weight if a.own_kind_weight == "auto" else a.own_kind_weight
    odds = []
    for g in range(k):
        curve = min(1.0, ceilings[g] * (k * data[g]) ** a.learning_exponent)
        own = m * laws[g][g] + (1.0 - m) * laws[k][g]
        learned = sum(draws.random() < curve for _ in range(n)) / n
        found = sum(draws.random() < own for _ in range(n)) / n
        quality = (1.0 - weight) * learned + weight * found
        odds.append(math.exp(e.feedback.beta * quality))
    inertia, noise = e.feedback.inertia, e.feedback.noise
    return [
        inertia * s + (1 - inertia) * ((1 - noise) * o / sum(odds) + noise / k)
        for s, o in zip(shares, odds, strict=True)
    ]
