"""Functions that a config names: ``package.module:function``, or ``FILE.py:function``.

A module is found where Python finds it, the working directory included. A file is imported under its own name without
``.py``, with its folder importable too, so that it may import its neighbours.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import importlib.machinery
import importlib.util
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

FORM = re.compile(r"(?P<where>[^:]+):(?P<function>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")
SHIPPED = "SCPL_OWN_CODE"
"""Environment variable of Ray's workers: the files whose modules they can import by name, wherever the files lie."""
PROJECT = ("scpl_ray", "actors", "jobs")
"""The packages of this project, which every process has."""
INSTALLED = ("site-packages", "dist-packages")
"""A folder of this name holds what was installed, which every node has."""


class NotFoundError(ValueError):
    """Code that a config names is not there, or cannot be imported; the message says which key names it."""


class FailedError(ValueError):
    """Code of the user's own raised something; the message says which key names it, what it raised, and where."""


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A module or package of the user's own that this process has imported."""

    root: Path
    """The folder that holds it."""
    sources: Mapping[Path, tuple[int, int]]
    """Time of the last change, in ns, and bytes of each of its files: a process may live longer than one run."""
    added: bool
    """Whether its folder was made importable here."""


_LOADED: dict[str, _Loaded] = {}
"""By the name of the top-level module, like ``sys.modules``, of which this is the part that the user may edit."""


def is_reference(name: str) -> bool:
    """Whether a name has the form of a reference to a function."""
    return FORM.fullmatch(name) is not None


def split(reference: str, key: str) -> tuple[str, str]:
    """The module or file of a reference, and the function in it.

    Raises:
        NotFoundError: it has another form.
    """
    found = FORM.fullmatch(reference)
    if found is None:
        raise NotFoundError(
            f"{key}: {reference!r} is not of the form 'package.module:function' (or 'FILE.py:function')"
        )
    return found["where"], found["function"]


def file_of(where: str) -> Path | None:
    """The file of a reference, absolute; ``None`` where it names a module."""
    if where.endswith(".py") or "/" in where:
        path = Path(where)
        with contextlib.suppress(RuntimeError):  # the home folder of nobody
            path = path.expanduser()
        return path.absolute()
    return None


def anchored(reference: str) -> str:
    """The reference with the absolute path of its file, so that it means the same from every working directory."""
    if not is_reference(reference):
        return reference
    where, function = split(reference, "")
    file = file_of(where)
    return reference if file is None else f"{file}:{function}"


def load(reference: str, key: str) -> Callable[..., Any]:
    """Import a function; see :func:`find`.

    Raises:
        NotFoundError: it is not there, cannot be imported, or is no function.
    """
    found = find(reference, key)
    if not callable(found):
        raise NotFoundError(f"{key}: {reference!r} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def find(reference: str, key: str) -> Any:
    """Import what a reference names.

    A file that has changed since this process imported it is imported anew; so is one that was imported elsewhere, as
    by a notebook, and may have changed since: one that was not as it is now when this process began.

    Args:
        reference: ``package.module:function`` or ``FILE.py:function``.
        key: the config key that names it, for messages.

    Raises:
        NotFoundError: it is not there, or cannot be imported.
    """
    where, function = split(reference, key)
    try:
        module = _module(where)
    except NotFoundError as error:
        raise NotFoundError(f"{key}: {reference!r} {error}") from error
    except SystemExit as error:
        raise NotFoundError(
            f"{key}: {reference!r} cannot be imported: it ends the program ({error!r}); put what it does as a script "
            'under `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        # a user's module may raise anything while it is imported
        raise NotFoundError(
            f"{key}: {reference!r} cannot be imported: {error}; a module must lie in the working directory, "
            "on PYTHONPATH, or in an installed package"
        ) from error
    try:
        return operator.attrgetter(function)(module)
    except AttributeError as error:
        there = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise NotFoundError(
            f"{key}: {reference!r} cannot be imported: {module.__name__} has no {function}; it has {', '.join(there)}"
        ) from error


def called(reference: str, key: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call a function of the user's own, and say whose error it is if it raises one.

    Raises:
        FailedError: whatever it raised, with the key that names it, and the line.
    """
    return called_as(f"{key}: {reference!r}", function, *arguments, **named)


def called_as(who: str, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """As :func:`called`, with what a message calls the code.

    Raises:
        FailedError: whatever it raised.
    """
    try:
        return function(*arguments, **named)
    except FailedError:
        raise  # says already whose it is
    except (Exception, SystemExit) as error:
        # whatever the user's code raises is a fault of the config that names it
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        line = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""
        raise FailedError(f"{who} failed: {type(error).__name__}: {error}{line}") from error


def root_of(where: str) -> tuple[Path, str] | None:
    """The folder and the top-level name of a module or file that was loaded; ``None``: it has no source file."""
    file = file_of(where)
    if file is not None and file.is_file():
        return file.parent, file.stem
    # a worker on another node has a copy of the file's module
    top = file.stem if file is not None else where.partition(".")[0]
    module = sys.modules.get(top)
    return None if module is None else _place(module.__spec__, top)


def _place(spec: importlib.machinery.ModuleSpec | None, top: str) -> tuple[Path, str] | None:
    """As :func:`root_of`, of the top-level module that Python found so."""
    if spec is None:
        return None
    for place in [spec.origin, *(spec.submodule_search_locations or ())]:
        if place is not None and Path(place).exists():
            path = Path(place)
            return (path.parent.parent if path.name == "__init__.py" else path.parent), top
    return None


def is_own(root: Path, top: str) -> bool:
    """Whether code in this folder is the user's to edit and to bring along: neither installed nor this project's."""
    return top not in PROJECT and not any(part in INSTALLED for part in root.parts)


def is_installed(top: str) -> bool:
    """Whether a top-level name is that of a module of Python's own or of an installed package."""
    places = [path for path in sys.path if any(part in INSTALLED for part in Path(path).parts)]
    found = importlib.machinery.PathFinder.find_spec(top, places)
    return top in sys.stdlib_module_names or (found is not None and found.origin is not None)


def is_there(check: Callable[[], bool]) -> bool:
    """Whether a path is what a method of it checks; what may not be looked at is not there."""
    try:
        return check()
    except OSError:
        return False


def files_of(root: Path, top: str) -> dict[str, list[Path]]:
    """The source files of a top-level module, and of what it imports from its own folder, by top-level name.

    Args:
        root: the folder that holds it.
        top: its name; a package is taken as a whole.
    """
    found: dict[str, list[Path]] = {}
    todo = [top]
    while todo:
        name = todo.pop()
        if name in found or (name != top and not is_own(root, name)):
            continue
        alone, package = root / f"{name}.py", root / name
        if is_there(alone.is_file):
            files = [alone]
        else:
            # a folder of data may have the name of an installed package that is imported
            named = is_there((package / "__init__.py").is_file) or name == top or not is_installed(name)
            is_package = is_there(package.is_dir) and named
            files = sorted(package.rglob("*.py")) if is_package else []
        if files:
            found[name] = files
            todo += [inner for file in files for inner in _imports(file)]
    return found


def _imports(file: Path) -> Iterator[str]:
    """Top-level names that a source file imports anywhere in it."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # Python itself says so when it is imported
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _stamps(files: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    return {file: (found.st_mtime_ns, found.st_size) for file in files if file.exists() for found in [file.stat()]}


def _sources(root: Path, top: str) -> dict[Path, tuple[int, int]]:
    return _stamps(file for files in files_of(root, top).values() for file in files)


def _module(where: str) -> ModuleType:
    file = file_of(where)
    if file is None:
        return _named(where)
    if str(file) in os.environ.get(SHIPPED, "").split(os.pathsep):
        return importlib.import_module(file.stem)
    return _from_file(file)


def _from_file(file: Path) -> ModuleType:
    name = file.stem
    if not file.is_file():
        raise NotFoundError(f"cannot be imported: {file} is not there")
    if "." in name or file.suffix != ".py":
        raise NotFoundError(f"cannot be imported: {file.name} is not the name of a module, NAME.py; rename it")
    current = _current(name, file.parent)
    if current is not None:
        return current
    _drop_if_stale(name, file.parent)
    there = sys.modules.get(name)
    spec = there.__spec__ if there is not None else importlib.util.find_spec(name)
    if (there is not None or spec is not None) and _origin(spec) != file.resolve():
        raise NotFoundError(
            f"cannot be imported: {name} is also the name of {_origin(spec) or 'another module'}, which other "
            "processes would import; rename the file"
        )
    return _import(name, file.parent)


def _named(where: str) -> ModuleType:
    top = where.partition(".")[0]
    known = _LOADED.get(top)
    here = Path.cwd()
    root = here
    if known is not None and not ((known.added or _followed_here(known.root)) and files_of(here, top)):
        root = known.root
    _current(top, root)
    importlib.invalidate_caches()
    there = sys.modules.get(top)
    spec = there.__spec__ if there is not None else importlib.util.find_spec(top)
    if there is None and spec is None and files_of(here, top):
        _drop_if_stale(top, here)
        _import(top, here)
    elif top not in _LOADED and (place := _place(spec, top)) is not None and is_own(*place):
        _drop_if_stale(top, place[0])
    module = importlib.import_module(where)
    if top not in _LOADED and (place := root_of(where)) is not None and is_own(*place):
        _LOADED[top] = _Loaded(place[0], _sources(*place), added=False)
    return module


def _followed_here(root: Path) -> bool:
    """Whether Python found a folder because it was the working directory, so that it looks into another one by now."""
    for path in sys.path:
        if path in ("", "."):
            return True
        if Path(path).is_absolute() and Path(path) == root:
            return False
    return True


def _current(name: str, root: Path) -> ModuleType | None:
    """The module if it was imported from here and has not changed since; otherwise what is known of it is dropped."""
    known = _LOADED.get(name)
    if known is None:
        return None
    if known.root == root and name in sys.modules and known.sources == _stamps(known.sources):
        return sys.modules[name]
    _drop({name, *files_of(known.root, name)})
    if known.added and str(known.root) in sys.path and not any(one.root == known.root for one in _LOADED.values()):
        sys.path.remove(str(known.root))
    return None


def _modules(top: str) -> list[str]:
    """The names of a top-level module that was imported, and of all that is in it."""
    return [name for name in sys.modules if name == top or name.startswith(f"{top}.")]


def _drop(tops: Iterable[str]) -> None:
    """Forget top-level modules, so that they are imported anew; others may hold them still."""
    for top in tops:
        for module in _modules(top):
            del sys.modules[module]
        _LOADED.pop(top, None)


def _drop_if_stale(name: str, root: Path) -> None:
    """Drop a module that is not known, and its neighbours, where a file of them changed since this process began.

    Whoever imported them may have done so before the change; Python does not say of which text a module was made. What
    lies as it did then is kept, with what its functions have collected for their caller.
    """
    # a worker has the files of the process that sent it the code; a module that names itself is not imported yet
    if SHIPPED in os.environ or _is_being_imported(name):
        return
    known = {source for one in _LOADED.values() for source in one.sources.items()}
    unknown = {
        top: files
        for top, files in files_of(root, name).items()
        if _is_imported(top, root) and not _stamps(files).items() <= known
    }
    began = psutil.Process().create_time()
    if any(file.stat().st_ctime >= began for files in unknown.values() for file in files):
        _drop(unknown)


def _is_imported(top: str, root: Path) -> bool:
    """Whether a top-level module of this folder, and not another one of its name, has been imported."""
    place = _place(sys.modules[top].__spec__, top) if top in sys.modules else None
    return place is not None and place[0].resolve() == root.resolve() and not _is_being_imported(top)


def _is_being_imported(top: str) -> bool:
    specs = (sys.modules[name].__spec__ for name in _modules(top))
    return any(spec._initializing for spec in specs if spec is not None)  # type: ignore[attr-defined]


def _import(name: str, root: Path) -> ModuleType:
    """Import a top-level module from a folder, which stays importable."""
    added = str(root) not in sys.path
    if added:
        sys.path.append(str(root))
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    _LOADED[name] = _Loaded(root, _sources(root, name), added)
    return module


def _origin(spec: Any) -> Path | None:
    return Path(spec.origin).resolve() if spec is not None and spec.origin and Path(spec.origin).exists() else None
