"""The run directory: the only code that knows its layout.

::

    RUN_DIR/
      config.yaml  run.json  lock  code.json (where the config names code of the user's)
      versions.json                  where packages were upgraded meanwhile: see scpl_ray.storage.upgrades
      rounds/000/...                 round 0: base, evaluation
      rounds/001/<phase>/...         the phases in PHASES, each with manifest.json, which is written last
      metrics.parquet  summary.json  written when the run is finished
      logs/  tensorboard/  ray/

Writing its manifest (names, sizes, SHA-256, seconds) commits a phase. Every file is written under a temporary name and
moved into place. The files of a phase without a manifest are ignored, and the phase is done again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import shlex
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Self

import pyarrow as pa

from scpl_ray import records
from scpl_ray.config import Experiment, loading
from scpl_ray.records import Example, Manifest, Metric, Record, Weights
from scpl_ray.storage import code_file, consent, inside, manifests, redoing, run_facts, tables
from scpl_ray.storage.errors import InUseError, StoreError
from scpl_ray.storage.files import sha256, sync, sync_tree, write_atomically
from scpl_ray.storage.manifests import LOCK, MANIFEST
from scpl_ray.storage.phase import Phase, as_json
from scpl_ray.storage.run_facts import CHECKPOINTS, CONFIG, RUN

logger = logging.getLogger(__name__)

FORMAT = 2
PHASES = (
    "base",
    "queries",
    "reward_model",
    "completions",
    "scores",
    "selection",
    "dataset",
    "weights",
    "evaluation",
    "feedback",
)
"""Phases in the order in which they are committed; round 0 has only ``base`` and ``evaluation``."""


CODE = "code.json"
BASE = "model"
"""The fact of the phase ``base`` that says where the base model lay."""
FOLDERS = ("rounds", "logs", "tensorboard", "ray")
FRAME = (CONFIG, LOCK, *FOLDERS)
"""The files and folders that :meth:`Store.create` makes before the run itself exists."""
OF_LIBRARIES = ("ray", "wandb")
"""Folders in which libraries keep what this project never reads, links among it."""
MOST_ROWS: Mapping[type, int] = {Metric: 500_000}
"""Largest tables that are read, by kind of record, where they are smaller than any other."""
HOLDER_CHARACTERS = 200
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Reader:
    """Read-only access to one run directory: it takes no lock and writes nothing."""

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = root
        self.name = name or str(root)
        """The name of the run in messages: its URI, or its folder as it was given."""

    @property
    def place(self) -> str:
        """Where the run lies, whichever folder it is read from: its absolute path or its URI."""
        return str(self.root.absolute())

    @classmethod
    def open(cls, root: Path, name: str | None = None) -> tuple[Self, Experiment]:
        """Open an existing run directory, and return it with its config.

        Only the form of the config is checked: nothing that it names is looked for, imported or run.

        Raises:
            StoreError: the folder is not a run directory, or has another format.
        """
        name = name or str(root)
        facts = run_facts.read(root, name)
        if facts.get("format") != FORMAT:
            raise StoreError(
                f"{name}: run format {facts.get('format')!r}; this version reads format {FORMAT}; continue it with the "
                "version of scpl_ray that made it"
            )
        try:
            data = inside.read_below(root, CONFIG, loading.MAX_BYTES)
            experiment = loading.build(loading.decode(data, str(root / CONFIG)), str(root / CONFIG))
        except (OSError, ValueError) as error:
            raise run_facts.no_run(name, error) from error
        return cls(root, name), experiment

    @property
    def facts(self) -> Mapping[str, Any]:
        """What ``run.json`` says of the run: ``format``, ``id``, ``created``, ``versions`` and what it began with.

        Raises:
            StoreError: it cannot be read.
        """
        return run_facts.read(self.root, self.name)

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The names of the models that were measured here, one per round; empty: the rounds are those of a loop.

        Raises:
            StoreError: ``run.json`` cannot be read.
        """
        return tuple(map(str, self.facts.get(CHECKPOINTS, ())))

    def folder(self, round_: int, phase: str) -> Path:
        """The folder of a phase."""
        if phase not in PHASES:
            raise ValueError(f"phase {phase!r}: one of {', '.join(PHASES)}")
        return self.root / manifests.phase_folder(round_, phase)

    def manifest(self, round_: int, phase: str) -> Manifest | None:
        """The manifest of a committed phase; ``None`` if the phase is not committed yet.

        Raises:
            StoreError: there is something else in its place, such as a link.
        """
        return manifests.read(self.root, round_, phase)

    def read(self, round_: int, phase: str, name: str, kind: type[Record]) -> list[Record]:
        """Read the records of a committed phase.

        Raises:
            StoreError: the file is missing, damaged, or larger than any run's.
        """
        return records.from_table(self.table(round_, phase, name, kind), kind)

    def table(
        self, round_: int, phase: str, name: str, kind: type[Record], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The records of a committed phase as a table, of all or some of their columns; errors as :meth:`read`."""
        file = f"{manifests.phase_folder(round_, phase)}/{name}.parquet"
        return tables.read_below(
            self.root,
            file,
            records.SCHEMAS[kind],
            most_rows=MOST_ROWS.get(kind, tables.MOST_ROWS),
            columns=columns,
            added=records.ADDED.get(kind, ()),
            own=self.is_own(round_, phase),
        )

    def is_own(self, round_: int, phase: str) -> bool:
        """Whether this object has written a phase itself; the files of others are decoded in a limited process."""
        return False

    def column(self, round_: int, phase: str, kind: type[Record], column: str) -> pa.ChunkedArray:
        """One column of the records that a committed phase is named for; errors as :meth:`read`."""
        return self.table(round_, phase, phase, kind, [column])[column]

    def text(self, name: str) -> str | None:
        """A small text file of the run, by its name below the run directory; ``None`` if there is none.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return inside.read_below(self.root, name, manifests.MOST_BYTES).decode("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{self.root / name}: cannot be read ({run_facts.reason(error)}); restore it") from error

    def policy(self, experiment: Experiment, base: Path, version: int) -> Weights:
        """The location of the weights of a policy version; version 0 is the base model."""
        if version == 0:
            return Weights(0, base)
        folder = self.folder(version, "weights")
        adapter = folder / "adapter" if experiment.model.lora else None
        merged = adapter is None or experiment.generation.refresh == "reload"
        return Weights(version, folder / "model" if merged else base, adapter)

    def base(self) -> Path:
        """The folder where the base model lay when the run began.

        Raises:
            StoreError: the run has no base model yet, does not say where it lay, or it is not there any more.
        """
        manifest = self.manifest(0, "base")
        place = manifest.facts.get(BASE) if manifest is not None else None
        if not isinstance(place, str):
            adapter = self.text(f"{manifests.phase_folder(1, 'weights')}/adapter/adapter_config.json")
            place = json.loads(adapter).get("base_model_name_or_path") if adapter is not None else None
        if not isinstance(place, str):
            raise StoreError(f"{self.name}: does not say where its base model lies; continue the run until round 1")
        if not Path(place).is_dir():
            raise StoreError(f"{self.name}: its base model lay in {place}, which is not there; bring it back")
        return Path(place)

    def read_json(self, round_: int, phase: str, name: str) -> Any:
        """Read a JSON value of a committed phase.

        Raises:
            StoreError: it is missing, damaged, or larger than any run's.
        """
        file = f"{manifests.phase_folder(round_, phase)}/{name}.json"
        text = self.text(file)
        try:
            return json.loads(text or "")
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self.root / file}: cannot be read ({run_facts.reason(error)}); restore it") from error

    @property
    def code(self) -> list[dict[str, Any]]:
        """The user's code with which the rounds were made; see :func:`scpl_ray.own.sources.kept`. Nothing is imported.

        Each entry also has ``from_round``, the first round that it may have made a part of.

        Raises:
            StoreError: it cannot be read.
        """
        text = self.text(CODE)
        try:
            return code_file.decoded(text) if text is not None else []
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{self.root / CODE}: cannot be read ({run_facts.reason(error)}); restore it") from error

    def committed(self) -> Iterator[Manifest]:
        """All committed phases in order.

        Raises:
            StoreError: the folder of the rounds is missing or no folder of the run.
        """
        try:
            rounds = manifests.rounds_of(self.root)
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}; restore it") from error
        for round_ in rounds:
            for phase in PHASES:
                manifest = self.manifest(round_, phase)
                if manifest is not None:
                    yield manifest


class Store(Reader):
    """Read and write access to one run directory, which this process locks until :meth:`close`."""

    def __init__(self, root: Path, name: str | None = None) -> None:
        super().__init__(root, name)
        self.commits: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        """Makes the context manager that surrounds every commit; it lets a Ctrl-C handler wait for the commit's end."""
        self._own: set[Path] = set()
        self._lock = os.fdopen(inside.open_below(root, LOCK, os.O_RDWR | os.O_CREAT), "r+", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._lock.read(HOLDER_CHARACTERS).strip()
            self._lock.close()
            raise InUseError(
                f"{self.name}: in use by {holder}; wait for it, stop it, or give another --run-dir"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()
        try:
            for folder in FOLDERS:
                inside.make_folder(root, folder)
            for leftover in root.glob(".*.tmp"):
                inside.remove_below(root, leftover.name)
        except OSError:
            self._lock.close()
            raise

    @classmethod
    def create(
        cls, root: Path, experiment: Experiment, versions: Mapping[str, str], began: Mapping[str, Any] = NOTHING
    ) -> Self:
        """Create a new run directory; a folder left by a process that died before its run began is reused.

        Raises:
            StoreError: the folder exists and is not empty, or cannot be made.
        """
        try:
            root.mkdir(parents=True, exist_ok=True)
            if any(path.name not in FRAME and not path.name.endswith(".tmp") for path in root.iterdir()):
                raise StoreError(
                    f"{root}: not empty; continue that run with --resume {shlex.quote(str(root))}, or give another "
                    "--run-dir"
                )
            store = cls(root)
            store.begin(experiment, versions, began)
        except OSError as error:
            where = error.filename or root
            raise StoreError(f"{where}: {error.strerror}; give a folder that can be written with --run-dir") from error
        return store

    @classmethod
    def open(cls, root: Path, name: str | None = None, *, thorough: bool = False) -> tuple[Self, Experiment]:
        """Open an existing run directory, check its phases as :meth:`check` does, and return it with its config.

        Raises:
            StoreError: the folder is not a run directory, has another format, is in use, is unreadable, or has a
                committed phase whose files were changed.
        """
        _, experiment = Reader.open(root, name)
        with _usable(name or str(root)):
            store = cls(root, name)
            try:
                store.check(thorough=thorough)
            except BaseException:
                store.close()
                raise
        return store, experiment

    def begin(self, experiment: Experiment, versions: Mapping[str, str], began: Mapping[str, Any] = NOTHING) -> None:
        """Make the locked folder a run directory: write its config, then ``run.json``, which marks it as one.

        Args:
            experiment: the config.
            versions: of the packages that a result depends on.
            began: what else is known of its beginning; see :mod:`scpl_ray.storage.run_facts`.
        """
        self.extend(experiment)
        created = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        identity = uuid.uuid4().hex
        run = {**began, "format": FORMAT, "id": identity, "created": created, "versions": dict(versions)}
        write_atomically(self.root / RUN, as_json(run))
        consent.give(identity, experiment)

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def extend(self, experiment: Experiment) -> None:
        """Write the config of the run; existing records must not depend on what has changed in it.

        Raises:
            StoreError: the run directory cannot be written.
        """
        with _usable(self.name):
            write_atomically(self.root / CONFIG, loading.dump(experiment).encode())

    @contextlib.contextmanager
    def phase(self, round_: int, phase: str) -> Iterator[Phase]:
        """Do a phase: its folder is emptied first, and it is committed if the ``with`` block ends without an error.

        Raises:
            StoreError: a later phase is already committed, and doing this phase would change what it was built on.
        """
        folder = self.folder(round_, phase)
        after = [self.folder(round_, later) for later in PHASES[PHASES.index(phase) + 1 :]]
        after += [self.folder(round_ + 1, later) for later in PHASES]
        for later in after:
            if (later / MANIFEST).exists():
                raise StoreError(
                    f"{self.name}: {folder.relative_to(self.root)} is missing but {later.relative_to(self.root)} was "
                    f"built on it; restore it, or {redoing.remedy(self.root, round_, phase)}"
                )
        with _usable(self.name):
            inside.remove_below(self.root, manifests.phase_folder(round_, phase))
            inside.make_folder(self.root, manifests.phase_folder(round_, phase))
        started = time.monotonic()
        work = Phase(folder)
        yield work
        with self.commits():
            manifest = Manifest(round_, phase, 0.0, time.time(), {}, work.facts)
            stamp = manifests.stamp_ns(manifest)
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            for path in paths:
                os.utime(path, ns=(stamp, stamp))
            sync_tree(folder)
            for above in (folder.parent, folder.parent.parent):
                sync(above)
            files = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths}
            self.announce(folder)
            manifests.write(self.root, dataclasses.replace(manifest, seconds=time.monotonic() - started, files=files))
            self._own.add(folder)
            self.publish(folder)

    def is_own(self, round_: int, phase: str) -> bool:
        """See :meth:`Reader.is_own`."""
        return self.folder(round_, phase) in self._own

    def delete(self, manifest: Manifest, names: Collection[str]) -> None:
        """Delete files of a committed phase that nothing needs any more; its manifest says so first.

        What a process that died in between left behind of the files that the manifest calls deleted goes too.

        Raises:
            StoreError: a file cannot be deleted.
        """
        folder = manifests.phase_folder(manifest.round, manifest.phase)
        deleted = tuple(sorted({*manifest.deleted, *names}))
        with self.commits(), _usable(self.name):
            if deleted != manifest.deleted:
                manifests.write(self.root, dataclasses.replace(manifest, deleted=deleted))
            self.withdraw(self.root / folder, deleted)
            for name in deleted:
                inside.remove_below(self.root, f"{folder}/{name}")
            folders = {above for name in deleted for above in PurePosixPath(name).parents if above.name}
            for above in sorted(folders, reverse=True):
                inside.remove_empty(self.root, f"{folder}/{above}")

    def finish(self, metrics: Sequence[Metric], summary: Mapping[str, Any]) -> None:
        """Write the metrics and the summary of a finished run."""
        Phase(self.root).write("metrics", metrics, Metric)
        write_atomically(self.root / run_facts.SUMMARY, as_json(summary))

    def keep_code(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Write ``code.json``: the user's code with which the rounds were made, one entry per change of it.

        Raises:
            StoreError: the run directory cannot be written.
        """
        with _usable(self.name):
            write_atomically(self.root / CODE, code_file.encoded(entries))

    def announce(self, folder: Path) -> None:
        """Called right before a commit; a store that keeps its run elsewhere notes that the phase is to be uploaded."""

    def publish(self, folder: Path) -> None:
        """Called after every commit with the phase's folder; a store that keeps its run elsewhere uploads it."""

    def withdraw(self, folder: Path, names: Collection[str]) -> None:
        """Called with files of a phase that its manifest calls deleted, before they are; a store that keeps its run
        elsewhere deletes them there."""

    def take_back(self, folder: Path) -> None:
        """Undo the commit of a phase, so that the phase is done again."""
        (folder / MANIFEST).unlink()

    def fault(self, manifest: Manifest, *, thorough: bool = False) -> str | None:
        """A description of what is wrong with the files of a committed phase; ``None`` if nothing is."""
        return manifests.damage(self.root, manifest, thorough=thorough)

    def check(self, *, thorough: bool = False) -> None:
        """Undo the commit of the last phase if its files are damaged; damage to an earlier phase is an error.

        Args:
            thorough: hash every file, not only those that were changed or never compared since they were written.

        Raises:
            StoreError: there is such damage, or something outside of the phases is a link or no regular file.
        """
        for name, what in inside.strangers(self.root, skip=(manifests.ROUNDS, *OF_LIBRARIES)):
            raise StoreError(f"{self.root / name}: {what}; remove it")
        phases = list(self.committed())
        for position, manifest in enumerate(phases):
            folder = self.folder(manifest.round, manifest.phase)
            fault = self.fault(manifest, thorough=thorough)
            if fault is None:
                continue
            where = f"{folder.relative_to(self.root)}: {fault}"
            if position + 1 < len(phases):
                remedy = redoing.remedy(self.root, manifest.round, manifest.phase)
                raise StoreError(
                    f"{self.name}: {where}, and later phases were built on it; restore the file, or {remedy}"
                )
            logger.warning("%s; the phase is done again", where)
            self.take_back(folder)
        last = phases[-1] if phases else None
        # None: it has just been taken back
        kept = None if last is None else self.manifest(last.round, last.phase)
        if kept is not None and kept.phase == "dataset" and "dataset.parquet" in kept.files:
            # training reads it next, in processes that decode it themselves
            self.read(kept.round, kept.phase, "dataset", Example)


@contextlib.contextmanager
def _usable(name: str) -> Iterator[None]:
    """Convert operating-system errors inside the ``with`` block to a :class:`StoreError` about the run directory."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{name}: {error.filename} cannot be used ({error.strerror}); make the run directory one that you can read "
            "and write"
        ) from error
