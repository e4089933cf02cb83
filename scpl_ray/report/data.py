"""The data of a report: a read-only view of study folders and run directories, and of what is missing in them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from scpl_ray.config import Experiment
from scpl_ray.config.errors import ConfigError
from scpl_ray.report import sessions
from scpl_ray.report.sessions import Session
from scpl_ray.storage import inside, upgrades
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.manifests import MOST_BYTES
from scpl_ray.storage.run_directory import Reader
from scpl_ray.storage.run_facts import COMMAND, COMMIT
from scpl_ray.studies import results, study
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import FAILED_FILE, STUDY_FILE, Study, arm_folder, arm_label

SEED_FOLDER = re.compile(r"seed-(\d+)")
FAILED = "failed: "
"""With what the reason of a run begins that failed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """One run directory."""

    arm: str
    """Label of the run's arm in the results."""
    seed: int
    reader: Reader
    experiment: Experiment
    versions: Mapping[str, str]
    """Versions by package; of one that was upgraded before the run went on, all in turn: ``2.11.0 then 2.12.0``."""
    began: Mapping[str, str]
    """Command line and commit, where they were noted; see :mod:`scpl_ray.storage.run_facts`."""


@dataclasses.dataclass(frozen=True)
class Gap:
    """A run that is missing or stopped early."""

    arm: str
    seed: int | None
    """Seed of the run; ``None``: the run is one that a search sampled."""
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """One part of a report: a study, or the single runs that were given together."""

    title: str
    source: str
    """The folder or folders from which it was read."""
    study: Study | None
    """The study; ``None`` for single runs, which have no claims."""
    arms: tuple[str, ...]
    """Labels of all arms, including those without any result; arms of claims come first."""
    table: pa.Table
    """The tidy results table, :data:`scpl_ray.studies.results.SCHEMA`."""
    series: Series
    """The same as paths; of a study, with the planned seeds that have no result."""
    experiments: Mapping[str, Experiment]
    """The configs by label of the arm, where they are known."""
    runs: tuple[Run, ...]
    """The run directories; empty for the analytic mode."""
    gaps: tuple[Gap, ...]
    notes: tuple[str, ...]
    """Notes that a reader must know about this folder."""
    sessions: tuple[Session, ...] = ()
    """The commands that worked on the study."""
    checkpoints: tuple[str, ...] = ()
    """The models that were measured, in the order of the rounds; empty: the rounds are those of loops."""
    looks: tuple[int, ...] = ()
    """With how many seeds the results of the study were looked at, now or before."""

    @property
    def whole(self) -> int:
        """Number of seeds of which no arm lacks anything."""
        short = {gap.seed for gap in self.gaps}
        return sum(seed not in short for seed in self.series.seeds)

    @property
    def looked_at(self) -> int:
        """Number of seeds with which the results are looked at: the whole ones, or without any those with a number."""
        return self.whole or len(self.series.measured)


def load(paths: Sequence[Path], configs: Mapping[str, Path], names: Mapping[Path, str] | None = None) -> list[Part]:
    """Read study folders and run directories; all runs of loops make one part, at the end.

    Args:
        paths: one or more study folders or run directories.
        configs: built-in configs by name, for the base of a study.
        names: names to show for resolved paths, where not the path itself is shown.

    Raises:
        StoreError: a path is neither a study folder nor a run directory, or it holds no results.
        ConfigError: a study file that cannot be read.
        ValueError: a damaged results table.
    """
    parts: list[Part] = []
    runs: list[Run] = []
    for path in dict.fromkeys(p.resolve() for p in paths):
        name = (names or {}).get(path, str(path))
        if (path / STUDY_FILE).is_file():
            parts.append(_study(path, configs))
        elif (path / "run.json").is_file():
            run = _run(path, name=name)
            if run.reader.checkpoints:
                parts.append(_single([run]))
            else:
                runs.append(run)
        else:
            what = "no such folder" if not path.exists() else f"neither {STUDY_FILE} nor run.json in it"
            raise StoreError(f"{name}: {what}; give the folder of a study or of a run")
    return [*parts, *([_single(runs)] if runs else [])]


def _run(folder: Path, arm: str = "", name: str | None = None) -> Run:
    reader, experiment = Reader.open(folder, name)
    versions = upgrades.in_turn(reader)
    began = {key: str(reader.facts[key]) for key in (COMMAND, COMMIT) if key in reader.facts}
    return Run(arm or experiment.name, experiment.seed, reader, experiment, versions, began)


def _study(folder: Path, configs: Mapping[str, Path]) -> Part:
    found = study.load(folder / STUDY_FILE, configs)
    planned = _labels(found)
    by_folder = {arm_folder(label): label for label in planned}
    runs, notes = [], []
    for run_dir in sorted((folder / "runs").glob("*/*")):
        if run_dir.is_symlink() or run_dir.parent.is_symlink():
            notes.append(f"{run_dir.relative_to(folder)} is a link and is left out")
        elif (run_dir / "run.json").exists():
            # runs that a search sampled are named by their folder
            above = run_dir.parent.name
            label = run_dir.name if found.mode == "search" else by_folder.get(f"runs/{above}", above)
            try:
                runs.append(_run(run_dir, label))
            except (StoreError, ConfigError) as error:
                why = " ".join(str(error).split())
                notes.append(f"{run_dir.relative_to(folder)} cannot be read and is left out: {why}")
    if (folder / results.FILE).exists():
        table = results.read(folder)
    elif runs:
        table = results.table([(run.arm, run.seed, results.run_rows(run.reader.root)) for run in runs])
        notes.append(f"There is no {results.FILE} yet: the numbers were read from {len(runs)} run directories.")
    else:
        raise StoreError(f"{folder}: a study without any result; run it first")
    if not table.num_rows:
        raise StoreError(f"{folder}: no round was evaluated yet; let the study run until its first round is")
    experiments = {run.arm: run.experiment for run in runs}
    first: int | None = None
    if found.mode != "search":
        try:
            trials = study.trials(found.model_copy(update={"seeds": 1}), configs)
            first = min(trial.seed for trial in trials)
            experiments = {trial.label: trial.experiment for trial in trials} | experiments
        except ConfigError as error:
            notes.append(f"The configs of arms without run directories are not shown: {error}")
        if first is None:
            first = min(table["seed"].to_pylist())
    series = Series.of(table, () if first is None else _planned(first, found.seeds))
    labels = planned + [arm for arm in series.arms if arm not in planned]
    return Part(
        title=found.title or found.name,
        source=str(folder),
        study=found,
        arms=tuple(labels),
        table=table,
        series=series,
        experiments=experiments,
        runs=tuple(runs),
        gaps=_gaps(series, planned, runs, _failed(folder), by_folder),
        notes=tuple(notes),
        sessions=sessions.read(folder),
        looks=tuple(sorted({*found.interim, *results.looks(folder)})),
    )


def _planned(first: int, seeds: int) -> range:
    """The planned seeds, no more than a study and a results table can hold, whatever a study file says."""
    return range(first, min(first + min(seeds, study.MAX_TRIALS), study.SEEDS_END))


def _labels(found: Study) -> list[str]:
    """Labels of the arms, those of claims first; a search has no grid."""
    if found.mode == "search":
        return []
    in_claims = {arm for claim in found.claims for arm in claim.contrast}
    pairs = [(arm, cell) for cell in study.points(found) for arm in found.arms]
    return [arm_label(arm, cell) for arm, cell in sorted(pairs, key=lambda pair: pair[0] not in in_claims)]


def _single(runs: Sequence[Run]) -> Part:
    """Make one part of single runs; runs whose configs differ only in seed and name are seeds of one arm."""
    arms: dict[str, list[Run]] = {}
    for run in runs:
        key = run.experiment.model_copy(update={"seed": 0, "name": ""}).model_dump_json()
        arms.setdefault(key, []).append(run)
    named: list[Run] = []
    taken: set[str] = set()
    for members in arms.values():
        name = members[0].experiment.name
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        label = next(one for one in itertools.chain([name], numbered) if one not in taken)
        taken.add(label)
        seeds = [run.seed for run in members]
        if len(set(seeds)) < len(seeds):
            twice = [run.reader.name for run in members if seeds.count(run.seed) > 1]
            raise StoreError(f"{' and '.join(twice)}: the same config and seed; give one of them")
        named += [dataclasses.replace(run, arm=label) for run in members]
    table = results.table([(run.arm, run.seed, results.run_rows(run.reader.root)) for run in named])
    if not table.num_rows:
        raise StoreError(f"{named[0].reader.name}: no round was evaluated yet; let the run go on")
    series, labels = Series.of(table), list(dict.fromkeys(run.arm for run in named))
    return Part(
        title=named[0].experiment.name if len(named) == 1 else f"{len(named)} runs",
        source=", ".join(run.reader.name for run in named),
        study=None,
        arms=tuple(labels),
        table=table,
        series=series,
        experiments={run.arm: run.experiment for run in reversed(named)},
        runs=tuple(named),
        gaps=tuple(_unfinished(named)),
        notes=(),
        checkpoints=named[0].reader.checkpoints,
    )


def _failed(folder: Path) -> dict[str, str]:
    """Reasons of failure by trial folder."""
    path = folder / FAILED_FILE
    try:
        value = json.loads(inside.read_below(folder, FAILED_FILE, MOST_BYTES))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; remove it or resume the study") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: not JSON ({error}); remove it or resume the study") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path}: holds a {type(value).__name__}; expected reasons by trial folder")
    return {str(key): str(reason) for key, reason in value.items()}


def _gaps(
    series: Series,
    labels: Sequence[str],
    runs: Sequence[Run],
    failed: Mapping[str, str],
    by_folder: Mapping[str, str],
) -> tuple[Gap, ...]:
    """What a study lacks of its planned seeds, which are those of its series."""
    found: dict[tuple[str, int | None], str] = {(gap.arm, gap.seed): gap.reason for gap in _unfinished(runs)}
    seeds = set(series.seeds)
    for name, reason in failed.items():
        arm, _, last = name.rpartition("/")
        if number := SEED_FOLDER.fullmatch(last):
            seeds.add(int(number[1]))
            found[by_folder.get(arm, arm), int(number[1])] = f"{FAILED}{reason}"
        else:
            found[last, None] = f"{FAILED}{reason}"
    for label in labels:
        there = dict(zip(series.seeds, series.reached(label).tolist(), strict=True))
        for seed in sorted(seeds):
            if there.get(seed, -1) < 0:
                found.setdefault((label, seed), "no result")
    return tuple(Gap(arm, seed, reason) for (arm, seed), reason in found.items())


def _unfinished(runs: Sequence[Run]) -> list[Gap]:
    gaps = []
    for run in runs:
        rounds = run.experiment.loop.rounds
        done = [t for t in range(rounds + 1) if run.reader.manifest(t, "evaluation") is not None]
        if len(done) <= rounds:
            reached = f"stopped after round {done[-1]} of {rounds}" if done else "stopped before round 0 was evaluated"
            gaps.append(Gap(run.arm, run.seed, reached))
    return gaps
