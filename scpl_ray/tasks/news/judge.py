"""The leaning judge of a corpus of articles: fitted on the judge's outlets, measured on those it has not seen.

``task.judge`` says what it is: a TF-IDF classifier (:mod:`scpl_ray.judges.tfidf`) or a fine-tuned encoder
(:mod:`scpl_ray.judges.encoder`). The encoder takes minutes per fit on two CPU cores, so its card has one
random split where that of TF-IDF has five folds of each kind, and at most :data:`ENCODER_TESTED` articles per protocol.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scpl_ray.config import Experiment
from scpl_ray.judges import calibration, tfidf
from scpl_ray.judges import card as judge_card
from scpl_ray.judges.calibration import Calibration
from scpl_ray.judges.card import JudgeCard, Measured
from scpl_ray.judges.tfidf import Judge, LabelledText, LeaningJudge
from scpl_ray.seeds import generator
from scpl_ray.storage import cache
from scpl_ray.storage.files import check_empty, sha256
from scpl_ray.tasks.news import articles
from scpl_ray.tasks.news.articles import Corpus, Lengths
from scpl_ray.tasks.outlets import EVALUATION, JUDGE, TRAIN
from scpl_ray.tasks.texts import digest_of, judge_tokens

logger = logging.getLogger(__name__)

FIT_SEED = 20_260_105
"""The judge is the same for every run, whatever its seed."""
ENCODER_TESTED = 600
"""Number of held-out articles on which an encoder is measured."""


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """One kind of judge."""

    settings: dict[str, Any]
    """What determines it beside its articles; the first is what the card calls it."""
    most_tested: int | None
    fit: Callable[[Sequence[LabelledText], Path], Judge]
    """Fits a judge and saves it into a folder."""
    load: Callable[[Path], Judge]


def leaning_judge(corpus: Corpus, experiment: Experiment) -> tuple[Judge, JudgeCard]:
    """The judge of a corpus, from the cache or fitted now: on the judge's outlets, measured on all others.

    Raises:
        ValueError: ``task.judge = 'encoder'`` and ``task.judge_model`` is not available.
    """
    recipe = _recipe(experiment)
    folder = _fitted(recipe, corpus.labelled, experiment.groups.names, Lengths.of(experiment).continuation, "outlets")
    return recipe.load(folder), card_of(folder, experiment)


def words_judge(
    labelled: Mapping[str, Sequence[LabelledText]], experiment: Experiment, window_words: int, sources: str
) -> tuple[Judge, JudgeCard]:
    """A TF-IDF judge of any kinds, from the cache or fitted now (seconds): on the judge's part, measured on all others.

    Args:
        labelled: texts by part; no source is in two parts.
        experiment: its groups are the kinds of text; its neutral prompts are what the card speaks of.
        window_words: words of the texts that it will judge.
        sources: what the parts share none of, e.g. ``outlets``.
    """
    folder = words_folder(labelled, experiment, window_words, sources)
    return LeaningJudge.load(folder), card_of(folder, experiment)


def words_folder(
    labelled: Mapping[str, Sequence[LabelledText]], experiment: Experiment, window_words: int, sources: str
) -> Path:
    """The folder in the cache of the judge that :func:`words_judge` returns."""
    labels = experiment.groups.names
    return _fitted(_words_recipe(labels, window_words), labelled, labels, window_words, sources)


def train_judge(experiment: Experiment, output: Path) -> JudgeCard:
    """The judge that a run of this experiment uses, with its full card, written into a folder.

    Beside the errors of this judge on outlets it has not seen, the card has those of judges of the same recipe under a
    random split, and for TF-IDF also under a split by outlet (:func:`scpl_ray.judges.card.measure_protocols`).

    Args:
        experiment: ``task``, ``groups`` and ``generation.max_new_tokens`` (the length of the windows) matter.
        output: new or empty folder; receives the judge's files and ``card.json``.

    Raises:
        DataError: as :func:`scpl_ray.tasks.news.articles.load`.
        ValueError: the folder is not empty, a label has too few articles or outlets, or there is no encoder.
    """
    check_empty(output)
    corpus, recipe = articles.load(experiment), _recipe(experiment)
    folder = _fitted(recipe, corpus.labelled, experiment.groups.names, Lengths.of(experiment).continuation, "outlets")
    card = card_of(folder, experiment)
    everything = [text for texts in corpus.labelled.values() for text in texts]
    measured: tuple[Measured, ...]
    if recipe.most_tested is None:
        measured, left_out = judge_card.measure_protocols(everything, card.labels, card.window_words)
    else:
        left_out = {}
        with tempfile.TemporaryDirectory(prefix="scpl-judge-") as scratch:
            measured = judge_card.measure_random_split(
                lambda texts: recipe.fit(texts, Path(scratch)),
                everything,
                card.labels,
                card.window_words,
                recipe.most_tested,
            )
    card = dataclasses.replace(card, measured=(*card.measured, *measured), left_out=left_out)
    cache.copy(folder, output)
    card.save(output)
    return card


def card_of(folder: Path, experiment: Experiment) -> JudgeCard:
    """The card of a fitted judge, for as many neutral prompts as a run of this experiment asks."""
    files = {name: digest for name, digest in cache.checksums(folder).items() if name != judge_card.FILE}
    prompts = experiment.evaluation.neutral_prompts
    return dataclasses.replace(JudgeCard.load(folder), prompts=prompts, fitted_files=files)


def told(judge: Judge, worth: Calibration | None, text: str) -> tuple[str | None, tuple[float, ...] | None]:
    """The kind of a text, and its calibrated log-odds for each kind: 0 where the judge cannot tell.

    Args:
        judge: the judge.
        worth: what its probabilities are worth; ``None``: there are no log-odds.
        text: the text.
    """
    found = judge.probabilities(text)
    kind = tfidf.most_probable(judge.labels, found)
    if worth is None:
        return kind, None
    return kind, worth.nothing if found is None else worth.log_odds(calibration.scores_of(found))


def usable_confusion(card: JudgeCard) -> tuple[tuple[float, ...], ...] | None:
    """The judge's confusion, unless it is no better than chance; see :func:`scpl_ray.judges.card.usable_confusion`."""
    return judge_card.usable_confusion(card.find(judge_card.DEPLOYED, windows=True), card.labels, card.sources)


def _fitted(
    recipe: _Recipe,
    labelled: Mapping[str, Sequence[LabelledText]],
    labels: Sequence[str],
    window_words: int,
    sources: str,
) -> Path:
    facts = {
        "texts": {part: digest_of(texts) for part, texts in labelled.items()},
        "labels": labels,
        "window_words": window_words,
        "sources": sources,
        "settings": recipe.settings,
        "test_windows": judge_card.TEST_WINDOWS_PER_ARTICLE,
        "most_tested": recipe.most_tested,
        "calibration": calibration.RECIPE,
    }

    def make(folder: Path) -> None:
        logger.info("fitting the judge of %s: %s", ", ".join(labels), recipe.settings["judge"])
        judge = recipe.fit(labelled[JUDGE], folder)
        held_out = [*labelled[TRAIN], *labelled[EVALUATION]]
        tested = held_out if recipe.most_tested is None else judge_card.sample(held_out, recipe.most_tested)
        measured, worth = judge_card.measure_deployed(judge, len(labelled[JUDGE]), tested, window_words)
        digest = digest_of([*held_out, *labelled[JUDGE]])
        card = JudgeCard(tuple(labels), window_words, digest, recipe.settings, measured, {}, sources, worth)
        card.save(folder)

    cost = None if recipe.most_tested is None else "minutes: an encoder is fine-tuned"
    return cache.entry("kind-judge", cache.key_of(facts), make, cost=cost)


def _recipe(experiment: Experiment) -> _Recipe:
    groups, words = experiment.groups.names, Lengths.of(experiment).continuation
    if experiment.task.judge == "tfidf":
        return _words_recipe(groups, words)
    return _encoder_recipe(experiment, groups, words)


def _words_recipe(labels: Sequence[str], window_words: int) -> _Recipe:
    def fit(texts: Sequence[LabelledText], folder: Path) -> Judge:
        judge = tfidf.fit(texts, labels, window_words)
        judge.save(folder)
        return judge

    version = {"scikit-learn": importlib.metadata.version("scikit-learn")}
    return _Recipe(tfidf.SETTINGS | version, None, fit, LeaningJudge.load)


def _encoder_recipe(experiment: Experiment, groups: Sequence[str], words: int) -> _Recipe:
    from scpl_ray.judges import encoder
    from scpl_ray.models.sources import resolve_judge_model

    base, tokens = resolve_judge_model(experiment), judge_tokens(experiment)
    settings = {
        "judge": f"a fine-tuned encoder ({experiment.task.judge_model})",
        "base": {path.name: sha256(path) for path in sorted(base.glob("*.safetensors"))},
        "tokens": tokens,
        "windows": encoder.WINDOWS,
        "frozen_layers": encoder.FROZEN_LAYERS,
        "epochs": encoder.EPOCHS,
        "windows_per_step": encoder.WINDOWS_PER_STEP,
        "peak_learning_rate": encoder.PEAK_LEARNING_RATE,
        "recipe": encoder.RECIPE,
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }

    def fit(texts: Sequence[LabelledText], folder: Path) -> Judge:
        if lacking := sorted(set(groups) - {text.label for text in texts}):
            raise ValueError(f"judge: no article is labelled {', '.join(lacking)}; give articles of every label")
        most = encoder.WINDOWS
        per_article = min(tfidf.WINDOWS_PER_ARTICLE, -(-most // len(texts)))
        cut = [(window, text.label) for text in texts for window in tfidf.windows(text, words, per_article)]
        chosen = generator(FIT_SEED, "judge windows chosen").permutation(len(cut))[:most]
        return encoder.fit(
            [cut[i][0] for i in chosen],
            [groups.index(cut[i][1]) for i in chosen],
            groups,
            base=base,
            output=folder,
            seed=FIT_SEED,
            max_tokens=tokens,
        )

    return _Recipe(settings, ENCODER_TESTED, fit, lambda folder: encoder.EncoderJudge(folder, groups))
