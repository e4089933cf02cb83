"""Credentials: configs that contain them are refused, and they are masked in all text written for people.

A credential belongs in the environment of the processes that need it (``HF_TOKEN``, ``WANDB_API_KEY``, ...).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

MASK = "***"
TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|sk-(?=[A-Za-z0-9_-]*[0-9])[A-Za-z0-9_-]{20,}"  # OpenAI and others
    r"|gh[oprsu]_[A-Za-z0-9]{36,}"  # GitHub
    r"|(?:AKIA|ASIA)[A-Z0-9]{16})\b"  # AWS
)
BEARER = re.compile(r"\b([Bb]earer\s+)(?=\S*[0-9])[A-Za-z0-9._~+/=-]{12,}")
USER_INFO = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+@")
PARAMETER = re.compile(
    r"([?&][A-Za-z0-9_.-]*(?:token|key|secret|password|signature|credential|sig)=)[^&\s#'\"]+", re.IGNORECASE
)
NAMES = re.compile(r"(?:^|_)(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
"""Environment variables that hold a credential."""
SHORTEST = 8
"""Values of variables with fewer characters than this are not masked: they could also occur in ordinary text."""


def held_by(environment: Mapping[str, str]) -> list[str]:
    """Values of the environment variables whose names look like those of credentials, the longest first."""
    values = {v for name, v in environment.items() if NAMES.search(name) and len(v) >= SHORTEST and v.isprintable()}
    return sorted(values, key=len, reverse=True)


def mask(text: str, known: Iterable[str] = ()) -> str:
    """The text with ``***`` in place of the ``known`` credentials and of everything that looks like a credential."""
    for value in known:
        text = text.replace(value, MASK)
    text = USER_INFO.sub(rf"\g<1>{MASK}@", PARAMETER.sub(rf"\g<1>{MASK}", text))
    return TOKENS.sub(MASK, BEARER.sub(rf"\g<1>{MASK}", text))


def masked(text: object) -> str:
    """Apply :func:`mask` with the credentials in this process's environment."""
    return mask(str(text), held_by(os.environ))


class MaskedLog(io.TextIOWrapper):
    """A text file to which lines are appended with their credentials masked."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.open("ab"), encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._known = held_by(os.environ)

    def write(self, text: str) -> int:
        """Append the masked text; returns the length of ``text`` as it was given."""
        super().write(mask(text, self._known))
        return len(text)


def copy_masked(source: str, target: str) -> str:
    """Copy a log file with its credentials masked; a ``copy_function`` for :func:`shutil.copytree`."""
    known = held_by(os.environ)
    with (
        Path(source).open(encoding="utf-8", errors="surrogateescape", newline="") as lines,
        Path(target).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        file.writelines(mask(line, known) for line in lines)
    return target
