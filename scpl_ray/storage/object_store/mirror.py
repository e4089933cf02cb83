"""A run in an object store: a locked working copy in the cache folder, uploaded at every commit.

The files of a phase are uploaded first, each with its size checked, and its manifest last: an interrupted upload leaves
objects without a manifest, which are ignored. The store is authoritative: opening a run makes the working copy equal to
it. The only exception is a phase that was committed here but not completely uploaded; its upload is then completed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from scpl_ray.config import Experiment
from scpl_ray.records import Manifest, Metric
from scpl_ray.storage import cache, manifests
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.manifests import LOCK, MANIFEST, committed_of, counts, phase_of
from scpl_ray.storage.object_store.lease import Lease
from scpl_ray.storage.object_store.objects import Found, Objects
from scpl_ray.storage.run_directory import PHASES, Reader, Store

logger = logging.getLogger(__name__)

STATE = ".remote.json"
"""File in the working copy with the ETags of the objects its files mirror, and the phases not yet fully uploaded."""
FOLDERS = ("logs", "tensorboard")
"""Folders that are uploaded when a run ends, successfully or not."""
LAST = ("run.json", "summary.json")
"""Files that mark that a run exists and that it is finished; they are uploaded after everything else."""
WEIGHTS = ("weights", "reward_model")
"""Phases whose files are not needed by any report."""


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
    def identity(self) -> str:
        """The URI of the run."""
        return self.name

    def clear(self) -> None:
        """Empty the working copy, which may hold the files of another run with the same URI."""
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
                path.mkdir()
            elif path.name != LOCK:
                path.unlink()
        self._etags, self._pending = {}, set()

    def begin(self, experiment: Experiment, versions: Mapping[str, str]) -> None:
        """See :meth:`Store.begin`."""
        super().begin(experiment, versions)
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

    def publish(self, folder: Path) -> None:
        """Upload a committed phase: remove what an earlier attempt left, and send the manifest last.

        Raises:
            InUseError: another process has taken the run over.
            StoreError: the store cannot be used, or did not receive every byte.
        """
        name = folder.relative_to(self.root).as_posix()
        marker = f"{name}/{MANIFEST}"
        files = {path.relative_to(self.root).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        began = time.monotonic()
        with self._mutex:
            self._pending.add(name)
            self._write_state()
            self._lease.renew()
            leftover = self.objects.list(f"{name}/")
            self.objects.delete(sorted(leftover, key=lambda one: one != marker))
            arrived = self.objects.send({one: path for one, path in files.items() if one != marker})
            for one, found in arrived.items():
                if found.bytes != (size := files[one].stat().st_size):
                    raise StoreError(f"{self.name}: {one} arrived with {found.bytes} of {size} bytes; try again")
            self._lease.renew()
            arrived |= self.objects.send({marker: folder / MANIFEST})
            for one in leftover:
                self._etags.pop(one, None)
            self._etags |= {one: found.etag for one, found in arrived.items()}
            self._pending.remove(name)
            self._carry()
        size, seconds = sum(found.bytes for found in arrived.values()), time.monotonic() - began
        logger.info("%s: %d files, %.1f MB carried over in %.2f s", name, len(files), size / 1e6, seconds)

    def push(self) -> None:
        """Complete interrupted uploads."""
        for name in sorted(self._pending, key=_order):
            logger.warning("%s: %s was not carried over before; it is now", self.name, name)
            self.publish(self.root / name)

    def take_back(self, folder: Path) -> None:
        """See :meth:`Store.take_back`; the manifest is removed from the store first."""
        marker = f"{folder.relative_to(self.root).as_posix()}/{MANIFEST}"
        self.objects.delete([marker])
        self._etags.pop(marker, None)
        super().take_back(folder)

    def fault(self, manifest: Manifest) -> str | None:
        """What is wrong with a phase in the store; a faulty local copy is downloaded again first."""
        found = super().fault(manifest)
        folder = self.folder(manifest.round, manifest.phase)
        name = folder.relative_to(self.root).as_posix()
        if found is None:
            return None
        logger.warning("%s: %s: %s; it is fetched again", self.name, name, found)
        self.objects.fetch([one for one in self.objects.list(f"{name}/") if one != f"{name}/{MANIFEST}"], self.root)
        return super().fault(manifest)

    def pull(self) -> None:
        """Make the working copy equal to the store."""
        there = self.objects.list()
        if "run.json" not in there:
            raise _no_run(self.name)
        if self._etags.get("run.json") != there["run.json"].etag:
            self.clear()  # the working copy belongs to another run, or to none
        committed = committed_of(there)
        markers = {one: found.etag for one, found in there.items() if PurePosixPath(one).name == MANIFEST}
        if markers != {one: etag for one, etag in self._etags.items() if PurePosixPath(one).name == MANIFEST}:
            self._pending.clear()  # another process has resumed the run, or taken phases back
        self._pending -= committed
        if not all(self._is_whole(phase) for phase in self._pending):
            self._pending.clear()
        for path in [path for path in (self.root / "rounds").rglob("*") if path.is_file()]:
            name = path.relative_to(self.root).as_posix()
            phase = phase_of(name)
            if phase not in self._pending and (phase not in committed or name not in there):
                path.unlink()
        for path in [path for path in self.root.iterdir() if path.is_file()]:
            if path.name not in there and path.name not in (LOCK, STATE):
                path.unlink()
        counted = {one: found for one, found in there.items() if counts(one, committed)}
        self.objects.fetch([one for one, found in counted.items() if self._is_stale(one, found)], self.root)
        self._etags = {one: found.etag for one, found in counted.items()}
        self._write_state()
        for one, found in counted.items():
            if phase_of(one) is None and (stamp := _stamp(self.root / one))[1] == found.bytes:
                self._sent[one] = stamp

    def _is_whole(self, phase: str) -> bool:
        """Whether a phase is committed and undamaged in the working copy."""
        manifest = manifests.read(self.root / phase)
        return manifest is not None and manifests.damage(self.root / phase, manifest) is None

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
            for some in ([one for one in changed if one not in LAST], *([one] for one in LAST if one in changed)):
                arrived = self.objects.send({one: self.root / one for one in some})
                self._etags |= {one: found.etag for one, found in arrived.items()}
                self._sent |= {one: stamps[one] for one in some}
            self._write_state()

    def _write_state(self) -> None:
        state = {"etags": self._etags, "pending": sorted(self._pending)}
        write_atomically(self.root / STATE, (json.dumps(state, indent=1, sort_keys=True) + "\n").encode())


def fetch_records(objects: Objects, folder: Path) -> None:
    """Download the part of a run that reports read, which excludes weights.

    Raises:
        StoreError: there is no run, or it is damaged.
    """
    there = objects.list()
    if "run.json" not in there:
        raise _no_run(objects.uri)
    committed = committed_of(there)
    names = [one for one in there if counts(one, committed) and not one.startswith(FOLDERS)]
    (folder / "rounds").mkdir(parents=True)
    heavy = {phase for phase in committed if PurePosixPath(phase).name in WEIGHTS}
    objects.fetch([one for one in names if phase_of(one) not in heavy or one.endswith(f"/{MANIFEST}")], folder)
    reader, _ = Reader.open(folder, objects.uri)
    for manifest in reader.committed():
        where = reader.folder(manifest.round, manifest.phase)
        if manifest.phase not in WEIGHTS and (fault := manifests.damage(where, manifest)):
            raise StoreError(
                f"{objects.uri}: {where.relative_to(folder)}: {fault}; try again, or resume the run, which repairs its "
                "last phase"
            )


def _no_run(where: str) -> StoreError:
    return StoreError(f"{where}: not a run directory, run.json is missing; give a place that `scpl run` made")


def _order(phase: str) -> tuple[str, int]:
    _, round_, name = phase.split("/")
    return round_, PHASES.index(name)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


def _read_state(root: Path) -> tuple[dict[str, str], set[str]]:
    """ETags by name, and the phases not yet fully uploaded; both empty if the state file is missing or damaged."""
    try:
        state = json.loads((root / STATE).read_bytes())
        return dict(state["etags"]), set(state["pending"])
    except FileNotFoundError:
        return {}, set()
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is damaged; everything is fetched again", root / STATE)
        return {}, set()
