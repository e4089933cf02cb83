"""Formatting numbers and untrusted text for readers."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from pathlib import PurePath

from scpl_ray.evaluation import catalogue

CUT = 600
"""Largest number of characters that are shown of a text."""
CUT_NAME = 28
"""Largest number of characters of a name below an axis."""
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
ROUNDING = 1e-8
"""Smaller differences between numbers around 1 are rounding errors, also of interval ends that are searched for."""
NOTHING = "\N{EN DASH}"
"""Shown in place of a number that does not exist."""


def visible(text: str) -> str:
    """Replace active characters of a text: controls, direction overrides and lone surrogates are spelled out.

    Tabs and line breaks are kept and marked. Letters of any script stay as they are.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def copyable(text: str) -> str:
    """As :func:`visible`, with line breaks left as they are, so that the text can be copied and used."""
    return "\n".join(map(visible, text.split("\n")))


def _shown(character: str) -> str:
    if character == "\n":
        return "↵\n"
    if character == "\t":
        return "⇥\t"
    category = unicodedata.category(character)
    # Cf: invisible format characters, including the direction overrides; joiners are part of words
    if category in ("Cc", "Cs", "Co") or (category == "Cf" and character not in "\u200c\u200d"):
        return f"⟨U+{ord(character):04X}⟩"
    return character


def cut(text: str) -> str:
    """The beginning of a long text, followed by a note that it was cut."""
    return text if len(text) <= CUT else f"{text[:CUT]} … [{len(text) - CUT} more characters]"


def number(value: float | None, *, signed: bool = False) -> str:
    """A number with three decimals, or three significant digits where it is small; rounding errors become 0."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    size = abs(value)
    if size < ROUNDING:
        value, form = 0.0, ".3f"
    elif size < 0.001 or size >= 1e9:
        form = ".3g"
    else:
        form = ".3f" if size < 1000 else ",.0f"
    return f"{value:{'+' if signed else ''}{form}}".replace("-", MINUS)


def signed(value: float | None) -> str:
    """As :func:`number`, but with the sign."""
    return number(value, signed=True)


def interval(low: float, high: float, *, signed: bool = False) -> str:
    """An interval as ``low to high``."""
    return f"{number(low, signed=signed)} to {number(high, signed=signed)}"


def p_value(value: float) -> str:
    """A p-value, which is never shown as 0."""
    return NOTHING if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A fraction as whole percent."""
    return NOTHING if value is None or math.isnan(value) else f"{value:.0%}"


def config_value(value: object) -> str:
    """A value as it is written in a config."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def metric_name(metric: str, group: str | None = None) -> str:
    """A metric in words."""
    words = catalogue.words(metric)
    return words if group is None else f"{words}, {group}"


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """As many last parts of each path as tell them apart.

    >>> short_names(["runs/a/rounds/001/weights/adapter", "runs/a/rounds/002/weights/adapter", "models/base/"])
    ('001/weights/adapter', '002/weights/adapter', 'base')
    """
    parts = [PurePath(path).parts or (path,) for path in paths]
    taken = [1] * len(parts)
    while True:
        names = ["/".join(own[-count:]) for own, count in zip(parts, taken, strict=True)]
        longer = [
            count + (names.count(name) > 1 and count < len(own))
            for name, count, own in zip(names, taken, parts, strict=True)
        ]
        if longer == taken:
            return tuple(names)
        taken = longer


def cut_name(name: str) -> str:
    """The end of a long name, in which names of one folder differ."""
    return name if len(name) <= CUT_NAME else f"…{name[1 - CUT_NAME :]}"


def base_name(value: str) -> str:
    """The last part of an absolute path, whose folders say nothing to others; any other text as it is."""
    return PurePath(value).name if PurePath(value).is_absolute() else value
