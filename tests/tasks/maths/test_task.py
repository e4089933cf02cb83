"""The maths task on made-up problems: solutions, splits, prompts, judgement, choices, and every complaint."""

import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.config import Experiment
from scpl_ray.judges.card import DEPLOYED, JudgeCard
from scpl_ray.models.template import PLAIN, Template
from scpl_ray.protocols import Task
from scpl_ray.tasks import TASKS
from scpl_ray.tasks.maths import answers, problems
from scpl_ray.tasks.maths import task as maths
from scpl_ray.tasks.maths.task import Maths
from scpl_ray.tasks.rows import DataError
from scpl_ray.tasks.texts import ModelSide
from tests.support import maths_data
from tests.support.news_data import write_jsonl
from tests.support.tiny_models import save_model

CHAT = Template("<|u|>", "<|a|>")
pytestmark = pytest.mark.usefixtures("cached")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "plain", "llama", hidden=32)


Write = Callable[..., Experiment]


@pytest.fixture
def write(tmp_path: Path, model: Path) -> Write:
    def write_rows(rows: list[dict[str, Any]], **sections: Any) -> Experiment:
        return experiment_on(write_jsonl(tmp_path / "maths.jsonl", rows), model, **sections)

    return write_rows


def experiment_on(source: Path, model: Path, **sections: Any) -> Experiment:
    values: dict[str, Any] = {
        "groups": {"names": list(maths_data.SOURCES)},
        "task": {"name": "maths", "data": str(source), "fields": {"group": "source"}, "max_prompt_tokens": 48},
        "model": {"name": str(model)},
        "generation": {"max_new_tokens": 32},
        "evaluation": {"prompts_per_group": 5, "neutral_prompts": 12},
    }
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section
    return Experiment.model_validate(values)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Experiment:
    return experiment_on(write_jsonl(tmp_path_factory.mktemp("d") / "m.jsonl", maths_data.rows()), model)


@pytest.fixture(scope="module")
def task(experiment: Experiment) -> Maths:
    return maths.build(experiment)


def test_rows_of_a_label_that_is_no_group_hide_no_row_of_a_group(write: Write) -> None:
    rows = maths_data.rows()
    report = problems.load(write([{**rows[0], "source": "zoo", "part": "train"}, *rows])).report
    assert report.dropped == {"of a label that is no group": 1} and report.kept == len(rows)


def test_it_is_registered_and_is_a_task(experiment: Experiment) -> None:
    built: Task = TASKS["maths"].build(experiment)
    assert built.kinds == maths_data.SOURCES and built.tokenizer is None


def test_a_solution_is_the_working_and_the_answer_in_one_form(task: Maths) -> None:
    farm, shop = (next(q for q in task.group_prompts(1) if q.group == group) for group in task.kinds)
    assert farm.prompt.startswith("Problem: ") and farm.prompt.endswith("How many hens are there now?\nSolution:")
    a, b = (int(word) for word in farm.prompt.split() if word.isdigit())
    assert farm.reference == f"Count all hens together: {a} + {b} = {a + b}\nThe answer is {a + b}."
    a, b = (int(word) for word in shop.prompt.split() if word.isdigit())
    assert shop.reference == f"{a} * {b} = {a * b}\nThe answer is {a * b}."


@pytest.mark.parametrize(
    ("row", "solution"),
    [
        ({"answer": "8.0"}, "The answer is 8."),
        ({"answer": "15 (balls)", "formula": "6+9=15"}, "6+9=15\nThe answer is 15."),
        ({"answer": "5", "formula": "15/3=5 r0"}, "15/3=5 r0\nThe answer is 5."),
        ({"answer": "23", "formula": "( 13.0 - ( 3.0 - 13.0 ) )"}, "13 - ( 3 - 13 ) = 23\nThe answer is 23."),
        ({"answer": "6", "solution": "Is <<2*3=6>>6.\n#### 6"}, "Is 6.\nThe answer is 6."),
        ({"answer": "6", "solution": "It is \\boxed{6}."}, "It is \\boxed{6}.\nThe answer is 6."),
        ({"answer": "6", "solution": "2*3. The answer is 6."}, "2*3.\nThe answer is 6."),
        ({"answer": "6", "solution": None, "formula": "2*3"}, "2*3 = 6\nThe answer is 6."),
        ({"answer": "Mrs. Hilt"}, "The answer is Mrs. Hilt."),
    ],
)
def test_real_text_of_every_shape_of_row(row: dict[str, Any], solution: str, write: Write) -> None:
    changed = maths_data.rows()
    changed[0] = {"problem": "Who or what?", "source": "farm", **row}
    corpus = problems.load(write(changed))
    found = next(p for of_part in corpus.parts.values() for p in of_part if p.text == "Who or what?")
    assert found.solution == solution
    assert answers.extract(found.solution) is not None and answers.has_closing(found.solution)


def test_parts_share_no_problem_and_depend_on_nothing_else(experiment: Experiment, task: Maths, write: Write) -> None:
    parts = {part: {p.text for p in of_part} for part, of_part in problems.load(experiment).parts.items()}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 120
    assert 0.35 < len(parts["train"]) / 120 < 0.65
    fewer = problems.load(write(maths_data.rows()[::-1][:90]))
    for part, of_part in fewer.parts.items():
        assert {p.text for p in of_part} <= parts[part]
    asked = {q.prompt for q in task.draw({"farm": 80, "shop": 80}, seed=0, prefix="r001")}
    assert asked == {maths.PROBLEM.format(problem=text) for text in parts["train"]}
    assert {q.prompt for q, _ in task.real_examples(200, seed=1)} == asked
    assert {q.prompt for q in task.group_prompts(5)} <= {maths.PROBLEM.format(problem=t) for t in parts["evaluation"]}


def test_a_problem_in_other_quotes_and_spacing_is_the_same_problem(write: Write) -> None:
    """Collections of problems take over those of others: one stood in training and in evaluation."""
    rows = [{**row, "problem": f'Mary\'s "farm": {row["problem"]}'} for row in maths_data.rows()]
    again = [
        {**row, "id": f"{row['id']}-again", "problem": row["problem"].replace("'", "\u2019").replace("?", " ?").upper()}
        for row in rows
    ]
    corpus = problems.load(write([*rows, *again]))
    found = [p.text for of_part in corpus.parts.values() for p in of_part]
    assert len(found) == 120 and {text.split(":")[0] for text in found} == {'Mary\'s "farm"'}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("for $5.20, and", "for $ 5.20 , and"),
        ("Mike's hens", "Mike 's hens"),
        ("3+4 hens", "3 + 4 hens"),
        ("caf\u00e9 hens", "cafe\u0301 hens"),
        ("3,409 hens", "3409 hens"),
        ("1,203,409 hens", "1203409\u00a0hens"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_problem_that_is_spaced_or_encoded_otherwise_is_the_same_problem(
    one: str, other: str, write: Write, *, turned: bool
) -> None:
    first, second = (other, one) if turned else (one, other)
    rows = maths_data.rows()
    once = problems.load(write([{**row, "problem": f"{first}: {row['problem']}"} for row in rows]))
    again = [{**row, "id": f"{row['id']}-again", "problem": f"{second}: {row['problem']}"} for row in rows]
    both = problems.load(write([{**row, "problem": f"{first}: {row['problem']}"} for row in rows] + again))
    assert both.parts == once.parts


def test_numbers_that_are_no_number_together_keep_problems_apart(write: Write) -> None:
    different = (
        "1 2/3 hens",
        "12/3 hens",
        "5\u00b2 hens",
        "52 hens",
        "8, 234 hens",
        "8234 hens",
        "7,23 hens",
        "723 hens",
    )
    rows = [
        {**row, "id": f"{row['id']}-{i}", "problem": f"{text}: {row['problem']}"}
        for row in maths_data.rows()
        for i, text in enumerate(different)
    ]
    assert sum(map(len, problems.load(write(rows)).parts.values())) == len(rows)


def test_draws_are_seeded_and_without_replacement_as_far_as_possible(task: Maths) -> None:
    queries = task.draw({"farm": 40, "shop": 3}, seed=7, prefix="r002")
    assert queries == task.draw({"farm": 40, "shop": 3}, seed=7, prefix="r002")
    assert queries != task.draw({"farm": 40, "shop": 3}, seed=8, prefix="r002")
    assert [q.query_id for q in queries] == [f"r002-q{i:05d}" for i in range(43)]
    times = Counter(q.prompt for q in queries[:40]).values()
    assert max(times) - min(times) <= 1
    assert [q.prompt for q in task.draw({"shop": 3}, seed=7, prefix="x")] == [q.prompt for q in queries[40:]]
    with pytest.raises(ValueError, match=r"counts: unknown groups \['barn'\]"):
        task.draw({"barn": 1}, seed=0, prefix="x")


def test_evaluation_prompts_are_fixed_and_fewer_are_a_prefix(task: Maths, experiment: Experiment) -> None:
    seeded = maths.build(experiment.model_copy(update={"seed": 5}))
    assert seeded.group_prompts(4) == task.group_prompts(4)
    assert [q for q in task.group_prompts(4) if q.query_id[-1] in "01"] == task.group_prompts(2)
    with pytest.raises(ValueError, match=r"evaluation\.prompts_per_group = 99: the evaluation part has \d+ of farm"):
        task.group_prompts(99)


def test_neutral_prompts_say_nothing_of_a_group(task: Maths) -> None:
    queries = task.neutral_prompts(684)
    assert {(q.group, q.reference) for q in queries} == {(None, None)}
    assert len({q.prompt for q in queries}) == 684 and task.neutral_prompts(5) == queries[:5]
    words = {word.strip(".,?").lower() for q in queries for word in q.prompt.split()}
    assert not words & {"hens", "eggs", "boxes", "farm", "shop", "buys", "sells", *map(str.lower, maths_data.NAMES)}
    # the first of them already have all wordings
    assert len({"".join(c for c in q.prompt if not c.isdigit()) for q in queries[:4]}) == 4
    with pytest.raises(ValueError, match=r"evaluation\.neutral_prompts = 685: there are 684"):
        task.neutral_prompts(685)


def test_real_examples_take_the_groups_in_turn(task: Maths) -> None:
    examples = task.real_examples(7, seed=3)
    assert task.real_examples(5, seed=3) == examples[:5]
    assert [q.group for q, _ in examples] == ["farm", "shop"] * 3 + ["farm"]
    assert all(answer == f" {query.reference}" for query, answer in examples)


def rebuilt(task: Maths, **changes: Any) -> Maths:
    parts: dict[str, Any] = {
        "train": [p for of_group in task._train.values() for p in of_group],
        "evaluation": [p for of_group in task._evaluation.values() for p in of_group],
        "judge": task._judge,
        "card": task.judge_card,
        "side": ModelSide(PLAIN, len, None),
    }
    parts |= changes
    return Maths(task.kinds, parts.pop("train"), parts.pop("evaluation"), **parts)


def test_a_chat_model_is_asked_once_and_answers_from_the_start(task: Maths) -> None:
    chat = rebuilt(task, side=ModelSide(CHAT, len, None))
    for plain, asked in zip(task.group_prompts(2), chat.group_prompts(2), strict=True):
        problem = plain.prompt.removeprefix("Problem: ").removesuffix("\nSolution:")
        assert asked.prompt == f"<|u|>Solve this problem. End with: The answer is X.\n\n{problem}<|a|>"
    query, answer = chat.real_examples(1, seed=0)[0]
    assert answer == query.reference and chat.neutral_prompts(1)[0].prompt.count("<|u|>") == 1


def test_quality_is_whether_the_answer_is_right(task: Maths) -> None:
    query = task.group_prompts(1)[0]
    right = answers.closed(str(query.reference))
    for text, correct, parsed, finished in (
        (f" {query.reference}", 1.0, 1.0, 1.0),
        (f"\\boxed{{{right}}}", 1.0, 1.0, 1.0),
        (f"it is {right}", 1.0, 1.0, 0.0),
        (f"The answer is {right}.5.", 0.0, 1.0, 1.0),
        ("The answer is hens.", 0.0, 0.0, 1.0),
        ("", 0.0, 0.0, 0.0),
    ):
        (judged,) = task.judge([(query, "c", text)])
        assert judged.terms == {"correct": correct, "parsed": parsed, "finished": finished}, text
        assert judged.quality == correct and judged.completion_id == "c"
    (neutral,) = task.judge([(task.neutral_prompts(1)[0], "c", "2 + 3 = 5. The answer is 5.")])
    assert neutral.terms == {"parsed": 1.0, "finished": 1.0} and neutral.quality == 1.0


def test_the_kind_is_how_a_solution_is_written(task: Maths, experiment: Experiment) -> None:
    query = task.neutral_prompts(1)[0]
    text = "Count all hens together: 2 + 3 = 5\nThe answer is 5."
    assert task.judge([(query, "c", text)])[0].kind == "farm"
    assert task.judge([(query, "c", "??")])[0].kind is None
    card = task.judge_card
    assert isinstance(card, JudgeCard) and card.sources == "problems"
    assert "of problems it has not seen (farm: TPR 1.00" in card.summary()
    found = card.find(DEPLOYED, windows=True)
    parts = problems.load(experiment).parts
    assert found.trained_on == len(parts["judge"])
    assert found.tested_on == len(parts["train"]) + len(parts["evaluation"])
    assert JudgeCard.load(fitted_folder(task)) == card


def fitted_folder(task: Maths) -> Path:
    from scpl_ray.storage import cache

    assert isinstance(task.judge_card, JudgeCard)
    folders = [path.parent for path in cache.directory().glob("kind-judge-*/card.json")]
    return next(f for f in folders if JudgeCard.load(f).data_sha256 == task.judge_card.data_sha256)


def test_groups_that_write_alike_show_in_the_card_and_are_not_corrected(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row | {"solution": None, "formula": None, "answer": str(i % 7)} for i, row in enumerate(maths_data.rows())]
    task = maths.build(write(rows))
    assert isinstance(task.judge_card, JudgeCard)
    assert task.judge_card.find(DEPLOYED, windows=True).macro_f1 < 0.7
    assert task.confusion is None and "no better than chance" in caplog.text


def test_rule_terms(task: Maths) -> None:
    farm, shop = (next(q for q in task.group_prompts(1) if q.group == g) for g in task.kinds)
    terms = task.rule_terms(farm, f" {farm.reference}")
    assert set(terms) == {"correct", "format", "repetition_free", "length", "own_kind"}
    assert terms["correct"] == terms["format"] == terms["length"] == 1.0 and terms["own_kind"] > 0.6
    assert task.rule_terms(shop, f" {farm.reference}")["own_kind"] == pytest.approx(1.0 - terms["own_kind"])
    stuck = task.rule_terms(farm, "5 5 5 5 5")
    assert stuck["format"] == 0.0 and stuck["repetition_free"] == 0.25
    assert task.rule_terms(farm, "?")["own_kind"] == 0.5 and task.rule_terms(farm, "")["length"] == 0.0
    assert set(task.rule_terms(task.neutral_prompts(1)[0], "5")) == {"format", "repetition_free"}


def test_users_prefer_right_answers_and_a_little_their_own_style(task: Maths) -> None:
    users = ["farm", "shop"] * 600
    choices = task.choices(users, seed=1)
    assert choices == task.choices(users, seed=1) and choices[:10] == task.choices(users[:10], seed=1)
    solutions = {f" {p.solution}": p for of_group in task._train.values() for p in of_group}
    prompts = {maths.PROBLEM.format(problem=p.text): p for of_group in task._train.values() for p in of_group}
    right: list[bool] = []
    own: list[bool] = []
    for user, choice in zip(users, choices, strict=True):
        chosen, rejected = solutions.get(choice.chosen), solutions.get(choice.rejected)
        asked = prompts.get(choice.prompt)
        if asked is not None:
            assert {chosen, rejected} == {asked, None}
            wrong = choice.rejected if chosen else choice.chosen
            assert task.judge([(task._query("q", asked, asked.group), "c", wrong)])[0].quality == 0.0
            right.append(chosen is not None)
        elif chosen and rejected:
            assert {chosen.group, rejected.group} == {"farm", "shop"}
            own.append(chosen.group == user)
    # sigmoid(3) = .953 for right against wrong, sigmoid(1) = .731 for one's own style
    assert len(right) > 500 and abs(sum(right) / len(right) - 0.953) < 0.04
    assert len(own) > 250 and abs(sum(own) / len(own) - 0.731) < 0.07
    others = task.choices(["shop", "farm"] * 600, seed=1)
    assert [{c.chosen, c.rejected} for c in others] == [{c.chosen, c.rejected} for c in choices]
    with pytest.raises(ValueError, match="users: unknown groups"):
        task.choices(["barn"], seed=0)


def test_choices_need_a_wrong_answer(task: Maths, write: Write) -> None:
    rows = [row | {"answer": "5" if row["source"] == "farm" else row["answer"]} for row in maths_data.rows()]
    rows[0]["answer"] = "5.0"
    with pytest.raises(ValueError, match=r"reward\.model = null: all training problems of farm have one answer"):
        maths.build(write(rows)).choices(["farm"], seed=0)


def test_the_task_travels_to_actors_whole(task: Maths) -> None:
    query = task.group_prompts(1)[0]
    assert task.judge([(query, "c", "\\boxed{\\pi}")])[0].terms["parsed"] == 1.0
    again = pickle.loads(pickle.dumps(task))
    assert again.group_prompts(3) == task.group_prompts(3)
    assert again.judge([(query, "c", "5")]) == task.judge([(query, "c", "5")])


def test_rows_left_out_are_counted_by_reason(write: Write) -> None:
    rows = maths_data.rows()
    rows[1]["problem"] = f"  {rows[0]['problem'].upper()}"
    rows[2]["answer"] = "9" * 300
    rows.append(rows[3] | {"id": "b", "source": "barn", "problem": "Another?"})
    report = problems.load(write(rows)).report
    assert (report.rows, report.kept) == (121, 118)
    assert report.dropped == {
        "with a problem that an earlier row has": 1,
        "with an answer of more than 200 characters": 1,
        "of a label that is no group": 1,
    }


def test_a_users_own_split_is_kept(write: Write) -> None:
    rows = [row | {"part": ("train", "evaluation", "judge")[i % 3]} for i, row in enumerate(maths_data.rows())]
    corpus = problems.load(write(rows))
    assert corpus.given and {part: len(found) for part, found in corpus.parts.items()} == dict.fromkeys(
        ("train", "judge", "evaluation"), 40
    )
    rows[1]["problem"] = rows[0]["problem"]
    with pytest.raises(DataError, match=r"line 2: overlapping splits: its problem is in part 'evaluation' here"):
        problems.load(write(rows, task={"max_dropped": 0.0}))
    rows[1] = rows[1] | {"part": "dev"}
    with pytest.raises(DataError, match="line 2: part 'dev' is none of train, judge, evaluation"):
        problems.load(write(rows, task={"max_dropped": 0.0}))
    del rows[1]["part"]
    with pytest.raises(DataError, match="line 2: no part, though other rows have one"):
        problems.load(write(rows, task={"max_dropped": 0.0}))
    only = [row | {"part": "train" if row["source"] == "farm" else row["part"]} for row in corpus_rows()]
    with pytest.raises(DataError, match=r"no problem of 'farm' is in judge, evaluation .*; give rows of this group"):
        problems.load(write(only))


def corpus_rows() -> list[dict[str, Any]]:
    return [row | {"part": ("train", "evaluation", "judge")[i % 3]} for i, row in enumerate(maths_data.rows())]


def change(index: int, **values: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda rows: rows[index].update(values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: [row.update(answer=None, solution=None) for row in rows],
         r"120 of 120 rows cannot be used, more than .*maths.jsonl line 1: without an answer: .*; name the column"),
        (change(4, problem=" "), "line 5: problem is empty"),
        (change(4, id="farm-1"), "line 5: id 'farm-1' is that of .* line 1 too"),
        (lambda rows: [row.update(source="farm") for row in rows], "every row has group 'farm'"),
        (lambda rows: [row.update(source=row["source"] + "s") for row in rows],
         "groups.names: farm, shop never occurs as group in .*; its labels are farms, shops"),
        (lambda rows: rows.__delitem__(slice(2, 60)), "no problem of 'farm' is in .* .2 in all.*; give more problems"),
    ],
)  # fmt: skip
def test_bad_data_is_one_message(spoil: Callable[[list[dict[str, Any]]], Any], message: str, write: Write) -> None:
    rows = maths_data.rows()
    spoil(rows)
    with pytest.raises(DataError, match=message):
        problems.load(write(rows, task={"max_dropped": 0.0}))


def test_problems_too_long_for_the_model_are_left_out_or_refused(
    write: Write,
) -> None:
    rows = maths_data.rows()
    for row in rows[::10]:
        row["problem"] = "Well, " * 40 + row["problem"]
    for row in rows[1:60:10]:
        row["solution"] = "Hm. " * 40 + row["solution"]
    task = maths.build(write(rows))
    report = task.data_report
    assert report is not None and report.rows - report.kept == sum(report.dropped.values())
    long = {reason: count for reason, count in report.dropped.items() if "that is too long" in reason}
    assert set(long) <= {
        f"with a prompt or solution that is too long ({part}, {group})"
        for part in ("train", "evaluation")
        for group in maths_data.SOURCES
    }
    assert sum(long.values()) == 14
    asked = task.draw({"farm": 40, "shop": 40}, seed=0, prefix="r")
    assert not any("Well" in q.prompt or "Hm" in str(q.reference) for q in asked)
    with pytest.raises(
        DataError,
        match=r"no train problem of farm, shop and its solution are that short; set the first to \d+ to use half",
    ):
        maths.build(write(rows, task={"max_prompt_tokens": 10}))
    with pytest.raises(DataError, match=r"generation\.max_new_tokens = 4: no train problem of farm, shop"):
        maths.build(write(rows, generation={"max_new_tokens": 4}))


def test_problems_left_out_are_counted_by_group_and_an_uneven_evaluation_is_warned_of(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    rows = corpus_rows()
    maths.build(write(rows))
    assert "the evaluation leaves out" not in caplog.text
    for row in [row for row in rows if row["source"] == "farm"][:30]:
        row["solution"] = "Hm. " * 40 + row["solution"]
    report = maths.build(write(rows)).data_report
    assert report is not None and report.dropped == {
        f"with a prompt or solution that is too long ({part}, farm)": 10 for part in ("train", "evaluation")
    }
    assert "too long: 50% of farm, 0% of shop; groups are compared on their short ones" in caplog.text


def test_the_limits_that_are_advised_are_those_of_the_group_that_lacks_problems(write: Write) -> None:
    rows = [row for i, row in enumerate(corpus_rows()) if i < 30 or row["source"] == "shop"]
    for row in rows[:30]:
        row["solution"] = "Hm. " * 40 + row["solution"]
    with pytest.raises(DataError, match=r"no train problem of farm and its solution.*the second to (\d+)") as error:
        maths.build(write(rows))
    found = re.search(r"the second to (\d+)", str(error.value))
    assert found is not None and int(found[1]) > 40


def test_too_few_evaluation_prompts_are_found_at_the_start(write: Write) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.prompts_per_group = 50"):
        maths.build(write(maths_data.rows(), evaluation={"prompts_per_group": 50}))
