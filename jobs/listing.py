"""``scpl list``: the names that a config, a study or the command line may use, each with one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from actors.engines.registry import ENGINES
from jobs.configs import CONFIGS, STUDIES
from scpl_ray.config import loading
from scpl_ray.config.errors import ConfigError, nearest
from scpl_ray.own.registry import Registry
from scpl_ray.registries import CHOICES


def _head(path: Path) -> str:
    """The first sentence of the comment at the head of a config."""
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or line.strip() == "#":
            break
        comment.append(line.removeprefix("#").strip())
    return re.split(r"\. (?=[A-Z])", " ".join(comment))[0].rstrip(".:")


def _title(path: Path) -> str:
    """The title of a study; where it extends another one and keeps that title, its comment says what it is."""
    return str(loading.read(path).get("title") or _head(path))


def _configs() -> dict[str, str]:
    return {name: _head(path) for name, path in CONFIGS.items()}


def _registered(key: str, registry: Registry[Any] | None = None) -> Callable[[], dict[str, str]]:
    def names() -> dict[str, str]:
        offered = registry.offered() if registry is not None else {}
        return {**CHOICES[key], **{name: f"of an installed package: {where}" for name, where in offered.items()}}

    return names


def _kinds() -> Mapping[str, tuple[str, Callable[[], Mapping[str, str]]]]:
    """What can be listed: how it is used, and its names with their meanings."""
    from scpl_ray.feedback.rules import RULES
    from scpl_ray.selection.strategies import STRATEGIES
    from scpl_ray.tasks import TASKS

    return {
        "configs": ("scpl run NAME", _configs),
        "studies": (
            "scpl sweep NAME",
            lambda: {name: _title(path) for name, path in STUDIES.items()},
        ),
        "tasks": ("task.name=NAME", _registered("task.name", TASKS)),
        "rules": ("feedback.rule=NAME", _registered("feedback.rule", RULES)),
        "strategies": ("selection.strategy=NAME", _registered("selection.strategy", STRATEGIES)),
        "cycles": ("cycle.kind=NAME", _registered("cycle.kind")),
        "presets": ("preset=NAME", _registered("preset")),
        "engines": ("generation.engine=NAME", lambda: {name: kind.meaning for name, kind in ENGINES.items()}),
        "objectives": ("training.objective=NAME", _registered("training.objective")),
        "pairs": ("training.dpo_pairs=NAME", _registered("training.dpo_pairs")),
    }


def show(what: str | None, console: Console) -> None:
    """Print all names, or those of one kind.

    Raises:
        ConfigError: there is no such kind.
    """
    kinds = _kinds()
    if what is not None and what not in kinds:
        raise ConfigError(f"{what}: nothing of this name to list; one of {', '.join(kinds)}{nearest(what, kinds)}")
    for kind, (use, names) in kinds.items():
        if what is not None and kind != what:
            continue
        found = names()
        console.print(f"[bold]{kind}[/]  [dim]{use}[/]" if what is None else f"[dim]{use}[/]")
        width = max(map(len, found))
        for name, meaning in found.items():
            console.print(f"  {name:<{width}}  {meaning}", markup=False)
