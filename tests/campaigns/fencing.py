"""Holders of the lock in an object store that are paused at every request, and wake up when another has gone on.

``python -m tests.campaigns.fencing`` (minutes; ``--only commits closes`` does some of it): each action of a run in a
store is stopped before its first request to moto's server, before its second, and so on. Another process takes the lock
over, commits phases, and then the first one wakes up. It survives when not one byte that the second holder found or
wrote has changed, the first one is told so, and a third one can open the run.
"""

import argparse
import dataclasses
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from scpl_ray.config import Experiment
from scpl_ray.records import Metric
from scpl_ray.storage import locations
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.object_store.lease import Lease
from scpl_ray.storage.object_store.names import attempt_of
from scpl_ray.storage.run_directory import Store
from tests.support import moto_s3
from tests.support.moto_s3 import BUCKET, Server

RUN = f"s3://{BUCKET}/runs/fenced"
KEY = "runs/fenced"
PHASES = ((0, "base"), (0, "evaluation"), (1, "queries"))
ROW = [Metric(1, None, "gap", 0.25)]
PAUSE_S = 60.0


def commit(store: Store, round_: int, phase: str, value: str) -> None:
    with store.phase(round_, phase) as work:
        work.write("metrics", ROW, Metric)
        work.write_json("extra", {"value": value})


def begin() -> Store:
    return locations.create(RUN, Experiment(), {})


def committed() -> Store:
    store = begin()
    commit(store, 0, "base", "first")
    return store


def damaged(server: Server) -> None:
    store = committed()
    commit(store, 0, "evaluation", "first")
    store.close()
    attempt = attempt_of(server.get(f"{KEY}/rounds/000/evaluation/manifest.json"))
    server.put(f"{KEY}/rounds/000/evaluation/{attempt}/metrics.parquet", b"damaged")


def longer(store: Store) -> None:
    store.extend(Experiment.model_validate({"loop": {"rounds": 9}}))


@dataclasses.dataclass(frozen=True)
class Action:
    """What the first holder does when it is paused."""

    prepare: Callable[[Server], Store | None]
    act: Callable[[Store | None], object]
    may_end_well: bool = False
    """Whether its end is no error: what it did is done again, or is a message in the log."""


def on(store: Store | None) -> Store:
    assert store is not None
    return store


ACTIONS = {
    "commits": Action(lambda server: committed(), lambda store: commit(on(store), 0, "evaluation", "first")),
    "begins": Action(lambda server: None, lambda _: begin()),
    "resumes a damaged run": Action(damaged, lambda _: locations.resume(RUN)),
    "changes the config": Action(lambda server: committed(), lambda store: longer(on(store))),
    "finishes": Action(lambda server: committed(), lambda store: on(store).finish(ROW, {"of": "first"})),
    "closes": Action(lambda server: committed(), lambda store: on(store).close(), may_end_well=True),
}


class Pause:
    """Stops the request of this number before it is carried out."""

    def __init__(self, server: Server, step: int) -> None:
        self.reached, self.over = threading.Event(), threading.Event()
        numbers = itertools.count(1)

        def fault(method: str, path: str) -> None:
            if next(numbers) == step:
                self.reached.set()
                self.over.wait(PAUSE_S)

        server.fault = fault


def objects_of(server: Server) -> dict[str, bytes]:
    return {name: server.get(name) for name in server.names() if not name.endswith("/lock")}


def paused_at(server: Server, name: str, step: int, caches: Path) -> bool:
    """Pause one action before one of its requests; returns whether it made so many."""
    action = ACTIONS[name]
    server.reset()
    os.environ["SCPL_CACHE"] = str(caches / "first")
    store = action.prepare(server)
    pause, errors = Pause(server, step), []

    def first_holder() -> None:
        try:
            action.act(store)
        except StoreError as error:
            errors.append(error)

    thread = threading.Thread(target=first_holder)
    thread.start()
    while not pause.reached.wait(0.005):
        if not thread.is_alive():
            server.fault = lambda method, path: None
            return False
    try:
        os.environ["SCPL_CACHE"] = str(caches / "second")
        second = go_on()
        before = objects_of(server)
    finally:
        pause.over.set()
        thread.join()
    after = objects_of(server)
    changed = sorted(name for name, data in before.items() if after.get(name) != data)
    assert not changed, f"{name}, paused before request {step}: {changed} changed under the next holder"
    assert errors or action.may_end_well, f"{name}, paused before request {step}: was not told"
    commit(second, 1, "completions", "second")
    second.close()
    os.environ["SCPL_CACHE"] = str(caches / "third")
    third, _ = locations.resume(RUN)
    there = [(manifest.round, manifest.phase) for manifest in third.committed()]
    assert there == [*PHASES, (1, "completions")], there
    third.close()
    return True


def go_on() -> Store:
    """The second holder: it takes the lock over, as if it had lapsed, and commits what is missing."""
    check, Lease._check_may_take = Lease._check_may_take, lambda self, found, holder: None
    try:
        store, _ = locations.resume(RUN)
    except StoreError as error:
        if "run.json is missing" not in str(error):
            raise
        store = locations.create(RUN, Experiment(), {})
    finally:
        Lease._check_may_take = check
    for round_, phase in PHASES:
        if store.manifest(round_, phase) is None:
            commit(store, round_, phase, "second")
    return store


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(ACTIONS), default=list(ACTIONS))
    asked = parser.parse_args()
    with moto_s3.serving() as server, tempfile.TemporaryDirectory() as scratch:
        os.environ.update(moto_s3.CREDENTIALS, AWS_ENDPOINT_URL=server.endpoint, AWS_EC2_METADATA_DISABLED="true")
        for name in asked.only:
            step = 1
            while paused_at(server, name, step, Path(scratch) / name / str(step)):
                step += 1
            print(
                f"{name}: paused before each of {step - 1} requests, nothing of the next holder was changed", flush=True
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
