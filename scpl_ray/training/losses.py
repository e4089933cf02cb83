"""The losses of the objectives in torch; each is a sum over units and a divisor for that sum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from scpl_ray.config import Training
from scpl_ray.models.head import nll_at
from scpl_ray.records import Example
from scpl_ray.training.attention import lengths_of
from scpl_ray.training.batches import (
    MicroBatch,
    TrainingSequence,
    training_pairs,
    training_sequences,
    weighted_by_example,
)

ROUNDING = 4.0
"""Rounding of logits in units of the last place of their size, where a model hardly attends at all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """A loss that does not depend on how units are spread over micro-batches and workers.

    The loss of an optimizer step is the sum of ``total`` over its micro-batches on all workers, divided by the sum of
    ``mass`` over its units.
    """

    sequences: Callable[[Sequence[Example]], list[TrainingSequence]]
    """Converts the training data to sequences; ``per_unit`` successive ones form a unit."""
    total: Callable[[nn.Module, MicroBatch], tuple[Tensor, Tensor]]
    """Maps one micro-batch to the summed loss, a float32 scalar with a gradient, and the summed ``figures`` without a
    gradient, shape (figures,); both are 0 for an empty micro-batch."""
    mass: Callable[[TrainingSequence], float]
    """The contribution to the divisor of a unit, which is given by its first sequence."""
    per_unit: int = 1
    """Number of sequences of a unit; they stay in one micro-batch."""
    figures: tuple[str, ...] = ()
    """Names of the other values that are measured; they are divided like the loss."""
    reference: Literal["base", "start"] | None = None
    """The policy for which the sequences' ``reference`` is computed; ``None`` if the loss does not use it."""


def _inputs(model: nn.Module, token_ids: NDArray[np.int64], position_ids: NDArray[np.int64]) -> dict[str, Any]:
    device = next(model.parameters()).device
    return {
        "input_ids": torch.from_numpy(token_ids).to(device),
        "position_ids": torch.from_numpy(position_ids).to(device),
        "use_cache": False,
        **lengths_of(model, position_ids),
    }


def weighted_nll(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Weighted negative log-likelihood, sum_i v_i sum_t -log p(y_it | x_i, y_i<t), in nats, with v_i per token.

    With the mass v_i n_i of :func:`weighted_tokens`, n_i the number of tokens with a loss, the loss of a step is

        L = sum_i v_i sum_t nll_it / sum_i v_i n_i.

    Where v_i is the weight w_i of an example (``training.normalise: tokens``) this is a mean over tokens, the usual
    language-model loss, in which a long completion counts more than a short one of the same weight. Where v_i = w_i /
    n_i (``examples``) it is the mean by weight of every example's own mean, so that shares of weight are shares of the
    loss.
    """
    nll, tie = _nll(model, batch)
    weights = torch.from_numpy(batch.weights[batch.weights > 0]).to(nll.device)
    return (weights * nll).sum() + tie, nll.new_zeros(0)


def weighted_tokens(sequence: TrainingSequence) -> float:
    """v_i n_i: the weight of a sequence's tokens times their number."""
    return sequence.weight * sequence.target_tokens


def preference_loss(model: nn.Module, batch: MicroBatch, *, beta: float) -> tuple[Tensor, Tensor]:
    """Direct preference optimisation (Rafailov et al. 2023, equation 7), weighted: sum_i w_i l_i over pairs, with

        l_i = -log sigmoid(m_i),   m_i = beta ((log pi(c_i) - log ref(c_i)) - (log pi(r_i) - log ref(r_i)))

    for a prompt, its chosen answer c and its rejected answer r; log-probabilities are summed over the tokens of an
    answer. With the mass w_i of :func:`pair_weight`, the loss of a step is a weighted mean over pairs.

    The figures are the sums of w_i m_i (``reward_margin``: the margin of the rewards beta log pi/ref that the policy
    implies) and of w_i [m_i > 0] (``reward_accuracy``).
    """
    log_p, tie = sequence_log_probabilities(model, batch)
    of_pairs = torch.tensor([[s.reference, s.weight] for s in batch.sequences], device=log_p.device).view(-1, 2, 2)
    ratios = log_p.view(-1, 2) - of_pairs[..., 0]
    margins = beta * (ratios[:, 0] - ratios[:, 1])
    weights = of_pairs[:, 0, 1]
    figures = torch.stack([(weights * margins).sum(), weights[margins > 0].sum()]).detach()
    return -(weights * F.logsigmoid(margins)).sum() + tie, figures


def pair_weight(chosen: TrainingSequence) -> float:
    """w_i: the weight of a pair."""
    return chosen.weight


def sequence_log_probabilities(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Log-probability (nats) of each sequence's tokens with a loss, shape (sequences,), and a 0 with a gradient."""
    nll, tie = _nll(model, batch)
    owner = np.repeat(np.arange(len(batch.sequences)), [s.target_tokens for s in batch.sequences])
    sums = nll.new_zeros(len(batch.sequences)).index_add(0, torch.from_numpy(owner).to(nll.device), nll)
    return -sums, tie


def _nll(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each token with a loss, in row order, shape (tokens,), and a 0 with a gradient.

    The 0 connects an empty micro-batch to the autograd graph, so that its backward pass runs like the others.

    No attention mask is passed: rows are padded on the right, and the model separates sequences that share a row by
    their position ids (see :func:`packing_is_exact`).
    """
    chosen = batch.weights > 0
    empty = not chosen.any()
    if empty:
        chosen[0, 0] = True
    device = next(model.parameters()).device
    inputs = _inputs(model, batch.token_ids, batch.position_ids)
    targets = torch.from_numpy(batch.targets[chosen]).to(device)
    nll = nll_at(model, torch.from_numpy(chosen).to(device), targets, **inputs)
    return (nll[:0], 0.0 * nll.sum()) if empty else (nll, nll.new_zeros(()))


def sft(training: Training) -> Loss:
    """Supervised fine-tuning: the weighted negative log-likelihood of the selected completions."""
    return Loss(partial(_sft_sequences, training), weighted_nll, weighted_tokens)


def _sft_sequences(training: Training, examples: Sequence[Example]) -> list[TrainingSequence]:
    sequences = training_sequences(examples, training.loss_on)
    return weighted_by_example(sequences) if training.normalise == "examples" else sequences


def dpo(training: Training) -> Loss:
    """Direct preference optimisation on pairs of a chosen and a rejected completion."""
    return Loss(
        training_pairs,
        partial(preference_loss, beta=training.dpo_beta),
        pair_weight,
        per_unit=2,
        figures=("reward_margin", "reward_accuracy"),
        reference=training.dpo_reference,
    )


@torch.no_grad()
def packing_is_exact(model: nn.Module) -> bool:
    """Test with this model whether sequences that share a row do not attend to each other.

    transformers builds a block-diagonal causal mask from restarting position ids, but only for architectures that pass
    them to its mask builder. A sequence behind another one must have the logits that it has alone, whatever the other
    one holds. How far rounding may carry them is measured against what is to be told from it: the difference that the
    other sequence makes where it is attended to, as the beginning of the same text. In float32 rounding is about 1e-5
    of that; one layer that attends makes a difference of about one over the number of layers, so the bound lies
    between: the square root of the format's precision. Kernels that round differently by the shape of their input, or
    from one processor to the next, stay far below.
    """

    def logits(ids: list[int], positions: list[int]) -> Tensor:
        found: Tensor = model(**_inputs(model, np.array([ids]), np.array([positions]))).logits
        return found[0, -len(text) :].double()

    text, others = [6, 7, 8, 9], ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])
    alone = logits(text, [0, 1, 2, 3])
    behind = [logits([*other, *text], [0, 1, 2, 3, 4, 0, 1, 2, 3]) for other in others]
    attended = [logits([*other, *text], list(range(9))) for other in others]
    precision = torch.finfo(next(model.parameters()).dtype).eps
    heard = min(_size(one - alone) for one in attended)
    errors = max(_size(one - alone) for one in behind)
    differences = _size(behind[0] - behind[1])
    return errors <= math.sqrt(precision) * heard + ROUNDING * precision * _size(alone) and (
        differences <= math.sqrt(precision) * _size(attended[0] - attended[1])
    )


def _size(values: Tensor) -> float:
    """Root mean square."""
    return float(values.square().mean().sqrt())
