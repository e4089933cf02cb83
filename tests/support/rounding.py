"""How far AdamW may move two trainings apart that compute the same gradients in a different order.

Two correct programs sum the same products in different orders, and so do two sets of kernels of one program. Their
gradients then differ by rounding, and AdamW divides a gradient by its own size: if the gradient of a weight is nothing
but rounding noise, one program may make a whole step forward and the other one a whole step back. No single tolerance
fits both that weight and its neighbours, so every weight has its own bound here.
"""

import math

import torch

Tensors = dict[str, torch.Tensor]


class AdamBound:
    """Follows one AdamW, step by step, and bounds how far an equal training's weights may be from its own.

    An entry of a gradient is a sum over the step's tokens of products that are each correct to the format's epsilon, so
    its error is assumed to be at most ``eps * tokens`` times the largest entry of its tensor. With ``M`` the first and
    ``V`` the second moment of that error, the triangle inequality bounds the change of AdamW's normalised step
    ``u = m / (sqrt(v) + eps)`` by ``(M + |u| sqrt(V)) / (sqrt(v) - sqrt(V))``; and no two normalised steps are
    further apart than twice the largest one possible, which is ``sqrt(sum_s a_s^2 / b_s)`` by Cauchy and Schwarz for
    the weights ``a`` and ``b`` of the two averages.

    The gradient of one half of an adapter is linear in the other half, which begins at zero: there a few entries that
    moved in the opposite direction are a large part of the whole. So the error of an adapter's gradient includes, for
    every rank, the relative displacement of the other half's vector of that rank. The effect of displaced weights on
    other tensors is of second order.
    """

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self._betas, self._eps = betas, eps
        self._moments: dict[str, list[torch.Tensor]] = {}
        self._steps = 0
        self.far: Tensors = {}
        """For every weight, in its own units: how far apart the two trainings may be."""

    def step(self, gradients: Tensors, weights: Tensors, rate: float, tokens: int) -> None:
        """Take in one step: its clipped gradients, the weights before it, its learning rate, and its tokens."""
        self._steps += 1
        (beta1, beta2), n = self._betas, self._steps
        a = [(1 - beta1) * beta1 ** (n - s) / (1 - beta1**n) for s in range(1, n + 1)]
        b = [(1 - beta2) * beta2 ** (n - s) / (1 - beta2**n) for s in range(1, n + 1)]
        largest = math.sqrt(sum(x * x / y for x, y in zip(a, b, strict=True)))
        displaced = {name: self._displaced(name, weights) for name in gradients}
        for name, exact in gradients.items():
            gradient, eps = exact.double(), torch.finfo(exact.dtype).eps
            wrong = (eps * tokens + displaced[name]) * gradient.abs().max() * torch.ones_like(gradient)
            zeros = [torch.zeros_like(gradient) for _ in range(4)]
            m, v, m_wrong, v_wrong = self._moments.setdefault(name, zeros)
            m.lerp_(gradient, 1 - beta1)
            v.lerp_(gradient.square(), 1 - beta2)
            m_wrong.lerp_(wrong, 1 - beta1)
            v_wrong.lerp_(wrong.square(), 1 - beta2)
            first, second = 1 - beta1**n, 1 - beta2**n
            root, root_wrong = (v / second).sqrt(), (v_wrong / second).sqrt()
            normalised = (m / first).abs() / (root + self._eps)
            apart = (m_wrong / first + normalised * root_wrong) / ((root - root_wrong).clamp(min=0.0) + self._eps)
            rounding = eps * weights[name].double().abs()
            self.far.setdefault(name, torch.zeros_like(gradient)).add_(
                rate * apart.clamp(max=2 * largest) + 2 * rounding
            )

    def _displaced(self, name: str, weights: Tensors) -> torch.Tensor:
        """For every rank of half an adapter, the relative displacement of its other half; elsewhere 0."""
        ours, theirs = ("lora_A", "lora_B") if "lora_A" in name else ("lora_B", "lora_A")
        other = name.replace(ours, theirs)
        if ours not in name or other not in self.far:
            return torch.zeros((), dtype=torch.float64)
        axis = 0 if theirs == "lora_B" else 1
        part = self.far[other].norm(dim=axis) / weights[other].detach().double().norm(dim=axis)
        return part[:, None] if ours == "lora_A" else part
