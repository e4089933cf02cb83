"""Preference data: two shapes of rows, every complaint about them, and parts that share no question."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.config import Experiment
from scpl_ray.tasks.preference import questions as preference_data
from scpl_ray.tasks.preference.questions import Corpus, Question
from scpl_ray.tasks.preference.task import held_out
from scpl_ray.tasks.rows import DataError
from tests.support.preference_data import GROUPS, pairs, responses, write_jsonl

Rows = list[dict[str, Any]]
Load = Callable[..., Corpus]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_rows(rows: Rows, groups: tuple[str, ...] = GROUPS, **task: Any) -> Corpus:
        source = write_jsonl(tmp_path / "rows.jsonl", rows)
        experiment = Experiment.model_validate(
            {
                "groups": {"names": list(groups), "shares": [1 / len(groups)] * len(groups)},
                "task": {"name": "preference", "data": str(source), **task},
                "generation": {"max_new_tokens": 16},
            }
        )
        return preference_data.load(experiment)

    return load_rows


def every(corpus: Corpus) -> list[Question]:
    return [question for questions in corpus.parts.values() for question in questions]


def test_every_group_prefers_its_own_response_to_all_others(load: Load) -> None:
    rows = {row["query"]: row for row in responses()}
    questions = every(load(list(rows.values())))
    assert len(questions) == 40
    for question in questions:
        row = rows[question.turns[0]]
        assert question.groups == GROUPS and question.normal == row["normal"]
        assert {(p.group, p.chosen, p.rejected) for p in question.pairs} == {
            (group, row[group], row[other]) for group in GROUPS for other in (*GROUPS, "normal") if other != group
        }
        assert question.preferred("stage") == row["stage"] and question.preferred("nobody") is None
        assert question.transcript() == f"Human: {row['query']}\n\nAssistant:"


def test_columns_of_responses_are_mapped_and_normal_is_optional(load: Load) -> None:
    rows = [{"ask": r["query"], "x": r["academy"], "y": r["business"]} for r in responses()]
    corpus = load(rows, GROUPS[:2], fields={"query": "ask", "academy": "x", "business": "y"})
    assert {len(question.pairs) for question in every(corpus)} == {2} and every(corpus)[0].normal is None


def test_transcripts_are_split_where_the_two_part(load: Load) -> None:
    corpus = load(pairs(), GROUPS[:2])
    assert Counter(len(question.turns) for question in every(corpus)) == {1: 40, 3: 40}
    for question in every(corpus):
        (pair,) = question.pairs
        assert question.groups == (pair.group,) and question.turns[0].startswith(pair.group)
        assert question.transcript().count("Human:") == (len(question.turns) + 1) // 2
        assert "Assistant" not in pair.chosen + pair.rejected and len(pair.chosen.split()) == 12


def test_answers_may_begin_alike(load: Load) -> None:
    rows = pairs()
    start = "\n\nHuman: w1 w2\n\nAssistant: w5 w6"
    rows[0] |= {"chosen": f"{start} w100", "rejected": f"{start} w110"}
    (found,) = (question for question in every(load(rows, GROUPS[:2])) if question.turns == ("w1 w2",))
    assert found.pairs == (preference_data.Pair("academy", "w5 w6 w100", "w5 w6 w110"),)


def test_prompts_of_their_own_column(load: Load) -> None:
    rows = [
        {"who": r["group"], "prompt": f"w{i} w3", "chosen": f"w100 w{i}", "rejected": f"w110 w{i}"}
        for i, r in enumerate(pairs())
    ]
    corpus = load(rows, GROUPS[:2], fields={"group": "who"})
    assert {question.turns for question in every(corpus)} == {(f"w{i} w3",) for i in range(80)}


def test_rows_of_one_prompt_are_one_question(load: Load) -> None:
    rows = pairs()
    prompt = rows[0]["chosen"].rpartition("\n\nAssistant:")[0]
    more = [
        {"group": g, "chosen": f"{prompt}\n\nAssistant: w5", "rejected": f"{prompt}\n\nAssistant: w6"}
        for g in GROUPS[:2]
    ]
    corpus = load([*rows, *more, more[0]], GROUPS[:2])
    (found,) = (question for question in every(corpus) if len(question.pairs) > 1)
    assert [p.group for p in found.pairs] == ["academy", "academy", "business"] and found.groups == GROUPS[:2]
    assert corpus.report.dropped == {"with a pair that an earlier row has": 1}


def votes(question: int, group: str, chosen: str, rejected: str, count: int) -> Rows:
    return [{"group": group, "prompt": f"w{question} what", "chosen": chosen, "rejected": rejected}] * count


def test_rows_in_which_a_group_chooses_both_ways_are_votes_and_all_count(load: Load) -> None:
    rows = [
        row
        for i in range(40)
        for row in (
            *votes(i, "academy", "w2", "w1", 1),
            *votes(i, "academy", "w1", "w2", 9),
            *votes(i, "business", "w1", "w2", 1),
            *votes(i, "business", "w2", "w1", 9),
        )
    ]
    # a question on which all agree counts as often as one on which not all do
    rows += votes(40, "academy", "w1", "w2", 10) + votes(40, "business", "w2", "w1", 5) * 2
    corpus = load(rows, GROUPS[:2])
    assert corpus.report.dropped == {} and corpus.report.kept == len(rows)
    for question in every(corpus):
        for group, liked in (("academy", "w1"), ("business", "w2")):
            of_group = [pair.chosen for pair in question.pairs if pair.group == group]
            assert len(of_group) == 10 and of_group.count(liked) in (9, 10)
            assert question.preferred(group) == liked


def test_the_preferred_answer_is_that_of_the_first_pair_that_no_majority_turns_round(load: Load) -> None:
    rows = pairs()
    rows += votes(1, "academy", "w1", "w2", 2) + votes(1, "academy", "w2", "w1", 2)
    rows += votes(2, "academy", "w1", "w2", 1) + votes(2, "academy", "w3", "w1", 2) + votes(2, "academy", "w2", "w1", 2)
    found = {question.turns[0]: question.preferred("academy") for question in every(load(rows, GROUPS[:2]))}
    assert found["w1 what"] == "w1" and found["w2 what"] == "w3"


@pytest.mark.parametrize("shape", [responses, pairs])
def test_parts_share_no_question_and_depend_on_no_order(load: Load, shape: Callable[[], Rows]) -> None:
    groups = GROUPS if shape is responses else GROUPS[:2]
    rows = [{key: value for key, value in row.items() if key != "id"} for row in shape()]
    corpus = load(rows, groups)
    assert {part: len(questions) for part, questions in corpus.parts.items()} == (
        {"train": 20, "judge": 12, "evaluation": 8}
        if shape is responses
        else {"train": 40, "judge": 24, "evaluation": 16}
    )
    turns = [question.turns for question in every(corpus)]
    assert len(set(turns)) == len(turns)
    for group in groups:
        assert len({sum(group in q.groups for q in questions) for questions in corpus.parts.values()}) == 3
    assert load(rows[::-1], groups).parts == corpus.parts


def test_parts_and_halves_keep_their_sizes_where_there_are_many_sets_of_groups(load: Load) -> None:
    groups = tuple(f"g{i}" for i in range(8))
    sets = list(itertools.combinations(groups, 3))
    rows = [
        {"group": group, "prompt": f"w{i} what", "chosen": f"w1 {group}", "rejected": "w2"}
        for i in range(200)
        for group in sets[i * 11 % len(sets)]
    ]
    parts = load(rows, groups).parts
    for part, count in (("train", 100), ("judge", 60), ("evaluation", 40)):
        assert abs(len(parts[part]) - count) <= 2
    asked, neutral = held_out(parts["evaluation"], groups)
    every_asked = {question for of_group in asked.values() for question in of_group}
    assert len(every_asked) + len(neutral) == len(parts["evaluation"]) and abs(len(every_asked) - len(neutral)) <= 3
    for group in groups:
        unasked = sum(group in question.groups for question in neutral)
        assert len(asked[group]) > 0 and abs(len(asked[group]) - unasked) <= 4


@pytest.mark.parametrize("shape", [responses, pairs])
def test_sets_without_a_common_group_are_split_by_themselves(load: Load, shape: Callable[..., Rows]) -> None:
    """Where all groups ask all questions, or each its own, every set has its shares and its halves."""
    groups = GROUPS if shape is responses else GROUPS[:2]
    parts = load(shape(47), groups).parts
    asked, neutral = held_out(parts["evaluation"], groups)
    for group in groups:
        of_group = {part: [q for q in questions if group in q.groups] for part, questions in parts.items()}
        assert {part: len(questions) for part, questions in of_group.items()} == {
            "train": 24,
            "judge": 14,
            "evaluation": 9,
        }
        assert asked[group] == of_group["evaluation"][::2]
        assert [q for q in neutral if group in q.groups] == of_group["evaluation"][1::2]


def test_a_conversation_that_was_cut_at_several_turns_is_in_one_part(load: Load) -> None:
    """The longer question holds the answer to the shorter one."""
    rows = pairs(120)
    longer = [
        {
            **row,
            **{
                side: f"{row['chosen']}\n\nHuman: w{i}\n\nAssistant: w1{i % 2} {side}"
                for side in ("chosen", "rejected")
            },
        }
        for i, row in enumerate(rows)
    ]
    corpus = load([*rows, *longer], GROUPS[:2])
    part_of: dict[str, set[str]] = {}
    for part, questions in corpus.parts.items():
        for question in questions:
            part_of.setdefault(question.turns[0], set()).add(part)
    assert len(part_of) >= 120 and all(len(parts) == 1 for parts in part_of.values())


def test_a_question_that_is_spaced_and_encoded_otherwise_is_in_the_same_part(load: Load) -> None:
    ways = (
        "Who\u2019s number {}, and \u201cwhy\u201d?",
        'who\'s number {} , and "why" ?',
        'Who\'s  number{},and "why"?',
    )
    rows = [row | {"prompt": ways[i % 2 * (1 + i // 2 % 2)].format(i // 2)} for i, row in enumerate(pairs(120))]
    for row in rows:
        row |= {side: row[side].rsplit("Assistant:", 1)[1].strip() for side in ("chosen", "rejected")}
    corpus = load(rows, GROUPS[:2])
    part_of: dict[str, set[str]] = {}
    for part, questions in corpus.parts.items():
        for question in questions:
            part_of.setdefault("".join(filter(str.isdigit, question.turns[0])), set()).add(part)
    assert len(part_of) == 120 and all(len(parts) == 1 for parts in part_of.values())


def test_rows_left_out_are_counted_by_reason(load: Load) -> None:
    rows = responses()
    rows[0]["query"] = f" {rows[1]['query']} "
    rows[2]["stage"] = rows[2]["academy"]
    rows[3]["stage"] = "?!"
    report = load(rows).report
    assert (report.rows, report.kept) == (40, 37)
    assert report.dropped == {
        "with a query that an earlier row has": 1,
        "with the same answer for two groups in its first 12 words": 1,
        "with an answer without words": 1,
    }
    rows = responses()
    rows[0]["stage"] += "\n\nHuman: w5\n\nAssistant: w6"
    rows[1]["academy"] = [{"role": "assistant", "content": "w5"}, {"role": "user", "content": "w6"}]
    rows[2]["normal"] += "\n\nHuman: w5"
    assert load(rows).report.dropped == {"with an answer that goes on with another turn": 3}
    rows = pairs()
    rows[0]["rejected"] = rows[0]["chosen"]
    rows[2]["chosen"] += "\n\nHuman: w5"
    rows[4]["chosen"] = rows[4]["rejected"] = "\n\nHuman: w1\n\nHuman: w2\n\nAssistant: w3"
    rows[6]["chosen"] += " w7" * 20
    rows[6]["rejected"] = rows[6]["chosen"] + " and then another end"
    rows.append(rows[8] | {"group": "stage"})
    report = load(rows, GROUPS[:2]).report
    assert (report.rows, report.kept) == (81, 76)
    assert report.dropped == {
        "whose chosen and rejected are equal in their first 12 words": 2,
        "with an answer that goes on with another turn": 1,
        "whose turns do not alternate between user and assistant": 1,
        "of a label that is no group": 1,
    }


def test_a_row_that_cannot_be_used_hides_no_later_row_of_its_query(load: Load) -> None:
    rows = responses()
    spoilt = [rows[0] | {"id": "a", "stage": "?!"}, rows[1] | {"id": "b", "stage": rows[1]["academy"]}]
    corpus = load([*spoilt, *rows])
    assert corpus.report.dropped == {
        "with the same answer for two groups in its first 12 words": 1,
        "with an answer without words": 1,
    }
    assert {question.question_id for question in every(corpus)} == {row["id"] for row in rows}


def test_pairs_of_a_group_that_is_not_asked_for_hide_no_pair_of_another(load: Load) -> None:
    rows = [row | {"id": str(i)} for i, row in enumerate(pairs())]
    report = load([rows[0] | {"group": "stage", "part": "train"}, *rows], GROUPS[:2]).report
    assert report.dropped == {"of a label that is no group": 1} and report.kept == len(rows)


def test_a_users_own_split_is_kept(load: Load) -> None:
    rows = responses(9)
    for i, row in enumerate(rows):
        row["part"] = ("evaluation", "train", "judge")[i % 3]
    corpus = load(rows)
    assert {q.question_id for q in corpus.parts["judge"]} == {"r2", "r5", "r8"}


Change = Callable[[Rows], Any]


def first(**values: Any) -> Change:
    return lambda rows: rows[0].update(values)


def without(name: str) -> Change:
    def drop(rows: Rows) -> None:
        for row in rows:
            del row[name]

    return drop


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("stage"), "no field stage; the row has id, query, academy, business, normal: name yours with"),
        (
            without("query"),
            "the first row has id, academy, business, stage, normal; the preference task reads rows of query",
        ),
        (first(stage=" "), "line 1: stage is empty; fill it or leave the row out"),
        (first(stage=["x"]), "line 1: stage is no list of messages: one is a str"),
        (first(id="r1"), "line 2: id 'r1' is that of .* too"),
        (first(part="dev"), "line 1: part 'dev' is none of train, judge, evaluation"),
        (first(part="train"), "no part, though other rows have one"),
        (
            lambda rows: [row.update(part="train") for row in rows],
            "0 questions of 'academy' for judge; train, judge and",
        ),
        (lambda rows: rows.clear(), "the file is empty"),
        (
            lambda rows: [row.update(query="w1") for row in rows],
            "0 questions of 'academy' for|1 questions of 'academy' for",
        ),
        (
            lambda rows: [row.update(stage=row["academy"]) for row in rows],
            "no row is left of 40 .*same answer for two groups",
        ),
        (lambda rows: rows.__delitem__(slice(5, None)), "questions of 'academy' for"),
    ],
)
def test_responses_that_cannot_be_used(load: Load, change: Change, message: str) -> None:
    rows = responses()
    change(rows)
    with pytest.raises(DataError, match=message) as error:
        load(rows, max_dropped=0.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("rejected"), "no field rejected; the row has group, chosen"),
        (first(chosen=""), "line 1: chosen is empty"),
        (first(chosen="w1 w2"), "line 1: chosen and rejected are no transcripts of one conversation"),
        (lambda rows: [row.update(group="academy") for row in rows], "every row has group 'academy'; a loop needs"),
        (
            lambda rows: [row.update(group="stage") for row in rows[40:]],
            "business never occurs as group in .*academy, stage",
        ),
        (lambda rows: [row.update(rejected=row["chosen"]) for row in rows], "no row is left of 80"),
        (lambda rows: rows.__delitem__(slice(42, None)), "questions of 'business' for"),
    ],
)
def test_pairs_that_cannot_be_used(load: Load, change: Change, message: str) -> None:
    rows = pairs()
    change(rows)
    with pytest.raises(DataError, match=message) as error:
        load(rows, GROUPS[:2], max_dropped=0.0)
    assert "\n" not in str(error.value)


def test_one_question_in_two_parts_is_an_overlap(load: Load) -> None:
    rows = responses()
    for i, row in enumerate(rows):
        row["part"] = ("evaluation", "train", "judge")[i % 3]
    rows[1]["query"] = rows[0]["query"]
    with pytest.raises(DataError, match="line 2: overlapping splits: its query is in part 'train' here and in 'evalu"):
        load(rows, max_dropped=0.0)
    rows = pairs()
    for i, row in enumerate(rows):
        row["part"] = ("evaluation", "train", "judge")[i % 3]
    rows[1] = rows[0] | {"part": "judge", "group": "business"}
    with pytest.raises(DataError, match="line 2: overlapping splits: its prompt is in part 'judge' here and in 'evalu"):
        load(rows, GROUPS[:2], max_dropped=0.0)


def test_one_conversation_of_responses_in_two_parts_is_an_overlap(load: Load) -> None:
    rows = responses()
    for i, row in enumerate(rows):
        row["part"] = ("evaluation", "train", "judge")[i % 3]
    rows[0]["query"] += "?"
    cut_later = f"Human: {rows[0]['query']}\n\nAssistant: {rows[0]['stage']}\n\nHuman: And then?\n\nAssistant:"
    for other in (rows[0]["query"].upper(), rows[0]["query"].replace("?", " ?"), cut_later):
        rows[1]["query"] = other
        with pytest.raises(DataError, match="line 2: overlapping splits: its query is in part 'train' here and in "):
            load(rows, max_dropped=0.0)


def test_groups_are_not_called_as_fields(load: Load) -> None:
    with pytest.raises(DataError, match=r"groups\.names: query is a field of this task"):
        load(responses(), ("query", "academy"))
    assert set(load(responses(), ("normal", "academy")).parts["train"][0].groups) == {"normal", "academy"}
