"""The judge of kinds of a task: fitted on the judge's part of its data, measured on the parts it has not seen."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scpl_ray import cache, judge_card, judges
from scpl_ray.config import Experiment
from scpl_ray.judge_card import JudgeCard
from scpl_ray.judges import LabelledText, LeaningJudge
from scpl_ray.tasks import articles
from scpl_ray.tasks.articles import Corpus
from scpl_ray.tasks.outlets import EVALUATION, JUDGE, TRAIN
from scpl_ray.tasks.texts import answer_words

logger = logging.getLogger(__name__)


def leaning_judge(corpus: Corpus, experiment: Experiment) -> tuple[LeaningJudge, JudgeCard]:
    """The judge of a corpus of articles: of leanings, on windows as long as an answer."""
    return fitted_judge(corpus.labelled, experiment.groups.names, answer_words(experiment), "outlets")


def fitted_judge(
    labelled: Mapping[str, Sequence[LabelledText]], labels: Sequence[str], window_words: int, sources: str
) -> tuple[LeaningJudge, JudgeCard]:
    """A judge, from the cache or fitted now (seconds): on the judge's part, measured on all others.

    Args:
        labelled: texts by part; no source is in two parts.
        labels: kinds of text.
        window_words: words of the texts that it will judge.
        sources: what the parts share none of, e.g. ``outlets``.
    """
    facts = {
        "texts": {part: _sha256(texts) for part, texts in labelled.items()},
        "labels": labels,
        "window_words": window_words,
        "sources": sources,
        "settings": judges.SETTINGS,
        "test_windows": judge_card.TEST_WINDOWS_PER_ARTICLE,
        "scikit-learn": importlib.metadata.version("scikit-learn"),
    }

    def make(folder: Path) -> None:
        logger.info("fitting the judge of %s", ", ".join(labels))
        judge = judges.fit(labelled[JUDGE], labels, window_words)
        held_out = [*labelled[TRAIN], *labelled[EVALUATION]]
        measured = judge_card.measure_deployed(judge, len(labelled[JUDGE]), held_out, window_words)
        digest = _sha256([*held_out, *labelled[JUDGE]])
        judge.save(folder)
        JudgeCard(tuple(labels), window_words, digest, judges.SETTINGS, measured, {}, sources).save(folder)

    folder = cache.entry("kind-judge", cache.key_of(facts), make)
    return LeaningJudge.load(folder), JudgeCard.load(folder)


def train_judge(experiment: Experiment, output: Path) -> JudgeCard:
    """The judge that a run of this experiment uses, with its full card, written into a folder.

    Beside the errors of this judge on outlets it has not seen, the card has those of judges of the same recipe under a
    random split and a split by outlet (:func:`scpl_ray.judge_card.measure_protocols`).

    Args:
        experiment: ``task``, ``groups`` and ``generation.max_new_tokens`` (the length of the windows) matter.
        output: new or empty folder; receives ``judge.json``, ``judge.safetensors`` and ``card.json``.

    Raises:
        DataError: as :func:`scpl_ray.tasks.articles.load`.
        ValueError: the folder is not empty, or a label has too few articles or outlets.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output}: exists and is not an empty folder; give a new one")
    corpus = articles.load(experiment)
    judge, card = leaning_judge(corpus, experiment)
    everything = [text for texts in corpus.labelled.values() for text in texts]
    measured, left_out = judge_card.measure_protocols(everything, card.labels, card.window_words)
    card = dataclasses.replace(card, measured=(*card.measured, *measured), left_out=left_out)
    output.mkdir(parents=True, exist_ok=True)
    judge.save(output)
    card.save(output)
    return card


def usable_confusion(card: JudgeCard) -> tuple[tuple[float, ...], ...] | None:
    """The judge's confusion, unless it is no better than chance at some label: a correction would then be noise."""
    found = card.find(judge_card.DEPLOYED, windows=True)
    rates = zip(card.labels, found.true_positive_rates, found.false_positive_rates, strict=True)
    if chance := [label for label, true, false in rates if true <= false]:
        logger.warning(
            "on %s it has not seen the judge tells %s no better than chance (macro F1 %.2f): shares of kinds are not "
            "corrected for its errors",
            card.sources,
            ", ".join(chance),
            found.macro_f1,
        )
        return None
    return card.confusion_rates()


def _sha256(texts: Iterable[LabelledText]) -> str:
    """Of labelled texts, in any order."""
    lines = sorted(json.dumps(dataclasses.astuple(text), ensure_ascii=False) for text in texts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
