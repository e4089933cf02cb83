"""In which format a run computes: ``model.dtype``, and what ``auto`` means on this machine.

On a GPU it is bfloat16, but for GPUs that do not multiply it, with which vLLM refuses it. On a CPU it is bfloat16 only
where the processor multiplies bfloat16 itself, and only for models that are large enough to gain by it: elsewhere each
number is converted before it is used, which is slower than float32.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from scpl_ray.config import Experiment

Format = Literal["float32", "bfloat16"]

LARGE = 30_000_000
"""Weights from which a model gains by bfloat16: below, a step is made of what does not depend on the format."""
NATIVE = {"x86_64": ("avx512_bf16", "amx_bf16"), "aarch64": ("bf16",)}
"""Flags of processors that multiply bfloat16, by architecture, as in ``/proc/cpuinfo``; one of them is enough."""
CAPABILITY = (8, 0)
"""The first compute capability of NVIDIA's GPUs that multiply bfloat16."""
CPUINFO = Path("/proc/cpuinfo")


def flags(text: str) -> frozenset[str]:
    """The features of the first processor in the text of ``/proc/cpuinfo``."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def native_bfloat16(found: Iterable[str] | None = None, architecture: str | None = None) -> tuple[str, ...]:
    """The features by which a processor multiplies bfloat16 itself; none: it does not.

    Args:
        found: its features; ``None``: those of this machine.
        architecture: ``None``: that of this machine.
    """
    if found is None:
        found = flags(CPUINFO.read_text(encoding="utf-8")) if CPUINFO.is_file() else ()
    known = NATIVE.get(architecture or platform.machine(), ())
    return tuple(flag for flag in known if flag in set(found))


def computed_in(experiment: Experiment, parameters: int | None, *, on_gpu: bool) -> Format:
    """The format that ``model.dtype`` means.

    Args:
        experiment: the config.
        parameters: number of the policy's parameters; ``None``: not known yet. A tiny model is small all the same, and
            what is still to be downloaded or converted counts as large.
        on_gpu: whether the run computes on GPUs that multiply bfloat16; for others see :func:`suited`.
    """
    if experiment.model.dtype != "auto":
        return experiment.model.dtype
    if on_gpu:
        return "bfloat16"
    large = not experiment.model.built_here and (parameters is None or parameters >= LARGE)
    return "bfloat16" if large and native_bfloat16() else "float32"


def decided(experiment: Experiment, parameters: int | None, *, on_gpu: bool) -> Experiment:
    """The experiment with ``model.dtype`` as :func:`computed_in` says, for processes that do not know the machine."""
    return in_format(experiment, computed_in(experiment, parameters, on_gpu=on_gpu))


def in_format(experiment: Experiment, dtype: Format | None) -> Experiment:
    """The experiment with this format where its ``model.dtype`` is ``auto``; ``None``: as it is."""
    if dtype is None or experiment.model.dtype != "auto":
        return experiment
    return experiment.model_copy(update={"model": experiment.model.model_copy(update={"dtype": dtype})})


def suited(experiment: Experiment, without: Sequence[str]) -> Experiment:
    """The experiment with ``model.dtype: auto`` as float32 where GPUs of some nodes do not multiply bfloat16.

    Args:
        experiment: the config.
        without: the names of these nodes.

    Raises:
        ValueError: bfloat16 is asked for.
    """
    if without and experiment.model.dtype == "bfloat16":
        raise ValueError(
            f"model.dtype = 'bfloat16': the GPUs of {', '.join(without)} do not multiply it (compute capability below "
            f"{shown(CAPABILITY)}); set model.dtype=float32, or leave it at auto"
        )
    return in_format(experiment, "float32" if without else None)


def shown(capability: Sequence[int]) -> str:
    """A compute capability as text: ``8.0``."""
    return ".".join(map(str, capability))


def explained_on_gpus(capabilities: Sequence[Sequence[int]]) -> tuple[Format, str]:
    """What ``model.dtype: auto`` means on GPUs of these compute capabilities, and why, for people."""
    lowest = min(map(tuple, capabilities))
    why = f"compute capability {shown(lowest)}; GPUs multiply bfloat16 from {shown(CAPABILITY)} on"
    return "bfloat16" if lowest >= CAPABILITY else "float32", why


def explained() -> tuple[str, str]:
    """What ``model.dtype: auto`` means on this machine without a GPU, and why, for people."""
    native = native_bfloat16()
    if not native:
        return "float32", "this processor does not multiply bfloat16 itself: model.dtype=bfloat16 would be slower"
    return f"bfloat16 from {LARGE // 10**6} million weights on, else float32", f"this processor has {', '.join(native)}"
