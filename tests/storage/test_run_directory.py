import json
import subprocess
import sys
from pathlib import Path

import pytest

from scpl_ray.config import Experiment
from scpl_ray.records import Metric
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.manifests import LOCK
from scpl_ray.storage.run_directory import Store

ROW = [Metric(1, None, "gap", 0.25), Metric(1, "north", "share", 0.6)]


@pytest.fixture
def store(tmp_path: Path):
    store = Store.create(tmp_path / "run", Experiment(), {"python": "3"})
    yield store
    store.close()


def commit(store: Store, round_: int, phase: str) -> Path:
    with store.phase(round_, phase) as work:
        work.write("metrics", ROW, Metric)
    return store.folder(round_, phase)


def test_a_phase_is_read_back_and_its_manifest_names_every_file(store: Store) -> None:
    with store.phase(1, "evaluation") as work:
        work.write("metrics", ROW, Metric)
        work.write_json("extra", {"a": 1})
        work.facts["steps"] = 3
    assert store.read(1, "evaluation", "metrics", Metric) == ROW
    assert store.read_json(1, "evaluation", "extra") == {"a": 1}
    manifest = store.manifest(1, "evaluation")
    assert manifest is not None
    assert set(manifest.files) == {"metrics.parquet", "extra.json"}
    assert manifest.facts == {"steps": 3} and manifest.seconds > 0


def test_a_phase_that_fails_is_not_committed_and_starts_clean(store: Store) -> None:
    with pytest.raises(KeyError), store.phase(1, "queries") as work:
        work.write_json("half", 1)
        raise KeyError
    assert store.manifest(1, "queries") is None
    assert not (commit(store, 1, "queries") / "half.json").exists()


def test_the_same_records_are_the_same_bytes(store: Store) -> None:
    first = (commit(store, 1, "queries") / "metrics.parquet").read_bytes()
    assert first == (commit(store, 2, "queries") / "metrics.parquet").read_bytes()


def test_a_phase_below_a_committed_one_cannot_be_done_again(store: Store) -> None:
    commit(store, 1, "queries")
    commit(store, 2, "queries")
    with pytest.raises(StoreError, match=r"rounds/001/weights is missing but rounds/002/queries was built on it"):
        commit(store, 1, "weights")


def test_unknown_phase(store: Store) -> None:
    with pytest.raises(ValueError, match="phase 'brewing'"):
        store.folder(1, "brewing")


def reopen(store: Store) -> Store:
    store.close()
    return Store.open(store.root)[0]


def test_damage_in_the_last_phase_takes_it_back(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    commit(store, 1, "queries")
    (commit(store, 1, "scores") / "metrics.parquet").write_bytes(b"torn")
    again = reopen(store)
    assert again.manifest(1, "queries") is not None
    assert again.manifest(1, "scores") is None
    assert "metrics.parquet has 4 bytes" in caplog.text and "done again" in caplog.text
    again.close()


def test_a_changed_earlier_phase_is_an_error(store: Store) -> None:
    folder = commit(store, 1, "queries")
    commit(store, 1, "scores")
    data = bytearray((folder / "metrics.parquet").read_bytes())
    data[50] ^= 1
    (folder / "metrics.parquet").write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"metrics.parquet was changed .* later phases were built on it"):
        reopen(store)
    Store(store.root).close()  # the lock was given back


def test_a_missing_file_and_a_path_out_of_the_folder_are_damage(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    folder = commit(store, 1, "queries")
    (folder / "metrics.parquet").unlink()
    reopen(store).close()
    assert "metrics.parquet is missing" in caplog.text
    store = Store.open(store.root)[0]
    folder = commit(store, 1, "queries")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../../run.json"] = {"bytes": 1, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    reopen(store).close()
    assert "leads out of the folder" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", '{"round": 1}'])
def test_a_damaged_manifest_does_not_count(store: Store, text: str) -> None:
    (commit(store, 1, "queries") / "manifest.json").write_text(text)
    assert store.manifest(1, "queries") is None


def test_a_second_process_is_refused(store: Store) -> None:
    code = (
        f"from pathlib import Path\nfrom scpl_ray.storage.run_directory import Store\nStore(Path({str(store.root)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "in use by process" in done.stderr and "--run-dir" in done.stderr


def test_create_refuses_a_folder_with_files(store: Store) -> None:
    store.close()
    with pytest.raises(StoreError, match=r"not empty; continue that run with --resume"):
        Store.create(store.root, Experiment(), {})


def test_create_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--run-dir"):
        Store.create(tmp_path / "file" / "run", Experiment(), {})


def test_open_says_what_is_not_a_run_directory(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"run.json is missing"):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match="not a run directory"):
        (tmp_path / "file").write_text("")
        Store.open(tmp_path / "file")
    store.close()
    write_atomically(store.root / "run.json", b'{"format": 99}')
    with pytest.raises(StoreError, match="run format 99; this version reads format 2"):
        Store.open(store.root)
    write_atomically(store.root / "run.json", b"no json")
    with pytest.raises(StoreError, match="not a run directory"):
        Store.open(store.root)
    write_atomically(store.root / "run.json", b"[]")
    with pytest.raises(StoreError, match="run format"):
        Store.open(store.root)


def test_open_says_what_the_system_refuses(store: Store) -> None:
    store.close()
    (store.root / LOCK).unlink()
    (store.root / LOCK).mkdir()
    with pytest.raises(StoreError, match=rf"{LOCK} cannot be used \(Is a directory\); make the run directory one that"):
        Store.open(store.root)


def test_open_gives_the_config_back(store: Store) -> None:
    longer = Experiment.model_validate({"loop": {"rounds": 9}})
    store.extend(longer)
    store.close()
    again, experiment = Store.open(store.root)
    assert experiment == longer
    again.finish(ROW, {"name": "x"})
    assert json.loads((store.root / "summary.json").read_text()) == {"name": "x"}
    again.close()


def test_an_atomic_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"1")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(OSError):
        write_atomically(tmp_path / "missing" / "a", b"1")
