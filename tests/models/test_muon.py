"""Muon beside PyTorch's own, which rounds to bfloat16, and beside the singular values that it promises."""

import pytest
import torch

from scpl_ray.models.muon import Muon, nearly_orthogonal

SHAPES = [(96, 96), (256, 96), (96, 256), (3, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_those_of_pytorch_but_for_its_rounding(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizers = Muon([ours], lr=0.02), torch.optim.Muon([theirs], lr=0.02, weight_decay=0.0)
    for _ in range(4):
        gradient = torch.randn(shape)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved, apart = theirs.detach() - start, ours.detach() - theirs.detach()
    # each of five iterations rounds to 8 bits, and the polynomial enlarges small differences
    assert apart.norm() < 0.05 * moved.norm()
    assert moved.norm() > 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_are_near_1_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrix = torch.randn(shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    new = left.T @ nearly_orthogonal(matrix) @ right.T
    kept = torch.diagonal(new)[values > 0.02 * values.max()]
    assert kept.min() > 0.6 and kept.max() < 1.3
    assert (new - torch.diag(torch.diagonal(new))).abs().max() < 1e-3


def test_a_matrix_of_zeros_stays_one() -> None:
    assert not nearly_orthogonal(torch.zeros(4, 3)).any()
