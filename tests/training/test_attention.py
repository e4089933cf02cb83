"""Attention by the lengths of sequences, as GPUs are to use it, against transformers' own masks."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GptOssConfig, MistralConfig, PreTrainedConfig

from scpl_ray.training.attention import SEPARATE, use_lengths
from scpl_ray.training.batches import collate, training_pairs, training_sequences
from scpl_ray.training.losses import packing_is_exact, sequence_log_probabilities, weighted_nll
from tests.support.tiny_models import FAMILIES, VOCABULARY, config, examples, pairs


def windowed() -> MistralConfig:
    """Attends to the last five tokens only."""
    return MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=5,
    )


@pytest.fixture(scope="module", params=[*FAMILIES, "windowed"])
def models(request):
    """The same model with transformers' attention and with that by lengths."""
    torch.manual_seed(0)
    made = windowed() if request.param == "windowed" else config(request.param)
    model = AutoModelForCausalLM.from_config(made).eval()
    separate = copy.deepcopy(model)
    assert use_lengths(separate) and separate.config._attn_implementation == SEPARATE
    return model, separate


def test_a_row_of_sequences_gives_the_losses_and_gradients_of_rows_of_their_own(models):
    sequences = training_sequences(examples(8), "completion")
    results = []
    for model, rows in zip(models, (tuple((i,) for i in range(8)), (tuple(range(8)),)), strict=True):
        model.zero_grad()
        total, _ = weighted_nll(model, collate(rows, sequences))
        total.backward()
        results.append((float(total.detach()), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (alone, gradient), (one_row, its_gradient) = results
    assert one_row == pytest.approx(alone, rel=1e-6)
    torch.testing.assert_close(its_gradient, gradient, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rows_of_their_own_and_pairs_are_as_before(models):
    sequences = training_pairs(pairs(4))
    for rows in (tuple((i,) for i in range(8)), (tuple(range(8)),)):
        before, after = (sequence_log_probabilities(model, collate(rows, sequences))[0] for model in models)
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-4)


def test_packing_is_found_exact(models):
    assert packing_is_exact(models[1])


SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}


@pytest.mark.parametrize(
    ("special", "can"),
    [
        (Gemma2Config(**SIZES), False),
        (Gemma2Config(**SIZES, attn_logit_softcapping=None), True),
        (GptOssConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1), False),
    ],
    ids=["capped", "not capped", "sinks"],
)
def test_attention_that_does_more_than_the_kernels_stays_as_it_is(special: PreTrainedConfig, can: bool) -> None:
    model = AutoModelForCausalLM.from_config(special)
    before = model.config._attn_implementation
    assert use_lengths(model) is can
    assert (model.config._attn_implementation == before) is not can


def test_sinks_are_not_left_to_flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scpl_ray.training.attention.is_flash_attn_2_available", lambda: True)
    model = AutoModelForCausalLM.from_config(GptOssConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1))
    assert not use_lengths(model.bfloat16())
