"""The output layer of a language model, applied to the positions with a loss only, and to a part of them at a time.

Logits are the largest thing that a model computes: one number per position and entry of the vocabulary. Where a text
is learned from or scored, only some positions count, often fewer than half, so the others' logits are never made. Where
those are still too many, a part of them is made at a time, and once more in the backward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from scpl_ray.models.likelihood import LOGITS_PER_PASS


def nll_at(model: nn.Module, chosen: Tensor, targets: Tensor, **inputs: Any) -> Tensor:
    """Negative log-likelihood (nats) of the token that follows each chosen position, shape (chosen positions,).

    Args:
        model: a causal language model, as it is or inside others such as PEFT's and DeepSpeed's.
        chosen: which positions, shape (rows, width), boolean, on the model's device; at least one.
        targets: the tokens that follow, in the order of rows and positions, shape (chosen positions,).
        inputs: of the model.
    """
    head = output_layer(model)
    if head is None:
        return _nll(_at(model(**inputs).logits, chosen), targets)
    per_part = LOGITS_PER_PASS // _text_model(model).config.get_text_config().vocab_size
    if len(targets) <= per_part:
        return _nll(logits_at(model, chosen, **inputs), targets)
    hidden: list[Tensor] = []

    def first_only(values: Tensor) -> Tensor:
        hidden.append(values[chosen])
        return hidden[0][:1]

    first = _with_layer_on(model, head, first_only, inputs)
    if not torch.equal(first, head(hidden[0][:1])):
        # The model scales or caps what the layer gives, so the layer alone does not have its logits.
        return _nll(logits_at(model, chosen, **inputs), targets)
    parts = zip(torch.split(hidden[0], per_part), torch.split(targets, per_part), strict=True)
    again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([again(_through, head, *part) for part in parts])


def logits_at(model: nn.Module, chosen: Tensor, **inputs: Any) -> Tensor:
    """Logits of chosen positions, shape (chosen positions, vocabulary); arguments as of :func:`nll_at`."""
    head = output_layer(model)
    found = model(**inputs).logits if head is None else _with_layer_on(model, head, lambda h: h[chosen], inputs)
    return _at(found, chosen)


def output_layer(model: nn.Module) -> nn.Module | None:
    """The module that makes logits of hidden states; ``None`` where no model of transformers says which it is."""
    inner = _text_model(model)
    return None if inner is None else inner.get_output_embeddings()


def _text_model(model: nn.Module) -> Any:
    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)


def _with_layer_on(
    model: nn.Module, head: nn.Module, choose: Callable[[Tensor], Tensor], inputs: dict[str, Any]
) -> Tensor:
    """What the model gives as logits where its output layer gets a choice of the hidden states."""
    hook = head.register_forward_pre_hook(lambda _, arguments: (choose(arguments[0]), *arguments[1:]))
    try:
        logits: Tensor = model(**inputs).logits
    finally:
        hook.remove()
    return logits


def _at(logits: Tensor, chosen: Tensor) -> Tensor:
    """The logits of chosen positions, which are all that there are unless the model made them without its layer."""
    return logits if logits.dim() == 2 else logits[chosen]


def _through(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return _nll(head(hidden), targets)


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")
