"""vLLM inside the calling process, without a server; it has child processes only if a model is split over GPUs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from actors.engines.base import (
    MAX_SEQUENCES,
    Engine,
    EngineSettings,
    Held,
    Probe,
    Request,
    Sampled,
    head_width,
    values_per_token,
)
from scpl_ray.config import Experiment

logger = logging.getLogger(__name__)

CPU_KV_CACHE_BYTES = 2**30
"""On a CPU: most memory for keys and values; sequences that do not fit wait for their turn."""
CPU_BLOCK_TOKENS = 128
"""On a CPU: tokens per block of keys and values."""
PREFILL_TOKENS = 8192
"""Prompt tokens that vLLM reads at a time."""
CPU_HEAD_WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""On a CPU: the head sizes that vLLM's attention serves (``CPUAttentionBackend.get_supported_head_sizes``)."""
ADAPTER_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM allows for the largest LoRA rank."""


class VllmEngine(Engine):
    """vLLM: continuous batching, paged keys and values, and prefixes shared by the completions of one prompt.

    Raises:
        ImportError: vLLM is not installed.
    """

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        import vllm
        from vllm.lora.request import LoRARequest

        self._vllm = vllm
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
            return Held(cached_tokens=positions, read_tokens=PREFILL_TOKENS, rows=MAX_SEQUENCES)
        return Held(
            cached_tokens=MAX_SEQUENCES * positions,
            read_tokens=PREFILL_TOKENS,
            rows=MAX_SEQUENCES,
            cache_limit_bytes=CPU_KV_CACHE_BYTES,
        )

    @classmethod
    def refuses(cls, config: PreTrainedConfig, experiment: Experiment, *, on_gpu: bool) -> str | None:
        """Adapters of too high a rank; on a CPU also other head sizes and sequences that do not fit its memory."""
        lora = experiment.model.lora
        try:
            if lora is not None and experiment.generation.refresh == "adapter":
                adapter_rank(lora.rank)
            if not on_gpu:
                positions = experiment.task.max_prompt_tokens + experiment.generation.max_new_tokens
                kv_cache_bytes(config, positions, torch.float32)
        except ValueError as error:
            return str(error)
        width = head_width(config)
        if not on_gpu and width not in CPU_HEAD_WIDTHS:
            return (
                f"generation.engine = 'vllm': the model has heads of {width} dimensions, and on a CPU vLLM serves "
                f"{', '.join(map(str, CPU_HEAD_WIDTHS))}; set generation.engine=transformers"
            )
        return None

    def generate(self, requests: Sequence[Request]) -> list[Sampled]:
        """One completion per request, in order."""
        settings = self.settings
        sampling = [
            self._vllm.SamplingParams(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_new_tokens,
                seed=request.seed,
                stop_token_ids=list(self._stop),
                # That of the sampled token alone.
                logprobs=0,
                detokenize=False,
            )
            for request in requests
        ]
        outputs = self._run([{"prompt_token_ids": list(r.prompt_token_ids)} for r in requests], sampling)
        return [Sampled(tuple(one.token_ids), one.finish_reason, one.cumulative_logprob) for one in outputs]

    def probe(self) -> Probe:
        """The probe prompt's greedy continuation, written twice: with the prefix cache and without it."""
        prompt = {"prompt_token_ids": list(self._probe_prompt)}
        greedy = self._vllm.SamplingParams(
            temperature=0.0, max_tokens=self._probe_tokens, ignore_eos=True, logprobs=0, detokenize=False
        )
        self._probes += 1
        answers = []
        # With a salt that was never used before, nothing is found in the cache.
        for asked in (prompt, {**prompt, "cache_salt": f"probe {self._probes}"}):
            (output,) = self._run([asked], [greedy])
            logprobs = tuple(float(step[t].logprob) for t, step in zip(output.token_ids, output.logprobs, strict=True))
            answers.append(Probe(tuple(output.token_ids), logprobs))
        cached, fresh = answers
        if not cached.agrees(fresh, self.settings.tolerance):
            raise RuntimeError(
                f"the prefix cache is stale: the probe prompt gives {cached} with it and {fresh} without it"
            )
        return cached

    def _run(self, prompts: list[dict[str, Any]], sampling: list[Any]) -> list[Any]:
        outputs = self._llm.generate(prompts, sampling, use_tqdm=False, lora_request=self._adapter)
        return [output.outputs[0] for output in outputs]

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
        options: dict[str, Any] = {}
        if settings.adapter_rank is not None:
            options |= {"enable_lora": True, "max_lora_rank": adapter_rank(settings.adapter_rank), "max_loras": 1}
        if settings.tensor_parallel > 1:
            # By default vLLM would start Ray actors of its own inside a placement group, and wait for resources there.
            options |= {"tensor_parallel_size": settings.tensor_parallel, "distributed_executor_backend": "mp"}
        if settings.gpus:
            options |= {"gpu_memory_utilization": settings.memory_share, "enable_sleep_mode": settings.sleeps}
        else:
            options |= {
                "enforce_eager": True,
                "kv_cache_memory_bytes": kv_cache_bytes(config, self._positions, getattr(torch, settings.dtype)),
            }
        return self._vllm.LLM(
            model=str(folder),
            dtype=settings.dtype,
            load_format="safetensors",
            skip_tokenizer_init=True,
            generation_config="vllm",
            trust_remote_code=settings.trust_remote_code,
            max_model_len=self._positions,
            max_num_seqs=MAX_SEQUENCES,
            # A prompt that is read in pieces would draw from its seeded generator once per piece.
            enable_chunked_prefill=False,
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


def pack_embeddings(model: torch.nn.Module) -> None:
    """Pack embeddings for their kernels, as vLLM does after a first load.

    On a CPU vLLM computes logits from a packed copy of the output embedding, which a reload renews only if the
    checkpoint holds that tensor. Without this function, a model with tied embeddings would keep its old output layer.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):
            module.quant_method.process_weights_after_loading(module)


def kv_cache_bytes(config: PreTrainedConfig, positions: int, dtype: torch.dtype) -> int:
    """Bytes for keys and values of ``MAX_SEQUENCES`` full sequences on a CPU, at most ``CPU_KV_CACHE_BYTES``.

    Args:
        config: config of the model.
        positions: longest sequence, in tokens.
        dtype: data type of keys and values.

    Raises:
        ValueError: not even one sequence fits.
    """
    block = values_per_token(config) * dtype.itemsize * CPU_BLOCK_TOKENS
    blocks_per_sequence = -(-positions // CPU_BLOCK_TOKENS)
    # One block beyond those of the sequences stays unused: it is vLLM's null block.
    if block * (blocks_per_sequence + 1) > CPU_KV_CACHE_BYTES:
        raise ValueError(
            f"task.max_prompt_tokens + generation.max_new_tokens = {positions}: keys and values of one sequence need "
            f"{block * (blocks_per_sequence + 1)} bytes and an engine on a CPU has {CPU_KV_CACHE_BYTES}; lower one of "
            "the two"
        )
    return min(CPU_KV_CACHE_BYTES, block * (blocks_per_sequence * MAX_SEQUENCES + 1))
