"""The output layer of a language model, applied to the positions that count only, and to a part of them at a time.

Logits are the largest thing that a model computes: one number per position and entry of the vocabulary. Where a text
is learned from or scored, only some positions count, often fewer than half, so the others' logits are never made. Where
those are still too many, a part of them is made at a time, and once more in the backward pass.

Some models scale or cap what their output layer gives. A part is therefore made by the model's own forward pass, whose
decoder gives back the hidden states that it is given.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

LOGITS_PER_PASS = 2**26
"""Largest number of logits held at once: 256 MiB in float32."""


def nll_at(model: nn.Module, chosen: Tensor, targets: Tensor, *, block: int = 1, **inputs: Any) -> Tensor:
    """Negative log-likelihood (nats) of the token that follows each chosen position, shape (chosen positions,).

    Args:
        model: a causal language model, as it is or inside others such as PEFT's and DeepSpeed's. No other thread uses
            it meanwhile.
        chosen: which positions, shape (rows, width), boolean, on the model's device; at least one.
        targets: the tokens that follow, in the order of rows and positions, shape (chosen positions,).
        block: the output layer gets multiples of so many positions, some of them fillers, because kernels treat a part
            of a block in another way. With whole blocks the number of positions changes no result.
        inputs: of the model.
    """
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    head = None if inner is None else inner.get_output_embeddings()
    if inner is None or head is None:
        return _nll(model(**inputs).logits[chosen], targets)
    at_once = max(block, LOGITS_PER_PASS // inner.config.get_text_config().vocab_size // block * block)
    if len(targets) <= at_once:
        logits = _with_layer_on(model, head, lambda values: _filled(values[chosen], block), inputs)
        # all logits, if the model has no use for its layer
        return _nll(logits if logits.dim() == 2 else logits[chosen], targets)
    hidden: list[Tensor] = []
    kinds: list[type[ModelOutput]] = []

    def first_only(values: Tensor) -> Tensor:
        hidden.append(values[chosen])
        return hidden[0][:1]

    watch = inner.get_decoder().register_forward_hook(lambda _, __, output: kinds.append(type(output)))
    try:
        found = _with_layer_on(model, head, first_only, inputs)
    finally:
        watch.remove()
    if not hidden:
        return _nll(found[chosen], targets)
    part_of: Callable[[Tensor, Tensor], Tensor] = functools.partial(_through, inner, kinds[0], block)
    if torch.is_grad_enabled():
        part_of = functools.partial(checkpoint, part_of, use_reentrant=False, preserve_rng_state=False)
    parts = zip(torch.split(hidden[0], at_once), torch.split(targets, at_once), strict=True)
    return torch.cat([part_of(*part) for part in parts])


def _with_layer_on(
    model: nn.Module, head: nn.Module, choose: Callable[[Tensor], Tensor], inputs: dict[str, Any]
) -> Tensor:
    """What the model gives as logits where its output layer gets a choice of the hidden states."""
    # before all other hooks, which then see what is chosen
    hook = head.register_forward_pre_hook(lambda _, arguments: (choose(arguments[0]), *arguments[1:]), prepend=True)
    try:
        logits: Tensor = model(**inputs).logits
    finally:
        hook.remove()
    return logits


def _filled(hidden: Tensor, block: int) -> Tensor:
    """Hidden states with further ones behind them, so that they are whole blocks."""
    missing = -len(hidden) % block
    return torch.cat([hidden, hidden[:1].expand(missing, -1)]) if missing else hidden


def _through(model: PreTrainedModel, kind: type[ModelOutput], block: int, hidden: Tensor, targets: Tensor) -> Tensor:
    with _given_back(model, kind):
        # not by calling the model, where hooks such as DeepSpeed's would take it for another pass
        logits = model.forward(inputs_embeds=_filled(hidden, block)[None], use_cache=False).logits.squeeze(0)
    return _nll(logits, targets)


@contextlib.contextmanager
def _given_back(model: PreTrainedModel, kind: type[ModelOutput]) -> Iterator[None]:
    """During the block the decoder of a model gives back its input, as an output of this type."""

    def given(*_: Any, inputs_embeds: Tensor, **__: Any) -> ModelOutput:
        return kind(last_hidden_state=inputs_embeds)

    decoder = model.get_decoder()
    before = vars(decoder).get("forward")
    decoder.forward = given
    try:
        yield
    finally:
        if before is None:
            del decoder.forward
        else:
            decoder.forward = before


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Of positions behind which fillers may stand."""
    of_targets = logits[: len(targets)] if len(logits) > len(targets) else logits
    return F.cross_entropy(of_targets.float(), targets, reduction="none")
