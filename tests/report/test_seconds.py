"""Where the time of a run went: what was waited for, and the limits that records and facts determine."""

from pathlib import Path

import pytest

from jobs.terminal.display import seconds_table, wide_console
from scpl_ray.records import Completion, Example, Manifest
from scpl_ray.report.roofline import Machine, Model, drawing, reading, training
from scpl_ray.report.seconds import PEAKS, SIZE, critical_seconds, least_seconds, phase_seconds
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import Reader, Store
from tests.support import fakes
from tests.support.loops import loop, small

MACHINE = {"kind": "a machine", "operations_per_s": 1e9, "bytes_per_s": 1e9}
SIZES = {"body": 1000, "head": 50, "adapter": 30, "layers": 2, "attention_width": 8, "cached_per_token": 16,
         "bytes_per_number": 4}  # fmt: skip


def phase(name: str, begin: float, end: float, **facts: float) -> Manifest:
    return Manifest(1, name, end - begin, end, {}, facts)


def test_one_after_the_other_all_are_critical() -> None:
    assert critical_seconds([phase("queries", 0, 1), phase("weights", 1, 4), phase("evaluation", 5, 7)]) == {
        "queries": 1, "weights": 3, "evaluation": 2,
    }  # fmt: skip


def test_what_ended_earlier_inside_another_phase_was_not_waited_for() -> None:
    assert critical_seconds([phase("completions", 0, 10), phase("scores", 2, 6)]) == {"completions": 10, "scores": 0}
    # a part of it reached further
    assert critical_seconds([phase("completions", 0, 10), phase("scores", 8, 13)]) == {"completions": 8, "scores": 5}


def test_completions_that_wait_for_the_reward_model_count_for_it() -> None:
    drawn_first = [phase("reward_model", 0, 9.9), phase("completions", 0, 10, generation_seconds=4.0)]
    assert critical_seconds(drawn_first) == pytest.approx({"reward_model": 5.9, "completions": 4.1})
    fitted_first = [phase("reward_model", 0, 3), phase("completions", 0, 10, generation_seconds=9.8)]
    assert critical_seconds(fitted_first) == pytest.approx({"reward_model": 0, "completions": 10})


def measured_run(root: Path, *keys: str, facts: bool = True, peaks: object = MACHINE) -> tuple[Store, Reader]:
    """A run of two rounds with fakes whose base phase holds peaks and sizes."""
    experiment = small("loop.rounds=2", *keys)
    store = Store.create(root, experiment, {})
    with store.phase(0, "base") as begun:
        begun.write_json("base", {})
        begun.facts |= {PEAKS: peaks, SIZE: SIZES} if facts else {}
    loop(store, experiment, fakes.make_base(root.parent / "base", 2)).run()
    return store, Reader(root)


def test_limits_follow_from_the_lengths_in_the_records(tmp_path: Path) -> None:
    store, reader = measured_run(tmp_path / "run", "training.epochs=3")
    experiment, machine, model = small("loop.rounds=2", "training.epochs=3"), Machine(**MACHINE), Model(**SIZES)
    found = least_seconds(reader, experiment, 2)
    drawn = store.read(2, "completions", "completions", Completion)
    # a fake's prompt and answer are one token each, and four answers share a prompt
    assert found["completions"] == drawing(model, [1] * 40, [(1, 1)] * 160).least_s(machine)
    assert found["scores"] == reading(model, [(0, 2), *[(1, 1)] * 3] * 40).least_s(machine) and len(drawn) == 160
    facts = store.manifest(2, "weights")
    assert facts is not None
    examples = len(store.read(2, "dataset", "dataset", Example))
    passes = facts.facts["tokens"] / examples
    work = training(model, [2] * examples, examples, passes=passes, steps=facts.facts["steps"])
    assert found["weights"] == pytest.approx(work.least_s(machine))
    asked = 2 * 12 + 30
    judged = drawing(model, [1] * asked, [(1, 1)] * asked) + reading(model, [(0, 1)] * asked, asked)
    assert found["evaluation"] == pytest.approx(judged.least_s(machine))
    # the first time the base model reads the prompts too, which have one token here: none before the one that is read
    assert least_seconds(reader, experiment, 1)["evaluation"] == found["evaluation"]
    # before the loop the base is the policy, and drawing gives its likelihoods
    assert least_seconds(reader, experiment, 0)["evaluation"] < found["evaluation"]
    assert not {"queries", "selection", "dataset", "feedback"} & found.keys()
    store.close()


def test_the_table_shows_limits_where_the_machine_was_measured(tmp_path: Path) -> None:
    store, reader = measured_run(tmp_path / "run")
    rows = {row.phase: row for row in phase_seconds([(reader, small("loop.rounds=2"))])}
    assert rows["evaluation"].times == 3 and rows["completions"].times == 2
    assert sum(row.share for row in rows.values()) == pytest.approx(1.0)
    limit = rows["completions"].least
    assert limit is not None and rows["completions"].limit_over_measured == pytest.approx(
        limit / (rows["completions"].measured or 0)
    )
    console = wide_console()
    with console.capture() as shown:
        console.print(seconds_table(list(rows.values())))
    lines = {line.split()[0]: line for line in shown.get().splitlines() if line.strip()}
    assert lines["completions"].rstrip().endswith("%") and lines["phase"].rstrip().endswith("limit / measured")
    assert len(lines["queries"].split()) == 6
    store.close()


@pytest.mark.parametrize("peaks", [{**MACHINE, "bytes_per_s": 0.0}, {"kind": 3}, [], {**MACHINE, "bytes_per_s": "a"}])
def test_damaged_notes_are_named(peaks: object, tmp_path: Path) -> None:
    store, reader = measured_run(tmp_path / "run", peaks=peaks)
    with pytest.raises(StoreError, match="machine or model_size of round 0's base model is not what a run notes"):
        phase_seconds([(reader, small("loop.rounds=2"))])
    store.close()


def test_without_a_measurement_there_are_seconds_and_no_limits(tmp_path: Path) -> None:
    store, reader = measured_run(tmp_path / "run", facts=False)
    rows = phase_seconds([(reader, small("loop.rounds=2"))], first_round=1)
    assert all(row.least is None and row.limit_over_measured is None for row in rows)
    assert {row.phase: row.times for row in rows}["evaluation"] == 2
    store.close()
