"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) in float32.

PyTorch's own computes in bfloat16. A processor without units for it takes 15 times as long for that, which was two
thirds of the training of a tiny model, and its result depends on how the processor rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: they have the largest slope at 0 and move singular values to about 0.7 to 1.2."""
ITERATIONS = 5
LEAST_NORM = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is made nearly orthogonal; the defaults of ``torch.optim.Muon``, no weight decay.

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate of square matrices; times ``sqrt(rows / columns)`` where there are more rows.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float) -> None:
        super().__init__(matrices, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix by its gradient."""
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
                update = nearly_orthogonal(matrix.grad.lerp(momentum, MOMENTUM))
                rows, columns = matrix.shape
                matrix.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))


def nearly_orthogonal(matrix: Tensor) -> Tensor:
    """``U S' V^T`` of a matrix ``U S V^T``, with ``S'`` between about 0.7 and 1.2, by Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=LEAST_NORM)  # no singular value is above 1
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    found: Tensor = wide if matrix.shape[0] <= matrix.shape[1] else wide.T
    return found
