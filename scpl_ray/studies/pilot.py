"""A pilot before a study: how many seeds decide each claim, at which size of effect."""

from __future__ import annotations

import dataclasses

import numpy as np

from scpl_ray.evaluation import sign_flips
from scpl_ray.evaluation.disparity import ROUNDING
from scpl_ray.studies.contrasts import contrast_of
from scpl_ray.studies.power import minimum_detectable_effect
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import Study, arm_label, points

PILOT_SEEDS = 40
"""Seeds of a pilot in the analytic mode, where they cost nothing."""
CANDIDATES = (6, 7, 8, 9, 10, 12, 14, 16, 20, 25, 30, 40, 50, 75, 100)
"""Numbers of seeds among which the smallest sufficient one is looked for."""
LEVEL, POWER = 0.05, 0.8


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What a pilot says of one claim."""

    name: str
    effect: float
    """Mean difference between the arms in the pilot, on the scale on which the claim is tested."""
    sd: float
    """Standard deviation of the differences between seeds; NaN: the pilot has too few seeds with a number."""
    seeds: int
    """Seeds of the pilot that have a number."""
    detectable: float
    """Difference that the study's seeds find with 80% power; infinite where so few can support no claim; NaN where
    it is not known, see ``at_least``."""
    needed: int | None
    """Fewest seeds that find the pilot's effect with 80% power; ``None``: more than 100, or sd or effect are not known
    or there is none."""
    at_least: bool
    """Whether more seeds may be needed: a verdict about a distance of three or more kinds also needs the test that the
    shares moved, which the differences' spread does not tell."""


def outlook(series: Series, plan: Study, *, seeds: int) -> list[Outlook]:
    """What a pilot says of every claim of a study, at every point of its axes.

    The level is that of the first step of Holm's correction over all claims, so that the power holds whatever the other
    claims turn out to be. A pilot's effect is itself an estimate: a study that is planned for it is too small half of
    the time, so plan for the smallest effect that matters.

    Args:
        series: results of the pilot: of the analytic mode, or of runs that exist.
        plan: the study that is planned.
        seeds: its number of seeds per arm.
    """
    cells = points(plan)
    level = LEVEL / max(1, len(plan.claims) * len(cells))
    found = []
    for cell in cells:
        for claim in plan.claims:
            weights = tuple((arm_label(arm, cell), weight) for arm, weight in claim.contrast.items())
            numbers = contrast_of(series, weights, claim)
            d, at_least = numbers.paired.differences, not numbers.detectable
            name = " ".join([claim.name, *(f"{key}={value}" for key, value in cell)])
            if len(d) < 2:
                found.append(Outlook(name, float("nan"), float("nan"), len(d), float("nan"), None, at_least))
                continue
            effect, sd = float(d.mean()), float(d.std(ddof=1))
            margin = 0.0 if claim.margin is None else claim.margin * (1.0 if claim.direction == "above 0" else -1.0)
            size = abs(effect + margin)
            enough = (n for n in CANDIDATES if size > ROUNDING and _detectable(sd, len(d), n, level) <= size)
            detectable = _detectable(sd, len(d), seeds, level)
            if at_least and np.isfinite(detectable):
                detectable = float("nan")
            found.append(Outlook(name, effect, sd, len(d), detectable, next(enough, None), at_least))
    return found


def _detectable(sd: float, pilot: int, seeds: int, level: float) -> float:
    """What so many seeds find, by a standard deviation from the pilot's seeds; infinite where they support nothing."""
    if seeds < sign_flips.FEWEST:
        return float(np.inf)
    return minimum_detectable_effect(sd, seeds, level=level, power=POWER, estimated_from=pilot)
