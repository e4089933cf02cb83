"""Training a tiny model from nothing on prompts and answers, and its likelihood of answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

SENTENCES_PER_STEP = 64
MATRIX_LEARNING_RATE = 0.02
"""Peak learning rate of Muon (Jordan et al. 2024) for the hidden layers' matrices.

AdamW needs about three times as many sentences to find the circuit that looks up the prompt's topic.
"""
LEARNING_RATE = 5e-3
"""Peak learning rate of AdamW for embeddings, norms and biases."""
ADAM_BETAS = (0.9, 0.98)
WARMUP_FRACTION = 0.05
MAX_GRAD_NORM = 1.0
_IGNORED = -100

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of its answer, end-of-sequence token included."""


def train(model: PreTrainedModel, pairs: Sequence[Pair], progress: Callable[[int, int], None]) -> int:
    """One pass over the pairs in their order, in place, on the CPU with torch's threads, float32.

    The loss is on every token but the first: the model also learns how users ask.

    Args:
        model: a causal language model.
        pairs: training sequences.
        progress: called after each step with the steps done and their number.

    Returns:
        The number of tokens trained on.
    """
    matrices, others = _split_parameters(model)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=MATRIX_LEARNING_RATE, weight_decay=0.0),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=ADAM_BETAS, weight_decay=0.0, fused=True),
    ]
    steps = math.ceil(len(pairs) / SENTENCES_PER_STEP)
    schedules = [torch.optim.lr_scheduler.LambdaLR(one, lambda step: _rate(step, steps)) for one in optimizers]
    model.train()
    tokens = 0
    for step in range(steps):
        batch = pairs[step * SENTENCES_PER_STEP : (step + 1) * SENTENCES_PER_STEP]
        loss, count = _loss(model, [(prompt[:1], [*prompt[1:], *answer]) for prompt, answer in batch])
        torch.autograd.backward(loss / count)
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        tokens += count
        progress(step + 1, steps)
    model.eval()
    return tokens


def nats_per_token(model: PreTrainedModel, pairs: Sequence[Pair], pairs_per_batch: int = 256) -> float:
    """Mean negative log-likelihood of the answers' tokens given their prompts, nats."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(pairs), pairs_per_batch):
            loss, count = _loss(model, pairs[start : start + pairs_per_batch])
            total, tokens = total + float(loss), tokens + count
    return total / tokens


def _loss(model: PreTrainedModel, pairs: Sequence[Pair]) -> tuple[torch.Tensor, int]:
    """Summed negative log-likelihood of the answers' tokens, and their number."""
    longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
    ids = torch.zeros((len(pairs), longest), dtype=torch.long)
    targets = torch.full((len(pairs), longest), _IGNORED)
    for row, (prompt, answer) in enumerate(pairs):
        ids[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        targets[row, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
    # Padding stands at the right, where causal attention never looks, so no mask is needed; logits are only computed
    # where there is a target.
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = targets != _IGNORED
    logits = model.get_output_embeddings()(hidden[wanted])
    return cross_entropy(logits, targets[wanted], reduction="sum"), int(wanted.sum())


def _split_parameters(model: PreTrainedModel) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The hidden layers' matrices, and all other parameters."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    embeddings.add(id(model.get_output_embeddings().weight))
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in model.parameters() if id(p) not in chosen]


def _rate(step: int, steps: int) -> float:
    """Linear warm-up times a cosine to zero, in [0, 1]."""
    warmup = min(1.0, (step + 1) / max(1.0, WARMUP_FRACTION * steps))
    return warmup * 0.5 * (1.0 + math.cos(math.pi * step / steps))
