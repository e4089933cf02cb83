"""The measured errors of a reward model with one output per group, on questions it has not seen.

Two things are measured: whether each group's output orders the pairs of that group's users correctly, and whether the
highest output identifies the group that prefers an answer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scpl_ray.judges import calibration
from scpl_ray.judges.calibration import Calibration
from scpl_ray.judges.card import DEPLOYED, FILE, Measured
from scpl_ray.protocols import Choice

ANSWERS, OF_OWN_QUESTIONS = "answers", "answers to questions that one group asks each"
"""What kinds are measured on. The latter was written, before the share was, where it is 1."""
MOST = 0.5
"""Above this share of answers to questions that one group alone asks, it is said that nobody can tell whether question
or answer gives the kind away."""


@dataclasses.dataclass(frozen=True, slots=True)
class PreferenceCard:
    """The measured errors of a reward model with one output per group; stored beside it as ``card.json``."""

    labels: tuple[str, ...]
    base: str
    """The model from which it was fine-tuned."""
    answer_words: int
    data_sha256: str
    """SHA-256 of the questions it was fitted and measured on."""
    settings: dict[str, Any]
    pairs_tested: tuple[int, ...]
    """Number of held-out pairs, by group."""
    pairs_right: tuple[float, ...]
    """Number of held-out pairs, by group, whose chosen answer has the higher reward of that group; ties count half."""
    kinds: Measured
    """Held-out answers, labelled by the group that prefers them and judged by the highest output."""
    calibration: Calibration | None = None
    """What its outputs are worth on the same answers; ``None``: nothing, or it is not known."""
    prompts: int | None = dataclasses.field(default=None, compare=False)
    """Number of neutral prompts for which the card says what they show; ``None``: not for a number."""
    fitted_files: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """SHA-256 of the files of the fitted judge, by name; empty: not known."""
    own_questions: float | None = None
    """See :func:`own_questions`; ``None``: a card of an earlier version, whose ``kinds.texts`` says whether it is 1."""

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Pairwise accuracy of each group's output on its users' pairs."""
        return tuple(right / tested for right, tested in zip(self.pairs_right, self.pairs_tested, strict=True))

    def summary(self) -> str:
        """One line about the judge's errors, shown beside every share and win rate that the judge produced."""
        figures = zip(self.labels, self.accuracies, self.pairs_tested, strict=True)
        rates = zip(self.labels, self.kinds.true_positive_rates, self.kinds.false_positive_rates, strict=True)
        own = self.own_questions if self.own_questions is not None else float(self.kinds.texts == OF_OWN_QUESTIONS)
        told = (
            "quality and kinds by a reward model with one output per group: pairs it has not seen ordered rightly: "
            + ", ".join(f"{label} {accuracy:.2f} of {tested}" for label, accuracy, tested in figures)
            + f"; kinds of answers it has not seen: macro F1 {self.kinds.macro_f1:.2f} ("
            + ", ".join(f"{label}: TPR {true:.2f} FPR {false:.2f}" for label, true, false in rates)
            + ")"
            + (f"; {not_apart(own)}" if own > MOST else "")
        )
        if self.prompts is None:
            return told
        by_labels = self.kinds.detectable(self.prompts)
        return f"{told}; {calibration.sentence(self.prompts, by_labels, self.calibration)}"

    def confusion_counts(self) -> tuple[tuple[int, ...], ...]:
        """Held-out answers that group i prefers whose highest output is group j's, shape (K, K)."""
        return self.kinds.confusion

    def table(self) -> list[dict[str, str | int | float]]:
        """One row per group, then one row for all groups."""
        rows: list[dict[str, str | int | float]] = []
        for k, label in enumerate(self.labels):
            row: dict[str, str | int | float] = {
                "group": label,
                "held-out pairs": self.pairs_tested[k],
                "pairwise accuracy": self.accuracies[k],
                "held-out answers": sum(self.kinds.confusion[k]),
                "TPR": self.kinds.true_positive_rates[k],
                "FPR": self.kinds.false_positive_rates[k],
            }
            row |= {f"judged {other}": self.kinds.confusion[k][j] for j, other in enumerate(self.labels)}
            if self.prompts is not None:
                soft = self.calibration
                row[f"detectable at {self.prompts}, labels"] = calibration.in_words(self.kinds.detectable(self.prompts))
                row["soft"] = "none" if soft is None else calibration.in_words(soft.detectable(self.prompts))
            rows.append(row)
        return rows

    def save(self, folder: Path) -> None:
        """Write ``card.json`` into an existing folder, with the derived rates beside the counts."""
        facts = dataclasses.asdict(self) | {"table": self.table(), "macro_f1": self.kinds.macro_f1}
        (folder / FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PreferenceCard:
        """The inverse of :meth:`save`.

        Raises:
            ValueError: there is no card, or it has another version.
        """
        try:
            facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
            for derived in ("table", "macro_f1"):
                del facts[derived]
            for name in ("labels", "pairs_tested", "pairs_right"):
                facts[name] = tuple(facts[name])
            if facts.get("calibration") is not None:
                facts["calibration"] = Calibration.of(facts["calibration"])
            return cls(**facts | {"kinds": Measured.of(facts["kinds"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder}: no judge card that can be read ({error}); train the judge anew") from error


def own_questions(tested: Sequence[Choice], every: Sequence[Choice]) -> float:
    """Share of the tested answers of one kind whose question no other group asks.

    Args:
        tested: the choices that a judge is measured on.
        every: all choices from which these were drawn, which tell the groups that ask a question.
    """
    asking: dict[str, set[str]] = {}
    for c in every:
        asking.setdefault(c.prompt, set()).add(str(c.group))
    prompts = [prompt for prompt, _ in _kinds(tested)]
    return sum(len(asking[prompt]) == 1 for prompt in prompts) / len(prompts) if prompts else 0.0


def not_apart(share: float) -> str:
    """What is said where more than :data:`MOST` of the answers are to questions that one group alone asks."""
    return (
        f"{share:.0%} of the answers are to questions that one group alone asks, so kinds of answers cannot be told "
        "from kinds of questions"
    )


def _kinds(choices: Sequence[Choice]) -> dict[tuple[str, str], str]:
    """The (prompt, answer) pairs that the users of one group alone chose, each with that group."""
    chosen_by: dict[tuple[str, str], set[str]] = {}
    for c in choices:
        chosen_by.setdefault((c.prompt, c.chosen), set()).add(str(c.group))
    return {text: next(iter(groups)) for text, groups in chosen_by.items() if len(groups) == 1}


def measure(
    rewards: Callable[[Sequence[tuple[str, str]]], NDArray[np.float64]],
    choices: Sequence[Choice],
    labels: Sequence[str],
    trained_on: int,
) -> tuple[tuple[int, ...], tuple[float, ...], Measured, Calibration | None]:
    """Numbers of pairs tested and ordered correctly by group; judged kinds of chosen answers, and what these are worth.

    An answer that several groups chose is not used as an example of a kind.

    Args:
        rewards: a function that gives the rewards of (prompt, answer) pairs, shape (texts, groups).
        choices: choices of users whose group is known.
        labels: the groups, in the order of the rewards.
        trained_on: number of choices that the reward model was fitted on.
    """
    texts = list(dict.fromkeys((c.prompt, text) for c in choices for text in (c.chosen, c.rejected)))
    reward_of = dict(zip(texts, rewards(texts), strict=True))
    margins: dict[str, list[float]] = {label: [] for label in labels}
    for c in choices:
        column = list(labels).index(str(c.group))
        margins[str(c.group)].append(reward_of[c.prompt, c.chosen][column] - reward_of[c.prompt, c.rejected][column])
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    told = [(text, list(labels).index(group)) for text, group in _kinds(choices).items()]
    for text, kind in told:
        confusion[kind, int(reward_of[text].argmax())] += 1
    scores = scores_of(np.array([reward_of[text] for text, _ in told])) if told else np.empty((0, len(labels)))
    worth = calibration.fit(scores, [kind for _, kind in told], [prompt for (prompt, _), _ in told])
    kinds = Measured(
        DEPLOYED,
        ANSWERS,
        trained_on,
        int(confusion.sum()),
        tuple(tuple(row) for row in confusion.tolist()),
        (0,) * len(labels),
    )
    right = tuple(sum((m > 0) + 0.5 * (m == 0) for m in margins[label]) for label in labels)
    return tuple(len(margins[label]) for label in labels), right, kinds, worth


def scores_of(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each output is above the mean of the others, shape (..., K) for rewards (..., K)."""
    total = rewards.sum(axis=-1, keepdims=True)
    return np.asarray(rewards - (total - rewards) / (rewards.shape[-1] - 1))
