"""What so few seeds can find: the smallest p-value, the seeds that a family needs, and the detectable effect."""

from __future__ import annotations

import functools

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from scpl_ray import seeds
from scpl_ray.evaluation import sign_flips
from scpl_ray.shares import FloatArray, check_fraction

STUDIES = 4_000
"""Simulated studies behind a power."""
EXACT_UP_TO = 10
"""With more seeds, the sign-flip p-value of normal differences is Student's for all that a power needs."""
MOST_SIMULATED = 100
"""Seeds of the largest studies that are simulated; beyond, an effect found falls as one over their number's root."""
EFFECTS = np.concatenate([[0.0], np.geomspace(0.2, 8.0, 18), np.geomspace(12.0, 1e5, 24)])
"""Mean differences at which power is simulated, in standard deviations."""
SURE = 8.0
"""Beyond this effect, 6 or more seeds have the smallest p-value there is."""
NODES = (np.arange(400) + 0.5) / 400
LARGEST = 1e5


def seeds_needed(claims: int, level: float = 0.05) -> int | None:
    """Fewest seeds with which the first of so many claims can be shown by sign flips after Holm's correction.

    ``None``: no number is enough, because a p-value of drawn sign patterns is at least one over their number.
    """
    wanted = level / max(1, claims)
    numbers = range(sign_flips.FEWEST, sign_flips.EXACT_UP_TO + 2)
    return next((n for n in numbers if sign_flips.smallest_p(n) <= wanted), None)


def minimum_detectable_effect(
    sd: float, n_seeds: int, *, level: float = 0.05, power: float = 0.8, estimated_from: int | None = None
) -> float:
    """Mean difference that so many seeds detect with the given power, in the units of ``sd``; infinite if none is.

    ``sd`` is an estimate from few seeds: taken for the truth it would promise too much (.64 of the .8 at 3 seeds).
    It is multiplied by the factor with which the power is had *on average* over what sd could have come out, which is
    an upper bound of sd by its chi-square law. The test is :func:`scpl_ray.evaluation.sign_flips.two_sided_p` of normal
    differences; with fewer seeds than that needs, it is whether Student's two-sided interval leaves out 0.

    Args:
        sd: standard deviation of the differences between seeds, >= 0.
        n_seeds: S >= 2.
        level: significance level of the two-sided test.
        power: wanted probability of detection, above ``level``.
        estimated_from: number of seeds that ``sd`` was estimated from, at least 2; ``None``: S.

    Raises:
        ValueError: a number outside these ranges.
    """
    if n_seeds < 2:
        raise ValueError(f"n_seeds: {n_seeds} must be at least 2")
    if estimated_from is not None and estimated_from < 2:
        raise ValueError(f"estimated_from: {estimated_from} must be at least 2")
    if not (np.isfinite(sd) and sd >= 0):
        raise ValueError(f"sd: {sd} must be a finite number >= 0")
    check_fraction("level", level)
    check_fraction("power", power)
    if power <= level:
        raise ValueError(f"power: {power} must exceed the level {level}: any test has that much without an effect")
    simulated = min(n_seeds, MOST_SIMULATED)
    factor = _factor(simulated, level, power, min(estimated_from or n_seeds, MOST_SIMULATED))
    factor *= float(np.sqrt(simulated / n_seeds))
    return factor * sd if np.isfinite(factor) else factor


@functools.lru_cache(maxsize=1024)
def _factor(n_seeds: int, level: float, power: float, estimated_from: int) -> float:
    """Effect in estimated standard deviations that is found with this power on average."""
    found = np.maximum.accumulate((_p_values(n_seeds) <= level).mean(axis=1))
    estimated = np.sqrt(stats.chi2.ppf(NODES, estimated_from - 1) / (estimated_from - 1))

    def short_of(log_factor: float) -> float:
        return float(np.interp(np.exp(log_factor) * estimated, EFFECTS, found).mean()) - power

    if short_of(float(np.log(LARGEST))) < 0:
        return float("inf")
    return float(np.exp(brentq(short_of, np.log(1e-3), np.log(LARGEST))))


@functools.lru_cache(maxsize=64)
def _p_values(n_seeds: int) -> FloatArray:
    """P-values of simulated studies of normal differences, by effect, shape (len(EFFECTS), STUDIES)."""
    noise = seeds.generator(n_seeds, "power of normal differences").normal(size=(STUDIES, n_seeds))
    shifted = noise + EFFECTS[:, None, None]
    if n_seeds >= sign_flips.FEWEST:
        p = np.full(shifted.shape[:2], sign_flips.smallest_p(n_seeds))
        p[EFFECTS <= SURE] = _of_test(shifted[EFFECTS <= SURE])
        return p
    return _students(shifted)


def _of_test(shifted: FloatArray) -> FloatArray:
    n_seeds = shifted.shape[-1]
    if n_seeds <= EXACT_UP_TO:
        return sign_flips.two_sided_p(shifted)
    least = sign_flips.smallest_p(n_seeds)
    return np.asarray(np.maximum(np.maximum(_students(shifted), least), sign_flips.tail_p(shifted)))


def _students(shifted: FloatArray) -> FloatArray:
    n_seeds = shifted.shape[-1]
    t = shifted.mean(axis=-1) / shifted.std(axis=-1, ddof=1) * np.sqrt(n_seeds)
    return np.asarray(2.0 * stats.t.sf(np.abs(t), n_seeds - 1))
