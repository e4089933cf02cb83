"""News articles from a user's file, as continuations to write, split into three parts that share no outlet."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from scpl_ray.config import Experiment
from scpl_ray.judges.tfidf import LabelledText
from scpl_ray.protocols import DataReport
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.outlets import EVALUATION, PARTS, TRAIN, assign, outlet
from scpl_ray.tasks.rows import DataError, Fields, Row
from scpl_ray.tasks.texts import answer_words, digest, first_words, readable

logger = logging.getLogger(__name__)

FIELDS = Fields(
    required=("label", "source", "topic", "title", "text"), optional=("id", "part", "split_random", "split_media")
)
"""Leaning, outlet, topic, headline, body; ``part`` is a user's own split into train, evaluation and judge."""
OPENING_WORDS = 24
"""Number of words of the body that the prompt contains."""


@dataclasses.dataclass(frozen=True, slots=True)
class Article:
    """A continuation to write."""

    article_id: str
    group: str
    topic: str
    title: str
    opening: str
    reference: str
    """The words that follow the opening."""


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """The outlets of each part, and the number of articles."""

    outlets: dict[str, tuple[str, ...]]
    """The outlets of each part."""
    articles: dict[str, dict[str, int]]
    """Number of articles by part and group."""
    given: bool
    """Whether the split is the user's own (the field ``part``)."""

    def __str__(self) -> str:
        parts = (
            f"{part} {len(self.outlets[part])} outlets "
            f"({', '.join(f'{count:,} {group}' for group, count in self.articles[part].items())})"
            for part in PARTS
        )
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """All articles of a run."""

    report: DataReport
    split: Split
    train: tuple[Article, ...]
    evaluation: tuple[Article, ...]
    labelled: dict[str, tuple[LabelledText, ...]]
    """The same articles and the judge's, whole, by part."""


def load(experiment: Experiment) -> Corpus:
    """Read, check and split ``task.data``.

    Raises:
        DataError: see :func:`scpl_ray.tasks.rows.load`; one group only, a group that never occurs, ids used twice,
            overlapping splits, or too few outlets for three parts.
    """
    source, groups = str(experiment.task.data), experiment.groups.names
    rows = data.load(experiment.task.data, experiment.task.fields, FIELDS)
    data.check_unique(rows, "id")
    data.check_groups(rows, "label", groups, source)
    data.check_values(rows, "part", tuple(PARTS))
    data.check_disjoint(rows, "part", "outlet", lambda row: outlet(row["source"]))
    for published in ("split_random", "split_media"):
        data.check_disjoint(rows, published, "text", lambda row: digest(row["text"]))
    words = answer_words(experiment)
    kept, dropped = _usable(rows, groups, words)
    part_of, given = _parts(kept, groups, source)
    _check_parts(kept, part_of, groups, source)
    split = _split(kept, part_of, groups, given=given)
    report = DataReport(source, len(rows), len(kept), dropped)
    logger.info("%s; %s", report, split)
    by_part: dict[str, list[Row]] = {part: [] for part in PARTS}
    for row in kept:
        by_part[part_of[outlet(row["source"])]].append(row)
    return Corpus(
        report,
        split,
        tuple(_article(row, words) for row in by_part[TRAIN]),
        tuple(_article(row, words) for row in by_part[EVALUATION]),
        {part: tuple(map(_labelled, of_part)) for part, of_part in by_part.items()},
    )


def _usable(rows: Sequence[Row], groups: Sequence[str], words: int) -> tuple[list[Row], dict[str, int]]:
    kept, dropped, seen = [], Counter[str](), set()
    for row in rows:
        text = digest(row["text"])
        if row["label"] not in groups:
            dropped["of a label that is no group"] += 1
        elif text in seen:
            dropped["with a text that an earlier row has"] += 1
        elif len(row["text"].split()) < OPENING_WORDS + words or not readable(_reference(row, words)):
            dropped[f"shorter than {OPENING_WORDS} + {words} words"] += 1
        else:
            kept.append(row)
        seen.add(text)
    return kept, dict(dropped)


def _parts(rows: Sequence[Row], groups: Sequence[str], source: str) -> tuple[dict[str, str], bool]:
    """Part of each outlet, and whether the user gave it."""
    given = [row for row in rows if row.values["part"] is not None]
    if given:
        if len(given) < len(rows):
            bare = next(row for row in rows if row.values["part"] is None)
            raise DataError(f"{bare.where}: no part, though other rows have one; give every row a part or none")
        return {outlet(row["source"]): row["part"] for row in rows}, True
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[outlet(row["source"])][row["label"]] += 1
    return assign(counts, groups), False


def _check_parts(rows: Sequence[Row], part_of: Mapping[str, str], groups: Sequence[str], source: str) -> None:
    found = {(part_of[outlet(row["source"])], row["label"]) for row in rows}
    for group in groups:
        if missing := [part for part in PARTS if (part, group) not in found]:
            outlets = sorted({outlet(row["source"]) for row in rows if row["label"] == group})
            raise DataError(
                f"{source}: no outlet of {group!r} is left for {', '.join(missing)}: train, judge and evaluation share "
                f"no outlet, and {group!r} has {len(outlets)} ({', '.join(outlets[:5])}); give articles of 3 or more "
                "outlets per group"
            )


def _split(rows: Sequence[Row], part_of: Mapping[str, str], groups: Sequence[str], *, given: bool) -> Split:
    counts = Counter((part_of[outlet(row["source"])], row["label"]) for row in rows)
    used = sorted({outlet(row["source"]) for row in rows})
    return Split(
        {part: tuple(name for name in used if part_of[name] == part) for part in PARTS},
        {part: {group: counts[part, group] for group in groups} for part in PARTS},
        given,
    )


def _article(row: Row, words: int) -> Article:
    opening = " ".join(row["text"].split()[:OPENING_WORDS])
    return Article(_id(row), row["label"], row["topic"], row["title"], opening, _reference(row, words))


def _labelled(row: Row) -> LabelledText:
    return LabelledText(
        _id(row),
        row["text"],
        row["label"],
        outlet(row["source"]),
        row.values["split_random"],
        row.values["split_media"],
    )


def _id(row: Row) -> str:
    return row.values["id"] or digest(row["text"])[:16]


def _reference(row: Row, words: int) -> str:
    """The words that follow the opening."""
    return first_words(" ".join(row["text"].split()[OPENING_WORDS:]), words)
