"""What a container may use of its machine, by made-up files of control groups."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from actors.placement import cluster, limits
from jobs import doctor
from jobs.driver import machine

GIB = 2**30
Write = Callable[[dict[str, str]], Path]


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 CPUs and 512 GiB, of which 300 are free."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)))
    memory = SimpleNamespace(total=512 * GIB, available=300 * GIB)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)


@pytest.fixture
def groups(tmp_path: Path) -> Write:
    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "400000 100000"}, 4),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000"}, 64),
    ],
)
def test_cpus_are_those_of_the_quota(files: dict[str, str], cpus: int, groups: Write) -> None:
    assert limits.cpus(groups(files)) == cpus


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        ({}, 512, 300),
        ({"memory.max": "max", "memory.current": f"{GIB}"}, 512, 300),
        ({"memory.max": f"{16 * GIB}"}, 16, 16),
        ({"memory.max": f"{16 * GIB}", "memory.current": f"{6 * GIB}", "memory.stat": "anon 5\nfile 7"}, 16, 10),
        (
            {
                "memory.max": f"{16 * GIB}",
                "memory.current": f"{6 * GIB}",
                "memory.stat": f"anon 5\ninactive_file {2 * GIB}",
            },
            16,
            12,
        ),
        ({"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "5"}, 512, 300),
        (
            {
                "memory/memory.limit_in_bytes": f"{8 * GIB}",
                "memory/memory.usage_in_bytes": f"{7 * GIB}",
                "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB}",
            },
            8,
            2,
        ),
        ({"memory.max": f"{2 * GIB}", "memory.current": f"{3 * GIB}"}, 2, 0),
    ],
)
def test_memory_is_that_of_the_limit(files: dict[str, str], total: float, free: float, groups: Write) -> None:
    folder = groups(files)
    assert (limits.memory_gib(folder), limits.free_memory_gib(folder)) == (total, free)


def test_a_plan_the_kind_of_a_machine_and_the_doctor_keep_to_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cpus", lambda: 3)
    monkeypatch.setattr(limits, "memory_gib", lambda: 7.0)
    monkeypatch.setattr(limits, "free_memory_gib", lambda: 4.5)
    (node,) = cluster.local_cluster().nodes
    assert (node.cpus, node.memory_gib) == (3, 7.0)
    assert "3 cores" in machine.kind()
    monkeypatch.setattr(doctor, "REQUIRED", ())
    console = Console(record=True, width=200)
    doctor.examine(console)
    printed = console.export_text()
    assert "4.5 GiB" in printed and "the quick start needs about 5 GiB" in printed
