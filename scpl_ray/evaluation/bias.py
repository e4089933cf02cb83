"""Preference bias: how far the kinds of text that a model writes favour one group, corrected for the judge's errors.

K kinds, one per group. Arrays may carry leading axes (seeds, rounds) before the kind axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logit, ndtr, rel_entr

from scpl_ray.shares import SUM_TOLERANCE, FloatArray, IntArray, check_shares

SMOOTHING = 0.5
"""Added to both counts of a log-odds (Haldane 1956, Anscombe 1956)."""
SMALLEST_DETERMINANT = 1e-9
"""Judges whose error rates have a smaller |TPR - FPR|, or singular value, give no information on the true shares."""


@dataclasses.dataclass(frozen=True, eq=False)
class KindCounts:
    """The number of completions of each kind."""

    kinds: tuple[str, ...]
    counts: IntArray
    """Completions of each kind, in the order of ``kinds``, shape (K,)."""
    undecided: int
    """Completions to which the judge gave no kind; shares leave them out."""

    @property
    def decided(self) -> int:
        """Number of completions that have a kind."""
        return int(self.counts.sum())

    def shares(self) -> FloatArray:
        """Shares of the kinds among the completions that have one, shape (K,).

        Raises:
            ValueError: no completion has a kind.
        """
        if self.decided == 0:
            raise ValueError(
                f"counts: none of {self.undecided} completions is of a kind {list(self.kinds)}, so there are no "
                "shares; read some of them: the model may have collapsed"
            )
        return self.counts / self.decided


def count_kinds(judged: Iterable[str | None], kinds: Sequence[str]) -> KindCounts:
    """Count the kinds of judged completions; ``None`` is a completion to which the judge gave no kind.

    Raises:
        ValueError: fewer than two kinds, a repeated kind, or a judgement that is not among the kinds.
    """
    _check_kinds(kinds)
    tally = dict.fromkeys(kinds, 0)
    undecided = 0
    for kind in judged:
        if kind is None:
            undecided += 1
        elif kind in tally:
            tally[kind] += 1
        else:
            raise ValueError(f"judged: {kind!r} is none of the kinds {list(kinds)}; give one of them or None")
    return KindCounts(tuple(kinds), np.array([tally[kind] for kind in kinds], dtype=np.int64), undecided)


def kind_counts(counts: Mapping[str, int] | ArrayLike, kinds: Sequence[str], *, undecided: int = 0) -> KindCounts:
    """Make a :class:`KindCounts` from known counts, given by kind or in the order of ``kinds``.

    Raises:
        ValueError: an unknown or missing kind, a wrong length, or a count that is negative or not whole.
    """
    _check_kinds(kinds)
    if isinstance(counts, Mapping):
        if set(counts) != set(kinds):
            raise ValueError(f"counts: has kinds {sorted(counts)}; give a count for each of {sorted(kinds)}")
        counts = [counts[kind] for kind in kinds]
    given = np.asarray(counts, dtype=np.float64)
    if given.shape != (len(kinds),):
        raise ValueError(f"counts: shape {given.shape} for {len(kinds)} kinds; give one count per kind")
    for name, values in (("counts", given), ("undecided", np.array([float(undecided)]))):
        if not np.all(np.isfinite(values)) or np.any(values < 0) or np.any(values != np.floor(values)):
            raise ValueError(f"{name}: {values.tolist()} holds a negative or broken number; counts are 0, 1, 2, ...")
    return KindCounts(tuple(kinds), given.astype(np.int64), undecided)


def advantaged_kind(kinds: Sequence[str], initial_shares: ArrayLike) -> str:
    """The kind of the group with the largest initial share; of equally large groups, the first.

    Args:
        kinds: kind k is the one that group k prefers.
        initial_shares: shares of round 1, :func:`scpl_ray.feedback.population.initial_shares`, shape (K,).

    Raises:
        ValueError: there is not one share per kind, or shares are negative or do not sum to 1.
    """
    return kinds[int(check_shares("initial_shares", initial_shares, len(kinds)).argmax())]


def smoothed_logit(share: ArrayLike, total: ArrayLike) -> FloatArray:
    """Log-odds of a share observed in ``total`` completions, ln((n s + 1/2) / (n (1 - s) + 1/2)): finite at 0 and at 1.

    Its bias is O(1 / n^2), whereas the exact logit of a count has no finite mean (Haldane 1956, Anscombe 1956).

    Raises:
        ValueError: a share outside [0, 1] or a total below 1.
    """
    share, total = np.asarray(share, dtype=np.float64), np.asarray(total, dtype=np.float64)
    if not np.all((share >= 0) & (share <= 1)):
        raise ValueError(f"share: {share.tolist()} must lie in [0, 1]")
    if not np.all((total >= 1) & np.isfinite(total)):
        raise ValueError(f"total: {total.tolist()} must be at least 1 completion")
    return np.asarray(np.log((total * share + SMOOTHING) / (total * (1.0 - share) + SMOOTHING)))


@dataclasses.dataclass(frozen=True, eq=False)
class PreferenceBias:
    """The difference between shares of kinds and a reference."""

    shares: FloatArray
    """Shares s, shape (..., K)."""
    reference: FloatArray
    """Reference shares tau, shape (..., K)."""
    differences: FloatArray
    """s - tau, shape (..., K); sums to 0."""
    kind_log_odds: FloatArray
    """logit s_k - logit tau_k of every kind, nats, shape (..., K)."""
    log_odds: FloatArray
    """The log-odds of the advantaged kind A, logit s_A - logit tau_A, shape (...)."""
    total_variation: FloatArray
    """sum |s - tau| / 2, shape (...): in [0, 1] without totals; with totals less what counting adds, and then it may be
    slightly below 0."""
    kl: FloatArray
    """KL(s || tau) in nats, shape (...). Without totals it is infinite where a kind was written whose reference share
    is 0; with totals it is of smoothed shares and less what counting adds: finite, and it may be slightly below 0."""


def preference_bias(
    shares: ArrayLike,
    reference: ArrayLike,
    *,
    advantaged: int,
    total: ArrayLike | None = None,
    reference_total: ArrayLike | None = None,
    variance: ArrayLike | None = None,
) -> PreferenceBias:
    """Preference bias of shares of kinds relative to one reference.

    Log-odds is the natural scale: selection and feedback act on it linearly. Without totals it is exact, and infinite
    where a share is 0 or 1 (NaN where both shares are 0 or both are 1); with totals it uses :func:`smoothed_logit`.
    With totals the distances are debiased too (:func:`debiased_total_variation`, :func:`debiased_kl`): as they stand
    they grow as fewer answers are of any kind.

    Args:
        shares: s, shape (..., K).
        reference: tau, shape (..., K): equal shares (:func:`balanced`), or the shares of round 0.
        advantaged: index of the kind A whose log-odds is taken.
        total: number of completions from which ``shares`` were measured, shape (...).
        reference_total: the same for ``reference``, shape (...); ``None``: the reference is known exactly.
        variance: that of s - tau, shape (..., K), where both are of the same prompts (:func:`paired_variance`);
            ``None``: they were counted independently of each other.

    Raises:
        ValueError: shares that do not sum to 1, lengths that differ, or an index outside 0..K-1.
    """
    s = check_shares("shares", shares)
    tau = check_shares("reference", reference, s.shape[-1])
    if not 0 <= advantaged < s.shape[-1]:
        raise ValueError(f"advantaged: {advantaged} is no kind; give an index from 0 to {s.shape[-1] - 1}")
    with np.errstate(divide="ignore", invalid="ignore"):
        log_odds = _log_odds(s, total) - _log_odds(tau, reference_total)
    return PreferenceBias(
        shares=s,
        reference=tau,
        differences=s - tau,
        kind_log_odds=log_odds,
        log_odds=np.asarray(log_odds[..., advantaged]),
        total_variation=debiased_total_variation(s, tau, total, reference_total, variance),
        kl=debiased_kl(s, tau, total, reference_total, variance),
    )


def debiased_total_variation(
    shares: ArrayLike,
    reference: ArrayLike,
    total: ArrayLike | None,
    reference_total: ArrayLike | None = None,
    variance: ArrayLike | None = None,
) -> FloatArray:
    """Total variation distance of counted shares, less what counting adds, shape (...) for shares (..., K).

    Of every difference d the sign is taken from one half of the answers and the size from the other half, on average
    over all halvings of a normal d with standard error e: d (2 Phi(d / e) - 1) - e sqrt(2 / pi) exp(-d^2 / (2 e^2)),
    where |d| would be above 0 on average without any distance. Arguments as in :func:`preference_bias`; where neither
    total is given, nothing was counted and it is the exact distance.
    """
    d, counted = _counted(shares, reference, total, reference_total)
    e = np.sqrt(counted if variance is None else np.asarray(variance, dtype=np.float64))
    z = np.divide(d, e, out=np.full_like(d, np.inf), where=e > 0)
    size = np.abs(d) * (2.0 * ndtr(np.abs(z)) - 1.0) - e * np.sqrt(2.0 / np.pi) * np.exp(-(z**2) / 2.0)
    return np.asarray(size.sum(axis=-1) / 2.0)


def debiased_kl(
    shares: ArrayLike,
    reference: ArrayLike,
    total: ArrayLike | None,
    reference_total: ArrayLike | None = None,
    variance: ArrayLike | None = None,
) -> FloatArray:
    """KL divergence of counted shares in nats, less what counting adds, shape (...) for shares (..., K).

    Shares that were counted are smoothed by 1/2 per kind, so that it is finite, and (K - 1) / (2 n) is taken off for
    each of them (Miller 1955). Arguments as in :func:`preference_bias`.

    Near no distance the divergence is sum d^2 / p / 2 of the differences d (delta method), and so sum V / p / 2 on
    average, with V their variance. Of independent counts sum V / p is (K - 1) (1 / n + 1 / m), Miller's terms. Where
    another variance is given, they are taken in its proportion to that of independent counts.
    """
    s, tau = np.asarray(shares, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    p, q = smoothed_shares(s, total), smoothed_shares(tau, reference_total)
    found, part = rel_entr(p, q).sum(axis=-1), np.ones(())
    if variance is not None:
        middle = (p + q) / 2.0
        _, counted = _counted(s, tau, total, reference_total)
        part = (np.asarray(variance) / middle).sum(axis=-1) / (counted / middle).sum(axis=-1)
    for n in (total, reference_total):
        if n is not None:
            found = found - part * (s.shape[-1] - 1) / (2.0 * np.asarray(n, dtype=np.float64))
    return np.asarray(found)


def paired_variance(counts: ArrayLike, reference: ArrayLike, through: ArrayLike | None = None) -> FloatArray:
    """Variance of the difference between the shares of kinds that two rounds have on the same prompts, shape (K,).

    The prompt is the unit, and its answers of both rounds enter together (delta method). Policies that are alike give
    many of the same answers to the same prompts and seeds: what both rounds have in common is no noise in what differs.

    Args:
        counts: answers of each kind to each of n >= 2 prompts, shape (n, K), at least one in all.
        reference: the same of the other round.
        through: maps shares to those whose difference is meant, shape (K, K), as :func:`inverse_errors` does.
    """
    apart = np.zeros(np.shape(counts))
    for sign, given in ((1.0, counts), (-1.0, reference)):
        of = np.asarray(given, dtype=np.float64)
        apart += sign * (of - of.sum(axis=1, keepdims=True) * of.sum(axis=0) / of.sum()) / of.sum()
    if through is not None:
        apart = apart @ np.asarray(through)
    return np.asarray((apart**2).sum(axis=0) * len(apart) / (len(apart) - 1.0))


def smoothed_shares(shares: FloatArray, total: ArrayLike | None) -> FloatArray:
    """(n s_k + 1/2) / (n + K / 2); the shares themselves where they were not counted."""
    if total is None:
        return shares
    n = np.asarray(total, dtype=np.float64)[..., None]
    return np.asarray((n * shares + SMOOTHING) / (n + SMOOTHING * shares.shape[-1]))


def _counted(
    shares: ArrayLike, reference: ArrayLike, total: ArrayLike | None, reference_total: ArrayLike | None
) -> tuple[FloatArray, FloatArray]:
    """s - tau and the variance that counting gives it, shape (..., K) each."""
    s, tau = np.asarray(shares, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    variance = np.zeros(np.broadcast_shapes(s.shape, tau.shape))
    for values, n in ((s, total), (tau, reference_total)):
        if n is not None:
            p = smoothed_shares(values, n)
            variance = variance + p * (1.0 - p) / np.asarray(n, dtype=np.float64)[..., None]
    return np.asarray(s - tau), variance


def balanced(n_kinds: int) -> FloatArray:
    """The reference of equal shares, shape (K,)."""
    return np.full(n_kinds, 1.0 / n_kinds)


@dataclasses.dataclass(frozen=True, eq=False)
class Preference:
    """The preference bias of one round relative to both references, raw and corrected for the judge's errors."""

    kinds: tuple[str, ...]
    advantaged: str
    decided: int
    """Number of completions that have a kind."""
    undecided: int
    """Number of completions to which the judge gave no kind; shares leave them out."""
    balanced: PreferenceBias
    """Raw shares relative to equal shares."""
    round_0: PreferenceBias | None
    """Raw shares relative to those of round 0; ``None`` where round 0 has none."""
    correction: Correction | None
    """The corrected shares; ``None`` where the judge's errors are not known."""
    corrected_balanced: PreferenceBias | None
    """Corrected shares relative to equal shares."""
    corrected_round_0: PreferenceBias | None
    """Corrected shares relative to the corrected ones of round 0; ``None`` also where round 0 has none."""


def measure_preference(
    counts: KindCounts,
    round_0: KindCounts,
    *,
    advantaged: str,
    confusion: ArrayLike | None = None,
    by_prompt: tuple[IntArray, IntArray] | None = None,
) -> Preference:
    """The preference bias of a round in all variants, with smoothed log-odds.

    Args:
        counts: the round's counts on neutral prompts.
        round_0: the counts of the base model, perhaps of no decided completion.
        advantaged: the kind whose log-odds is taken, e.g. :func:`advantaged_kind`.
        confusion: of held-out texts of known kind i, how many the judge called j, shape (K, K); or
            P(judged j | true i), rows that sum to 1, where its errors are known exactly. See :func:`correct_shares`.
        by_prompt: ``counts`` and ``round_0`` by prompt, shape (n, K) each, where both rounds answered the same prompts;
            ``None``: the counts are taken to be independent, as they also are where there is one prompt only.

    Raises:
        ValueError: other kinds in round 0, an unknown advantaged kind, no decided completion, or an unusable matrix.
    """
    if counts.kinds != round_0.kinds:
        raise ValueError(f"round_0: kinds {list(round_0.kinds)} are not {list(counts.kinds)}; count the same kinds")
    if advantaged not in counts.kinds:
        raise ValueError(f"advantaged: {advantaged!r} is none of the kinds {list(counts.kinds)}")
    index = counts.kinds.index(advantaged)
    even = balanced(len(counts.kinds))

    def both(
        shares: FloatArray, first: FloatArray | None, through: FloatArray | None = None
    ) -> tuple[PreferenceBias, PreferenceBias | None]:
        now = preference_bias(shares, even, advantaged=index, total=counts.decided)
        if first is None:
            return now, None
        variance = None
        if by_prompt is not None and len(by_prompt[0]) > 1:
            variance = paired_variance(*by_prompt, through)
        totals = {"total": counts.decided, "reference_total": round_0.decided}
        since = preference_bias(shares, first, advantaged=index, **totals, variance=variance)
        if counts is round_0:  # the same answers, not two counts of them: there is no distance, nor noise in it
            since = dataclasses.replace(since, total_variation=np.zeros(()), kl=np.zeros(()))
        return now, since

    before = round_0.shares() if round_0.decided else None
    raw = both(counts.shares(), before)
    head = (counts.kinds, advantaged, counts.decided, counts.undecided)
    if confusion is None:
        return Preference(*head, *raw, None, None, None)
    correction = correct_shares(counts.shares(), confusion, total=counts.decided)
    first = None if before is None else correct_shares(before, confusion).shares
    corrected = both(correction.shares, first, inverse_errors(confusion))
    return Preference(*head, *raw, correction, *corrected)


def rogan_gladen(observed: ArrayLike, true_positive_rate: float, false_positive_rate: float) -> FloatArray:
    """True share of one of two kinds, computed from the judged share: (observed - FPR) / (TPR - FPR) clipped to [0, 1].

    Rogan and Gladen (1978). Report ``observed`` beside it: the correction divides its noise by TPR - FPR.

    Args:
        observed: judged share of the kind, any shape.
        true_positive_rate: TPR, P(judged the kind | is the kind).
        false_positive_rate: FPR, P(judged the kind | is the other kind).

    Raises:
        ValueError: a number outside [0, 1], or TPR = FPR: such a judge gives no information.
    """
    observed = np.asarray(observed, dtype=np.float64)
    for name, value in (
        ("observed", observed),
        ("true_positive_rate", np.asarray(true_positive_rate)),
        ("false_positive_rate", np.asarray(false_positive_rate)),
    ):
        if not np.all((value >= 0) & (value <= 1)):
            raise ValueError(f"{name}: {value.tolist()} must lie in [0, 1]")
    informedness = true_positive_rate - false_positive_rate
    if abs(informedness) < SMALLEST_DETERMINANT:
        raise ValueError(
            f"true_positive_rate: {true_positive_rate} equals false_positive_rate {false_positive_rate}; "
            "the judge does not tell the kinds apart, so use another judge"
        )
    return np.asarray(np.clip((observed - false_positive_rate) / informedness, 0.0, 1.0))


def confusion_of_counts(counts: ArrayLike) -> FloatArray:
    """P(judged j | true i), shape (K, K), from counts of held-out texts: rows are true kinds, columns judged ones.

    Raises:
        ValueError: not square, a negative or not finite count, or a true kind without texts.
    """
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise ValueError(f"counts: shape {table.shape} must be (K, K) with K >= 2")
    if not np.all(np.isfinite(table)) or np.any(table < 0):
        raise ValueError(f"counts: {table.tolist()} holds a negative or not finite count")
    totals = table.sum(axis=1, keepdims=True)
    if np.any(totals == 0):
        empty = np.flatnonzero(totals[:, 0] == 0).tolist()
        raise ValueError(f"counts: true kinds {empty} have no held-out texts; judge some of each kind")
    return np.asarray(table / totals)


@dataclasses.dataclass(frozen=True, eq=False)
class Correction:
    """Shares corrected for the errors of a judge."""

    observed: FloatArray
    """Judged shares, shape (..., K)."""
    unclipped: FloatArray
    """Solution of the linear system; sums to 1, but sampling noise can put entries outside [0, 1]."""
    shares: FloatArray
    """``unclipped`` clipped to [0, 1] and renormalised, shape (..., K)."""
    sd: FloatArray
    """Standard error of the corrected shares, shape (..., K), by the delta method: of counting the judged answers, and
    of the held-out texts on which the judge's errors were counted (0 for errors that are known exactly). The second
    part is the same for all rounds, arms and seeds that one judge judges: more seeds do not make it smaller."""


def correct_shares(observed: ArrayLike, confusion: ArrayLike, *, total: ArrayLike | None = None) -> Correction:
    """True shares s from judged ones o, solving o_j = sum_i s_i P(judged j | true i); K = 2 is Rogan and Gladen (1978).

    Args:
        observed: o, shape (..., K).
        confusion: how many held-out texts of true kind i the judge called j, among those that it decided, shape (K, K);
            or the probabilities themselves, rows that sum to 1, which are then taken as known exactly.
        total: number of completions from which ``observed`` was counted, shape (...); ``None``: taken as exact.

    Raises:
        ValueError: shares that do not sum to 1, a wrong shape, a kind without texts, or a singular confusion matrix.
    """
    o = check_shares("observed", observed)
    rates, texts = _judge_errors(confusion)
    k = o.shape[-1]
    if rates.shape != (k, k):
        raise ValueError(f"confusion: shape {rates.shape} for {k} kinds; give (K, K)")
    inverse = inverse_errors(confusion)
    solved = np.linalg.solve(rates.T, o[..., None])[..., 0]
    # rows of the confusion matrix sum to 1, so the solution does too, and after clipping the sum is at least 1
    clipped = np.clip(solved, 0.0, None)
    shares = clipped / clipped.sum(axis=-1, keepdims=True)
    # s = o M^-1, and a small change E of M moves it by -s E M^-1
    covariance = np.einsum("...i,i,ijk->...jk", shares**2, 1.0 / texts, _spread(rates))
    if total is not None:
        covariance = covariance + _spread(o) / np.asarray(total, dtype=np.float64)[..., None, None]
    variance = np.einsum("ji,...jk,ki->...i", inverse, covariance, inverse)
    return Correction(o, np.asarray(solved), np.asarray(shares), np.sqrt(np.clip(variance, 0.0, None)))


def inverse_errors(confusion: ArrayLike) -> FloatArray:
    """The M with which ``s = o M`` are the true shares of judged ones o, shape (K, K); see :func:`correct_shares`.

    Raises:
        ValueError: a wrong shape, a kind without texts, or a singular confusion matrix.
    """
    rates, _ = _judge_errors(confusion)
    if np.linalg.svd(rates, compute_uv=False).min() < SMALLEST_DETERMINANT:
        raise ValueError(
            f"confusion: {rates.tolist()} is singular: the judge does not tell all kinds apart; merge kinds or use "
            "another judge"
        )
    return np.asarray(np.linalg.inv(rates))


def _judge_errors(confusion: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """P(judged j | true i), shape (K, K), and the number of texts behind each row; infinitely many if not counted.

    Whole numbers are counts, unless every row sums to 1: those of a judge without errors are its probabilities.
    """
    table = np.asarray(confusion, dtype=np.float64)
    whole = np.array_equal(table, np.round(table))
    if table.ndim == 2 and whole and np.any(table.sum(axis=1) > 1.0 + SUM_TOLERANCE):
        return confusion_of_counts(table), np.asarray(table.sum(axis=1))
    rates = check_shares("confusion", table)
    return rates, np.full(len(rates), np.inf)


def _spread(shares: FloatArray) -> FloatArray:
    """diag(p) - p p', the covariance of one draw, shape (..., K, K)."""
    return np.asarray(shares[..., None] * np.eye(shares.shape[-1]) - shares[..., :, None] * shares[..., None, :])


def _log_odds(share: FloatArray, total: ArrayLike | None) -> FloatArray:
    """Log-odds of shares (..., K): exact, or smoothed where totals (...) are given."""
    return np.asarray(logit(share)) if total is None else smoothed_logit(share, np.asarray(total)[..., None])


def _check_kinds(kinds: Sequence[str]) -> None:
    if len(kinds) < 2 or len(set(kinds)) != len(kinds):
        raise ValueError(f"kinds: {list(kinds)} must be two or more distinct names")
