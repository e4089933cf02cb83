"""DeepSpeed's settings, which a plan of memory reads too, without DeepSpeed itself."""

from __future__ import annotations

from typing import Any

import torch

from scpl_ray.config import Training

REDUCED_AT_ONCE = 50_000_000
"""Gradients in the buffer from which they are summed over workers: 200 MB of float32; the default reserves ten times as
much per worker."""


def deepspeed_config(training: Training, dtype: torch.dtype) -> dict[str, Any]:
    """DeepSpeed's settings; batch sizes are 1 because this package plans steps and micro-batches, not DeepSpeed.

    In bfloat16, gradients are summed in float32 over the micro-batches of a step and over the workers. DeepSpeed cannot
    do that at stage 0; stage 1 makes the same steps, and only splits the states of the optimizer over the workers.
    """
    rounds = dtype == torch.bfloat16
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "steps_per_print": 1_000_000_000,
        "bf16": {"enabled": rounds},
        "zero_optimization": {
            "stage": max(training.zero_stage, 1) if rounds else training.zero_stage,
            "reduce_bucket_size": REDUCED_AT_ONCE,
        },
    }
    if rounds:
        settings |= {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
    return settings
