"""Self-consuming performative loops of language models: the science and the files. It imports neither Ray nor vLLM.

``import scpl_ray as scpl`` is also the Python interface. It imports nothing until a name is asked for, so that it costs
no time: the config, the records and what reads and runs them are found when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from jobs.api import Figures, Report, Run, Study, compare, load, read, resume, run, simulate, sweep
    from scpl_ray.config import (
        Analytic,
        Cycle,
        Evaluation,
        Experiment,
        Feedback,
        Generation,
        Groups,
        Loop,
        Lora,
        Model,
        Placement,
        Queries,
        Reward,
        Selection,
        Task,
        Tracking,
        Training,
    )
    from scpl_ray.protocols import RoundDone, TrainingStep

_CONFIG, _RECORDS, _INTERFACE = "scpl_ray.config", "scpl_ray.protocols", "jobs.api"
_HOME = {
    **dict.fromkeys(
        (
            *("Analytic", "Cycle", "Evaluation", "Experiment", "Feedback", "Generation", "Groups", "Lora", "Loop"),
            *("Model", "Placement", "Queries", "Reward", "Selection", "Task", "Tracking", "Training"),
        ),
        _CONFIG,
    ),
    **dict.fromkeys(("RoundDone", "TrainingStep"), _RECORDS),
    **dict.fromkeys(
        ("Figures", "Report", "Run", "Study", "compare", "load", "read", "resume", "run", "simulate", "sweep"),
        _INTERFACE,
    ),
}
"""The module that each name of the interface comes from. The last one starts processes, so it stands above this
package, and nothing in this package may use it."""

__all__ = [
    "Analytic",
    "Cycle",
    "Evaluation",
    "Experiment",
    "Feedback",
    "Figures",
    "Generation",
    "Groups",
    "Loop",
    "Lora",
    "Model",
    "Placement",
    "Queries",
    "Report",
    "Reward",
    "RoundDone",
    "Run",
    "Selection",
    "Study",
    "Task",
    "Tracking",
    "Training",
    "TrainingStep",
    "__version__",
    "compare",
    "load",
    "read",
    "resume",
    "run",
    "simulate",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
