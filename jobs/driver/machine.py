"""This machine: its kind in words, and its peaks, measured in less than a second."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from actors.engines.base import head_width, values_per_token
from actors.placement import limits
from actors.placement.cluster import local_cluster
from actors.placement.memory import with_format
from jobs.driver.ray_session import ADDRESS
from scpl_ray.config import Experiment
from scpl_ray.models.adapters import add_adapter
from scpl_ray.report.roofline import Machine, Model
from scpl_ray.report.seconds import PEAKS, SIZE

CPU_FACTS = Path("/proc/cpuinfo")
WIDTH = 1024
"""Width of the square matrices that are multiplied."""
READ_BYTES = 2**28
"""Bytes that are summed, more than caches hold."""
BUDGET_S = 0.3
"""Seconds for each of the two measurements, of which the fastest repetition counts."""


def kind(facts: Path = CPU_FACTS) -> str:
    """The processor, its cores and its vector units in words: ``AMD EPYC, 2 cores, AVX2, no bfloat16 units``.

    Args:
        facts: what Linux says of the processor.
    """
    said = facts.read_text() if facts.exists() else ""
    known = {name.strip(): value.strip() for line in said.splitlines() for name, _, value in [line.partition(":")]}
    flags = set(known.get("flags", known.get("Features", "")).split())
    vectors = next((word for flag, word in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), None)
    native = flags & {"avx512_bf16", "amx_bf16", "bf16"}
    parts = [known.get("model name") or platform.machine(), f"{limits.cpus()} cores", vectors]
    parts.append("bfloat16 units" if native else "no bfloat16 units")
    return ", ".join(part for part in parts if part)


def measured(experiment: Experiment) -> Machine | None:
    """The peaks of this machine with all its cores, for the number format of a run.

    Returns:
        The peaks; ``None`` where the run's models do not work on this machine's CPU alone: on GPUs
        ``python -m jobs.benchmark gpu`` measures them.
    """
    if os.environ.get(ADDRESS) or local_cluster().gpus:
        return None
    dtype = _format(experiment)
    with _all_cores():
        left, right = torch.randn(2, WIDTH, WIDTH).to(dtype)
        product_s = _fastest(lambda: left @ right)
        numbers = torch.ones(READ_BYTES // 4)
        read_s = _fastest(numbers.sum)
    return Machine(kind(), 2 * WIDTH**3 / product_s, READ_BYTES / read_s)


def size(folder: Path, experiment: Experiment) -> Model:
    """The size of a model in a folder, and of the adapter that is trained on it; no weights are read.

    Args:
        folder: the base model.
        experiment: says whether an adapter is trained, and in which number format models work.
    """
    trust = experiment.model.trust_remote_code
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
    text = config.get_text_config()
    adapter = 0
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
        head = model.get_output_embeddings()
        dense = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
        body = sum(module.weight.numel() for module in dense)
        if experiment.model.lora is not None:
            adapted = add_adapter(model, experiment.model.lora)
            adapter = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    return Model(
        body=body,
        head=int(text.hidden_size) * int(text.vocab_size),
        adapter=adapter,
        layers=int(text.num_hidden_layers),
        attention_width=int(text.num_attention_heads) * head_width(text),
        cached_per_token=values_per_token(text),
        bytes_per_number=_format(experiment).itemsize,
    )


def facts(machine: Machine | None, base: Path, experiment: Experiment) -> dict[str, Any]:
    """What a run notes of its machine and its model, for the limits of its phases; empty without a measurement."""
    if machine is None:
        return {}
    return {PEAKS: dataclasses.asdict(machine), SIZE: dataclasses.asdict(size(base, experiment))}


def _format(experiment: Experiment) -> torch.dtype:
    found = getattr(torch, with_format(experiment, None, on_gpu=False).model.dtype)
    assert isinstance(found, torch.dtype)
    return found


@contextmanager
def _all_cores() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(limits.cpus())
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fastest(do: Callable[[], object]) -> float:
    """Seconds of the fastest of as many repetitions as fit, after a first one to warm up."""
    do()
    fastest, until = float("inf"), time.perf_counter() + BUDGET_S
    while fastest == float("inf") or time.perf_counter() < until:
        began = time.perf_counter()
        do()
        fastest = min(fastest, time.perf_counter() - began)
    return fastest
