"""Kinds of values that the keys of a config take, and the rules that all its sections share."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _tuple(value: Any) -> Any:
    """YAML has lists; the frozen config holds tuples."""
    return tuple(value) if isinstance(value, list) else value


Floats = Annotated[tuple[float, ...], BeforeValidator(_tuple)]
Names = Annotated[tuple[str, ...], BeforeValidator(_tuple)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
Asked = Annotated[int, Field(ge=1, le=10**9)]
"""A number of prompts, or of answers to each."""
Auto = Literal["auto"]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """Common rules: unknown keys are errors, nothing is coerced, nothing changes after loading, no NaN."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


JOINERS = "\u200c\u200d"
"""Characters inside words of Persian, Hindi and other languages that join letters, or keep them apart."""


NAME_BYTES = 200
"""Longest name of a folder: a file system takes 255 bytes, of which a time and a number are added to some."""
NAME_RULE = f"letters, digits, . _ - only, at most {NAME_BYTES} bytes"


def names_folder(text: str) -> bool:
    """Whether a name can name a folder: letters of any language with their marks, digits, and ``. _ -`` after those."""
    return (
        len(text.encode(errors="replace")) <= NAME_BYTES
        and text[:1].replace("_", "x").isalnum()
        and all(char in f"._-{JOINERS}" or unicodedata.category(char)[0] in "LMN" for char in text)
    )
