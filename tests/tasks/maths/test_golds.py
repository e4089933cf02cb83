"""Reading golds in the shapes in which data sets publish them, and refusing those that no answer could match."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.config import Experiment
from scpl_ray.tasks.maths import answers, golds, problems
from scpl_ray.tasks.maths.verifier import Verifier
from scpl_ray.tasks.rows import DataError, Row
from tests.support import maths_data, real_data
from tests.support.news_data import write_jsonl

GSM8K = "A quarter of 48 is 48/4=<<48/4=12>>12.\nThe number is 12+15=<<12+15=27>>27.\n#### 27"
MATH = r"We have $x = \frac{1}{2}$, so the sum is $\boxed{\frac{x^{2}}{\sqrt{3}}}$."


def row(answer: str | None, solution: str | None = None, formula: str | None = None) -> Row:
    return Row("d.jsonl line 1", {"answer": answer, "solution": solution, "formula": formula})


@pytest.mark.parametrize(
    ("given", "answer_format", "shape", "answer", "working"),
    [
        (row("27"), "auto", "plain", "27", ""),
        (row("27", "12+15=27\n#### 27"), "auto", "plain", "27", "12+15=27"),
        (row(GSM8K), "auto", "gsm8k", "27", "A quarter of 48 is 48/4=12.\nThe number is 12+15=27."),
        (row(GSM8K), "gsm8k", "gsm8k", "27", "A quarter of 48 is 48/4=12.\nThe number is 12+15=27."),
        (row("It is 12+15=27 #### 27"), "auto", "gsm8k", "27", "It is 12+15=27"),
        (row("#### 1,234"), "auto", "gsm8k", "1,234", ""),
        (row(None, GSM8K), "auto", "gsm8k", "27", "A quarter of 48 is 48/4=12.\nThe number is 12+15=27."),
        (row(None, MATH), "auto", "boxed", r"\frac{x^{2}}{\sqrt{3}}", MATH),
        (row(None, MATH), "boxed", "boxed", r"\frac{x^{2}}{\sqrt{3}}", MATH),
        (row(MATH), "auto", "boxed", r"\frac{x^{2}}{\sqrt{3}}", MATH),
        (row(r"$\boxed{5}$", "2+3"), "auto", "boxed", "5", "2+3"),
        (row(r"\boxed{5}"), "auto", "boxed", "5", ""),
        (row(r"first \boxed{3}, then \boxed{4}"), "auto", "boxed", "4", r"first \boxed{3}, then \boxed{4}"),
        (row("Answer: 4"), "auto", "sentence", "4", ""),
        (row("The final answer is $4$"), "auto", "sentence", "4", ""),
        (row("2+2=4\nThe answer is 4."), "auto", "sentence", "4", "2+2=4"),
        (row("9 (apples)", formula="7+2=9"), "auto", "plain", "9", "7+2=9"),
        (row("Answer: 4"), "plain", "plain", "Answer: 4", ""),
        (row("5", formula="( 8.0 - 3.0 )"), "auto", "plain", "5", "8 - 3 = 5"),
        (row("5", formula="( ( 8 - 4 ) + 1 )"), "auto", "plain", "5", "( 8 - 4 ) + 1 = 5"),
        (row("21", formula="( 3 + 4 ) * ( 2 + 1 )"), "auto", "plain", "21", "( 3 + 4 ) * ( 2 + 1 ) = 21"),
        (row("1", formula="( 3 - ( 1 ) ) / ( 2 )"), "auto", "plain", "1", "( 3 - ( 1 ) ) / ( 2 ) = 1"),
    ],
)
def test_published_shapes(given: Row, answer_format: Any, shape: str, answer: str, working: str) -> None:
    found = golds.gold_of(given, answer_format)
    assert found == golds.Gold(shape, answer, working)
    assert Verifier().compare("4", found.answer).equal == (answers.number(found.answer) == 4)


@pytest.mark.parametrize(
    ("given", "answer_format"),
    [
        (row(None), "auto"),
        (row("27"), "gsm8k"),
        (row("27"), "boxed"),
        (row(None, MATH), "plain"),
        (row(None, "2"), "auto"),
    ],
)
def test_a_row_without_an_answer_of_the_format_has_none(given: Row, answer_format: Any) -> None:
    found = golds.gold_of(given, answer_format)
    assert found is None and golds.refusal(found, "first", Verifier()) == "without an answer"


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        (golds.Gold("plain", "5", "2+3=5"), None),
        (golds.Gold("plain", "Mrs. Hilt", ""), None),
        (golds.Gold("plain", r"34\text{ sq. units}", ""), None),
        (golds.Gold("plain", "He has 5 left. He had 7.", ""), golds.UNMATCHED),
        (golds.Gold("plain", GSM8K.replace("\n", " "), ""), golds.UNMATCHED),
        (golds.Gold("plain", "?", ""), golds.UNMATCHED),
        (golds.Gold("plain", "9" * 201, ""), golds.TOO_LONG),
        (golds.Gold("boxed", "12", r"First \boxed{144}, then \boxed{12}."), golds.CONTRADICTED),
        (golds.Gold("boxed", "2-b", r"It is \boxed{-b+2}."), None),
    ],
)
def test_a_gold_that_does_not_equal_itself_is_refused(gold: golds.Gold, reason: str | None) -> None:
    assert golds.refusal(gold, "first", Verifier()) == reason


def test_where_the_last_mark_counts_a_solution_may_mark_others_before() -> None:
    gold = golds.Gold("boxed", "12", r"First \boxed{144}, then \boxed{12}.")
    assert golds.refusal(gold, "last", Verifier()) is None


def experiment(source: Path, **task: Any) -> Experiment:
    values = {"name": "maths", "data": str(source), "fields": {"group": "source"}, **task}
    return Experiment.model_validate({"groups": {"names": list(maths_data.SOURCES)}, "task": values})


def test_what_was_found_is_counted_and_what_was_not_is_dropped_by_name(tmp_path: Path, caplog: Any) -> None:
    rows = maths_data.rows()
    rows[1]["answer"] = "That depends. It is 5 or more, in all"
    rows[2] |= {"answer": rows[2]["solution"], "solution": None}
    rows[3]["solution"] = r"It is \boxed{3}."
    rows[63]["answer"] = ""
    with caplog.at_level(logging.INFO):
        report = problems.load(experiment(write_jsonl(tmp_path / "m.jsonl", rows))).report
    assert report.dropped == {golds.UNMATCHED: 1, golds.CONTRADICTED: 1, golds.ABSENT: 1} and report.kept == 117
    assert "answers found: 116 plain, 1 gsm8k" in caplog.text


def test_a_file_of_golds_that_match_nothing_is_an_error_that_shows_three(tmp_path: Path) -> None:
    rows = [row | {"answer": f"{row.get('formula')} is it. {row['answer']} in all."} for row in maths_data.rows()]
    with pytest.raises(DataError) as error:
        problems.load(experiment(write_jsonl(tmp_path / "m.jsonl", rows)))
    text = str(error.value)
    assert "120 of 120 rows cannot be used, more than the share task.max_dropped = 0.1" in text
    assert "120 with a gold answer that does not equal itself" in text
    assert text.count("m.jsonl line ") == 3 and "task.fields={answer: COLUMN}" in text and "task.answer_format" in text
    assert "\n" not in text and len(text) < 1200


def test_raw_gsm8k_is_read_and_the_wrong_format_refused() -> None:
    source = real_data.path("cases/gsm8k_raw_shape.jsonl")
    fields = {"problem": "question", "group": "source"}
    raw = Experiment.model_validate(
        {"groups": {"names": ["a", "b"]}, "task": {"name": "maths", "data": str(source), "fields": fields}}
    )
    corpus = problems.load(raw)
    found = [problem for part in corpus.parts.values() for problem in part]
    assert corpus.report.kept == corpus.report.rows == len(found) == 240
    assert all(answers.number(problem.answer) is not None for problem in found)
    assert not any("<<" in p.working or "####" in p.working or not p.working for p in found)
    plain = raw.model_copy(update={"task": raw.task.model_copy(update={"answer_format": "plain"})})
    with pytest.raises(DataError, match=r"240 rows cannot be used, .*that does not equal itself"):
        problems.load(plain)


def test_math_with_its_solutions_only(tmp_path: Path) -> None:
    rows = [r for r in real_data.rows("data/math_hendrycks_train.jsonl") if r["solution"]][:1500]
    known = {" ".join(r["problem"].split()): r["answer"] for r in rows}
    bare = [{key: r[key] for key in ("problem", "solution", "type")} for r in rows]
    levels = [name for name, _ in Counter(r["type"] for r in rows).most_common(2)]
    values = {"name": "maths", "data": str(write_jsonl(tmp_path / "m.jsonl", bare)), "fields": {"group": "type"}}
    corpus = problems.load(Experiment.model_validate({"groups": {"names": levels}, "task": values}))
    found = [problem for part in corpus.parts.values() for problem in part]
    assert len(found) > 500 and corpus.report.dropped.get(golds.UNMATCHED, 0) == 0
    verifier = Verifier()
    for problem in found:
        answer = known[problem.text]
        assert verifier.compare(answers.canonical(answer), problem.answer).equal, (answer, problem.answer)
