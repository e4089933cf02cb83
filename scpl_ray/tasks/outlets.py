"""The outlets of articles, and their assignment to training, evaluation and the judge.

A classifier that has seen an outlet recognises the outlet rather than its leaning, and a policy trained on an outlet
has learned its house style. Therefore no outlet is ever in two parts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

TRAIN, EVALUATION, JUDGE = "train", "evaluation", "judge"
PARTS: dict[str, float] = {TRAIN: 0.5, JUDGE: 0.3, EVALUATION: 0.2}
"""Target share of each group's articles, by part."""
_DESK = re.compile(r"\(.*?\)|\s-\s.*|\.com\b|\b(?:online|news|opinion|editorial|board|blog)\b")


def outlet(source: str) -> str:
    """The outlet behind a published source name: desks and editions of one house are one outlet.

    ``Fox Online News``, ``Fox News (Online)`` and ``Fox News Opinion`` are ``fox``. Case, a leading "the", remarks in
    parentheses or after a dash, and the words online, news, opinion, editorial, board, blog and .com are left out.
    """
    name = " ".join(_DESK.sub(" ", source.lower()).split()).removeprefix("the ")
    return name or " ".join(source.lower().split())


def assign(articles: Mapping[str, Counter[str]], groups: Sequence[str]) -> dict[str, str]:
    """Assign each outlet to a part.

    Outlets are assigned in turn, the largest first. Each goes to the part that still lacks most of what the outlet has,
    relative to the shares :data:`PARTS` of each group's articles. All runs on the same data share the result.

    Args:
        articles: number of articles per group, by outlet.
        groups: all groups.

    Returns:
        Part by outlet; a part may lack a group if there are too few outlets.
    """
    totals = {group: sum(counts[group] for counts in articles.values()) for group in groups}
    lacking = {part: {group: share * totals[group] for group in groups} for part, share in PARTS.items()}
    parts: dict[str, str] = {}
    for name in sorted(articles, key=lambda name: (-articles[name].total(), name)):
        counts = articles[name]
        need = {
            part: sum(counts[group] * left[group] / totals[group] for group in groups if counts[group])
            for part, left in lacking.items()
        }
        part = max(PARTS, key=lambda part: need[part])
        parts[name] = part
        for group in groups:
            lacking[part][group] -= counts[group]
    return parts
