"""Scores are capped wherever the config of a model says so, whatever implementation transformers would choose."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, Gemma2Config

from scpl_ray.models.adapters import load_model
from scpl_ray.training import classifiers
from tests.support.tiny_models import VOCABULARY, save_model

CAPPED = Gemma2Config(
    vocab_size=VOCABULARY,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
    attn_logit_softcapping=0.001,
    initializer_range=0.5,
    pad_token_id=0,
    num_labels=1,
)


@pytest.mark.parametrize("kind", [AutoModelForCausalLM, AutoModelForSequenceClassification])
@torch.no_grad()
def test_scores_are_capped(kind: type, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", "llama")  # for its tokenizer
    torch.manual_seed(0)
    kind.from_config(CAPPED).save_pretrained(folder)
    ids = torch.arange(3, 23)[None]
    eager = kind.from_pretrained(folder, attn_implementation="eager").eval()(ids).logits
    fused = kind.from_pretrained(folder, attn_implementation="sdpa").eval()(ids).logits
    assert not torch.allclose(fused, eager, rtol=1e-3, atol=1e-3)
    loaded = (
        load_model(folder, torch.float32).eval()
        if kind is AutoModelForCausalLM
        else classifiers.untrained(folder, ["reward"], seed=0).model
    )
    assert loaded.config._attn_implementation == "eager"
    if kind is AutoModelForCausalLM:
        torch.testing.assert_close(loaded(ids).logits, eager)


def test_other_models_keep_their_attention(tmp_path: Path) -> None:
    assert load_model(save_model(tmp_path / "model", "llama"), torch.float32).config._attn_implementation == "sdpa"
