"""vLLM inside the calling process, without a server; it has child processes only if a model is split over GPUs."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from actors.engines import gpu_memory
from actors.engines.base import (
    MAX_SEQUENCES,
    Engine,
    EngineSettings,
    Held,
    Probe,
    Request,
    Sampled,
    has_experts,
    head_width,
    values_per_token,
)
from scpl_ray.config import Experiment

logger = logging.getLogger(__name__)

CPU_KV_CACHE_BYTES = 2**30
"""On a CPU: most memory for keys and values; sequences that do not fit wait for their turn."""
CPU_BLOCK_TOKENS = {torch.float32: 128, torch.bfloat16: 32}
"""On a CPU: tokens per block of keys and values. Completions of one prompt share its whole blocks, so that small ones
spare prompts that would be read once per completion; in float32, where calls are written beside each other, what is
shared depends on when they come, and a result must not."""
GPU_SEQUENCES = 1024
"""Most sequences that vLLM writes at the same time on a GPU if it is not told otherwise: 1,024 from 70 GiB on (256 on
an A100), else 256 (``EngineArgs.get_batch_defaults``). Memory is counted for 1,024 everywhere."""
PREFILL_TOKENS = 8192
"""Prompt tokens that vLLM reads at a time."""
CPU_HEAD_WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""On a CPU: the head sizes that vLLM's attention serves (``CPUAttentionBackend.get_supported_head_sizes``)."""
ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM allows for the largest LoRA rank."""
WITHOUT_ADAPTERS = frozenset(
    (
        *("bloom", "cohere2_moe", "dbrx", "falcon", "falcon_mamba", "gemma3n_text", "gpt-sw3", "gpt2", "gptj"),
        *("hrm_text", "kimi_linear", "mamba", "mamba2", "mimo_v2_flash", "stablelm", "zamba2"),
    )
)
"""Values of ``model_type`` whose class in vLLM has no ``SupportsLoRA``; to ask the classes, vLLM would be imported."""


class VllmEngine(Engine):
    """vLLM: continuous batching, paged keys and values, and prefixes shared by the completions of one prompt.

    Raises:
        ImportError: vLLM is not installed.
    """

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        import vllm
        from vllm.inputs import tokens_input
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        self._vllm = vllm
        self._tokens_input = tokens_input
        self._final_only = RequestOutputKind.FINAL_ONLY
        self._lora_request = LoRARequest
        self._llm: Any = None
        self._adapter: Any = None
        self._adapters_served = 0
        self._probes = 0

    @classmethod
    def held(cls, positions: int, *, on_gpu: bool) -> Held:
        """Room for ``MAX_SEQUENCES`` sequences on a CPU, up to a limit.

        On a GPU it needs room for one sequence; with further room it writes several at the same time.
        """
        if on_gpu:
            return Held(cached_tokens=positions, read_tokens=PREFILL_TOKENS, rows=GPU_SEQUENCES)
        return Held(
            cached_tokens=MAX_SEQUENCES * positions,
            read_tokens=PREFILL_TOKENS,
            rows=MAX_SEQUENCES,
            cache_limit_bytes=CPU_KV_CACHE_BYTES,
        )

    @classmethod
    def refuses(cls, config: PreTrainedConfig, experiment: Experiment, *, on_gpu: bool) -> str | None:
        """Adapters of too high a rank or of a model without them; on a CPU also other head sizes, experts, which a
        reload leaves wrong there, and sequences that do not fit its memory. Where ``model.dtype`` is undecided, the
        smaller one counts: the start refuses exactly."""
        model = experiment.model
        try:
            if model.lora is not None and experiment.generation.refresh == "adapter":
                adapter_rank(model.lora.rank)
                if config.model_type in WITHOUT_ADAPTERS:
                    return (
                        f"generation.refresh = 'adapter': vLLM serves no adapters of {config.model_type} models; set "
                        "generation.refresh=reload"
                    )
            if not on_gpu:
                positions = experiment.task.max_prompt_tokens + experiment.generation.max_new_tokens
                kv_cache_bytes(config, positions, torch.float32 if model.dtype == "float32" else torch.bfloat16)
        except ValueError as error:
            return str(error)
        if not on_gpu and has_experts(config):
            return (
                f"generation.engine = 'vllm': {config.model_type} models have experts, which vLLM on a CPU neither "
                "reloads nor serves with adapters; set generation.engine=transformers"
            )
        width = head_width(config)
        if not on_gpu and width not in CPU_HEAD_WIDTHS:
            return (
                f"generation.engine = 'vllm': the model has heads of {width} dimensions, and on a CPU vLLM serves "
                f"{', '.join(map(str, CPU_HEAD_WIDTHS))}; set generation.engine=transformers"
            )
        return None

    def generate(self, requests: Sequence[Request]) -> list[Sampled]:
        """One completion per request, in order, while nothing else is being written."""
        numbers = [self.add(request) for request in requests]
        sampled: dict[int, Sampled] = {}
        while len(sampled) < len(numbers):
            sampled |= self.step()
        return [sampled[number] for number in numbers]

    def add(self, request: Request) -> int:
        """Give vLLM a request, which it begins as soon as there is room for it."""
        settings = self.settings
        number = next(self._numbers)
        sampling = self._vllm.SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=settings.max_new_tokens,
            seed=request.seed,
            stop_token_ids=list(self._stop),
            # That of the sampled token alone.
            logprobs=0,
            detokenize=False,
            output_kind=self._final_only,
            # Made for this request alone. vLLM's deep copy took a tenth of a tiny model's generation.
            skip_clone=True,
        )
        prompt = self._tokens_input(list(request.prompt_token_ids))
        self._llm.llm_engine.add_request(str(number), prompt, sampling, lora_request=self._adapter)
        return number

    def step(self) -> list[tuple[int, Sampled]]:
        """One pass of the model over everything that has room."""
        finished = []
        for output in self._llm.llm_engine.step():
            (one,) = output.outputs
            sampled = Sampled(tuple(one.token_ids), one.finish_reason, one.cumulative_logprob)
            finished.append((int(output.request_id), sampled))
        return finished

    def forget(self) -> None:
        """Empty the prefix cache."""
        self._reset_prefix_cache()

    @property
    def max_sequences(self) -> int:
        """As many as vLLM was started with; on GPUs keys and values may hold fewer, and the others wait in vLLM."""
        return int(self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs)

    def probe(self) -> Probe:
        """The probe prompt's greedy continuation, written twice: with the prefix cache and without it."""
        prompt = {"prompt_token_ids": list(self._probe_prompt)}
        greedy = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=self._probe_tokens, ignore_eos=True, logprobs=0, detokenize=False
        )
        tolerance = self.settings.tolerance
        for _ in range(2 if tolerance else 1):
            cached, fresh = self._probed(prompt, greedy)
            if cached.agrees(fresh, tolerance):
                return cached
        stale = f"the prefix cache is stale: the probe prompt gives {cached} with it and {fresh} without it"
        if not tolerance:
            raise RuntimeError(stale)
        # vLLM said that it emptied the cache, and its kernels for adapters differ from themselves on a GPU.
        logger.warning("asked twice, it seems that %s", stale)
        return cached

    def _probed(self, prompt: dict[str, Any], greedy: Any) -> tuple[Probe, Probe]:
        """The answer with what the prefix cache holds, and without it."""
        self._probes += 1
        answers = []
        # With a salt that was never used before, nothing is found in the cache.
        for asked in (prompt, {**prompt, "cache_salt": f"probe {self._probes}"}):
            (found,) = self._llm.generate([asked], [greedy], use_tqdm=False, lora_request=self._adapter)
            (output,) = found.outputs
            logprobs = tuple(float(step[t].logprob) for t, step in zip(output.token_ids, output.logprobs, strict=True))
            answers.append(Probe(tuple(output.token_ids), logprobs))
        return answers[0], answers[1]

    def _free_bytes(self) -> int | None:
        """Free memory of the GPU that has least; a model that is split over GPUs is in processes of its own."""
        if self._llm is None or self.settings.tensor_parallel == 1:
            return super()._free_bytes()
        found: list[int | None] = self._llm.collective_rpc(free_in_worker)
        return min((free for free in found if free is not None), default=None)

    def _fall_asleep(self) -> None:
        self._llm.sleep(level=self.settings.sleep_level)

    def _wake_weights(self) -> None:
        self._llm.wake_up(tags=["weights"])

    def _wake_cache(self) -> None:
        if not self._llm.wake_up(tags=["kv_cache"]):
            raise RuntimeError("vLLM is still asleep after its weights and its keys and values were woken")

    def _read_model(self, folder: Path, config: PreTrainedConfig) -> None:
        if self._llm is None:
            self._llm = self._start(folder, config)
        else:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            self._llm.apply_model(pack_embeddings)
        self._reset_prefix_cache()

    def _serve_adapter(self, adapter: Path | None) -> None:
        if self._adapter is not None:
            self._llm.llm_engine.remove_lora(self._adapter.lora_int_id)
            self._adapter = None
        if adapter is not None:
            # vLLM continues to serve the old weights of an id that it knows, so every adapter gets a new id.
            self._adapters_served += 1
            number = self._adapters_served
            self._adapter = self._lora_request(f"adapter-{number}", number, str(adapter))
            if not self._llm.llm_engine.add_lora(self._adapter):
                raise RuntimeError(f"vLLM refused the adapter {adapter}")
        self._reset_prefix_cache()

    def _reset_prefix_cache(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache: requests are still running")

    def _start(self, folder: Path, config: PreTrainedConfig) -> Any:
        settings = self.settings
        options: dict[str, Any] = {"max_num_seqs": settings.max_sequences}
        if settings.adapter_rank is not None:
            options |= {"enable_lora": True, "max_lora_rank": adapter_rank(settings.adapter_rank), "max_loras": 1}
        if settings.tensor_parallel > 1:
            # By default vLLM would start Ray actors of its own inside a placement group, and wait for resources there.
            options |= {"tensor_parallel_size": settings.tensor_parallel, "distributed_executor_backend": "mp"}
        if settings.gpus:
            # How many sequences suit a GPU vLLM knows itself. Prompts may be read in pieces: a draw for a piece that
            # does not end its prompt leaves no trace, because the runner for GPUs draws by (seed, position), and the
            # one for features that it lacks sets the generators of such rows back (gpu_model_runner._bookkeeping_sync).
            options |= {
                "gpu_memory_utilization": settings.memory_share,
                "enable_sleep_mode": settings.sleeps,
                "max_num_batched_tokens": PREFILL_TOKENS,
            }
        else:
            sequences = settings.max_sequences or MAX_SEQUENCES
            dtype = getattr(torch, settings.dtype)
            _skip_ranks()
            _look_here(config.architectures or ())
            options |= {
                "enforce_eager": True,
                "block_size": CPU_BLOCK_TOKENS[dtype],
                "kv_cache_memory_bytes": kv_cache_bytes(config, self._positions, dtype, sequences),
                "max_num_seqs": sequences,
                # Generators on a CPU cannot be set back, so a prompt that is read in pieces would draw once per piece.
                "enable_chunked_prefill": False,
            }
        # vLLM searches all objects for garbage five times while it starts: two seconds for what was imported and stays.
        gc.freeze()
        return self._vllm.LLM(
            model=str(folder),
            dtype=settings.dtype,
            load_format="safetensors",
            skip_tokenizer_init=True,
            generation_config="vllm",
            trust_remote_code=settings.trust_remote_code,
            max_model_len=self._positions,
            disable_log_stats=True,
            # Log-probabilities under the policy itself, before temperature and nucleus.
            logprobs_mode="raw_logprobs",
            seed=0,
            **options,
        )


def adapter_rank(rank: int) -> int:
    """The smallest value for vLLM's largest LoRA rank with which it serves adapters of this rank.

    Raises:
        ValueError: there is none.
    """
    for largest in ADAPTER_RANKS:
        if largest >= rank:
            return largest
    raise ValueError(
        f"model.lora.rank = {rank}: vLLM serves ranks up to {ADAPTER_RANKS[-1]}; lower it or set "
        "generation.refresh=reload"
    )


def free_in_worker(worker: Any) -> int | None:
    """Free memory of the GPU of a process of vLLM, which runs this, in bytes; ``None`` without one."""
    return gpu_memory.free_bytes()


def pack_embeddings(model: torch.nn.Module) -> None:
    """Pack embeddings for their kernels, as vLLM does after a first load.

    On a CPU vLLM computes logits from a packed copy of the output embedding, which a reload renews only if the
    checkpoint holds that tensor. Without this function, a model with tied embeddings would keep its old output layer.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):
            module.quant_method.process_weights_after_loading(module)


def _look_here(architectures: Sequence[str]) -> None:
    """Let vLLM look at the model's class in this process.

    It would begin another one for that, which imports everything again (18 s on two cores, once per machine), so as not
    to touch CUDA, which is not there.
    """
    from vllm import ModelRegistry

    for name in architectures:
        if name in ModelRegistry.models:
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


def _skip_ranks() -> None:
    """Do without each sampled token's rank in the vocabulary, which vLLM counts wherever log-probabilities are asked.

    Nothing here reads ranks. Without a compiler they cost twice as much as the log-probabilities themselves: with a
    vocabulary of 49,152 they take 90 ms of one core for 256 tokens.
    """
    from vllm.v1.sample import sampler

    def unknown(logprobs: torch.Tensor, of_sampled: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(logprobs), dtype=torch.long)

    sampler.batched_count_greater_than = unknown


def kv_cache_bytes(config: PreTrainedConfig, positions: int, dtype: torch.dtype, sequences: int = MAX_SEQUENCES) -> int:
    """Bytes for keys and values of full sequences on a CPU, at most ``CPU_KV_CACHE_BYTES``.

    Args:
        config: config of the model.
        positions: longest sequence, in tokens.
        dtype: data type of keys and values.
        sequences: number of sequences.

    Raises:
        ValueError: not even one sequence fits.
    """
    tokens = CPU_BLOCK_TOKENS[dtype]
    block = values_per_token(config) * dtype.itemsize * tokens
    blocks_per_sequence = -(-positions // tokens)
    # One block beyond those of the sequences stays unused: it is vLLM's null block.
    if block * (blocks_per_sequence + 1) > CPU_KV_CACHE_BYTES:
        raise ValueError(
            f"task.max_prompt_tokens + generation.max_new_tokens = {positions}: keys and values of one sequence need "
            f"{block * (blocks_per_sequence + 1)} bytes and an engine on a CPU has {CPU_KV_CACHE_BYTES}; lower one of "
            "the two"
        )
    return min(CPU_KV_CACHE_BYTES, block * (blocks_per_sequence * sequences + 1))
