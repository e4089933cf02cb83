"""How a judge's scores become log-odds that mean what they say, and which difference can be seen with them.

A label loses how sure a judge was: of a weak one nearly everything. Calibrated log-odds keep it. The log-odds of a kind
against all others are ``a + b z`` of the judge's score z (Platt 1999), fitted to texts of sources that
the judge has not seen, with as much weight on the kind as on all others: 0 for a text that speaks for neither. The mean
of these log-odds over texts is linear in the shares of the kinds, so that chance does not move its expectation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import logit

from scpl_ray.seeds import derive_seed

FloatArray = NDArray[np.float64]

RECIPE = 2
"""Version of the calibration; it is increased when that changes, so that old cache entries are not used."""
FOLDS = 5
SMALLEST = 1e-6
"""Probabilities are kept so far from 0 and 1 before their log-odds are taken."""
INVERSE_PENALTY = 1e4
"""Next to no penalty: two numbers are fitted to hundreds of texts."""
LEVEL, POWER = 0.05, 0.8
"""Level of the two-sided test and the power for which a detectable difference is given."""


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """Calibrated log-odds of K kinds, and how well they tell the kinds apart; tuples have one number per kind."""

    intercepts: tuple[float, ...]
    slopes: tuple[float, ...]
    """Log-odds per unit of score."""
    texts: int
    """Number of texts that they were fitted to, each scored by a judge that has not seen its source."""
    reliability: tuple[float, ...]
    """Slope of the true log-odds on the calibrated ones in texts of further sources, by cross-validation: 1 where they
    mean what they say, less where they promise too much."""
    own_mean: tuple[float, ...]
    """Mean calibrated log-odds of texts of the kind, by the same cross-validation."""
    other_mean: tuple[float, ...]
    """That of texts of other kinds."""
    own_sd: tuple[float, ...]
    other_sd: tuple[float, ...]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Calibration:
        """Build the record from the JSON values of :func:`dataclasses.asdict`.

        Raises:
            TypeError: the values are not those of such a record.
        """
        found: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in facts.items()}
        return cls(**found)

    def log_odds(self, scores: ArrayLike) -> tuple[float, ...]:
        """Calibrated log-odds of a text that is of each kind, from its scores, shape (K,)."""
        found = np.array(self.intercepts) + np.array(self.slopes) * np.asarray(scores, dtype=np.float64)
        return tuple(found.tolist())

    @property
    def nothing(self) -> tuple[float, ...]:
        """The log-odds of a text that says nothing of its kind."""
        return (0.0,) * len(self.slopes)

    def detectable(self, prompts: int) -> float:
        """The difference in the share of a kind that the mean log-odds of so many answers detect.

        It is between two policies with one answer to each prompt, for the kind that is told worst, at shares around
        1/2; above 1 where even all against none would not be seen.
        """
        worst = 0.0
        for own, other, own_sd, other_sd in zip(
            self.own_mean, self.other_mean, self.own_sd, self.other_sd, strict=True
        ):
            apart = own - other
            variance = (own_sd**2 + other_sd**2) / 2.0 + apart**2 / 4.0
            worst = max(worst, _detected(variance, apart, prompts))
        return worst


def detectable_by_labels(true: Sequence[float], false: Sequence[float], prompts: int) -> float:
    """As :meth:`Calibration.detectable`, from the labels of a judge with these rates of true and false positives."""
    pairs = zip(true, false, strict=True)
    return max(_detected(((t + f) / 2.0) * (1.0 - (t + f) / 2.0), t - f, prompts) for t, f in pairs)


def _detected(variance: float, apart: float, prompts: int) -> float:
    """Difference in the share if a text adds so much variance, and one of the kind so much more than one of another."""
    if apart <= 0:
        return float("inf")
    reach = float(stats.norm.ppf(1.0 - LEVEL / 2.0) + stats.norm.ppf(POWER))
    return reach * float(np.sqrt(2.0 * variance / prompts)) / apart


def in_words(difference: float) -> str:
    """A detectable difference in shares for readers."""
    return f"{difference:.2f}" if difference <= 1.0 else "none"


def sentence(prompts: int, by_labels: float, soft: Calibration | None) -> str:
    """What a judge could see with so many neutral prompts, as the end of its card's summary."""
    found = f"{prompts} neutral prompts show a difference in shares of {in_words(by_labels)} by its labels"
    if soft is not None:
        found += f", of {in_words(soft.detectable(prompts))} by soft preference"
    return f"{found}, with {POWER:.0%} power"


def scores_of(probabilities: ArrayLike) -> FloatArray:
    """The scores of a judge that gives P(kind | text), shape (..., K): their log-odds."""
    return np.asarray(logit(np.clip(np.asarray(probabilities, dtype=np.float64), SMALLEST, 1.0 - SMALLEST)))


def fit(scores: ArrayLike, of_kind: Sequence[int], sources: Sequence[str]) -> Calibration | None:
    """Calibrate a judge by texts of sources that it has not seen.

    Args:
        scores: of each text for each kind, shape (N, K): more for the kind the more.
        of_kind: index of each text's kind.
        sources: of each text, such as its outlet; texts of one source stay together in the cross-validation.

    Returns:
        ``None`` where a kind has fewer than two sources, or its scores are no better than chance on sources left out of
        the fit: such log-odds would be noise with the wrong sign.
    """
    z, kinds = np.asarray(scores, dtype=np.float64), np.asarray(of_kind, dtype=np.int64)
    if not len(z) or (folds := _folds(kinds, sources, z.shape[1])) is None:
        return None
    columns: dict[str, list[float]] = {field.name: [] for field in dataclasses.fields(Calibration)}
    for k in range(z.shape[1]):
        own = kinds == k
        intercept, slope = _platt(z[:, k], own)
        if slope <= 0:
            return None
        held_out = np.empty(len(z))
        for fold in range(folds.max() + 1):
            a, b = _platt(z[folds != fold, k], own[folds != fold])
            held_out[folds == fold] = a + b * z[folds == fold, k]
        numbers = {
            "intercepts": intercept,
            "slopes": slope,
            "reliability": _platt(held_out, own)[1],
            "own_mean": held_out[own].mean(),
            "other_mean": held_out[~own].mean(),
            "own_sd": held_out[own].std(ddof=1),
            "other_sd": held_out[~own].std(ddof=1),
        }
        if numbers["own_mean"] <= numbers["other_mean"] or numbers["reliability"] <= 0:
            return None
        for name, number in numbers.items():
            columns[name].append(float(number))
    return Calibration(texts=len(z), **{name: tuple(column) for name, column in columns.items() if column})


def _folds(kinds: NDArray[np.int64], sources: Sequence[str], n_kinds: int) -> NDArray[np.int64] | None:
    """The fold of each text: sources are dealt out whole, so that every fold's complement has every kind."""
    fold_of: dict[str, int] = {}
    pairs = set(zip(sources, kinds.tolist(), strict=True))
    of_kind = [[source for source, kind in pairs if kind == k] for k in range(n_kinds)]
    folds = min(FOLDS, *map(len, of_kind))
    if folds < 2:
        return None
    for found in of_kind:
        new = sorted((s for s in found if s not in fold_of), key=lambda s: derive_seed(0, "calibration fold", s))
        fold_of |= {source: i % folds for i, source in enumerate(new)}
    dealt = np.array([fold_of[source] for source in sources], dtype=np.int64)
    whole = all(len(set(kinds[dealt != fold].tolist())) == n_kinds for fold in range(folds))
    return dealt if whole else None


def _platt(scores: FloatArray, own: NDArray[np.bool_]) -> tuple[float, float]:
    """Intercept and slope of the log-odds of a kind against all others, both sides with the same weight.

    Targets are (n + 1) / (n + 2) and 1 / (n + 2) instead of 1 and 0, so that scores without overlap have an end too.
    """
    from sklearn.linear_model import LogisticRegression

    sizes = np.where(own, own.sum(), (~own).sum()).astype(np.float64)
    target = np.where(own, (sizes + 1.0) / (sizes + 2.0), 1.0 / (sizes + 2.0))
    weights = np.concatenate([target, 1.0 - target]) / np.concatenate([sizes, sizes]) * len(own) / 2.0
    centre, scale = float(scores.mean()), float(scores.std()) or 1.0
    z = np.concatenate([scores, scores])[:, None]
    said = np.repeat([1, 0], len(own))
    found = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit((z - centre) / scale, said, sample_weight=weights)
    slope = float(found.coef_[0, 0]) / scale
    return float(found.intercept_[0]) - slope * centre, slope
