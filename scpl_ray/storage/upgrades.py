"""``versions.json``: the package versions under which a run went on after it had begun under others.

Those that it began with are in ``run.json``, which never changes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from scpl_ray.storage import run_facts
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.phase import as_json
from scpl_ray.storage.run_directory import Reader, Store

FILE = "versions.json"


@dataclasses.dataclass(frozen=True)
class Installed:
    """The packages under which some rounds were made."""

    from_round: int
    """The first round that they may have made a part of."""
    versions: Mapping[str, str]
    """Versions by package; empty: an earlier version of this project noted none."""


def of(run: Reader) -> list[Installed]:
    """The packages of a run, those that it began with first.

    Raises:
        StoreError: what was noted cannot be read.
    """
    first = Installed(0, _texts(run.facts.get("versions", {})))
    text = run.text(FILE)
    try:
        later = json.loads(text) if text is not None else []
        return [first, *(Installed(int(one["from_round"]), _texts(dict(one["versions"]))) for one in later)]
    except (ValueError, RecursionError, TypeError, KeyError, OverflowError) as error:
        raise StoreError(f"{run.root / FILE}: cannot be read ({run_facts.reason(error)}); restore it") from error


def in_turn(run: Reader) -> dict[str, str]:
    """The versions of each package under which a run was made, in words.

    Raises:
        StoreError: what was noted cannot be read.
    """
    found: dict[str, list[str]] = {}
    for one in of(run):
        for package, version in one.versions.items():
            turns = found.setdefault(package, [])
            if version not in turns[-1:]:
                turns.append(version)
    return {package: " then ".join(turns) for package, turns in found.items()}


def note(store: Store, from_round: int, versions: Mapping[str, str]) -> None:
    """Note the packages under which a run goes on.

    Raises:
        StoreError: what was noted cannot be read.
        OSError: the run directory cannot be written.
    """
    entries = [*of(store)[1:], Installed(from_round, versions)]
    write_atomically(store.root / FILE, as_json([dataclasses.asdict(one) for one in entries]))


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The packages whose versions differ, in words; empty: none."""
    names = [name for name in sorted({**before, **now}) if before.get(name) != now.get(name)]
    return ", ".join(f"{name} {before.get(name, 'none')} (now {now.get(name, 'none')})" for name in names)


def _texts(versions: Mapping[str, object]) -> dict[str, str]:
    return {str(name): str(version) for name, version in versions.items()}
