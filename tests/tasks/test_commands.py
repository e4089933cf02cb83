"""The command that every complaint about data ends with reads the same rows and comes to the same complaint."""

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from scpl_ray.config import Experiment
from scpl_ray.tasks.maths import problems
from scpl_ray.tasks.news import articles
from scpl_ray.tasks.preference import questions
from scpl_ray.tasks.rows import DataError
from tests.support import news_data

LOADERS = {"news": articles.load, "preference": questions.load, "maths": problems.load}
SUMS = [{"group": "xy"[i % 2], "problem": f"What is {i}?", "answer": str(i)} for i in range(8)]
ANSWERS = [{"q": f"Question {i}?", "lib": f"liberal answer {i}", "con": f"conservative {i}"} for i in range(5)]
XY = {"names": ["x", "y"], "shares": [0.5, 0.5]}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.mark.parametrize(
    ("file", "rows", "config"),
    [
        pytest.param(
            "r.jsonl",
            ANSWERS,
            {
                "groups": {"names": ["liberal", "conservative"], "shares": [0.3, 0.7]},
                "task": {"name": "preference", "fields": {"query": "q", "liberal": "lib", "conservative": "con"}},
            },
            id="groups that fields name",
        ),
        pytest.param(
            "h.csv",
            [dict(zip("012", row.values(), strict=True)) for row in SUMS],
            {"groups": XY, "task": {"name": "maths", "fields": {"group": "0", "problem": "1", "answer": "2"}}},
            id="columns that are numbers",
        ),
        pytest.param(
            "s.jsonl",
            SUMS,
            {"groups": XY, "task": {"name": "maths", "where": "'What' in problem"}},
            id="a condition that begins with a quote",
        ),
        pytest.param(
            "my problems.jsonl",
            SUMS,
            {"groups": XY, "task": {"name": "maths", "where": "problem not in ['a: b', 'c #d', 'What is 3?']"}},
            id="a condition with colons",
        ),
        pytest.param(
            "s.jsonl",
            SUMS,
            {"groups": XY, "task": {"name": "maths", "answer_format": "gsm8k", "max_dropped": 0.05}},
            id="another format",
        ),
        pytest.param(
            "n.jsonl",
            news_data.rows(),
            {
                "groups": {"names": ["left", "right"], "shares": [0.5, 0.5]},
                "task": {"name": "news", "opening_words": 30, "fields": {"id": None}},
                "generation": {"max_new_tokens": 200},
            },
            id="texts that are too short for long answers",
        ),
    ],
)
def test_the_advised_command_comes_to_the_same_complaint(
    file: str, rows: list[dict[str, Any]], config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(file), rows)
    experiment = Experiment.model_validate({**config, "task": {**config["task"], "data": file}})
    with pytest.raises(DataError) as caught:
        LOADERS[experiment.task.name](experiment)
    found = re.fullmatch(r"(.*) \[.*; see: scpl (data check .*)\]", str(caught.value), re.DOTALL)
    assert found is not None, caught.value
    complaint, command = found.groups()
    result = CliRunner().invoke(app, shlex.split(command), env={"COLUMNS": "200"})
    assert result.exit_code in (1, 2) and complaint in " ".join(result.output.split()), (command, result.output)
