"""Attention of short sequences in bfloat16 on a CPU against PyTorch's own, and a model that trains with it."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from scpl_ray.training import short_attention
from scpl_ray.training.attention import use_lengths
from scpl_ray.training.batches import collate, training_sequences
from scpl_ray.training.losses import packing_is_exact, weighted_nll
from tests.support.tiny_models import VOCABULARY, examples

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
APART, TOGETHER = tuple((i,) for i in range(6)), (tuple(range(6)),)


def gradients(dtype: torch.dtype, band: Tensor | None, heads: int, groups: int, *, own: bool) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, heads, 12, 16), (3, groups, 12, 16), (3, groups, 12, 16)]
    query, key, value = (torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in shapes)
    weight = torch.randn((3, heads, 12, 16), generator=draw).to(dtype)
    if own:
        output = short_attention.attend(query, key, value, band, 0.3)
    else:
        output = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), band, is_causal=band is None, scale=0.3, enable_gqa=True
        )
    (output * weight).sum().backward()
    return [one.grad.float() for one in (query, key, value)]  # type: ignore[union-attr]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_the_gradients_are_those_of_pytorch(
    heads: int, groups: int, window: int | None, dtype: torch.dtype, bound: float
) -> None:
    band = None if window is None else torch.ones(12, 12, dtype=torch.bool).tril().triu(1 - window)
    expected = gradients(dtype, band, heads, groups, own=False)
    for one, other in zip(gradients(dtype, band, heads, groups, own=True), expected, strict=True):
        assert float((one - other).norm() / other.norm()) < bound


def trained(model: Any, rows: tuple[tuple[int, ...], ...]) -> tuple[float, Tensor]:
    total, _ = weighted_nll(model, collate(rows, training_sequences(examples(6), "completion")))
    total.backward()
    return float(total.detach()), torch.cat([p.grad.flatten().float() for p in model.parameters()])


@pytest.mark.parametrize(
    "config", [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=5)], ids=["llama", "window"]
)
@pytest.mark.parametrize("rows", [APART, TOGETHER], ids=["apart", "in one row"])
def test_a_model_learns_as_by_the_kernel(config: Any, rows: tuple[tuple[int, ...], ...]) -> None:
    torch.manual_seed(0)
    usual = AutoModelForCausalLM.from_config(config).bfloat16()
    short, exact = copy.deepcopy(usual), copy.deepcopy(usual).float()
    assert use_lengths(short)
    (_, by_kernel), (loss, by_products), (right, wanted) = (
        trained(usual, APART),
        trained(short, rows),
        trained(exact, APART),
    )
    assert loss == pytest.approx(right, rel=0.01)
    errors = [float((one - wanted).norm() / wanted.norm()) for one in (by_products, by_kernel)]
    assert errors[0] < 1.2 * errors[1], errors
    assert packing_is_exact(short)


def test_only_short_sequences_that_are_trained_in_bfloat16_on_a_cpu_are_treated_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, ...]] = []
    attend = short_attention.attend

    def counted(query: Tensor, *given: Any) -> Tensor:
        asked.append(tuple(query.shape))
        return attend(query, *given)

    monkeypatch.setattr(short_attention, "attend", counted)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).bfloat16()
    assert use_lengths(model)
    trained(model, TOGETHER)
    lengths = [len(one.prompt_token_ids) + len(one.token_ids) for one in examples(6)]
    assert sorted(asked) == sorted((1, 4, length, 16) for length in lengths for _ in range(2))
    asked.clear()
    with torch.no_grad():
        weighted_nll(model, collate(TOGETHER, training_sequences(examples(6), "completion")))
    trained(copy.deepcopy(model).float(), TOGETHER)
    monkeypatch.setattr(short_attention, "MOST_SCORES", 4)
    trained(model, TOGETHER)
    assert not asked
