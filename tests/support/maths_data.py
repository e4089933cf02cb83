"""A small artificial set of problems: two sources that word and solve their problems differently."""

from typing import Any

import numpy as np

SOURCES = ("farm", "shop")
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve")


def rows(per_source: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """Distinct problems: sums with a worked solution (farm), and products with a formula only (shop)."""
    rng = np.random.default_rng(seed)
    made: list[dict[str, Any]] = []
    for source in SOURCES:
        seen: set[tuple[int, ...]] = set()
        while len(seen) < per_source:
            a, b, name = (int(n) for n in rng.integers((2, 2, 0), (40, 40, len(NAMES))))
            if (a, b) in seen:
                continue
            seen.add((a, b))
            row: dict[str, Any] = {"id": f"{source}-{len(seen)}", "source": source}
            if source == "farm":
                row["problem"] = f"{NAMES[name]} has {a} hens and buys {b} more. How many hens are there now?"
                row["solution"] = f"Count all hens together: {a} + {b} = <<{a}+{b}={a + b}>>{a + b}\n#### {a + b}"
                row["answer"] = str(a + b)
            else:
                row["problem"] = f"{NAMES[name]} sells {a} boxes of {b} eggs. How many eggs is that?"
                row["formula"] = f"( {a}.0 * {b}.0 )"
                row["answer"] = f"{a * b}.0 (eggs)"
            made.append(row)
    return made
