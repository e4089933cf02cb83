"""Runs that are killed or damaged at random instants and gone on with until they are done.

``python -m tests.campaigns.chaos --kills 130 --seed 0`` (a quarter of an hour): the loop with fakes, each run hit by
one fault of :data:`FAULTS`. :mod:`tests.campaigns.chaos_engines` does the same to the real engines.
A run survives when it ends well, its records are the bytes of an undisturbed run, and nothing of it is left over.
"""

import argparse
import dataclasses
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scpl_ray.storage.manifests import committed_of
from scpl_ray.storage.object_store import names
from scpl_ray.storage.run_directory import Reader
from tests.support import moto_s3
from tests.support.loops import records_of

PAUSE_S = 0.05
UNDISTURBED_S = 1.2
"""Approximate seconds that an undisturbed run works after its imports."""
ATTEMPTS = 6


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one run."""

    fault: str
    survived: bool
    identical: bool
    lost_s: float
    """Seconds by which the run took longer than an undisturbed run."""
    said: str
    """The last message of the run."""


MAY_NOT_OVERRIDE = ["setpriv", "--bounding-set", "-dac_override"]
"""Runs root without the right to write where permissions forbid it."""


def start(
    run_dir: Path | str,
    *,
    pause_s: float = PAUSE_S,
    limit_bytes: int | None = None,
    prefix: Sequence[str] = (),
    **environment: str,
) -> subprocess.Popen[str]:
    """Start one process of a run.

    Args:
        run_dir: folder or URI.
        pause_s: duration of a phase, in seconds.
        limit_bytes: the largest file that it may write, which simulates a full disk.
        prefix: words before the command.
        environment: further environment variables.
    """

    def limit() -> None:
        if limit_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "tests.support.fake_run", str(run_dir), str(pause_s)],
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
        env=os.environ | environment,
    )


def until_begun(run_dir: Path, process: subprocess.Popen[str], rng: random.Random) -> None:
    """Wait until the run has begun, and then until a random instant of it."""
    while not (run_dir / "rounds").exists() and process.poll() is None:
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, UNDISTURBED_S))


def stopped(run_dir: Path, rng: random.Random, number: int) -> None:
    process = start(run_dir)
    until_begun(run_dir, process, rng)
    process.send_signal(number)
    process.communicate()


def driver_killed(run_dir: Path, rng: random.Random) -> None:
    stopped(run_dir, rng, signal.SIGKILL)


def ctrl_c(run_dir: Path, rng: random.Random) -> None:
    stopped(run_dir, rng, signal.SIGINT)


def terminated(run_dir: Path, rng: random.Random) -> None:
    stopped(run_dir, rng, signal.SIGTERM)


def killed_at_the_start(run_dir: Path, rng: random.Random) -> None:
    process = start(run_dir)
    while not run_dir.exists() and process.poll() is None:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0.0, 0.02))
    process.kill()
    process.communicate()


def last_phase(run_dir: Path) -> Path | None:
    """Folder of the phase that was committed last."""
    if not (run_dir / "run.json").exists():
        return None
    reader, _ = Reader.open(run_dir)
    committed = list(reader.committed())
    return reader.folder(committed[-1].round, committed[-1].phase) if committed else None


def file_of(folder: Path, rng: random.Random) -> Path:
    return rng.choice([p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json"])


def torn_file(run_dir: Path, rng: random.Random) -> None:
    driver_killed(run_dir, rng)
    if folder := last_phase(run_dir):
        path = file_of(folder, rng)
        os.truncate(path, rng.randrange(path.stat().st_size))


def edited_file(run_dir: Path, rng: random.Random) -> None:
    driver_killed(run_dir, rng)
    if folder := last_phase(run_dir):
        path = file_of(folder, rng)
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 0xFF
        path.write_bytes(bytes(data))


def torn_manifest(run_dir: Path, rng: random.Random) -> None:
    driver_killed(run_dir, rng)
    if folder := last_phase(run_dir):
        path = folder / "manifest.json"
        os.truncate(path, rng.randrange(path.stat().st_size))


def leftover_of_a_write(run_dir: Path, rng: random.Random) -> None:
    driver_killed(run_dir, rng)
    in_hand = run_dir / "rounds/003/evaluation"
    if not (in_hand / "manifest.json").exists():
        in_hand.mkdir(parents=True, exist_ok=True)
        (in_hand / ".half.parquet.123.tmp").write_bytes(b"half")
    (run_dir / ".summary.json.123.tmp").write_bytes(b"half")


def earlier_phase_edited(run_dir: Path, rng: random.Random) -> None:
    """An edit of a phase before the last is refused, and the phase is not repeated; then the bytes are restored."""
    driver_killed(run_dir, rng)
    if last_phase(run_dir) is None:
        return
    reader, _ = Reader.open(run_dir)
    committed = list(reader.committed())
    if len(committed) < 2:
        return
    earlier = rng.choice(committed[:-1])
    path = file_of(reader.folder(earlier.round, earlier.phase), rng)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    process = start(run_dir)
    _, said = process.communicate()
    assert process.returncode == 2 and "later phases were built on it" in said, (process.returncode, said)
    path.write_bytes(data)


def disk_full(run_dir: Path, rng: random.Random) -> None:
    process = start(run_dir, limit_bytes=rng.choice([64, 512, 1500, 3000]))
    _, said = process.communicate()
    assert process.returncode in (0, 1, 2) and "Traceback" not in said, (process.returncode, said)


def permission_denied(run_dir: Path, rng: random.Random) -> None:
    """From a random instant on, the run may not write anywhere in its directory."""
    process = start(run_dir, prefix=MAY_NOT_OVERRIDE if os.geteuid() == 0 else [])
    until_begun(run_dir, process, rng)
    forbidden = [run_dir]
    for folder in forbidden:
        # made read-only before it is listed, so that nothing new appears after this loop has listed it
        folder.chmod(0o500)
        forbidden += [path for path in folder.iterdir() if path.is_dir()]
    _, said = process.communicate()
    for folder in forbidden:
        folder.chmod(0o700)
    assert process.returncode == 0 or "Permission denied" in said, (process.returncode, said)
    assert process.returncode in (0, 1, 2) and "Traceback" not in said, (process.returncode, said)


def two_processes(run_dir: Path, rng: random.Random) -> None:
    first = start(run_dir, pause_s=60.0)
    while not (run_dir / "run.json").exists():
        time.sleep(0.002)
    time.sleep(rng.uniform(0.0, 0.2))
    second = start(run_dir)
    _, said = second.communicate()
    first.kill()
    first.communicate()
    assert second.returncode == 2 and "in use by process" in said, (second.returncode, said)


def killed_in_a_store(run_dir: Path, rng: random.Random) -> None:
    """A run in an object store where one request in thirty fails; the final content is checked here."""
    with moto_s3.serving() as server:
        server.reset()
        server.fault = lambda method, path: 503 if rng.random() < 1 / 30 else None
        where = moto_s3.CREDENTIALS | {"AWS_ENDPOINT_URL": server.endpoint, "SCPL_CACHE": str(run_dir.parent / "cache")}
        process = start(f"s3://{moto_s3.BUCKET}/run", **where)
        while f"/{moto_s3.BUCKET}/run/run.json" not in [path for _, path in server.requests] and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 2 * UNDISTURBED_S))
        process.kill()
        process.communicate()
        code, said = go_on(f"s3://{moto_s3.BUCKET}/run", **where)
        assert code == 0, said
        server.fault = lambda method, path: None
        there = {name.removeprefix("run/"): server.get(name) for name in server.names("run/")}
        attempts = {phase: names.attempt_of(there[names.marker_of(phase)]) for phase in committed_of(there)}
        for name, copied in names.objects_of(there, attempts).items():
            path = run_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(there[copied])


FAULTS: dict[str, Callable[[Path, random.Random], None]] = {
    "driver killed (SIGKILL)": driver_killed,
    "killed in the first 20 ms": killed_at_the_start,
    "Ctrl-C": ctrl_c,
    "SIGTERM": terminated,
    "file torn": torn_file,
    "file edited": edited_file,
    "manifest torn": torn_manifest,
    "half a write left over": leftover_of_a_write,
    "earlier phase edited": earlier_phase_edited,
    "disk full": disk_full,
    "permission denied": permission_denied,
    "two processes, one directory": two_processes,
    "driver killed, S3 store that errs": killed_in_a_store,
}


def go_on(run_dir: Path | str, **environment: str) -> tuple[int, str]:
    """Resume until the run ends well."""
    code, said = -1, ""
    for _ in range(ATTEMPTS):
        process = start(run_dir, **environment)
        _, said = process.communicate()
        code = process.returncode
        if code == 0:
            break
    return code, said


def one(fault: str, folder: Path, rng: random.Random, expected: dict[str, bytes], undisturbed_s: float) -> Outcome:
    """One run that is hit by a fault."""
    run_dir = folder / "run"
    began = time.monotonic()
    FAULTS[fault](run_dir, rng)
    code, said = go_on(run_dir)
    lost = time.monotonic() - began - undisturbed_s
    leftovers = list(run_dir.rglob(".*.tmp"))
    identical = records_of(run_dir) == expected
    return Outcome(fault, code == 0 and not leftovers, identical, lost, said.strip() or str(leftovers))


def campaign(kills: int, seed: int, console: Console) -> list[Outcome]:
    """``kills`` runs, with the faults in turn, at instants drawn from ``seed``."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        began = time.monotonic()
        code, said = go_on(Path(folder) / "undisturbed/run")
        assert code == 0, said
        undisturbed_s = time.monotonic() - began
        expected = records_of(Path(folder) / "undisturbed/run")
        outcomes = []
        for index in range(kills):
            fault = list(FAULTS)[index % len(FAULTS)]
            where = Path(folder) / f"{index:03d}"
            where.mkdir()
            outcomes.append(one(fault, where, rng, expected, undisturbed_s))
            if not (outcomes[-1].survived and outcomes[-1].identical):
                console.print(f"run {index}: {outcomes[-1]}", markup=False)
    return outcomes


def table(outcomes: list[Outcome]) -> Table:
    """A table of the outcomes by kind of fault."""
    shown = Table(title="survived, by kind of fault", title_justify="left")
    for column in ("fault", "runs", "survived", "records identical", "seconds lost, mean"):
        shown.add_column(column, justify="left" if column == "fault" else "right")
    for fault in dict.fromkeys(o.fault for o in outcomes):
        of = [o for o in outcomes if o.fault == fault]
        lost = sum(o.lost_s for o in of) / len(of)
        cells = (len(of), sum(o.survived for o in of), sum(o.identical for o in of), f"{lost:.1f}")
        shown.add_row(fault, *map(str, cells))
    total = (len(outcomes), sum(o.survived for o in outcomes), sum(o.identical for o in outcomes))
    shown.add_section()
    shown.add_row("all", *map(str, total), "")
    return shown


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    console = Console(width=110)
    outcomes = campaign(asked.kills, asked.seed, console)
    console.print(table(outcomes))
    return 0 if all(o.survived and o.identical for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
