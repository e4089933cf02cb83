"""Loading models from safetensors that hold all their weights: transformers would draw at random what it does not find.

The same is found before anything starts, from the names and shapes in the files alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

NAMED = 3
"""Tensors that a message names."""


def load(
    kind: Any, folder: Path, dtype: torch.dtype, *, trust_remote_code: bool, new_head: bool = False, **settings: Any
) -> PreTrainedModel:
    """Load a model, on the CPU.

    Args:
        kind: a class of transformers such as ``AutoModelForCausalLM``.
        folder: a folder with safetensors, or a Hub id as a path.
        dtype: number format of the weights in memory.
        trust_remote_code: whether code that came with the model may be run.
        new_head: whether all outside the body, and its pooler, may be missing or of another shape, to be trained.
        settings: for the config.

    Raises:
        ValueError: a weight is not in the files or has another shape there.
    """
    model: PreTrainedModel
    model, found = kind.from_pretrained(
        str(folder),
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        ignore_mismatched_sizes=True,  # the message below names them
        output_loading_info=True,
        **settings,
    )
    _check(model, found, str(folder), new_head=new_head)
    return model


def check_names(kind: Any, folder: Path, config: PreTrainedConfig, name: str) -> None:
    """Check that the files of a folder have every weight of a model, by names and shapes; none is read.

    Args:
        kind: a class of transformers such as ``AutoModelForCausalLM``.
        folder: a folder with safetensors; without any, nothing is checked.
        config: its config, of a model without code of its own.
        name: the model, as messages call it.

    Nothing is said of what transformers can only put together from numbers; its loading says it.

    Raises:
        ValueError: a weight is not in the files or has another shape there.
    """
    stored = _shapes(folder)
    if not stored or _quantised(config):
        return
    with torch.device("meta"):
        empty = kind.from_config(config)
    with _silently(), contextlib.suppress(RuntimeError):
        model, found = type(empty).from_pretrained(
            None,
            config=empty.config,
            state_dict=stored,
            dtype=torch.float32,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        _check(model, found, name, new_head=False)


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Inside, transformers writes no progress and no report."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _shapes(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the safetensors that transformers reads in a folder, without their numbers, by name."""
    files, index = [folder / SAFE_WEIGHTS_NAME], folder / SAFE_WEIGHTS_INDEX_NAME
    if not files[0].is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
        files = [folder / name for name in sorted(set(shards))]
    found = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                found[name] = torch.empty(file.get_slice(name).get_shape(), device="meta")
    return found


def _check(model: PreTrainedModel, found: Mapping[str, Any], name: str, *, new_head: bool) -> None:
    """Raise :class:`ValueError` if weights were missing or had other shapes, as transformers found.

    It leaves out what the architecture ties or computes itself; buffers are computed too.
    """
    if _quantised(model.config):
        return
    weights = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    shapes = {key: f"{key} {tuple(there)} instead of {tuple(here)}" for key, there, here in found["mismatched_keys"]}
    wrong = weights & {*found["missing_keys"], *shapes}
    if new_head:
        wrong = {key for key in wrong if key.startswith(f"{_body(model)}.") and ".pooler." not in key}
    if not wrong:
        return
    unknown = sorted(found["unexpected_keys"])
    others = f"; they have {_some(unknown)}, which it does not know" if unknown else ""
    raise ValueError(
        f"{name}: {len(wrong)} of {len(weights)} weights of {type(model).__name__} are not in its safetensors under "
        f"their names and shapes and would be random numbers: {_some([shapes.get(key, key) for key in sorted(wrong)])}"
        f"{others}; save the whole model with its own save_pretrained, without what wraps it and with adapters merged, "
        "or name a model of this kind"
    )


def _quantised(config: PreTrainedConfig) -> bool:
    """Whether the names of a model's tensors are those of its method of quantisation."""
    return getattr(config, "quantization_config", None) is not None


def _body(model: PreTrainedModel) -> str:
    """The part of a model that is not its head: the largest."""
    sizes: dict[str, int] = {
        name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()
    }
    return max(sizes, key=lambda name: sizes[name])


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
