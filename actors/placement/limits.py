"""The CPUs and the memory of this machine that this process may use: in a container, as much as its limits allow.

A container's limits are in files of Linux's control groups, of version 2 or 1, below one folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import psutil

CONTROL_GROUPS = Path("/sys/fs/cgroup")
GIB = 2**30


def cpus(groups: Path = CONTROL_GROUPS) -> int:
    """Number of whole CPUs that this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    time = _words(groups / "cpu.max") or _words(groups / "cpu/cpu.cfs_quota_us") + _words(
        groups / "cpu/cpu.cfs_period_us"
    )
    if len(time) != 2 or not all(map(str.isdecimal, time)):  # "max" or -1: no limit
        return allowed
    quota, period = map(int, time)
    return max(1, min(allowed, quota // period))


def memory_gib(groups: Path = CONTROL_GROUPS) -> float:
    """Memory that this process and those beside it in a container may hold, in GiB."""
    total, limit = psutil.virtual_memory().total, _limit(groups)
    return (total if limit is None else min(total, limit)) / GIB


def free_memory_gib(groups: Path = CONTROL_GROUPS) -> float:
    """Memory that nobody holds, in GiB; what files occupy can be given up, so it counts as free."""
    free, limit = psutil.virtual_memory().available, _limit(groups)
    if limit is None:
        return free / GIB
    held = _words(groups / "memory.current") or _words(groups / "memory/memory.usage_in_bytes") or ["0"]
    stated = _words(groups / "memory.stat") or _words(groups / "memory/memory.stat")
    facts = dict(zip(stated[::2], stated[1::2], strict=True))
    of_files = int(facts.get("total_inactive_file", facts.get("inactive_file", "0")))
    return max(0, min(free, limit - (int(held[0]) - of_files))) / GIB


def _limit(groups: Path) -> int | None:
    """The most memory, in bytes; without a limit version 2 says ``max``, version 1 a number beyond all memory."""
    said = _words(groups / "memory.max") or _words(groups / "memory/memory.limit_in_bytes")
    return int(said[0]) if said and said[0].isdecimal() else None


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []
