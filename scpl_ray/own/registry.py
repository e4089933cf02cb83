"""Records by name: those of this project, and those that installed packages offer as entry points.

A package declares them in its ``pyproject.toml``::

    [project.entry-points."scpl_ray.rules"]
    crowding = "my_package.rules:crowding"
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")


@functools.cache
def _entry_points(group: str, path: tuple[str, ...]) -> Mapping[str, str]:
    """``module:function`` by name, as installed in the folders of ``sys.path``."""
    return {entry.name: entry.value for entry in importlib.metadata.entry_points(group=group)}


class Registry(dict[str, Record]):
    """A dictionary of this project's records, in which names of installed packages are found too.

    Its length and what it iterates over are this project's records; ``in``, ``[]`` and :meth:`get` also find the
    others, whose code is imported by the last two.

    Args:
        records: this project's.
        group: the group of entry points.
        adopt: makes a record of (name, ``module:function``).
        by_key: records that stand for a function named by another key, and say nothing without it; they are found, and
            not iterated over.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        group: str,
        adopt: Callable[[str, str], Record],
        by_key: Mapping[str, Record] | None = None,
    ) -> None:
        super().__init__(records)
        self.group = group
        self.by_key = dict(by_key or {})
        self._adopt = adopt

    def offered(self) -> dict[str, str]:
        """What installed packages offer: ``module:function`` by name. Nothing is imported."""
        found = _entry_points(self.group, tuple(sys.path))
        return {name: reference for name, reference in found.items() if not super(Registry, self).__contains__(name)}

    @property
    def names(self) -> list[str]:
        """All names: this project's, then those that packages offer."""
        return [*self, *self.by_key, *self.offered()]

    def built_in(self, name: str | None) -> Record | None:
        """A record of this project; nothing of the user's is looked for."""
        return super().get(name, self.by_key.get(name)) if name is not None else None

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.by_key or name in self.offered()

    def __missing__(self, name: str) -> Record:
        if name in self.by_key:
            return self.by_key[name]
        offered = self.offered()
        if name not in offered:
            raise KeyError(name)
        return self._adopt(name, offered[name])

    def get(self, name: str, default: Any = None) -> Any:
        """The record of this name, or the default."""
        # not super().get, which finds this project's only
        return self[name] if name in self else default  # noqa: SIM401
