"""The README and the pages of docs/ as text, code blocks and commands."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:^|-- )((?:scpl |python -m ).*)")


def blocks(page: Path, language: str = "") -> list[str]:
    """The code blocks of a page in this language."""
    return [body for found, body in FENCE.findall(page.read_text()) if found == language]


def inline(page: Path) -> list[str]:
    """Code in running text and in tables."""
    return INLINE.findall(FENCE.sub("", page.read_text()))


def commands(page: Path) -> Iterator[list[str]]:
    """Every command line of a page in order, as words; of the campaigns' table, what follows ``python -m``."""
    for body in blocks(page):
        for line in body.splitlines():
            if found := COMMAND.search(line):
                yield shlex.split(found[1], comments=True)
    for code in inline(page):
        if code.startswith(("scpl ", "python -m ")):
            yield shlex.split(code)
        elif code.startswith("tests.campaigns.") and " " in code:
            yield ["python", "-m", *shlex.split(code)]
