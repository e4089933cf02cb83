"""A lock in an object store: one process at a time, and none for ever.

The lock is an object that is only ever written on a condition (it is not there; it is still the one that was read),
so of two processes that want it one gets it. A thread renews it; when it was not renewed for :data:`LEASE_SECONDS` by
the clock of the store, or its holder was a process of this machine that has ended, the next one takes it over.
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
"""In the time of a lease."""
TRIES = 5


@dataclasses.dataclass(frozen=True)
class Holder:
    """Who holds a lock."""

    host: str
    machine: str
    """The start of a system and its space of process ids: names of hosts are not unique."""
    process: int
    started: float
    """Unix time; the number of a process is used again."""
    token: str

    @classmethod
    def this(cls) -> Holder:
        """This process."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        return cls(socket.gethostname(), machine, os.getpid(), psutil.Process().create_time(), uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def has_ended(self, seen_from: Holder) -> bool:
        """Whether it was a process of the same machine and is no more."""
        if self.machine != seen_from.machine:
            return False
        try:
            return psutil.Process(self.process).create_time() != self.started
        except psutil.NoSuchProcess:
            return True


class Lease:
    """The lock of a run, held from the start until :meth:`release`.

    Raises:
        InUseError: another process holds it.
        StoreError: the store cannot be used, or does not do conditional writes.
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
        """Say to others that this process lives, and make sure that the lock is still its own.

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
        """Give the lock back; it must still be this process's own.

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
        """Renew it no more: it lapses."""
        self._ended.set()

    def _next(self) -> bytes:
        """The lock with a number, so that every renewal has other bytes and another ETag."""
        self._renewed += 1
        return self._text + f"\n{self._renewed}\n".encode()

    def _look_again(self) -> None:
        """After a write that was refused: was it ours, with an answer that got lost, or another's?"""
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
        """Both conditions must be refused now: a store that ignores them would let two processes in."""
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
