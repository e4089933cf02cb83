"""The sources of the code that a config names: what is shipped to Ray's workers, and what is kept in the run."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scpl_ray.own.references import (
    PROJECT,
    SHIPPED,
    NotFoundError,
    file_of,
    files_of,
    is_installed,
    is_own,
    is_there,
    root_of,
    split,
)

MOST_BYTES = 1_000_000
"""Larger source files are kept as their checksum only."""


HOME = Path(__file__).resolve().parents[2]
"""The folder that holds the packages of this project."""
NOBODY_IMPORTS = ("test", "tests")
"""Packages of these names are installed here and there, and beside much code, and are imported by none."""


@dataclasses.dataclass(frozen=True)
class Luggage:
    """What a worker needs so that it can import the code."""

    modules: tuple[Path, ...] = ()
    """Source files and folders of packages, each importable by its own name."""
    files: tuple[Path, ...] = ()
    """The files that are named by their path."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders in which the modules lie."""
        return tuple(dict.fromkeys(path.parent for path in self.modules))

    def environment(self, *, same_machine: bool) -> dict[str, Any]:
        """The part of a Ray runtime environment that brings the code to the workers; empty without code.

        Args:
            same_machine: whether all workers run on this machine: they read the folders themselves, with all that lies
                beside the code. Elsewhere copies of the modules are sent (``py_modules``).
        """
        if not self.modules:
            return {}
        variables = {SHIPPED: os.pathsep.join(map(str, self.files))}
        if not same_machine:
            return {"env_vars": variables, "py_modules": [str(path) for path in self.modules]}
        before = [path for path in [os.environ.get("PYTHONPATH")] if path]
        return {"env_vars": {**variables, "PYTHONPATH": os.pathsep.join([*before, *map(str, self.roots)])}}


NO_CODE = Luggage()


def luggage(references: Sequence[str]) -> Luggage:
    """What must be brought along for functions that were loaded in this process.

    Raises:
        NotFoundError: two different files have one name, or a file beside one of them has that of an installed module.
    """
    modules: dict[str, Path] = {}
    files: list[Path] = []
    for reference in dict.fromkeys(references):
        where, _ = split(reference, "")
        place = root_of(where)
        if place is None or not is_own(*place):
            continue
        root = place[0]
        for top in files_of(*place):
            path = root / f"{top}.py" if is_there((root / f"{top}.py").is_file) else root / top
            if modules.setdefault(top, path) != path:
                raise NotFoundError(f"{modules[top]} and {path}: two modules of one name; rename one of them")
        if (file := file_of(where)) is not None:
            files.append(file)
    found = Luggage(tuple(modules.values()), tuple(files))
    for root in found.roots:
        _check_beside(root)
    return found


def _check_beside(root: Path) -> None:
    """Raise where a module in a folder that becomes importable in every worker would hide an installed one there."""
    beside: list[Path] = []
    with contextlib.suppress(OSError):  # a folder that may not be listed
        beside = sorted(root.iterdir())
    for path in beside:
        alone = is_there(path.is_file)
        is_module = path.suffix == ".py" if alone else is_there((path / "__init__.py").is_file)
        if is_module and _hides(path.stem, root):
            raise NotFoundError(
                f"{path}: {path.stem} is also the name of an installed module or one of Python's own, which workers "
                f"would no longer find, because they import from {root} too; rename it, or put your code into a folder "
                "of its own"
            )


def _hides(name: str, root: Path) -> bool:
    """Whether a module of this name would hide another one where its folder is importable."""
    if name in PROJECT:
        return root.resolve() != HOME
    return name not in NOBODY_IMPORTS and is_installed(name)


def kept(references: Mapping[str, str]) -> dict[str, Any]:
    """The functions by config key, and the source files that they come from, as JSON values.

    Args:
        references: by config key; they were loaded in this process.

    Returns:
        ``code`` maps keys to references; ``files`` maps the name of each file, relative to the folder of its module,
        to ``{"sha256": str, "text": str}``. Of an installed package the text of the module itself is kept, and the
        ``sha256`` alone of its other files; of a package of this project nothing but the module.
    """
    files: dict[str, dict[str, str]] = {}
    for reference in references.values():
        where, _ = split(reference, "")
        place = root_of(where)
        if place is None:
            continue
        root, top = place
        beside: list[Path] = []
        if is_own(root, top):
            found = [file for members in files_of(root, top).values() for file in members]
        else:
            path = root.joinpath(*where.split("."))
            found = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
            beside = sorted((root / top).rglob("*.py")) if top not in PROJECT else []
        for file in beside:
            files.setdefault(file.relative_to(root).as_posix(), {"sha256": _sha256(file.read_bytes())})
        for file in found:
            data = file.read_bytes()
            text = data.decode("utf-8", "replace") if len(data) <= MOST_BYTES else ""
            files[file.relative_to(root).as_posix()] = {"sha256": _sha256(data), "text": text}
    return {"code": dict(references), "files": dict(sorted(files.items()))}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The files whose content differs between two results of :func:`kept`, or that only one of them has.

    Files without a text that only ``now`` has are left out: earlier versions noted none.
    """
    names = {*before["files"], *(name for name, file in now["files"].items() if "text" in file)}
    digests = [{name: file["sha256"] for name, file in side["files"].items()} for side in (before, now)]
    return sorted(name for name in names if digests[0].get(name) != digests[1].get(name))
