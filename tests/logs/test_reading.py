"""Logs as people write them, and what is wrong with some."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scpl_ray.logs import reading
from scpl_ray.logs.group_map import group_map
from scpl_ray.tasks.tally import DataError

ROWS: list[dict[str, Any]] = [
    {"period": 2, "group": "b", "kept": True, "rating": 4, "kind": "x"},
    {"period": 10, "group": "a", "kept": False, "rating": 2.5, "kind": "y"},
    {"period": 2, "group": "b", "kept": None, "rating": None, "kind": None},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_become_columns(tmp_path: Path) -> None:
    log, said = reading.read(write(tmp_path / "log.jsonl", ROWS), {})
    assert (log.periods, log.groups, log.kinds) == (("2", "10"), ("b", "a"), ("x", "y"))
    np.testing.assert_array_equal(log.period, [0, 1, 0])
    np.testing.assert_array_equal(log.group, [0, 1, 0])
    np.testing.assert_array_equal(log.kept, [1.0, 0.0, np.nan])
    np.testing.assert_array_equal(log.rating, [4.0, 2.5, np.nan])
    np.testing.assert_array_equal(log.kind, [0, 1, -1])
    assert "log.jsonl" in said


def test_periods_are_in_their_order_as_other_programs_write_numbers(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    written = ["12.0", "10.0", "2.0", "1.5", "-3.", "unknown", "--5", "nan1", "10"]
    path.write_text("period,group,kept\n" + "".join(f"{p},{'ab'[i % 2]},{i % 2}.0\n" for i, p in enumerate(written)))
    log, _ = reading.read(str(path), {})
    assert log.periods == ("-3", "1.5", "2", "10", "12", "--5", "nan1", "unknown")
    assert log.kept.tolist() == [float(i % 2) for i in range(len(written))]


@pytest.mark.parametrize(
    "periods",
    [
        ("v1", "v2", "v10"),
        ("2026-W9", "2026-W10", "2027-W1"),
        ("model 9 step 800", "model 9 step 1000", "model 10 step 5", "model b"),
        ("1.9.0", "1.10.0", "1.10.0-rc2"),
        ("v01", "v1", "v1a"),
        ("1.10", "1.9", "v1.9", "v1.10"),
        ("2026 3 March", "2026 4 April", "2026/11/05", "2026/11/26"),
        ("1.9.12", "1.10.26", "march-model 1", "mayor"),
        ("1.8", "1.9", "1.9.1", "1.10", "2.0", "2.0.1", "10.0", "nightly"),
        ("1", "1.0.1", "2", "10"),
        ("1.8", "1.9", "1.9-rc1", "1.10", "2.0"),
        ("1.9", "1.9.1-rc2", "1.10", "2"),
    ],
)
def test_numbers_within_the_names_of_periods_are_in_their_order(periods: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"period": period, "group": group} for period in reversed(periods) for group in "ab"]
    log, _ = reading.read(write(tmp_path / "log.jsonl", rows), {})
    assert log.periods == periods


def test_versions_are_in_their_order_where_some_are_numbers_of_a_json_file(tmp_path: Path) -> None:
    written = [2.0, "1.9.1", 1.9, 1.8, 2]
    rows = [{"period": period, "group": group} for period in written for group in "ab"]
    log, _ = reading.read(write(tmp_path / "log.jsonl", rows), {})
    assert log.periods == ("1.8", "1.9", "1.9.1", "2", "2.0")
    np.testing.assert_array_equal(log.period[::2], [4, 2, 1, 0, 3])
    # by themselves they are numbers
    log, _ = reading.read(write(tmp_path / "log.jsonl", [row for row in rows if row["period"] != "1.9.1"]), {})
    assert log.periods == ("1.8", "1.9", "2")
    np.testing.assert_array_equal(log.period[::2], [2, 1, 0, 2])


def test_a_map_is_fitted_in_the_order_of_versions(tmp_path: Path) -> None:
    versions = [*(f"1.{i}" for i in range(8, 18)), "1.17.1", *(f"2.{i}" for i in range(12))]
    rng = np.random.default_rng(0)
    rows = [(i, "ab"[int(rng.random() < 0.5 + 0.3 * np.sin(i))]) for i in range(len(versions)) for _ in range(100)]
    found = []
    for names in (versions, [f"v{name}" for name in versions]):
        log, _ = reading.read(
            write(tmp_path / "log.jsonl", [{"period": names[i], "group": group} for i, group in reversed(rows)]), {}
        )
        assert log.periods == tuple(names)
        found.append(group_map(log).rho)
    assert found[0] == found[1]


def test_a_csv_file_with_other_columns_and_dates(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("when,region,accepted\n2026-01-30,a,yes\n2026-02-01T10:00:00,b,0\n2026-02-02,a,TRUE\n")
    fields = {"period": "when", "group": "region", "kept": "accepted"}
    for by, expected in (
        ("month", ("2026-01", "2026-02")),
        ("week", ("2026-W05", "2026-W06")),
        ("day", ("2026-01-30", "2026-02-01", "2026-02-02")),
    ):
        log, _ = reading.read(str(path), fields, by=by)  # type: ignore[arg-type]
        assert log.periods == expected and log.kept.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("rows", "arguments", "said"),
    [
        ([], {}, "the file is empty"),
        ([*ROWS[:2], {"period": 1}], {}, "no group; fill it, or say which column it is"),
        (
            [{"period": 1, "region": "a"}, {"period": 2, "region": "b"}],
            {},
            r"^[^ ]*: no column group; there are period, region: say which is which: --fields '{group: COLUMN}'$",
        ),
        (
            [{"day": 1, "region": "a"}],
            {"fields": {"group": "regoin"}},
            "no columns period, regoin; there are day, region: say which is which: "
            "--fields '{period: COLUMN, group: COLUMN}'$",
        ),
        ([{**ROWS[0], "kept": "perhaps"}], {}, "kept = 'perhaps'; write true or false"),
        ([{**ROWS[0], "rating": "good"}], {}, "rating = 'good'; write a finite number"),
        ([{**ROWS[0], "period": "spring"}], {"by": "day"}, "'spring' is no date"),
        (ROWS[:1], {}, "only the group b; at least 2 are compared"),
        ([{"period": i, "group": "ab"[i % 2]} for i in range(501)], {}, "at most 500; give --by"),
        (
            [{"period": 1, "group": i} for i in range(51)],
            {},
            "51 different values in the column group, which is read as group: 0, 1, .* at most 50; put values together",
        ),
        (
            [{"period": 1, "group": i % 2, "topic": i} for i in range(51)],
            {"fields": {"kind": "topic"}},
            "in the column topic, which is read as kind: .* or say which column it is with --fields",
        ),
        (ROWS, {"fields": {"groups": "x"}}, "groups is no field of a log"),
        (ROWS, {"fields": {"kept": "accepted"}}, "kept: no row has anything in a column accepted"),
    ],
)
def test_what_cannot_be_used_says_what_to_do(
    rows: list[dict[str, Any]], arguments: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "log.jsonl", rows)
    with pytest.raises(DataError, match=said):
        reading.read(file, arguments.get("fields", {}), by=arguments.get("by"))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_csv_file_without_the_columns_is_told_which_it_has(rows: int, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("date,region,stars\n" + "2026-01-01,a,3\n" * rows)
    with pytest.raises(DataError, match=r"log.csv: no columns period, group; there are date, region, stars: say which"):
        reading.read(str(tmp_path / "log.csv"), {})


@pytest.mark.parametrize("file", ["missing.jsonl", "someone/answers", "folder/missing.csv", "~nobody/x.jsonl"])
def test_a_log_that_is_not_there_is_no_data_set_of_a_run(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as found:
        reading.read(file, {})
    assert str(found.value) == f"--log {file}: no such file; give a .jsonl, .csv, .tsv or .parquet file"


@pytest.mark.parametrize(
    "periods",
    [
        ("05/03/2026", "01/04/2026"),
        ("3/5/26", "4/1/26"),
        ("05.03.2026", "01.04.2026 10:00"),
        ("01-2027", "02-2026"),
        ("Mar 2026", "Apr 2026"),
        ("5 September", "5march"),
        ("Q1 2027", "Q2 2026"),
        ("28.11.26", "30.11.26", "01.12.26"),
        ("11-28-26", "01-03-27"),
        ("28-11-26 10:00", "1-12-26"),
        ("Q3-25", "Q4-25", "Q1-26"),
        ("Q3 FY25", "Q1 FY26"),
        ("q3fy2025", "q1fy2026"),
        ("Q4'25", "Q1'26"),
        ("W48/26", "W01/27"),
        ("4Q25", "1Q26"),
        ("H2 2025", "H1 2026"),
    ],
)
def test_dates_whose_order_as_texts_is_not_that_of_time_are_refused(periods: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"when": period, "group": group} for period in periods for group in "ab"]
    with pytest.raises(DataError, match=r"the column when holds .*; write periods with the year first, as 2026-11-26"):
        reading.read(write(tmp_path / "log.jsonl", rows), {"period": "when"})
    # one period has no order
    assert len(reading.read(write(tmp_path / "one.jsonl", rows[:2]), {"period": "when"})[0].periods) == 1


@pytest.mark.parametrize(
    "periods",
    [
        ("0.0625", "0.1250"),
        ("v1 (May 2026)", "v2 (June 2026)"),
        ("2026-01", "2026-02"),
        ("1.9.10", "1.9.11", "1.10.0"),
        ("0.10.12", "0.11.10"),
        ("1.2.10.1", "1.2.11.1"),
        ("W99", "W100", "W101"),
        ("FY25 Q3", "FY26 Q1"),
        ("25Q3", "26Q1"),
    ],
)
def test_periods_whose_names_are_in_order_are_taken(periods: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"when": period, "group": group} for period in periods for group in "ab"]
    assert reading.read(write(tmp_path / "log.jsonl", rows), {"period": "when"})[0].periods == periods


def test_months_are_taken_as_months(tmp_path: Path) -> None:
    rows = [{"period": period, "group": group} for period in ("2026-02", "2026-01", "2026-01-30") for group in "ab"]
    log, _ = reading.read(write(tmp_path / "log.jsonl", rows), {}, by="month")
    assert log.periods == ("2026-01", "2026-02")
