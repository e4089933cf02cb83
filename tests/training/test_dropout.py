"""Nothing is dropped while a model trains, whatever its architecture calls the probability."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MptConfig,
    OPTConfig,
    PreTrainedConfig,
    Starcoder2Config,
)

from scpl_ray.training.dropout import turn_off

HALF = 0.5
SIZES = {"vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
GATED = {**SIZES, "intermediate_size": 128, "num_key_value_heads": 1, "max_position_embeddings": 64}
CONFIGS: dict[str, PreTrainedConfig] = {
    "opt": OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=64, dropout=HALF, attention_dropout=HALF, layerdrop=HALF),
    "granite": GraniteConfig(**GATED, attention_dropout=HALF),
    "starcoder2": Starcoder2Config(**GATED, attention_dropout=HALF, residual_dropout=HALF, embedding_dropout=HALF),
    "llama": LlamaConfig(**GATED, attention_dropout=HALF),
    "gpt2": GPT2Config(vocab_size=200, n_embd=64, n_layer=2, n_head=2, resid_pdrop=HALF, embd_pdrop=HALF, attn_pdrop=1),
    "bloom": BloomConfig(vocab_size=200, hidden_size=64, n_layer=2, n_head=2, hidden_dropout=HALF),
    "mpt": MptConfig(vocab_size=200, d_model=64, n_heads=2, n_layers=2, attn_config={"attn_pdrop": 1}),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_two_passes_in_training_mode_agree(name: str, attention: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[name])).eval()
    if attention == "eager" or model._supports_sdpa:
        model.set_attn_implementation(attention)
    inputs = {"input_ids": torch.arange(40)[None], "use_cache": False}
    undisturbed = model(**inputs).logits
    assert not torch.equal(model.train()(**inputs).logits, undisturbed), "the model was to drop something"
    turn_off(model)
    for _ in range(2):
        assert torch.equal(model(**inputs).logits, undisturbed)


def test_only_probabilities_are_set() -> None:
    """Some configs have switches whose names sound alike, and refuse a number in their place."""
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["mpt"]))
    model.config.token_dropping, model.config.classifier_dropout = True, None
    turn_off(model)
    assert model.config.token_dropping is True and model.config.classifier_dropout is None
