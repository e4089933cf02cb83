"""The words of the built-in language, assigned from the pools in ``lexicon.txt`` to any 2 to 12 groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

POOLS = Path(__file__).with_name("lexicon.txt")
"""The file of the pools."""
MAX_GROUPS = 12
"""Largest number of groups: the pools have 12 topics and 12 stances, and each group needs one of its own."""
STANCES_PER_KIND = 2
"""Largest number of stances per kind; more would make the language too large for a tiny model to learn quickly."""
MARKERS_PER_GROUP = 8

TOPIC_CLASSES = ("ACTORS", "THING", "TOPIC")
KIND_CLASSES = ("VERBED", "ADJECTIVE", "FRAME")


@dataclasses.dataclass(frozen=True, slots=True)
class Lexicon:
    """The word classes of one language. Every word belongs to one class and to one variant of it."""

    groups: tuple[str, ...]
    """Names of the K groups, which are also the names of the K kinds."""
    topics: tuple[str, ...]
    """Names of the T topics; topic t belongs to group ``t // (T / K)``."""
    classes: Mapping[str, tuple[tuple[str, ...], ...]]
    """Words by class and variant, frequent words first; all variants of a class have equally many words.

    ``ACTORS``, ``THING`` and ``TOPIC`` (the topic's name, which prompts use) have one variant per topic. The slanted
    words ``VERBED``, ``ADJECTIVE`` and ``FRAME`` have one per kind. ``MARKER`` has one per group, and a last one that
    reveals no group. All other classes have a single variant.
    """

    def __post_init__(self) -> None:
        words = [word for variants in self.classes.values() for variant in variants for word in variant]
        repeated = sorted({word for word in words if words.count(word) > 1}) if len(set(words)) < len(words) else []
        if repeated:
            raise ValueError(f"lexicon: {repeated} stand in more than one place; a word belongs to one class only")
        for name, variants in self.classes.items():
            if len({len(variant) for variant in variants}) != 1 or not variants[0]:
                raise ValueError(f"lexicon: the variants of {name} must be equally long and not empty")


def _pools() -> dict[str, tuple[str, ...]]:
    """The words of ``lexicon.txt`` by section title."""
    pools: dict[str, list[str]] = {}
    title = ""
    for line in POOLS.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            title = line.strip("[]")
            pools[title] = []
        elif line and not line.startswith("#"):
            pools[title] += line.split()
    return {title: tuple(words) for title, words in pools.items()}


def deal(groups: Sequence[str]) -> Lexicon:
    """The lexicon of these groups; the same names in the same order give the same lexicon.

    With K groups, each group has ``12 // K`` topics of its own, and its kind has ``min(2, 12 // K)`` stances. These are
    neighbours in the file, so that a kind has a recognisable leaning.

    Raises:
        ValueError: there are fewer than 2 groups or more than 12.
    """
    count = len(groups)
    if not 2 <= count <= MAX_GROUPS:
        raise ValueError(
            f"groups.names: {count} groups; the built-in language takes 2 to {MAX_GROUPS} (each needs a topic and a "
            f"stance of its own), give fewer groups or extend {POOLS}"
        )
    pools = _pools()
    topics = _names(pools, "topic")[: MAX_GROUPS // count * count]
    stances_each = min(STANCES_PER_KIND, MAX_GROUPS // count)
    stances = [_names(pools, "stance")[k * stances_each : (k + 1) * stances_each] for k in range(count)]
    towns = pools["town"]
    classes: dict[str, tuple[tuple[str, ...], ...]] = {
        "ACTORS": tuple(pools[f"topic {topic} actors"] for topic in topics),
        "THING": tuple(pools[f"topic {topic} things"] for topic in topics),
        "TOPIC": tuple((topic,) for topic in topics),
        "MARKER": (
            *(towns[k * MARKERS_PER_GROUP : (k + 1) * MARKERS_PER_GROUP] for k in range(count)),
            pools["shared marker"],
        ),
    }
    for name, part in zip(KIND_CLASSES, ("verbs", "adjectives", "frames"), strict=True):
        classes[name] = tuple(_interleave([pools[f"stance {stance} {part}"] for stance in kind]) for kind in stances)
    for title, words in pools.items():
        if title.startswith("shared ") and title != "shared marker":
            classes[title.removeprefix("shared ").upper()] = (words,)
    return Lexicon(groups=tuple(groups), topics=topics, classes=classes)


def _names(pools: Mapping[str, tuple[str, ...]], what: str) -> tuple[str, ...]:
    """The names of the topics or stances, in the order of the file."""
    return tuple(dict.fromkeys(title.split()[1] for title in pools if title.startswith(f"{what} ")))


def _interleave(lists: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Interleave lists of equal length into one in which the frequent words of each come first."""
    return tuple(word for ranked in zip(*lists, strict=True) for word in ranked)
