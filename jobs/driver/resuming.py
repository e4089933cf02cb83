"""``scpl run --resume``: what may change in a run that exists already, and what a finished one shows."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence

from rich.console import Console

from jobs.driver import advice, experiments, inputs, own_code, run
from jobs.terminal.display import closing_table, restarts_line, seconds_table
from scpl_ray import tracking
from scpl_ray.config import Experiment, code, loading
from scpl_ray.config.paths import user_path
from scpl_ray.config.schema import MAY_CHANGE
from scpl_ray.own import references
from scpl_ray.protocols import Task
from scpl_ray.records import Metric
from scpl_ray.report.seconds import phase_seconds
from scpl_ray.storage import consent, locations, retention, run_facts
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.manifests import restarts
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.studies import study


def reopen(run_dir: str, overrides: Sequence[str], *, thorough: bool = False) -> tuple[Store, Experiment, Task | None]:
    """Open a run to continue it.

    Args:
        run_dir: its folder or URI.
        overrides: ``key=value`` of :data:`~scpl_ray.config.schema.MAY_CHANGE`, or where data and models lie now; any
            other key with the value that the run has.
        thorough: hash every file of the run.

    Returns:
        The locked run, its config, and its task; ``None``: the run is finished, and nothing is needed to show it.

    Raises:
        StoreError: there is no such run, or something cannot change in it.
        ValueError: the run cannot be continued here.
    """
    folder = user_path(run_dir)
    if (folder / study.STUDY_FILE).is_file():
        raise StoreError(
            f"--resume {run_dir}: this is the folder of a study; continue it with: "
            f"scpl sweep --resume {shlex.quote(run_dir)}"
        )
    store, before = locations.resume(run_dir, thorough=thorough)
    with contextlib.ExitStack() as unless_it_continues:
        unless_it_continues.callback(store.close)
        if store.checkpoints:
            raise StoreError(
                f"--resume {run_dir}: holds measured checkpoints, no loop; give the command that measured them again, "
                f"with --output {shlex.quote(run_dir)}"
            )
        keys = dict(map(loading.parse_override, overrides))
        agreed = consent.code_of(before)
        keys = {
            key: references.anchored(value) if key in code.KEYS and isinstance(value, str) else value
            for key, value in keys.items()
        }
        restated = {key for key, value in keys.items() if key in agreed and _same_code(agreed[key], value)}
        restated |= {key for key, value in keys.items() if _has(before.model_dump(mode="json"), key, value)}
        if changed := [key for key in keys if key not in (*MAY_CHANGE, *inputs.DATA, *restated)]:
            raise StoreError(
                f"--resume {run_dir}: {', '.join(changed)} cannot change in a run, only {', '.join(MAY_CHANGE)}, and "
                f"the paths of what has moved ({', '.join(inputs.DATA)}, code); start a new run with it"
            )
        config = store.root / "config.yaml"
        rest = [text for text in overrides if loading.parse_override(text)[0] not in restated]
        after = inputs.anchored(loading.load(config, rest), list(keys))
        after = loading.build(loading.moved(after.model_dump(mode="json"), {k: keys[k] for k in restated}), str(config))
        if after.loop.rounds < before.loop.rounds:
            raise StoreError(
                f"--resume {run_dir}: loop.rounds={after.loop.rounds} is fewer than the run's {before.loop.rounds}"
            )
        task: Task | None = None
        if is_finished(store, after):
            if moved := [key for key in keys if key in inputs.DATA]:
                inputs.check_same(store, after, moved)
        else:
            retention.check_start(store, before, after)
            identity = store.facts.get("id")
            again = f"say so: --resume {shlex.quote(run_dir)} {consent.PLACE}"
            consent.require(identity, [after], keys, f"--resume {run_dir}", again)
            own_code.find_again(identity, after)
            if conflicts := experiments.conflicts(after):
                source = f"{config} with {' '.join(overrides)}" if overrides else str(config)
                raise StoreError(_advised(loading.problems(source, conflicts), store))
            inputs.check_same(store, after, keys)
            try:
                task = run.checked_plan(inputs.in_its_format(store, after))[0]
            except ValueError as error:
                raise StoreError(_advised(str(error), store)) from error
            inputs.check_judge(store, task)
            if isinstance(identity, str):
                consent.give(identity, after)
        if after != before:
            store.extend(after)
        if task is None and "store.keep" in keys:
            for round_ in range(after.loop.rounds + 1):
                retention.tidy(store, after, round_)
        unless_it_continues.pop_all()
    return store, after, task


def _has(values: object, key: str, value: object) -> bool:
    """Whether a config has a value already, so that a key only says it again."""
    for name in key.split("."):
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return values == value


def _same_code(before: object, after: object) -> bool:
    """Whether two references are one, but for the folder of its file."""
    if not isinstance(before, str) or not isinstance(after, str):
        return before == after
    return before == after or ("/" in before and before.rpartition("/")[2] == after.rpartition("/")[2])


def _advised(text: str, store: Store) -> str:
    return f"{text}\nto continue the run: {advice.resumed_with(text, store.name)}"


def is_finished(run: Reader, experiment: Experiment) -> bool:
    """Whether all rounds that an experiment asks for, and the summary of the run, are on disk."""
    last = experiment.loop.rounds
    return run_facts.is_summed_up(run.root, last) and run.manifest(last, "evaluation") is not None


def show(run_: Reader, experiment: Experiment, console: Console) -> None:
    """Print the closing tables of a run from its directory alone: no task, data, model or code of its user is read.

    A dashboard that the config names gets the rounds that are missing there.
    """
    measured = [run_.read(t, "evaluation", "metrics", Metric) for t in range(experiment.loop.rounds + 1)]
    if experiment.tracking.to is not None:
        boards = tracking.Boards(experiment, run_.root, run_.place, run_.facts.get("id"))
        for rows in measured:
            boards.write(rows)
        boards.close(finished=True)
    seconds = run.seconds_by_round(run_, experiment)
    rounds = [(t, rows, seconds[t]) for t, rows in enumerate(measured)]
    console.print(closing_table(rounds, experiment.groups.names))
    console.print(seconds_table(phase_seconds([(run_, experiment)])))
    console.print(restarts_line(restarts(run_.committed())))
    console.print(f"run directory {run_.name}: finished before, nothing was started", markup=False)
