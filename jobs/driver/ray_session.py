"""Before and after a connection to Ray: whether a cluster answers, where a local Ray keeps its files, and its logs."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir

from scpl_ray.credentials import copy_masked
from scpl_ray.storage import inside
from scpl_ray.storage.files import restrict

logger = logging.getLogger(__name__)

ADDRESS = "RAY_ADDRESS"
ANSWER_S = 10.0
"""Longest wait for an answer of the cluster that ``RAY_ADDRESS`` names, in seconds."""
JOIN_S = 60.0
"""Longest wait for a cluster that answers to let this driver in, in seconds."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""What a client of HTTP/2 sends first (RFC 9113, section 3.4), with empty settings; any gRPC server answers at once."""
UNSET = f"or leave it out (unset {ADDRESS}) to run on this machine"
LONGEST_SOCKET = 107
"""Longest path of a Unix socket, in bytes."""
IN_SESSION = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1")
"""Bytes that Ray adds to its temporary folder for a socket, at most."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def check_unconnected() -> None:
    """Check that this process may connect to Ray, which a process does once at a time.

    Raises:
        ValueError: it is connected already, as a notebook may be.
    """
    if ray.is_initialized():
        raise ValueError(
            "this process is connected to a Ray already, and a run starts its own, or joins the one of "
            f"{ADDRESS}: call ray.shutdown() first"
        )


def check_address() -> None:
    """Check that a Ray answers at ``RAY_ADDRESS``, if that is set; signals are handled while it waits.

    Raises:
        ValueError: nobody answers within :data:`ANSWER_S`, or a driver cannot use an address of this form.
    """
    address = os.environ.get(ADDRESS, "")
    if address in ("", "auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ValueError(
            f"{ADDRESS} = {address!r}: not the address of a node, HOST:PORT; give that, as `ray start --head` prints "
            f"it, submit the run with `ray job submit`, {UNSET}"
        )
    faults: list[str] = []
    answered = threading.Event()

    def ask() -> None:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S) as connection:
                connection.sendall(PREFACE)
                if os.environ.get("RAY_USE_TLS") == "1" or connection.recv(9):
                    answered.set()
        except (OSError, OverflowError) as error:
            faults.append(str(error))

    # resolving a host name cannot be interrupted, waiting for a thread can
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    if not answered.is_set():
        why = faults[0] if faults else f"no answer within {ANSWER_S:.0f} s"
        raise ValueError(
            f"{ADDRESS} = {address!r}: no Ray answers there ({why}); start it (`ray start --head`), correct the "
            f"address, {UNSET}"
        )


def join(**arguments: Any) -> None:
    """Connect to the Ray at ``RAY_ADDRESS``; signals are handled while it waits.

    Args:
        arguments: those of ``ray.init``.

    Raises:
        RuntimeError: it cannot be done, or is not done within :data:`JOIN_S`.
    """
    address = os.environ[ADDRESS]
    faults: list[Exception] = []

    def connect() -> None:
        try:
            ray.init(**arguments)
        except (RuntimeError, OSError, ValueError, ray.exceptions.RayError) as error:
            faults.append(error)

    # what waits for a cluster in C++ cannot be interrupted, waiting for a thread can
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(JOIN_S)
    if thread.is_alive():
        raise RuntimeError(
            f"{ADDRESS} = {address!r}: something answers there, but no driver was let in for {JOIN_S:.0f} s; look at "
            "`ray status` and at /tmp/ray/session_latest/logs on that node, restart Ray there (`ray stop`, `ray start "
            f"--head`), {UNSET}"
        )
    if faults or not ray.is_initialized():
        why = " ".join(str(faults[0]).split()) if faults else "no connection"
        raise RuntimeError(f"{ADDRESS} = {address!r}: {why}; start that Ray, {UNSET}") from (
            faults[0] if faults else None
        )


@contextlib.contextmanager
def temporary_folder(say: Callable[[str], None]) -> Iterator[Mapping[str, str]]:
    """Inside, a folder for the files of a local Ray: its own, or a shorter one if its sockets would not fit into that.

    Args:
        say: is told of a shorter folder, which is removed at the end.

    Yields:
        The arguments of ``ray.init`` that name the folder.

    Raises:
        RuntimeError: no short folder can be made.
    """
    usual = get_default_ray_temp_dir()
    if len(os.fsencode(usual)) + IN_SESSION <= LONGEST_SOCKET:
        yield {}
        return
    made = None
    for parent in SHORT_FOLDERS:
        with contextlib.suppress(OSError):
            made = tempfile.mkdtemp(prefix="scpl-", dir=parent)
            break
    if made is None:
        raise RuntimeError(
            f"TMPDIR: {usual} is too long a path for Ray's sockets, and no folder can be made in "
            f"{', '.join(SHORT_FOLDERS)}; set RAY_TMPDIR to a path of at most "
            f"{LONGEST_SOCKET - IN_SESSION - len('/ray')} bytes"
        )
    say(f"TMPDIR: {usual} is too long a path for Ray's sockets; Ray's files are in {made} until the end")
    try:
        yield {"_temp_dir": made}
    finally:
        shutil.rmtree(made, ignore_errors=True)


def keep_logs(logs: Path, target: Path) -> None:
    """Copy Ray's log files into the run directory.

    Ray keeps them where every user may write, so links and special files among them are left out, and the copies have
    the permissions that the user's umask leaves, not those of Ray's folders.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        for above, folders, names in os.walk(logs):
            folders.sort()
            inner = Path(above).relative_to(logs)
            if inner.parts:
                inside.make_folder(target, inner.as_posix())
            restrict(target / inner)
            for name in names:
                if stat.S_ISREG((Path(above) / name).lstat().st_mode):
                    copy_masked(str(Path(above) / name), str(target / inner / name))
    except OSError as error:
        logger.warning("Ray's logs could not all be kept in %s: %s", target, error)
