"""How many bytes a forward pass keeps for the backward pass, counted with the model itself, without memory for it.

The model runs on the ``meta`` device, whose tensors have shapes and no content, and every tensor that autograd saves is
counted once. So the count holds for any architecture, format and adapter. Attention is counted as fused kernels keep
it: queries, keys, values, the output, and one number per head and token; scores are never kept.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

TOKENS = 16
COUNTED = "scpl_counted"


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """What a forward pass keeps, in bytes per token."""

    per_layer: float
    """Within one layer."""
    elsewhere: float
    """Outside the layers: embeddings and the last norm, without logits."""
    layer_input: float
    """Hidden states that enter one layer, and those that enter the output layer."""
    head: float
    """What the output layer keeps of a position with a loss: its input if its weights are trained, else nothing."""

    def per_token(self, layers: int, *, checkpointing: bool, in_parts: bool = False) -> float:
        """Bytes per token of all layers and of the output layer, whose logits are not counted.

        With checkpointing only the inputs of the layers are kept, and in the backward pass one layer at a time.

        Args:
            layers: number of layers.
            checkpointing: whether the layers compute again in the backward pass what they do not keep.
            in_parts: whether the output layer does so too, for a part of the logits at a time; what enters it is kept.
        """
        kept = layers * self.layer_input + self.per_layer if checkpointing else layers * self.per_layer
        return kept + self.elsewhere + (self.layer_input if in_parts else self.head)


class _Fused(torch.autograd.Function):
    """Attention, as far as what it saves is concerned."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, heads, width, _ = query.shape
        output = query.new_empty(rows, width, heads, value.shape[-1])
        ctx.save_for_backward(query, key, value, output, query.new_empty(rows, heads, width, dtype=torch.float32))
        return output

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        raise NotImplementedError("nothing is computed here, only counted")


def _attend(_: nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    found: Tensor = _Fused.apply(query, key, value)  # type: ignore[no-untyped-call]
    return found, None


def saved(model: PreTrainedModel, network: nn.Module) -> Saved:
    """Count what a model on the ``meta`` device saves.

    Args:
        model: the language model; its attention is replaced.
        network: the model itself, or the model with an adapter.

    Raises:
        RuntimeError: the model cannot run without content.
    """
    AttentionInterface.register(COUNTED, _attend)
    model.set_attn_implementation(COUNTED)
    layers = max((module for module in model.modules() if isinstance(module, nn.ModuleList)), key=len)
    own = {_place(parameter) for parameter in network.parameters()}
    counted: dict[int, Tensor] = {}
    within, outside, entering, of_head = 0, 0, 0, 0
    depth = 0

    def enter(*_: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(_: nn.Module, __: Any, output: Tensor | tuple[Tensor, ...]) -> None:
        nonlocal depth, entering
        depth -= 1
        hidden = output if isinstance(output, Tensor) else output[0]
        entering += hidden.numel() * hidden.element_size()

    def pack(tensor: Tensor) -> Tensor:
        nonlocal within, outside
        if (place := _place(tensor)) not in own and place not in counted:
            counted[place] = tensor  # kept, so that no other tensor gets its place
            if depth:
                within += tensor.untyped_storage().nbytes()
            else:
                outside += tensor.untyped_storage().nbytes()
        return tensor

    hooks = [layer.register_forward_pre_hook(enter) for layer in layers]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ids = torch.zeros(1, TOKENS, dtype=torch.int64, device="meta")
    # some models look for padding among the ids, of which there is none here
    padding, model.config.pad_token_id = model.config.pad_token_id, None
    try:
        with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden = model.base_model(input_ids=ids, position_ids=ids, use_cache=False)[0]
            if (head := model.get_output_embeddings()) is not None:
                before = outside
                head(hidden)
                outside, of_head = before, outside - before
    finally:
        model.config.pad_token_id = padding
        for hook in hooks:
            hook.remove()
    count = len(layers) * TOKENS
    return Saved(within / count, outside / TOKENS, entering / count, of_head / TOKENS)


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
