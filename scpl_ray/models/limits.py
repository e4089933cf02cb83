"""What a model's config and tokenizer say it can do, before anything loads it: its positions, heads and token ids."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from scpl_ray.config import Experiment

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
"""What configs of different architectures call the longest sequence; MPT has ``max_seq_len``, Bloom ``seq_length``."""
FROM_PADDING = frozenset(
    {
        *("camembert", "data2vec-text", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm"),
        *("xlm-roberta", "xlm-roberta-xl", "xmod"),
    }
)
"""Encoders (``model_type``) whose first token stands at the position after that of padding, whose number is its id."""
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
"""Ends of the names of input embeddings in safetensors files."""


def positions(config: PreTrainedConfig) -> int | None:
    """The longest sequence that a model was made for, in tokens; ``None`` where its config names none."""
    values = config.get_text_config()
    for name in POSITIONS:
        found = getattr(values, name, None)
        if isinstance(found, int) and found > 0:
            return found - _before_the_first(values)
    return None


def _before_the_first(values: PreTrainedConfig) -> int:
    """How many positions stand before that of the first token."""
    return int(values.pad_token_id or 0) + 1 if values.model_type in FROM_PADDING else 0


def check_config(config: PreTrainedConfig, experiment: Experiment, name: str, *, key: str = "model.name") -> None:
    """Check that a model can be a policy with the lengths of an experiment.

    Args:
        config: the config of the model.
        experiment: the prompts and completions that it is to read and write.
        name: the model, as messages call it.
        key: the config key that names it.

    Raises:
        ValueError: it does not write from left to right, has no attention, or has no known or too few positions.
    """
    values = config.get_text_config()
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{key}: {name} ({config.model_type}) is an encoder with a decoder; choose a model that continues text"
        )
    if not getattr(values, "num_attention_heads", None):
        raise ValueError(
            f"{key}: {name} ({config.model_type}) has no attention heads; engines keep keys and values of attention, "
            "so choose a model with attention"
        )
    check_positions(positions(config), experiment, name, key=key)


def check_positions(known: int | None, experiment: Experiment, name: str, *, key: str = "model.name") -> None:
    """Check that a prompt and a completion of an experiment fit a model.

    Raises:
        ValueError: they do not, or ``known`` is ``None``, because the config of the model does not say it.
    """
    asked, written = experiment.task.max_prompt_tokens, experiment.generation.max_new_tokens
    if known is None:
        raise ValueError(
            f"{key}: the config of {name} does not say how long a sequence may be; write max_position_embeddings "
            f"(at least {asked + written}, at most what it was trained with) into its config.json, or choose another "
            "model"
        )
    if known < asked + written:
        raise ValueError(
            f"task.max_prompt_tokens + generation.max_new_tokens = {asked} + {written} = {asked + written}: {name} has "
            f"{known} positions; lower one of the two"
        )


def check_tokenizer(folder: Path, config: PreTrainedConfig, name: str, *, trust_remote_code: bool) -> None:
    """Check that a tokenizer belongs to the weights beside it.

    It may have tokens without an embedding that no text of a run contains: those of Gemma 3, whose text models have
    none for images.

    Raises:
        ValueError: it cannot be read, gives ids for which the model has no embedding, or has no end-of-sequence token.
    """
    from scpl_ray.models.tokens import load_tokenizer

    try:
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"model.name: the tokenizer of {name} cannot be read ({reason}); save it into the same folder with "
            "save_pretrained"
        ) from error
    rows = min(int(config.get_text_config().vocab_size), _embedding_rows(folder))
    beyond = {id_ for id_ in tokenizer.get_vocab().values() if id_ >= rows}
    if beyond and (beyond - set(tokenizer.added_tokens_decoder) or beyond & _written(tokenizer)):
        largest = max(beyond)
        raise ValueError(
            f"model.name: the tokenizer of {name} gives ids up to {largest:,}, but its model has embeddings for "
            f"{rows:,} (ids up to {rows - 1:,}); save the tokenizer that belongs to it, or resize_token_embeddings"
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"model.name: the tokenizer of {name} has no eos_token, so a model could not learn to stop; name one in "
            "its tokenizer_config.json, or choose another model"
        )


def _written(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that the program itself writes: special tokens, and those around the texts of a conversation.

    Raises:
        ValueError: the chat template cannot be used.
    """
    from scpl_ray.models.template import template_of

    template = template_of(tokenizer)
    around = (template.before, template.after, template.answered or "", template.asked_again or "")
    ids = {id_ for text in around for id_ in tokenizer(text)["input_ids"]}
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return ids.union(id_ for id_ in special if id_ is not None)


def _embedding_rows(folder: Path) -> float:
    """The smallest number of rows of an input embedding in the safetensors of a folder; infinite if none is there."""
    from safetensors import safe_open

    rows = math.inf
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                if name.endswith(EMBEDDINGS):
                    rows = min(rows, file.get_slice(name).get_shape()[0])
    return rows
