"""Within-run intervals in the short form of their simulation: they cover, and show no change where there is none."""

import pytest

from tests.theory import within_run

SAMPLES = {within_run.kinds: 12, within_run.groups: 40}
"""Fewer samples of what takes longest, with limits that are wider by so much."""


@pytest.mark.parametrize("part", within_run.SUITE, ids=lambda part: part.__name__)
def test_every_rate_lies_within_its_limits(part: within_run.Part) -> None:
    found = list(part(SAMPLES.get(part, within_run.SHORT)))
    assert found and not [row for row in found if not row.holds]
