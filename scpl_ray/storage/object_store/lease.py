"""A lock in an object store: at most one process holds it at a time, and no process can hold it for ever.

The lock is an object that is written only conditionally (it must not exist, or must still be the version that was
read), so if two processes want it, only one gets it. A thread renews it regularly. Another process takes it over if it
has not been renewed for :data:`LEASE_SECONDS` by the clock of the store, or if its holder was a process on the same
machine that has ended.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import threading
import uuid
from pathlib import Path

import psutil

from scpl_ray.storage.errors import InUseError, StoreError
from scpl_ray.storage.manifests import LOCK
from scpl_ray.storage.object_store.objects import Conflict, Content, Objects

logger = logging.getLogger(__name__)

LEASE_SECONDS = 180.0
RENEWALS = 6
"""Number of renewals within the duration of a lease."""
TRIES = 5


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    machine: str
    """Boot id of the system and its namespace of process ids, because host names are not unique."""
    process: int
    started: float
    """Start of the process as Unix time; needed because process ids are reused."""
    token: str

    @classmethod
    def this(cls) -> Holder:
        """The record of the current process."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        return cls(socket.gethostname(), machine, os.getpid(), psutil.Process().create_time(), uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def has_ended(self, seen_from: Holder) -> bool:
        """Whether the holder was a process on the same machine and is no longer running."""
        if self.machine != seen_from.machine:
            return False
        try:
            return psutil.Process(self.process).create_time() != self.started
        except psutil.NoSuchProcess:
            return True


class Lease:
    """The lock of a run, held from construction until :meth:`release`.

    Raises:
        InUseError: another process holds it.
        StoreError: the store cannot be used, or does not support conditional writes.
    """

    def __init__(self, objects: Objects, seconds: float = LEASE_SECONDS) -> None:
        self._objects = objects
        self._seconds = seconds
        self._me = Holder.this()
        self._text = json.dumps(dataclasses.asdict(self._me)).encode()
        self._mutex = threading.RLock()
        self._lost: str | None = None
        self._renewed = 0
        self._ended = threading.Event()
        self._etag = self._acquire()
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def renew(self) -> None:
        """Show other processes that this one is alive, and check that it still holds the lock.

        Raises:
            InUseError: another process took it over.
            StoreError: the store cannot be used.
        """
        with self._mutex:
            if self._ended.is_set():
                return
            if self._lost is None:
                try:
                    self._etag = self._objects.write(LOCK, self._next(), replaces=self._etag)
                except Conflict:
                    self._look_again()
            if self._lost is not None:
                raise InUseError(self._lost)

    def release(self) -> None:
        """Release the lock, after checking that this process still holds it.

        Raises:
            InUseError: another process took it over.
            StoreError: the store cannot be used.
        """
        with self._mutex:
            try:
                self.renew()
                self._objects.delete([LOCK])
            finally:
                self._ended.set()

    def abandon(self) -> None:
        """Stop renewing the lock, so that it expires."""
        self._ended.set()

    def _next(self) -> bytes:
        """The content of the lock with a counter, so that every renewal has different bytes and a different ETag."""
        self._renewed += 1
        return self._text + f"\n{self._renewed}\n".encode()

    def _look_again(self) -> None:
        """After a refused write, find out who holds the lock: our own earlier write, whose reply was lost, may do."""
        found = self._objects.read(LOCK)
        holder = None if found is None else self._holder(found)
        if found is not None and holder is not None and holder.token == self._me.token:
            self._etag = found.etag
            return
        what = f"{holder} took its lock over" if holder else "its lock was removed"
        self._lost = f"{self._objects.uri}: {what}, for this process was silent too long; it writes nothing more"

    def _acquire(self) -> str:
        for _ in range(TRIES):
            found = self._objects.read(LOCK)
            holder = None if found is None else self._holder(found)
            if found is not None and holder is not None and holder.token != self._me.token:
                self._check_may_take(found, holder)
            try:
                etag = self._objects.write(LOCK, self._next(), replaces=found.etag if found else None)
            except Conflict:
                continue
            self._prove()
            return etag
        raise InUseError(f"{self._objects.uri}: others take the lock at the same time; try again")

    def _check_may_take(self, found: Content, holder: Holder) -> None:
        if holder.has_ended(self._me):
            reason = "which has ended"
        elif found.age_seconds > self._seconds:
            reason = f"which was last heard of {found.age_seconds:.0f} s ago"
        else:
            raise InUseError(
                f"{self._objects.uri}: in use by {holder}, heard of {max(found.age_seconds, 0):.0f} s ago; wait for "
                f"it, stop it, or give another --run-dir; if that machine is gone, try again in {self._seconds:.0f} s"
            )
        logger.warning("%s: the lock of %s, %s, is taken over", self._objects.uri, holder, reason)

    def _holder(self, found: Content) -> Holder:
        try:
            return Holder(**json.loads(found.data.splitlines()[0]))
        except (ValueError, TypeError, IndexError) as error:
            raise StoreError(
                f"{self._objects.uri}: holds an object {LOCK} that no run wrote; give another place, or remove it"
            ) from error

    def _prove(self) -> None:
        """Check that the store enforces both write conditions; ignoring them would let two processes hold the lock."""
        for replaces in (None, '"0"'):
            try:
                self._objects.write(LOCK, self._next(), replaces=replaces)
            except Conflict:
                continue
            self._objects.delete([LOCK])
            raise StoreError(
                f"{self._objects.uri}: this store ignores the conditions If-None-Match and If-Match, so that a run "
                "could not be kept to one process; use one that heeds them"
            )

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds / RENEWALS):
            try:
                self.renew()
            except InUseError as error:
                logger.error("%s", error)
                return
            except StoreError as error:
                logger.warning("%s; the lock is renewed again later", error)
