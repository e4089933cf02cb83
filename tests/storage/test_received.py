"""Folders that others have made: links and special files in them, odd content, and code that their configs name."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.driver import run as loop
from scpl_ray import records
from scpl_ray.config import Experiment
from scpl_ray.records import Completion, Metric
from scpl_ray.report import data
from scpl_ray.storage import inside, tables
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.studies import results

ROW = [Metric(1, None, "gap", 0.25)]
DEAR = "dear to somebody else"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "evil_rules", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = Store.create(tmp_path / "run", Experiment(), {"python": "3"})
    for phase in ("base", "evaluation"):
        with store.phase(0, phase) as work:
            work.write("metrics", ROW, Metric)
    (store.root / "logs" / "driver.log").write_text("log\n")
    store.close()
    return store.root


@pytest.fixture
def dear(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    (folder / "base").mkdir(parents=True)
    for name in ("file", "base/file", "driver.log", "manifest.json"):
        (folder / name).write_text(DEAR)
    return folder


def is_untouched(dear: Path) -> bool:
    there = {str(p.relative_to(dear)): p.read_text() for p in dear.rglob("*") if p.is_file()}
    return there == dict.fromkeys(("file", "base/file", "driver.log", "manifest.json"), DEAR)


def replace(path: Path, by: Callable[[Path], None]) -> None:
    if path.exists():
        path.rename(path.with_name(f"was-{path.name}")) if path.parent.name != "run" else inside.remove_below(
            path.parent, path.name
        )
    by(path)


FILES = [
    "lock",
    "run.json",
    "config.yaml",
    "rounds/000/base/manifest.json",
    "rounds/000/evaluation/metrics.parquet",
    "logs/driver.log",
    "card.json",
    "summary.json",
]
FOLDERS = ["rounds", "rounds/000", "rounds/000/base", "rounds/000/evaluation", "logs", "tensorboard", "ray"]


def work_in(root: Path) -> None:
    """What a resumed run does: open, do phases again, log, finish."""
    store, _ = Store.open(root)
    try:
        loop.log_to(root / "logs" / "driver.log", verbose=False)
        for phase in ("base", "evaluation"):
            inside.remove_below(root, f"rounds/000/{phase}/manifest.json")
        for phase in ("base", "evaluation"):
            with store.phase(0, phase) as work:
                work.write("metrics", ROW, Metric)
        store.finish(ROW, {})
    finally:
        store.close()


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_the_place_of_a_file_is_neither_read_nor_written(root: Path, dear: Path, name: str) -> None:
    replace(root / name, lambda path: path.symlink_to(dear / "file"))
    if name == "rounds/000/evaluation/metrics.parquet":  # damage in the last phase: only the link is removed
        with pytest.raises(StoreError, match="symbolic link"):
            Reader(root).read(0, "evaluation", "metrics", Metric)
        work_in(root)
    else:
        with pytest.raises(StoreError, match="symbolic link"):
            work_in(root)
    assert is_untouched(dear)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_link_in_the_place_of_a_folder_is_neither_read_nor_written(root: Path, dear: Path, name: str) -> None:
    replace(root / name, lambda path: path.symlink_to(dear))
    with pytest.raises(StoreError, match=r"symbolic link|damaged"):
        work_in(root)
    assert is_untouched(dear)


@pytest.mark.parametrize("name", ["logs", "rounds", "rounds/000", "lock"])
def test_nor_is_it_in_a_new_run(tmp_path: Path, dear: Path, name: str) -> None:
    (tmp_path / "new" / "rounds").mkdir(parents=True)
    replace(tmp_path / "new" / name, lambda path: path.symlink_to(dear / "file" if name == "lock" else dear))
    inside.remove_below(tmp_path / "new", "was-rounds")
    with pytest.raises(StoreError, match="symbolic link"):
        store = Store.create(tmp_path / "new", Experiment(), {})
        try:
            with store.phase(0, "base") as work:
                work.write("metrics", ROW, Metric)
        finally:
            store.close()
    assert is_untouched(dear)


def test_a_fifo_in_the_place_of_a_file_holds_nobody_up(root: Path) -> None:
    """In one process of its own, which would wait for ever."""
    for number, name in enumerate(FILES):
        copy = root.parent / str(number) / "run"
        shutil.copytree(root, copy)
        replace(copy / name, os.mkfifo)
    code = (
        "import sys\nfrom pathlib import Path\nfrom scpl_ray.storage.run_directory import Reader, Store\n"
        "from scpl_ray.storage.errors import StoreError\n"
        "from scpl_ray.records import Metric\n"
        f"for number, name in enumerate({FILES!r}):\n"
        f"    root = Path({str(root.parent)!r}) / str(number) / 'run'\n"
        "    for way in (Store.open, lambda root: Reader(root).read(0, 'evaluation', 'metrics', Metric)):\n"
        "        try:\n            way(root)\n        except StoreError as error:\n            print(name, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    refused = [line.split()[0] for line in done.stdout.splitlines() if "not a regular file" in line]
    assert done.returncode == 0 and set(refused) == set(FILES), (done.stdout, done.stderr)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_a_config_that_is_no_regular_file_is_a_message(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "c.yaml")
    for command in (["run", "c.yaml"], ["sweep", "c.yaml"], ["simulate", "c.yaml"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2 and "c.yaml: " in result.output and "Traceback" not in result.output


def test_a_leftover_of_a_write_that_is_a_link_overwrites_nothing(root: Path, dear: Path) -> None:
    (root / f".summary.json.{os.getpid()}.tmp").symlink_to(dear / "file")
    (root / "rounds" / "000" / "evaluation" / f".x.json.{os.getpid()}.tmp").symlink_to(dear / "file")
    inside.remove_below(root, "rounds/000/evaluation/manifest.json")
    store, _ = Store.open(root)
    store.finish(ROW, {})
    with store.phase(0, "evaluation") as work:
        work.write_json("x", 1)
    store.close()
    assert is_untouched(dear)


def test_a_study_follows_no_link_either(root: Path, dear: Path) -> None:
    from jobs.driver import study as job

    folder = root.parent / "study"
    (folder / "runs" / "arm").mkdir(parents=True)
    (folder / "study.yaml").write_text("name: s\n")
    (folder / "runs" / "arm" / "seed-000").symlink_to(root)
    (folder / "lock").symlink_to(dear / "file")
    (folder / "results.parquet").symlink_to(dear / "file")
    with pytest.raises(OSError, match="symbolic link"), job._locked(folder):
        pass
    with pytest.raises(StoreError, match=r"results.parquet: cannot be read .a symbolic link"):
        results.read(folder)
    (folder / "results.parquet").unlink()
    with pytest.raises(StoreError, match="a study without any result"):
        data.load([folder], {})
    (folder / "failed.json").symlink_to(dear / "file")
    with pytest.raises(StoreError, match="symbolic link"):
        data._failed(folder)
    assert is_untouched(dear)


@pytest.mark.parametrize("name", ["²", "٣", "0", "00", "0000000000000000000001", "-01", " 001", "1e3"])
def test_folders_that_are_no_rounds_are_ignored(root: Path, name: str) -> None:
    (root / "rounds" / name / "base").mkdir(parents=True)
    reader, _ = Reader.open(root)
    assert [(m.round, m.phase) for m in reader.committed()] == [(0, "base"), (0, "evaluation")]


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, '"2"', "null", "3", '{"format": 2, "versions": 3}', '{"format": 2, "versions": ["a"]}', "{}"),
        *('{"format": ' + "9" * 5000 + "}", '{"format": {}}', "\ufeff{}"),
    ],
)
def test_an_odd_run_json_is_a_message(root: Path, text: str) -> None:
    (root / "run.json").write_text(text)
    for way in (Store.open, Reader.open):
        with pytest.raises(StoreError, match=r"not a run directory|run format|run.json") as caught:
            way(root)
        assert len(str(caught.value)) < 1000
    result = CliRunner().invoke(app, ["report", str(root)])
    assert result.exit_code == 2 and "Traceback" not in result.output


def test_a_huge_file_is_not_read(root: Path) -> None:
    for name in ("run.json", "rounds/000/base/manifest.json", "config.yaml"):
        before = (root / name).read_bytes()
        with (root / name).open("r+b") as file:
            file.truncate(2**40)
        with pytest.raises(StoreError, match="larger than"):
            Store.open(root)
        (root / name).write_bytes(before)
    Store.open(root)[0].close()


def metrics(rows: int) -> pa.Table:
    schema = records.SCHEMAS[Metric]
    values = zip((1, None, "gap", 0.5, None, None), schema, strict=True)
    columns = [pa.repeat(pa.scalar(value, field.type), rows) for value, field in values]
    return pa.table(columns, schema=schema)


def test_rows_are_counted_before_they_are_loaded(root: Path) -> None:
    path = root / "rounds/000/evaluation/metrics.parquet"
    pq.write_table(metrics(3_000_000), path)
    assert path.stat().st_size < 100_000
    reader, _ = Reader.open(root)
    began = time.process_time()
    with pytest.raises(StoreError, match="holds 3,000,000 rows; at most 500,000 are read"):
        reader.read(0, "evaluation", "metrics", Metric)
    assert time.process_time() - began < 0.5


def test_so_are_the_values_of_lists_and_the_bytes_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def completions(text: str, tokens: int, rows: int) -> pa.Table:
        one = [Completion(f"q-s{i}", "q", i, 0, 1, (), (7,) * tokens, text, "stop") for i in range(rows)]
        return records.to_table(one, Completion)

    schema = records.SCHEMAS[Completion]
    pq.write_table(completions("x", 100_000, 10), tmp_path / "t.parquet")
    monkeypatch.setattr(tables, "MOST_VALUES", 500_000)
    with pytest.raises(StoreError, match="at most 500,000 are read"):
        tables.read_below(tmp_path, "t.parquet", schema)
    pq.write_table(completions("x" * 100_000, 1, 2_000), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 500_000
    monkeypatch.setattr(tables, "MOST_BYTES", 2**27)
    monkeypatch.setattr(tables, "BATCH_BYTES", 2**24)
    with pytest.raises(StoreError, match="GiB of memory"):
        tables.read_below(tmp_path, "t.parquet", schema)


def test_a_table_of_an_older_version_lacks_what_was_added_since_and_nothing_else(root: Path) -> None:
    path = root / "rounds/000/evaluation/completions.parquet"
    now = records.to_table([Completion("q-s0", "q", 0, 0, 1, (9,), (7, 8), "x", "stop", -1.5)], Completion)
    before = now.drop_columns(["log_probability"])
    reader, _ = Reader.open(root)
    pq.write_table(before, path)
    found = reader.read(0, "evaluation", "completions", Completion)
    assert found and {c.log_probability for c in found} == {None}
    assert records.to_table(found, Completion).drop_columns(["log_probability"]).equals(before)
    some = reader.table(0, "evaluation", "completions", Completion, columns=["log_probability", "completion_id"])
    assert some.column_names == ["log_probability", "completion_id"] and some["log_probability"].null_count == len(
        found
    )
    pq.write_table(before.drop_columns(["text"]), path)
    with pytest.raises(StoreError, match="expected"):
        reader.read(0, "evaluation", "completions", Completion)
    pq.write_table(now, path)
    assert reader.read(0, "evaluation", "completions", Completion)[0].log_probability == -1.5


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 64 + b"PAR1", b"x" * 1000])
def test_a_table_that_is_none_is_a_message(root: Path, content: bytes) -> None:
    (root / "rounds/000/evaluation/metrics.parquet").write_bytes(content)
    with pytest.raises(StoreError, match=r"metrics.parquet: cannot be read"):
        Reader(root).read(0, "evaluation", "metrics", Metric)


EVIL = "raise SystemExit('code of the config was run')\n"
TRUSTING = {"model": {"name": "./model", "trust_remote_code": True}}
CUSTOM = {"feedback": {"rule": "custom", "function": "evil_rules:rule"}}


def received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, object]) -> Path:
    """A run that another user began, and modules that would run if anything imported them."""
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache of another user"))
    store = Store.create(tmp_path / "received", Experiment.model_validate({**config, "loop": {"rounds": 1}}), {})
    with store.phase(0, "evaluation") as work:
        work.write("metrics", [Metric(0, None, "gap", 0.25)], Metric)
    store.close()
    monkeypatch.setenv("SCPL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "evil_rules.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    return store.root


@pytest.mark.parametrize("config", [TRUSTING, CUSTOM, {**TRUSTING, **CUSTOM}], ids=["model", "rule", "both"])
def test_reading_a_received_run_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, object]
) -> None:
    run = received(tmp_path, monkeypatch, config)
    result = CliRunner().invoke(app, ["report", str(run), "--output", "page"])
    assert "code of the config was run" not in str(result.exception) and "evil_rules" not in sys.modules
    assert result.exit_code in (0, 2) and "was not begun here" not in result.output, result.output


@pytest.mark.parametrize("config", [TRUSTING, CUSTOM, {**TRUSTING, **CUSTOM}], ids=["model", "rule", "both"])
def test_resuming_a_received_run_asks_for_the_keys_that_run_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, object]
) -> None:
    run = received(tmp_path, monkeypatch, config)
    asked = []
    if "model" in config:
        asked.append("model.trust_remote_code=true")
    if "feedback" in config:
        asked.append("feedback.function=evil_rules:rule")
    for given in ([], asked[:-1], ["loop.rounds=2"]):
        result = CliRunner().invoke(app, ["run", "--resume", str(run), *given])
        assert result.exit_code == 2, result.output
        assert (
            f"was not begun here, and its config names code that would run: {asked[0].split('=')[0]} = "
            in result.output
        )
        assert f"--resume {run} {' '.join(asked)}" in result.output and "evil_rules" not in sys.modules
    result = CliRunner().invoke(app, ["run", "--resume", str(run), "feedback.function=other:rule"])
    assert result.exit_code == 2 and "feedback.function cannot change in a run" in result.output
    simulated = CliRunner().invoke(app, ["simulate", "--from", str(run)])
    assert simulated.exit_code == 2 and "was not begun here" in simulated.output
    assert "evil_rules" not in sys.modules


def test_who_says_the_keys_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = received(tmp_path, monkeypatch, CUSTOM)
    (tmp_path / "evil_rules.py").write_text("def rule(shares, measured, **_):\n    return shares\n")
    seen = []
    monkeypatch.setattr(loop, "supervise", lambda store, experiment, task, *, verbose: seen.append(store.close()) or 0)
    agreed = ["run", "--resume", str(run), "feedback.function=evil_rules:rule"]
    for command in (agreed, agreed[:-1]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    assert len(seen) == 2
    # the same run with other code is another question
    text = (run / "config.yaml").read_text().replace("evil_rules:rule", "evil_rules:other")
    (run / "config.yaml").write_text(text)
    assert "was not begun here" in CliRunner().invoke(app, agreed[:-1]).output
    # and so is another run with the same code
    (run / "config.yaml").write_text(text.replace("evil_rules:other", "evil_rules:rule"))
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "id": "another"}))
    assert "was not begun here" in CliRunner().invoke(app, agreed[:-1]).output
    (run / "run.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "id"}))
    assert "was not begun here" in CliRunner().invoke(app, agreed[:-1]).output


def test_a_run_that_was_begun_here_is_resumed_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_rules.py").write_text("def rule(shares, measured, **_):\n    return shares\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil_rules", raising=False)
    Store.create(tmp_path / "mine", Experiment.model_validate(CUSTOM), {}).close()
    monkeypatch.setattr(loop, "supervise", lambda store, experiment, task, *, verbose: store.close() or 0)
    (tmp_path / "mine").rename(tmp_path / "moved")
    result = CliRunner().invoke(app, ["run", "--resume", "moved"])
    assert result.exit_code == 0, result.output
    Store.create(tmp_path / "plain", Experiment(), {}).close()
    remembered = list((tmp_path / "cache").glob("consents*/*"))
    assert len(remembered) == 1, "only runs that name code are remembered"


def test_a_received_study_is_begun_here_before_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_rules.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "study").mkdir()
    arms = "arms: {a: {feedback.rule: custom, feedback.function: 'evil_rules:rule'}}\n"
    (tmp_path / "study" / "study.yaml").write_text(f"name: s\nset: {{loop.rounds: 1}}\n{arms}")
    result = CliRunner().invoke(app, ["sweep", "--resume", "study"])
    assert result.exit_code == 2 and "was not begun here" in result.output, result.output
    assert "begin the study here: scpl sweep study/study.yaml" in result.output and "evil_rules" not in sys.modules
    result = CliRunner().invoke(app, ["report", "study"])
    assert "evil_rules" not in sys.modules and "without any result" in result.output


def test_a_cache_whose_entry_another_process_makes_for_ever_is_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    from scpl_ray.storage import cache

    monkeypatch.setattr(cache, "LOCK_SECONDS", 0.1)
    key = cache.key_of({"a": 1})
    folder = cache.entry("thing", key, lambda folder: (folder / "file").write_text("1") and None)
    with (tmp_path / "cache" / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"another process has been making .* set SCPL_CACHE"):
            cache.entry("thing", key, lambda folder: None)


def test_the_scratch_folder_of_a_killed_builder_goes(tmp_path: Path) -> None:
    from scpl_ray.storage import cache

    key = cache.key_of({"a": 1})
    name = f"thing-{key[:16]}"
    left = tmp_path / "cache" / f"{name}.ab12_xyz"
    (left / "new").mkdir(parents=True)
    for kept in ("another-0123.ab12_xyz", f"{name}.lock2"):
        (tmp_path / "cache" / kept).mkdir()
    cache.entry("thing", key, lambda folder: (folder / "file").write_text("1") and None)
    there = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert there == sorted([name, f"{name}.lock", "another-0123.ab12_xyz", f"{name}.lock2"])


def test_a_phase_is_on_the_disk_before_its_manifest_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fsync and rename of a commit, by name: the weights and all folders come before the manifest's name."""
    done: list[str] = []
    sync, rename = os.fsync, Path.replace

    def name_of(descriptor: int) -> str:
        return os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), tmp_path / "run")

    def noted_sync(descriptor: int) -> None:
        done.append(f"sync {name_of(descriptor)}")
        sync(descriptor)

    def noted_rename(self: Path, target: Path) -> Path:
        done.append(f"rename to {os.path.relpath(target, tmp_path / 'run')}")
        return rename(self, target)

    store = Store.create(tmp_path / "run", Experiment(), {})
    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    with store.phase(1, "weights") as work:
        (work.path / "model").mkdir()
        (work.path / "model" / "model.safetensors").write_bytes(b"weights")
        done.clear()
    store.close()
    folder = "rounds/001/weights"
    at = done.index(f"rename to {folder}/manifest.json")
    for name in (f"{folder}/model/model.safetensors", f"{folder}/model", folder, "rounds/001", "rounds"):
        assert f"sync {name}" in done[:at], (name, done)
    assert f"sync {folder}" in done[at:], "the manifest's name is on the disk when the phase counts as committed"
