"""Functions shared by tasks on people's texts: the length of answers, how they are cut, and measures of their form."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import statistics
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from scpl_ray.config import Experiment
from scpl_ray.models.template import Template
from scpl_ray.tasks.tally import DataError, OddRow, Tally

WORDS_PER_TOKEN = 0.75
"""Average number of English words per token of a subword vocabulary."""
SHORTEST_ANSWER_WORDS = 8
ENDS = (".", "!", "?", "”", '"')
"""Characters with which a finished text ends."""
_SENTENCE_ENDS = (".", "!", "?", '."', ".”", "?”", "!”", '?"', '!"')
_WORD = re.compile(r"\S+")
_QUOTES = str.maketrans("\u2019\u2018\u201c\u201d", "''\"\"")
_BEFORE_PUNCTUATION = re.compile(r"\s+(?=[.,;:?!])")
_BETWEEN_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NO_BLANK_OF_NUMBERS = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
"""Blanks but for one between two digits, as in 1 2/3."""


class Located(Protocol):
    """Something that came from a row."""

    @property
    def where(self) -> str:
        """File and line."""
        ...


Found = TypeVar("Found", bound=Located)


def answer_words(experiment: Experiment) -> int:
    """Number of words of an answer: as many as ``generation.max_new_tokens`` tokens give, at least 8."""
    return max(SHORTEST_ANSWER_WORDS, round(WORDS_PER_TOKEN * experiment.generation.max_new_tokens))


def tokens(words: int) -> int:
    """About as many tokens of a subword vocabulary as so many words have."""
    return round(words / WORDS_PER_TOKEN)


def judge_tokens(experiment: Experiment) -> int:
    """Number of tokens that a fine-tuned judge or reward model reads, if its base can read so many.

    Answers that exceed three quarters of them are cut. By default an answer takes about half, and the prompt the rest.
    """
    given = experiment.task.judge_tokens
    return 2 * experiment.generation.max_new_tokens + 32 if given is None else given


def first_words(text: str, words: int) -> str:
    """The first words of a text, cut back to the last sentence end in their second half, if there is one."""
    found = list(itertools.islice(_WORD.finditer(text), words))
    if len(found) < words:
        return text.strip()
    ends = [i for i, word in enumerate(found) if word.group().endswith(_SENTENCE_ENDS) and i + 1 >= words / 2]
    return text[found[0].start() : found[ends[-1] if ends else -1].end()]


def readable(text: str) -> bool:
    """Whether a text contains a letter or a digit."""
    return any(char.isalnum() for char in text)


def digest(text: str) -> str:
    """The SHA-256 of a text's words, in hexadecimal."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def alike(text: str) -> str:
    """What spellings of one text have in common: collections take over those of others, and split words into tokens.

    They may differ in case, quotes, blanks, encoding, and commas in numbers.
    """
    composed = " ".join(unicodedata.normalize("NFC", plain(text)).split())
    return _NO_BLANK_OF_NUMBERS.sub("", _BETWEEN_THOUSANDS.sub("", composed))


def plain(text: str) -> str:
    """A text whatever its case, quotes, and blanks before punctuation."""
    return _BEFORE_PUNCTUATION.sub("", text.casefold().translate(_QUOTES))


def digest_of(records: Iterable[Any]) -> str:
    """The SHA-256 of frozen records in any order, in hexadecimal."""
    lines = sorted(json.dumps(dataclasses.astuple(record), ensure_ascii=False) for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def repetition_free(words: Sequence[str]) -> float:
    """Fraction of distinct pairs among all pairs of neighbouring words; 0 for a text without words."""
    pairs = list(itertools.pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else float(bool(words))


def form_terms(words: Sequence[str], wanted_words: int) -> dict[str, float]:
    """``repetition_free``, and ``length``: 1 from half of the wanted words on, proportionally less below."""
    return {
        "repetition_free": repetition_free(words),
        "length": min(1.0, 2 * len(words) / wanted_words),
    }


def finished(text: str) -> float:
    """1 if a text ends like a sentence, else 0."""
    return float(text.rstrip().endswith(ENDS))


@dataclasses.dataclass(frozen=True)
class ModelSide:
    """The properties that a task needs of the model that will answer."""

    template: Template
    tokens_of: Callable[[str], int]
    """Gives the number of the model's tokens in a prompt."""
    made: Path | None
    """Folder of the tokenizer if it was made from the task's own text; see :attr:`~scpl_ray.protocols.Task`."""


def model_side(experiment: Experiment, texts: Iterable[str]) -> ModelSide:
    """The model's template and tokenizer.

    Args:
        experiment: the section ``model`` is used.
        texts: the task's training text, from which a tiny model's tokenizer is made; other models ignore it.

    Raises:
        ValueError: see :func:`scpl_ray.models.sources.resolve_tokenizer`.
    """
    from scpl_ray.models.sources import resolve_tokenizer
    from scpl_ray.models.template import template_of
    from scpl_ray.models.tokens import encode_prompt, load_tokenizer

    folder = resolve_tokenizer(experiment, texts)
    tokenizer = load_tokenizer(folder, trust_remote_code=experiment.model.trust_remote_code)
    longest = 2**20
    return ModelSide(
        template_of(tokenizer),
        lambda prompt: len(encode_prompt(tokenizer, prompt, longest)),
        folder if experiment.model.built_here else None,
    )


def prompt_lengths(
    found: Iterable[Found], prompt_of: Callable[[Found], str], side: ModelSide, tally: Tally
) -> dict[Found, int]:
    """The number of tokens of every prompt; what the model's template refuses to write is an odd row.

    Raises:
        DataError: those are more than ``task.max_dropped`` allows.
    """
    lengths = {}
    for one in found:
        try:
            lengths[one] = side.tokens_of(prompt_of(one))
        except ValueError as error:
            tally.odd(one.where, OddRow("that the model's chat template refuses", str(error)))
    tally.check()
    return lengths


def fitting(lengths: Sequence[int]) -> str:
    """What a limit must be, said by median and nine tenths rather than by the longest of all.

    Raises:
        DataError: no prompt has a length.
    """
    if not lengths:
        raise DataError(
            "the model's chat template refuses every prompt of a group; choose another model, or other rows"
        )
    ordered = sorted(lengths)
    most = ordered[min(len(ordered) - 1, len(ordered) * 9 // 10)]
    return f"{statistics.median_high(ordered)} to use half of them, {most} for nine in ten"
