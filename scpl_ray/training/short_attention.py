"""Attention of short sequences in bfloat16 on a CPU: PyTorch's kernel forward, products of matrices backward.

The kernel keeps no scores, and its backward pass in bfloat16 takes more than three times as long as its forward pass.
Where the scores of a sequence fit the processor's caches, computing them again is faster (docs/performance.md): one
product in float32, and four of which each is a call that uses the processor's own units for bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_SCORES = 2**20
"""Most scores of a sequence, all heads together: 341 tokens of 9 heads. With 512 tokens the kernel was as fast."""


def is_short(query: Tensor, value: Tensor) -> bool:
    """Whether attention is trained in bfloat16 on a CPU, and over a short sequence.

    Args:
        query: shape (rows, heads, width, dimensions).
        value: as ``query``, with as many heads or fewer.
    """
    _, heads, width, dimensions = query.shape
    on_cpu = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return on_cpu and query.requires_grad and value.shape[-1] == dimensions and heads * width * width <= MOST_SCORES


def attend(query: Tensor, key: Tensor, value: Tensor, band: Tensor | None, scale: float | None) -> Tensor:
    """Causal attention, shape as ``query``.

    Args:
        query: shape (rows, heads, width, dimensions).
        key: as ``query``, with as many heads or fewer that several share.
        value: as ``key``.
        band: true where a token attends, shape (width, width); ``None``: to all before it and itself.
        scale: factor of the scores; ``None``: one over the root of the dimensions.
    """
    found: Tensor = _Products.apply(  # type: ignore[no-untyped-call]
        query, key, value, band, query.shape[-1] ** -0.5 if scale is None else scale
    )
    return found


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, band: Tensor | None, scale: float) -> Tensor:
        shared = query.shape[1] != key.shape[1]
        output = F.scaled_dot_product_attention(
            query, key, value, band, is_causal=band is None, scale=scale, enable_gqa=shared
        )
        ctx.save_for_backward(query, key, value, band, output)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Dao et al. 2022 (arXiv 2205.14135), appendix B.2, one row of the batch at a time.

        With the weights P = softmax(S), S = scale Q K^T + mask, and D the gradient of the output O = P V:
        dV = P^T D, dS = P * (D V^T - rowsum(D * O)), dQ = scale dS K, dK = scale dS^T Q.
        """
        query, key, value, band, output = ctx.saved_tensors
        rows, heads, width, dimensions = query.shape
        groups = key.shape[1]
        if band is None:
            band = torch.ones(width, width, dtype=torch.bool).tril()
        bias = torch.zeros(width, width).masked_fill_(~band, -torch.inf)
        found = [torch.empty(one.shape, dtype=one.dtype) for one in (query, key, value)]
        for row in range(rows):
            # heads that share keys and values are one long matrix
            q, k, v, d, o = (one[row].reshape(groups, -1, dimensions) for one in (query, key, value, gradient, output))
            scores = torch.bmm(q.float(), k.float().mT).mul_(ctx.scale).view(heads, width, width).add_(bias)
            weights = torch.softmax(scores, -1).view(groups, -1, width)
            of_weights = torch.bmm(d, v.mT).float().sub_((d.float() * o.float()).sum(-1, keepdim=True))
            of_scores = of_weights.mul_(weights).mul_(ctx.scale).to(query.dtype)
            parts = torch.bmm(of_scores, k), torch.bmm(of_scores.mT, q), torch.bmm(weights.to(query.dtype).mT, d)
            for whole, part in zip(found, parts, strict=True):
                whole[row] = part.view(whole.shape[1:])
        return *found, None, None
