"""Parquet files that are damaged or made to do harm: each is one error here, whatever it does to its decoder."""

import io
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scpl_ray.config import Experiment, Task
from scpl_ray.records import SCHEMAS, Completion, Example, Metric
from scpl_ray.storage import parquet, parquet_process, tables
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.phase import GROUP_ROWS, Phase
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.rows import DataError, Fields

ROW = [Metric(0, None, "gap", 0.25)]
FIELDS = Fields(required=("text",))


def texts(path: Path, count: int = 1_000) -> Path:
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(count)]}), path)
    return path


def refused(path: Path) -> str:
    """The two messages that a file gives as a user's data; the same decoder reads received runs."""
    with pytest.raises(DataError) as caught:
        data.load(Experiment(task=Task(data=str(path))), FIELDS)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], None]:
    """Puts other code in the place of some of the decoder's."""

    def change(old: str, new: str) -> None:
        text = Path(parquet_process.__file__).read_text()
        assert old in text
        (tmp_path / "other_process.py").write_text(text.replace(old, new))
        monkeypatch.setattr(parquet_process, "__file__", str(tmp_path / "other_process.py"))
        monkeypatch.setattr(parquet, "_idle", [])

    return change


@pytest.fixture
def harmful(decoder: Callable[[str, str], None]) -> Callable[[str], None]:
    """Lets a line of code run where the decoder has read the first batch of a file, as a fault in C++ would."""
    return lambda code: decoder("                    _check(batch)\n", f"                    {code}\n")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended the process that decodes it, by SIGSEGV: it is damaged, or"),
        ("os.abort()", "by SIGABRT"),
        ("os._exit(3)", "by exit code 3"),
        ("bytearray(2**40)", "it takes more than 4 GiB of memory"),
        ("raise ValueError('an odd page')", "an odd page"),
    ],
)
def test_what_a_file_does_to_its_decoder_is_one_error(
    tmp_path: Path, harmful: Callable[[str], None], code: str, said: str
) -> None:
    harmful(code)
    assert said in refused(texts(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"round": [0], "group": [None], "metric": ["m"], "value": [0.5],
                             "low": [None], "high": [None]}, SCHEMAS[Metric]),
                   tmp_path / "t.parquet")  # fmt: skip
    with pytest.raises(StoreError, match=r"t.parquet: cannot be read .*restore it") as caught:
        tables.read_below(tmp_path, "t.parquet", SCHEMAS[Metric])
    assert said in str(caught.value)


def test_a_decoder_that_never_ends_is_ended(tmp_path: Path, harmful: Callable[[str], None]) -> None:
    harmful("signal.setitimer(signal.ITIMER_PROF, 0.05); any(iter(int, 1))")
    assert "decoding it takes more than 20 s at a time" in refused(texts(tmp_path / "a.parquet"))


def test_a_few_bytes_that_stand_for_gigabytes_are_refused(tmp_path: Path, decoder: Callable[[str, str], None]) -> None:
    """One value of a dictionary, repeated in a file of a few hundred kilobytes that its reader unpacks at once."""
    decoder("MEMORY_BYTES = 4 * 2**30", "MEMORY_BYTES = 2**29")
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(256, np.int32)), pa.array(["x" * 2**22]))
    pq.write_table(pa.table({"text": one}), tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 2**19
    assert re.search(
        "cannot be read: it (takes more than 0 GiB of memory|ended the process)", refused(tmp_path / "a.parquet")
    )


def test_one_process_reads_many_files_and_is_replaced_when_it_ended(tmp_path: Path) -> None:
    for i in range(3):
        assert len(data.load(Experiment(task=Task(data=str(texts(tmp_path / f"{i}.parquet")))), FIELDS)[0]) == 1_000
    (decoder,) = parquet._idle
    (tmp_path / "none.parquet").write_bytes(b"PAR1 but nothing else")
    assert "cannot be read as parquet" in refused(tmp_path / "none.parquet")
    assert parquet._idle == [decoder]
    os.kill(decoder._process.pid, signal.SIGKILL)
    decoder._process.wait()
    assert len(data.load(Experiment(task=Task(data=str(tmp_path / "0.parquet"))), FIELDS)[0]) == 1_000
    assert parquet._idle != [decoder]


def test_a_signal_to_the_whole_group_is_not_the_files_fault(tmp_path: Path) -> None:
    """As ``ray job stop``, a scheduler or ``timeout`` sends it, while this process finishes a commit."""
    path = texts(tmp_path / "a.parquet")
    assert len(data.load(Experiment(task=Task(data=str(path))), FIELDS)[0]) == 1_000
    (decoder,) = parquet._idle
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(decoder._process.pid, number)
        assert len(data.load(Experiment(task=Task(data=str(path))), FIELDS)[0]) == 1_000 and parquet._idle == [decoder]


def test_a_reading_that_is_left_disturbs_no_other(tmp_path: Path) -> None:
    with texts(tmp_path / "a.parquet").open("rb") as file:
        left = parquet.batches(file, None, 10)
        assert next(left).num_rows == 10
        with texts(tmp_path / "b.parquet").open("rb") as other:
            assert sum(batch.num_rows for batch in parquet.batches(other, None, 10)) == 1_000
        left.close()


def test_threads_read_at_the_same_time(tmp_path: Path) -> None:
    path, counts = texts(tmp_path / "a.parquet"), []

    def read() -> None:
        with path.open("rb") as file:
            counts.append(sum(batch.num_rows for batch in parquet.batches(file, None, 100)))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [1_000] * 4 and len(parquet._idle) == 1


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", Experiment(), {})
    rows = [Completion(f"q-s{i}", "q", i, 0, 1, (1, 2), (7,) * i, "é\n", "stop") for i in range(300)]
    with store.phase(1, "completions") as work:
        work.write("completions", rows, Completion)
    assert Reader(store.root).read(1, "completions", "completions", Completion) == rows
    some = Reader(store.root).table(1, "completions", "completions", Completion, ["text", "token_ids"])
    assert some.column_names == ["text", "token_ids"] and some.num_rows == 300
    store.close()


def test_what_a_run_has_written_itself_needs_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path / "run", Experiment(), {})
    with store.phase(0, "evaluation") as work:
        work.write("metrics", ROW, Metric)
    monkeypatch.setattr(parquet, "_idle", [])
    assert store.read(0, "evaluation", "metrics", Metric) == ROW and parquet._idle == []
    store.close()
    store, _ = Store.open(store.root)
    assert store.read(0, "evaluation", "metrics", Metric) == ROW and len(parquet._idle) == 1
    store.close()


def test_large_tables_are_written_in_groups_that_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    phase = Phase(tmp_path)
    phase.write("metrics", ROW * (GROUP_ROWS + 1), Metric)
    file = pq.ParquetFile(tmp_path / "metrics.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [GROUP_ROWS, 1]


def test_a_damaged_last_phase_of_training_data_is_done_again(tmp_path: Path) -> None:
    for damage in (Path.unlink, lambda file: file.write_bytes(b"PAR1")):
        root = tmp_path / f"run{damage is Path.unlink}"
        store = Store.create(root, Experiment(), {})
        with store.phase(1, "dataset") as work:
            work.write("dataset", [Example("a", "real", None, (1,), (2,), 1.0, None)], Example)
        store.close()
        damage(root / "rounds/001/dataset/dataset.parquet")
        store, _ = Store.open(root, thorough=True)
        assert store.manifest(1, "dataset") is None
        store.close()


def test_the_data_that_training_reads_next_are_decoded_when_a_run_is_resumed(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "run", Experiment(), {})
    with store.phase(1, "dataset") as work:
        work.write("dataset", [Example("a", "real", None, (1,), (2,), 1.0, None)], Example)
    store.close()
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    for content, said in ((sink.getvalue(), "columns"), (b"PAR1" * 9, "cannot be read")):
        store, _ = Store.open(store.root)
        with store.phase(1, "dataset") as work:
            (work.path / "dataset.parquet").write_bytes(content)
        store.close()
        with pytest.raises(StoreError, match=f"dataset.parquet: {said}"):
            Store.open(store.root)
        (store.root / "rounds/001/dataset/manifest.json").unlink()
