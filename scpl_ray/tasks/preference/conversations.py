"""Conversations as data sets publish them, turn by turn: lists of messages, transcripts, and plain questions.

- *messages*: ``[{"role": "user", "content": "..."}, ...]`` (or ``from`` and ``value``), also written in a CSV cell.
- *transcripts*: ``Human: ...``, a blank line, ``Assistant: ...`` (Bai et al. 2022, arXiv 2204.05862), also with
  ``User:``, with ``###`` before the name, with single line ends, and with a preamble, which is a system line.

A conversation is never put into another one's turn: what cannot be taken apart is an odd row.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from scpl_ray.tasks.rows import OddRow, Row, check_whole

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {
    **{"system": SYSTEM, "developer": SYSTEM},
    **{"user": USER, "human": USER, "prompter": USER},
    **{"assistant": ASSISTANT, "gpt": ASSISTANT, "model": ASSISTANT},
}
"""What data sets call the speakers, in lower case."""
_NAMES = {name: ROLES[name.lower()] for name in ("System", "Human", "User", "Prompter", "Assistant")}
_BEGIN = re.compile(rf"(?:#+ ?)?({'|'.join(_NAMES)}|{'|'.join(map(str.upper, _NAMES))}) ?:")
_GOES_ON = re.compile(r"\n\n(Human|Assistant):")
_FOREIGN = re.compile(
    r"<\|(?:im_start|im_end|user|assistant|system|prompter|start_header_id|eot_id)\|>|\[/?INST\]|<start_of_turn>"
)
"""Marks of chat templates; a text that holds one was already written for some model."""
Mark = tuple[int, re.Match[str]]
"""The number of a line, and the speaker's name with which it begins."""


@dataclasses.dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says at a time."""

    role: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange:
    """A conversation up to a user's last turn, and two answers to it."""

    system: str | None
    turns: tuple[str, ...]
    """Texts of user, assistant, user, ..., user."""
    chosen: str
    rejected: str


def exchange(row: Row) -> Exchange:
    """The conversation of a row of pairs, whose prompt is a column of its own or how both answers begin.

    Raises:
        OddRow: there is no conversation, or it cannot be taken apart.
    """
    prompt = asked(row, "prompt") or asked(row, "messages")
    if prompt:
        answers = [answer(row, field, prompt) for field in ("chosen", "rejected")]
        return Exchange(*checked(prompt), *answers)
    chosen, rejected = spoken(row, "chosen"), spoken(row, "rejected")
    if not chosen or not rejected or chosen[0].role == ASSISTANT or rejected[0].role == ASSISTANT:
        raise OddRow(
            "whose chosen and rejected are no conversations",
            "chosen and rejected are no transcripts of one conversation ('Human: ...', a blank line, 'Assistant: "
            "...') and no lists of messages; correct them, or give the question in a column: task.fields={prompt: "
            "COLUMN}",
        )
    alike = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if not _same(a, b)), None)
    last = min(len(chosen), len(rejected)) - 1 if alike is None else alike
    while last > 0 and not (chosen[last].role == rejected[last].role == ASSISTANT):
        last -= 1
    if last == 0:
        raise OddRow(
            "whose chosen and rejected are no conversations",
            "chosen and rejected are no transcripts of one conversation: they differ before the first answer; give "
            "both the same question",
        )
    return Exchange(*checked(chosen[:last]), _single(chosen[last:], "chosen"), _single(rejected[last:], "rejected"))


def asked(row: Row, field: str) -> list[Turn]:
    """What a field asks: its turns, or one turn of the user; empty where the row has none."""
    turns = spoken(row, field)
    if turns is None:
        text = row.values.get(field)
        if text is not None and len(_paragraphs(*_marked(text))) > 1:
            raise _untold(text)
        return [Turn(USER, text)] if text is not None else []
    while turns and turns[-1].role == ASSISTANT and not turns[-1].text:
        turns.pop()  # "Assistant:" at the end of a prompt is where the answer begins
    return turns


def answer(row: Row, field: str, prompt: Sequence[Turn]) -> str:
    """The answer in a field, which may repeat the prompt before it, or name its speaker.

    Raises:
        OddRow: it is a conversation that begins unlike the prompt or goes on after the answer.
    """
    turns = spoken(row, field)
    if turns is None:
        return _ended(row[field], field)
    if turns and turns[0].role == ASSISTANT:
        return _single(turns, field)
    before = [turn for turn in prompt if turn.role != SYSTEM]
    said = [turn for turn in turns if turn.role != SYSTEM]
    if len(said) >= len(before) and all(map(_same, before, said)):
        return _single(said[len(before) :], field)
    if field not in row.messages:
        return _ended(row[field], field)  # an answer may well be a dialogue
    raise OddRow(
        f"whose {field} begins unlike the prompt",
        f"{field} is a conversation that begins unlike the prompt; give the answer alone, or leave the prompt out",
    )


def checked(turns: Sequence[Turn]) -> tuple[str | None, tuple[str, ...]]:
    """The system line and the texts of a conversation's turns, which must alternate and end with the user's.

    Raises:
        OddRow: they do not, or one is empty.
    """
    system = turns[0].text if turns and turns[0].role == SYSTEM else None
    texts = turns[1:] if system is not None else turns
    in_turn = all(turn.role == (USER, ASSISTANT)[i % 2] and turn.text for i, turn in enumerate(texts))
    if not in_turn or len(texts) % 2 == 0:
        raise OddRow(
            "whose turns do not alternate between user and assistant",
            f"the turns before the answers are {', '.join(turn.role if turn.text else 'nothing' for turn in turns)}; "
            "give user, assistant, ..., user, with one system line before them at most",
        )
    return system or None, tuple(turn.text for turn in texts)


def spoken(row: Row, field: str) -> list[Turn] | None:
    """The turns of a field that holds a conversation; ``None`` for a plain text or nothing.

    Raises:
        OddRow: messages that are none, or marks of a chat template.
    """
    if field in row.messages:
        return _of_messages(field, row.messages[field])
    text = row.values.get(field)
    if text is None:
        return None
    if text.startswith("[") and (found := _list_in(text)) is not None:
        return _of_messages(field, found)
    _check_bare(field, text)
    return _of_transcript(text)


def _single(turns: Sequence[Turn], field: str) -> str:
    if len(turns) != 1 or turns[0].role != ASSISTANT:
        if turns and turns[0].role == ASSISTANT:
            raise _going_on(field, turns[1].role)
        raise OddRow(
            f"whose {field} has no answer", f"{field} has no turn of the assistant after the prompt; give the answer"
        )
    return _ended(turns[0].text, field)


def _ended(text: str, field: str) -> str:
    """An answer, in which no other turn begins."""
    if found := _GOES_ON.search(text):
        raise _going_on(field, ROLES[found.group(1).lower()])
    return text


def _going_on(field: str, role: str) -> OddRow:
    return OddRow(
        "with an answer that goes on with another turn", f"{field} goes on after the answer with {role}; cut it there"
    )


def _same(one: Turn, other: Turn) -> bool:
    return one.role == other.role and one.text.split() == other.text.split()


def _of_messages(field: str, messages: Sequence[Any]) -> list[Turn]:
    turns = []
    for message in messages:
        if not isinstance(message, dict):
            raise _no_messages(field, f"one is a {type(message).__name__}")
        named = message.get("role", message.get("from"))
        role = ROLES.get(named.lower()) if isinstance(named, str) else None
        if role is None:
            raise OddRow(
                "with a message of another role", f"{field} has a message of {named!r}; roles are {', '.join(ROLES)}"
            )
        content = message.get("content", message.get("value"))
        if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            raise OddRow(
                "with a message that is no text", f"{field} has a message whose content is no text; give texts"
            )
        check_whole(field, content)
        _check_bare(field, content)
        turns.append(Turn(role, content.strip()))
    if not turns:
        raise _no_messages(field, "the list is empty")
    return turns


def _no_messages(field: str, why: str) -> OddRow:
    return OddRow(
        f"whose {field} is no list of messages",
        f'{field} is no list of messages: {why}; give [{{"role": "user", "content": "..."}}, ...]',
    )


def _check_bare(field: str, text: str) -> None:
    if found := _FOREIGN.search(text):
        raise OddRow(
            "that carry a chat template",
            f"{field} carries the mark {found.group()} of a chat template; give bare texts",
        )


def _list_in(text: str) -> list[Any] | None:
    """The list of messages that a text writes out in JSON or Python; ``None``: it is another text.

    Raises:
        OddRow: it begins like one and cannot be read.
    """
    if not re.match(r"\[\s*\{\s*['\"](role|content|from|value)['\"]\s*:", text):
        return None
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for read in readers:
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list):
            return found
    raise OddRow(
        "with messages that cannot be read", "a list of messages is written as text that is no JSON; write JSON"
    )


def _of_transcript(text: str) -> list[Turn] | None:
    """The turns of a transcript; ``None``: the text is none.

    Turns begin after a blank line; only where that finds no answer, after any line end. Speakers keep the names that
    they have at first, so a line "User: ..." inside a turn of "Human" is part of it.

    Raises:
        OddRow: several speakers begin paragraphs, of which none is an answer or only the first a system line.
    """
    lines, marks = _marked(text)
    if not marks:
        return None
    for used in (_paragraphs(lines, marks), marks):
        turns = _parted(lines, used)
        roles = [turn.role for turn in turns]
        if ASSISTANT in roles or roles == [SYSTEM, USER]:
            return turns
    (first, begin) = marks[0]
    if first == 0 and len(_paragraphs(lines, marks)) > 1:
        raise _untold(text)
    return [Turn(USER, text[begin.end() :].strip())] if first == 0 and _role(begin) == USER else None


def _marked(text: str) -> tuple[list[str], list[Mark]]:
    """The lines of a text, and where speakers are named at their beginning."""
    lines = text.split("\n")
    return lines, [(i, found) for i, line in enumerate(lines) if (found := _BEGIN.match(line.lstrip()))]


def _paragraphs(lines: list[str], marks: list[Mark]) -> list[Mark]:
    """The marks that begin a paragraph."""
    return [mark for mark in marks if _begins(lines, mark[0])]


def _untold(text: str) -> OddRow:
    return OddRow(
        "whose turns cannot be told apart",
        f"{text[:40]!r} ... names several speakers and no answer between them; give user, assistant, ..., user, with "
        "one system line before them at most",
    )


def _parted(lines: list[str], marks: list[Mark]) -> list[Turn]:
    """The turns between marks of speakers; none where text before the first mark is no preamble of a prompt."""
    preamble = "\n".join(lines[: marks[0][0]]).strip() if marks else ""
    if preamble and (_role(marks[0][1]) != USER or _role(marks[-1][1]) != ASSISTANT or _said(lines, marks[-1], None)):
        return []
    user = next((found.group(1) for _, found in marks if _role(found) == USER), None)
    used = [
        (i, found)
        for i, found in marks
        if _role(found) == ASSISTANT or found.group(1) == user or (i == 0 and _role(found) == SYSTEM)
    ]
    if not used:
        return []
    turns = [Turn(SYSTEM, preamble)] if preamble else []
    ends = [i for i, _ in used[1:]]
    return turns + [
        Turn(_role(mark[1]), _said(lines, mark, end)) for mark, end in zip(used, [*ends, None], strict=True)
    ]


def _said(lines: list[str], mark: Mark, end: int | None) -> str:
    """What is said from a mark on, up to the line ``end``."""
    first, found = mark
    return "\n".join([found.string[found.end() :], *lines[first + 1 : end]]).strip()


def _begins(lines: list[str], index: int) -> bool:
    return index == 0 or (not lines[index - 1] and not lines[index][0].isspace())


def _role(found: re.Match[str]) -> str:
    return ROLES[found.group(1).lower()]
