"""Clocks that are set by hours, the store's, a holder's and a thief's: no live lock is taken, no lost one is kept."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scpl_ray.storage.errors import InUseError
from scpl_ray.storage.object_store.lease import Holder, Lease
from scpl_ray.storage.object_store.objects import Objects
from tests.support import moto_s3
from tests.support.moto_s3 import BUCKET, Server

HOURS = 5 * 3600.0
RUN = f"s3://{BUCKET}/runs/clocks"
SECONDS = 1.2
FAR = dataclasses.replace(Holder.this(), host="far", machine="another", started=1.0, token="another")


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with moto_s3.serving() as server:
        yield server


@pytest.fixture
def server(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    environment = {**moto_s3.CREDENTIALS, "AWS_ENDPOINT_URL": running.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in {**environment, "SCPL_CACHE": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    running.reset()
    yield running
    running.reset()


@pytest.mark.parametrize("step", [HOURS, -HOURS])
def test_the_clock_of_the_store_takes_no_lock_from_a_process_that_lives(server: Server, step: float) -> None:
    objects = Objects(RUN)
    holder = Lease(objects, SECONDS)
    server.set_clock(step)
    found = objects.read("lock")
    assert found is not None and abs(found.age_seconds) > HOURS / 2
    with pytest.raises(InUseError, match="which has renewed its lock just now"):
        Lease(objects, SECONDS)
    holder.renew()
    holder.release()


@pytest.mark.parametrize("step", [HOURS, -HOURS])
def test_nor_keeps_it_one_for_a_process_that_is_gone(
    server: Server, step: float, caplog: pytest.LogCaptureFixture
) -> None:
    server.put("runs/clocks/lock", json.dumps(dataclasses.asdict(FAR)).encode())
    server.set_clock(step)
    with caplog.at_level(logging.INFO):
        Lease(Objects(RUN), SECONDS).release()
    assert "its lock looks old and is watched" in caplog.text and "on far" in caplog.text


STEPPED = """
import sys, time
step, real = 0.0, time.time
time.time, time.time_ns = lambda: real() + step, lambda: int((real() + step) * 1e9)

from scpl_ray.config import Experiment
from scpl_ray.records import Metric
from scpl_ray.storage import locations
from scpl_ray.storage.errors import InUseError
hours, theirs, ours = float(sys.argv[1]), sys.argv[2], sys.argv[3]

def commit(store, phase):
    with store.phase(0, phase) as work:
        work.write("metrics", [Metric(0, None, "gap", 0.5)], Metric)

for step in (hours, -hours):
    try:
        locations.resume(theirs)
        print("took it")
    except InUseError as error:
        print("refused", error)
store = locations.create(ours, Experiment(), {})
for step, phase in ((hours, "base"), (-hours, "evaluation")):
    commit(store, phase)
print("held", flush=True)
input()
for step in (hours, -hours):
    try:
        commit(store, "feedback")
        print("wrote")
    except InUseError as error:
        print("stopped", error)
"""
"""A process whose clock is set while it asks for a lock, while it holds one, and after it has lost it."""


def test_the_clock_of_a_machine_takes_no_lock_and_keeps_none(server: Server) -> None:
    Lease(Objects(RUN))
    with subprocess.Popen(
        [sys.executable, "-c", STEPPED, str(HOURS), RUN, f"{RUN}-2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        before = [process.stdout.readline() for _ in range(3)]
        assert [line.split()[0] for line in before] == ["refused", "refused", "held"], before
        server.put("runs/clocks-2/lock", json.dumps(dataclasses.asdict(FAR)).encode())
        there = server.names()
        after = process.communicate("\n")[0].splitlines()
    assert [line.split()[0] for line in after] == ["stopped", "stopped"], after
    assert "on far took its lock over" in after[0] and server.names() == there
