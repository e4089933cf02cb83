"""A short chaos campaign and a short fuzzing campaign."""

import logging
from collections.abc import Iterator

import pytest
from rich.console import Console

from tests.campaigns import chaos, fuzz


@pytest.mark.long
def test_runs_hit_by_faults_end_with_the_records_of_an_undisturbed_one() -> None:
    outcomes = chaos.campaign(len(chaos.FAULTS), 3, Console(width=110))
    assert [o for o in outcomes if not (o.survived and o.identical)] == []


@pytest.fixture
def silent() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


# Arrow itself can end the process on a damaged Parquet file, so those stay in the campaign
@pytest.mark.parametrize("name", [name for name in fuzz.TARGETS if name != "Parquet metadata"])
def test_hostile_input_is_refused_by_the_declared_errors(name: str, silent: None) -> None:
    fuzz.attack(name, 150)


@pytest.mark.parametrize("name", fuzz.SLOW_TARGETS)
def test_hostile_input_that_takes_a_while(name: str, silent: None) -> None:
    fuzz.attack(name, 8)
