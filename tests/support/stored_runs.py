"""A run in moto's S3 server: what it is called, what is written of it, and what the store then holds."""

from pathlib import Path

import pytest

from scpl_ray.config import Experiment
from scpl_ray.records import Metric
from scpl_ray.storage import locations
from scpl_ray.storage.manifests import phase_of
from scpl_ray.storage.object_store import names
from scpl_ray.storage.object_store.mirror import RemoteStore
from scpl_ray.storage.object_store.names import attempt_of, marker_of
from scpl_ray.storage.run_directory import Store
from tests.support import fakes
from tests.support.loops import loop, small
from tests.support.moto_s3 import BUCKET, Server

RUN = f"s3://{BUCKET}/runs/mine"
KEY = "runs/mine"
ROW = [Metric(1, None, "gap", 0.25), Metric(1, "north", "share", 0.6)]
QUICK = small("loop.rounds=1", "queries.prompts_per_round=8", "evaluation.neutral_prompts=8")


def another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on another cache."""
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "another machine"))


def crash(store: Store) -> None:
    """The process is gone: nothing more is sent, and the locks lapse."""
    assert isinstance(store, RemoteStore)
    store._lease.abandon()
    store._lock.close()


def play(store: Store, experiment: Experiment, tmp_path: Path) -> list[Metric]:
    base = tmp_path / "base of the run"
    if not base.exists():
        fakes.make_base(base, len(experiment.groups.names))
    return loop(store, experiment, base).run()


def commit(store: Store, round_: int, phase: str, value: str = "") -> Path:
    with store.phase(round_, phase) as work:
        work.write("metrics", ROW, Metric)
        work.write_json("extra", {"round": round_, "value": value})
    return store.folder(round_, phase)


def finished(experiment: Experiment, tmp_path: Path) -> None:
    """A finished run in the store, with a log and weights."""
    store = locations.create(RUN, experiment, {"python": "3"})
    (store.root / "logs" / "driver.log").write_text("begun\n")
    store.finish(play(store, experiment, tmp_path), {"name": "x"})
    store.close()


def objects_of(server: Server) -> dict[str, bytes]:
    """What the store holds of the run, under the names of the files of a working copy, and all else under its own."""
    there = {name.removeprefix(f"{KEY}/"): server.get(name) for name in server.names(f"{KEY}/")}
    attempts = {p: attempt_of(data) for name, data in there.items() if (p := phase_of(name)) and name == marker_of(p)}
    copies = names.objects_of(list(there), attempts)
    others = {name: data for name, data in there.items() if name not in copies.values()}
    return {one: there[name] for one, name in copies.items()} | others


def object_of(server: Server, file: str) -> str:
    """The name of the object that counts as a file of the run."""
    phase = str(phase_of(file))
    attempt = attempt_of(server.get(f"{KEY}/{marker_of(phase)}"))
    return f"{KEY}/{file if file == marker_of(phase) else file.replace(phase, f'{phase}/{attempt}')}"
