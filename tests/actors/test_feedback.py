"""What the feedback simulator's process cannot answer, as its caller is told of it; without Ray."""

import traceback
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from actors import feedback


def raised(monkeypatch: pytest.MonkeyPatch, error: Exception) -> BaseException:
    """What the caller sees where Ray raises an error."""

    def get(reference: Any, timeout: float) -> Any:
        raise error

    monkeypatch.setattr("actors.feedback.ray.get", get)
    with pytest.raises(Exception) as told:
        feedback.answer(None, "step")
    return told.value


def of_task(cause: Exception) -> Exception:
    """An error in an actor, as Ray raises it where its answer is fetched."""
    told = RayTaskError("_Simulator.call", "\x1b[36mray::_Simulator.call()\x1b[39m (pid=1)\nTraceback ...", cause)
    found: Exception = told.as_instanceof_cause()
    return found


def test_what_the_users_rule_raised_is_told_as_it_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    cause = ValueError("feedback.function: 'mine.py:rule' failed: KeyError: 4")
    assert raised(monkeypatch, of_task(cause)) is cause
    told = traceback.format_exception_only(raised(monkeypatch, of_task(cause)))
    assert told == ["ValueError: feedback.function: 'mine.py:rule' failed: KeyError: 4\n"]


@pytest.mark.parametrize("error", [GetTimeoutError("Get timed out"), of_task(GetTimeoutError("Get timed out"))])
def test_an_answer_that_does_not_come_names_who_was_asked_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    told = raised(monkeypatch, error)
    assert type(told) is TimeoutError
    assert "the feedback simulator: no answer to 'step' within 300 s; if feedback.function is yours" in str(told)


def test_a_simulator_that_died_is_told_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told = raised(monkeypatch, ActorDiedError())
    assert type(told) is RuntimeError and str(told).startswith("the feedback simulator is gone (3 retries")
    assert "\n" not in str(told)
