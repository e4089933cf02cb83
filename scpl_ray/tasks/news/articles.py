"""News articles from a user's file, as continuations to write, split into three parts that share no outlet."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from scpl_ray.config import Experiment
from scpl_ray.judges.tfidf import LabelledText
from scpl_ray.protocols import DataReport
from scpl_ray.tasks import rows as data
from scpl_ray.tasks.minimums import OUTLETS_PER_GROUP
from scpl_ray.tasks.outlets import EVALUATION, PARTS, TRAIN, assign, outlets
from scpl_ray.tasks.rows import DataError, Fields, Row, Tally
from scpl_ray.tasks.texts import WORDS_PER_TOKEN, answer_words, digest, first_words, readable, tokens

logger = logging.getLogger(__name__)

FIELDS = Fields(
    required=("label", "source", "topic", "title", "text"),
    optional=("id", "part", "split_random", "split_media"),
    group="label",
)
"""Leaning, outlet, topic, headline, body; ``part`` is a user's own split into train, evaluation and judge."""
LEAST_CONTINUATION = 4
"""Fewest words that an answer can be compared with; the limit of ``task.continuation_words``."""
MOST_UNLIKE = 1.5
"""Largest ratio between the length of answers and that on which the judge is measured, without a warning."""


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
    where: str = dataclasses.field(default="", compare=False)
    """File and line, for messages."""


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

    tally: Tally
    split: Split
    train: tuple[Article, ...]
    evaluation: tuple[Article, ...]
    labelled: dict[str, tuple[LabelledText, ...]]
    """The same articles and the judge's, whole, by part."""

    @property
    def report(self) -> DataReport:
        """The rows kept, and those left out by reason."""
        return self.tally.report()


@dataclasses.dataclass(frozen=True, slots=True)
class Lengths:
    """How texts are cut, in words."""

    opening: int
    """Words of the text that the prompt holds."""
    continuation: int
    """Words after them, of the reference and of a full-length answer."""

    @classmethod
    def of(cls, experiment: Experiment) -> Lengths:
        """The lengths that an experiment sets."""
        given = experiment.task.continuation_words
        return cls(experiment.task.opening_words, answer_words(experiment) if given is None else given)


def check_lengths(experiment: Experiment) -> None:
    """Warn if ``task.continuation_words``, the length on which a judge is measured, is not that of the answers."""
    given, written = experiment.task.continuation_words, experiment.generation.max_new_tokens
    if given is not None and not 1.0 / MOST_UNLIKE <= given / (WORDS_PER_TOKEN * written) <= MOST_UNLIKE:
        logger.warning(
            "task.continuation_words = %d: the judge is fitted and measured on texts of so many words, and "
            "generation.max_new_tokens = %d makes answers of about %d; set generation.max_new_tokens=%d",
            *(given, written, round(WORDS_PER_TOKEN * written), tokens(given)),
        )


def load(experiment: Experiment) -> Corpus:
    """Read, check and split ``task.data``.

    Raises:
        DataError: see :func:`scpl_ray.tasks.rows.load`; one group only, a group that never occurs or whose texts are
            all too short, or too few outlets for three parts.
    """
    groups, lengths = experiment.groups.names, Lengths.of(experiment)
    rows, tally = data.load(experiment, FIELDS)
    with tally.reported():
        data.check_groups(rows, "label", groups, tally.source)
        rows = _by_outlet(data.of_groups(rows, tally, FIELDS, groups))
        rows = data.among(data.unique(rows, tally, "id"), tally, "part", tuple(PARTS))
        rows = data.undivided(rows, tally, "part", "outlet", lambda row: row["source"])
        for published in ("split_random", "split_media"):
            rows = data.undivided(rows, tally, published, "text", lambda row: digest(row["text"]))
        kept = data.all_or_none(_usable(rows, groups, lengths, tally), tally, "part")
        tally.check()
        part_of, given = _parts(kept, groups)
        _check_parts(kept, part_of, groups, tally.source)
    split = _split(kept, part_of, groups, given=given)
    logger.info("%s; %s", tally.report(), split)
    by_part: dict[str, list[Row]] = {part: [] for part in PARTS}
    for row in kept:
        by_part[part_of[row["source"]]].append(row)
    return Corpus(
        tally,
        split,
        tuple(_article(row, lengths) for row in by_part[TRAIN]),
        tuple(_article(row, lengths) for row in by_part[EVALUATION]),
        {part: tuple(map(_labelled, of_part)) for part, of_part in by_part.items()},
    )


def _by_outlet(rows: Sequence[Row]) -> list[Row]:
    """The rows with their outlets for their sources."""
    called = outlets(row["source"] for row in rows)
    return [dataclasses.replace(row, values=row.values | {"source": called[row["source"]]}) for row in rows]


def _usable(rows: Sequence[Row], groups: Sequence[str], lengths: Lengths, tally: Tally) -> list[Row]:
    """The rows that are long enough, every opening with its continuation once, whatever their case.

    Outlets print one agency's article, each with an end of its own.

    Raises:
        DataError: no row of a group is long enough; the message says which of the two lengths excludes them.
    """
    kept, seen = [], set()
    short: dict[str, list[int]] = {group: [] for group in groups}
    for row in rows:
        text = digest(f"{_opening(row, lengths)} {_reference(row, lengths)}".casefold())
        words = len(row["text"].split())
        if text in seen:
            tally.leave_out("with a text that an earlier row has")
        elif words < lengths.opening + lengths.continuation or not readable(_reference(row, lengths)):
            after = words > lengths.opening
            tally.leave_out(
                f"with fewer than task.continuation_words = {lengths.continuation} words after the opening"
                if after
                else f"with no words after the task.opening_words = {lengths.opening} of the opening"
            )
            short[row["label"]].append(words)
        else:
            kept.append(row)
            seen.add(text)
    for group in groups:
        if short[group] and all(row["label"] != group for row in kept):
            raise DataError(_too_short(group, short[group], lengths, tally.source))
    return kept


def _too_short(group: str, found: Sequence[int], lengths: Lengths, source: str) -> str:
    median = int(statistics.median(found))
    opening = max(1, median * 2 // 5)
    none_after = sum(words <= lengths.opening for words in found)
    advice = (
        f"set task.opening_words={opening} task.continuation_words={median - opening} "
        f"generation.max_new_tokens={tokens(median - opening)} to use half of them"
        if median - opening >= LEAST_CONTINUATION
        else f"give longer texts: the opening needs a word and the continuation {LEAST_CONTINUATION}; a text without "
        "blanks between words is one word"
    )
    return (
        f"{source}: every text of {group!r} is too short: task.opening_words = {lengths.opening} leaves nothing of "
        f"{none_after:,} of them, task.continuation_words = {lengths.continuation} is more than what is left of "
        f"{len(found) - none_after:,}; half of them have {median} words or more: {advice}"
    )


def _parts(rows: Sequence[Row], groups: Sequence[str]) -> tuple[dict[str, str], bool]:
    """Part of each outlet, and whether the user gave it."""
    if any(row.values["part"] is not None for row in rows):
        return {row["source"]: row["part"] for row in rows}, True
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[row["source"]][row["label"]] += 1
    return assign(counts, groups), False


def _check_parts(rows: Sequence[Row], part_of: Mapping[str, str], groups: Sequence[str], source: str) -> None:
    found = {(part_of[row["source"]], row["label"]) for row in rows}
    for group in groups:
        if missing := [part for part in PARTS if (part, group) not in found]:
            found_of = sorted({row["source"] for row in rows if row["label"] == group})
            raise DataError(
                f"{source}: no outlet of {group!r} is left for {', '.join(missing)}: train, judge and evaluation share "
                f"no outlet, and {group!r} has {len(found_of)} ({', '.join(found_of[:5])}); give articles of "
                f"{OUTLETS_PER_GROUP} or more outlets per group"
            )


def _split(rows: Sequence[Row], part_of: Mapping[str, str], groups: Sequence[str], *, given: bool) -> Split:
    counts = Counter((part_of[row["source"]], row["label"]) for row in rows)
    used = sorted({row["source"] for row in rows})
    return Split(
        {part: tuple(name for name in used if part_of[name] == part) for part in PARTS},
        {part: {group: counts[part, group] for group in groups} for part in PARTS},
        given,
    )


def _article(row: Row, lengths: Lengths) -> Article:
    opening, reference = _opening(row, lengths), _reference(row, lengths)
    return Article(_id(row), row["label"], row["topic"], row["title"], opening, reference, where=row.where)


def _labelled(row: Row) -> LabelledText:
    return LabelledText(
        _id(row),
        row["text"],
        row["label"],
        row["source"],
        row.values["split_random"],
        row.values["split_media"],
    )


def _id(row: Row) -> str:
    return row.values["id"] or digest(row["text"])[:16]


def _opening(row: Row, lengths: Lengths) -> str:
    return " ".join(row["text"].split()[: lengths.opening])


def _reference(row: Row, lengths: Lengths) -> str:
    """The words that follow the opening."""
    return first_words(" ".join(row["text"].split()[lengths.opening :]), lengths.continuation)
