"""Fixtures that several rooms share."""

import os
from collections.abc import Iterator

import pytest

# Before torch is imported anywhere, and inherited by processes that tests begin. pytest-xdist runs as many processes as
# there are cores; threads of several processes that wait for each other on one core make small sums many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first, so that no process ends up with it alone."""
    items.sort(key=lambda item: item.get_closest_marker("engines") is None)


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One private Ray for the whole session; logical CPUs are over-committed on purpose, GPUs are only counted."""
    import ray

    from jobs.driver.run import NO_IDLE_WORKERS

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
