"""The names that a config may choose from, with what each means, for `scpl init` and the documentation."""

from __future__ import annotations

from scpl_ray import tasks
from scpl_ray.config.presets import PRESETS
from scpl_ray.feedback import rules
from scpl_ray.selection import cycles, pairs, strategies
from scpl_ray.training.objectives import OBJECTIVES

CHOICES: dict[str, dict[str, str]] = {
    "preset": {name: ", ".join(f"{key}={value}" for key, value in keys.items()) for name, keys in PRESETS.items()},
    "task.name": {name: kind.meaning for name, kind in tasks.TASKS.items()},
    "feedback.rule": {name: rule.meaning for name, rule in rules.RULES.items()},
    "selection.strategy": {
        name: strategy.meaning for name, strategy in {**strategies.STRATEGIES, **strategies.STRATEGIES.by_key}.items()
    },
    "cycle.kind": {name: cycle.meaning for name, cycle in cycles.CYCLES.items()},
    "training.objective": {name: objective.meaning for name, objective in OBJECTIVES.items()},
    "training.dpo_pairs": {name: rule.meaning for name, rule in pairs.RULES.items()},
}
"""The allowed names and their meanings, by dotted config key."""
