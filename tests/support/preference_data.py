"""Small artificial preference data in both formats: every group likes answers with its own words."""

from typing import Any

import numpy as np

from tests.support.news_data import write_jsonl

__all__ = ["GROUPS", "LIKED", "pairs", "responses", "write_jsonl"]

GROUPS = ("academy", "business", "stage")
LIKED = {"academy": range(70, 75), "business": range(75, 80), "stage": range(80, 85), "none": range(85, 90)}
"""Numbers of the words that a group likes; the toy tokenizer does not split words below w100."""
ANSWER_WORDS = 12


def answer(rng: np.random.Generator, group: str, words: int = ANSWER_WORDS) -> str:
    """An answer in which about half of the words are ones that the group likes."""
    pools = (range(20, 70), LIKED[group])
    return " ".join(f"w{rng.choice(pools[int(rng.integers(2))])}" for _ in range(words))


def responses(count: int = 40, seed: int = 0) -> list[dict[str, Any]]:
    """One question per row, with one answer for each group and one for no group."""
    rng = np.random.default_rng(seed)
    return [
        {"id": f"r{i}", "query": f"w{i} {answer(rng, 'none', 4)}"}
        | {group: answer(rng, group) for group in GROUPS}
        | {"normal": answer(rng, "none")}
        for i in range(count)
    ]


def pairs(count: int = 40, seed: int = 0, groups: tuple[str, ...] = GROUPS[:2]) -> list[dict[str, Any]]:
    """Transcripts of one or two turns; a chosen answer has the group's words, a rejected one another group's."""
    rng = np.random.default_rng(seed)
    made = []
    for group in groups:
        for i in range(count):
            start = f"\n\nHuman: {group} w{i}\n\nAssistant: {answer(rng, 'none', 3)}" if i % 2 else ""
            prompt = f"{start}\n\nHuman: {group} w{i} {answer(rng, 'none', 4)}\n\nAssistant:"
            other = next(name for name in groups if name != group)
            made.append(
                {
                    "group": group,
                    "chosen": f"{prompt} {answer(rng, group)}",
                    "rejected": f"{prompt} {answer(rng, other)}",
                }
            )
    return made
