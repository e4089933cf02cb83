"""The interface of the engines that write completions.

They take token ids and one seed per completion, and return token ids. On a CPU in float32 with one thread a completion
depends bit for bit on weights, prompt and seed alone: not on what else is generated, when, or in which process. With
experts it also depends on what its call asks for beside it.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from transformers import AutoConfig, PreTrainedConfig

from actors.engines import gpu_memory
from actors.placement.role import GPU_MEMORY_SHARE
from scpl_ray.config import Experiment
from scpl_ray.models.limits import positions
from scpl_ray.models.sources import found_config
from scpl_ray.models.tokens import Ids, load_tokenizer, stop_ids
from scpl_ray.protocols import SAMPLING_BOUND
from scpl_ray.records import Weights

logger = logging.getLogger(__name__)

MAX_SEQUENCES = 256
"""``generation.max_sequences: auto`` where the engine does not know better: completions written at the same time."""
PROBE_PROMPT_TOKENS, PROBE_NEW_TOKENS = 256, 8
GPU_TOLERANCE = 0.05
"""Largest difference of log-probabilities on a GPU, in nats; bfloat16 has a precision of only 8 bits."""
FLOAT32_SAMPLING_BOUND = 1e-3
"""Largest mean difference between an engine's log-probabilities and a scorer's in float32 on a CPU, in nats per token:
they add in another order."""
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""What configs of different architectures call the number of a layer's experts among which tokens choose."""
PROBE_STRIDE = 7919
"""A prime, so that the probe prompt's ids spread over a vocabulary of any size."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine must know before it sees a model."""

    max_prompt_tokens: int
    max_new_tokens: int
    temperature: float
    top_p: float
    adapter_rank: int | None
    """Largest LoRA rank that is served; ``None``: no adapters are served, and merged weights are reloaded."""
    dtype: Literal["float32", "bfloat16"]
    gpus: float
    """Number of GPUs, or a share of one; 0: the engine runs on the CPU."""
    trust_remote_code: bool
    tensor_parallel: int = 1
    """Number of GPUs that the model is split over."""
    memory_share: float = GPU_MEMORY_SHARE
    """Part of each GPU's memory that may be used."""
    sleeps: bool = False
    """Whether the engine gives GPU memory back while other processes work."""
    max_sequences: int | None = None
    """Most completions written at the same time; ``None``: as many as suits the engine and its device."""
    experts: bool = False
    """Whether the model has experts, each of which reads as many tokens at a time as happen to choose it."""

    @property
    def sleep_level(self) -> Literal[1, 2]:
        """What the engine keeps while it is asleep.

        1: a copy of the weights in host memory, because only the adapter changes; 2: nothing, because the whole model
        is read again for every policy.
        """
        return 1 if self.adapter_rank else 2

    @property
    def tolerance(self) -> float:
        """Largest difference of log-probabilities (nats) between engines that agree; on a CPU they are equal."""
        return GPU_TOLERANCE if self.gpus else 0.0

    @property
    def exact(self) -> bool:
        """Whether a completion depends on weights, prompt and seed alone, to the bit, whatever is written beside it."""
        return self._float32_on_cpu and not self.experts

    @property
    def together(self) -> bool:
        """Whether several calls are written beside each other: where that changes nothing, and on GPUs, whose kernels
        do not repeat a result to the bit anyway."""
        return bool(self.gpus) or self.exact

    @property
    def sampling_bound(self) -> float:
        """See :attr:`scpl_ray.protocols.Engines.sampling_bound`."""
        return FLOAT32_SAMPLING_BOUND if self._float32_on_cpu else SAMPLING_BOUND

    @property
    def _float32_on_cpu(self) -> bool:
        return not self.gpus and self.dtype == "float32"

    @classmethod
    def of(
        cls, experiment: Experiment, gpus: float, *, memory_share: float = GPU_MEMORY_SHARE, sleeps: bool = False
    ) -> EngineSettings:
        """The settings that an experiment asks for, in a process that has these GPUs.

        Raises:
            ValueError: ``model.dtype`` is still ``auto`` where it depends on the model's size, or the model's config
                cannot be read.
        """
        model, generation = experiment.model, experiment.generation
        served = model.lora if generation.refresh == "adapter" else None
        dtype = model.dtype
        if dtype == "auto":
            if not gpus and not model.built_here:
                raise ValueError("model.dtype: auto depends on the model; see scpl_ray.models.precision.decided")
            dtype = "bfloat16" if gpus else "float32"
        config = None if model.built_here else found_config(experiment)
        return cls(
            max_prompt_tokens=experiment.task.max_prompt_tokens,
            max_new_tokens=generation.max_new_tokens,
            temperature=generation.temperature,
            top_p=generation.top_p,
            adapter_rank=served.rank if served else None,
            dtype=dtype,
            gpus=gpus,
            trust_remote_code=model.trust_remote_code,
            tensor_parallel=generation.tensor_parallel,
            memory_share=memory_share,
            sleeps=sleeps,
            max_sequences=None if generation.max_sequences == "auto" else generation.max_sequences,
            experts=config is not None and has_experts(config.get_text_config()),
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
    log_probability: float | None = None
    """Sum of the tokens' log-probabilities before temperature and nucleus, in nats; ``None``: the engine does not
    say."""


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """An engine's answer to the probe prompt: greedy tokens and their log-probabilities (nats)."""

    token_ids: Ids
    log_probabilities: tuple[float, ...]

    def agrees(self, other: Probe, tolerance: float) -> bool:
        """Whether two engines hold the same weights: equal log-probabilities up to the first different token.

        With a tolerance, tokens may differ where two are about equally probable; what follows cannot be compared.
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
    """The most that an engine holds at once besides weights, in numbers that do not depend on the model."""

    cached_tokens: int
    """Number of tokens for whose keys and values it must have room."""
    read_tokens: int
    """Number of tokens that go through the model at the same time."""
    rows: int
    """Number of completions for which it holds logits at the same time."""
    cache_limit_bytes: int | None = None
    """Most memory that it takes for keys and values; ``None``: as much as the tokens need."""


class Engine(abc.ABC):
    """A model in memory that writes completions. The constructor only imports; :meth:`load` reads the model."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.weights: Weights | None = None
        self._asleep = False
        self.gave_back = 0
        """Bytes of GPU memory that it gave back when it last fell asleep."""
        self._stop: Ids = ()
        self._probe_prompt: Ids = ()
        self._numbers = itertools.count()
        self._added: dict[int, Request] = {}

    @classmethod
    @abc.abstractmethod
    def held(cls, positions: int, *, on_gpu: bool) -> Held:
        """How much an engine holds at once.

        Args:
            positions: longest sequence, in tokens.
            on_gpu: whether it runs on GPUs.
        """

    @classmethod
    def refuses(cls, config: PreTrainedConfig, experiment: Experiment, *, on_gpu: bool) -> str | None:
        """Why this engine cannot serve a model for an experiment, as ``key = value: rule and way out``.

        Args:
            config: the config of the model's text part.
            experiment: the settings.
            on_gpu: whether the engine is to run on GPUs.

        Returns:
            The reason; ``None``: nothing is known that speaks against it.
        """
        return None

    def check(self, weights: Weights) -> None:
        """Check that these weights can be served.

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

        An engine that is asleep waits until what it gave back is free. It takes memory for weights first, and for keys
        and values only once the weights are read, so that it never holds more than it does afterwards.

        Raises:
            RuntimeError: others still hold the GPU's memory.
        """
        logger.info("loading policy version %d from %s", weights.policy_version, weights)
        adapter = self._served_adapter(weights)
        config = self._prepare(weights.model)
        if self._asleep:
            gpu_memory.wait_until_free(self.gave_back, self._free_bytes)
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
        """Whether the engine has given its GPU memory back; the next :meth:`load` takes it again."""
        return self._asleep

    def sleep(self) -> None:
        """Give GPU memory back until the next :meth:`load`.

        Nothing happens before the first load, or if ``settings.sleeps`` is false. It is false on a CPU, where no engine
        can sleep and training has its own host memory.
        """
        if self.settings.sleeps and self.weights is not None and not self._asleep:
            before = self._free_bytes()
            self._fall_asleep()
            self._asleep = True
            after = self._free_bytes()
            self.gave_back = max(0, (after or 0) - (before or 0))
            logger.info("asleep: %.2f GiB given back", self.gave_back / gpu_memory.GIB)

    def _free_bytes(self) -> int | None:
        """Free memory of the engine's GPU, in bytes; ``None`` without one."""
        return gpu_memory.free_bytes()

    @abc.abstractmethod
    def generate(self, requests: Sequence[Request]) -> list[Sampled]:
        """One completion per request, in order, while nothing else is being written."""

    def add(self, request: Request) -> int:
        """Take a request for the next :meth:`step`, and return its number, which no other request has."""
        number = next(self._numbers)
        self._added[number] = request
        return number

    def step(self) -> list[tuple[int, Sampled]]:
        """Work for a while on the requests that were added and are not finished; at least one must be.

        An engine that can take requests while it writes others does one pass of its model. This one, which knows
        :meth:`generate` only, writes all of them.

        Returns:
            Number and completion of the requests that are finished now, each once; there may be none.
        """
        added, self._added = self._added, {}
        return list(zip(added, self.generate(list(added.values())), strict=True))

    def forget(self) -> None:  # noqa: B027  an engine that keeps nothing has nothing to forget
        """Forget what earlier requests left behind, such as a prefix cache; nothing is being written."""

    @property
    def max_sequences(self) -> int:
        """Most completions that are written at the same time, once weights are loaded."""
        return self.settings.max_sequences or MAX_SEQUENCES

    @abc.abstractmethod
    def probe(self) -> Probe:
        """The probe prompt's greedy continuation.

        Raises:
            RuntimeError: the answer depends on something that was computed with earlier weights.
        """

    @abc.abstractmethod
    def _fall_asleep(self) -> None:
        """Give GPU memory back; ``settings.sleep_level`` says what is kept."""

    @abc.abstractmethod
    def _wake_weights(self) -> None:
        """Take memory for the weights again, and restore what ``settings.sleep_level`` kept."""

    @abc.abstractmethod
    def _wake_cache(self) -> None:
        """Take memory for keys and values again, after which the engine is awake."""

    @abc.abstractmethod
    def _read_model(self, folder: Path, config: PreTrainedConfig) -> None:
        """Read a model from disk; nothing that was computed with earlier weights may be used any more."""

    @abc.abstractmethod
    def _serve_adapter(self, adapter: Path | None) -> None:
        """Replace the last adapter by this one, or by none."""

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
        known = positions(config)
        if known is None or known < self._positions:
            raise ValueError(
                f"task.max_prompt_tokens + generation.max_new_tokens = {self._positions}: the model in {folder} has "
                f"{known or 'an unknown number of'} positions; lower one of the two"
            )
        self._stop = stop_ids(folder, load_tokenizer(folder, trust_remote_code=trust), trust_remote_code=trust)
        # As long as the longest prompt, up to a limit, so that stale entries of a prefix cache change the answer.
        length = min(self.settings.max_prompt_tokens, PROBE_PROMPT_TOKENS)
        self._probe_prompt = tuple(PROBE_STRIDE * (i + 1) % config.vocab_size for i in range(length))
        return config


def values_per_token(config: PreTrainedConfig) -> int:
    """How many numbers a model keeps per token of a sequence: keys and values of all layers and key-value heads."""
    return 2 * int(config.num_hidden_layers) * key_value_heads(config) * head_width(config)


def has_experts(config: PreTrainedConfig) -> bool:
    """Whether a model has layers of several experts among which every token chooses."""
    values = config.to_dict()
    counts = (values.get(name) or 0 for name in EXPERTS)
    # some name one count for every layer
    return any((max(count) if isinstance(count, list) else count) > 1 for count in counts)


def key_value_heads(config: PreTrainedConfig) -> int:
    """Number of key-value heads of an attention layer of a model."""
    return int(config.to_dict().get("num_key_value_heads") or config.num_attention_heads)


def head_width(config: PreTrainedConfig) -> int:
    """Dimensions of an attention head of a model."""
    return int(config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads)
