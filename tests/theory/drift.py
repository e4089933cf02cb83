"""The null model of every claim about bias: how far shares move by sampling noise, with no preference at all."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from scpl_ray import seeds
from scpl_ray.shares import FloatArray, IntArray, check_shares, normalise
from tests.theory.cycle_theory import drift_sd


@dataclasses.dataclass(frozen=True)
class DriftNull:
    """Standard deviation of the measured change of a share after t rounds without any preference."""

    share_sd: float
    """In units of the share."""
    log_odds_sd: float
    """In nats, to first order: the share's divided by p (1 - p)."""


def drift_null(share: float, draws: int, rounds: int, judged: int) -> DriftNull:
    """How far the measured share of a kind moves between round 0 and round t by chance alone.

    The variance is p (1 - p) times the sum of 1 - h for the walk of the share itself, h / m for judging it at the end
    and 1 / m for judging it at the start, with h = (1 - 1/n)^t. The model is taken to learn the shares of its n
    training rows exactly (Wright-Fisher); one that moves only part of the way drifts less.

    Args:
        share: p of the kind at round 0, in (0, 1).
        draws: n, independent training rows per round.
        rounds: t >= 0.
        judged: m, completions judged per round.

    Raises:
        ValueError: a number outside those ranges.
    """
    if not 0 < share < 1:
        raise ValueError(f"share: {share} must lie between 0 and 1; a kind of share 0 or 1 cannot drift")
    _check_positive(draws=draws, judged=judged)
    if rounds < 0:
        raise ValueError(f"rounds: {rounds} is negative; give 0 or more")
    spread = share * (1.0 - share)
    walk = float(drift_sd(share, draws, rounds)) ** 2
    sd = float(np.sqrt(walk + (spread - walk) / judged + spread / judged))
    return DriftNull(sd, sd / spread)


def wright_fisher(
    shares: ArrayLike, *, draws: int, rounds: int, runs: int, seed: int, real_share: float = 0.0
) -> FloatArray:
    """Shares of K kinds that are redrawn each round, s_{t+1} ~ Multinomial(n, (1 - alpha) s_t + alpha s_0) / n.

    Args:
        shares: s_0, shape (K,).
        draws: n, training rows per round.
        rounds: T.
        runs: independent repetitions.
        seed: seed of all of them.
        real_share: alpha, the share of the rows that is real data.

    Returns:
        Shares at t = 0..T, shape (runs, T + 1, K).

    Raises:
        ValueError: shares that do not sum to 1, a number below 1 (rounds: below 0), or alpha outside [0, 1].
    """
    # shares may miss 1 by a rounding, which a multinomial draw refuses
    start = normalise("shares", check_shares("shares", shares))
    if start.ndim != 1:
        raise ValueError(f"shares: shape {start.shape} must be (K,)")
    _check_positive(draws=draws, runs=runs)
    if rounds < 0:
        raise ValueError(f"rounds: {rounds} is negative; give 0 or more")
    if not 0 <= real_share <= 1:
        raise ValueError(f"real_share: {real_share} must lie in [0, 1]")
    rng = seeds.generator(seed, "wright-fisher")
    path = np.empty((runs, rounds + 1, len(start)))
    path[:, 0] = start
    for t in range(rounds):
        drawn_from = (1.0 - real_share) * path[:, t] + real_share * start
        path[:, t + 1] = rng.multinomial(draws, drawn_from) / draws
    return path


def drifting_arm(shares: ArrayLike, *, draws: int, rounds: int, runs: int, memory: str, seed: int) -> FloatArray:
    """Shares of K kinds in a loop that learns the shares of its rows and prefers nothing, shape (runs, T + 1, K).

    Args:
        shares: s_0, shape (K,).
        draws: n, new rows per round, drawn from the last policy.
        rounds: T.
        runs: independent repetitions.
        memory: ``replace``: the rows of the round are all that is learned; ``accumulate``: all rows so far.
        seed: seed of all of them.

    Raises:
        ValueError: as :func:`wright_fisher`, or another memory.
    """
    if memory == "replace":
        return wright_fisher(shares, draws=draws, rounds=rounds, runs=runs, seed=seed)
    if memory != "accumulate":
        raise ValueError(f"memory: {memory!r} must be 'replace' or 'accumulate'")
    start = normalise("shares", check_shares("shares", shares))
    _check_positive(draws=draws, runs=runs)
    rng = seeds.generator(seed, "accumulating")
    path = np.empty((runs, rounds + 1, len(start)))
    path[:, 0] = start
    rows = np.zeros((runs, len(start)))
    for t in range(rounds):
        rows += rng.multinomial(draws, path[:, t])
        path[:, t + 1] = rows / (draws * (t + 1))
    return path


def judged_counts(shares: ArrayLike, *, completions: int, seed: int) -> IntArray:
    """Counts of kinds among completions drawn from known shares, shape (..., K): the noise of an evaluation.

    Raises:
        ValueError: shares that do not sum to 1, or fewer than one completion.
    """
    _check_positive(completions=completions)
    rng = seeds.generator(seed, "judged counts")
    drawn_from = normalise("shares", check_shares("shares", shares))
    return np.asarray(rng.multinomial(completions, drawn_from), dtype=np.int64)


def _check_positive(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: {value} must be at least 1")
