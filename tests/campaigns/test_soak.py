"""The soak campaign's verdict on artificial samples."""

import dataclasses
import io

import pytest
from rich.console import Console

from tests.campaigns.soak import ALL, DRIVER, Sample, faults, marks, tables


def samples(rounds: int, growth: float = 0.0, descriptors: float = 0.0, store: int = 0) -> list[Sample]:
    """Samples in which memory grows by the fraction ``growth`` per 100 rounds, and descriptors by a number of them."""
    return [
        Sample(
            t,
            {DRIVER: 10**9, ALL: int(5e9 * (1 + growth * max(0, t - 10) / 100)) + (3 * 10**8 if t == 10 else 0)},
            {DRIVER: int(50 + descriptors * t / 100)},
            100_000 + (store if t else 0),
        )
        for t in range(rounds + 1)
    ]


def test_a_steady_run_leaks_nothing() -> None:
    # one high sample at the tenth round neither hides a leak nor raises a false alarm
    assert faults(samples(110)) == faults(samples(110, growth=0.04)) == faults(samples(5)) == faults(samples(1)) == []


@pytest.mark.parametrize(
    ("leak", "said"),
    [
        ({"growth": 0.07}, "memory of all processes grew by 6.9%"),
        ({"descriptors": 10}, "descriptors of driver grew from 50 to 60"),
        ({"store": 512}, "object store held up to 512 bytes more after 110 rounds than after round 0"),
    ],
)
def test_a_leak_is_named(leak: dict[str, float], said: str) -> None:
    assert faults(samples(110, **leak)) == [said]  # type: ignore[arg-type]


def test_what_appears_later_counts() -> None:
    grown = samples(40)
    grown[-3:] = [dataclasses.replace(s, bytes={DRIVER: 2 * 10**9, ALL: 5 * 10**9}) for s in grown[-3:]]
    assert faults(grown) == ["memory of driver grew by 100.0%"]


def test_the_table_compares_the_warm_round_with_the_last() -> None:
    assert marks(samples(200)) == (10, 105, 200)
    assert marks(samples(5)) == (2, 3, 5)
    screen = io.StringIO()
    Console(file=screen, width=110).print(tables(samples(110, growth=0.07, descriptors=10)))
    text = screen.getvalue()
    for words in ("round 10", "round 60", "round 110", "+6.9%", "+10", "object store, bytes"):
        assert words in text
