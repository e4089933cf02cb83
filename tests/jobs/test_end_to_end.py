"""Whole runs by the command line, with the real engines: Ray, vLLM, the reward model, Ray Train and DeepSpeed."""

import ipaddress
import signal
import time
from pathlib import Path

import psutil
import pytest

from scpl_ray.records import Completion, Metric
from scpl_ray.storage.run_directory import Reader
from tests.support.commands import SMALL, finish, records, scpl

pytestmark = pytest.mark.engines


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


def test_a_run_killed_in_round_2_and_resumed_gives_the_same_bytes_and_leaves_no_process(
    tmp_path: Path, shared_cache: Path, reference: Path
) -> None:
    process = scpl(tmp_path, "run", "--run-dir", "killed", *SMALL, cache=shared_cache)
    deadline = time.monotonic() + 900
    while not (tmp_path / "killed/rounds/002/completions").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert listening([process.pid, *(child.pid for child in children)]) == []
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "summary.json").exists()
    output = finish(scpl(tmp_path, "run", "--resume", "killed", cache=shared_cache))
    assert "read from disk" in output
    assert records(tmp_path / "killed") == records(reference)
    psutil.wait_procs(children, timeout=30)
    assert [p.name() for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
