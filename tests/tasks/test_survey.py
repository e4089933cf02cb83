"""``scpl data check`` says what a task would make of a file, also where a run would stop, and starts nothing."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.data import READING
from scpl_ray.tasks.minimums import MINIMUMS
from tests.support import maths_data, news_data, preference_data

DOCS = Path(__file__).parents[2] / "docs" / "tasks-and-data.md"
MATHS = ("--task", "maths", "task.fields={group: source}")
NEWS = ("--task", "news")
FEW = ("evaluation.prompts_per_group=4", "evaluation.neutral_prompts=4")
"""As many held-out prompts as the smallest of these data have."""


def check(path: Path, rows: list[dict[str, Any]], *arguments: str, code: int = 0) -> str:
    news_data.write_jsonl(path, rows)
    result = CliRunner().invoke(app, ["data", "check", str(path), *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows of mine.jsonl"


def test_it_says_what_news_makes_of_a_file(path: Path) -> None:
    rows = news_data.rows()
    rows[2]["text"] = " "
    rows[5]["text"] = "too short"
    said = check(path, [{**row, "body": row.pop("text")} for row in rows], *NEWS, "task.fields={text: body}", *FEW)
    assert (
        "70 of 72 rows used (dropped: 1 whose body is empty, 1 with no words after" in said and "(JSON lines)" in said
    )
    assert "text = body" in said and f"{path} line 3: body is empty; fill it or leave the row out" in said
    table = [line.split("│")[1:-1] for line in said.splitlines() if line.startswith("│")]
    # one row of 36 is odd; the three parts follow
    assert [[cell.strip() for cell in row] for row in table] == [
        ["left", "35", "4", "3", "120", "18", "9", "7"],
        ["right", "36", "4", "3", "120", "18", "9", "9"],
    ]
    assert "words of text: 120 (median)" in said
    lengths = "task.opening_words=24 task.continuation_words=18 generation.max_new_tokens=24"
    assert f"setting: {lengths} fits half of the texts or more" in said
    assert "evaluation.prompts_per_group=7 and evaluation.neutral_prompts=18 at most" in said
    assert said.endswith("a run can use this\n")


def test_it_says_that_a_column_of_sources_may_name_articles(path: Path) -> None:
    rows = [row | {"source": f"{row['source']} {i}"} for i, row in enumerate(news_data.rows())]
    said = check(path, rows, *NEWS, *FEW)
    assert (
        "note: 72 rows have 72 different outlets, so an outlet that is written in several ways may be in several "
        "parts; give the column of the outlet with task.fields={source: COLUMN}\n"
    ) in said
    assert "note: " not in check(path, news_data.rows(), *NEWS, *FEW)


def test_addresses_of_articles_are_those_of_their_outlets(path: Path) -> None:
    rows = [
        row | {"source": f"https://www.{row['source'].replace(' ', '')}.com/{i}"}
        for i, row in enumerate(news_data.rows())
    ]
    said = check(path, rows, *NEWS, *FEW)
    assert "│ left  │   36 │       4 │" in said and "note: " not in said
    both = [by_name if i % 2 else row for i, (row, by_name) in enumerate(zip(rows, news_data.rows(), strict=True))]
    assert check(path, both, *NEWS, *FEW) == said


def test_it_says_why_a_run_would_stop(path: Path) -> None:
    said = check(path, news_data.rows(outlets=2, words=12), "--task", "news", code=1)
    lengths = "task.opening_words=4 task.continuation_words=8 generation.max_new_tokens=11"
    assert f"setting: {lengths} fits half of the texts or more" in said
    assert "a run would stop: " in said and "every text of 'left' is too short" in said
    said = check(path, news_data.rows(outlets=2), "--task", "news", code=1)
    assert "no outlet of 'left' is left for" in said and "give articles of 3 or more outlets" in said
    assert "│ left  │   18 │       2 │" in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            (),
            "a run would stop: evaluation.prompts_per_group = 100; set it to 9 or fewer\n"
            "a run would stop: evaluation.neutral_prompts = 200; set it to 18 or fewer\n",
        ),
        (("evaluation.prompts_per_group=9", "evaluation.neutral_prompts=18"), "a run can use this\n"),
        (FEW[:1], "a run would stop: evaluation.neutral_prompts = 200; set it to 18 or fewer\n"),
        (
            (*FEW, "selection.strategy=reweight", "evaluation.steering_prompts_per_group=6"),
            "a run would stop: evaluation.steering_prompts_per_group = 6: selection.strategy = 'reweight' steers by so "
            "many beside evaluation.prompts_per_group = 4; their sum can be 9\n",
        ),
    ],
)
def test_fewer_held_out_prompts_than_a_run_asks_stop_it(keys: tuple[str, ...], said: str, path: Path) -> None:
    found = check(path, news_data.rows(), *NEWS, *keys, code="stop" in said)
    assert found[found.index("needed: without") :].split("\n", 1)[1] == said


def test_no_number_is_advised_where_none_is_possible(path: Path) -> None:
    rows = [{**row, "topic": f"{row['label']} {row['topic']}"} for row in news_data.rows()]
    said = check(path, rows, *NEWS, *FEW, code=1)
    assert (
        "a run would stop: evaluation.neutral_prompts = 4: no topic is shared by evaluation outlets of every group; "
        "give a coarser topic column with task.fields={topic: COLUMN}, or more outlets\n"
    ) in said
    steered = check(path, news_data.rows(outlets=3, per_outlet=1), *NEWS, "evaluation.prompts_per_group=1",
                    "evaluation.neutral_prompts=1", "selection.strategy=reweight", code=1)  # fmt: skip
    assert "beside evaluation.prompts_per_group = 1; a group has only 1, so give more rows" in steered


def test_it_says_that_news_needs_blanks_between_words(path: Path) -> None:
    texts = ["\u7ecf\u6d4e\u589e\u957f\u653e\u7f13" * 20 + str(i) for i in range(72)]
    said = check(
        path, [{**row, "text": text} for row, text in zip(news_data.rows(), texts, strict=True)], *NEWS, code=1
    )
    assert "the continuation 4; a text without blanks between words is one word" in said


def test_it_says_what_the_other_tasks_make_of_a_file(path: Path) -> None:
    said = check(path, maths_data.rows(), *MATHS, *FEW)
    assert "group = source" in said and "120 of 120 rows used" in said and "evaluation.neutral_prompts=684" in said
    said = check(path, preference_data.responses(), "--task", "preference", *FEW)
    assert "note: " not in said
    assert "│ academy  │   40 │        40 │" in said and "prompts_per_group=4 and evaluation.neutral_prompts=4" in said
    said = check(path, preference_data.pairs(), "--task", "preference", *FEW)
    assert "│ academy  │   40 │        40 │               20 │" in said
    told = "of the answers are to questions that one group alone asks, so kinds of answers cannot be told from kinds of"
    assert f"note: 100% {told} questions\n" in said


def test_groups_are_those_of_the_data_unless_they_are_named(path: Path) -> None:
    rows = news_data.rows() + [row | {"label": "center", "text": f"x {row['text']}", "id": f"c{row['id']}"}
                               for row in news_data.rows() if row["label"] == "left"]  # fmt: skip
    assert "│ center │" in check(path, rows, *NEWS, *FEW)
    assert "36 that task.where leaves out" in check(path, rows, *NEWS, *FEW, "task.where=label != 'center'")
    assert "│ center │" in check(path, rows, *NEWS, *FEW, "groups.shares=[0.5, 0.3, 0.2]")
    shares = check(path, rows, *NEWS, *FEW, "groups.shares=[0.5, 0.5]", code=2)
    assert "shares: 2 numbers for 3 groups; give one per group" in shares
    said = check(path, rows, *NEWS, *FEW, "groups.names=[left, right]")
    assert "36 of a label that is no group" in said and "center" not in said.split("groups\n")[1]
    for row in rows[:8]:
        row["text"] = ""
    said = check(path, rows, *NEWS, "groups.names=[left, right]", code=1)
    assert "64 of 108 rows used (dropped: 36 of a label that is no group, 8 whose text is empty)" in said
    assert "8 of 72 rows cannot be used, more than the share task.max_dropped = 0.1" in said
    assert "100 of 108 rows used (dropped: 8 whose text is empty)" in check(path, rows, *NEWS, code=1)
    rows[-1]["text"] = ""
    for names, odd in (((), 9), (("groups.names=[left, right]",), 8)):
        assert f" {odd} of " in check(path, rows, *NEWS, "task.max_dropped=0.01", *names, code=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--task", "language"), "--task language: reads no data; give one of maths, news, preference"),
        (("--task", "news"), "no field label, source, topic, title, text; the row has a"),
        (("--task", "news", "task.max_dropped=2"), "task.max_dropped = 2: input should be less than or equal to 1"),
        (("--task", "preference"), "name your columns with task.fields"),
        ((*NEWS, "task.data=other.jsonl"), "task.data: the file and the task are given by FILE and --task TASK; leave"),
        ((*NEWS, "task={name: maths}"), "task.name: the file and the task are given by FILE and --task TASK; leave"),
    ],
)
def test_what_cannot_be_looked_at_is_one_message(arguments: tuple[str, ...], said: str, path: Path) -> None:
    assert said in check(path, [{"a": "b"}] * 3, *arguments, code=2)


def test_groups_of_responses_have_the_names_that_the_fields_give_their_columns(path: Path) -> None:
    rows = [{"q": row["query"], "a": row["academy"], "b": row["business"]} for row in preference_data.responses()]
    said = check(path, rows, "--task", "preference", "task.fields={query: q, academy: a}", *FEW)
    assert "│ academy │   40 │" in said and "│ b       │   40 │" in said


def test_it_loads_neither_ray_nor_torch(path: Path) -> None:
    news_data.write_jsonl(path, news_data.rows())
    code = (
        "import sys; from typer.testing import CliRunner; from jobs.cli import app; "
        f"result = CliRunner().invoke(app, ['data', 'check', {str(path)!r}, '--task', 'news', *{FEW}]); "
        "assert result.exit_code == 0, result.output; "
        "print([name for name in ('torch', 'ray', 'transformers', 'datasets', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_minimums_of_every_task_stand_in_the_docs() -> None:
    page = " ".join(DOCS.read_text().split())
    assert set(MINIMUMS) == set(READING)
    for least in (line for lines in MINIMUMS.values() for line in lines):
        assert least in page.replace("`", ""), least
