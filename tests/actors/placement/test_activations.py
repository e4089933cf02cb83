"""What training keeps for the backward pass: the estimate against the bytes that autograd really saves."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedConfig, Qwen2Config

from actors.placement.memory import model_size
from scpl_ray.config import Lora
from scpl_ray.models import head
from scpl_ray.models.adapters import add_adapter
from scpl_ray.training.batches import TrainingSequence, collate
from scpl_ray.training.losses import weighted_nll

SHARED = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def sizes(hidden: int, between: int, layers: int, heads: int, shared_heads: int) -> dict[str, int]:
    return SHARED | {
        "hidden_size": hidden,
        "intermediate_size": between,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared_heads,
    }


SHAPES: dict[str, PreTrainedConfig] = {
    "tiny llama": LlamaConfig(**sizes(96, 256, 2, 3, 3)),
    # a third of SmolLM2-135M in width, with its ratios
    "smollm2": LlamaConfig(**sizes(192, 512, 3, 3, 1)),
    "qwen2": Qwen2Config(**sizes(128, 688, 3, 4, 2)),
    "gpt2": GPT2Config(n_embd=128, n_layer=3, n_head=4, n_positions=128, **SHARED),
}
ROWS, WIDTH = 6, 40


def measured(config: PreTrainedConfig, lora: Lora | None, dtype: torch.dtype, checkpointing: bool) -> int:
    """Bytes that autograd saves in one micro-batch, parameters left out, whose positions all have a loss."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.disable_input_require_grads()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    network = model if lora is None else add_adapter(model, lora)
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            found[place] = tensor
        return tensor

    sequence = TrainingSequence(tuple(range(2, 2 + WIDTH)), 1, 1.0)
    batch = collate(tuple((i,) for i in range(ROWS)), [sequence] * ROWS)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        weighted_nll(network, batch)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, Lora(rank=8)], ids=["full", "lora"])
@pytest.mark.parametrize("shape", SHAPES)
def test_estimates_are_within_15_percent_of_what_is_saved(shape: str, lora: Lora | None, dtype: torch.dtype) -> None:
    config = SHAPES[shape]
    size = model_size(config, lora)
    saved = size.saved[dtype.itemsize]
    tokens = ROWS * WIDTH
    # the cross-entropy keeps the probabilities in float32
    logits = 4 * ROWS * (WIDTH - 1) * size.vocabulary
    whole = tokens * saved.per_token(size.layers, checkpointing=False) + logits
    assert whole == pytest.approx(measured(config, lora, dtype, False), rel=0.15)
    # measured in the forward pass, in which no layer has been computed again
    inputs = tokens * (saved.per_token(size.layers, checkpointing=True) - saved.per_layer) + logits
    assert inputs == pytest.approx(measured(config, lora, dtype, True), rel=0.15)


@pytest.mark.parametrize("lora", [None, Lora(rank=8)], ids=["full", "lora"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_enters_the_output_layer_is_kept_if_its_weights_are_trained_or_it_works_in_parts(
    shape: str, lora: Lora | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen layer needs no input for its gradients; one that computes its logits again does."""
    config = SHAPES[shape]
    saved = model_size(config, lora).saved[4]
    assert saved.head == (0 if lora else saved.layer_input)
    whole = measured(config, lora, torch.float32, False)
    monkeypatch.setattr(head, "LOGITS_PER_PASS", 60 * config.vocab_size)
    parts = measured(config, lora, torch.float32, False)
    expected = {in_parts: saved.per_token(1, checkpointing=False, in_parts=in_parts) for in_parts in (False, True)}
    positions = ROWS * (WIDTH - 1)
    logits = 4 * positions * config.vocab_size
    assert whole - logits - parts == pytest.approx(positions * (expected[False] - expected[True]), rel=0.1, abs=2e4)


def test_bytes_per_token_layer_and_hidden_unit_are_no_constant() -> None:
    """More than the 34 of a rule of thumb for every family, and not the same for any two."""
    for shape in SHAPES.values():
        size = model_size(shape, None)
        assert 34 < size.saved[2].per_layer / size.hidden < 110
        adapted = model_size(shape, Lora(rank=8))
        assert adapted.saved[2].per_layer != size.saved[2].per_layer
