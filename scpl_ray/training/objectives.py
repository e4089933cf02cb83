"""The training objectives by name, and their properties that are known without importing torch.

An objective is one function in :mod:`scpl_ray.training.losses` and one record in :data:`OBJECTIVES`.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from scpl_ray.config import Experiment, Training
from scpl_ray.selection.pairs import RULES
from scpl_ray.selection.strategies import STRATEGIES

if TYPE_CHECKING:
    from scpl_ray.training.losses import Loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """A registered objective and its properties."""

    name: str
    """Its value of ``training.objective``."""
    meaning: str
    """What the objective makes more likely, in a few words."""
    builder: str
    """``module:function`` that maps :class:`~scpl_ray.config.Training` to the loss; it is imported when called."""
    pairs: bool = False
    """Whether the objective uses pairs of a chosen and a rejected completion."""
    modelled: bool = False
    """Whether the analytic mode models training with this objective."""

    def loss(self, training: Training) -> Loss:
        """The loss for these settings."""
        built: Loss = pkgutil.resolve_name(self.builder)(training)
        return built

    def about(self, training: Training) -> str:
        """What the loss is computed on, as text for the plan of a run."""
        if self.pairs:
            return f"{self.name.upper()} against the {training.dpo_reference}"
        return f"loss on {training.loss_on}"

    def conflicts(self, experiment: Experiment) -> Iterator[str]:
        """Settings that conflict with this objective, each as the text ``key = value: rule and way out``."""
        if not self.pairs:
            return
        this = f"training.objective = {self.name!r}"
        if experiment.generation.samples_per_prompt < 2:
            yield (
                f"generation.samples_per_prompt = 1: {this} pairs two answers to one prompt; draw at least 2, or "
                "use sft"
            )
        for key, value in (("real_share", experiment.cycle.real_share), ("real_rows", experiment.cycle.real_rows)):
            if value:
                yield (
                    f"cycle.{key} = {value:g}: {this}, and a real answer has no rejected one beside it; set 0, "
                    "or use sft"
                )
        if experiment.training.loss_on == "all":
            yield f"training.loss_on = 'all': {this} compares two completions of one prompt; set completion, or use sft"
        strategy, rule = experiment.selection.strategy, RULES[experiment.training.dpo_pairs]
        if strategy in STRATEGIES and STRATEGIES[strategy].rejects != rule.needs:
            yield f"selection.strategy = {strategy!r}: {rule.otherwise}"


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(
            name="sft",
            meaning="likelihood of what was kept",
            builder="scpl_ray.training.losses:sft",
            modelled=True,
        ),
        Objective(
            name="dpo",
            meaning="preference of what was chosen over what was rejected",
            builder="scpl_ray.training.losses:dpo",
            pairs=True,
        ),
    )
}
"""Objectives by ``training.objective``."""
