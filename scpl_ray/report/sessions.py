"""Where the time of a whole study went: its commands, and what its trials did in the meantime."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from scpl_ray.report.seconds import TAKEN_FROM, critical_seconds
from scpl_ray.storage import inside
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.manifests import MOST_BYTES
from scpl_ray.storage.run_directory import Reader

FILE = "sessions.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """One command that worked on a study, in seconds."""

    trials: int
    """Trials that it finished."""
    side_by_side: int
    """Trials that ran at the same time."""
    prepared_s: float
    """Checks, and base models."""
    started_s: float
    """The start of Ray."""
    ran_s: float
    """From the start of the first trial to the end of the last."""


def read(folder: Path) -> tuple[Session, ...]:
    """The commands that worked on a study so far; none in a study that an older version ran.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        found = tuple(Session(**one) for one in json.loads(inside.read_below(folder, FILE, MOST_BYTES)))
        if any(not isinstance(value, int | float) for one in found for value in dataclasses.astuple(one)):
            raise ValueError("a value is no number")
        return found
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{folder / FILE}: cannot be read ({error}); remove it") from error


def add(folder: Path, session: Session) -> None:
    """Note a command that has ended.

    Raises:
        StoreError: the file cannot be read.
    """
    every = [dataclasses.asdict(one) for one in (*read(folder), session)]
    write_atomically(folder / FILE, (json.dumps(every, indent=1) + "\n").encode())


def sentences(sessions: Sequence[Session], runs: Iterable[Reader]) -> list[str]:
    """Where the time of a study went, in words; empty where no command left a note."""
    if not sessions:
        return []
    first = rounds = 0.0
    taken = phases = 0
    for run in runs:
        manifests = list(run.committed())
        for manifest in manifests:
            phases += 1
            taken += TAKEN_FROM in manifest.facts
        spent = critical_seconds([m for m in manifests if m.round == 0])
        first += sum(spent.values())
        rounds += sum(critical_seconds([m for m in manifests if m.round > 0]).values())
    prepared, started = sum(s.prepared_s for s in sessions), sum(s.started_s for s in sessions)
    ran, trials = sum(s.ran_s for s in sessions), sum(s.trials for s in sessions)
    processes = sum(s.ran_s * s.side_by_side for s in sessions)
    whole = prepared + started + ran
    told = [
        f"{trials} trials in {whole:.0f} s: {trials / whole * 3600:.0f} trials per hour. Checks and base models took "
        f"{prepared:.0f} s, the start of Ray {started:.0f} s, the trials {ran:.0f} s, "
        f"{' or '.join(sorted({str(s.side_by_side) for s in sessions}))} side by side."
    ]
    if processes > 0:
        between = max(0.0, 1.0 - (first + rounds) / processes)
        told.append(
            f"While trials ran, {rounds / processes:.0%} of the time of their processes went into self-consuming "
            f"rounds, {first / processes:.0%} into round 0, which waits for engines that start, and {between:.0%} "
            "between phases and trials."
        )
    if taken:
        told.append(f"{taken} of {phases} phases were taken over from trials that had done the same.")
    return told
