"""A lock in an object store: at most one process holds it at a time, and no process can hold it for ever.

The lock is an object that is written only conditionally (it must not exist, or must still be the version that was
read), so if two processes want it, only one gets it. A thread renews it regularly. Another process takes it over if it
has not been renewed for :data:`LEASE_SECONDS` by the clock of the store, or at once if its holder was a process on the
same machine that has ended.

The store's clock alone ends no lease, because a clock can be set: a lock that looks old, or newer than now, is watched
for a while by a clock that cannot be set, and any renewal in that time shows that its holder is alive. A holder that
was only paused finds out at its next write: see :mod:`scpl_ray.storage.object_store.mirror`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from scpl_ray.storage.errors import InUseError, StoreError
from scpl_ray.storage.manifests import LOCK
from scpl_ray.storage.object_store.objects import Conflict, Content, Objects

logger = logging.getLogger(__name__)

LEASE_SECONDS = 180.0
RENEWALS = 6
"""Number of renewals within the duration of a lease."""
WATCHED = 1 / 3
"""Fraction of the duration of a lease for which a lock that looks old is watched: two renewals fall into it."""
TRIES = 5


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    machine: str
    """Boot id of the system and its namespace of process ids, because host names are not unique."""
    process: int
    started: float
    """Start of the process in clock ticks since the system started, because process ids are reused; unlike a time of
    day, it stays the same when the clock is set."""
    token: str

    @classmethod
    def this(cls) -> Holder:
        """The record of the current process."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        return cls(socket.gethostname(), machine, os.getpid(), _started(os.getpid()) or 0.0, uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    def has_ended(self, seen_from: Holder) -> bool:
        """Whether the holder was a process on the same machine and is no longer running.

        Where there is a process with its id that the system hides, it may be that one, and has not ended.
        """
        try:
            return self.machine == seen_from.machine and _started(self.process) != self.started
        except PermissionError:
            return False


def _started(process: int) -> float | None:
    """Start of a running process in clock ticks since the system started; ``None`` if there is no such process.

    Raises:
        PermissionError: there is one, and the system hides it (``hidepid``).
    """
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, PermissionError) as error:
        try:
            os.kill(process, 0)  # asks only; another user's process answers with PermissionError
        except ProcessLookupError:
            return None
        raise PermissionError(f"process {process} is hidden") from error
    except ProcessLookupError:
        return None
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else float(fields[19])


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
                for _ in range(TRIES):
                    try:
                        self._objects.delete(LOCK, self._etag)
                        return
                    except Conflict:
                        if self._look_again(released=True):
                            return
                    if self._lost is not None:
                        raise InUseError(self._lost)
            finally:
                self._ended.set()

    def abandon(self) -> None:
        """Stop renewing the lock, so that it expires."""
        self._ended.set()

    def _next(self) -> bytes:
        """The content of the lock with a counter, so that every renewal has different bytes and a different ETag."""
        self._renewed += 1
        return self._text + f"\n{self._renewed}\n".encode()

    @property
    def token(self) -> str:
        """Identifies this holding of the lock."""
        return self._me.token

    def _look_again(self, *, released: bool = False) -> bool:
        """After a refused write, find out who holds the lock: our own earlier write, whose reply was lost, may do.

        Args:
            released: whether the refused write was to remove the lock, so that a missing lock is what was wanted.

        Returns:
            Whether the lock is gone as it should be.
        """
        found = self._objects.read(LOCK)
        if found is None and released:
            return True
        holder = None if found is None else self._holder(found)
        if found is not None and holder is not None and holder.token == self._me.token:
            self._etag = found.etag
            return False
        what = f"{holder} took its lock over" if holder else "its lock was removed"
        self._lost = f"{self._objects.uri}: {what}, for this process was silent too long; it writes nothing more"
        return False

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
            self._prove(etag)
            return etag
        raise InUseError(f"{self._objects.uri}: others take the lock at the same time; try again")

    def _check_may_take(self, found: Content, holder: Holder) -> None:
        if holder.has_ended(self._me):
            reason = "which has ended"
        elif abs(found.age_seconds) > self._seconds and self._is_silent(found):
            age = found.age_seconds
            reason = f"which was last heard of {age:.0f} s ago" if age > 0 else "which is silent"
        else:
            heard = f"heard of {max(found.age_seconds, 0):.0f} s ago"
            if abs(found.age_seconds) > self._seconds:
                heard = "which has renewed its lock just now, whatever the store's clock says"
            raise InUseError(
                f"{self._objects.uri}: in use by {holder}, {heard}; wait for "
                f"it, stop it, or give another --run-dir; if that machine is gone, try again in {self._seconds:.0f} s"
            )
        logger.warning("%s: the lock of %s, %s, is taken over", self._objects.uri, holder, reason)

    def _is_silent(self, found: Content) -> bool:
        """Watch a lock that looks old, or newer than now; whether it is not renewed in that time."""
        seconds = WATCHED * self._seconds
        logger.info("%s: its lock looks old and is watched for %.0f s", self._objects.uri, seconds)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, seconds / RENEWALS))
            now = self._objects.read(LOCK)
            if now is None or now.etag != found.etag:
                return False
        return True

    def _holder(self, found: Content) -> Holder:
        try:
            return Holder(**json.loads(found.data.splitlines()[0]))
        except (ValueError, TypeError, IndexError) as error:
            raise StoreError(
                f"{self._objects.uri}: holds an object {LOCK} that no run wrote; give another place, or remove it"
            ) from error

    def _prove(self, etag: str) -> None:
        """Check that the store enforces all conditions; ignoring them would let two processes hold the lock."""
        for ignored in (
            lambda: self._objects.write(LOCK, self._next(), replaces=None),
            lambda: self._objects.write(LOCK, self._next(), replaces='"0"'),
            lambda: self._objects.delete(LOCK, '"0"'),
        ):
            try:
                ignored()
            except Conflict:
                continue
            with contextlib.suppress(Conflict):
                found = self._objects.read(LOCK)
                self._objects.delete(LOCK, found.etag if found else etag)
            raise StoreError(
                f"{self._objects.uri}: this store ignores the conditions If-None-Match and If-Match of writes and "
                "deletes, so that a run could not be kept to one process; use one that heeds them"
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
