"""The calibration suite in its short form: no sentence of a report is wrong more often than it says."""

import io
from contextlib import redirect_stdout

import pytest

from tests.theory import calibration


@pytest.mark.parametrize("part", calibration.SUITE, ids=lambda part: part.__name__)
def test_every_rate_lies_within_its_limits(part: calibration.Part) -> None:
    found = list(part(calibration.SHORT))
    assert found and not [row for row in found if not row.holds]


def test_the_suite_prints_a_table_and_fails_where_a_rate_lies_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = calibration.Row("a flag", "nothing there", 0.5, (0.0, 0.07), 0.1)
    monkeypatch.setattr(calibration, "SUITE", (lambda studies: iter([wrong]),))
    shown = io.StringIO()
    with redirect_stdout(shown):
        assert calibration.main(["--short"]) == 1
    assert "| a flag | nothing there | 0.500 | 0 to 0.07 | 0.100 | FAILS |" in shown.getvalue()
