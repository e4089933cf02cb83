"""The output layer of a language model, applied to the positions that count only, and to a part of them at a time.

Logits are the largest thing that a model computes: one number per position and entry of the vocabulary. Where a text
is learned from or scored, only some positions count, often fewer than half, so the others' logits are never made. Where
those are still too many, a part of them is made at a time, and once more in the backward pass.

Some models scale what their output layer gets, and scale or cap what it gives. A part is therefore made by the model's
own forward pass, in which the decoder gives back hidden states that it gave before.
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
    given: list[tuple[type[ModelOutput], Tensor]] = []

    def note(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, ModelOutput) and "last_hidden_state" in output:
            given.append((type(output), output["last_hidden_state"][chosen]))

    decoder = _decoder(inner, head)
    watch = decoder.register_forward_hook(note)
    try:
        # one position where the parts come later, in memory of its own, and all of them where they cannot
        found = _with_layer_on(
            model, head, lambda values: values[0, :1].clone() if given else _filled(values[chosen], block), inputs
        )
    finally:
        watch.remove()
    if found.dim() > 2 or not given:
        return _nll(found if found.dim() == 2 else found[chosen], targets)
    ((kind, hidden),) = given
    part_of: Callable[[Tensor, Tensor], Tensor] = functools.partial(_through, inner, decoder, kind, block)
    if torch.is_grad_enabled():
        part_of = functools.partial(checkpoint, part_of, use_reentrant=False, preserve_rng_state=False)
    parts = zip(torch.split(hidden, at_once), torch.split(targets, at_once), strict=True)
    return torch.cat([part_of(*part) for part in parts])


def _decoder(model: PreTrainedModel, head: nn.Module) -> nn.Module:
    """The part of a model whose output becomes logits; some name their output layer or themselves as their decoder."""
    named: nn.Module = model.get_decoder()
    if named is not head and named is not model:
        return named
    parts: list[nn.Module] = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    return parts[min(1, len(parts) - 1)]


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


def _through(
    model: PreTrainedModel, decoder: nn.Module, kind: type[ModelOutput], block: int, hidden: Tensor, targets: Tensor
) -> Tensor:
    filled = _filled(hidden, block)[None]
    with _giving(decoder, kind(last_hidden_state=filled)):
        # not by calling the model, where hooks such as DeepSpeed's would take it for another pass
        logits = model.forward(inputs_embeds=filled, use_cache=False).logits.squeeze(0)
    return _nll(logits, targets)


@contextlib.contextmanager
def _giving(decoder: nn.Module, output: ModelOutput) -> Iterator[None]:
    """During the block a decoder gives this, whatever it is given."""
    before = vars(decoder).get("forward")
    decoder.forward = lambda *_, **__: output
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
