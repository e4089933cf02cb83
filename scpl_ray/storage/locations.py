"""Run directories given as a URI: ``s3://BUCKET/PATH`` behaves like a local folder, ``file:///PATH`` is one."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from scpl_ray.config import Experiment
from scpl_ray.config.paths import user_path
from scpl_ray.storage import cache
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import NOTHING, Reader, Store

if TYPE_CHECKING:  # boto3 is an optional dependency and takes seconds to import
    from scpl_ray.storage.object_store.mirror import RemoteStore
    from scpl_ray.storage.object_store.objects import Objects


def create(
    where: str, experiment: Experiment, versions: Mapping[str, str], began: Mapping[str, Any] = NOTHING
) -> Store:
    """Create a new run in a folder or at a URI; see :meth:`Store.create`.

    Raises:
        StoreError: the place is not empty, is in use, or cannot be written.
    """
    if (folder := _folder(where)) is not None:
        return Store.create(folder, experiment, versions, began)
    with _opened(where) as store:
        if set(store.objects.list()) - {"config.yaml", "lock"}:
            raise StoreError(
                f"{where}: not empty; continue that run with --resume {shlex.quote(where)}, or give another --run-dir"
            )
        store.clear()
        store.begin(experiment, versions, began)
    return store


def resume(where: str, *, thorough: bool = False) -> tuple[Store, Experiment]:
    """Open an existing run in a folder or at a URI, and return it with its config; see :meth:`Store.open`.

    Raises:
        StoreError: there is no run, or it is in use, is damaged, or cannot be read.
    """
    if (folder := _folder(where)) is not None:
        return Store.open(folder, thorough=thorough)
    with _opened(where) as store:
        store.pull()
        _, experiment = Reader.open(store.root, where)
        store.check(thorough=thorough)
        store.push()
    return store, experiment


@contextlib.contextmanager
def readable(places: Sequence[str]) -> Iterator[dict[Path, str]]:
    """Make runs in folders or at URIs readable inside a ``with`` block; yields each local folder with its display name.

    For a URI, everything except weights is downloaded; the lock of the run is not taken.

    Raises:
        StoreError: a URI holds no run, or cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="scpl-") as scratch:
        found = {}
        for number, where in enumerate(dict.fromkeys(places)):
            if (folder := _folder(where)) is not None:
                found[folder.resolve()] = str(folder.resolve())
            else:
                objects = _objects(where)
                from scpl_ray.storage.object_store.mirror import fetch_records

                folder = Path(scratch).resolve() / str(number) / PurePosixPath(where).name
                fetch_records(objects, folder)
                found[folder] = objects.uri
        yield found


def local(where: str, option: str) -> Path:
    """The folder that is given for an option that accepts only local folders.

    Raises:
        StoreError: a URI of an object store was given.
    """
    if (folder := _folder(where)) is None:
        raise StoreError(f"{option} {where}: must be a local folder; of URIs, only single runs take s3://")
    return folder


@contextlib.contextmanager
def _opened(where: str) -> Iterator[RemoteStore]:
    """Yield a locked run; the lock is released only if the ``with`` block fails."""
    objects = _objects(where)
    from scpl_ray.storage.object_store.mirror import RemoteStore

    try:
        store = RemoteStore(objects)
        with contextlib.ExitStack() as stack:
            stack.callback(store.abandon)
            yield store
            stack.pop_all()
    except OSError as error:
        raise StoreError(
            f"{where}: its working copy below {cache.directory()} cannot be written ({error.strerror}); set SCPL_CACHE "
            "to a folder that can"
        ) from error


def _folder(where: str) -> Path | None:
    """The local folder that a path (``~`` is the home folder) or a URI refers to; ``None`` for an object store."""
    scheme, separator, _ = where.partition(":/")
    if not separator or not scheme.isalnum():
        return user_path(where)
    parts = urlsplit(where)
    if scheme == "file" and where.startswith("file:///"):
        return Path(unquote(parts.path))
    path = PurePosixPath(parts.path)
    plain = not (parts.query or parts.fragment) and ".." not in path.parts and "//" not in parts.path
    if scheme == "s3" and re.match(r"s3://[\w.-]+/", where) and path.name and plain:
        return None
    raise StoreError(f"{where}: not a place for a run; give a folder, file:///PATH or s3://BUCKET/PATH")


def _objects(where: str) -> Objects:
    if importlib.util.find_spec("boto3") is None:
        raise StoreError(f"{where}: needs boto3; pip install 'scpl_ray[s3]', or give a folder")
    from scpl_ray.storage.object_store.objects import Objects

    return Objects(where.rstrip("/"))
