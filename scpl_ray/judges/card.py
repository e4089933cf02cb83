"""The measured errors of a judge, on outlets it has seen and on outlets it has not seen.

A classifier of outlets' leanings scores well on a random split by recognising the outlets. Only the figures on held-out
outlets say how well it judges new text. A card therefore has every protocol, on full articles and on windows.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scpl_ray.judges import calibration, tfidf
from scpl_ray.judges.calibration import Calibration
from scpl_ray.judges.tfidf import Judge, LabelledText
from scpl_ray.seeds import derive_seed

logger = logging.getLogger(__name__)

FOLDS = 5
SINGULAR = 1e-3
"""Smallest singular value of a confusion matrix by which shares are corrected: counting errors grow as one over it."""
TEST_WINDOWS_PER_ARTICLE = 2
RANDOM, OUTLETS, DEPLOYED = "random split", "held-out outlets", "as used, on what it has not seen"
FILE = "card.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """The result of one protocol on one length of text."""

    protocol: str
    texts: str
    """``articles`` or ``windows of N words``; of a preference judge, answers."""
    trained_on: int
    """Number of articles the judge was fitted on; with folds, the rounded mean."""
    tested_on: int
    """Number of texts judged."""
    confusion: tuple[tuple[int, ...], ...]
    """Number of texts of true label i (row) judged as j (column), shape (K, K)."""
    undecided: tuple[int, ...]
    """Number of texts of each true label that the judge could not decide; every rate below counts them as wrong."""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Measured:
        """Build the record from the JSON values of :func:`dataclasses.asdict`.

        Raises:
            KeyError, TypeError: the values are not those of such a record.
        """
        confusion = tuple(map(tuple, facts["confusion"]))
        return cls(**{**facts, "confusion": confusion, "undecided": tuple(facts["undecided"])})

    @property
    def true_positive_rates(self) -> tuple[float, ...]:
        """P(judged k | true label k) per label."""
        return tuple(row[k] / max(1, sum(row) + self.undecided[k]) for k, row in enumerate(self.confusion))

    @property
    def false_positive_rates(self) -> tuple[float, ...]:
        """P(judged k | another true label) per label."""
        totals = [sum(row) + none for row, none in zip(self.confusion, self.undecided, strict=True)]
        return tuple(
            sum(row[k] for i, row in enumerate(self.confusion) if i != k) / max(1, sum(totals) - totals[k])
            for k in range(len(totals))
        )

    @property
    def macro_f1(self) -> float:
        """Mean over labels of 2 TP / (2 TP + FP + FN)."""
        scores = []
        for k, row in enumerate(self.confusion):
            false_positives = sum(other[k] for i, other in enumerate(self.confusion) if i != k)
            false_negatives = sum(row) - row[k] + self.undecided[k]
            scores.append(2 * row[k] / max(1, 2 * row[k] + false_positives + false_negatives))
        return float(np.mean(scores))

    def detectable(self, prompts: int) -> float:
        """The difference in the share of a kind that the labels of so many answers detect."""
        return calibration.detectable_by_labels(self.true_positive_rates, self.false_positive_rates, prompts)

    def confusion_rates(self) -> tuple[tuple[float, ...], ...] | None:
        """P(judged j | true i) among decided texts, shape (K, K); ``None`` if a label has no decided text."""
        if any(sum(row) == 0 for row in self.confusion):
            return None
        return tuple(tuple(count / sum(row) for count in row) for row in self.confusion)


@dataclasses.dataclass(frozen=True, slots=True)
class JudgeCard:
    """A description of a judge and its errors; stored beside its weights as ``card.json``."""

    labels: tuple[str, ...]
    window_words: int
    data_sha256: str
    """SHA-256 of the articles; it does not depend on their order."""
    settings: dict[str, Any]
    measured: tuple[Measured, ...]
    left_out: dict[str, int]
    """Number of articles that a protocol did not use, by reason."""
    sources: str = "outlets"
    """What the judge's training texts and its test texts never have in common, e.g. ``outlets``."""
    calibration: Calibration | None = None
    """What its probabilities are worth on windows of sources that it has not seen; ``None``: nothing, or not known."""
    prompts: int | None = dataclasses.field(default=None, compare=False)
    """Number of neutral prompts for which the card says what they show; ``None``: not for a number."""
    fitted_files: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """SHA-256 of the files of the fitted judge, by name; empty: not known."""

    def find(self, protocol: str, *, windows: bool) -> Measured:
        """The measurement of one protocol.

        Raises:
            ValueError: the card has no such protocol.
        """
        for one in self.measured:
            if one.protocol == protocol and one.texts.startswith("windows") == windows:
                return one
        known = sorted({one.protocol for one in self.measured})
        raise ValueError(f"protocol {protocol!r}: the card has {', '.join(known)}")

    def summary(self) -> str:
        """One line about the judge's errors, shown beside every share that the judge produced."""
        found = self.find(DEPLOYED, windows=True)
        rates = zip(self.labels, found.true_positive_rates, found.false_positive_rates, strict=True)
        each = ", ".join(f"{label}: TPR {true:.2f} FPR {false:.2f}" for label, true, false in rates)
        told = (
            f"kinds by {self.settings['judge']}: macro F1 {found.macro_f1:.2f} on {found.texts} of {self.sources} "
            f"it has not seen ({each})"
        )
        if self.prompts is None:
            return told
        return f"{told}; {calibration.sentence(self.prompts, found.detectable(self.prompts), self.calibration)}"

    def confusion_counts(self) -> tuple[tuple[int, ...], ...]:
        """Decided texts of label i that the judge as used called j, of sources that it has not seen, shape (K, K)."""
        return self.find(DEPLOYED, windows=True).confusion

    def table(self) -> list[dict[str, str | int | float]]:
        """One row per measurement, as plain values in display order."""
        rows: list[dict[str, str | int | float]] = []
        for one in self.measured:
            row: dict[str, str | int | float] = {
                "protocol": one.protocol,
                "texts": one.texts,
                "trained on": one.trained_on,
                "tested on": one.tested_on,
                "macro F1": one.macro_f1,
                "undecided": sum(one.undecided),
            }
            for k, label in enumerate(self.labels):
                row[f"TPR {label}"] = one.true_positive_rates[k]
                row[f"FPR {label}"] = one.false_positive_rates[k]
            if self.prompts is not None:
                row[f"detectable at {self.prompts}, labels"] = calibration.in_words(one.detectable(self.prompts))
                used = one.protocol == DEPLOYED and one.texts.startswith("windows")
                soft = self.calibration if used else None
                row["soft"] = "" if soft is None else calibration.in_words(soft.detectable(self.prompts))
            rows.append(row)
        return rows

    def save(self, folder: Path) -> None:
        """Write ``card.json`` into an existing folder, with the derived rates beside the counts."""
        facts = dataclasses.asdict(self) | {"table": self.table()}
        (folder / FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> JudgeCard:
        """The inverse of :meth:`save`.

        Raises:
            ValueError: there is no card, or it has another version.
        """
        try:
            facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
            del facts["table"]
            measured = tuple(map(Measured.of, facts["measured"]))
            facts |= {"labels": tuple(facts["labels"]), "measured": measured}
            if facts.get("calibration") is not None:
                facts["calibration"] = Calibration.of(facts["calibration"])
            return cls(**facts)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder}: no judge card that can be read ({error}); train the judge anew") from error


_Judged = list[tuple[str, str | None]]
"""True label and judged label of each text."""


def measure_deployed(
    judge: Judge, trained_on: int, held_out: Sequence[LabelledText], window_words: int
) -> tuple[tuple[Measured, ...], Calibration | None]:
    """Measure the judge as a task uses it, on texts of outlets (or other sources) that it was not fitted on.

    Returns:
        Its errors, and what its probabilities are worth on windows.
    """
    whole = [(article.label, judge.label(article.text)) for article in held_out]
    cut: _Judged = []
    probabilities: list[NDArray[np.float64]] = []
    of_label: list[int] = []
    outlets: list[str] = []
    for article in held_out:
        for text in tfidf.windows(article, window_words, TEST_WINDOWS_PER_ARTICLE):
            found = judge.probabilities(text)
            cut.append((article.label, tfidf.most_probable(judge.labels, found)))
            if found is not None and article.label in judge.labels:
                probabilities.append(found)
                of_label.append(judge.labels.index(article.label))
                outlets.append(article.outlet)
    worth = calibration.fit(calibration.scores_of(probabilities), of_label, outlets)
    return _summarise(DEPLOYED, judge.labels, trained_on, whole, cut, window_words), worth


def measure_protocols(
    articles: Sequence[LabelledText], labels: Sequence[str], window_words: int
) -> tuple[tuple[Measured, ...], dict[str, int]]:
    """Measure TF-IDF judges of the same recipe under every protocol that the data allow.

    The protocols are cross-validation over random folds and over folds of outlets. If the data have published splits,
    judges are also trained on their ``train`` and tested on their ``valid`` and ``test``, without outlets that a split
    by outlet has in both.

    Returns:
        The measurements, and how many articles were left out, by reason.

    Raises:
        ValueError: fewer than two articles or outlets of a label.
    """
    found: list[Measured] = []
    for protocol, folds in ((RANDOM, _random_folds), (OUTLETS, _outlet_folds)):
        sizes: list[int] = []
        whole: _Judged = []
        cut: _Judged = []
        pairs = list(folds(articles, labels))
        for train, test in pairs:
            judge = tfidf.fit([articles[i] for i in train], labels, window_words)
            sizes.append(len(train))
            more_whole, more_cut = _judge_all(judge, [articles[i] for i in test], window_words)
            whole += more_whole
            cut += more_cut
        name = f"{protocol}, {len(pairs)} folds"
        found += _summarise(name, labels, round(float(np.mean(sizes))), whole, cut, window_words)
    left_out: dict[str, int] = {}
    published: tuple[tuple[str, Callable[[LabelledText], str | None]], ...] = (
        (RANDOM, lambda article: article.split_random),
        (OUTLETS, lambda article: article.split_media),
    )
    for protocol, part_of in published:
        fitted = [article for article in articles if part_of(article) == "train"]
        if {article.label for article in fitted} != set(labels):
            continue
        judge = tfidf.fit(fitted, labels, window_words)
        seen = {article.outlet for article in fitted}
        for part in ("valid", "test"):
            tested = [article for article in articles if part_of(article) == part]
            if protocol == OUTLETS:
                new = [article for article in tested if article.outlet not in seen]
                left_out[f"of published {part}, outlet also in train"] = len(tested) - len(new)
                tested = new
            if {article.label for article in tested} == set(labels):
                name = f"{protocol}, published {part}"
                found += _summarise(name, labels, len(fitted), *_judge_all(judge, tested, window_words), window_words)
    return tuple(found), {reason: count for reason, count in left_out.items() if count}


def measure_random_split(
    fit: Callable[[Sequence[LabelledText]], Judge],
    articles: Sequence[LabelledText],
    labels: Sequence[str],
    window_words: int,
    most_tested: int,
) -> tuple[Measured, ...]:
    """Measure a judge of the same recipe under one random split: the published one if any, else one of five folds.

    Args:
        fit: the recipe, a function that fits a judge.
        articles: all articles.
        labels: the K labels.
        window_words: number of words per window.
        most_tested: largest number of test articles.

    Raises:
        ValueError: fewer than two articles of a label.
    """
    train = [article for article in articles if article.split_random == "train"]
    test = [article for article in articles if article.split_random in ("valid", "test")]
    name = f"{RANDOM}, published valid and test"
    if any({article.label for article in part} != set(labels) for part in (train, test)):
        seen, unseen = next(_random_folds(articles, labels))
        train, test = [articles[i] for i in seen], [articles[i] for i in unseen]
        name = f"{RANDOM}, 1 of {FOLDS} folds"
    judge = fit(train)
    judged = _judge_all(judge, sample(test, most_tested), window_words)
    return _summarise(name, labels, len(train), *judged, window_words)


def sample(articles: Sequence[LabelledText], count: int) -> list[LabelledText]:
    """Up to ``count`` articles, drawn by a function of their ids."""
    return sorted(articles, key=lambda article: derive_seed(0, "judge sample", article.text_id))[:count]


def usable_confusion(found: Measured, labels: Sequence[str], unseen: str) -> tuple[tuple[float, ...], ...] | None:
    """P(judged j | true i) among decided texts, shape (K, K); ``None`` if some label is judged no better than chance,
    or a mixture of labels is judged like another one.

    A correction by such a matrix would only add noise.

    Args:
        found: the measurement of the judge on text it has not seen.
        labels: the K labels.
        unseen: description of that text, for the log.
    """
    rates = zip(labels, found.true_positive_rates, found.false_positive_rates, strict=True)
    if chance := [label for label, true, false in rates if true <= false]:
        logger.warning(
            "on %s it has not seen the judge tells %s no better than chance (macro F1 %.2f): shares of kinds are "
            "not corrected for its errors",
            unseen,
            ", ".join(chance),
            found.macro_f1,
        )
        return None
    confusion = found.confusion_rates()
    if confusion is not None and np.linalg.svd(np.array(confusion), compute_uv=False).min() < SINGULAR:
        logger.warning(
            "on %s it has not seen the judge does not tell all of %s apart: shares of kinds are not corrected for its "
            "errors",
            unseen,
            ", ".join(labels),
        )
        return None
    return confusion


def _judge_all(judge: Judge, articles: Sequence[LabelledText], window_words: int) -> tuple[_Judged, _Judged]:
    whole = [(article.label, judge.label(article.text)) for article in articles]
    cut = [
        (article.label, judge.label(text))
        for article in articles
        for text in tfidf.windows(article, window_words, TEST_WINDOWS_PER_ARTICLE)
    ]
    return whole, cut


def _summarise(
    protocol: str, labels: Sequence[str], trained_on: int, whole: _Judged, cut: _Judged, window_words: int
) -> tuple[Measured, ...]:
    return tuple(
        Measured(
            protocol,
            texts,
            trained_on,
            len(judged),
            tuple(tuple(sum(pair == (true, guess) for pair in judged) for guess in labels) for true in labels),
            tuple(sum(pair == (true, None) for pair in judged) for true in labels),
        )
        for texts, judged in (("articles", whole), (f"windows of {window_words} words", cut))
    )


_Folds = Iterator[tuple[Sequence[int], Sequence[int]]]


def _random_folds(articles: Sequence[LabelledText], labels: Sequence[str]) -> _Folds:
    from sklearn.model_selection import StratifiedKFold

    of_label = [labels.index(article.label) for article in articles]
    least = int(np.bincount(of_label, minlength=len(labels)).min())
    yield from _folds(least, "articles", lambda n: StratifiedKFold(n, shuffle=True, random_state=0), of_label, None)


def _outlet_folds(articles: Sequence[LabelledText], labels: Sequence[str]) -> _Folds:
    from sklearn.model_selection import StratifiedGroupKFold

    of_label = [labels.index(article.label) for article in articles]
    outlets = [article.outlet for article in articles]
    least = min(len({a.outlet for a in articles if a.label == label}) for label in labels)
    yield from _folds(
        least, "outlets", lambda n: StratifiedGroupKFold(n, shuffle=True, random_state=0), of_label, outlets
    )


def _folds(
    least: int, what: str, splitter: Callable[[int], Any], of_label: Sequence[int], outlets: Sequence[str] | None
) -> _Folds:
    if least < 2:
        raise ValueError(f"judge: a label has {least} {what}; at least 2 are needed, one of them to test on")
    for train, test in splitter(min(FOLDS, least)).split(of_label, of_label, outlets):
        yield train.tolist(), test.tolist()
