"""A small artificial news corpus: outlets with one of two leanings, and topics that both write about."""

import json
from pathlib import Path
from typing import Any

import numpy as np

LEANINGS = ("left", "right")
TOPICS = ("harbour_works", "school_meals", "water_tax")
SHARED = [
    *("the", "of", "a", "to", "in", "on", "for", "with", "said", "that"),
    *("council", "people", "town", "year", "new", "plan", "report", "under", "after", "before"),
]
SLANTED = {
    "left": ["workers", "unions", "justice", "climate", "equality", "tenants"],
    "right": ["taxpayers", "liberty", "borders", "tradition", "business", "owners"],
}


def rows(outlets: int = 4, per_outlet: int = 9, words: int = 120, seed: int = 0) -> list[dict[str, Any]]:
    """``outlets`` per leaning with ``per_outlet`` articles each; a third of the words reveal the leaning."""
    rng = np.random.default_rng(seed)
    made = []
    for leaning in LEANINGS:
        for outlet in range(outlets):
            for i in range(per_outlet):
                pool = [SHARED, SHARED, SLANTED[leaning]]
                text = [str(rng.choice(pool[rng.integers(3)])) for _ in range(words)]
                text = [f"{word}." if j % 9 == 8 else word for j, word in enumerate(text)]
                made.append(
                    {
                        "id": f"{leaning}-{outlet}-{i}",
                        "label": leaning,
                        "source": f"{leaning.title()} Paper {outlet}",
                        "topic": TOPICS[i % len(TOPICS)],
                        "title": f"{TOPICS[i % len(TOPICS)]} number {i} of {outlet}",
                        "text": " ".join(text),
                    }
                )
    return made


def write_jsonl(path: Path, made: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    return path
