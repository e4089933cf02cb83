"""Conversations in every published shape are taken apart into the same turns, and none is put into another's turn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.config import Experiment
from scpl_ray.tasks.preference import conversations, questions
from scpl_ray.tasks.preference.conversations import Exchange
from scpl_ray.tasks.preference.questions import Corpus
from scpl_ray.tasks.rows import OddRow, Row
from tests.support import real_data
from tests.support.preference_data import GROUPS, pairs, write_jsonl

Load = Callable[..., Corpus]
TURNS = ("How are you?", "Fine.\n\nAnd you?", "Well. What now?")
YES, NO = "Go on.", "Stop."


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load_rows(rows: list[dict[str, Any]], groups: tuple[str, ...] = GROUPS[:2]) -> Corpus:
        values = {
            "groups": {"names": list(groups)},
            "task": {"name": "preference", "data": str(write_jsonl(tmp_path / "rows.jsonl", rows))},
        }
        return questions.load(Experiment.model_validate(values))

    return load_rows


def row(**fields: Any) -> Row:
    lists = {name: value for name, value in fields.items() if isinstance(value, list)}
    values = dict.fromkeys(("group", "prompt", "messages", "chosen", "rejected"))
    texts = {name: value.strip() if isinstance(value, str) else None for name, value in fields.items()}
    return Row("f line 1", {**values, **texts}, lists)


def transcript(human: str = "Human", assistant: str = "Assistant", between: str = "\n\n", end: str = ":") -> str:
    texts = TURNS if between == "\n\n" else tuple(map(one_line, TURNS))
    said = zip((human, assistant, human), texts, strict=True)
    return "".join(f"{between}{name}{end} {text}" for name, text in said) + f"{between}{assistant}:"


def one_line(text: str) -> str:
    return " ".join(text.split())


def messages(
    *extra: str, role: str = "role", content: str = "content", names: tuple[str, str] = ("user", "assistant")
) -> Any:
    return [{role: names[i % 2], content: text} for i, text in enumerate((*TURNS, *extra))]


SHAPES: dict[str, dict[str, Any]] = {
    "a transcript as prompt": {"prompt": transcript(), "chosen": f" {YES}", "rejected": NO},
    "answers that name the speaker": {
        "prompt": transcript(), "chosen": f"\n\nAssistant: {YES}", "rejected": f"Assistant: {NO}"
    },
    "transcripts that begin alike": {"chosen": f"{transcript()} {YES}", "rejected": f"{transcript()} {NO}"},
    "a prompt that both repeat": {
        "prompt": transcript(), "chosen": f"{transcript()} {YES}", "rejected": f"{transcript()} {NO}"
    },
    "User for Human": {"prompt": transcript("User"), "chosen": YES, "rejected": NO},
    "capitals": {"prompt": transcript("USER", "ASSISTANT"), "chosen": YES, "rejected": NO},
    "number signs": {"prompt": transcript("### Human", "### Assistant"), "chosen": YES, "rejected": NO},
    "messages": {"prompt": messages(), "chosen": YES, "rejected": NO},
    "messages of their own column": {"messages": messages(), "chosen": YES, "rejected": NO},
    "answers as messages": {
        "prompt": messages(),
        "chosen": [{"role": "assistant", "content": YES}],
        "rejected": [{"role": "assistant", "content": NO}],
    },
    "whole lists": {"chosen": messages(YES), "rejected": messages(NO)},
    "whole lists and their prompt": {"prompt": messages(), "chosen": messages(YES), "rejected": messages(NO)},
    "whole lists and a transcript": {"prompt": transcript(), "chosen": messages(YES), "rejected": messages(NO)},
    "from and value": {
        "prompt": messages(role="from", content="value", names=("human", "gpt")), "chosen": YES, "rejected": NO
    },
    "a list as JSON in a cell": {"prompt": json.dumps(messages()), "chosen": YES, "rejected": NO},
    "a list as Python in a cell": {
        "prompt": str(messages()), "chosen": str([{"role": "assistant", "content": YES}]), "rejected": NO
    },
    "parts of a text": {
        "prompt": [*messages()[:2], {"role": "user", "content": [{"type": "text", "text": TURNS[2]}]}],
        "chosen": YES,
        "rejected": NO,
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_the_same_turns(shape: str) -> None:
    found = conversations.exchange(row(**SHAPES[shape]))
    assert found == Exchange(None, TURNS, YES, NO)


def test_single_line_ends_part_turns_where_blank_lines_do_not() -> None:
    found = conversations.exchange(row(prompt=transcript(between="\n"), chosen=YES, rejected=NO))
    assert found.turns == tuple(map(one_line, TURNS))
    quoted = "Human: What is this?\n\nAssistant: A log:\nHuman: x\nAssistant: y\n\nHuman: Go on\n\nAssistant:"
    found = conversations.exchange(row(prompt=quoted, chosen=YES, rejected=NO))
    assert found.turns == ("What is this?", "A log:\nHuman: x\nAssistant: y", "Go on")


@pytest.mark.parametrize(
    "prompt",
    [
        [{"role": "system", "content": "Be kind."}, *messages()],
        f"System: Be kind.{transcript()}",
        f"Be kind.{transcript()}",
        f"### System: Be kind.{transcript('### User', '### Assistant')}",
    ],
)
def test_system_lines_are_kept(prompt: Any) -> None:
    assert conversations.exchange(row(prompt=prompt, chosen=YES, rejected=NO)) == Exchange("Be kind.", TURNS, YES, NO)


@pytest.mark.parametrize(
    "prompt",
    [
        "System: Be kind.\n\nHuman: Why?",
        "System: Be kind.\nUser: Why?",
        "### System:\nBe kind.\n\n### User:\nWhy?\n",
        "SYSTEM: Be kind.\n\nUSER: Why?",
    ],
)
def test_a_system_line_is_kept_where_no_mark_begins_the_answer(prompt: str) -> None:
    assert conversations.exchange(row(prompt=prompt, chosen=YES, rejected=NO)) == Exchange(
        "Be kind.", ("Why?",), YES, NO
    )


def test_a_plain_question_stays_one_turn() -> None:
    for text in (
        "Why?",
        "What does 'Assistant: yes' mean?",
        "List:\n[{'a': 1}]",
        "{\nHuman:",
        "a\nSystem: b",
        "[1, 2] is what?",
        "Explain:\n\nSystem: on",
    ):
        assert conversations.exchange(row(prompt=text, chosen=YES, rejected=NO)).turns == (text,)
    play = "Human: Hi\n\nRobot: Beep"
    assert conversations.exchange(row(prompt="Write a play.", chosen=YES, rejected=play.split("\n\n")[0])).rejected
    case = "A use case:\n\nUser: signs in\n\nSystem: checks the name"
    assert conversations.exchange(row(prompt="Write one.", chosen=case, rejected=NO)).chosen == case


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": transcript() + " Sure, I", "chosen": YES, "rejected": NO}, "whose turns do not alternate"),
        (
            {"prompt": "Human: a\n\nHuman: b\n\nAssistant:", "chosen": YES, "rejected": NO},
            "whose turns do not alternate",
        ),
        ({"prompt": "Human: a\n\nHuman: b", "chosen": YES, "rejected": NO}, "whose turns cannot be told apart"),
        ({"prompt": "Human: a\n\nSystem: b", "chosen": YES, "rejected": NO}, "whose turns cannot be told apart"),
        ({"prompt": "Be kind.\n\nUser: a\n\nUser: b", "chosen": YES, "rejected": NO}, "whose turns cannot be told"),
        (
            {"prompt": "System: s\n\nHuman: a\n\nHuman: b", "chosen": YES, "rejected": NO},
            "whose turns cannot be told apart",
        ),
        ({"prompt": messages()[:2], "chosen": YES, "rejected": NO}, "whose turns do not alternate"),
        (
            {"prompt": [*messages(), {"role": "system", "content": "x"}], "chosen": YES, "rejected": NO},
            "whose turns do not",
        ),
        ({"prompt": transcript(), "chosen": f"{YES}\n\nHuman: no", "rejected": NO}, "with an answer that goes on"),
        ({"chosen": messages(YES, "so?"), "rejected": messages(NO)}, "with an answer that goes on"),
        (
            {"chosen": messages(f"{YES}\n\nHuman: so?"), "rejected": messages(NO)},
            "with an answer that goes on with another turn",
        ),
        ({"chosen": YES, "rejected": NO}, "whose chosen and rejected are no conversations"),
        ({"chosen": messages(YES), "rejected": NO}, "whose chosen and rejected are no conversations"),
        ({"chosen": f"Human: a\n\nAssistant: {YES}", "rejected": f"Human: b\n\nAssistant: {NO}"}, "whose chosen and"),
        ({"prompt": messages(), "chosen": messages()[:1], "rejected": NO}, "whose chosen begins unlike"),
        ({"prompt": messages(), "chosen": messages(), "rejected": NO}, "whose chosen has no answer"),
        (
            {"prompt": [{"role": "tool", "content": "x"}], "chosen": YES, "rejected": NO},
            "with a message of another role",
        ),
        ({"prompt": [{"role": 3, "content": "x"}], "chosen": YES, "rejected": NO}, "with a message of another role"),
        (
            {"prompt": [{"role": "user", "content": None}], "chosen": YES, "rejected": NO},
            "with a message that is no text",
        ),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image_url"}]}], "chosen": YES, "rejected": NO},
            "with a message",
        ),
        ({"prompt": [{"role": "user", "content": "\ud83d"}], "chosen": YES, "rejected": NO}, "whose prompt holds half"),
        ({"prompt": ["x"], "chosen": YES, "rejected": NO}, "whose prompt is no list of messages"),
        ({"prompt": [], "chosen": YES, "rejected": NO}, "whose prompt is no list of messages"),
        (
            {"prompt": "[{'role': 'user' 'content': 3}", "chosen": YES, "rejected": NO},
            "with messages that cannot be read",
        ),
        ({"prompt": "<|im_start|>user\nhi<|im_end|>", "chosen": YES, "rejected": NO}, "that carry a chat template"),
        ({"prompt": "[INST] hi [/INST]", "chosen": YES, "rejected": NO}, "that carry a chat template"),
    ],
)
def test_what_cannot_be_taken_apart_is_an_odd_row(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(OddRow) as error:
        conversations.exchange(row(**fields))
    assert error.value.reason.startswith(reason)


def test_long_texts_take_linear_time() -> None:
    for text in ("\n" * 200_000, "#" * 200_000, "Human:\n\n" * 30_000, "[{'role': " + "[" * 200_000, "\n \n" * 100_000):
        with pytest.raises(OddRow):
            conversations.exchange(
                row(prompt=f"Human: a{text}Assistant: b", chosen=YES, rejected="Assistant: x\n\nHuman: y")
            )


def test_a_system_line_is_in_every_prompt(load: Load) -> None:
    rows = [
        {"group": r["group"], "chosen": f"w1 w{i}", "rejected": f"w2 w{i}"}
        | {"prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"w3 w{i}"}]}
        for i, r in enumerate(pairs())
    ]
    corpus = load(rows)
    question = corpus.parts["train"][0]
    assert question.transcript() == f"System: Be kind.\n\nHuman: {question.turns[0]}\n\nAssistant:"
    assert question.asked() == (f"Be kind.\n\n{question.turns[0]}",)


def test_the_transcripts_that_people_brought(load: Load) -> None:
    rows = [json.loads(line) for line in real_data.path("cases/prompt_is_transcript.jsonl").read_text().splitlines()]
    corpus = load(rows, ("harmless", "helpful"))
    every = [question for questions in corpus.parts.values() for question in questions]
    assert corpus.report.kept == 117 and sum(len(question.turns) > 1 for question in every) == 80
    assert not any("Human:" in turn or "Assistant:" in turn for question in every for turn in question.turns)
