"""The chat template of a model. It is applied once and in one place: where a task writes the prompt of a query.

Training, generation and scoring all use :attr:`scpl_ray.records.Query.prompt`. They add only the special tokens of
:func:`scpl_ray.models.tokens.encode_prompt` or, for reward models and judges, those of the tokenizer's pairs
(:meth:`scpl_ray.training.classifiers.SequenceModel.encode_pairs`), and neither repeats before the prompt what the
template has written there.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scpl_ray.models import template_process

if TYPE_CHECKING:  # tasks use this module and are imported long before any model is
    from transformers import PreTrainedTokenizerBase

_USER = "USER\u241fTEXT"
"""Placeholder for the user's text while a template is rendered; no template contains the unit-separator symbol."""
_ANSWER, _NEXT = "ANSWER\u241fTEXT", "NEXT\u241fTEXT"
"""Placeholders for an earlier answer and for the user's reply to it."""
_WALL_SECONDS = 60.0
"""Longest wait for a rendered template; its processor time is limited more strictly, however busy the machine is."""
_DATE = "01 Jan 2026"
"""Fixed date for templates that write today's date, because prompts must not depend on the day."""


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """The text before and after a user's text; both are empty for a model without a chat template."""

    before: str
    after: str
    answered: str | None = None
    """The text between a user's text and an earlier answer; ``None`` if the template cannot write earlier answers."""
    asked_again: str | None = None
    """The text between an earlier answer and the user's next text."""

    @property
    def is_chat(self) -> bool:
        """Whether the model is a chat model."""
        return bool(self.before or self.after)

    def apply(self, user_text: str, answer_start: str = "") -> str:
        """The text that is sent to the model.

        Args:
            user_text: what the user says, without any template.
            answer_start: words that the model's answer is to continue.

        Raises:
            ValueError: the text already contains the template.
        """
        return f"{self.before}{self._bare(user_text)}{self.after}{answer_start}"

    def conversation(self, turns: Sequence[str]) -> str:
        """The text that is sent to the model for a conversation with earlier turns.

        Args:
            turns: texts of user, assistant, user, ..., user, without any template.

        Raises:
            ValueError: a text already contains the template, or the template cannot write earlier answers.
        """
        if len(turns) == 1:
            return self.apply(turns[0])
        if self.answered is None or self.asked_again is None:
            raise ValueError(
                "model.name: its chat template does not write earlier turns as they are; choose another model, or give "
                "data whose prompts have one turn"
            )
        text = self.before
        for i, turn in enumerate(turns[:-1]):
            text += self._bare(turn) + (self.asked_again if i % 2 else self.answered)
        return f"{text}{self._bare(turns[-1])}{self.after}"

    def _bare(self, text: str) -> str:
        for mark in (self.before, self.after):
            if mark.strip() and mark.strip() in text:
                raise ValueError(
                    f"prompt {text[:120]!r} already carries the chat template ({mark[:60]!r}); templates are "
                    "applied once, by the task: give it the user's bare text"
                )
        return text.strip()


PLAIN = Template("", "")
"""The template of models without a chat template."""


def template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template of a tokenizer: one user message, then the start of the assistant's answer.

    It contains a system message only if the template writes one by itself.

    Raises:
        ValueError: the template cannot be rendered within its limits, or does not write the user's text exactly once
            and unchanged.
    """
    if not tokenizer.chat_template:
        return PLAIN
    values = {**tokenizer.special_tokens_map, "date_string": _DATE, "enable_thinking": False}
    (rendered, fault), (conversation, _) = _rendered(
        str(tokenizer.get_chat_template()),
        json.dumps(values, default=str),
        ((_USER,), (_USER, _ANSWER, _NEXT)),
    )
    if rendered is None:
        raise ValueError(_refused(tokenizer, f"cannot be rendered: {fault}"))
    before, found, after = rendered.partition(_USER)
    if not found or _USER in after:
        times = f"writes a user's text {rendered.count(_USER)} times; it must write it once"
        raise ValueError(_refused(tokenizer, times))
    start, _, rest = (conversation or "").partition(_USER)
    answered, _, rest = rest.partition(_ANSWER)
    asked_again, _, end = rest.partition(_NEXT)
    return Template(before, after, *((answered, asked_again) if (start, end) == (before, after) else (None, None)))


def _refused(tokenizer: PreTrainedTokenizerBase, what: str) -> str:
    return (
        f"model.name: the chat template of {tokenizer.name_or_path} {what}, so choose another model or correct its "
        "chat_template"
    )


@functools.lru_cache
def _rendered(
    template: str, values: str, conversations: tuple[tuple[str, ...], ...]
) -> list[tuple[str | None, str | None]]:
    """The text of each conversation or what is wrong with it, from a process with limited time and memory."""
    messages = [
        [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        for turns in conversations
    ]
    asked = {"path": sys.path, "template": template, "values": json.loads(values), "conversations": messages}
    limits = f"{template_process.CPU_SECONDS} s or {template_process.MEMORY_BYTES >> 20} MiB"
    fault = f"it takes more than {limits}"
    try:
        done = subprocess.run(
            [sys.executable, "-I", template_process.__file__],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [(None, fault)] * len(conversations)
    if done.returncode == 0:
        return [(text, fault) for text, fault in json.loads(done.stdout)]
    if done.returncode > 0:  # below 0, a signal ended it: the limits of the system send one
        said = done.stderr.decode(errors="replace").strip().splitlines()
        fault = f"its process failed: {said[-1][:200] if said else f'exit code {done.returncode}'}"
    return [(None, fault)] * len(conversations)
