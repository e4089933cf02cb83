"""Transfer of files between the driver's node and nodes that do not see its disk.

Paths are those of the driver. A process that finds the same files under such a path uses them, because the disk is
shared. Any other process gets copies through the object store and sends back what it wrote. Nothing is assumed about
the storage: for each folder, the sizes and modification times of its files show whether they are the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import ipaddress
import json
import logging
import os
import socket
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors import node_copies
from scpl_ray.records import Weights
from scpl_ray.storage import inside

logger = logging.getLogger(__name__)

PIECE_BYTES = 64 * 2**20
"""Files are sent in pieces of this size."""
PIECES_KEPT = 16
"""Number of pieces kept in the object store, because nodes that ask at about the same time need the same pieces."""
DEADLINE_S = 600.0
"""Longest wait for one piece."""

Stamp = tuple[tuple[str, int, int], ...]
"""Name relative to the folder, bytes and modification time (ns) of each file."""


def stamp(path: Path) -> Stamp | None:
    """Sizes and modification times of a file, or of all files below a folder; ``None`` if the path does not exist."""
    if path.is_file():
        found = [path]
    elif path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file())
    else:
        return None
    return tuple((os.path.relpath(p, path), (status := p.stat()).st_size, status.st_mtime_ns) for p in found)


class FileTransfer:
    """The actor on the driver's node that reads and writes files there for processes on other nodes."""

    def __init__(self) -> None:
        self._pieces: OrderedDict[tuple[str, int, int], Any] = OrderedDict()

    def stamp(self, path: Path) -> Stamp | None:
        """:func:`stamp` on the driver's disk."""
        return stamp(path)

    def piece(self, file: Path, offset: int) -> list[Any]:
        """A list that holds the reference of at most :data:`PIECE_BYTES` bytes of a file, starting at an offset."""
        key = (str(file), file.stat().st_mtime_ns, offset)
        if key not in self._pieces:
            with file.open("rb") as opened:
                opened.seek(offset)
                self._pieces[key] = ray.put(opened.read(PIECE_BYTES))
            while len(self._pieces) > PIECES_KEPT:
                self._pieces.popitem(last=False)
        return [self._pieces[key]]

    def place(self, path: Path) -> tuple[int, int] | None:
        """Inode and modification time of a folder."""
        return _place(path)

    def write(self, folder: Path, name: str, offset: int, data: bytes) -> None:
        """Write bytes into a file below a folder, starting at an offset; offset 0 first empties the file.

        No link below the folder is followed.
        """
        flags = os.O_WRONLY | (0 if offset else os.O_CREAT | os.O_TRUNC)
        with os.fdopen(inside.open_below(folder, name, flags, make=True), "wb") as opened:
            opened.seek(offset)
            opened.write(data)

    def empty(self, folder: Path) -> None:
        """Remove the files that an interrupted attempt left in a folder."""
        for path in list(folder.iterdir()):
            inside.remove_below(folder, path.name)


def start() -> Any:
    """Start a :class:`FileTransfer` actor on the node of the calling process."""
    options = ray.remote(FileTransfer).options(
        num_cpus=0, max_restarts=3, max_task_retries=3, scheduling_strategy=beside()
    )
    return options.remote()


def may_be_needed() -> bool:
    """Whether file transfer may be needed: if Ray listens on loopback only, no other node can exist."""
    host = ray.get_runtime_context().gcs_address.rpartition(":")[0].strip("[]")  # around an IPv6 address
    _, _, _, _, (number, *_) = socket.getaddrinfo(host, None)[0]
    return not ipaddress.ip_address(number).is_loopback


def beside() -> NodeAffinitySchedulingStrategy:
    """Schedule on the node of the calling process: for cheap actors that must survive the loss of any other node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@dataclasses.dataclass(frozen=True)
class Files:
    """The driver's files, wherever the calling process runs."""

    transfer: Any = None
    """Handle of the driver's :class:`FileTransfer`; ``None``: every process sees the driver's disk."""
    copies: Path | None = None
    """The folder in which a node keeps the most recently used copies; ``None``: in its folder for temporary files."""

    def here(self, path: Path) -> Path:
        """The path on this node of a file or folder of the driver, which is copied first if it is not there.

        A path that the driver does not have (a Hub id) is returned unchanged.

        Raises:
            OSError: the copies cannot be written, or their folder is not this user's own.
            TimeoutError: another process has been copying for too long.
            ray.exceptions.RayError: the driver's node does not answer.
        """
        if self.transfer is None:
            return path
        wanted: Stamp | None = self._ask("stamp", path)
        if wanted is None or stamp(path) == wanted:
            return path
        digest = hashlib.sha256(json.dumps([str(path), wanted]).encode()).hexdigest()
        name = f"scpl_ray-copies-{os.geteuid()}"
        copies = node_copies.own_folder(self.copies or Path(tempfile.gettempdir()) / name)
        folder = copies / digest[: node_copies.NAME_DIGITS]
        with node_copies.locked(copies):
            if not folder.exists():
                with node_copies.building(copies, folder) as partial:
                    for name, size, _ in wanted:
                        self._fetch(path / name, partial / path.name / name, size)
                logger.info("%s: copied from the driver's node, %d bytes", path, sum(size for _, size, _ in wanted))
            node_copies.hold(folder)
            node_copies.forget_old(copies)
        return folder / path.name

    def weights(self, weights: Weights) -> Weights:
        """The same weights with paths on this node."""
        adapter = None if weights.adapter is None else self.here(weights.adapter)
        return dataclasses.replace(weights, model=self.here(weights.model), adapter=adapter)

    @contextlib.contextmanager
    def output(self, path: Path) -> Iterator[Path]:
        """A folder to write to; when the block ends, its files are in the driver's folder ``path``.

        Args:
            path: an existing folder of the driver.
        """
        if self.transfer is None or self._ask("place", path) == _place(path):
            yield path
            return
        with tempfile.TemporaryDirectory(prefix="scpl_ray-") as scratch:
            yield (local := Path(scratch))
            self._ask("empty", path)
            for name, size, _ in stamp(local) or ():
                with (local / name).open("rb") as file:
                    for offset in range(0, max(size, 1), PIECE_BYTES):
                        self._ask("write", path, name, offset, file.read(PIECE_BYTES))

    def _fetch(self, source: Path, target: Path, size: int) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for offset in range(0, size, PIECE_BYTES):
                (reference,) = self._ask("piece", source, offset)
                file.write(ray.get(reference, timeout=DEADLINE_S))

    def _ask(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.transfer, method).remote(*arguments), timeout=DEADLINE_S)


SHARED_DISK = Files()
"""For processes that all see the driver's disk because they run on one machine."""


def _place(path: Path) -> tuple[int, int] | None:
    if not path.is_dir():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns
