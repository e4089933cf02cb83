"""An encoder that is fine-tuned to predict the labels of texts: a slower alternative to the TF-IDF judge.

It starts from ``task.judge_model`` with a softmax head over all labels and is fitted on windows as short as the texts
that it will judge. To finish in minutes on two CPU cores, the lowest :data:`FROZEN_LAYERS` layers are frozen and at
most :data:`WINDOWS` windows are used. With these limits, all-MiniLM-L6-v2 is no better than TF-IDF on outlets it has
not seen: its macro F1 is .55 on windows of 36 words of left and right news, that of TF-IDF is .59.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from scpl_ray.judges.tfidf import most_probable

WINDOWS = 4000
FROZEN_LAYERS = 4
EPOCHS = 2
WINDOWS_PER_STEP = 32
PEAK_LEARNING_RATE = 2e-3
RECIPE = 1
"""Version of the recipe; it is increased when the recipe changes, so that old cache entries are not used."""


class EncoderJudge:
    """A fitted judge; each process loads it when it first needs it.

    Args:
        folder: the output folder of :func:`fit`.
        labels: the labels in the order of the results.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self.folder = folder
        self.labels: tuple[str, ...] = tuple(labels)

    def __reduce__(self) -> tuple[type[EncoderJudge], tuple[Path, tuple[str, ...]]]:
        return EncoderJudge, (self.folder, self.labels)

    def probabilities(self, text: str) -> NDArray[np.float64] | None:
        """P(label | text), shape (K,); ``None`` if the text has no letter or digit."""
        if not any(char.isalnum() for char in text):
            return None
        model, columns = self._loaded
        outputs = model.outputs([model.encode(text)], model.max_tokens)[0, columns]
        return np.asarray(softmax(outputs), dtype=np.float64)

    def label(self, text: str) -> str | None:
        """The most probable label; ``None`` if the text has no letter or digit, or on a tie."""
        return most_probable(self.labels, self.probabilities(text))

    @functools.cached_property
    def _loaded(self) -> tuple[Any, list[int]]:
        import torch

        from scpl_ray.training import classifiers

        model = classifiers.load(self.folder, torch.float32, "cpu")
        return model, [model.labels.index(label) for label in self.labels]


def fit(
    texts: Sequence[str],
    of_label: Sequence[int],
    labels: Sequence[str],
    *,
    base: Path,
    output: Path,
    seed: int,
    max_tokens: int,
) -> EncoderJudge:
    """Fine-tune an encoder by cross-entropy; every label has the same total weight.

    Args:
        texts: the training texts.
        of_label: index of each text's label.
        labels: the K labels; each has at least one text.
        base: folder of the encoder with its tokenizer.
        output: existing folder; config, safetensors and tokenizer are written into it.
        seed: seed of the order of the texts.
        max_tokens: longest text, in tokens; a longer one loses its end.
    """
    import torch
    import torch.nn.functional as F

    from scpl_ray.training import classifiers

    model = classifiers.untrained(base, labels, seed=seed, max_tokens=max_tokens)
    encoded = [model.encode(text) for text in texts]
    counts = np.bincount(of_label, minlength=len(labels))
    weights = torch.tensor(len(texts) / (len(labels) * counts), dtype=torch.float32)

    def loss(batch: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        members = [encoded[i] for i in batch]
        target = torch.tensor([of_label[i] for i in batch])
        losses = F.cross_entropy(model.forward_any(members), target, reduction="none")
        return (weights[target] * losses).mean(), losses

    schedule = classifiers.Schedule(EPOCHS, WINDOWS_PER_STEP, PEAK_LEARNING_RATE, FROZEN_LAYERS)
    classifiers.train(model, len(texts), loss, schedule, seed=seed, purpose="encoder judge")
    model.save(output)
    return EncoderJudge(output, labels)
