"""Conversion of text to token ids and back, in the same way for training, generation and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

Ids = tuple[int, ...]


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer that is stored beside a model's weights."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return tokenizer


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, max_tokens: int) -> Ids:
    """The token ids of a prompt as the model receives it: its first ``max_tokens`` tokens.

    The tokenizer adds its own special tokens, but those before a text not twice if a chat template has written them
    (GLM-4 has two), and no end-of-sequence token, because the model continues the text. A prompt that is too long loses
    its end, because beginning-of-sequence tokens and instructions come first and an answer continues where the prompt
    stops.

    Raises:
        ValueError: no token is left to condition on.
    """
    return encode_prompts(tokenizer, [prompt], max_tokens)[0]


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int) -> list[Ids]:
    """As :func:`encode_prompt`, of several prompts at once, which takes less time than one after another.

    Raises:
        ValueError: of one of them no token is left to condition on.
    """
    if not prompts:
        return []
    texts = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    for prompt, text in zip(prompts, texts, strict=True):
        if not text:
            raise ValueError(f"prompt {prompt!r} has no tokens; give every query a prompt that is not empty")
    encoded = tokenizer(list(prompts))["input_ids"]
    return [tuple(_with_special_tokens(*pair)[:max_tokens]) for pair in zip(texts, encoded, strict=True)]


def _with_special_tokens(text: list[int], ids: list[int]) -> list[int]:
    """What a tokenizer makes of a text with special tokens, less those that come after it or begin it already."""
    while ids[-len(text) :] != text:
        ids.pop()
    before = ids[: -len(text)]
    return text if text[: len(before)] == before else ids


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> Ids:
    """The token ids of an answer as the model should write it: its tokens and the end-of-sequence token.

    Raises:
        ValueError: the tokenizer has no end-of-sequence token, so a model could not learn to stop.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"model.name: the tokenizer of {tokenizer.name_or_path} has no eos_token; choose another model"
        )
    return (*tokenizer(text, add_special_tokens=False)["input_ids"], int(tokenizer.eos_token_id))


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of a completion, without special tokens."""
    return decode_all(tokenizer, [ids])[0]


def decode_all(tokenizer: PreTrainedTokenizerBase, completions: Sequence[Sequence[int]]) -> list[str]:
    """The texts of completions, without special tokens, in order."""
    if not completions:  # of which transformers makes one empty text
        return []
    return [str(text) for text in tokenizer.batch_decode([list(ids) for ids in completions], skip_special_tokens=True)]


def stop_ids(folder: Path, tokenizer: PreTrainedTokenizerBase, *, trust_remote_code: bool = False) -> Ids:
    """All tokens that end a completion, according to the tokenizer, the model config and the generation config."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    # a model with images names them in the config of its text part alone
    named = [
        tokenizer.eos_token_id,
        *(getattr(one, "eos_token_id", None) for one in (config, config.get_text_config())),
    ]
    if (folder / GENERATION_CONFIG_NAME).is_file():
        named.append(GenerationConfig.from_pretrained(folder).eos_token_id)
    ids: set[int] = set()
    for one in named:
        ids.update(one if isinstance(one, list) else [] if one is None else [one])
    return tuple(sorted(ids))
