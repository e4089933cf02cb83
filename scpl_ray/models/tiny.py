"""Tiny language models with a real tokenizer, small enough to train from scratch on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

Family = Literal["llama", "qwen2", "gpt2"]

SPECIAL_TOKENS = PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
LAYERS, HEADS, HIDDEN, POSITIONS = 2, 3, 96, 128
"""Sizes of the models; vLLM's CPU attention needs 32 dimensions per head."""
GATED_WIDTH, PLAIN_WIDTH = 256, 384
"""Width of the feed-forward layer with a gate (Llama, Qwen2) and without (GPT-2); both have equally many weights."""


def build_tokenizer(texts: Iterable[str], family: Family) -> PreTrainedTokenizerFast:
    """A word-level tokenizer trained on these texts: one token per word and per punctuation mark ``. , :``.

    No token is added at the start, so a prompt has the same ids alone and at the start of a longer text. Decoding
    writes punctuation marks without a space before them; texts in this form are reproduced exactly.
    """
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    marks = [decoders.Replace(f" {mark}", mark) for mark in ".,:"]
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), *marks])
    # Ids are ordered by frequency, and ties by spelling, so the same texts give the same ids.
    trainer = trainers.WordLevelTrainer(special_tokens=[PAD, UNKNOWN, END], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer, family, POSITIONS)


def build_subword_tokenizer(
    texts: Iterable[str], family: Family, vocabulary: int, positions: int
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019), which reproduces any text exactly.

    Args:
        texts: the texts it is trained on; the same texts give the same ids.
        family: the family of the model that it is for.
        vocabulary: number of tokens, including 3 special ones and 256 bytes; fewer if the texts have fewer pairs.
        positions: longest sequence, in tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        # every digit is a token of its own, so that the model reads numbers instead of memorising them
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, UNKNOWN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _wrapped(tokenizer, family, positions)


def _wrapped(tokenizer: Tokenizer, family: Family, positions: int) -> PreTrainedTokenizerFast:
    # For any folder with a Qwen2 model, AutoTokenizer uses Qwen2's own class, whose byte-level rules do not fit this
    # vocabulary, unless the config has an auto_map; without trust_remote_code the map itself is then ignored.
    mapping = {"auto_map": {"AutoTokenizer": [None, "PreTrainedTokenizerFast"]}} if family == "qwen2" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **mapping,
    )


def build_model(family: Family, tokenizer: PreTrainedTokenizerBase, positions: int = POSITIONS) -> PreTrainedModel:
    """An untrained float32 model of about 0.3 to 0.5 million parameters, with tied input and output embeddings.

    The weights are drawn from torch's global random generator.
    """
    config = build_config(
        family,
        positions,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    models = {"gpt2": GPT2LMHeadModel, "qwen2": Qwen2ForCausalLM, "llama": LlamaForCausalLM}
    made: PreTrainedModel = models[family](config)
    return made


def build_config(family: Family, positions: int, **tokens: int | None) -> PreTrainedConfig:
    """The config of a model.

    Args:
        family: its architecture.
        positions: longest sequence, in tokens.
        tokens: what its tokenizer says: ``vocab_size`` and ids of special tokens.
    """
    common: dict[str, Any] = {"bos_token_id": None, "tie_word_embeddings": True, "use_cache": True, **tokens}
    if family == "gpt2":
        return GPT2Config(
            n_embd=HIDDEN,
            n_inner=PLAIN_WIDTH,
            n_layer=LAYERS,
            n_head=HEADS,
            n_positions=positions,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            **common,
        )
    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": GATED_WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": positions,
    }
    if family == "qwen2":
        return Qwen2Config(**sizes, **common)
    return LlamaConfig(**sizes, **common)
