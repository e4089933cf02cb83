"""What people's files look like: separators, line ends, encodings, odd rows, and columns that must not be followed."""

import builtins
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scpl_ray.config import Experiment, Task
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.rows import DataError, Fields, Row, Tally
from tests.support import real_data

FIELDS = Fields(required=("label", "text"), optional=("id",))
CELLS = [(f"L{i % 2}", f"word {i}") for i in range(20)]


def load(path: Path, **task: Any) -> tuple[list[Row], Tally]:
    return data.load(Experiment(task=Task(data=str(path), **task)), FIELDS)


def refused(path: Path, **task: Any) -> str:
    with pytest.raises(DataError) as error:
        load(path, **task)
    assert "\n" not in str(error.value)
    str(error.value).encode()
    return str(error.value)


def found(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row["label"], row["text"]) for row in rows]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separator_line_ends_and_byte_order_marks_are_found_out(
    separator: str, end: str, encoding: str, tmp_path: Path
) -> None:
    lines = [separator.join(cells) for cells in [("label", "text", "note"), *((*cells, "a, b") for cells in CELLS)]]
    if separator == ",":
        lines = [line.replace("a, b", '"a, b"') for line in lines]
    (tmp_path / "a.csv").write_bytes((end.join(lines) + end).encode(encoding))
    rows, tally = load(tmp_path / "a.csv")
    assert found(rows) == CELLS and tally.report().dropped == {}
    assert rows[3].where.endswith("a.csv line 5")


def test_a_separator_is_chosen_by_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label;text;a,b,c\n" + "".join(f"{a};{b};1,2,3\n" for a, b in CELLS))
    assert found(load(tmp_path / "a.csv")[0]) == CELLS
    (tmp_path / "b.csv").write_text("sep=;\nlabel;text\n" + "".join(f"{a};{b}\n" for a, b in CELLS))
    rows, tally = load(tmp_path / "b.csv")
    assert found(rows) == CELLS and rows[0].where.endswith("line 3") and "semicolons" in tally.form


def test_quoted_line_ends_count_and_names_and_cells_lose_blanks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('label, text,\nx, "one\n""two"", three",\n,,\n\ny, four,\n')
    rows, _ = load(tmp_path / "a.csv")
    assert found(rows) == [("x", 'one\n"two", three'), ("y", "four")]
    assert [row.where.rsplit(" ", 1)[1] for row in rows] == ["2", "6"]


def test_unnamed_columns_are_ignored_and_named_ones_are_not_doubled(tmp_path: Path) -> None:
    body = "".join(f"{i},{a},{b},,\n" for i, (a, b) in enumerate(CELLS))
    (tmp_path / "a.csv").write_text(f",label,text,,\n{body}")
    assert found(load(tmp_path / "a.csv")[0]) == CELLS
    (tmp_path / "b.csv").write_text(f"x,label,text,x,x\n{body}")
    assert found(load(tmp_path / "b.csv")[0]) == CELLS
    (tmp_path / "c.csv").write_text(f"id,label,text,id,x\n{body}")
    assert "c.csv line 1: the column 'id' is there twice" in refused(tmp_path / "c.csv")


def test_a_quote_that_is_never_closed_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,text\n" + "x,y\n" * 5 + 'x,"open\n' + "x,y\n" * 50)
    assert "a.csv line 7: a quote is opened and never closed" in refused(tmp_path / "a.csv")


def test_large_cells_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"label,text\nx,{'w ' * 200_000}\n")
    assert len(load(tmp_path / "a.csv")[0][0]["text"]) == 399_999


GOOD = json.dumps({"label": "x", "text": "good"})
ODD: dict[str, tuple[str | bytes, str]] = {
    "a lone surrogate": (r'{"label": "x", "text": "a \ud83d b"}', "text holds half a character"),
    "an integer of thousands of digits": (f'{{"label": "x", "text": {"9" * 5000}}}', "thousands of digits"),
    "the same where nobody asked": (f'{{"label": "x", "text": "t", "n": {"9" * 5000}}}', "thousands of digits"),
    "infinity": ('{"label": "x", "text": Infinity}', "text is infinite"),
    "a number beyond all": ('{"label": "x", "text": 1e999}', "text is infinite"),
    "NaN": ('{"label": "x", "text": NaN}', "text is empty"),
    "null": ('{"label": "x", "text": null}', "text is empty"),
    "deep nesting": ('{"label": ' * 50_000, "nested too deeply"),
    "a list": ('{"label": "x", "text": ["a"]}', "text holds a list"),
    "an object": ('{"label": "x", "text": {"a": 1}}', "text holds a dict"),
    "a truth value": ('{"label": true, "text": "t"}', "label holds a bool"),
    "a key twice": ('{"label": "x", "text": "a", "text": "b"}', "has the key 'text' twice"),
    "a NUL character": (r'{"label": "x", "text": "a\u0000b"}', "text holds a NUL character"),
    "a NUL byte": ('{"label": "x", "text": "a\x00b"}', "not valid JSON at column"),
    "latin-1": ('{"label": "x", "text": "café"}'.encode("latin-1"), "byte 28 is not UTF-8"),
    "no object": ("3", "holds a int"),
    "a missing field": ('{"label": "x"}', "no field text; the row has label"),
    "a surrogate in a name": (r'{"label": "x", "\ud83d": "b"}', r"the row has label, \ud83d"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_line_is_dropped_and_counted_and_too_many_are_an_error(kind: str, tmp_path: Path) -> None:
    line, said = ODD[kind]
    path = tmp_path / "a.jsonl"
    encoded = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b"\n".join([GOOD.encode()] * 10 + [encoded] + [GOOD.encode()] * 9) + b"\n")
    rows, tally = load(path)
    assert len(rows) == 19 and sum(tally.report().dropped.values()) == 1
    assert said in tally.examples()[0] and tally.examples()[0].startswith(f"{path} line 11: ")
    assert said in refused(path, max_dropped=0.0)
    path.write_bytes(b"\n".join([GOOD.encode()] * 10 + [encoded] * 4) + b"\n")
    message = refused(path)
    assert "4 of 14 rows cannot be used, more than the share task.max_dropped = 0.1" in message
    assert [f"line {n}: " in message for n in (11, 12, 13, 14)] == [True, True, True, False]
    assert f"10 of 14 rows used (dropped: 4 {next(iter(tally.report().dropped))})" in message
    assert "see: scpl data check " in message
    assert len(load(path, max_dropped=0.3)[0]) == 10


def test_what_is_no_utf8_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD.encode("utf-16-le"))
    assert "a.jsonl line 1: holds zero bytes, as UTF-16 does" in refused(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe{")
    assert "is not the UTF-16 text that it begins like" in refused(tmp_path / "b.jsonl")
    (tmp_path / "a.jsonl.gz").write_bytes(b"\x1f\x8b")
    assert "is compressed; unpack it" in refused(tmp_path / "a.jsonl.gz")


class Fetched(AssertionError):
    """Something was opened that nobody asked for."""


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Connections, and opening a file by a name, are errors."""

    def forbid(name: str) -> None:
        opened = builtins.open

        def guard(file: Any, *args: Any, **kwargs: Any) -> Any:
            if name in str(file):
                raise Fetched(str(file))
            return opened(file, *args, **kwargs)

        def connect(*args: Any) -> None:
            raise Fetched(str(args))

        monkeypatch.setattr(builtins, "open", guard)
        monkeypatch.setattr("io.open", guard)
        monkeypatch.setattr(socket.socket, "connect", connect)
        monkeypatch.setattr(socket, "getaddrinfo", connect)

    return forbid


def with_images(path: Path, secret: Path) -> None:
    """A Parquet file as ``datasets`` writes it, whose images are a path and an address."""
    secret.write_text("secret")
    images = [{"bytes": None, "path": str(secret)}, {"bytes": None, "path": "http://127.0.0.1:9/pixel.png"}] * 10
    table = pa.table({"label": [a for a, _ in CELLS], "text": [b for _, b in CELLS], "image": images, "sound": images})
    features = {
        "label": {"dtype": "string", "_type": "Value"},
        "text": {"dtype": "string", "_type": "Value"},
        "image": {"_type": "Image"},
        "sound": {"_type": "Audio"},
    }
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)


def test_images_and_sounds_are_neither_fetched_nor_opened(tmp_path: Path, forbidden: Callable[[str], None]) -> None:
    with_images(tmp_path / "a.parquet", tmp_path / "pixel.png")
    forbidden("pixel.png")
    assert found(load(tmp_path / "a.parquet")[0]) == CELLS
    assert "a.parquet row 1: image holds a dict" in refused(tmp_path / "a.parquet", fields={"text": "image"})


def test_a_hub_set_is_read_undecoded_by_config_and_split(
    tmp_path: Path, forbidden: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    hub = tmp_path / "hub"
    hub.mkdir()
    for part in ("en-train", "en-test", "de-train"):
        with_images(hub / f"{part}.parquet", tmp_path / "pixel.png")
    (hub / "README.md").write_text(
        "---\nconfigs:\n- config_name: en\n  data_files:\n  - {split: train, path: en-train.parquet}\n"
        "  - {split: test, path: en-test.parquet}\n- config_name: de\n  data_files:\n"
        "  - {split: train, path: de-train.parquet}\n---\n"
    )
    real, names = datasets.load_dataset, datasets.get_dataset_config_names
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: real(str(hub), config, cache_dir=cache))
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: names(str(hub)))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: str(hub))
    forbidden("pixel.png")
    some = Path("some/articles")
    assert "has several configs; set task.config to one of en, de" in refused(some)
    assert "task.config = 'fr': some/articles has en, de" in refused(some, config="fr")
    assert "task.split = 'dev': some/articles has train, test" in refused(some, config="en", split="dev")
    assert found(load(some, config="en")[0]) == CELLS * 2
    rows, tally = load(some, config="en", split="test")
    assert found(rows) == CELLS and rows[2].where == "some/articles test row 3" and "en, test" in tally.form
    assert "task.config, task.split: " in refused(tmp_path / "hub" / "en-test.parquet", split="test")


def test_a_hub_set_that_is_a_script_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(name: str) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found articles.py")

    monkeypatch.setattr(datasets, "get_dataset_config_names", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kwargs: "")
    said = refused(Path("some/articles"))
    assert "Hub (Dataset scripts are no longer supported" in said and "give a file instead: task.data=FILE" in said


def test_what_parquet_holds_and_python_cannot_is_an_odd_row(tmp_path: Path) -> None:
    bad = pa.array([b"caf\xe9"] + [b"ok"] * 19).view(pa.string())
    pq.write_table(pa.table({"label": ["x"] * 20, "text": bad}), tmp_path / "a.parquet")
    rows, tally = load(tmp_path / "a.parquet")
    assert len(rows) == 19 and tally.examples() == [
        f"{tmp_path / 'a.parquet'} row 1: text is not UTF-8; write it as UTF-8 text"
    ]
    times = pa.array([2**62] * 1 + [0] * 19, pa.timestamp("us"))
    pq.write_table(pa.table({"label": ["x"] * 20, "text": ["y"] * 20, "id": times}), tmp_path / "b.parquet")
    assert "b.parquet row 1: id cannot be read" in refused(tmp_path / "b.parquet", max_dropped=0.0)


def test_columns_that_are_not_there_are_said_before_any_row_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "a.parquet")
    assert "a.parquet: no field label, text; the row has a, b: name yours with" in refused(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("a;b\n1;2\n")
    assert "a.csv: no field label, text; the row has a, b: name yours with" in refused(tmp_path / "a.csv")


def test_a_parquet_file_that_breaks_off_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"label": ["x"] * 1000, "text": [f"t{i}" * 50 for i in range(1000)]}), path, compression="zstd"
    )
    content = bytearray(path.read_bytes())
    content[200:2000] = bytes(1800)
    path.write_bytes(bytes(content))
    said = refused(path)
    assert "a.parquet" in said and "cannot be read" in said


def test_the_cases_that_people_brought(tmp_path: Path) -> None:
    fields = {"text": "problem", "label": "source"}
    for name in ("pandas_index_column.csv", "semicolon.csv"):
        rows, tally = load(real_data.path(f"cases/{name}"), fields=fields)
        assert len(rows) == 119 and tally.report().dropped == {}
    rows, tally = load(real_data.path("cases/lone_surrogate.jsonl"), fields=fields)
    assert len(rows) == 119 and "lone_surrogate.jsonl line 6: problem holds half a character" in tally.examples()[0]
