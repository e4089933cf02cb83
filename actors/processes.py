"""Processes of this machine that are about to end: what they held is free only once they are gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import psutil

logger = logging.getLogger(__name__)

END_S = 20.0
"""Longest wait for the end of a process that was killed."""


def running(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes of this machine with these ids that are there; a later process with the same id is another one."""
    there = []
    for pid in pids:
        try:
            there.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return there


def wait_for_end(processes: Sequence[psutil.Process], role: str, *, end_s: float = END_S) -> None:
    """Wait until these processes are gone, and say which are not."""
    _, left = psutil.wait_procs(processes, timeout=end_s)
    for process in left:
        logger.warning("%s process %d outlived its end by %.0f s", role, process.pid, end_s)
