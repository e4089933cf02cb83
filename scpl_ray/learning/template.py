"""The chat template of a model, applied once, in one place: where a task writes a query's prompt.

Training, generation and scoring all take :attr:`scpl_ray.records.Query.prompt` as it is and add nothing to it but the
special tokens of :func:`scpl_ray.learning.tokens.encode_prompt`, which adds no second beginning-of-sequence token.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tasks apply templates, and tasks are imported long before a model is
    from transformers import PreTrainedTokenizerBase

_USER = "USER\u241fTEXT"
"""Stands for the user's text while a template is rendered; the symbol for a unit separator is in no template."""
_DATE = "01 Jan 2026"
"""Some templates write today's date; prompts must not depend on the day."""


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """What stands before and after a user's text; both empty for a model without a chat template."""

    before: str
    after: str

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
        for mark in (self.before, self.after):
            if mark.strip() and mark.strip() in user_text:
                raise ValueError(
                    f"prompt {user_text[:120]!r} already carries the chat template ({mark[:60]!r}); templates are "
                    "applied once, by the task: give it the user's bare text"
                )
        return f"{self.before}{user_text.strip()}{self.after}{answer_start}"


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
    rendered = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": _USER}],
            tokenize=False,
            add_generation_prompt=True,
            date_string=_DATE,
            enable_thinking=False,
        )
    )
    before, found, after = rendered.partition(_USER)
    if not found or _USER in after:
        raise ValueError(
            f"model.name: the chat template of {tokenizer.name_or_path} writes a user's text {rendered.count(_USER)} "
            "times; it must write it once, so choose another model or correct its chat_template"
        )
    return Template(before, after)
