"""How a Ray of this machine alone is started: nobody outside can reach it, and it starts no process in vain."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import ray

LOOPBACK = "127.0.0.1"
NO_IDLE_WORKERS = {"prestart_worker_first_driver": False}
"""For ``_system_config``: Ray would start one process per core in advance and use none of them, because each of ours is
started with an environment of its own."""


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Inside this block, a local Ray can be told to listen on loopback only.

    Otherwise Ray replaces a loopback address by one that other machines can reach, and listens on every interface.
    """
    services = ray._private.services
    before = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = before
