"""Tiny language models with a real tokenizer, small enough to train from nothing on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

Family = Literal["llama", "qwen2", "gpt2"]

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
LAYERS, HEADS, HIDDEN, POSITIONS = 2, 3, 96, 128
"""vLLM's CPU attention wants 32 dimensions per head."""
GATED_WIDTH, PLAIN_WIDTH = 256, 384
"""Width of the feed-forward layer with (Llama, Qwen2) and without (GPT-2) a gate: as many weights."""


def build_tokenizer(texts: Iterable[str], family: Family) -> PreTrainedTokenizerFast:
    """A word-level tokenizer trained on these texts: one token per word and per mark ``. , :``.

    No token is added at the start, so a prompt has the same ids alone and at the head of a longer text. Decoding writes
    marks without a space before them: texts written so come back exactly.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    marks = [decoders.Replace(f" {mark}", mark) for mark in ".,:"]
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), *marks])
    # Ids by frequency, ties by spelling: the same texts give the same ids.
    trainer = trainers.WordLevelTrainer(special_tokens=[PAD, UNKNOWN, END], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # AutoTokenizer replaces the tokenizer of any folder with a Qwen2 model by Qwen2's own class, whose byte-level rules
    # do not fit this vocabulary, unless the folder maps it; without trust_remote_code the map is then ignored.
    mapping = {"auto_map": {"AutoTokenizer": [None, "PreTrainedTokenizerFast"]}} if family == "qwen2" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        model_max_length=POSITIONS,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **mapping,
    )


def build_model(family: Family, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained float32 model of about 0.3 million parameters, input and output embeddings tied.

    Draws from torch's global random generator.
    """
    common = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "tie_word_embeddings": True,
        "use_cache": True,
    }
    if family == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(
                n_embd=HIDDEN,
                n_inner=PLAIN_WIDTH,
                n_layer=LAYERS,
                n_head=HEADS,
                n_positions=POSITIONS,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **common,
            )
        )
    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": GATED_WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": POSITIONS,
    }
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**sizes, **common))
    return LlamaForCausalLM(LlamaConfig(**sizes, **common))
