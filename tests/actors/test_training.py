"""Ray Train around the training worker: how long workers live, what a death costs, and what cannot be placed."""

import concurrent.futures
import dataclasses
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from actors.training import RayTrainer
from scpl_ray.config import Training
from tests.support.tiny_models import save_examples
from tests.support.training_jobs import ADAPTER, DPO, SMALL, Material, written

pytestmark = pytest.mark.engines


@pytest.fixture
def job(tmp_path, tmp_path_factory):
    """Makes jobs, as :meth:`Material.job` does."""
    return functools.partial(Material.made(tmp_path_factory.mktemp("material")).job, tmp_path)


@pytest.fixture
def trainer(ray_local, tmp_path) -> Iterator[Callable[..., RayTrainer]]:
    """Makes trainers, and checks that each leaves no process behind."""
    made: list[RayTrainer] = []

    def make(training: Training, **settings) -> RayTrainer:
        settings = {"folder": tmp_path / "train", "resources_per_worker": {"CPU": 0.4}} | settings
        made.append(RayTrainer(training, ADAPTER, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()
        assert each.processes() == []


def gone(pid: int) -> bool:
    """Whether a process ends within a few seconds."""
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_both_lifetimes_give_the_same_weights(trainer, job):
    """The second of two jobs of two workers: in workers that did the first, and in a Ray Train run of its own."""
    training = SMALL.model_copy(update={"workers": 2, "epochs": 1, "tokens_per_micro_batch": 96} | DPO)
    works = trainer(training.model_copy(update={"worker_lifetime": "run"}))
    works.prepare()
    first = job(1, merge=True)
    results = [works.train(first)]
    workers = works.processes()
    second = job(2, after=first)
    results.append(works.train(second))
    assert works.processes() == workers and [process.index for process in workers] == [0, 1]
    assert results[1].startup_seconds < 5
    works.close()
    assert not any(psutil.pid_exists(process.pid) for process in workers), "their memory is not free yet"

    works = trainer(training.model_copy(update={"worker_lifetime": "round"}))
    alone = job(2, name="alone-", after=first)
    results.append(works.train(alone))
    assert works.processes() == []
    assert all(result.startup_seconds > 0 for result in results)
    assert written(alone) == written(second)


def test_a_killed_worker_costs_a_repetition_and_a_refusal_does_not(trainer, job, tmp_path, caplog):
    training = SMALL.model_copy(update={"epochs": 15, "tokens_per_step": 40})
    works = trainer(training)
    killed, undisturbed, impossible = job(1), job(1, name="undisturbed-"), job(2)
    impossible = dataclasses.replace(impossible, dataset=save_examples(tmp_path / "none.parquet", []))
    with concurrent.futures.ThreadPoolExecutor(1) as pool, caplog.at_level(logging.WARNING):
        result = pool.submit(works.train, killed)
        deadline = time.monotonic() + 120
        while not any("steps on" in log.read_text() for log in tmp_path.glob("train/*-001-worker0.log")):
            assert time.monotonic() < deadline and not result.done()
            time.sleep(0.05)
        (victim,) = works.processes()
        os.kill(victim.pid, signal.SIGKILL)
        steps = result.result(timeout=240).steps
    assert "attempt 1 of 3" in caplog.text and f"{tmp_path}/train" in caplog.text
    (heir,) = works.processes()
    assert heir.pid != victim.pid and (victim.restarts, heir.restarts) == (0, 1)
    assert works.train(undisturbed).steps == steps
    assert written(killed) == written(undisturbed)
    with pytest.raises(ValueError, match="none of the 0 training examples"):
        works.train(impossible)
    assert gone(heir.pid)


def test_workers_that_cannot_be_placed_are_an_error_that_says_so(trainer, job):
    works = trainer(SMALL, resources_per_worker={"CPU": 1000.0}, startup_deadline_s=3.0)
    with pytest.raises(TimeoutError, match=r"0 of 1 training workers are up.*'CPU': 1000"):
        works.train(job(1))
