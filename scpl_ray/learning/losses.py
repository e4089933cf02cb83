"""What training minimises: one objective per name, each a sum over sequences and what that sum is divided by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scpl_ray.learning.batches import MicroBatch, TrainingSequence


@dataclasses.dataclass(frozen=True, slots=True)
class Objective:
    """A loss that does not depend on how sequences are spread over micro-batches and workers.

    The loss of an optimizer step is the sum of ``total`` over its micro-batches on all workers, divided by the sum of
    ``mass`` over its sequences.
    """

    total: Callable[[nn.Module, MicroBatch], Tensor]
    """Summed loss of one micro-batch, a float32 scalar with a gradient; 0 for an empty micro-batch."""
    mass: Callable[[TrainingSequence], float]
    """What one sequence adds to the divisor."""


def predictions(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Logits of all positions, shape (rows, width, vocabulary).

    No attention mask is passed: rows are padded on the right, and sequences that share a row are told apart by their
    position ids (see :func:`packing_is_exact`).
    """
    device = next(model.parameters()).device
    logits: Tensor = model(
        input_ids=torch.from_numpy(batch.token_ids).to(device),
        position_ids=torch.from_numpy(batch.position_ids).to(device),
        use_cache=False,
    ).logits
    return logits


def weighted_nll(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Weighted negative log-likelihood, sum_i w_i sum_t -log p(y_it | x_i, y_i<t), in nats.

    With the mass w_i n_i of :func:`weighted_tokens` the step's loss is

        L = sum_i w_i sum_t nll_it / sum_i w_i n_i,

    a mean over tokens, so that equal weights give the usual language-model loss and a long completion counts more
    than a short one of the same weight.
    """
    logits = predictions(model, batch)
    weights = torch.from_numpy(batch.weights).to(logits.device)
    trained = weights > 0
    nll = F.cross_entropy(
        logits[trained].float(), torch.from_numpy(batch.targets).to(logits.device)[trained], reduction="none"
    )
    # The second term is 0; it ties an empty micro-batch to the graph, so that its backward pass runs like the others.
    return (weights[trained] * nll).sum() + 0.0 * logits[:, :1].float().sum()


def weighted_tokens(sequence: TrainingSequence) -> float:
    """w_i n_i: the weight of a sequence times its number of tokens with a loss."""
    return sequence.weight * sequence.target_tokens


OBJECTIVES: dict[str, Objective] = {"sft": Objective(weighted_nll, weighted_tokens)}


@torch.no_grad()
def packing_is_exact(model: nn.Module) -> bool:
    """Whether sequences that share a row do not see each other, tried out on this very model.

    transformers makes a block-diagonal causal mask out of restarting position ids, but only for architectures that
    hand them to its mask builder. A sequence behind another one must have the logits that it has alone, to rounding,
    and whatever stands before it must not change a single bit of them.
    """
    device = next(model.parameters()).device
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9], [5, 4, 3, 2, 1, 6, 7, 8, 9]], device=device)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]], device=device).expand(2, -1)
    behind, behind_another = model(input_ids=tokens, position_ids=positions, use_cache=False).logits[:, 5:]
    alone = model(input_ids=tokens[:1, 5:], use_cache=False).logits[0]
    rounding = 64 * torch.finfo(alone.dtype).eps * alone.abs().max()
    return torch.equal(behind, behind_another) and bool((behind - alone).abs().max() <= rounding)
