"""``task.where`` chooses rows, and nothing that it says can run, loop or grow."""

import json
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.config import Experiment, Task
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.rows import DataError, Fields
from scpl_ray.tasks.where import RowFilter

FIELDS = Fields(required=("label",), optional=("text", "score"))
ROWS = [
    {"label": label, "text": "a b c " * (i + 1), "score": i, "my note": str(i), "nothing": None}
    for i, label in enumerate(["left", "center", "right"] * 4)
]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("label != 'center'", 8),
        ('label == "left" or label == "right"', 8),
        ("label in ['left', 'right'] and score >= 6", 4),
        ("not label in ('left',)", 8),
        ("label not in ['left']", 8),
        ("3 <= score < 6", 3),
        ("text|wordcount > 33", 1),
        ("text|trim|length == 5", 1),
        ("label|lower == 'left'", 4),
        ("row['my note']|float > 9.5", 2),
        ("nothing is none", 12),
        ("score != -1", 12),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_rows_are_chosen(where: str, kept: int, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{form}"
    if form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        cells = [["" if cell is None else str(cell) for cell in row.values()] for row in ROWS]
        path.write_text("\n".join(map(",".join, [list(ROWS[0]), *cells])) + "\n")
    rows, tally = data.load(Experiment(task=Task(data=str(path), where=where)), FIELDS)
    assert len(rows) == kept
    assert tally.report().dropped == ({"that task.where leaves out": 12 - kept} if kept < 12 else {})


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("level != '0'", 3),
        ("level == '0'", 1),
        ("'0' == level", 1),
        ("level > 0", 3),
        ("level == 0", 1),
        ("year in ['2019', '2020']", 2),
        ("year not in ('2019', '2020')", 2),
        ("year in [2019, 2020]", 2),
        ("year == '2019' and year < 2020", 1),
        ("weight != '0.50'", 3),
        ("weight == 0.5", 1),
        ("weight == level", 1),
        ("year|length == 4", 4),
        ("year|trim == '2019'", 1),
        ("year is number", 4),
        ("zip == '01234'", 4),
        ("'20' in year", 4),
        ("'Grade' not in level", 4),
        ("year in '2019 and 2021'", 2),
        ("level not in '2 3'", 2),
        ("level in zip", 4),
        ("year < '2020'", 2),
        ("year > '2019' and '2021' > year", 1),
        ("2019 < year", 2),
        ("-level < 0", 3),
        ("level", 3),
        ("weight > level", 3),
    ],
)
def test_a_csv_cell_is_the_number_and_the_text_that_are_written(where: str, kept: int, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    cells = [f"x,{i},{2018 + i},{weight},01234\n" for i, weight in enumerate(("0.50", "1.0", "3.5", "4"))]
    path.write_text("label,level,year,weight,zip\n" + "".join(cells))
    rows, _ = data.load(Experiment(task=Task(data=str(path), where=where)), FIELDS)
    assert len(rows) == kept


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("score > 0.5", 2),
        ("score < 0.5", 3),
        ("score == 6.6686847388457434e-06", 1),
        ("score == '6.6686847388457434e-06'", 1),
        ("score < 1e-5", 2),
        ("-score > 0", 1),
        ("score is number", 5),
        ("score|float < 0.5", 3),
        ("tweet == 1234567890123456789", 1),
        ("tweet != 1234567890123456789", 4),
        ("tweet > 1234567890123456789", 3),
        ("tweet in [1234567890123456790, 1234567890123456791]", 2),
        ("tweet == '1234567890123456789'", 1),
        ("tweet > 9" + "0" * 50, 1),
        ("verified", 3),
        ("not verified", 2),
        ("verified == true", 3),
        ("verified == false", 2),
        ("verified != true", 2),
        ("verified in [false]", 2),
        ("verified == 'True'", 1),
        ("'FALSE' == verified", 1),
        ("verified != 'True'", 4),
        ("verified in ['True', 'true']", 2),
        ("verified|lower == 'false'", 2),
        ("not verified is number", 5),
        ("'rue' in verified", 2),
        ("verified < 'a'", 4),
    ],
)
def test_cells_as_pandas_and_others_write_them_are_numbers_and_truth_values(
    where: str, kept: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "label,score,tweet,verified\n"
        "x,0.13436424411240122,1234567890123456788,True\n"
        "x,6.6686847388457434e-06,1234567890123456789,False\n"
        "x,0.8474337369372327,1234567890123456790,true\n"
        "x,inf,1234567890123456791,FALSE\n"
        f"x,-1e-05,{10**60},TRUE\n"
    )
    rows, tally = data.load(Experiment(task=Task(data=str(path), where=where, max_dropped=0.0)), FIELDS)
    assert len(rows) == kept and set(tally.report().dropped) <= {"that task.where leaves out"}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("label = 'x'", "is == meant?"),
        ("label ==", "unexpected 'end of template'"),
        ("", "unexpected 'end of template'"),
        ("1 == 1", "it reads no column"),
        ("__import__('os').system('true')", "is not allowed"),
        ("label.__class__", "getattr is not allowed"),
        ("label['__class__']", "brackets are for row['column'] only"),
        ("row[label]", "brackets are for row['column'] only"),
        ("'a' * 1000000000 == label", "mul is not allowed"),
        ("9 ** 99999999 == label", "pow is not allowed"),
        ("label ~ label", "concat is not allowed"),
        ("label|attr('x')", "No filter named 'attr'"),
        ("label is callable", "No test named 'callable'"),
        ("(" * 400 + "label" + ")" * 400, "nested too deeply"),
        ("not " * 240 + "label", "nested too deeply"),
        ("label }} {{ 7", "is == meant?"),
    ],
)
def test_what_is_no_condition_is_refused(where: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        RowFilter(where)
    assert said in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("task.where = ")


def refused(tmp_path: Path, where: str, **task: Any) -> str:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.raises(DataError) as error:
        data.load(Experiment(task=Task(data=str(path), where=where, **task)), FIELDS)
    return str(error.value)


def test_a_condition_that_does_not_fit_the_data_says_so(tmp_path: Path) -> None:
    assert "no row has a field center; the columns are label, text" in refused(tmp_path, "label != center")
    assert "no row of " in refused(tmp_path, "label == 'middle'")
    message = refused(tmp_path, "label > 3")
    assert "a.jsonl line 1: task.where = 'label > 3' cannot be decided for label = 'left'" in message


def test_rows_that_it_leaves_out_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps(row | {"text": [1] if row["label"] == "center" else "t"}) + "\n" for row in ROWS)
    )
    rows, tally = data.load(Experiment(task=Task(data=str(path), where="label != 'center'", max_dropped=0.0)), FIELDS)
    assert len(rows) == 8 and tally.examples() == []
