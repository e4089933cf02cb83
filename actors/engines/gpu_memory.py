"""Free memory of the GPU that an engine shares: what it gave back must be free again before it wakes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

GIB = 2**30
WAIT_S = 120.0
"""Longest wait for memory; a process that was killed gives it back within seconds."""
POLL_S = 0.5
SAY_S = 10.0
SLACK = 64 * 2**20
"""How much less than before may be free, in bytes: other processes' contexts grow a little."""


class NoRoomError(RuntimeError):
    """Others hold memory that an engine needs to wake; it is asleep as before, and can be asked again."""


def free_bytes() -> int | None:
    """Free memory of this process's GPU, in bytes; ``None`` without a GPU in use."""
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]


def wait_until_free(
    needed: int,
    free: Callable[[], int | None],
    *,
    wait_s: float = WAIT_S,
    poll_s: float = POLL_S,
    say: Callable[..., None] = logger.warning,
) -> None:
    """Wait until as much of the GPU's memory is free as an engine gave back when it fell asleep.

    Args:
        needed: what it gave back, in bytes.
        free: measures what is free; ``None``: nothing is known, and nothing is waited for.
        wait_s: longest wait.
        poll_s: seconds between two measurements.
        say: is told that there is a wait, every ten seconds.

    Raises:
        NoRoomError: too little was free all the time.
    """
    began = said = time.monotonic()
    while (there := free()) is not None and there < needed - SLACK:
        now = time.monotonic()
        found = f"{needed / GIB:.2f} GiB of the shared GPU are needed to wake and {there / GIB:.2f} are free"
        if now - began >= wait_s:
            raise NoRoomError(
                f"{found} after {now - began:.0f} s: another process still holds the rest; `nvidia-smi` on this node "
                "names it; end it, or set placement.gpus=dedicated"
            )
        if said == began or now - said >= SAY_S:
            say("%s; waiting, %.0f s", found, now - began)
            said = now
        time.sleep(poll_s)
