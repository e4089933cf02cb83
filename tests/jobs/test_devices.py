"""``scpl doctor --gpu``: its form on a CPU, and what becomes of a check that fails, crashes or hangs."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.devices import attempt as attempts
from jobs.devices import table
from jobs.devices.attempt import Check, Line, attempt
from tests.support.device_checks import fails

CHECKS = [Check("first", "do one"), Check("second", "do two"), Check("third", "do three")]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("error", "the second is broken (exit code 1)"),
        ("crash", "exit code -6"),
        ("hang", "nothing was heard for"),
        ("end", "its process ended without a word"),
    ],
)
def test_a_check_that_fails_is_a_line_and_those_after_it_are_too(tmp_path: Path, how: str, why: str) -> None:
    deadline_s = 6.0 if how == "hang" else 60.0
    first, second, third = attempt(CHECKS, fails, how, logs=tmp_path, deadline_s=deadline_s)
    assert first == Line("first", "passed", "well")
    assert (second.what, second.result, second.remedy) == ("second", "failed", "do two") and why in second.found
    assert third == Line("third", "could not run", "second failed")


def test_a_failure_is_the_exit_code_and_names_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "lines", lambda gpus: iter([Line("NCCL", "failed", "it hung", "set X")]))
    result = CliRunner().invoke(app, ["doctor", "--gpu"])
    assert result.exit_code == 1 and all(text in result.output for text in ("NCCL", "failed", "it hung", "set X"))


@pytest.mark.engines
@pytest.mark.long
def test_the_form_on_a_cpu() -> None:
    """gloo, vLLM, two ranks of DeepSpeed: what needs no GPU passes, and the rest says why it could not run."""
    found = {line.what: line for line in table.lines(0)}
    failed = [line for line in found.values() if line.result == "failed"]
    assert not failed, failed
    assert [what for what, line in found.items() if line.result == "passed"] == [
        *("gloo all-reduce", "ZeRO-2 step on 2 ranks", "ZeRO-3 step on 2 ranks"),
        *("engine start", "adapter served twice", "reload", "free memory after a worker died"),
    ]
    assert {what for what, line in found.items() if line.result == "could not run"} == {
        *("NVIDIA driver", "C compiler", "Python.h", "sleep", "wake", "copies between devices")
    }
    assert all(line.found for line in found.values())
    assert "planned" in found["ZeRO-2 step on 2 ranks"].found
    assert attempts.POLL_S < 1
