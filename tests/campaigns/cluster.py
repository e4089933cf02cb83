"""A run on a cluster of three nodes, one of which dies: ``python -m tests.campaigns.cluster``.

The quick start by ``ray job submit`` on a head and two nodes of one logical CPU each, with two engines and two training
workers spread over them. In round 2 a node with an engine on it is killed. The records must be those of a run on one
machine. With ``--separate-disks`` (root only) the nodes do not see the head's files; without, they also share Ray's
session folder, and the death of one takes the job's working directory from the others. Then a job is stopped by
``ray job stop``, and its run directory gone on with.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scpl_ray.storage import cache
from tests.support.local_cluster import LocalCluster, short_folder
from tests.support.loops import records_of

SETTINGS = [
    "generation.replicas=2",
    "reward.replicas=1",
    "training.workers=2",
    "training.worker_lifetime=run",
    "selection.strategy=tpp",
]
"""One scorer, so that two nodes have room for what three ran: a plan uses all CPUs that there are."""
LIMIT_S = 900.0


def on_one_machine(run_dir: Path, settings: list[str]) -> None:
    """The undisturbed run."""
    code = "import sys; sys.argv[0] = 'scpl'; from jobs.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "--run-dir", str(run_dir), *settings]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=LIMIT_S)


def submit(
    cluster: LocalCluster, identifier: str, run_dir: Path, settings: list[str], *, resume: bool = False
) -> subprocess.Popen[str]:
    """Submit a run with the command of the README."""
    where = ["--resume", str(run_dir)] if resume else [*settings, "--run-dir", str(run_dir)]
    return cluster.ray(
        "job", "submit", "--address", cluster.address, "--submission-id", identifier,
        "--working-dir", ".", "--", "python", "-m", "jobs.driver.run", *where,
    )  # fmt: skip


def until(path: Path, job: subprocess.Popen[str]) -> None:
    """Wait for a file of a run."""
    began = time.monotonic()
    while not path.exists():
        if job.poll() is not None or time.monotonic() - began > LIMIT_S:
            raise RuntimeError(f"{path} did not come: {job.communicate()[0][-3000:]}")
        time.sleep(0.05)


def engines_of(run_dir: Path) -> set[int]:
    """Process ids of the engines of round 1."""
    manifest = json.loads((run_dir / "rounds/001/completions/manifest.json").read_bytes())
    return {process["pid"] for process in manifest["facts"]["processes"]}


def nodes_of(run_dir: Path) -> dict[str, dict[str, set[str]]]:
    """Nodes by role and phase, over all rounds."""
    found: dict[str, dict[str, set[str]]] = {}
    for path in sorted(run_dir.glob("rounds/*/*/manifest.json")):
        manifest = json.loads(path.read_bytes())
        for process in manifest["facts"].get("processes", []):
            roles = found.setdefault(f"round {manifest['round']} {manifest['phase']}", {})
            roles.setdefault(process["role"], set()).add(process["node"])
    return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--separate-disks", action="store_true")
    asked = parser.parse_args()
    settings = [f"loop.rounds={asked.rounds}", *SETTINGS]
    console = Console(width=110)
    table = Table("check", "seconds", "result", title="three nodes")
    with short_folder() as name:
        folder = Path(name)
        (runs := folder / "runs").mkdir()
        began = time.monotonic()
        on_one_machine(runs / "one", settings)
        table.add_row("one machine", f"{time.monotonic() - began:.0f}", "finished")
        expected = records_of(runs / "one")
        hidden = [runs, folder / "ray", cache.directory()] if asked.separate_disks else []
        with LocalCluster(folder, hidden) as cluster:
            cluster.head(1)
            nodes = [cluster.node(1), cluster.node(1)]
            began = time.monotonic()
            job = submit(cluster, "killed", runs / "three", settings)
            until(runs / "three/rounds/002/queries/manifest.json", job)
            time.sleep(0.5)
            victim = next(node for node in nodes if engines_of(runs / "three") & cluster.processes_of(node))
            cluster.kill(victim)
            console.print("a node with an engine on it was killed in round 2")
            output = job.communicate(timeout=LIMIT_S)[0]
            console.print(output[-6000:], markup=False)
            identical = job.returncode == 0 and records_of(runs / "three") == expected
            said = "records identical" if identical else f"exit code {job.returncode}: {output[-3000:]}"
            table.add_row("a node killed in round 2", f"{time.monotonic() - began:.0f}", said)
            spread = nodes_of(runs / "three")
            for phase, roles in spread.items():
                console.print(phase, {role: sorted(node[:6] for node in on) for role, on in roles.items()})
            cluster.node(1)
            began = time.monotonic()
            job = submit(cluster, "stopped", runs / "stopped", settings)
            until(runs / "stopped/rounds/001/queries/manifest.json", job)
            cluster.ray("job", "stop", "--address", cluster.address, "stopped").wait(timeout=60)
            code = job.wait(timeout=LIMIT_S)
            table.add_row("ray job stop", f"{time.monotonic() - began:.0f}", f"exit code {code}")
            began = time.monotonic()
            job = submit(cluster, "resumed", runs / "stopped", settings, resume=True)
            output = job.communicate(timeout=LIMIT_S)[0]
            gone_on = job.returncode == 0 and records_of(runs / "stopped") == expected
            said = "records identical" if gone_on else f"exit code {job.returncode}: {output[-3000:]}"
            table.add_row("gone on with", f"{time.monotonic() - began:.0f}", said)
    console.print(table)
    return 0 if identical and gone_on else 1


if __name__ == "__main__":
    sys.exit(main())
