"""A page as a browser would read it."""

from html.parser import HTMLParser
from pathlib import Path


class Reading(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.preformatted: list[str] = []
        """The whole text of every ``pre``, as a reader would copy it."""
        self._in_pre = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "pre":
            self._in_pre = True
            self.preformatted.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_pre = self._in_pre and tag != "pre"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_pre:
            self.preformatted[-1] += data

    def said(self) -> str:
        return " ".join(self.text.split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(page: Path) -> Reading:
    found = Reading()
    found.feed(page.read_text(encoding="utf-8"))
    return found
