"""Forward passes without gradients: how sequences are batched, and how likely they are under a model.

The result for a sequence must not depend on the other sequences in its batch. Every sequence is therefore padded to a
width that depends on its own length only, only sequences of the same width share a forward pass, and the output layer
gets whole blocks of positions. Batches with the same sequence then differ only in their number of rows. On a CPU in
float32 with one thread this changes no bit of the result; elsewhere it can change the last bits.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from scpl_ray.models.head import nll_at
from scpl_ray.models.limits import positions
from scpl_ray.models.tokens import Ids

WIDTH_STEP = 8
"""Widths are multiples of this."""
POSITIONS_STEP = 16
"""The output layer gets multiples of this number of positions."""
CPU_TOKENS = 2048
"""Most tokens of a pass on a CPU. What a layer hands to the next then stays in the caches: passes of 8,192 tokens take
1.5 times as long with the tiny model, and as long with one of 135 million weights."""


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
        by_width.setdefault(width_of(length, max_width), []).append(index)
    batches = []
    for width, members in sorted(by_width.items()):
        rows = max(1, tokens_per_batch // width)
        batches += [(width, members[i : i + rows]) for i in range(0, len(members), rows)]
    return batches


def tokens_per_pass(model: PreTrainedModel, tokens_per_batch: int) -> int:
    """How many tokens of a batch a model reads at a time, where it is."""
    return min(tokens_per_batch, CPU_TOKENS) if model.device.type == "cpu" else tokens_per_batch


def width_of(length: int, max_width: int) -> int:
    """The padded width of a sequence of this length, where the model has ``max_width`` positions."""
    return min(-(-length // WIDTH_STEP) * WIDTH_STEP, max_width)


def pad_right(sequences: Sequence[Ids], width: int, filler: int, device: torch.device | str = "cpu") -> Tensor:
    """Token ids padded on the right with ``filler``, shape (sequences, width)."""
    return torch.tensor([[*ids, *[filler] * (width - len(ids))] for ids in sequences], device=device)


@torch.inference_mode()
def negative_log_likelihood(
    model: PreTrainedModel, sequences: Sequence[tuple[Ids, Ids]], tokens_per_batch: int
) -> list[tuple[float, int]]:
    """Negative log-likelihoods of completions under a model.

    In a causal model no token attends to the padding on its right, so no attention mask is needed. The output layer
    gets only the positions that predict a completion's token, and a part of them at a time, so that the vocabulary does
    not limit how many tokens share a pass.

    Args:
        model: a causal language model in evaluation mode.
        sequences: token ids of each prompt and completion; a prompt has at least one token.
        tokens_per_batch: tokens per forward pass, padding included; at most :data:`CPU_TOKENS` on a CPU.

    Returns:
        For each sequence, -sum_i log p(token_i | prompt, token_<i) over the completion's tokens (nats), and their
        number.

    Raises:
        ValueError: a prompt is empty, or a sequence is longer than the model's context.
    """
    longest = positions(model.config) or sys.maxsize
    for prompt, completion in sequences:
        if not prompt or len(prompt) + len(completion) > longest:
            raise ValueError(
                f"a prompt of {len(prompt)} and a completion of {len(completion)} tokens have no likelihood under "
                f"{model.name_or_path}: 1 to {longest} tokens are possible, the prompt's at least 1; "
                "lower task.max_prompt_tokens or generation.max_new_tokens"
            )
    joined = [prompt + completion for prompt, completion in sequences]
    results = [(0.0, len(completion)) for _, completion in sequences]
    written = [i for i, (_, count) in enumerate(results) if count]
    lengths = [len(joined[i]) for i in written]
    for width, places in equal_width_batches(lengths, tokens_per_pass(model, tokens_per_batch), longest):
        members = [written[place] for place in places]
        ids = pad_right([joined[i] for i in members], width, 0)
        counts = [results[i][1] for i in members]
        targets = torch.zeros_like(ids, dtype=torch.bool)
        for row, (index, count) in enumerate(zip(members, counts, strict=True)):
            targets[row, len(joined[index]) - count : len(joined[index])] = True
        # the position before a token predicts it; the first token of a row is none, because a prompt has tokens
        losses = nll_at(
            model,
            targets.roll(-1, 1).to(model.device),
            ids[targets].to(model.device),
            block=POSITIONS_STEP,
            input_ids=ids.to(model.device),
            use_cache=False,
        )
        for index, of_one in zip(members, torch.split(losses.double().cpu(), counts), strict=True):
            results[index] = (float(of_one.sum()), len(of_one))
    return results
