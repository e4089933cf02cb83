"""The preference judge: a reward model with one output per group, fitted on the judge's questions only.

It starts from ``task.judge_model``, reads question and answer as plain text (:meth:`Question.transcript`), and is
measured on questions that it has not seen. To fit in minutes on two CPU cores, it reads ``task.judge_tokens`` tokens,
the lower :data:`FROZEN_LAYERS` layers stay as they are, and it sees at most :data:`PAIRS` pairs.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scpl_ray.config import Experiment
from scpl_ray.judges import calibration, preference_card
from scpl_ray.judges.card import FILE
from scpl_ray.judges.preference_card import PreferenceCard
from scpl_ray.protocols import Choice
from scpl_ray.seeds import generator
from scpl_ray.storage import cache
from scpl_ray.storage.files import check_empty, sha256
from scpl_ray.tasks.outlets import EVALUATION, JUDGE, TRAIN
from scpl_ray.tasks.preference import questions as preference_data
from scpl_ray.tasks.preference.questions import Corpus, Question
from scpl_ray.tasks.texts import answer_words, digest_of, judge_tokens

logger = logging.getLogger(__name__)

FROZEN_LAYERS = 4
QUESTIONS_PER_STEP = 8
"""Smallest number of questions per step; there are never fewer pairs than in other fits of reward models."""
STEPS = 80
"""Smallest number of steps; the last epoch is always completed."""
PAIRS = 3000
"""Pairs that are fitted on, as many of each group as there are groups to share them, if there are so many."""
TESTED_PAIRS = 400
"""Held-out pairs of each group that it is measured on, if there are so many."""
FIT_SEED = 20_260_105
"""The judge is the same for every run, whatever its seed."""
RECIPE = 1
"""Version of the recipe; it is increased when the recipe changes, so that old cache entries are not used."""


class PreferenceJudge:
    """The judge in use; it is loaded in the process that first needs it.

    Args:
        folder: of :func:`scpl_ray.training.reward_model.fit`.
        groups: in the order of the results.
        tokens_per_batch: tokens per forward pass.
    """

    def __init__(self, folder: Path, groups: Sequence[str], tokens_per_batch: int) -> None:
        self.folder = folder
        self.groups = tuple(groups)
        self._tokens_per_batch = tokens_per_batch

    def __reduce__(self) -> tuple[type[PreferenceJudge], tuple[Any, ...]]:
        return PreferenceJudge, (self.folder, self.groups, self._tokens_per_batch)

    def rewards(self, texts: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """Rewards of (transcript, answer), in order, shape (texts, groups): mean 0 and sd 1 over what it was fitted on.

        A text's rewards do not depend on the others.
        """
        if not texts:
            return np.empty((0, len(self.groups)))
        model, columns = self._loaded
        return np.asarray(model.rewards(texts, self._tokens_per_batch)[:, columns], dtype=np.float64)

    def nats(self) -> NDArray[np.float64]:
        """Nats of log-odds of being chosen per unit of reward, shape (groups,)."""
        model, columns = self._loaded
        return np.asarray(model.nats[columns], dtype=np.float64)

    @functools.cached_property
    def _loaded(self) -> tuple[Any, list[int]]:
        import torch

        from scpl_ray.training import reward_model

        model = reward_model.load(self.folder, torch.float32, "cpu", self.groups)
        return model, [model.sequence.labels.index(group) for group in self.groups]


def preference_judge(corpus: Corpus, experiment: Experiment) -> tuple[PreferenceJudge, PreferenceCard]:
    """The judge of a corpus, from the cache or fitted now (minutes): on the judge's questions, measured on all others.

    Raises:
        ValueError: ``task.judge_model`` is not available.
    """
    folder = _fitted(corpus, experiment)
    judge = PreferenceJudge(folder, experiment.groups.names, experiment.reward.tokens_per_batch)
    return judge, _card(folder, experiment)


def train_judge(experiment: Experiment, output: Path) -> PreferenceCard:
    """The judge that a run of this experiment uses, with its card, written into a folder.

    Args:
        experiment: ``task``, ``groups`` and ``generation.max_new_tokens`` (the length of answers) matter.
        output: new or empty folder; receives the model, its tokenizer and ``card.json``.

    Raises:
        DataError: as :func:`scpl_ray.tasks.preference.questions.load`.
        ValueError: the folder is not empty, or ``task.judge_model`` is not available.
    """
    check_empty(output)
    folder = _fitted(preference_data.load(experiment), experiment)
    cache.copy(folder, output)
    card = _card(folder, experiment)
    card.save(output)
    return card


def _card(folder: Path, experiment: Experiment) -> PreferenceCard:
    """The card of a fitted judge, for as many neutral prompts as a run of this experiment asks."""
    files = {name: digest for name, digest in cache.checksums(folder).items() if name != FILE}
    prompts = experiment.evaluation.neutral_prompts
    return dataclasses.replace(PreferenceCard.load(folder), prompts=prompts, fitted_files=files)


def _fitted(corpus: Corpus, experiment: Experiment) -> Path:
    from scpl_ray.models.sources import resolve_judge_model

    base, groups = resolve_judge_model(experiment), experiment.groups.names
    training = choices_of(corpus.parts[JUDGE], Question.transcript)
    held_out = _held_out(corpus)
    facts = {
        "base": {path.name: sha256(path) for path in sorted(base.glob("*.safetensors"))},
        "choices": [digest_of(training), digest_of(held_out)],
        "labels": groups,
        "settings": settings(experiment),
        "calibration": calibration.RECIPE,
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }

    def make(folder: Path) -> None:
        logger.info("fitting the preference judge: minutes, once; it is kept for other runs")
        fit(training, held_out, experiment, folder)

    return cache.entry("preference-judge", cache.key_of(facts), make, cost="minutes: a reward model is fitted")


def own_questions(corpus: Corpus, groups: Sequence[str]) -> float:
    """Share of the answers that a judge of this corpus is measured on whose question one group alone asks."""
    held_out = _held_out(corpus)
    return preference_card.own_questions(_evenly(held_out, groups, TESTED_PAIRS), held_out)


def _held_out(corpus: Corpus) -> list[Choice]:
    """The choices from which those are drawn that a judge is measured on."""
    return choices_of([*corpus.parts[EVALUATION], *corpus.parts[TRAIN]], Question.transcript)


def fit(training: Sequence[Choice], held_out: Sequence[Choice], experiment: Experiment, output: Path) -> PreferenceCard:
    """Fit a reward model with one output per group and measure it on the choices of other questions.

    Args:
        training: as many as :data:`PAIRS` of them are used, evenly over the groups.
        held_out: as many as :data:`TESTED_PAIRS` of each group are used.
        experiment: groups, ``task.judge_model`` and ``task.judge_tokens`` matter.
        output: existing empty folder; receives the model, its tokenizer and ``card.json``.

    Raises:
        ValueError: ``task.judge_model`` is not available, or a group made no choice.
    """
    from scpl_ray.models.sources import resolve_judge_model
    from scpl_ray.training import reward_model

    groups, tokens_per_batch = experiment.groups.names, experiment.reward.tokens_per_batch
    fitted = _evenly(training, groups, PAIRS // len(groups))
    questions = len({choice.prompt for choice in fitted})
    pairs_per_step = max(reward_model.PAIRS_PER_STEP, round(QUESTIONS_PER_STEP * len(fitted) / questions))
    reward_model.fit(
        fitted,
        base=resolve_judge_model(experiment),
        output=output,
        seed=FIT_SEED,
        tokens_per_batch=tokens_per_batch,
        groups=groups,
        effort=reward_model.Effort(
            judge_tokens(experiment), FROZEN_LAYERS, -(-STEPS * pairs_per_step // len(fitted)), pairs_per_step
        ),
    )
    tested = _evenly(held_out, groups, TESTED_PAIRS)
    pairs_tested, pairs_right, kinds, worth = preference_card.measure(
        PreferenceJudge(output, groups, tokens_per_batch).rewards, tested, groups, trained_on=len(fitted)
    )
    card = PreferenceCard(
        labels=groups,
        base=experiment.task.judge_model,
        answer_words=answer_words(experiment),
        data_sha256=digest_of([*training, *held_out]),
        settings=settings(experiment),
        pairs_tested=pairs_tested,
        pairs_right=pairs_right,
        kinds=kinds,
        calibration=worth,
        own_questions=preference_card.own_questions(tested, held_out),
    )
    card.save(output)
    return card


def settings(experiment: Experiment) -> dict[str, Any]:
    """The settings that determine a fit, apart from its data and its base."""
    from scpl_ray.training import reward_model

    return {
        "recipe": RECIPE,
        "tokens": judge_tokens(experiment),
        "frozen_layers": FROZEN_LAYERS,
        "steps": STEPS,
        "questions_per_step": QUESTIONS_PER_STEP,
        "pairs_per_step": reward_model.PAIRS_PER_STEP,
        "peak_learning_rate": reward_model.PEAK_LEARNING_RATE,
        "most_pairs": PAIRS,
        "most_tested_pairs": TESTED_PAIRS,
    }


def choices_of(
    questions: Sequence[Question], prompt_of: Callable[[Question], str], answer_start: str = ""
) -> list[Choice]:
    """Every pair of every question as one choice."""
    return [
        Choice(prompt_of(question), answer_start + pair.chosen, answer_start + pair.rejected, pair.group)
        for question in questions
        for pair in question.pairs
    ]


def _evenly(choices: Sequence[Choice], groups: Sequence[str], per_group: int) -> list[Choice]:
    """Up to ``per_group`` choices of each group, drawn independently of the run's seed."""
    chosen: list[Choice] = []
    for group in groups:
        of_group = [choice for choice in choices if choice.group == group]
        order = generator(FIT_SEED, "judge pairs", group).permutation(len(of_group))
        chosen += [of_group[i] for i in order[:per_group]]
    return chosen
