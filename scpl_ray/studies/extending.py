"""Reading a study file that says only what is different from another one: its key ``extends``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from scpl_ray.config import loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.paths import user_path


def read(path: Path, bases: Collection[str]) -> dict[str, Any]:
    """The keys of a study file on top of those of the study that it extends.

    Args:
        path: the YAML file.
        bases: names of bases; any other base is a path from the folder of the file that names it, and becomes one.

    Raises:
        ConfigError: a file cannot be read, or ``extends`` leads to none that can be extended.
    """
    values = _read(path, bases)
    below = values.pop("extends", None)
    if below is None:
        return values
    if not isinstance(below, str):
        raise ConfigError(f"{path}: extends = {below!r}: give the path of another study file")
    if (path.parent / below).resolve() == path.resolve():
        raise ConfigError(f"{path}: extends = {below!r} is this file itself; give another study file")
    merged = loading.merge(_extended_once(path.parent / below, path, bases), values)
    arms = merged.get("arms")
    if isinstance(arms, dict) and (gone := {arm for arm, keys in arms.items() if keys is None}):
        merged["arms"] = {arm: keys for arm, keys in arms.items() if arm not in gone}
        # what has another form than that of a study is left for its check to refuse
        if isinstance(claims := merged.get("claims"), list):
            merged["claims"] = [claim for claim in claims if not gone & set(_inside(claim, "contrast", dict))]
        if quick := _inside(merged.get("quick"), "arms", list):
            merged["quick"] = {**merged["quick"], "arms": [arm for arm in quick if arm not in list(gone)]}
    return merged


def _inside(values: Any, key: str, form: type) -> Any:
    """The value of a key of a mapping, or an empty one where it has another form."""
    found = values.get(key) if isinstance(values, dict) else None
    return found if isinstance(found, form) else form()


def _read(path: Path, bases: Collection[str]) -> dict[str, Any]:
    """The keys of a study file; a base that is no name becomes a path from the file's folder."""

    def anchored(section: Any) -> Any:
        base = section.get("base") if isinstance(section, dict) else None
        if not isinstance(base, str) or base in bases:
            return section
        return {**section, "base": str((path.parent / user_path(base)).resolve())}

    values = anchored(loading.read(path))
    if isinstance(sizes := values.get("sizes"), dict):
        values["sizes"] = {name: anchored(size) for name, size in sizes.items()}
    return dict(values)


def _extended_once(path: Path, by: Path, bases: Collection[str]) -> dict[str, Any]:
    values = _read(path, bases)
    if "extends" in values:
        raise ConfigError(f"{by}: extends = {path.name}, which extends another study itself; extend that one")
    return values
