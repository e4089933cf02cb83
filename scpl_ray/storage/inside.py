"""Files below a folder whose content others may have made, such as a run directory that was received.

Every component of a name is opened relative to its parent and without following a link, so nothing outside of the
folder is ever read, written or removed. The folder itself may be given through links. Only regular files are opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from scpl_ray.config import regular

LINK = "a symbolic link; links below a run directory are not followed"
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def parent_of(root: Path, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Yield a descriptor of the folder that holds ``name``, and the last component of the name.

    Args:
        root: the folder; it must exist.
        name: a relative path with ``/`` below it.
        make: whether folders on the way are made where they are missing.

    Raises:
        OSError: the name leads out of the folder, or something on the way is missing or no real folder.
    """
    *above, last = _parts(root, name)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth, part in enumerate(above):
            where = root.joinpath(*above[: depth + 1])
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=descriptor)
            inner = _open(part, FOLDER_FLAGS, descriptor, where)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, last
    finally:
        os.close(descriptor)


def open_below(root: Path, name: str, flags: int = os.O_RDONLY, *, make: bool = False) -> int:
    """Open a regular file below a folder; returns its descriptor. A new file has the permissions that the umask leaves.

    Raises:
        OSError: as :func:`parent_of`; or the file is missing, a link, or not a regular file.
    """
    with parent_of(root, name, make=make) as (folder, last):
        descriptor = _open(last, flags | os.O_NOFOLLOW | regular.SAFE, folder, root / name)
    try:
        regular.check(descriptor, root / name)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_below(root: Path, name: str, most: int) -> bytes:
    """The content of a regular file below a folder, at most ``most`` bytes.

    Raises:
        OSError: as :func:`open_below`; or the file is larger.
    """
    return regular.read(open_below(root, name), root / name, most)


def make_folder(root: Path, name: str) -> None:
    """Make a folder below ``root`` and those above it, where they do not exist yet.

    Raises:
        OSError: something of this name exists and is no real folder, or the folder cannot be made.
    """
    with parent_of(root, f"{name}/.", make=True):
        return


def remove_below(root: Path, name: str) -> None:
    """Remove a file, a link, or a folder with all that is in it, below ``root``; a missing one is no error.

    Raises:
        OSError: as :func:`parent_of`; or it cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError), parent_of(root, name) as (folder, last):
        if stat.S_ISDIR(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(last, dir_fd=folder)
        else:
            os.unlink(last, dir_fd=folder)


def remove_empty(root: Path, name: str) -> None:
    """Remove a folder below ``root`` if nothing is in it; a missing one is no error.

    Raises:
        OSError: as :func:`parent_of`; or it is no folder.
    """
    with contextlib.suppress(FileNotFoundError), parent_of(root, name) as (folder, last):
        try:
            os.rmdir(last, dir_fd=folder)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def strangers(folder: Path, skip: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Everything below a real folder that is neither a folder nor a regular file, with a word for what it is.

    Args:
        folder: the folder.
        skip: names directly below it that are not looked into.
    """
    found: list[tuple[str, str]] = []

    def look(descriptor: int, prefix: str) -> None:
        with os.scandir(descriptor) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if not prefix and entry.name in skip:
                    continue
                if entry.is_symlink():
                    found.append((prefix + entry.name, LINK))
                elif entry.is_dir(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        inner = _open(entry.name, FOLDER_FLAGS, descriptor, folder / prefix / entry.name)
                        try:
                            look(inner, f"{prefix}{entry.name}/")
                        finally:
                            os.close(inner)
                elif not entry.is_file(follow_symlinks=False):
                    found.append((prefix + entry.name, "not a regular file"))

    descriptor = os.open(folder, FOLDER_FLAGS)
    try:
        look(descriptor, "")
    finally:
        os.close(descriptor)
    yield from found


def _parts(root: Path, name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name.removesuffix("/.")).parts
    if not parts or ".." in parts or parts[0] == "/":
        raise OSError(errno.EINVAL, "leads out of the folder", str(root / name))
    return (*parts, ".") if name.endswith("/.") else parts


def _open(name: str, flags: int, folder: int, where: Path) -> int:
    """``openat``, whose error names the path and says of a link that it is one."""
    try:
        return os.open(name, flags, 0o666, dir_fd=folder)
    except OSError as error:
        reason = error.strerror
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and where.is_symlink():
            reason = LINK
        raise OSError(error.errno, reason, str(where)) from error
