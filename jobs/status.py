"""``scpl status``: how far a run or a study has come.

Nothing is written or imported for it, and nothing stays locked: whether a lock is held is found out by a shared lock of
an instant, in which no run can begin there.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from jobs.configs import CONFIGS
from jobs.driver import lost_runs
from jobs.terminal.display import line_parts
from scpl_ray.config import Experiment
from scpl_ray.records import Metric
from scpl_ray.report.text import visible
from scpl_ray.storage import inside, run_facts
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.manifests import LOCK
from scpl_ray.storage.run_directory import HOLDER_CHARACTERS, PHASES, Reader
from scpl_ray.studies import study


def show(folder: Path, console: Console) -> None:
    """Print the state of a run or of a study.

    Raises:
        StoreError: the folder is neither, or cannot be read.
        ConfigError: a study file is damaged.
    """
    of_study = (folder / study.STUDY_FILE).is_file()
    if not of_study and not (folder / run_facts.RUN).is_file():
        raise StoreError(
            f"{folder}: neither a run nor a study, {run_facts.RUN} and {study.STUDY_FILE} are missing; give a folder "
            "that `scpl run` or `scpl sweep` made"
        )
    lines = _study(folder) if of_study else _run(folder)
    for line in lines:
        console.print(visible(line), markup=False)


def holder(folder: Path) -> str | None:
    """Who is running a run or study, in words; ``None``: nobody, or nobody on this machine."""
    try:
        with os.fdopen(inside.open_below(folder, LOCK), "r", encoding="utf-8", errors="replace") as file:
            try:
                # shared, and released at once
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(HOLDER_CHARACTERS).strip()
    except OSError:
        return None
    return None


def state(reader: Reader, experiment: Experiment) -> str:
    """The state of a run in a few words."""
    done = _rounds_done(reader, experiment)
    rounds = None if reader.checkpoints else experiment.loop.rounds
    if run_facts.is_summed_up(reader.root, rounds) and done == experiment.loop.rounds:
        return "finished"
    running = holder(reader.root)
    return f"running: {running}" if running is not None else "stopped"


def _rounds_done(reader: Reader, experiment: Experiment) -> int:
    """The last evaluated round; -1 before round 0 is."""
    rounds = range(experiment.loop.rounds + 1)
    return max((t for t in rounds if reader.manifest(t, "evaluation") is not None), default=-1)


def _run(folder: Path) -> Iterator[str]:
    reader, experiment = Reader.open(folder)
    done, now = _rounds_done(reader, experiment), state(reader, experiment)
    committed = list(reader.committed())
    if reader.checkpoints:
        yield f"{experiment.name}: {now}; {done + 1} of {len(reader.checkpoints)} checkpoints measured"
        if now == "finished":
            yield f"its page: scpl report {shlex.quote(str(folder))}"
        return
    last = committed[-1] if committed else None
    yield f"{experiment.name}: {now}"
    yield (
        f"round {max(done, 0)} of {experiment.loop.rounds}"
        + (f"; last done: round {last.round} {last.phase.replace('_', ' ')}, {_ago(last.committed_at)}" if last else "")
        + (f"; next: {_next(last.round, last.phase)}" if last and done < experiment.loop.rounds else "")
    )
    seconds = [
        sum(m.seconds for m in committed if m.round == t and m.phase != "reward_model") for t in range(1, done + 1)
    ]
    if seconds and now != "finished":
        mean = sum(seconds) / len(seconds)
        left = mean * (experiment.loop.rounds - done)
        yield f"{mean:.0f} s a round; about {_span(left)} for the rest"
    if done >= 0:
        rows = reader.read(done, "evaluation", "metrics", Metric)
        shares = " ".join(f"{row.group} {row.value:.2f}" for row in rows if row.metric == "share")
        yield f"round {done}: shares {shares}  " + "  ".join(
            line_parts({row.metric: row.value for row in rows if row.group is None})
        )
    for entry in reader.code:
        names = ", ".join(f"{key} = {name}" for key, name in entry["code"].items())
        yield f"code of its user's, from round {entry['from_round']} on: {names}"
    if now == "stopped":
        yield f"continue it with: scpl run --resume {shlex.quote(str(folder))}"
    if now == "finished":
        yield f"its page: scpl report {shlex.quote(str(folder))}"


def _next(round_: int, phase: str) -> str:
    if phase == PHASES[-1] or (round_ == 0 and phase == "evaluation"):
        return f"round {round_ + 1} {PHASES[1]}"
    return f"round {round_} {PHASES[PHASES.index(phase) + 1].replace('_', ' ') if round_ else 'evaluation'}"


def _study(folder: Path) -> Iterator[str]:
    plan = study.load(folder / study.STUDY_FILE, CONFIGS)
    running = holder(folder)
    if plan.mode != "engines":
        there = sorted((folder / study.SAMPLED).glob("*/run.json"))
        done = "results are there" if (folder / "results.parquet").is_file() else "no results yet"
        yield f"{plan.name}: {f'running: {running}' if running else done}" + (f"; {len(there)} trials" if there else "")
        return
    trials = study.trials(plan, CONFIGS)
    states: dict[str, list[str]] = {}
    for trial in trials:
        states.setdefault(_trial_state(folder / trial.folder), []).append(f"{trial.label} seed {trial.seed}")
    finished = len(states.get("finished", ()))
    word = "finished" if finished == len(trials) else f"running: {running}" if running else "stopped"
    yield f"{plan.name}: {word}; {finished} of {len(trials)} trials finished"
    for name, members in states.items():
        if name != "finished":
            yield f"  {name}: {len(members)} ({members[0]}{', ...' if len(members) > 1 else ''})"
    if word == "stopped" and (told := lost_runs.lost(folder, plan)):
        yield told
        yield f"its page: scpl report {shlex.quote(str(folder))}"
    elif word == "stopped":
        yield f"continue it with: scpl sweep --resume {shlex.quote(str(folder))}"
    elif word == "finished":
        yield f"its page: scpl report {shlex.quote(str(folder))}"


def _trial_state(folder: Path) -> str:
    if not (folder / "run.json").is_file():
        return "not begun"
    try:
        reader, experiment = Reader.open(folder)
        now = state(reader, experiment)
        done = max(_rounds_done(reader, experiment), 0)
    except StoreError:
        return "cannot be read"
    return now if now == "finished" else f"{now.partition(':')[0]}, round {done} of {experiment.loop.rounds}"


def _ago(then: float) -> str:
    return f"{_span(max(0.0, time.time() - then))} ago"


def _span(seconds: float) -> str:
    """A duration in the largest unit of which there is one."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
