"""What a message about a run that exists already may tell its user to change."""

from __future__ import annotations

import re
import shlex

from jobs.driver import inputs
from scpl_ray.config import Experiment, code
from scpl_ray.config.errors import all_keys
from scpl_ray.config.schema import MAY_CHANGE

KEY = re.compile(r"(?<![\w./-])[a-z_]+\.[a-z_.]*[a-z_](?!\w)")


def resumed_with(text: str, run: str) -> str:
    """The command that resumes a run after an error, in words.

    Args:
        text: the message of the error. Keys that it names and that may change in a run are offered; code of the user's
            own is to be mended; of the others it is said that only a new run can have another value.
        run: the folder or URI of the run.
    """
    known = {key for key, _, _ in all_keys(Experiment)}
    named = [key for key in dict.fromkeys(KEY.findall(text)) if key in known]
    free = [key for key in named if key in MAY_CHANGE or key in inputs.DATA]
    mended = [key for key in named if key in code.KEYS and f"{key}: " in text]
    fixed = [key for key in named if key not in (*free, *mended)]
    command = f"scpl run --resume {shlex.quote(run)}"
    if len(free) == 1:
        command += f" {free[0]}=VALUE"
    elif free:
        command += f" KEY=VALUE\nwhere KEY may be {', '.join(free[:-1])} or {free[-1]}"
    if mended:
        command += f"\nafter mending, or bringing back, the code that {' and '.join(mended)} names"
    if fixed:
        command += f"\nthis run keeps its {', '.join(fixed)}: only a new run can have another value"
    return command
