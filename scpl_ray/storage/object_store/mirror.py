"""A run in an object store: a locked working copy in the cache folder, uploaded at every commit.

The files of a phase are uploaded below the name of the attempt, each with its size checked, and its manifest last, by a
conditional write: an interrupted upload leaves objects without a manifest, which are ignored. The store is
authoritative: opening a run makes the working copy equal to it. The only exception is a phase that was committed here
but not completely uploaded: its upload is then completed, unless the run has gone on elsewhere in the meantime. A log
that cannot be uploaded is a warning and stops nothing.

A holder of the lock that was paused for longer than its lease may wake up between two requests, when another process
continues the run already. Nothing that it then does changes what the next holder relies on:

- it uploads under the name of its own attempt, and nothing is ever deleted under the name of another;
- what has a name of its own (manifests, config, results, the lock) is written and deleted only as long as it still is
  what this process read or wrote last, and whoever opens a run first writes the config and the last manifest anew;
- a write that is refused is repeated only by the process that still holds the lock.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from scpl_ray.config import Experiment
from scpl_ray.records import Manifest, Metric
from scpl_ray.storage import cache, inside, manifests
from scpl_ray.storage.errors import InUseError, StoreError
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.manifests import LOCK, MANIFEST, ROUNDS, committed_of, phase_of
from scpl_ray.storage.object_store.lease import Lease
from scpl_ray.storage.object_store.names import (
    ATTEMPT,
    HOLDER,
    attempt_of,
    marker_of,
    new_attempt,
    objects_of,
    prefix_of,
    said_by,
    with_facts,
)
from scpl_ray.storage.object_store.objects import Conflict, Found, Objects
from scpl_ray.storage.run_directory import FOLDERS as FRAME_FOLDERS
from scpl_ray.storage.run_directory import NOTHING, PHASES, Reader, Store
from scpl_ray.storage.run_facts import CONFIG, RUN

logger = logging.getLogger(__name__)

STATE = ".remote.json"
"""File in the working copy with the ETags of the objects its files mirror, and the phases not yet fully uploaded."""
FOLDERS = ("logs", "tensorboard")
"""Folders that are uploaded when a run ends, successfully or not."""
LAST = (RUN, "summary.json")
"""Files that mark that a run exists and that it is finished; they are uploaded after everything else."""
WEIGHTS = ("weights", "reward_model")
"""Phases whose files are not needed by any report."""


TRIES = 5
"""How often a conditional write is repeated by the process that holds the lock."""


class RemoteStore(Store):
    """A run in an object store; holds the lock of the local working copy and the lock in the store."""

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        root = cache.directory() / "runs" / f"{PurePosixPath(objects.uri).name}-{cache.key_of(objects.place)[:16]}"
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(root, objects.uri)
        self._mutex = threading.RLock()
        self._etags, self._pending = _read_state(root)
        self._sent: dict[str, tuple[int, int]] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(super().close)
            self._lease = Lease(objects)
            stack.pop_all()

    @property
    def place(self) -> str:
        """The URI of the run."""
        return self.name

    def clear(self) -> None:
        """Empty the working copy, which may hold the files of another run with the same URI."""
        for path in self.root.iterdir():
            if path.name != LOCK:
                inside.remove_below(self.root, path.name)
            if path.name in FRAME_FOLDERS:
                path.mkdir()
        self._etags, self._pending = {}, {}

    def begin(self, experiment: Experiment, versions: Mapping[str, str], began: Mapping[str, Any] = NOTHING) -> None:
        """See :meth:`Store.begin`."""
        there = self.objects.list(CONFIG)  # what a process wrote that died before its run began
        self._etags |= {name: found.etag for name, found in there.items() if name == CONFIG}
        super().begin(experiment, versions, began)
        self._carry()

    def extend(self, experiment: Experiment) -> None:
        """See :meth:`Store.extend`."""
        super().extend(experiment)
        self._carry()

    def finish(self, metrics: Sequence[Metric], summary: Mapping[str, Any]) -> None:
        """See :meth:`Store.finish`."""
        super().finish(metrics, summary)
        self._carry(*FOLDERS)

    def close(self) -> None:
        """Upload logs and release both locks; if the store cannot be reached now, only a warning is logged."""
        try:
            self._carry(*FOLDERS)
        except (StoreError, OSError) as error:
            logger.warning("%s; what was not carried over stays in %s", error, self.root)
            self._lease.abandon()
            super().close()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Release both locks without writing anything."""
        try:
            self._lease.release()
        except StoreError as error:
            logger.warning("%s", error)
        finally:
            super().close()

    def announce(self, folder: Path) -> None:
        """Note that a phase is to be uploaded, so that it is not lost if this process ends once it is committed."""
        with self._mutex:
            self._pending.setdefault(folder.relative_to(self.root).as_posix(), new_attempt())
            self._write_state()

    def publish(self, folder: Path) -> None:
        """Upload a committed phase below the name of an attempt, and publish it by a conditional write of its manifest.

        Raises:
            InUseError: another process has taken the run over.
            StoreError: the store cannot be used, or did not receive every byte.
        """
        name = folder.relative_to(self.root).as_posix()
        marker = marker_of(name)
        began = time.monotonic()
        with self._mutex:
            attempt = self._pending.setdefault(name, new_attempt())
            self._write_state()
            manifest = with_facts((folder / MANIFEST).read_bytes(), **{ATTEMPT: attempt})
            write_atomically(folder / MANIFEST, manifest)
            files = {
                prefix_of(name, attempt) + path.relative_to(folder).as_posix(): path
                for path in folder.rglob("*")
                if path.is_file() and path != folder / MANIFEST
            }
            self._lease.renew()
            arrived = self.objects.send(files)
            for one, found in arrived.items():
                if found.bytes != (size := files[one].stat().st_size):
                    raise StoreError(f"{self.name}: {one} arrived with {found.bytes} of {size} bytes; try again")
            self._lease.renew()
            published = self._put(marker, manifest)
            for one in [one for one in self._etags if one.startswith(f"{name}/")]:
                del self._etags[one]
            self._etags[marker] = published
            for one, found in arrived.items():
                self._etags[files[one].relative_to(self.root).as_posix()] = found.etag
            del self._pending[name]
            self._carry()
        size, seconds = sum(found.bytes for found in arrived.values()), time.monotonic() - began
        logger.info("%s: %d files, %.1f MB carried over in %.2f s", name, len(files) + 1, size / 1e6, seconds)

    def push(self) -> None:
        """Complete interrupted uploads, and make what was committed last something that only this process may change.

        Raises:
            InUseError: another process has taken the run over.
            StoreError: the store cannot be used.
        """
        self._claim(CONFIG, (self.root / CONFIG).read_bytes().split(b"# held by ")[0])
        published = [m for m in self.committed() if manifests.phase_folder(m.round, m.phase) not in self._pending]
        if published:
            marker = marker_of(manifests.phase_folder(published[-1].round, published[-1].phase))
            self._claim(marker, (self.root / marker).read_bytes())
        for name in sorted(self._pending, key=_order):
            logger.warning("%s: %s was not carried over before; it is now", self.name, name)
            self.publish(self.root / name)

    def withdraw(self, folder: Path, names: Collection[str]) -> None:
        """Publish a manifest that calls files deleted, and delete their objects, which are those of its own attempt.

        Raises:
            InUseError: another process has taken the run over.
            StoreError: the store cannot be used.
        """
        name = folder.relative_to(self.root).as_posix()
        if name in self._pending:
            return  # the phase is not published yet, and will be with this manifest
        marker, manifest = marker_of(name), (folder / MANIFEST).read_bytes()
        prefix = prefix_of(name, attempt_of(manifest))
        with self._mutex:
            there = [one for one in names if f"{name}/{one}" in self._etags]
            if not there:
                return
            self._lease.renew()
            self._etags[marker] = self._put(marker, manifest)
            self._write_state()
            for one in there:
                with contextlib.suppress(Conflict):  # it is gone already
                    self.objects.delete(f"{prefix}{one}", self._etags[f"{name}/{one}"])
                del self._etags[f"{name}/{one}"]
            self._write_state()

    def take_back(self, folder: Path) -> None:
        """See :meth:`Store.take_back`; the manifest is removed from the store first, if it still is the damaged one."""
        marker = marker_of(folder.relative_to(self.root).as_posix())
        self._lease.renew()
        etag = self._etags.pop(marker, None)
        if etag is not None:
            try:
                self.objects.delete(marker, etag)
            except Conflict as error:
                self._lease.renew()
                if self.objects.read(marker) is not None:
                    raise StoreError(f"{self.name}: {marker} was changed meanwhile; resume the run again") from error
        super().take_back(folder)

    def _claim(self, name: str, data: bytes) -> None:
        """Write an object of the run anew with another content that says the same, so that it has another ETag.

        A former holder of the lock, which knows the old one, can then no longer replace or delete the object.
        """
        if name == CONFIG:
            data += f"# held by {self._lease.token}\n".encode()
        else:
            data = with_facts(data, **{HOLDER: self._lease.token})
        self._lease.renew()
        try:
            etag = self.objects.write(name, data, replaces=self._etags[name])
        except Conflict as error:
            self._lease.renew()
            there = self.objects.read(name)
            if there is None or there.data != data:
                raise StoreError(f"{self.name}: {name} was changed meanwhile; resume the run again") from error
            etag = there.etag  # our own write, whose answer was lost
        self._etags[name] = etag
        write_atomically(self.root / name, data)
        self._sent[name] = _stamp(self.root / name)
        self._write_state()

    def _put(self, name: str, data: bytes) -> str:
        """Write an object of the run that is what this process last saw or wrote; returns its ETag.

        If it is not, it was written by a former holder of the lock that woke up too late, and is replaced, provided
        that this process still is the holder.
        """
        replaces = self._etags.get(name)
        for _ in range(TRIES):
            try:
                return self.objects.write(name, data, replaces=replaces)
            except Conflict:
                self._lease.renew()
                there = self.objects.read(name)
                if there is not None and there.data == data:
                    return there.etag  # our own write, whose answer was lost
                replaces = there.etag if there is not None else None
        raise StoreError(f"{self.name}: {name} is written by others all the time; make sure that nobody else does")

    def fault(self, manifest: Manifest, *, thorough: bool = False) -> str | None:
        """What is wrong with a phase in the store; a faulty local copy is downloaded again first."""
        found = super().fault(manifest, thorough=thorough)
        name = manifests.phase_folder(manifest.round, manifest.phase)
        if found is None:
            return None
        logger.warning("%s: %s: %s; it is fetched again", self.name, name, found)
        attempt = attempt_of((self.root / marker_of(name)).read_bytes())
        copies = objects_of(self.objects.list(f"{name}/"), {name: attempt})
        unwanted = {marker_of(name), *(f"{name}/{one}" for one in manifest.deleted)}
        self.objects.fetch({copies[one]: self.root / one for one in copies if one not in unwanted})
        return super().fault(manifest)

    def pull(self) -> None:
        """Make the working copy equal to the store."""
        there = self.objects.list()
        if RUN not in there:
            raise _no_run(self.name)
        if self._etags.get(RUN) != there[RUN].etag:
            self.clear()  # the working copy belongs to another run, or to none
        committed = committed_of(there)
        markers = {marker_of(phase): there[marker_of(phase)] for phase in committed}
        self._drop_overtaken(markers)
        self.objects.fetch({one: self.root / one for one, found in markers.items() if self._is_stale(one, found)})
        attempts = {phase: attempt_of((self.root / marker_of(phase)).read_bytes()) for phase in committed}
        copies = objects_of(there, attempts)
        for path in [path for path in (self.root / ROUNDS).rglob("*") if path.is_file()]:
            name = path.relative_to(self.root).as_posix()
            if name not in copies and phase_of(name) not in self._pending:
                path.unlink()
        for path in [path for path in self.root.iterdir() if path.is_file()]:
            if path.name not in copies and path.name not in (LOCK, STATE):
                path.unlink()
        deleted = {f"{phase}/{one}" for phase in committed for one in self._deleted(phase)}
        wanted = [one for one in copies if one not in markers and one not in deleted]
        stale = [one for one in wanted if self._is_stale(one, there[copies[one]])]
        self.objects.fetch({copies[one]: self.root / one for one in stale})
        self._etags = {one: there[name].etag for one, name in copies.items()}
        self._write_state()
        for one in copies:
            if phase_of(one) is None and (stamp := _stamp(self.root / one))[1] == there[one].bytes:
                self._sent[one] = stamp

    def _drop_overtaken(self, markers: Mapping[str, Found]) -> None:
        """Of the phases that are not known to be uploaded, keep those that still follow on what the store holds.

        Args:
            markers: the manifests in the store, by name.
        """
        arrived = [phase for phase in self._pending if marker_of(phase) in markers and self._is_published(phase)]
        for phase in arrived:
            del self._pending[phase]
        there = {one: found.etag for one, found in markers.items() if phase_of(one) not in arrived}
        known = {one: etag for one, etag in self._etags.items() if PurePosixPath(one).name == MANIFEST}
        same = there.keys() == known.keys() and all(
            etag == known[one] or self._only_holder_differs(one) for one, etag in there.items()
        )
        for phase in [phase for phase in self._pending if not (same and self._is_whole(phase))]:
            if self._manifest(phase) is not None:
                why = "its files were changed" if same else "the run was gone on with elsewhere, or phases taken back"
                logger.warning(
                    "%s: %s was committed here and never carried over; it is dropped, because %s", self.name, phase, why
                )
            del self._pending[phase]

    def _is_published(self, phase: str) -> bool:
        """Whether the manifest in the store is that of this working copy's own upload of a phase."""
        there = self.objects.read(marker_of(phase))
        return there is not None and attempt_of(there.data) == self._pending[phase]

    def _only_holder_differs(self, marker: str) -> bool:
        """Whether a manifest in the store says what that of the working copy says: others have only opened the run."""
        there, path = self.objects.read(marker), self.root / marker
        said = said_by(path.read_bytes()) if there is not None and path.is_file() else None
        return there is not None and said is not None and said == said_by(there.data)

    def _is_whole(self, phase: str) -> bool:
        """Whether a phase is committed and undamaged in the working copy."""
        manifest = self._manifest(phase)
        return manifest is not None and manifests.damage(self.root, manifest) is None

    def _deleted(self, phase: str) -> tuple[str, ...]:
        """The files of a phase that were deleted on purpose, whose objects may still be there."""
        manifest = self._manifest(phase)
        return manifest.deleted if manifest is not None else ()

    def _manifest(self, phase: str) -> Manifest | None:
        _, round_, name = phase.split("/")
        return manifests.read(self.root, int(round_), name)

    def _is_stale(self, name: str, found: Found) -> bool:
        """Whether an object must be downloaded; a log that has grown here since its upload is kept."""
        path = self.root / name
        if "/" not in name or not path.is_file() or self._etags.get(name) != found.etag:
            return True
        return phase_of(name) is not None and path.stat().st_size != found.bytes

    def _carry(self, *folders: str) -> None:
        """Upload the changed files outside ``rounds/``: those of the run folder itself and of ``folders``."""
        with self._mutex:
            files = [path for path in self.root.iterdir() if not path.name.startswith(".") and path.name != LOCK]
            files += [path for folder in folders for path in (self.root / folder).rglob("*")]
            stamps = {path.relative_to(self.root).as_posix(): _stamp(path) for path in files if path.is_file()}
            changed = [one for one, stamp in stamps.items() if self._sent.get(one) != stamp]
            if changed:
                self._lease.renew()
            for one in sorted(changed, key=lambda one: LAST.index(one) if one in LAST else -1):
                try:
                    # read once: a log grows with what is logged of its own upload
                    self._etags[one] = self._put(one, (self.root / one).read_bytes())
                except (StoreError, OSError) as error:
                    if isinstance(error, InUseError) or PurePosixPath(one).parts[0] not in FOLDERS:
                        raise
                    logger.warning("%s was not carried over: %s", one, error)
                else:
                    self._sent[one] = stamps[one]
            self._write_state()
            if changed:
                self._lease.renew()  # what was written counts only if this process still is the holder

    def _write_state(self) -> None:
        state = {"etags": self._etags, "pending": self._pending}
        write_atomically(self.root / STATE, (json.dumps(state, indent=1, sort_keys=True) + "\n").encode())


def fetch_records(objects: Objects, folder: Path) -> None:
    """Download the part of a run that reports read, which excludes weights.

    Raises:
        StoreError: there is no run, or it is damaged.
    """
    there = objects.list()
    if RUN not in there:
        raise _no_run(objects.uri)
    committed = committed_of(there)
    (folder / ROUNDS).mkdir(parents=True)
    objects.fetch({marker_of(phase): folder / marker_of(phase) for phase in committed})
    copies = objects_of(there, {phase: attempt_of((folder / marker_of(phase)).read_bytes()) for phase in committed})
    markers = {marker_of(phase) for phase in committed}
    heavy = {phase for phase in committed if PurePosixPath(phase).name in WEIGHTS}
    light = [one for one in copies if one not in markers and phase_of(one) not in heavy and not one.startswith(FOLDERS)]
    objects.fetch({copies[one]: folder / one for one in light})
    reader, _ = Reader.open(folder, objects.uri)
    for manifest in reader.committed():
        if manifest.phase not in WEIGHTS and (fault := manifests.damage(folder, manifest)):
            where = manifests.phase_folder(manifest.round, manifest.phase)
            raise StoreError(
                f"{objects.uri}: {where}: {fault}; try again, or resume the run, which repairs its last phase"
            )


def _no_run(where: str) -> StoreError:
    return StoreError(f"{where}: not a run directory, run.json is missing; give a place that `scpl run` made")


def _order(phase: str) -> tuple[str, int]:
    _, round_, name = phase.split("/")
    return round_, PHASES.index(name)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _read_state(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """ETags by name, and the attempt of each phase that is not yet fully uploaded.

    Both are empty if the state file is missing or damaged.
    """
    try:
        state = json.loads(inside.read_below(root, STATE, manifests.MOST_BYTES))
        return dict(state["etags"]), dict(state["pending"])
    except FileNotFoundError:
        return {}, {}
    except (ValueError, KeyError, TypeError, RecursionError):
        logger.warning("%s is damaged; everything is fetched again", root / STATE)
        return {}, {}
