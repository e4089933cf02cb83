"""Runs in an object store: moto's S3 server over HTTP, with faults on the way to it."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from scpl_ray.config import Experiment
from scpl_ray.storage import locations, manifests, retention
from scpl_ray.storage.errors import InUseError, StoreError
from scpl_ray.storage.object_store import names
from scpl_ray.storage.object_store import objects as s3
from scpl_ray.storage.object_store.lease import Holder, Lease
from scpl_ray.storage.object_store.mirror import RemoteStore
from scpl_ray.storage.object_store.objects import Objects
from scpl_ray.storage.run_directory import Reader, Store
from tests.support import fakes, moto_s3
from tests.support.loops import records_of, small
from tests.support.loops import run as run_locally
from tests.support.moto_s3 import BUCKET, Server
from tests.support.stored_runs import (
    KEY,
    QUICK,
    RUN,
    another_machine,
    commit,
    crash,
    finished,
    object_of,
    objects_of,
    play,
)


def test_a_run_in_a_store_has_the_records_of_a_local_one(server: Server, tmp_path: Path) -> None:
    _, expected = run_locally(tmp_path / "local", QUICK)
    finished(QUICK, tmp_path)
    found = objects_of(server)
    assert {name: found[name] for name in expected} == expected
    assert {"config.yaml", "run.json", "metrics.parquet", "summary.json", "logs/driver.log"} < set(found)
    assert "lock" not in found and not [name for name in found if "/." in name or name.startswith(".")]
    writes = [path for method, path in server.requests if method == "PUT" and not path.endswith("/lock")]
    for marker in [path for path in writes if path.endswith("/manifest.json")]:
        of_phase = [path for path in writes if path.startswith(marker.removesuffix("manifest.json"))]
        assert of_phase[-1] == marker and len(of_phase) > 1 and of_phase.count(marker) == 1
    assert writes.index(f"/{BUCKET}/{KEY}/config.yaml") < writes.index(f"/{BUCKET}/{KEY}/run.json")


def test_a_run_is_gone_on_with_on_another_machine(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = QUICK.model_copy(update={"loop": QUICK.loop.model_copy(update={"rounds": 2})})
    _, expected = run_locally(tmp_path / "local", longer)
    finished(QUICK, tmp_path)
    another_machine(tmp_path, monkeypatch)
    store, experiment = locations.resume(RUN)
    assert experiment == QUICK and str(tmp_path / "another machine") in str(store.root)
    assert (store.root / "logs" / "driver.log").read_text() == "begun\n"
    store.extend(longer)
    store.finish(play(store, longer, tmp_path), {})
    with (store.root / "logs" / "driver.log").open("a") as log:
        log.write("gone on with\n")
    store.close()
    found = objects_of(server)
    assert {name: data for name, data in found.items() if name in expected} == expected
    assert found["logs/driver.log"] == b"begun\ngone on with\n"
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))  # back to the first, whose copy is old by now
    store, experiment = locations.resume(RUN)
    assert experiment == longer and {n: d for n, d in records_of(store.root).items() if n in expected} == expected
    store.close()


def test_a_store_that_refuses_at_any_write_loses_at_most_that_phase(server: Server, tmp_path: Path) -> None:
    def begun() -> Store:
        server.reset()
        store = locations.create(RUN, QUICK, {})
        commit(store, 0, "base")
        server.requests.clear()
        return store

    def writes() -> int:
        return sum(method != "GET" for method, _ in server.requests)

    def phases() -> dict[str, bytes]:
        found = objects_of(server)
        committed = [name.removesuffix("manifest.json") for name in found if name.endswith("manifest.json")]
        assert all(
            len(name.split("/")) == 4 or names.TOKEN.fullmatch(name.split("/")[3]) for name in found if "/" in name
        )
        return {
            n: d for n, d in found.items() if n.startswith(tuple(committed)) and n.count("/") == 3 and "manif" not in n
        }

    store = begun()
    commit(store, 0, "evaluation")
    expected, total = phases(), writes()
    store.close()
    assert total > 6
    for allowed in range(total):
        store = begun()
        server.fault = lambda method, path, allowed=allowed: 403 if writes() > allowed else None
        with pytest.raises(StoreError, match=rf"{RUN}: refused .* these credentials need"):
            commit(store, 0, "evaluation")
        crash(store)
        server.fault = lambda method, path: None
        server.client.delete_object(Bucket=BUCKET, Key=f"{KEY}/lock")
        if allowed % 2:
            shutil.rmtree(tmp_path / "cache")
        again, _ = locations.resume(RUN)
        assert again.manifest(0, "base") is not None
        if again.manifest(0, "evaluation") is None:
            assert allowed % 2
            commit(again, 0, "evaluation")
        again.close()
        assert phases() == expected, allowed


def test_what_is_deleted_on_purpose_is_deleted_in_the_store_too(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = small("loop.rounds=2")
    store = locations.create(RUN, experiment, {})
    for round_ in (1, 2):
        with store.phase(round_, "weights") as work:
            for name in ("model", "adapter"):
                (work.path / name).mkdir()
                (work.path / name / "policy.json").write_text("[0.0, 0.0]")
        retention.tidy(store, experiment, round_)
    store.close()
    whole = {name for name in objects_of(server) if name.endswith("model/policy.json")}
    assert whole == {"rounds/002/weights/model/policy.json"}
    another_machine(tmp_path, monkeypatch)
    again, _ = locations.resume(RUN, thorough=True)
    manifest = again.manifest(1, "weights")
    assert manifest is not None and manifest.deleted == ("model/policy.json",) and len(manifest.files) == 2
    again.close()
    # a process died between the manifest and the object: it is not fetched again, and deleted the next time
    left = object_of(server, "rounds/001/weights/model/policy.json")
    server.put(left, b"[0.0, 0.0]")
    again, _ = locations.resume(RUN)
    assert not (again.root / "rounds/001/weights/model").exists()
    retention.tidy(again, experiment, 2)
    again.close()
    assert left not in server.names()
    with locations.readable([RUN]) as folders:
        assert Reader.open(next(iter(folders)))[1] == experiment


def test_a_killed_run_ends_with_the_records_of_an_undisturbed_one(server: Server, tmp_path: Path) -> None:
    def process() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.support.fake_run", RUN, "0.01"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    _, expected = run_locally(tmp_path / "local", small("reward.choices=balanced"))
    for deadly in (60, 40):
        server.requests.clear()
        running = process()

        def kill(method: str, path: str, running: subprocess.Popen[str] = running, deadly: int = deadly) -> int | None:
            if len([r for r in server.requests if r[0] == "PUT"]) >= deadly:
                running.send_signal(signal.SIGKILL)
                return 500
            return None

        server.fault = kill
        running.communicate()
        assert running.returncode == -signal.SIGKILL
        server.fault = lambda method, path: None
    shutil.rmtree(tmp_path / "cache")
    running = process()
    _, said = running.communicate()
    assert running.returncode == 0, said
    assert "which has ended, is taken over" in said
    found = objects_of(server)
    assert {name: data for name, data in found.items() if name in expected} == expected
    assert "lock" not in found


def test_a_phase_whose_upload_did_not_end_is_carried_on_with(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused_upload() -> Store:
        server.reset()
        store = locations.create(RUN, QUICK, {})
        commit(store, 0, "base")
        server.fault = lambda method, path: 403 if re.search("evaluation/.*metrics.parquet", path) else None
        with pytest.raises(StoreError, match="refused"):
            commit(store, 0, "evaluation", "dear")
        store.close()
        server.fault = lambda method, path: None
        return store

    refused_upload()
    assert not [name for name in objects_of(server) if name.startswith("rounds/000/evaluation/manifest")]
    store, _ = locations.resume(RUN)
    assert "rounds/000/evaluation was not carried over before; it is now" in caplog.text
    assert store.read_json(0, "evaluation", "extra")["value"] == "dear"
    store.close()
    assert "rounds/000/evaluation/manifest.json" in objects_of(server)

    before = refused_upload()  # another machine goes on in the meantime: its phase counts
    another_machine(tmp_path, monkeypatch)
    store, _ = locations.resume(RUN)
    commit(store, 0, "evaluation", "theirs")
    store.close()
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    store, _ = locations.resume(RUN)
    assert store.root == before.root and store.read_json(0, "evaluation", "extra")["value"] == "theirs"
    store.close()

    refused_upload()  # or a person takes back what it was built on
    server.client.delete_object(Bucket=BUCKET, Key=f"{KEY}/rounds/000/base/manifest.json")
    store, _ = locations.resume(RUN)
    assert not list(store.committed())
    store.close()


def test_a_phase_that_was_committed_and_not_begun_to_be_uploaded_is_carried_on_with(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed right before, or right after, the manifest is written."""

    def killed(*_: object) -> None:
        raise fakes.Killed

    for of, name, whole in ((RemoteStore, "publish", True), (manifests, "write", False)):
        server.reset()
        store = locations.create(RUN, QUICK, {})
        commit(store, 0, "base")
        with monkeypatch.context() as patched, pytest.raises(fakes.Killed):
            patched.setattr(of, name, killed)
            commit(store, 0, "evaluation", "dear")
        crash(store)
        server.client.delete_object(Bucket=BUCKET, Key=f"{KEY}/lock")
        store, _ = locations.resume(RUN)
        assert [m.phase for m in store.committed()] == (["base", "evaluation"] if whole else ["base"])
        store.close()
        assert ("rounds/000/evaluation/manifest.json" in objects_of(server)) == whole


def two_phases(experiment: Experiment = QUICK) -> Store:
    store = locations.create(RUN, experiment, {})
    commit(store, 0, "base")
    commit(store, 0, "evaluation")
    store.close()
    return store


def test_an_object_edited_below_later_phases_is_an_error(server: Server) -> None:
    two_phases()
    name = object_of(server, "rounds/000/base/metrics.parquet")
    server.put(name, server.get(name)[:-1] + b"x")
    with pytest.raises(StoreError, match=rf"{RUN}: rounds/000/base: metrics.parquet was changed .* later phases"):
        locations.resume(RUN)
    assert f"{KEY}/lock" not in server.names()
    with pytest.raises(StoreError, match=r"metrics.parquet was changed"), locations.readable([RUN]):
        pass


@pytest.mark.parametrize("damage", ["truncated object", "missing object", "missing manifest", "torn manifest"])
@pytest.mark.parametrize("where", ["here", "on another machine"])
def test_damage_in_the_last_phase_is_done_again(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: str,
    where: str,
) -> None:
    two_phases()
    folder = f"{KEY}/rounds/000/evaluation"
    name = object_of(server, f"rounds/000/evaluation/{'metrics.parquet' if 'object' in damage else 'manifest.json'}")
    if "missing" in damage:
        server.client.delete_object(Bucket=BUCKET, Key=name)
    else:
        server.put(name, server.get(name)[:-7])
    server.put(f"{folder}/left over", b"1")
    if where != "here":
        another_machine(tmp_path, monkeypatch)
    store, _ = locations.resume(RUN)
    assert store.manifest(0, "base") is not None and store.manifest(0, "evaluation") is None
    assert damage == "missing manifest" or "done again" in caplog.text
    assert "object" not in damage or f"{folder}/manifest.json" not in server.names()
    before = set(server.names(folder))
    commit(store, 0, "evaluation")
    store.close()
    assert before - {f"{folder}/manifest.json"} <= set(server.names(folder)), "what another process wrote was deleted"
    names_now = {n for n in objects_of(server) if n.startswith("rounds/000/evaluation/") and n.count("/") == 3}
    assert {n.rpartition("/")[2] for n in names_now} == {"manifest.json", "metrics.parquet", "extra.json", "left over"}
    locations.resume(RUN)[0].close()


def test_a_damaged_download_is_made_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    two_phases()
    another_machine(tmp_path, monkeypatch)
    server.cut = 2
    store, _ = locations.resume(RUN)
    assert len(list(store.committed())) == 2 and caplog.text.count("it is fetched again") == 2
    store.close()


def test_a_working_copy_of_another_run_does_not_count(server: Server, tmp_path: Path) -> None:
    finished(QUICK, tmp_path)
    for name in server.names():
        server.client.delete_object(Bucket=BUCKET, Key=name)
    store = locations.create(RUN, QUICK, {})
    assert not list(store.committed()) and not (store.root / "summary.json").exists()
    assert (store.root / "logs" / "driver.log").exists() is False
    store.close()
    assert "summary.json" not in objects_of(server)


def test_nor_does_one_of_a_run_that_another_machine_has_begun_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(QUICK, tmp_path)
    for name in server.names():
        server.client.delete_object(Bucket=BUCKET, Key=name)
    another_machine(tmp_path, monkeypatch)
    two_phases()
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    store, _ = locations.resume(RUN)
    assert [m.phase for m in store.committed()] == ["base", "evaluation"]
    store.close()
    assert not {"summary.json", "metrics.parquet", "logs/driver.log"} & set(objects_of(server))


def test_errors_that_pass_are_tried_again_and_logged(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, expected = run_locally(tmp_path / "local", QUICK)
    server.fault = lambda method, path: (
        (500, 503, 429)[len(server.requests) % 3] if not len(server.requests) % 25 else None
    )
    finished(QUICK, tmp_path)
    assert f"{RUN}: attempt 1 of at most {s3.ATTEMPTS} failed: HTTP status 503" in caplog.text
    found = objects_of(server)
    assert {name: data for name, data in found.items() if name in expected} == expected


def test_two_processes(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = locations.create(RUN, QUICK, {})
    with pytest.raises(InUseError, match=rf"{RUN}: in use by process {os.getpid()}"):
        locations.resume(RUN)
    another_machine(tmp_path, monkeypatch)
    code = f"from scpl_ray.storage import locations\nlocations.resume({RUN!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and f"InUseError: {RUN}: in use by process {os.getpid()} on" in done.stderr, done.stderr
    commit(store, 0, "base")
    store.close()
    locations.resume(RUN)[0].close()


def lock_of(holder: Holder) -> bytes:
    return json.dumps(dataclasses.asdict(holder)).encode()


def test_a_lock_that_was_not_renewed_is_taken_over(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    objects = Objects(RUN)
    there = dataclasses.replace(Holder.this(), host="far", machine="another", started=1.0, token="another")
    server.put(f"{KEY}/lock", lock_of(there))
    with pytest.raises(InUseError, match=r"in use by process \d+ on far, heard of \d s ago; .* try again in 180 s"):
        Lease(objects)
    time.sleep(2.1)
    lease = Lease(objects, seconds=1.0)
    assert re.search(r"on far, which was last heard of \d s ago, is taken over", caplog.text)
    time.sleep(2.1)
    with pytest.raises(InUseError):
        Lease(objects, seconds=1.0)  # it was renewed
    lease.release()
    assert not server.names(f"{KEY}/lock")


def test_the_lock_of_a_process_of_this_machine_that_has_ended_is_taken_over(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    me = Holder.this()
    ended = [dataclasses.replace(me, process=process.pid, token="a"), dataclasses.replace(me, started=1.0, token="b")]
    for holder in ended:
        server.put(f"{KEY}/lock", lock_of(holder))
        Lease(Objects(RUN)).release()
        assert "which has ended, is taken over" in caplog.text
        caplog.clear()


def test_a_holder_whose_lock_was_taken_stops(server: Server) -> None:
    store = locations.create(RUN, QUICK, {})
    commit(store, 0, "base")
    other = dataclasses.replace(Holder.this(), process=7, host="far", token="another")
    server.put(f"{KEY}/lock", lock_of(other))
    before = server.names()
    with pytest.raises(InUseError, match="process 7 on far took its lock over"):
        commit(store, 0, "evaluation")
    store.close()
    assert server.names() == before and b"far" in server.get(f"{KEY}/lock")


def test_answers_that_get_lost_do_not_lose_the_lock(server: Server) -> None:
    lost: list[str] = []

    def lose(method: str, path: str) -> bool:
        if method == "PUT" and path.endswith("/lock") and len(lost) < 2:
            lost.append(path)
            return True
        return False

    server.lose_answer = lose
    store = locations.create(RUN, QUICK, {})
    lost.clear()
    commit(store, 0, "base")
    assert len(lost) == 2
    store.close()
    assert f"{KEY}/lock" not in server.names()


@pytest.mark.parametrize("header", ["HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"])
def test_a_store_that_ignores_conditions_is_refused(server: Server, header: str) -> None:
    server.drop_headers = (header,)
    with pytest.raises(StoreError, match="ignores the conditions If-None-Match and If-Match"):
        locations.create(RUN, QUICK, {})
    assert not server.names()


def test_a_place_that_is_not_empty_and_a_lock_that_is_none(server: Server) -> None:
    server.put(f"{KEY}/data.csv", b"1")
    with pytest.raises(StoreError, match=rf"{RUN}: not empty; continue that run with --resume {RUN}"):
        locations.create(RUN, QUICK, {})
    assert server.names() == [f"{KEY}/data.csv"]
    with pytest.raises(StoreError, match=rf"{RUN}: not a run directory, run.json is missing"):
        locations.resume(RUN)
    server.put(f"{KEY}/lock", b"mine")
    with pytest.raises(StoreError, match="an object lock that no run wrote"):
        locations.resume(RUN)
    assert server.get(f"{KEY}/lock") == b"mine"


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return result.output


def test_what_cannot_work_is_said_before_anything_starts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no bucket nowhere; make it" in refused("run", "--run-dir", "s3://nowhere/run")
    server.fault = lambda method, path: 403
    assert "these credentials need s3:ListBucket" in refused("run", "--run-dir", RUN)
    server.fault = lambda method, path: None
    assert "run.json is missing" in refused("run", "--resume", RUN)
    assert "run.json is missing" in refused("report", RUN)
    assert "--study-dir s3://b/c: must be a local folder" in refused(
        "sweep", "study_paper_tiny", "--quick", "--study-dir", "s3://b/c"
    )
    for place in (
        "s3:/bucket/run",
        "s3://bucket",
        "gs://bucket/run",
        "file://host/run",
        "s3://b/a/../c",
        "s3://bucket:name/c",
        "s3://b/a?v=1",
    ):
        assert f"{place}: not a place for a run; give a folder" in refused("run", "--run-dir", place)
    monkeypatch.setattr(s3, "ATTEMPTS", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "after 2 attempts; check the network and AWS_ENDPOINT_URL" in refused("run", "--resume", RUN)
    for name in moto_s3.CREDENTIALS:
        monkeypatch.delenv(name)
    assert "no credentials; set AWS_ACCESS_KEY_ID" in refused("run", "--run-dir", RUN)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "needs boto3; pip install 'scpl_ray[s3]'" in refused("run", "--resume", RUN)


def test_a_file_uri_is_the_folder(server: Server, tmp_path: Path) -> None:
    where = f"file://{tmp_path}/a%20run"
    store = locations.create(where, QUICK, {})
    assert type(store) is Store and store.root == tmp_path / "a run"
    store.close()
    locations.resume(where)[0].close()


def test_a_report_reads_everything_but_the_weights(server: Server, tmp_path: Path) -> None:
    finished(QUICK, tmp_path)
    server.requests.clear()
    result = CliRunner().invoke(app, ["report", RUN])
    assert result.exit_code == 0, result.output
    assert RUN in (tmp_path / "report" / "report.html").read_text()
    read = [path for method, path in server.requests if method == "GET" and "policy.json" in path]
    assert not read and not [r for r in server.requests if r[0] in ("PUT", "DELETE")]


def test_a_run_without_a_phase_has_nothing_to_report(server: Server) -> None:
    locations.create(RUN, QUICK, {}).close()
    assert f"{RUN}: no round was evaluated yet; let the run go on" in refused("report", RUN)
    store, _ = locations.resume(RUN)
    assert not list(store.committed())
    store.close()
