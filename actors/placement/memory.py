"""How much memory a run's processes need: sizes of its models from their configs, and what each role holds of them.

Weights, gradients, optimizer states, and keys and values are counted. The memory of activations, logits and
libraries is an estimate, and is called so wherever it is shown.

Training: ZeRO (Rajbhandari et al. 2020, section 5) splits optimizer states (stage 1), gradients (2) and weights (3)
over the workers, which gather some weights again while they use them. Activations are counted with the model itself
(:mod:`actors.placement.activations`). The output layer gets the positions with a loss, all in the worst case, and no
more at a time than :data:`~scpl_ray.models.head.LOGITS_PER_PASS` allows. The reference policy of DPO is computed by the
worker's own model before training and adds nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from actors.engines.base import key_value_heads, values_per_token
from actors.engines.registry import ENGINES
from actors.placement.activations import Saved, saved
from scpl_ray.config import Experiment, Lora
from scpl_ray.models import precision
from scpl_ray.models.adapters import add_adapter
from scpl_ray.models.head import LOGITS_PER_PASS
from scpl_ray.models.kept_prompts import BATCH_BYTES, COPIES, MOST_BYTES
from scpl_ray.models.likelihood import POSITIONS_STEP
from scpl_ray.models.sources import known_reward_config
from scpl_ray.protocols import Task
from scpl_ray.tasks.bases import known_config
from scpl_ray.training.deepspeed_settings import REDUCED_AT_ONCE
from scpl_ray.training.reward_model import PAIRS_PER_STEP

logger = logging.getLogger(__name__)

GIB = 2**30
FLOAT32 = 4
ADAM_BYTES = 8
"""Two float32 moments per trained weight."""
ACTIVATION_BYTES = 68
"""Bytes per token, layer and hidden unit that a backward pass needs, in 16 bits, where the model cannot be counted."""
VOCABULARY_STEP = 64
"""vLLM fills the vocabulary up to a multiple of this number (``DEFAULT_VOCAB_PADDING_SIZE``)."""
GATHERED_WEIGHTS = 10**9
"""With ZeRO's stage 3, the most weights that DeepSpeed gathers at a time (``stage3_max_live_parameters``)."""
FORWARD_WIDTH = 16
"""Hidden states that a forward pass without gradients holds at once: a layer's queries, keys, values and
residual, and two sides of a feed-forward layer about four times as wide."""
LIBRARIES_GIB = 1.0
"""CUDA context, kernels and communication buffers of a process on a GPU; interpreter and libraries in host memory."""

Mode = Literal["cpu", "dedicated", "colocated"]


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSize:
    """The size of a model, in numbers."""

    parameters: int
    """Number of parameters; tied weights count once."""
    adapter_parameters: int
    """Number of parameters of the LoRA adapter that would be trained; 0 without an adapter."""
    layers: int
    hidden: int
    vocabulary: int
    attention_heads: int
    key_value_heads: int
    feed_forward: int
    """Width of the feed-forward layers; 0: the config does not say."""
    cached_per_token: int
    """Numbers kept per token of a sequence: its keys and values."""
    saved: Mapping[int, Saved] = dataclasses.field(default_factory=dict)
    """What training keeps for the backward pass, by bytes per number; empty if the model cannot be counted."""
    saved_whole: Saved | None = None
    """What training all weights in float32 keeps, with an adapter or without; ``None``: it cannot be counted."""

    stored_in_bfloat16: bool = False
    """Whether the config says that the weights on disk are in bfloat16."""

    def splits_over(self, gpus: int) -> bool:
        """Whether vLLM can split the model evenly over so many GPUs."""
        heads = self.key_value_heads
        rows = -(-self.vocabulary // VOCABULARY_STEP) * VOCABULARY_STEP
        whole = all(count % gpus == 0 for count in (self.attention_heads, self.feed_forward, rows))
        # GPUs beyond the key-value heads hold copies of these.
        return whole and (heads % gpus == 0 or gpus % heads == 0)

    def saved_in(self, width: int) -> Saved:
        """What training keeps for the backward pass, in numbers of so many bytes."""
        return self.saved.get(width, self._guessed(width))

    def saved_of_all_weights(self) -> Saved:
        """What training all weights in float32 keeps for the backward pass."""
        return self.saved_whole or self._guessed(FLOAT32)

    def _guessed(self, width: int) -> Saved:
        entering = float(width * self.hidden)
        return Saved(ACTIVATION_BYTES * width / 2 * self.hidden, entering, entering, entering)


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the models of a run."""

    policy: ModelSize
    reward: ModelSize | None
    """Size of ``reward.model``; ``None``: it is not set; the task's own reward model starts from the policy's base."""


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """The most memory that one process needs, in GiB."""

    working: Mapping[str, float]
    """What it holds on each of its GPUs (without GPUs, in host memory) while it works, by kind."""
    idle: float
    """What it holds on its GPU while other processes use that GPU."""
    host: float
    """What it holds in host memory."""

    @property
    def total(self) -> float:
        """All that it holds while it works."""
        return sum(self.working.values())


def model_size(
    config: PreTrainedConfig, lora: Lora | None, *, trust_remote_code: bool = False, classifier: bool = False
) -> ModelSize:
    """Count a model's parameters as transformers and PEFT would make them, without memory for any.

    Args:
        config: config of the model.
        lora: the adapter that is added to it.
        trust_remote_code: whether code that came with the model may be run.
        classifier: count the model with one output per label instead of one per vocabulary entry.

    Raises:
        ValueError: transformers does not know the architecture.
    """
    return _counted(_Model(config.to_json_string(), lora, trust_remote_code, classifier, config))


@dataclasses.dataclass(frozen=True)
class _Model:
    """A model that is counted, which takes seconds if it is large."""

    facts: str
    """All of its config."""
    lora: Lora | None
    trust_remote_code: bool
    classifier: bool
    config: PreTrainedConfig = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=16)
def _counted(asked: _Model) -> ModelSize:
    config, lora = asked.config, asked.lora
    auto = AutoModelForSequenceClassification if asked.classifier else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config, trust_remote_code=asked.trust_remote_code)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        whole = {} if asked.classifier else _saved(model, model, torch.float32)
        network = model if lora is None else add_adapter(model, lora)
        adapter = 0 if lora is None else sum(p.numel() for p in network.parameters() if p.requires_grad)
    text = config.get_text_config()
    return ModelSize(
        parameters=parameters,
        adapter_parameters=adapter,
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        vocabulary=int(text.vocab_size),
        attention_heads=int(text.num_attention_heads),
        key_value_heads=key_value_heads(text),
        feed_forward=int(text.to_dict().get("intermediate_size") or 0),
        cached_per_token=values_per_token(text),
        saved={} if asked.classifier else _saved(model, network, torch.float32, torch.bfloat16),
        saved_whole=whole.get(FLOAT32),
        stored_in_bfloat16=config.dtype == torch.bfloat16,
    )


def _saved(model: PreTrainedModel, network: nn.Module, *formats: torch.dtype) -> dict[int, Saved]:
    try:
        return {dtype.itemsize: saved(model.to(dtype), network) for dtype in formats}
    except RuntimeError as error:
        logger.info("activations are estimated: %s does not run without weights (%s)", type(model).__name__, error)
        return {}


def known_sizes(experiment: Experiment, task: Task | None) -> Sizes | None:
    """Sizes of a run's models; ``None`` if one of their configs is not on this machine yet.

    Args:
        experiment: the config.
        task: its task; ``None``: it could not be built, so a model that is made from its text is not known.

    Raises:
        ValueError: a config cannot be read.
    """
    config, reward = known_config(experiment, task), known_reward_config(experiment)
    if config is None or (reward is None and experiment.reward.model is not None):
        return None
    trust = experiment.model.trust_remote_code
    return Sizes(
        model_size(config, experiment.model.lora, trust_remote_code=trust),
        model_size(reward, None, trust_remote_code=trust, classifier=True) if reward is not None else None,
    )


def with_format(experiment: Experiment, task: Task | None, *, on_gpu: bool) -> Experiment:
    """The experiment with ``model.dtype`` decided from what is known of its model; see :func:`known_sizes`."""
    sizes = known_sizes(experiment, task)
    return precision.decided(experiment, sizes.policy.parameters if sizes else None, on_gpu=on_gpu)


def estimates(experiment: Experiment, sizes: Sizes, mode: Mode) -> dict[str, Estimate]:
    """What an engine, a scorer and a training worker need, by role.

    Args:
        experiment: the config.
        sizes: sizes of its models.
        mode: where the processes run.
    """
    width = {"float32": FLOAT32, "bfloat16": 2}[
        precision.computed_in(experiment, sizes.policy.parameters, on_gpu=mode != "cpu")
    ]
    return {
        "engine": _engine(experiment, sizes.policy, width, mode),
        "scorer": _scorer(experiment, sizes, width, mode),
        "training worker": _worker(experiment, sizes.policy, width, mode),
    }


def _engine(experiment: Experiment, size: ModelSize, width: int, mode: Mode) -> Estimate:
    split = experiment.generation.tensor_parallel
    served = size.adapter_parameters if experiment.generation.refresh == "adapter" else 0
    positions = experiment.task.max_prompt_tokens + experiment.generation.max_new_tokens
    held = ENGINES[experiment.generation.engine].load().held(positions, on_gpu=mode != "cpu")
    if experiment.generation.max_sequences != "auto":
        held = dataclasses.replace(held, rows=experiment.generation.max_sequences)
    cached = width * held.cached_tokens * size.cached_per_token / min(split, size.key_value_heads)
    if held.cache_limit_bytes is not None:
        cached = min(held.cache_limit_bytes, cached)
    working = {
        "weights": width * (size.parameters + served) / split,
        "keys and values": cached,
        "activations": width * held.read_tokens * FORWARD_WIDTH * size.hidden
        + FLOAT32 * 2 * held.rows * size.vocabulary,
    }
    asleep_copy = width * (size.parameters + served) if mode == "colocated" and served else 0
    return _estimate(working, mode, host=asleep_copy, idle=0.0)


def _scorer(experiment: Experiment, sizes: Sizes, width: int, mode: Mode) -> Estimate:
    # The base model and, if each policy is a whole model, the current policy: on a shared GPU one at a time.
    served, shared = experiment.generation.refresh == "adapter", mode == "colocated"
    kept = 1 if served else 2
    models = 1 if shared else kept
    tokens = experiment.reward.tokens_per_batch
    slice_tokens = min(tokens, max(POSITIONS_STEP, LOGITS_PER_PASS // sizes.policy.vocabulary))
    working: dict[str, float] = {
        "weights": width * (models * sizes.policy.parameters + served * sizes.policy.adapter_parameters),
        "activations": width * tokens * FORWARD_WIDTH * sizes.policy.hidden
        + slice_tokens * ((width + 2 * FLOAT32) * sizes.policy.vocabulary),
    }
    if mode == "cpu" and sizes.policy.parameters >= precision.LARGE:
        asked = experiment.evaluation.neutral_prompts
        asked += len(experiment.groups.names) * experiment.evaluation.prompts_per_group
        of_one = width * experiment.task.max_prompt_tokens * sizes.policy.cached_per_token
        working["prompts kept"] = min(MOST_BYTES, asked * of_one)
        working["prompts read"] = COPIES * max(of_one, min(BATCH_BYTES, asked * of_one))
    if experiment.reward.terms.get("model"):
        scorer = sizes.reward or sizes.policy
        working["reward model"] = width * scorer.parameters
        working["activations"] += width * tokens * FORWARD_WIDTH * scorer.hidden
        if sizes.reward is None:
            # Weights, gradients and moments in float32, and the activations of one pass: at least a pair of texts.
            longest = experiment.task.max_prompt_tokens + experiment.generation.max_new_tokens + 1
            read = min(max(tokens, 2 * longest), 2 * PAIRS_PER_STEP * longest)
            per_token = sizes.policy.saved_of_all_weights().per_token(sizes.policy.layers, checkpointing=False)
            working["training it"] = (2 * FLOAT32 + ADAM_BYTES) * sizes.policy.parameters + read * per_token
    if not shared:
        return _estimate(working, mode, host=0, idle=sum(working.values()))
    # Its models wait in host memory while others use the GPU.
    return _estimate(
        working, mode, host=width * kept * sizes.policy.parameters + working.get("reward model", 0), idle=0.0
    )


def _worker(experiment: Experiment, size: ModelSize, width: int, mode: Mode) -> Estimate:
    training = experiment.training
    rounded = width < FLOAT32
    # DeepSpeed's stage 0 cannot sum gradients of rounded weights in float32; see deepspeed_settings.
    stage, workers = max(training.zero_stage, int(rounded)), training.workers
    trained = size.adapter_parameters or size.parameters
    states = trained * (ADAM_BYTES + (FLOAT32 if rounded or stage > 0 else 0)) / (workers if stage >= 1 else 1)
    # In 16 bits those of a micro-batch, and their sum in float32.
    gradients = trained * (width + (FLOAT32 if rounded else 0)) / (workers if stage >= 2 else 1)
    if stage >= 2 and mode != "cpu":
        gradients += FLOAT32 * REDUCED_AT_ONCE
    if stage >= 3:
        # Kept in one buffer, of which the step makes a copy (DeepSpeed's _prepare_fp32_grad_for_sub_group).
        gradients += trained * FLOAT32 / workers
    frozen = size.adapter_parameters + size.parameters if size.adapter_parameters else size.parameters
    tokens = training.tokens_per_micro_batch
    logits = tokens * size.vocabulary
    kept = size.saved_in(width).per_token(
        size.layers, checkpointing=training.checkpoints(size.parameters), in_parts=logits > LOGITS_PER_PASS
    )
    working = {
        "weights": width * frozen / (workers if stage >= 3 else 1),
        "gradients": gradients,
        "optimizer": states,
        # With the logits their probabilities in float32, and the gradients of both.
        "activations": tokens * kept + (width + 2 * FLOAT32) * min(logits, LOGITS_PER_PASS),
    }
    if stage >= 3 and workers > 1:
        # Before they are split the weights are whole on every GPU, where there is nothing else yet.
        alone = width * frozen - sum(working.values())
        working["gathered weights"] = max(width * min(frozen, GATHERED_WEIGHTS), alone)
    # A round's starting weights wait in host memory until the trained ones take their place.
    host = FLOAT32 * trained + max(_read(size, width, mode), _merged(experiment, size, width))
    idle = sum(working.values()) if training.worker_lifetime == "run" else 0.0
    return _estimate(working, mode, host=host, idle=idle)


def _read(size: ModelSize, width: int, mode: Mode) -> int:
    """Bytes of a model that is read into host memory on its way to a GPU."""
    return width * size.parameters if mode != "cpu" else 0


def _merged(experiment: Experiment, size: ModelSize, width: int) -> int:
    """Bytes in host memory of a model with which an adapter is merged at the end of a round."""
    if not size.adapter_parameters or experiment.generation.refresh == "adapter":
        return 0
    exact = experiment.training.zero_stage < 3 and (width == FLOAT32 or size.stored_in_bfloat16)
    # Weights that are not as on disk are read again in float32, and each is let go as its sum is rounded.
    return (width if exact else FLOAT32) * size.parameters


def _estimate(working_bytes: Mapping[str, float], mode: Mode, *, host: float, idle: float) -> Estimate:
    working = {name: count / GIB for name, count in working_bytes.items()}
    working["libraries"] = LIBRARIES_GIB
    if mode == "cpu":
        return Estimate(working, 0.0, host / GIB + sum(working.values()))
    return Estimate(working, idle / GIB + LIBRARIES_GIB, host / GIB + LIBRARIES_GIB)
