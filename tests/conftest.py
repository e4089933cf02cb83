"""Fixtures that several rooms share."""

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from actors.startup import imports_stay

# Before torch is imported anywhere, and inherited by processes that tests begin. pytest-xdist runs as many processes as
# there are cores; threads of several processes that wait for each other on one core make small sums many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
imports_stay()

TESTS = Path(__file__).parent


SLOWEST_FIRST = (
    "jobs/test_end_to_end.py",
    "jobs/test_end_to_end_tasks.py",
    "jobs/driver/test_study.py",
    "docs/test_first_study.py",
    "actors/test_generation.py",
    "training/test_worker.py",
    "actors/test_training.py",
    "actors/test_reward.py",
    "training/test_kernels.py",
)
"""Files that take a minute or more, by their CPU seconds. Only the first stands above the third for another reason: it
makes the run that the third compares with."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first, so that no process ends up with it alone."""
    rank = {TESTS / name: number for number, name in enumerate(SLOWEST_FIRST)}
    assert all(path.is_file() for path in rank), "conftest.SLOWEST_FIRST names a file that is gone"
    items.sort(key=lambda item: (rank.get(item.path, len(rank)), item.get_closest_marker("engines") is None))


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Environment, import path and modules are as before afterwards: a run sets variables, which all that is started
    later inherits, and the folder of a user's file stays on the path, where its name would hide another test's."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    # of all that tests do to a process, nothing but a power cut would lose what was written and not forced to the disk
    monkeypatch.setattr(os, "fsync", lambda _: None)
    before = set(sys.modules)
    with patch.dict(os.environ):
        yield
    for name in sys.modules.keys() - before:
        # not asked of the module itself, because lazy ones import on every question
        if (getattr(sys.modules[name], "__dict__", {}).get("__file__") or "").startswith(f"{tmp_path}{os.sep}"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One private Ray for the whole session; logical CPUs are over-committed on purpose, GPUs are only counted."""
    import ray

    from actors.local_ray import NO_IDLE_WORKERS

    ray.init(
        address="local",
        num_cpus=8,
        num_gpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=256 * 2**20,
        _system_config=NO_IDLE_WORKERS,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of judges and models of this module alone."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCPL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of pytest-xdist, for what is dear to make and not changed by those who read it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def shared_cache(shared: Path) -> Path:
    """A cache of models for tests that do not ask how one is made."""
    return shared / "cache"


@pytest.fixture(scope="session")
def reference(shared: Path, shared_cache: Path) -> Path:
    """The run directory of an undisturbed run of the settings ``SMALL``, made once; copy it to change it."""
    from tests.support.commands import SMALL, finish, scpl

    with (shared / "reference.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run_dir = shared / "reference"
        if not (run_dir / "summary.json").exists():
            output = finish(scpl(shared, "run", "--run-dir", str(run_dir), *SMALL, cache=shared_cache))
            assert "each round: the shares that asked" in output and "seconds per phase" in output
    return run_dir
