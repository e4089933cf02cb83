"""Two groups near equal shares: the loop as a linear map, in closed form.

Let x = s_1 - s_2 be the lean of the queries, y the log-odds by which prompts that reveal their group are answered more
with the first group's kind, and z the same on neutral prompts. Users who choose teach the reward model a difference of
G x between the kinds, and rejection sampling at beta adds the pull (G / beta) x to the log-odds of what is kept. With p
the share of a group's own kind, the kept data lean by (1 + (2 p - 1) G / (2 beta)) x to the first group, and the
learning curve serves it better by 2 q_0 gamma times the lean of the data. Kinds follow what was kept:

    y' = A y + B x,     A = 1 - a_c theta,      B = (1 - a_c) theta G / beta  (incremental)
                        A = (1 - a_c) theta,    B the same                    (retraining)

a_c is the share of real rows among those of a prompt of this context, and theta = n / (n + n_0) what its n rows weigh
beside the prior's n_0. It is the share a of real data where real text answers prompts as users send them; the built-in
language's answers few neutral ones, whose a_c is smaller. Without real data an incremental loop has A = 1: nothing
brings its kinds back, they add up every lean that users ever had.

Users who choose by softmax close the loop: x' = (1 - eta) x + eta (1 - eps) (beta_u / 2) (q_1 - q_2).
"""

from __future__ import annotations

import numpy as np

from scpl_ray.analytic import model
from scpl_ray.config import Experiment
from scpl_ray.shares import FloatArray


def two_group_map(experiment: Experiment, rows: float) -> FloatArray:
    """Jacobian of (x, y, z) from one round to the next at equal shares, shape (3, 3).

    Its first entry alone, with the last two columns left out, is the map of the groups while the kinds stand still.

    Args:
        experiment: two groups, softmax on quality, rejection sampling, the newest data, temperature 1, no spillover.
        rows: rows that a round trains on, real ones included.

    Raises:
        ValueError: another set-up.
    """
    e, a = experiment, experiment.analytic
    found = {
        "groups": len(e.groups.names) == 2,
        "feedback.rule": e.feedback.rule == "softmax",
        "feedback.measure": e.feedback.measure == "quality",
        "selection.strategy": e.selection.strategy == "vrs" and not e.selection.matched_control,
        "cycle.kind": e.cycle.kind == "replace",
        "cycle.real_rows": e.cycle.real_rows == 0,
        "generation.temperature": e.generation.temperature == 1.0,
        "analytic.spillover": a.spillover == 0.0,
        "analytic.quality_ceiling": not isinstance(a.quality_ceiling, tuple),
    }
    if wrong := [name for name, fits in found.items() if not fits]:
        raise ValueError(f"{', '.join(wrong)}: the linear map is that of the defaults with two groups")
    return np.array(
        [
            [held(e) + shares_alone(e) + sum(c * push for c, _, push in kinds(e, rows)), *_returned(e, rows)],
            *([push, *(keep if i == j else 0.0 for j in range(2))] for i, (_, keep, push) in enumerate(kinds(e, rows))),
        ]
    )


def held(experiment: Experiment) -> float:
    """1 - eta: the part of the users who do not choose anew."""
    return experiment.feedback.inertia


def shares_alone(experiment: Experiment) -> float:
    """What a lean of the queries brings back through the learning curve, while the kinds stand still."""
    e, a = experiment, experiment.analytic
    own = e.task.marker_strength * a.own_kind + (1.0 - e.task.marker_strength) / 2.0
    kept = 1.0 + (2.0 * own - 1.0) * pull(e) / 2.0
    slope = 2.0 * float(model.quality_ceilings(e)[0]) * a.learning_exponent
    return _reaction(e) * (1.0 - model.own_kind_weight(e)) * slope * (1.0 - e.cycle.real_share) * kept


def pull(experiment: Experiment) -> float:
    """G / beta: log-odds by which selection prefers a kind, per unit of the lean of those who choose."""
    population = experiment.reward.choices == "population"
    return model.choice_gain(experiment) / experiment.selection.beta * population


def kinds(experiment: Experiment, rows: float) -> list[tuple[float, float, float]]:
    """For prompts that reveal their group and for neutral ones: what a lean of the kinds brings back, A and B."""
    e, a = experiment, experiment.analytic
    m, share = e.task.marker_strength, e.cycle.real_share
    marked = np.array([m, 1.0 - m])
    marked_in_real = np.array([model.marked_in_real(e), 1.0 - model.marked_in_real(e)])
    of_real = share * marked_in_real
    of_all = (1.0 - share) * marked + of_real
    reaction = _reaction(e) * model.own_kind_weight(e)
    effects = (2.0 * m * a.own_kind * (1.0 - a.own_kind), (1.0 - m) / 2.0)
    found = []
    reals = np.divide(of_real, of_all, out=np.zeros(2), where=of_all > 0)
    for effect, n, real in zip(effects, of_all * rows / [2.0, 1.0], reals, strict=True):
        theta = n / (n + a.prior_rows)
        keep = (1.0 - real) * theta if e.loop.starts_from_base else 1.0 - real * theta
        found.append((reaction * effect, keep, (1.0 - real) * theta * pull(e)))
    return found


def _returned(experiment: Experiment, rows: float) -> list[float]:
    return [effect * keep for effect, keep, _ in kinds(experiment, rows)]


def _reaction(experiment: Experiment) -> float:
    """eta (1 - eps) beta_u / 2: lean of the users per difference in quality."""
    rule = experiment.feedback
    return (1.0 - rule.inertia) * (1.0 - rule.noise) * rule.beta / 2.0
