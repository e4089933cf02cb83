"""What an NVIDIA driver and the kernels that Triton compiles need of a machine: rows of ``scpl doctor``."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/version")
"""Written by the kernel module of the driver; missing where there is none."""
LEAST_DRIVER = 580
"""The first driver branch that runs CUDA 13 (CUDA Toolkit release notes, table of minimum driver versions)."""


NAMES = ("NVIDIA driver", "C compiler", "Python.h")
"""What is looked for, in order."""


def rows(driver: Path = DRIVER) -> Iterator[tuple[str, str, str]]:
    """What is there of the driver, the C compiler and Python's headers: name, what was found, and what to do.

    Nothing is yielded on a machine without a driver.
    """
    if not driver.is_file():
        return
    version = driver_version(driver.read_text(encoding="utf-8"))
    found = "unknown" if version is None else ".".join(map(str, version))
    new = version is not None and version[0] >= LEAST_DRIVER
    yield NAMES[0], found, "" if new else f"install {LEAST_DRIVER} or newer: PyTorch is built for CUDA 13"
    compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc") or shutil.which("clang")
    yield NAMES[1], compiler or "missing", "" if compiler else "Triton compiles its kernels with it: install gcc"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    there = header.is_file()
    package = f"python{sysconfig.get_python_version()}-dev"
    yield NAMES[2], "found" if there else "missing", "" if there else f"Triton's kernels need it: install {package}"


def driver_version(text: str) -> tuple[int, ...] | None:
    """The version in the driver's own file, ``(580, 95, 5)``; ``None`` where it names none."""
    match = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text)
    return tuple(map(int, match[1].split("."))) if match else None
