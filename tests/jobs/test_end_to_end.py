"""Whole runs by the command line, with the real engines: Ray, vLLM, the reward model, Ray Train and DeepSpeed."""

import ipaddress
import signal
import time
from pathlib import Path

import psutil
import pytest

from scpl_ray.records import Completion, Metric
from scpl_ray.storage.files import sha256
from scpl_ray.storage.run_directory import Reader
from tests.support.commands import SMALL, command, finish

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folder of all runs here; they share one cached base model."""
    return tmp_path_factory.mktemp("runs")


def run(folder: Path, name: str, *overrides: str) -> Path:
    output = finish(command(folder, "--run-dir", name, *SMALL, *overrides))
    assert "each round: the shares that asked" in output and "seconds per phase" in output
    return folder / name


def records(run_dir: Path) -> dict[str, str]:
    """SHA-256 of every record of every round."""
    return {str(p.relative_to(run_dir)): sha256(p) for p in sorted(run_dir.glob("rounds/*/*/*.parquet"))}


def listening(pids: list[int]) -> list[tuple[str, int, str]]:
    """Sockets of these processes that another machine could reach, but for where torch's training workers meet."""
    names = {pid: psutil.Process(pid).name() for pid in pids if psutil.pid_exists(pid)}
    return [
        (connection.laddr.ip, connection.laddr.port, names[connection.pid])
        for connection in psutil.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
        and connection.pid in names
        and not names[connection.pid].startswith("ray::RayTrainWork")
        and not ipaddress.ip_address(connection.laddr.ip.removeprefix("::ffff:")).is_loopback
    ]


@pytest.fixture(scope="module")
def reference(folder: Path) -> Path:
    return run(folder, "reference")


def test_a_run_leaves_what_the_readme_says(reference: Path) -> None:
    reader, experiment = Reader.open(reference)
    assert experiment.loop.rounds == 2
    for name in ("metrics.parquet", "summary.json", "config.yaml", "logs/driver.log", "logs/ray/raylet.out"):
        assert (reference / name).exists()
    assert list((reference / "tensorboard").glob("events.*"))
    completions = reader.read(2, "completions", "completions", Completion)
    assert len(completions) == 96 and {c.policy_version for c in completions} == {1}
    assert len({c.seed for c in completions}) == 96
    rows = reader.read(2, "evaluation", "metrics", Metric)
    assert {"preference_log_odds_round0", "disparate_gap", "quality_worst", "perplexity_round0"} <= {
        r.metric for r in rows
    }
    assert reader.manifest(2, "weights").facts["steps"] > 0
    assert reader.manifest(2, "weights").facts["weight_change"] > 0


def test_no_process_restarts_between_rounds(reference: Path) -> None:
    reader, _ = Reader.open(reference)
    for phase in ("completions", "scores", "weights"):
        first, second = (
            [(p["actor_id"], p["pid"], p["restarts"]) for p in reader.manifest(t, phase).facts["processes"]]
            for t in (1, 2)
        )
        assert first and first == second


def test_two_replicas_killed_in_round_2_and_resumed_give_the_same_bytes_and_leave_no_process(
    folder: Path, reference: Path
) -> None:
    process = command(folder, "--run-dir", "killed", *SMALL, "generation.replicas=2", "reward.replicas=2")
    deadline = time.monotonic() + 900
    while not (folder / "killed/rounds/002/completions").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert listening([process.pid, *(child.pid for child in children)]) == []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "killed" / "summary.json").exists()
    output = finish(command(folder, "--resume", "killed"))
    assert "read from disk" in output
    assert records(folder / "killed") == records(reference)
    psutil.wait_procs(children, timeout=30)
    assert [p.name() for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
