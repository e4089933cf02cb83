"""Files to begin with: ``scpl init``."""

from __future__ import annotations

import shlex
from pathlib import Path

from jobs import templates
from jobs.configs import CONFIGS, STUDIES
from scpl_ray.config import Experiment, loading
from scpl_ray.config.errors import ConfigError

TASK = Path(templates.__file__).parent / "own_task.py"
PLACEHOLDER = "FILE"
"""Stands for the file's own name in the template."""


def write_config(path: Path, experiment: Experiment) -> str:
    """Write a config with every key; returns what to do next.

    Raises:
        ConfigError: the file exists, cannot be written, or has the name of a built-in config.
    """
    from scpl_ray.registries import CHOICES

    if str(path) in {**CONFIGS, **STUDIES}:
        raise ConfigError(
            f"{path}: is the name of a built-in config, which it would go on to mean; to begin with that: scpl init "
            f"my.yaml --from {path}"
        )
    _write(path, loading.commented(experiment, CHOICES))
    name = f"./{path}" if str(path).startswith("-") else str(path)
    return f"{path} written; change what you like, then: scpl run {shlex.quote(name)}"


def write_task(path: Path) -> str:
    """Write a working task; returns what to do next.

    Raises:
        ConfigError: the name is not one of a module, or the file exists or cannot be written.
    """
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ConfigError(f"--task {path}: is not the name of a module; give a file such as pets.py")
    _write(path, TASK.read_text(encoding="utf-8").replace(f"{PLACEHOLDER}:build", f"{path}:build"))
    name = shlex.quote(f"task.name={path}:build")
    return f"{path} written; change what you like, then: scpl run {name} --dry-run, and without --dry-run"


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists; give another name or remove it") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a path that can be written") from error
