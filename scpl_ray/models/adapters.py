"""LoRA adapters and models: set up, initialise, save, merge and check them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import GENERATION_CONFIG_NAME

from scpl_ray.config import Lora
from scpl_ray.models import loading
from scpl_ray.models.attention import compute_caps
from scpl_ray.protocols import TrainingError
from scpl_ray.seeds import derive_seed

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's modules."""
TOKENIZER_FILES = ("*token*", "vocab.*", "merges.txt", "spiece.model", "chat_template*")
"""Patterns of the files of a tokenizer of any model family; they never match weights or the model's config."""


def load_model(folder: Path, dtype: torch.dtype, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a causal language model from safetensors, on the CPU.

    Raises:
        ValueError: a weight is not in the files or has another shape there.
    """
    return compute_caps(loading.load(AutoModelForCausalLM, folder, dtype, trust_remote_code=trust_remote_code))


def add_adapter(model: PreTrainedModel, lora: Lora) -> PeftModel:
    """Freeze the model and add a LoRA update to each linear layer: W + (alpha / rank) B A (Hu et al. 2021).

    Embeddings and the output head are not adapted, nor are experts, whose weights are no linear layers.

    Raises:
        ValueError: PEFT would adapt the model's experts, with an update that could not be merged.
    """
    head = model.get_output_embeddings()
    linear = {
        name.rsplit(".", 1)[-1]: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=sorted(linear),
        # GPT-2 stores its weights with shape (in, out).
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    if of_experts := getattr(adapted.peft_config["default"], "target_parameters", None):
        raise ValueError(
            f"model.lora: {model.config.model_type} names layers beside its experts as it once named these, so that "
            f"PEFT adapts the experts ({', '.join(sorted(of_experts))}) instead, with an update that cannot be merged; "
            "set model.lora=null, which trains all weights, or choose another model.name"
        )
    return adapted


def fresh_adapter(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Initial weights of an adapter: B = 0, A uniform in +-1/sqrt(inputs) (PEFT's default), one stream per matrix.

    Args:
        shapes: shapes of the adapter's tensors, by parameter name.
        seed: seed of the job; the same seed gives the same adapter, whatever was drawn before.
    """
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = torch.zeros(shape)
        if ".lora_A." in name:
            bound = 1.0 / math.sqrt(shape[1])
            stream = torch.Generator().manual_seed(derive_seed(seed, "adapter", name))
            tensors[name].uniform_(-bound, bound, generator=stream)
    return tensors


def read_adapter(folder: Path, shapes: Mapping[str, tuple[int, ...]], lora: Lora) -> dict[str, Tensor]:
    """Read the tensors of a saved adapter, by parameter name.

    Raises:
        ValueError: the adapter was trained with settings other than ``lora``, or for another model.
    """
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    if (config["r"], config["lora_alpha"]) != (lora.rank, lora.alpha):
        raise ValueError(
            f"model.lora: rank {lora.rank} and alpha {lora.alpha:g}, but the adapter {folder} to start from has rank "
            f"{config['r']} and alpha {config['lora_alpha']:g}; use its settings or start from the base model"
        )
    saved = load_file(folder / ADAPTER_WEIGHTS)
    expected = {_saved_name(name): name for name in shapes}
    found = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if found != {saved_name: tuple(shapes[name]) for saved_name, name in expected.items()}:
        raise ValueError(f"the adapter {folder} to start from does not fit the base model: its tensors are {found}")
    return {name: saved[saved_name] for saved_name, name in expected.items()}


def _saved_name(parameter: str) -> str:
    """A parameter's name in PEFT's files, which leave out the name of the adapter."""
    return parameter.replace(".default.", ".")


def save_adapter(tensors: Mapping[str, Tensor], config: LoraConfig, base: Path, folder: Path) -> None:
    """Write a plain PEFT adapter of ``base``; the same weights give byte-identical files."""
    folder.mkdir()
    saved = {_saved_name(name): tensor.contiguous() for name, tensor in sorted(tensors.items())}
    save_file(saved, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    settings |= {"base_model_name_or_path": str(base.absolute()), "inference_mode": True}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    check_saved(folder / ADAPTER_WEIGHTS, {name: tuple(tensor.shape) for name, tensor in saved.items()})


def merge_adapter(base: Path, adapter: Path, folder: Path, dtype: torch.dtype, *, trust_remote_code: bool) -> None:
    """Write ``base`` with an adapter of any kind that PEFT can merge; the sum is taken in float32, stored as ``dtype``.

    For a plain LoRA adapter the weights are those of :func:`merged_weights` to the bit.

    Raises:
        ValueError: the adapter has no weights that could be added, does not fit the base model, or changes one of two
            embeddings that share their weights.
    """
    model = load_model(base, torch.float32, trust_remote_code=trust_remote_code)
    if PeftConfig.from_pretrained(adapter).is_prompt_learning:
        raise ValueError(
            f"{adapter}: is a learned prompt (PEFT), which cannot be merged into a model; give an adapter of weights, "
            "such as LoRA, or a merged model"
        )
    tied = model.get_input_embeddings().weight is getattr(model.get_output_embeddings(), "weight", None)
    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except RuntimeError as error:
        raise ValueError(
            f"{adapter}: does not fit the base model {base} ({' '.join(str(error).split())[:200]}); say where its own "
            "base model lies with model.name=FOLDER"
        ) from error
    ends = (adapted.get_input_embeddings(), adapted.get_output_embeddings())
    if tied and any(isinstance(end, BaseTunerLayer) and not isinstance(end, TrainableTokensLayer) for end in ends):
        raise ValueError(
            f"{adapter}: adapts the input or output embedding, which in {base} share their weights; merged, its update "
            "would change both. Train it without lm_head and the input embedding among its target_modules, or untie "
            "them in the base model (tie_word_embeddings=False) and train it again"
        )
    save_model(adapted.merge_and_unload().to(dtype), base, folder)


def merged_weights(
    model: PreTrainedModel, weights: dict[str, Tensor], adapter: Mapping[str, Tensor], scaling: float
) -> Iterator[tuple[str, Tensor]]:
    """The weights of a model with an adapter added, one after the other: W + (alpha / rank) B A, summed in float32.

    Args:
        model: the model without the adapter; only the kinds of its modules matter, so it may have no weights.
        weights: all its weights, by parameter name; each is taken out when its turn comes, so that a sum can take the
            place of what it was made from.
        adapter: the tensors of the adapter, as :func:`read_adapter` or the file names them.
        scaling: alpha / rank.

    Raises:
        KeyError: the adapter changes a weight that is not there.
    """
    updated = {}
    for name in adapter:
        before, found, after = name.partition(".lora_B.")
        if found:
            updated[f"{before.removeprefix(PREFIX)}.weight"] = f"{before}.lora_A.{after}", name
    if absent := updated.keys() - weights.keys():
        raise KeyError(f"the adapter changes {', '.join(sorted(absent))}, which the model does not have")
    for name in list(weights):
        weight = weights.pop(name)
        if name in updated:
            a, b = updated[name]
            delta = adapter[b].float() @ adapter[a].float()
            if isinstance(model.get_submodule(name.removesuffix(".weight")), Conv1D):
                delta = delta.T
            weight = weight.float() + (delta * scaling).to(weight.device)
        yield name, weight


def save_model(model: PreTrainedModel, base: Path, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a model's config and weights, and the tokenizer and generation config of ``base``.

    Args:
        model: the model.
        base: folder of the model from which it was made.
        folder: is made.
        weights: of all parameters by name, tied ones once, if they are not the model's own.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in (weights or dict(model.named_parameters())).items()}
    given, config = model.generation_config, model.config.get_text_config()
    # save_pretrained refuses what many models are published with, such as a temperature without do_sample
    model.generation_config = GenerationConfig(
        **{key: getattr(config, key, None) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    )
    try:
        model.save_pretrained(folder, state_dict=None if weights is None else dict(weights))
    finally:
        model.generation_config = given
    for pattern in (*TOKENIZER_FILES, GENERATION_CONFIG_NAME):
        for file in base.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    for file in folder.glob("*.safetensors"):
        check_saved(file, shapes)


def check_saved(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Read saved weights back, and check that every tensor has its full shape and is finite.

    Saving a partitioned model (ZeRO-3) without gathering it raises no error but writes tensors of shape (0,).

    Raises:
        TrainingError: a tensor is wrong; the message names the first one.
    """
    with safe_open(file, framework="pt") as stored:
        names = list(stored.keys())
        if not names:
            raise TrainingError(f"{file} holds no tensors")
        for name in names:
            tensor = stored.get_tensor(name)
            if tensor.numel() == 0 or shapes.get(name, tuple(tensor.shape)) != tuple(tensor.shape):
                raise TrainingError(
                    f"{file}: {name} has shape {tuple(tensor.shape)}, the model has {shapes.get(name, 'another one')}"
                )
            if not bool(torch.isfinite(tensor).all()):
                raise TrainingError(f"{file}: {name} is not finite; training diverged: lower training.learning_rate")


def commit(temporary: Path, final: Path) -> None:
    """Move a finished folder to its final name, replacing what an interrupted attempt left there."""
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
