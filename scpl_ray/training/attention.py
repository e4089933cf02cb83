"""Attention between the tokens of a sequence only, where several sequences share one row.

In float32 on a CPU transformers' own SDPA does that with a mask that it makes of restarting position ids. On GPUs a
mask of width by width numbers is slow and large, so kernels get the lengths of the sequences instead: FlashAttention 2
where it is installed, for models and formats that it serves, else PyTorch's own causal kernels, one call per sequence,
which have no mask either. Then all sequences of a micro-batch stand in one row, without padding. A CPU that multiplies
bfloat16 does the second in that format.

The second kind runs on CPUs and has run in a training step on an H100; no GPU has run the first yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from scpl_ray.models.attention import caps_scores, has_sinks
from scpl_ray.training import short_attention

FLASH = "flash_attention_2"
SEPARATE = "scpl_separate_sequences"


def use_lengths(model: PreTrainedModel) -> bool:
    """Let a model attend by the lengths of sequences; returns whether it can.

    A model keeps its own attention where that does more than the kernels with lengths, such as capping scores.

    Args:
        model: in the format that it is trained in.
    """
    if has_sinks(model):
        return False
    if model.dtype != torch.float32 and model._supports_flash_attn and is_flash_attn_2_available():
        model.set_attn_implementation(FLASH)
        return True
    if not model._supports_sdpa or caps_scores(model):
        return False
    AttentionInterface.register(SEPARATE, separate_attention)
    model.set_attn_implementation(SEPARATE)
    return True


def lengths_of(model: nn.Module, position_ids: NDArray[np.int64]) -> dict[str, Any]:
    """Further inputs of a model that attends by lengths; none for other models, or if there are several rows.

    Args:
        model: a causal language model, as it is or inside others.
        position_ids: shape (rows, width); a sequence begins wherever they are 0.
    """
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    kind = None if inner is None else inner.config._attn_implementation
    if kind not in (FLASH, SEPARATE) or len(position_ids) > 1:
        return {}
    starts = np.append(np.flatnonzero(position_ids[0] == 0), position_ids.size)
    lengths = np.diff(starts).tolist()
    if kind == SEPARATE:
        return {"sequence_lengths": tuple(lengths)}
    device = next(model.parameters()).device
    bounds = torch.from_numpy(starts.astype(np.int32)).to(device)
    longest = max(lengths)
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


def separate_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    sequence_lengths: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a row, in the form that transformers asks for.

    Args:
        module: the attention layer.
        query: shape (rows, heads, width, dimensions).
        key: as ``query``, with as many heads or fewer that several share.
        value: as ``key``.
        attention_mask: none is made for this kind of attention.
        dropout: share of the weights that is dropped.
        scaling: factor of the scores.
        sliding_window: how many tokens back a token attends, itself included; ``None``: all.
        sequence_lengths: in order, of the sequences of a single row; ``None``: every row is one sequence, perhaps with
            padding on its right.

    Returns:
        Shape (rows, width, heads, dimensions), and no weights.
    """
    parts = []
    whole = [query.shape[2]] if sequence_lengths is None else list(sequence_lengths)
    for q, k, v in zip(*(torch.split(tensor, whole, dim=2) for tensor in (query, key, value)), strict=True):
        width = q.shape[2]
        band = None
        if sliding_window is not None and width > sliding_window:
            band = torch.ones(width, width, dtype=torch.bool, device=q.device).tril().triu(1 - sliding_window)
        if short_attention.is_short(q, v) and dropout == 0.0:
            parts.append(short_attention.attend(q, k, v, band, scaling))
            continue
        shared = k.shape[1] != q.shape[1]
        parts.append(
            F.scaled_dot_product_attention(
                q, k, v, band, dropout, is_causal=band is None, scale=scaling, enable_gqa=shared
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None
