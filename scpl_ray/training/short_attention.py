"""Attention of short sequences in bfloat16 on a CPU: PyTorch's kernel forward, products of matrices backward.

The kernel keeps no scores, and its backward pass in bfloat16 takes four times as long as its forward pass. Where the
scores of a row fit the processor's caches, computing them again takes half of that: one product in float32, and four of
which each is a call that uses the processor's own units for bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from scpl_ray.models.attention import caps_scores, has_sinks
from scpl_ray.models.precision import native_bfloat16

SHORT = "scpl_short_sequences"
MOST_SCORES = 2**20
"""Most scores of a row, all heads together: 341 tokens of 9 heads. With more, the kernel is as fast or faster."""
_NEVER = -1e30
"""Added to scores that do not count; finite, so that a token that attends to nothing gets no NaN."""


def use_products(model: PreTrainedModel) -> bool:
    """Let a model train so, if it is on a CPU that multiplies bfloat16 and uses PyTorch's attention; returns whether.

    Args:
        model: in the format that it is trained in.
    """
    usual = model.config._attn_implementation == "sdpa" and not has_sinks(model) and not caps_scores(model)
    if model.dtype != torch.bfloat16 or model.device.type != "cpu" or not usual or not native_bfloat16():
        return False
    AttentionInterface.register(SHORT, short_attention)
    AttentionMaskInterface.register(SHORT, sdpa_mask)
    model.set_attn_implementation(SHORT)
    return True


def short_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **given: Any,
) -> tuple[Tensor, None]:
    """Attention in the form that transformers asks for; where it is not short, or not simply causal, transformers' own.

    Args:
        module: the attention layer.
        query: shape (rows, heads, width, dimensions).
        key: as ``query``, with as many heads or fewer that several share.
        value: as ``key``.
        attention_mask: true where a token attends, shape (rows or 1, 1, width, width); ``None``: to all before it.
        dropout: share of the weights that is dropped.
        scaling: factor of the scores; ``None``: one over the root of the dimensions.
        given: what else some models say.

    Returns:
        Shape (rows, width, heads, dimensions), and no weights.
    """
    _, heads, width, dimensions = query.shape
    causal = given.get("is_causal")
    simple = (
        dropout == 0.0
        and key.shape[2] == width
        and value.shape[-1] == dimensions
        and given.get("position_bias") is None
        and (getattr(module, "is_causal", True) if causal is None else causal)
        and (attention_mask is None or attention_mask.dtype == torch.bool)
    )
    if not simple or not query.requires_grad or heads * width * width > MOST_SCORES:
        usual: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **given
        )
        return usual
    scale = dimensions**-0.5 if scaling is None else scaling
    found: Tensor = _Products.apply(query, key, value, attention_mask, scale)  # type: ignore[no-untyped-call]
    return found.transpose(1, 2).contiguous(), None


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        shared = query.shape[1] != key.shape[1]
        output = F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=mask is None, scale=scale, enable_gqa=shared
        )
        ctx.save_for_backward(query, key, value, mask, output)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Dao et al. 2022 (arXiv 2205.14135), appendix B.2, one row of the batch at a time.

        With the weights P = softmax(S), S = scale Q K^T + mask, and D the gradient of the output O = P V:
        dV = P^T D, dS = P * (D V^T - rowsum(D * O)), dQ = scale dS K, dK = scale dS^T Q.
        """
        query, key, value, mask, output = ctx.saved_tensors
        rows, heads, width, dimensions = query.shape
        groups = key.shape[1]
        if mask is None:
            mask = torch.ones(1, 1, width, width, dtype=torch.bool).tril()
        bias = torch.zeros(mask.shape).masked_fill_(~mask, _NEVER).expand(rows, 1, width, width)
        found = [torch.empty(one.shape, dtype=one.dtype) for one in (query, key, value)]
        for row in range(rows):
            # heads that share keys and values are one long matrix
            q, k, v, d, o = (one[row].reshape(groups, -1, dimensions) for one in (query, key, value, gradient, output))
            scores = torch.bmm(q.float(), k.float().mT).mul_(ctx.scale).view(heads, width, width).add_(bias[row])
            weights = torch.softmax(scores, -1).view(groups, -1, width)
            of_weights = torch.bmm(d, v.mT).float().sub_((d.float() * o.float()).sum(-1, keepdim=True))
            of_scores = of_weights.mul_(weights).mul_(ctx.scale).to(query.dtype)
            parts = torch.bmm(of_scores, k), torch.bmm(of_scores.mT, q), torch.bmm(weights.to(query.dtype).mT, d)
            for whole, part in zip(found, parts, strict=True):
                whole[row] = part.view(whole.shape[1:])
        return *found, None, None
