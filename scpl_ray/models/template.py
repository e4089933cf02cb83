"""The chat template of a model, applied once, in one place: where a task writes a query's prompt.

Training, generation and scoring all take :attr:`scpl_ray.records.Query.prompt` as it is and add nothing to it but the
special tokens of :func:`scpl_ray.models.tokens.encode_prompt`, which adds no second beginning-of-sequence token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tasks apply templates, and tasks are imported long before a model is
    from transformers import PreTrainedTokenizerBase

_USER = "USER\u241fTEXT"
"""Stands for the user's text while a template is rendered; the symbol for a unit separator is in no template."""
_ANSWER, _NEXT = "ANSWER\u241fTEXT", "NEXT\u241fTEXT"
"""Stand for an earlier answer and for what the user says to it."""
_DATE = "01 Jan 2026"
"""Some templates write today's date; prompts must not depend on the day."""


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """What stands before and after a user's text; both empty for a model without a chat template."""

    before: str
    after: str
    answered: str | None = None
    """What stands between a user's text and an earlier answer; ``None``: there is no such place."""
    asked_again: str | None = None
    """What stands between an earlier answer and the next text of the user."""

    @property
    def is_chat(self) -> bool:
        """Whether the model is a chat model."""
        return bool(self.before or self.after)

    def apply(self, user_text: str, answer_start: str = "") -> str:
        """The text that is sent to the model.

        Args:
            user_text: what the user says, without any template.
            answer_start: words that the model's answer is to go on from.

        Raises:
            ValueError: the text already carries the template.
        """
        return f"{self.before}{self._bare(user_text)}{self.after}{answer_start}"

    def conversation(self, turns: Sequence[str]) -> str:
        """The text that is sent to the model in the course of a conversation.

        Args:
            turns: user, assistant, user, ..., user, without any template.

        Raises:
            ValueError: a text already carries the template, or the template has no place for earlier answers.
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
"""No chat template."""


def template_of(tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template of a tokenizer: one user message, then the start of the assistant's answer.

    A system message stands there only if the template writes one by itself.

    Raises:
        ValueError: the template does not write a user's text exactly once and as it is.
    """
    if not tokenizer.chat_template:
        return PLAIN
    rendered = _render(tokenizer, _USER)
    before, found, after = rendered.partition(_USER)
    if not found or _USER in after:
        raise ValueError(
            f"model.name: the chat template of {tokenizer.name_or_path} writes a user's text {rendered.count(_USER)} "
            "times; it must write it once, so choose another model or correct its chat_template"
        )
    start, _, rest = _render(tokenizer, _USER, _ANSWER, _NEXT).partition(_USER)
    answered, _, rest = rest.partition(_ANSWER)
    asked_again, _, end = rest.partition(_NEXT)
    return Template(before, after, *((answered, asked_again) if (start, end) == (before, after) else (None, None)))


def _render(tokenizer: PreTrainedTokenizerBase, *turns: str) -> str:
    return str(
        tokenizer.apply_chat_template(
            [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)],
            tokenize=False,
            add_generation_prompt=True,
            date_string=_DATE,
            enable_thinking=False,
        )
    )
