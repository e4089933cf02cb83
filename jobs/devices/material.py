"""Models of random weights, an adapter and training data for the checks; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from scpl_ray.models import precision
from scpl_ray.models.precision import Format
from scpl_ray.records import Example

WORDS = tuple(f"w{number}" for number in range(400))
POSITIONS = 256
RANK = 8
TOKENS = 128
"""Of each training example."""


def number_format(*, on_gpu: bool) -> Format:
    """The format that models are tried in: that of ``model.dtype: auto`` on the GPU of this process, or on a CPU."""
    import torch

    return precision.explained_on_gpus([torch.cuda.get_device_capability()])[0] if on_gpu else "float32"


def make(folder: Path, *, large: bool) -> None:
    """Write ``base/`` and ``other/``, two models of one shape, ``adapter/`` of the first, and ``examples.parquet``.

    Args:
        folder: where to.
        large: about 0.2 billion weights, whose memory can be measured; otherwise about 0.4 million.
    """
    import pyarrow.parquet as pq
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from scpl_ray.config import Lora
    from scpl_ray.models.adapters import add_adapter, save_adapter
    from scpl_ray.models.tiny import build_tokenizer
    from scpl_ray.records import to_table

    tokenizer = build_tokenizer([" ".join(WORDS)], "llama")
    hidden, layers, width = (1024, 12, 64) if large else (96, 2, 32)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // width,
        num_key_value_heads=hidden // width,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    for seed, name in enumerate(("base", "other")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    adapted = add_adapter(model, Lora(rank=RANK, alpha=2.0 * RANK))
    tensors = {
        name: torch.randn_like(parameter) * 0.1
        for name, parameter in adapted.named_parameters()
        if parameter.requires_grad
    }
    save_adapter(tensors, adapted.peft_config["default"], folder / "base", folder / "adapter")
    ids = torch.randint(3, len(tokenizer), (32, TOKENS), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [Example(f"e{i}", "real", None, tuple(row[:8]), tuple(row[8:]), 1.0) for i, row in enumerate(ids)]
    pq.write_table(to_table(rows, Example), folder / "examples.parquet")
