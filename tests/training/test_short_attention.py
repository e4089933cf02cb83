"""Attention of short sequences on a CPU against PyTorch's own, in float32 and in bfloat16."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig, LlamaConfig, MistralConfig, PreTrainedModel

from scpl_ray.training import short_attention
from scpl_ray.training.batches import collate, training_sequences
from scpl_ray.training.losses import packing_is_exact, weighted_nll
from scpl_ray.training.short_attention import SHORT, use_products
from tests.support.tiny_models import VOCABULARY, examples

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(autouse=True)
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every processor counts as one that multiplies bfloat16."""
    monkeypatch.setattr(short_attention, "native_bfloat16", lambda: ("amx_bf16",))


def mask_of(rows: int, width: int) -> Tensor:
    """Two sequences in each row, in each at another place, after which nobody attends to anything."""
    place = torch.arange(width)
    starts = torch.stack([(place >= 3 + row).long() for row in range(rows)])[:, None]
    together = (starts[..., None] == starts[:, :, None]) & (place[:, None] >= place)
    together[..., width - 2 :, :] = False
    return together


def gradients(
    dtype: torch.dtype, mask: Tensor | None, heads: int, groups: int, *, own: bool
) -> tuple[Tensor, list[Tensor]]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(3, heads, 12, 16), (3, groups, 12, 16), (3, groups, 12, 16)]
    query, key, value = (torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in shapes)
    weight = torch.randn((3, 12, heads, 16), generator=draw).to(dtype)
    if mask is not None:
        weight[:, -2:] = 0
    if own:
        output = short_attention.short_attention(nn.Module(), query, key, value, mask, scaling=0.3)[0]
        assert "Products" in str(output.grad_fn.next_functions[0][0].next_functions[0][0])  # type: ignore[union-attr]
    else:
        output = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), mask, is_causal=mask is None, scale=0.3, enable_gqa=True
        ).transpose(1, 2)
    (output * weight).nan_to_num(0.0).sum().backward()
    return output, [one.grad.float() for one in (query, key, value)]  # type: ignore[union-attr]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 8e-3)])
def test_the_gradients_are_those_of_pytorch(
    heads: int, groups: int, masked: bool, dtype: torch.dtype, bound: float
) -> None:
    mask = mask_of(3, 12) if masked else None
    _, expected = gradients(dtype, mask, heads, groups, own=False)
    _, found = gradients(dtype, mask, heads, groups, own=True)
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < bound
        assert bool(torch.isfinite(one).all())


def model_of(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(torch.bfloat16)


@pytest.mark.parametrize(
    "config", [LlamaConfig(**SIZES), MistralConfig(**SIZES, sliding_window=5)], ids=["llama", "window"]
)
@pytest.mark.parametrize("rows", [((0,), (1,), (2,), (3,)), ((0, 1), (2, 3))], ids=["apart", "packed"])
def test_a_model_trains_as_with_the_kernel(config: Any, rows: tuple[tuple[int, ...], ...]) -> None:
    usual = model_of(config)
    short = copy.deepcopy(usual)
    assert use_products(short) and short.config._attn_implementation == SHORT
    batch = collate(rows, training_sequences(examples(4), "completion"))
    results = []
    for model in (usual, short, copy.deepcopy(usual).float()):
        total, _ = weighted_nll(model, batch)
        total.backward()
        results.append((float(total.detach()), torch.cat([p.grad.flatten().float() for p in model.parameters()])))
    (of_kernel, by_kernel), (found, by_products), (_, exact) = results
    assert found == of_kernel  # the forward pass is the kernel's
    errors = [float((one - exact).norm() / exact.norm()) for one in (by_products, by_kernel)]
    assert errors[0] < 1.2 * errors[1], errors


def test_long_rows_and_passes_without_gradients_are_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    kernel = short_attention.sdpa_attention_forward

    def counted(*given: Any, **named: Any) -> Any:
        asked.append(1)
        return kernel(*given, **named)

    monkeypatch.setattr(short_attention, "sdpa_attention_forward", counted)
    model = model_of(LlamaConfig(**SIZES))
    assert use_products(model)
    batch = collate(((0,), (1,)), training_sequences(examples(2), "completion"))
    weighted_nll(model, batch)
    assert not asked
    with torch.no_grad():
        weighted_nll(model, batch)
    assert len(asked) == 2  # one per layer
    monkeypatch.setattr(short_attention, "MOST_SCORES", 4)
    weighted_nll(model, batch)
    assert len(asked) == 4
    assert packing_is_exact(model)


def test_what_is_not_simply_causal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not use_products(model_of(LlamaConfig(**SIZES)).float())
    assert not use_products(model_of(Gemma2Config(**SIZES, head_dim=32)))
    assert not use_products(model_of(GptOssConfig(**SIZES, head_dim=32, num_local_experts=2, num_experts_per_tok=1)))
    monkeypatch.setattr(short_attention, "native_bfloat16", tuple)
    assert not use_products(model_of(LlamaConfig(**SIZES)))
    query = torch.ones(1, 1, 4, 8, requires_grad=True)
    bias = torch.zeros(1, 1, 4, 4)
    output = short_attention.short_attention(nn.Module(), query, query, query, bias)[0]
    assert "Products" not in str(output.grad_fn)
