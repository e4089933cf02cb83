"""Where the time of a study went, in words."""

import json
from pathlib import Path

import pytest

from scpl_ray.report import sessions
from scpl_ray.report.seconds import TAKEN_FROM
from scpl_ray.report.sessions import Session
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Reader, Store
from tests.support.loops import small

TEXTS = '[{"trials": "1", "side_by_side": "1", "prepared_s": "1", "started_s": "1", "ran_s": "1"}]'


def run_of(root: Path, seconds: dict[tuple[int, str], float], taken: set[tuple[int, str]] = frozenset()) -> Reader:
    """A run directory whose phases took these seconds, one after the other."""
    store = Store.create(root, small(), {})
    now = 1000.0
    for (round_, phase), spent in seconds.items():
        with store.phase(round_, phase) as work:
            work.facts |= {TAKEN_FROM: "another"} if (round_, phase) in taken else {}
        now += spent
        file = store.folder(round_, phase) / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": spent, "committed_at": now}))
    store.close()
    return Reader(root)


def test_shares_of_the_processes_time_are_of_all_that_ran_side_by_side(tmp_path: Path) -> None:
    one = run_of(tmp_path / "one", {(0, "evaluation"): 20.0, (1, "weights"): 30.0})
    two = run_of(tmp_path / "two", {(0, "evaluation"): 5.0, (1, "weights"): 15.0}, {(0, "evaluation")})
    whole, shares, copied = sessions.sentences([Session(2, 2, 6.0, 4.0, 50.0)], [one, two])
    assert whole.startswith(
        "2 trials in 60 s: 120 trials per hour. Checks and base models took 6 s, the start of Ray 4 s"
    )
    assert whole.endswith("the trials 50 s, 2 side by side.")
    assert "45% of the time of their processes went into self-consuming rounds, 25% into round 0" in shares
    assert "30% between phases and trials" in shares
    assert copied == "1 of 4 phases were taken over from trials that had done the same."


def test_commands_that_resumed_the_study_are_added_up(tmp_path: Path) -> None:
    assert sessions.read(tmp_path) == () and sessions.sentences((), []) == []
    sessions.add(tmp_path, Session(3, 2, 1.0, 1.0, 8.0))
    sessions.add(tmp_path, Session(1, 1, 1.0, 1.0, 8.0))
    (said, _) = sessions.sentences(sessions.read(tmp_path), [])
    assert said.startswith("4 trials in 20 s: 720 trials per hour") and "1 or 2 side by side" in said


@pytest.mark.parametrize("text", ["{", "[3]", '[{"trials": 1}]', "null", TEXTS])
def test_a_damaged_note_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / sessions.FILE).write_text(text)
    with pytest.raises(StoreError, match=r"sessions\.json: cannot be read"):
        sessions.read(tmp_path)
