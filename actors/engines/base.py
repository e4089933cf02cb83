"""The face of the engines that write completions.

They take token ids and one seed per completion, and give token ids. On a CPU in float32 with one thread a completion
is a function of weights, prompt and seed alone, to the bit: not of what else is generated, when, or in which process.
"""

from __future__ import annotations

import abc
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from transformers import AutoConfig, PreTrainedConfig

from scpl_ray.config import Experiment
from scpl_ray.models.tokens import Ids, load_tokenizer, stop_ids
from scpl_ray.records import Weights

logger = logging.getLogger(__name__)

MAX_SEQUENCES = 256
"""Completions that an engine writes at the same time, at most."""
GPU_MEMORY_SHARE = 0.9
"""Part of a GPU's memory that an engine uses where nobody else does."""
PROBE_PROMPT_TOKENS, PROBE_NEW_TOKENS = 256, 8
GPU_TOLERANCE = 0.05
"""Nats; bfloat16 keeps 8 bits."""
PROBE_STRIDE = 7919
"""A prime: the probe prompt's ids wander over any vocabulary."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine must know before it sees a model."""

    max_prompt_tokens: int
    max_new_tokens: int
    temperature: float
    top_p: float
    adapter_rank: int | None
    """Largest LoRA rank that is served; ``None``: adapters are not served, merged weights are reloaded."""
    dtype: Literal["float32", "bfloat16"]
    gpus: float
    """GPUs, or a share of one; 0: on the CPU."""
    trust_remote_code: bool
    tensor_parallel: int = 1
    """GPUs that the model is split over."""
    memory_share: float = GPU_MEMORY_SHARE
    """Part of each GPU's memory that may be used."""
    sleeps: bool = False
    """Whether GPU memory is given back while others work."""

    @property
    def sleep_level(self) -> Literal[1, 2]:
        """What is kept while asleep.

        1: a copy of the weights in host memory, beside which an adapter is served; 2: nothing, because the whole model
        is read anew with every policy.
        """
        return 1 if self.adapter_rank else 2

    @property
    def tolerance(self) -> float:
        """Largest difference of log-probabilities (nats) between engines that agree; on a CPU they are equal."""
        return GPU_TOLERANCE if self.gpus else 0.0

    @classmethod
    def of(
        cls, experiment: Experiment, gpus: float, *, memory_share: float = GPU_MEMORY_SHARE, sleeps: bool = False
    ) -> EngineSettings:
        """The settings that an experiment asks for, in a process that has these GPUs."""
        model, generation = experiment.model, experiment.generation
        served = model.lora if generation.refresh == "adapter" else None
        return cls(
            max_prompt_tokens=experiment.task.max_prompt_tokens,
            max_new_tokens=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            adapter_rank=served.rank if served else None,
            dtype=("bfloat16" if gpus else "float32") if model.dtype == "auto" else model.dtype,
            gpus=gpus,
            trust_remote_code=model.trust_remote_code,
            tensor_parallel=generation.tensor_parallel,
            memory_share=memory_share,
            sleeps=sleeps,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One completion to write."""

    prompt_token_ids: Ids
    seed: int


@dataclasses.dataclass(frozen=True, slots=True)
class Sampled:
    """One completion."""

    token_ids: Ids
    finish_reason: str
    """``stop`` or ``length``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """What an engine says to the probe prompt: greedy tokens and their log-probabilities (nats)."""

    token_ids: Ids
    log_probabilities: tuple[float, ...]

    def agrees(self, other: Probe, tolerance: float) -> bool:
        """Whether two engines hold the same weights: equal log-probabilities up to the first different token.

        With a tolerance, tokens may part where two are equally probable; what follows cannot be compared.
        """
        for ours, theirs, a, b in zip(
            self.token_ids, other.token_ids, self.log_probabilities, other.log_probabilities, strict=True
        ):
            if abs(a - b) > tolerance:
                return False
            if ours != theirs:
                return tolerance > 0
        return True


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How much an engine holds at once, at most, besides weights: numbers that do not depend on the model."""

    cached_tokens: int
    """Tokens whose keys and values it must have room for."""
    read_tokens: int
    """Tokens that go through the model at the same time."""
    rows: int
    """Completions for which it holds logits at the same time."""
    cache_limit_bytes: int | None = None
    """Most memory that it takes for keys and values; ``None``: as much as the tokens need."""


class Engine(abc.ABC):
    """A model in memory that writes completions. The constructor only imports; the first :meth:`load` reads a model."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.weights: Weights | None = None
        self._asleep = False
        self._stop: Ids = ()
        self._probe_prompt: Ids = ()

    @classmethod
    @abc.abstractmethod
    def held(cls, positions: int, *, on_gpu: bool) -> Held:
        """How much an engine holds at once.

        Args:
            positions: longest sequence, in tokens.
            on_gpu: whether it runs on GPUs.
        """

    def check(self, weights: Weights) -> None:
        """Whether these weights can be served at all.

        Raises:
            ValueError: files are missing, or the model's context is too short.
        """
        adapter = self._served_adapter(weights)
        wanted = [(weights.model, "config.json"), (weights.model, "*.safetensors")]
        wanted += [(adapter, "adapter_config.json"), (adapter, "*.safetensors")] if adapter else []
        for folder, pattern in wanted:
            if not any(folder.glob(pattern)):
                raise ValueError(
                    f"weights of policy version {weights.policy_version}: {folder} holds no {pattern}; "
                    "give a folder written by save_pretrained as safetensors"
                )

    def load(self, weights: Weights) -> None:
        """Serve these weights from now on. Without an adapter to serve, the model is read from disk even if its
        path is the one already served.

        An engine that sleeps gets memory for weights first and for keys and values after they are read, so that never
        more is held than in the end.
        """
        logger.info("loading policy version %d from %s", weights.policy_version, weights)
        adapter = self._served_adapter(weights)
        config = self._prepare(weights.model)
        if self._asleep:
            self._wake_weights()
        if self.weights is None or self.weights.model != weights.model or adapter is None:
            self._read_model(weights.model, config)
        self._serve_adapter(adapter)
        if self._asleep:
            self._wake_cache()
            self._asleep = False
        self.weights = weights

    @property
    def asleep(self) -> bool:
        """Whether its GPU memory was given back; the next :meth:`load` takes it again."""
        return self._asleep

    def sleep(self) -> None:
        """Give GPU memory back until the next :meth:`load`.

        Nothing happens where ``settings.sleeps`` is false, as on a CPU, where no engine can sleep and training has host
        memory of its own; nor before the first load.
        """
        if self.settings.sleeps and self.weights is not None and not self._asleep:
            self._fall_asleep()
            self._asleep = True

    @abc.abstractmethod
    def generate(self, requests: Sequence[Request]) -> list[Sampled]:
        """One completion per request, in order."""

    @abc.abstractmethod
    def probe(self) -> Probe:
        """The probe prompt's greedy continuation.

        Raises:
            RuntimeError: it depends on what was computed with earlier weights.
        """

    @abc.abstractmethod
    def _fall_asleep(self) -> None:
        """Give GPU memory back; what is kept is ``settings.sleep_level``."""

    @abc.abstractmethod
    def _wake_weights(self) -> None:
        """Take memory for the weights again, which holds what ``settings.sleep_level`` kept."""

    @abc.abstractmethod
    def _wake_cache(self) -> None:
        """Take memory for keys and values again; the engine is awake then."""

    @abc.abstractmethod
    def _read_model(self, folder: Path, config: PreTrainedConfig) -> None:
        """Read a model from disk; nothing that was computed with earlier weights may be used any more."""

    @abc.abstractmethod
    def _serve_adapter(self, adapter: Path | None) -> None:
        """Put this adapter, or none, in place of the last one."""

    def _served_adapter(self, weights: Weights) -> Path | None:
        return weights.adapter if self.settings.adapter_rank else None

    @property
    def _positions(self) -> int:
        return self.settings.max_prompt_tokens + self.settings.max_new_tokens

    @property
    def _probe_tokens(self) -> int:
        return min(self.settings.max_new_tokens, PROBE_NEW_TOKENS)

    def _prepare(self, folder: Path) -> PreTrainedConfig:
        """What generation needs to know of a model besides its weights."""
        trust = self.settings.trust_remote_code
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust).get_text_config()
        if config.max_position_embeddings < self._positions:
            raise ValueError(
                f"task.max_prompt_tokens + generation.max_new_tokens = {self._positions}: the model in {folder} has "
                f"{config.max_position_embeddings} positions; lower one of the two"
            )
        self._stop = stop_ids(folder, load_tokenizer(folder, trust_remote_code=trust), trust_remote_code=trust)
        # As long as the longest prompt, so that whatever a cache can have kept of a prompt shows here.
        length = min(self.settings.max_prompt_tokens, PROBE_PROMPT_TOKENS)
        self._probe_prompt = tuple(PROBE_STRIDE * (i + 1) % config.vocab_size for i in range(length))
        return config


def values_per_token(config: PreTrainedConfig) -> int:
    """Numbers that a model keeps per token and sequence: keys and values of all layers and key-value heads."""
    values = config.to_dict()
    heads = int(values.get("num_key_value_heads") or config.num_attention_heads)
    head_width = int(values.get("head_dim") or config.hidden_size // config.num_attention_heads)
    return 2 * int(config.num_hidden_layers) * heads * head_width
