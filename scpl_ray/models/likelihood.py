"""Forward passes without gradients: how sequences are batched, and how likely they are under a model.

The result for a sequence must not depend on the other sequences in its batch. Every sequence is therefore padded to a
width that depends on its own length only, only sequences of the same width share a forward pass, and the head gets
whole blocks of positions. Batches with the same sequence then differ only in their number of rows. On a CPU in float32
with one thread this changes no bit of the result; elsewhere it can change the last bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from scpl_ray.models.tokens import Ids

WIDTH_STEP = 16
"""Widths, and numbers of positions that the head is applied to, are multiples of this."""
LOGITS_PER_PASS = 2**26
"""Largest number of logits held at once: 256 MiB in float32."""


def equal_width_batches(lengths: Sequence[int], tokens_per_batch: int, max_width: int) -> list[tuple[int, list[int]]]:
    """Group sequences into batches of equal padded width, shortest first.

    Args:
        lengths: number of tokens of each sequence.
        tokens_per_batch: largest rows times width of a batch; a wider sequence gets a batch of its own.
        max_width: number of positions that the model has.

    Returns:
        For each batch, its width and the indices of its sequences.
    """
    by_width: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        width = min(-(-length // WIDTH_STEP) * WIDTH_STEP, max_width)
        by_width.setdefault(width, []).append(index)
    batches = []
    for width, members in sorted(by_width.items()):
        rows = max(1, tokens_per_batch // width)
        batches += [(width, members[i : i + rows]) for i in range(0, len(members), rows)]
    return batches


def pad_right(sequences: Sequence[Ids], width: int, filler: int, device: torch.device | str = "cpu") -> Tensor:
    """Token ids padded on the right with ``filler``, shape (sequences, width)."""
    return torch.tensor([[*ids, *[filler] * (width - len(ids))] for ids in sequences], device=device)


@torch.inference_mode()
def negative_log_likelihood(
    model: PreTrainedModel, sequences: Sequence[tuple[Ids, Ids]], tokens_per_batch: int
) -> list[tuple[float, int]]:
    """Negative log-likelihoods of completions under a model.

    In a causal model no token attends to the padding on its right, so no attention mask is needed. The head is applied
    only to the positions that predict a completion's token, and to a part of them at a time, so that the vocabulary
    does not limit how many tokens share a pass.

    Args:
        model: a causal language model in evaluation mode.
        sequences: token ids of each prompt and completion; a prompt has at least one token.
        tokens_per_batch: tokens per forward pass, padding included.

    Returns:
        For each sequence, -sum_i log p(token_i | prompt, token_<i) over the completion's tokens (nats), and their
        number.

    Raises:
        ValueError: a prompt is empty, or a sequence is longer than the model's context.
    """
    config = model.config.get_text_config()
    for prompt, completion in sequences:
        if not prompt or len(prompt) + len(completion) > config.max_position_embeddings:
            raise ValueError(
                f"a prompt of {len(prompt)} and a completion of {len(completion)} tokens have no likelihood under "
                f"{model.name_or_path}: 1 to {config.max_position_embeddings} tokens are possible, the prompt's at "
                "least 1; lower task.max_prompt_tokens or generation.max_new_tokens"
            )
    joined = [prompt + completion for prompt, completion in sequences]
    results = [(0.0, len(completion)) for _, completion in sequences]
    written = [i for i, (_, count) in enumerate(results) if count]
    lengths = [len(joined[i]) for i in written]
    for width, places in equal_width_batches(lengths, tokens_per_batch, config.max_position_embeddings):
        members = [written[place] for place in places]
        ids = pad_right([joined[i] for i in members], width, 0)
        hidden = model.get_decoder()(input_ids=ids.to(model.device), use_cache=False)
        counts = [results[i][1] for i in members]
        ends = [row * width + len(joined[i]) for row, i in enumerate(members)]
        targets = torch.cat([torch.arange(end - n, end) for end, n in zip(ends, counts, strict=True)])
        losses = _losses(model, hidden, targets - 1, ids.flatten()[targets])
        for index, of_one in zip(members, torch.split(losses, counts), strict=True):
            results[index] = (float(of_one.sum()), len(of_one))
    return results


def _losses(model: PreTrainedModel, hidden: ModelOutput, positions: Tensor, targets: Tensor) -> Tensor:
    """-log p of the target that each position predicts (nats), in float64 on the CPU, shape (positions,).

    Args:
        model: the model.
        hidden: what its decoder gave for a batch, with hidden states of shape (rows, width, hidden units).
        positions: the positions, counted over all rows, shape (positions,).
        targets: token ids, shape (positions,).
    """
    flat = hidden[0].flatten(0, 1)
    per_slice = max(WIDTH_STEP, LOGITS_PER_PASS // model.config.get_text_config().vocab_size // WIDTH_STEP * WIDTH_STEP)
    parts = []
    with without_decoder(model, type(hidden)) as head:
        for chosen, wanted in zip(torch.split(positions, per_slice), torch.split(targets, per_slice), strict=True):
            # whole blocks, filled with a position of the batch: kernels treat a part of a block in another way
            block = nn.functional.pad(chosen, (0, -len(chosen) % WIDTH_STEP))
            logits = head(flat[block.to(flat.device)])[: len(chosen)].float()
            parts.append(nn.functional.cross_entropy(logits, wanted.to(logits.device), reduction="none"))
    return torch.cat(parts).double().cpu()


@contextlib.contextmanager
def without_decoder(model: PreTrainedModel, output: type[ModelOutput]) -> Iterator[Callable[[Tensor], Tensor]]:
    """The part of a causal language model that follows its decoder: the head, and what is done with its output.

    Some models scale or cap their logits after the head, so the model's own forward pass is used. During the block, its
    decoder gives back the hidden states that it is given.

    Args:
        model: the model; no other thread uses it during the block.
        output: the type of the decoder's output.

    Yields:
        A function from hidden states, shape (positions, hidden units), to logits, shape (positions, vocabulary).
    """

    def given(*args: Any, inputs_embeds: Tensor, **options: Any) -> ModelOutput:
        return output(last_hidden_state=inputs_embeds)

    def logits(hidden: Tensor) -> Tensor:
        found: Tensor = model(inputs_embeds=hidden[None], use_cache=False).logits[0]
        return found

    decoder = model.get_decoder()
    decoder.forward = given
    try:
        yield logits
    finally:
        del decoder.forward
