"""Results of a study without the runs that made them, as where a study was published or its runs were archived.

A table is made anew from runs, so that continuing such a study would do its finished trials again, and replace the only
results that there are.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from jobs.configs import CONFIGS
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies import results, study
from scpl_ray.studies.study import Study


def check(folder: Path, plan: Study) -> None:
    """Check that every finished trial in the results table of a study has its run.

    Raises:
        StoreError: one has not, and what to do; or the table cannot be read.
    """
    if told := lost(folder, plan):
        raise StoreError(f"{folder}: {told}")


def lost(folder: Path, plan: Study) -> str:
    """Finished trials that are in the results table alone, and what to do, in words; empty where there are none.

    Raises:
        StoreError: the table cannot be read.
    """
    if plan.mode == "analytic" or not (folder / results.FILE).is_file():
        return ""
    last = results.read(folder).group_by(["arm", "seed"]).aggregate([("round", "max")])
    reached = {(row["arm"], row["seed"]): row["round_max"] for row in last.to_pylist()}
    trials = study.trials(plan, CONFIGS)
    if plan.mode == "search":
        rounds = trials[0].experiment.loop.rounds
        finished = [f"{study.SAMPLED}/{arm}" for (arm, _), round_ in reached.items() if round_ >= rounds]
    else:
        ends = [(trial, reached.get((trial.label, trial.seed), -1)) for trial in trials]
        finished = [trial.folder for trial, round_ in ends if round_ >= trial.experiment.loop.rounds]
    missing = [name for name in finished if not (folder / name / "run.json").is_file()]
    if not missing:
        return ""
    file = shlex.quote(str(folder / study.STUDY_FILE))
    trials_are = "trials are" if len(missing) > 1 else "trial is"
    return (
        f"holds results without their runs: {len(missing)} finished {trials_are} in {results.FILE} alone "
        f"({missing[0]}{', ...' if len(missing) > 1 else ''}) and would be done again; bring their runs back, or begin "
        f"a new study: scpl sweep {file}"
    )
