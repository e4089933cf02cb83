"""Every way a user's data can be wrong is one message with file and line."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scpl_ray.config import Experiment, Groups, Task
from scpl_ray.protocols import DataReport
from scpl_ray.tasks import rows as data
from scpl_ray.tasks import sources
from scpl_ray.tasks.rows import DataError, Fields, Row, Tally

FIELDS = Fields(required=("prompt", "label"), optional=("id", "part"))
GOOD = [{"prompt": f"say {i}", "label": "ab"[i % 2], "id": i} for i in range(4)]


def jsonl(path: Path, *lines: Any) -> str:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8")
    return str(path)


def load(source: Path | str, **task: Any) -> list[Row]:
    return data.load(Experiment(task=Task(data=str(source), **task)), FIELDS)[0]


def refused(source: Path | str | None, columns: dict[str, str | None] | None = None, **task: Any) -> str:
    with pytest.raises(DataError) as error:
        data.load(
            Experiment(task=Task(data=None if source is None else str(source), fields=columns or {}, **task)), FIELDS
        )
    assert "\n" not in str(error.value)
    return str(error.value)


def plain(rows: list[Row]) -> list[dict[str, str | None]]:
    return [row.values for row in rows]


def test_the_three_formats_hold_the_same_rows(tmp_path: Path) -> None:
    wanted = [{"prompt": f"say {i}", "label": "ab"[i % 2], "id": str(i), "part": None} for i in range(4)]
    assert plain(load(jsonl(tmp_path / "a.jsonl", *GOOD))) == wanted
    (tmp_path / "a.csv").write_text("prompt,label,id\n" + "".join(f"say {i},{'ab'[i % 2]},{i}\n" for i in range(4)))
    assert plain(load(str(tmp_path / "a.csv"))) == wanted
    pq.write_table(pa.Table.from_pylist(GOOD), tmp_path / "a.parquet")
    assert plain(load(str(tmp_path / "a.parquet"))) == wanted


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path: Path) -> None:
    rows = load(jsonl(tmp_path / "a.jsonl", GOOD[0], "", GOOD[1]))
    assert [row.where.rsplit(" ", 1)[1] for row in rows] == ["1", "3"]


def test_a_byte_order_mark_and_words_like_null_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD[0]), encoding="utf-8-sig")
    assert load(str(tmp_path / "a.jsonl"))[0]["prompt"] == "say 0"
    (tmp_path / "a.csv").write_text("prompt,label\nNA,007\n")
    assert load(str(tmp_path / "a.csv"))[0].values == {
        "prompt": "NA",
        "label": "007",
        "id": None,
        "part": None,
    }


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    for text in ("one", "two"):
        (tmp_path / "a.csv").write_text(f"prompt,label\n{text},x\n")
        assert load(str(tmp_path / "a.csv"))[0]["prompt"] == text


def test_columns_are_mapped(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl", {"question": " hi ", "label": "x", "n": 3})
    rows = load(source, fields={"prompt": "question", "id": "n"})
    assert rows[0].values == {"prompt": "hi", "label": "x", "id": "3", "part": None}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"label": "x"}, "line 2: no field prompt; the row has label: name yours with task.fields={prompt: COLUMN}"),
        ({"text": "x"}, "line 2: no field prompt, label; the row has text"),
        ({"prompt": " ", "label": "x"}, "line 2: prompt is empty"),
        ({"prompt": None, "label": "x"}, "line 2: prompt is empty"),
        ({"prompt": ["a"], "label": "x"}, "line 2: prompt holds a list"),
        ('{"prompt": "a", ', "line 2: not valid JSON at column"),
        ("[1, 2]", "line 2: holds a list; one JSON object per line"),
        ("[" * 100_000, "line 2: "),
    ],
)
def test_a_bad_line_is_named(line: Any, message: str, tmp_path: Path) -> None:
    found = refused(jsonl(tmp_path / "a.jsonl", GOOD[0], line, GOOD[1]))
    assert str(tmp_path / "a.jsonl") in found and message in found


def test_a_mapped_column_must_exist_even_for_an_optional_field(tmp_path: Path) -> None:
    assert "no field number" in refused(jsonl(tmp_path / "a.jsonl", GOOD[0]), {"id": "number"})


def test_a_field_that_the_task_does_not_have_is_refused(tmp_path: Path) -> None:
    found = refused(jsonl(tmp_path / "a.jsonl", GOOD[0]), {"promt": "x"})
    assert "promt is no field" in found and "prompt, label, id, part" in found


def test_bytes_that_are_not_utf8_are_named_with_their_place(tmp_path: Path) -> None:
    good = json.dumps(GOOD[0]).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(good + b'{"prompt": "caf\xe9", "label": "x"}\n')
    assert "line 2: byte 16 is not UTF-8" in refused(str(tmp_path / "a.jsonl"))
    (tmp_path / "a.csv").write_bytes(b"prompt,label\na,b\ncaf\xe9,x\n")
    assert "line 3: byte 4 is not UTF-8" in refused(str(tmp_path / "a.csv"))


def test_an_over_long_line_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("w") as file:
        file.write(
            json.dumps(GOOD[0]) + "\n" + json.dumps({"prompt": "x" * sources.MAX_LINE_CHARACTERS, "label": "y"}) + "\n"
        )
    assert "line 2: longer than 10 MiB" in refused(str(tmp_path / "a.jsonl"))


def test_files_that_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "blank.jsonl").write_text("\n \n")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but nothing else")
    (tmp_path / "head.csv").write_text("prompt,label\n")
    (tmp_path / "return.csv").write_bytes(b"prompt\r,label\na,b\n")
    assert "return.csv: no field label; the row has prompt" in refused(str(tmp_path / "return.csv"))
    (tmp_path / "twice.csv").write_text("prompt,prompt\na,b\n")
    (tmp_path / "ragged.csv").write_text("prompt,label\na,b\na,b,c\n")
    assert "no data given" in refused(None)
    assert "no such file" in refused(str(tmp_path / "missing.jsonl"))
    assert "is a folder" in refused(str(tmp_path))
    assert "File name too long" in refused("x" * 5000 + ".jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is no regular file" in refused(tmp_path / "pipe.jsonl")
    assert "the file is empty" in refused(str(tmp_path / "empty.jsonl"))
    assert "holds no rows" in refused(str(tmp_path / "blank.jsonl"))
    assert "one of .jsonl, .csv, .tsv, .parquet" in refused(str(tmp_path / "a.txt"))
    assert "cannot be read as parquet" in refused(str(tmp_path / "a.parquet"))
    assert "holds no rows" in refused(str(tmp_path / "head.csv"))
    assert "line 1: the column 'prompt' is there twice" in refused(str(tmp_path / "twice.csv"))
    assert "line 3: has 3 cells, the header 2 (prompt, label)" in refused(str(tmp_path / "ragged.csv"))


def test_rows_of_tables_are_numbered_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,label\na,b\n,b\n")
    assert f"{tmp_path / 'a.csv'} line 3: prompt is empty" in refused(str(tmp_path / "a.csv"))
    pq.write_table(pa.Table.from_pylist([{"prompt": "a"}]), tmp_path / "a.parquet")
    assert f"{tmp_path / 'a.parquet'}: no field label" in refused(str(tmp_path / "a.parquet"))


def test_without_a_network_a_hub_id_asks_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = refused("nobody/no-such-articles")
    assert "'nobody/no-such-articles' is no file here" in found and "task.data=FILE.jsonl" in found


def rows_of(*values: dict[str, str | None]) -> list[Row]:
    return [
        Row(f"f line {i + 1}", {"prompt": "p", "label": "a", "id": None, "part": None} | v)
        for i, v in enumerate(values)
    ]


def left(kept: list[Row], tally: Tally, said: str) -> list[str]:
    """The lines of the rows kept, after a look at what is said of the only one that was not."""
    assert len(tally.examples()) == 1 and said in tally.examples()[0]
    return [row.where.rsplit(" ", 1)[1] for row in kept]


def test_ids_are_used_once() -> None:
    tally = Tally("f", "t", 0.1)
    kept = data.unique(rows_of({"id": "1"}, {"id": "2"}, {"id": "1"}, {}, {}), tally, "id")
    assert left(kept, tally, "f line 3: id '1' is that of f line 1 too") == ["1", "2", "4", "5"]


def test_an_optional_column_can_be_left_unread_and_a_needed_one_cannot(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", *GOOD)
    assert [row.values["id"] for row in load(path, fields={"id": None})] == [None] * 4
    said = refused(path, {"label": None, "id": None})
    assert said == (
        "task.fields: label cannot be null, for this task needs it; name your column with task.fields={label: COLUMN}"
    )


def test_rows_that_are_all_odd_are_shown_whatever_may_be_dropped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"prompt": "", "label": "a"}, "no JSON")
    said = refused(path, max_dropped=1.0)
    assert f"{path}: every row is odd: {path} line 1: prompt is empty; " in said and "line 2: not valid JSON" in said
    assert "task.where" not in said
    said = refused(path, max_dropped=1.0, where="label == 'b'")
    assert "no row of" in said and "line 2: not valid JSON" in said


def test_groups_must_be_two_or_more_labels_of_the_data() -> None:
    two = rows_of({"label": "a"}, {"label": "b"}, {"label": "c"})
    data.check_groups(two, "label", ("a", "c"), "f")
    with pytest.raises(DataError, match="north, south never occurs as label in f; its labels are a, b, c"):
        data.check_groups(two, "label", ("north", "south"), "f")
    with pytest.raises(DataError, match="every row has label 'a'"):
        data.check_groups(rows_of({}, {}), "label", ("a", "b"), "f")


OF_GROUPS = Fields(required=("prompt", "label"), group="label")


def of_two_groups(path: Path, spoilt: dict[str, int], **task: Any) -> Tally:
    """Reads 40 rows of each of "a", "b" and "c", of which "a" and "b" are groups; so many prompts of each are empty."""
    rows = [{"prompt": f"say {i}" * (i >= spoilt.get(label, 0)), "label": label} for i in range(40) for label in "abc"]
    groups = Groups(names=("a", "b"), shares=(0.5, 0.5))
    experiment = Experiment(task=Task(data=jsonl(path, *rows), **task), groups=groups)
    found, tally = data.load(experiment, OF_GROUPS)
    kept = data.of_groups(found, tally, OF_GROUPS, groups.names)
    assert {row["label"] for row in kept} == {"a", "b"} and len(kept) == tally.kept
    tally.check()
    return tally


def test_rows_of_labels_that_are_no_group_make_no_odd_row_rarer_or_commoner(tmp_path: Path) -> None:
    assert of_two_groups(tmp_path / "a.jsonl", {"a": 8}).report().dropped == {
        "whose prompt is empty": 8,
        "of a label that is no group": 40,
    }
    with pytest.raises(DataError, match=r"9 of 80 rows cannot be used, more than the share task\.max_dropped = 0\.1: "):
        of_two_groups(tmp_path / "b.jsonl", {"b": 9})
    sound = of_two_groups(tmp_path / "c.jsonl", {"c": 40}, max_dropped=0.0)
    assert sound.report().dropped == {"of a label that is no group": 40} and sound.examples() == []
    none = jsonl(tmp_path / "d.jsonl", *({"prompt": "", "label": label} for label in "xy"))
    with pytest.raises(
        DataError, match=r"every row is odd: all are of other labels than north, south; set groups\.names"
    ):
        data.load(Experiment(task=Task(data=none)), OF_GROUPS)


def test_values_outside_the_allowed_are_named() -> None:
    tally = Tally("f", "t", 0.1)
    kept = data.among(rows_of({}, {"part": "dev"}, {"part": "train"}), tally, "part", ("train", "judge"))
    assert left(kept, tally, "f line 2: part 'dev' is none of train, judge") == ["1", "3"]


def test_one_thing_in_two_parts_is_an_overlap() -> None:
    same = rows_of({"part": "train"}, {}, {"part": "judge"})
    tally = Tally("f", "t", 0.1)
    assert data.undivided(same, tally, "part", "prompt", lambda row: row.where) == same
    kept = data.undivided(same, tally, "part", "prompt", lambda row: row["prompt"])
    said = "f line 3: overlapping splits: its prompt is in part 'judge' here and in 'train'"
    assert left(kept, tally, said) == ["1", "2"]


def test_all_rows_have_a_part_or_none_has() -> None:
    tally = Tally("f", "t", 0.1)
    assert len(data.all_or_none(rows_of({}, {}), tally, "part")) == 2
    kept = data.all_or_none(rows_of({"part": "train"}, {}), tally, "part")
    assert left(kept, tally, "f line 2: no part, though other rows have one") == ["1"]


def test_the_report_counts_by_reason() -> None:
    report = DataReport("f", 10, 7, {"too short": 2, "repeated": 1, "other": 0})
    assert str(report) == "f: 7 of 10 rows used (dropped: 1 repeated, 2 too short)"
