"""The Python interface: what ``import scpl_ray as scpl`` offers besides the config.

It stands here, above everything that it starts, and :mod:`scpl_ray` finds it by name when it is asked for.
"""

from jobs.api.reading import Figures, Report, Run, Study, read
from jobs.api.running import compare, load, resume, run, simulate, sweep

__all__ = ["Figures", "Report", "Run", "Study", "compare", "load", "read", "resume", "run", "simulate", "sweep"]
