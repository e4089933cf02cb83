"""What kind of machine this is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPU_FACTS = Path("/proc/cpuinfo")


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
    cores = len(os.sched_getaffinity(0))
    parts = [known.get("model name") or platform.machine(), f"{cores} cores", vectors]
    parts.append("bfloat16 units" if native else "no bfloat16 units")
    return ", ".join(part for part in parts if part)
