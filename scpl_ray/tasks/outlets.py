"""The outlets of articles, and their assignment to training, evaluation and the judge.

A classifier that has seen an outlet recognises the outlet rather than its leaning, and a policy trained on an outlet
has learned its house style. Therefore no outlet is ever in two parts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

TRAIN, EVALUATION, JUDGE = "train", "evaluation", "judge"
PARTS: dict[str, float] = {TRAIN: 0.5, JUDGE: 0.3, EVALUATION: 0.2}
"""Target share of each group's articles, by part."""
_DESK = re.compile(r"\(.*?\)|\s[-\u2013\u2014]\s.*|(?:news)?\.com\b|\b(?:online|news|opinion|editorial|board|blog)\b")
_ADDRESS = re.compile(
    r"(?:(?:[a-z][a-z0-9+.-]*:)?//)?(?:(?:www\d?|m|amp|mobile)\.)?((?:[\w-]+\.)+[a-z]{2,})\.?(?::\d+)?"
    r"(?:[/?#]\S*)?(?=\s|$)"
)
"""The address of an article or a site, and in it the domain."""
_NOT_IN_ADDRESSES = re.compile(r"[\s'\u2019-]+")
"""What domains leave out of a name."""


def outlet(source: str) -> str:
    """The outlet behind a published source name or address: desks and editions of one house are one outlet.

    ``Fox Online News``, ``Fox News (Online)``, ``Fox News Opinion``, ``FoxNews.com`` and
    ``https://www.foxnews.com/politics`` are ``fox``. Case, a leading "the", remarks in parentheses or after a dash, and
    the words online, news, opinion, editorial, board, blog and .com are left out, and of an address all but its domain,
    without a leading www, m, amp or mobile.
    """
    name = " ".join(source.lower().split())
    if address := _ADDRESS.match(name):
        name = address[1] + name[address.end() :]
    house = " ".join(_DESK.sub(" ", name).split()).removeprefix("the ")
    house = house.strip(".") if address else house
    return house if house not in ("", "the") else name


def outlets(sources: Iterable[str]) -> dict[str, str]:
    """The outlet by source, where the name of an outlet and its address are one.

    They are if they differ in blanks, hyphens, apostrophes and a leading "the" alone: ``Washington Times`` and
    ``washingtontimes.com``. The outlet is called by the spelling with most blanks.
    """
    spelt = {source: outlet(source) for source in sources}
    called: dict[str, str] = {}
    for name in sorted(set(spelt.values()), key=lambda name: (-name.count(" "), name)):
        called.setdefault(_joined(name), name)
    return {source: called[_joined(name)] for source, name in spelt.items()}


def _joined(name: str) -> str:
    return _NOT_IN_ADDRESSES.sub("", name).removeprefix("the") or name


def assign(articles: Mapping[str, Counter[str]], groups: Sequence[str]) -> dict[str, str]:
    """Assign each outlet to a part.

    Outlets are assigned in turn, the largest first. Each goes to the part that still lacks most of what the outlet has,
    relative to the shares :data:`PARTS` of each group's articles. Where this leaves a part without a group that has
    outlets enough, a part that has nothing of the outlet's groups yet comes first. All runs on the same data share the
    result.

    Args:
        articles: number of articles per group, by outlet.
        groups: all groups.

    Returns:
        Part by outlet; a part may lack a group if there are too few outlets.
    """
    found = _assigned(articles, groups, cover=False)
    if all(len(had) == len(PARTS) or len(had) == n_outlets for had, n_outlets in _spread(articles, groups, found)):
        return found
    return _assigned(articles, groups, cover=True)


def _spread(
    articles: Mapping[str, Counter[str]], groups: Sequence[str], parts: Mapping[str, str]
) -> Iterator[tuple[set[str], int]]:
    """Per group, the parts that have an outlet of it, and its number of outlets."""
    for group in groups:
        of_group = [name for name, counts in articles.items() if counts[group]]
        yield {parts[name] for name in of_group}, len(of_group)


def _assigned(articles: Mapping[str, Counter[str]], groups: Sequence[str], *, cover: bool) -> dict[str, str]:
    totals = {group: sum(counts[group] for counts in articles.values()) for group in groups}
    lacking = {part: {group: share * totals[group] for group in groups} for part, share in PARTS.items()}
    had: dict[str, set[str]] = {part: set() for part in PARTS}
    parts: dict[str, str] = {}
    for name in sorted(articles, key=lambda name: (-articles[name].total(), name)):
        counts = articles[name]
        need = {
            part: sum(counts[group] * left[group] / totals[group] for group in groups if counts[group])
            for part, left in lacking.items()
        }
        new = {part: sum(counts[group] > 0 and group not in had[part] for group in groups) for part in PARTS}
        part = max(PARTS, key=lambda part: (cover * new[part], need[part]))
        parts[name] = part
        had[part] |= {group for group in groups if counts[group]}
        for group in groups:
            lacking[part][group] -= counts[group]
    return parts
