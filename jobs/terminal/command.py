"""What every subcommand of ``scpl`` needs: configs and paths as users give them, and the message that ends it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.configs import CONFIGS, QUICK_START, STUDIES
from scpl_ray.config import errors, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.paths import user_path
from scpl_ray.credentials import masked
from scpl_ray.studies import study

if TYPE_CHECKING:
    from actors.placement.cluster import Cluster

PlannedNodes = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NODES",
        help="With --dry-run: plan for these nodes, [dim][[/]NODESx[dim]][/]CPUScpu:MEMORYgib[dim][[/]"
        ":GPUSgpu:MEMORYgib[dim]][/],..., for example 4x96cpu:1024gib:8gpu:80gib.",
    ),
]
"""The option of a command that can plan for other machines; :func:`planned_nodes` reads it."""


def planned_nodes(text: str | None, *, dry_run: bool) -> Cluster | None:
    """The cluster that ``--cluster`` describes; ``None``: it was not given.

    Raises:
        ConfigError: it was given to a command that is no dry run.
        ClusterError: it cannot be read.
    """
    if text is None:
        return None
    if not dry_run:
        raise ConfigError(f"--cluster {text}: describes a cluster for --dry-run; a run asks Ray for the real one")
    from actors.placement.cluster import described

    return described(text)


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The config file, if one is named first, and the overrides."""
    if arguments and names_file(arguments[0]):
        return config_path(arguments[0]), list(arguments[1:])
    return None, list(arguments)


def check_output(output: Path | None, read: Path | None) -> None:
    """Check that a command does not write over what it reads.

    Args:
        output: the file that it is to write.
        read: a file or folder that it reads.

    Raises:
        ConfigError: they are the same, by whatever path, or the file would lie in the folder.
    """
    if output is None or read is None or not _there(read):
        return
    if (_there(output) and output.samefile(read)) or (
        read.is_dir() and output.resolve().is_relative_to(read.resolve())
    ):
        inside = f"lies in {read}" if read.is_dir() else f"is {read}"
        raise ConfigError(f"--output {output}: {inside}, which is read; give another file")


def names_file(argument: str) -> bool:
    """Whether the first argument names a file, and is no ``KEY=VALUE``: a file may have ``=`` in its name."""
    return "=" not in argument or _there(user_path(argument), Path.is_file)


def _there(path: Path, test: Callable[[Path], bool] = Path.exists) -> bool:
    """What a test of a path says, which is no where the text is longer than any name of a file."""
    try:
        return test(path)
    except OSError:
        return False


def config_path(name: str) -> Path:
    """The file of a config that is given by its path or by the name of a built-in one.

    Raises:
        ConfigError: there is none, or it is a study.
    """
    path = CONFIGS.get(name) or STUDIES.get(name, user_path(name))
    if not _there(path):
        raise ConfigError(
            f"{name}: no such file; give a YAML file (`scpl init` writes one), a built-in config "
            f"({', '.join(CONFIGS)}), or only key=value pairs{errors.nearest(name, CONFIGS)}"
        )
    if study.kind(loading.read(path)) is study.Study:
        raise ConfigError(f"{name} is a study; run it with: scpl sweep {shlex.quote(name)}")
    return path


def base_name(path: Path | None) -> str:
    """What a study calls the config in this file: its name if it is built in, so that it is found on every machine.

    Args:
        path: the file; ``None``: the quick start.
    """
    names = (name for name, file in CONFIGS.items() if file == path)
    return QUICK_START if path is None else next(names, str(path.resolve()))


def study_path(name: str) -> Path:
    """The file of a study that is given by its path or by the name of a built-in one.

    Raises:
        ConfigError: there is none, or it is the config of one run.
    """
    if name in CONFIGS:
        raise ConfigError(f"{name} is the config of one run; run it with: scpl run {name}")
    path = STUDIES.get(name, user_path(name))
    if not _there(path):
        raise ConfigError(
            f"{name}: no such study; give a study file (scpl_ray/studies/study.py says what it holds) or one of "
            f"{', '.join(STUDIES)}{errors.nearest(name, STUDIES)}"
        )
    return path


def fail(error: Exception) -> typer.Exit:
    """One message on stderr, exit code 2: nothing was started."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"scpl: {masked(error)}", markup=False)
    return typer.Exit(2)
