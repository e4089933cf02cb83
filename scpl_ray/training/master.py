"""The float32 weights of a policy: in a DeepSpeed engine, and on disk beside the rounded ones that engines serve.

In bfloat16 an engine's module holds rounded weights, and DeepSpeed's optimizer the float32 ones, its *master* weights.
Most updates are smaller than the rounding (2^-9 of a weight), so what a round learned is in the master only: it is the
policy, and the next incremental round starts from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_local_fp32_param, safe_set_full_fp32_param
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scpl_ray.models.adapters import check_saved, load_model
from scpl_ray.records import Weights

FOLDER = "master"
"""Name of the folder beside ``model/``."""
FILE = "master.safetensors"


def save_master(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write float32 weights, by parameter name, into a new folder; the same weights give a byte-identical file."""
    folder.mkdir()
    save_file({name: tensors[name].float().contiguous() for name in sorted(tensors)}, folder / FILE)
    check_saved(folder / FILE, {name: tuple(tensor.shape) for name, tensor in tensors.items()})


def full_weights(policy: Weights, names: Collection[str], *, trust_remote_code: bool) -> dict[str, Tensor]:
    """The float32 values of all weights of a policy that was trained as a whole, by parameter name, on the CPU.

    Files that hold the parameters under their own names are mapped into memory; for others the model is loaded.

    Args:
        policy: the policy.
        names: of all parameters of its model.
        trust_remote_code: whether code that came with the model may be run.

    Raises:
        ValueError: the policy was trained here, but only its rounded weights are left.
    """
    if policy.policy_version:
        exact = policy.model.parent / FOLDER / FILE
        if exact.exists():
            found: dict[str, Tensor] = load_file(exact)
            return found
        if formats(policy.model) & {"BF16", "F16"}:
            raise ValueError(
                f"policy version {policy.policy_version} to start from: {policy.model} holds rounded weights, and the "
                f"float32 ones, {exact}, are missing; restore them, or remove {policy.model.parent} and every later "
                "phase to train that policy again"
            )
    stored: dict[str, Tensor] = {}
    for path in sorted(policy.model.glob("*.safetensors")):
        stored |= load_file(path)
    if stored.keys() == set(names):
        return {name: tensor.float() for name, tensor in stored.items()}
    model = load_model(policy.model, torch.float32, trust_remote_code=trust_remote_code)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def formats(folder: Path) -> set[str]:
    """The number formats of the weights in a folder, as safetensors name them: ``F32``, ``BF16``, ``F16``."""
    found = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return found


@contextlib.contextmanager
def whole(parameter: nn.Parameter, *, modified: bool) -> Iterator[None]:
    """Gather a parameter that is split over the workers (ZeRO-3) for the ``with`` block; all workers must enter."""
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if modified else None):
        yield


def put(engine: Any, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Put float32 values into the module of an engine, rounded to its format, and as they are into its master weights.

    Args:
        engine: a DeepSpeed engine; all its workers must call this.
        parameters: its trained parameters by name.
        values: the new values by name, with the full shapes of the parameters.
    """
    for name, parameter in parameters.items():
        with whole(parameter, modified=True), torch.no_grad():
            parameter.copy_(values[name])
    if isinstance(engine.optimizer, torch.optim.Optimizer):
        return
    # The optimizer is a wrapper that trains float32 copies of the weights, or of this worker's part of them.
    engine.optimizer.refresh_fp32_params()
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32:
            _set_master(parameter, values[name])


@torch.no_grad()
def _set_master(parameter: nn.Parameter, value: Tensor) -> None:
    if not hasattr(parameter, "ds_id"):
        safe_set_full_fp32_param(parameter, value.to(parameter.device))
        return
    # DeepSpeed's function for ZeRO-3 refuses weights that the workers cannot share evenly; their parts are padded.
    part = safe_get_local_fp32_param(parameter)
    rank = torch.distributed.get_rank()
    mine = value.flatten()[rank * part.numel() : (rank + 1) * part.numel()]
    part[: mine.numel()].copy_(mine)


def masters(parameters: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
    """The float32 values of an engine's trained parameters, one after the other; all its workers must go through them.

    A value is valid until the next one is asked for.
    """
    for name, parameter in parameters.items():
        if parameter.dtype == torch.float32:
            with whole(parameter, modified=False):
                yield name, parameter.detach()
        else:
            yield name, safe_get_full_fp32_param(parameter)
