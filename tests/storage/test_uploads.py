"""What a run in an object store carries over while its logs grow, and what of it outlives an upload that failed."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.driver import run
from scpl_ray.storage import locations
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.object_store import objects as s3
from scpl_ray.storage.run_directory import Store
from tests.support.moto_s3 import BUCKET, Server
from tests.support.stored_runs import KEY, QUICK, RUN, another_machine, commit, crash, objects_of

LOG = "logs/driver.log"
PHASE = "rounds/000/evaluation"


@pytest.fixture
def logged() -> Iterator[None]:
    """The handlers of the root logger are those of before at the end."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize("verbose", [False, True])
def test_a_log_that_grows_while_it_is_sent_arrives_as_it_was_and_the_run_ends(server: Server, verbose: bool) -> None:
    store = locations.create(RUN, QUICK, {})
    run.log_to(store.root / LOG, verbose=verbose)
    logging.getLogger("test").info("begun")
    refused: list[str] = []

    def once(method: str, path: str) -> int | None:
        if method == "PUT" and path.endswith(LOG) and not refused:
            refused.append(path)
            return 503
        return None

    server.fault = once
    commit(store, 0, "base")
    store.finish([], {"name": "x"})
    store.close()
    assert refused
    found, whole = objects_of(server), (store.root / LOG).read_bytes()
    assert "summary.json" in found and whole.startswith(found[LOG]) and b"begun" in found[LOG]
    assert b"HTTP status 503" in whole and b"botocore" not in whole


def test_a_log_that_cannot_be_carried_over_holds_no_summary_up(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    store = locations.create(RUN, QUICK, {})
    (store.root / LOG).write_text("begun\n")
    (store.root / "tensorboard" / "events").write_text("events\n")
    server.fault = lambda method, path: 403 if path.endswith((LOG, "events")) else None
    store.finish([], {"name": "x"})
    assert "summary.json" in objects_of(server)
    assert f"{LOG} was not carried over" in caplog.text and "tensorboard/events was not carried over" in caplog.text
    server.fault = lambda method, path: None
    store.close()
    assert {LOG, "tensorboard/events"} < set(objects_of(server)) and f"{KEY}/lock" not in server.names()


def not_carried_over(server: Server) -> Store:
    """A run whose last phase was committed and could not be uploaded."""
    store = locations.create(RUN, QUICK, {})
    commit(store, 0, "base")
    server.fault = lambda method, path: 403 if f"{PHASE}/" in path else None
    with pytest.raises(StoreError, match="refused"):
        commit(store, 0, "evaluation", "dear")
    store.close()
    server.fault = lambda method, path: None
    assert f"{PHASE}/manifest.json" not in objects_of(server)
    return store


def is_carried_over(server: Server) -> bool:
    store, _ = locations.resume(RUN)
    store.close()
    data = objects_of(server).get(f"{PHASE}/extra.json")
    return data is not None and json.loads(data)["value"] == "dear"


def test_a_phase_that_was_not_carried_over_outlives_that_another_machine_opens_the_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_carried_over(server)
    another_machine(tmp_path, monkeypatch)
    locations.resume(RUN)[0].close()
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    assert is_carried_over(server)


@pytest.mark.parametrize("name", ["config.yaml", "rounds/000/base/manifest.json"])
def test_an_answer_that_gets_lost_as_a_run_is_opened_costs_nothing(server: Server, name: str) -> None:
    not_carried_over(server)
    lost: list[str] = []

    def lose(method: str, path: str) -> bool:
        if method == "PUT" and path == f"/{BUCKET}/{KEY}/{name}" and not lost:
            lost.append(path)
            return True
        return False

    server.lose_answer = lose
    assert is_carried_over(server) and lost


def test_a_phase_outlives_a_process_that_died_as_it_opened_the_run(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its writes but one arrive, and none of the answers."""
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    not_carried_over(server)
    server.lose_answer = lambda method, path: method == "PUT" and path.endswith("base/manifest.json")
    server.fault = lambda method, path: 500 if method == "PUT" and f"{PHASE}/" in path else None
    with pytest.raises(StoreError):
        locations.resume(RUN)
    server.client.delete_object(Bucket=BUCKET, Key=f"{KEY}/lock")
    server.lose_answer, server.fault = lambda method, path: False, lambda method, path: None
    assert is_carried_over(server)


def test_a_phase_that_no_longer_follows_is_dropped_with_a_word(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    not_carried_over(server)
    another_machine(tmp_path, monkeypatch)
    store, _ = locations.resume(RUN)
    commit(store, 0, "evaluation", "theirs")
    store.close()
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    caplog.clear()
    store, _ = locations.resume(RUN)
    assert store.read_json(0, "evaluation", "extra")["value"] == "theirs"
    store.close()
    assert f"{RUN}: {PHASE} was committed here and never carried over" in caplog.text


def test_nothing_is_dropped_where_only_the_last_answer_was_missed(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest arrived, and the process died before it noted that."""
    store = locations.create(RUN, QUICK, {})
    commit(store, 0, "base")
    state = (store.root / ".remote.json").read_bytes()
    commit(store, 0, "evaluation", "dear")
    attempt = json.loads((store.root / PHASE / "manifest.json").read_bytes())["facts"]["attempt"]
    before = json.loads(state) | {"pending": {PHASE: attempt}}
    crash(store)
    (store.root / ".remote.json").write_text(json.dumps(before))
    server.client.delete_object(Bucket=BUCKET, Key=f"{KEY}/lock")
    caplog.clear()
    assert is_carried_over(server)
    assert "never carried over" not in caplog.text and (store.root / PHASE / "extra.json").exists()
