"""Untrained models of the three families, a toy tokenizer, and training data for them."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from scpl_ray.records import Example, to_table

VOCABULARY = 200
FAMILIES = ("llama", "qwen2", "gpt2")


def config(family: str, hidden: int = 64) -> PreTrainedConfig:
    shared = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    if family == "gpt2":
        return GPT2Config(n_embd=hidden, n_layer=2, n_head=hidden // 32, n_positions=128, **shared)
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[family]
    return kind(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=hidden // 32,
        num_key_value_heads=1,
        max_position_embeddings=128,
        **shared,
    )


def save_model(folder: Path, family: str, hidden: int = 64) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config(family, hidden)).save_pretrained(folder)
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # without this map, AutoTokenizer would use Qwen2's own byte-level class instead
    mapping = {"auto_map": {"AutoTokenizer": [None, "PreTrainedTokenizerFast"]}} if family == "qwen2" else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1", **mapping).save_pretrained(folder)
    return folder


def save_adapter(model: Path, folder: Path, seed: int) -> Path:
    """Save an adapter of rank 4 with random weights, which are not 0 in either half."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model)
    targets = ["c_attn"] if base.config.model_type == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    config = LoraConfig(r=4, target_modules=targets, fan_in_fan_out="c_attn" in targets, task_type="CAUSAL_LM")
    peft_model = get_peft_model(base, config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0.0, 0.3)
    peft_model.save_pretrained(folder)
    return folder


def examples(count: int, seed: int = 0, *, weighted: bool = True) -> list[Example]:
    """Random prompts of 2 to 7 tokens and completions of 1 to 19 tokens, with weights around 1."""
    draw = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(t) for t in draw.integers(2, VOCABULARY, draw.integers(low, high)))

    weight = draw.uniform(0.2, 1.8, count) if weighted else np.ones(count)
    return [Example(f"e{i}", "real", None, tokens(2, 8), tokens(1, 20), float(weight[i])) for i in range(count)]


def pairs(count: int, seed: int = 0) -> list[Example]:
    """Examples that each have a rejected answer."""
    others = examples(count, seed + 1000)
    return [
        dataclasses.replace(example, rejected_token_ids=other.token_ids)
        for example, other in zip(examples(count, seed), others, strict=True)
    ]


def save_examples(file: Path, rows: list[Example]) -> Path:
    pq.write_table(to_table(rows, Example), file)
    return file
