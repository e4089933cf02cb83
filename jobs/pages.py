"""Parts of the documentation that a command writes into a page."""

from __future__ import annotations


def on_page(page: str, name: str, text: str) -> str:
    """A page whose part between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` is this text.

    Raises:
        ValueError: the page has no such part.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no part between {begin.strip()} and {end}")
    return f"{before}{begin}\n{text}\n{end}{after}"
