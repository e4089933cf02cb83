"""Runs in the folder of a study for which its plan has no trial: these are not silently done again elsewhere."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from jobs.configs import CONFIGS
from jobs.driver import study as sweep
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies import study
from scpl_ray.studies.study import Study
from tests.support.finished_runs import begun

TWO_ARMS = {"a": {}, "b": {"feedback.rule": "static"}}


def of_files(tmp_path: Path, **axes: Any) -> tuple[Path, Study]:
    """A study of two arms on two files with two seeds, of which the first was begun; its folder and the study."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"name": "{name}"}}\n')
    files = tuple(str(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    plan = Study(name="s", seeds=2, set={"loop.rounds": 2}, arms=TWO_ARMS, axes={"task.data": files, **axes})
    sweep.create(tmp_path / "s", plan)
    for trial in study.trials(plan.model_copy(update={"seeds": 1}), CONFIGS):
        begun(tmp_path / "s" / trial.folder, trial.experiment).close()
    return tmp_path / "s", plan


def edited(folder: Path, plan: Study, **changed: Any) -> Study:
    now = plan.model_copy(update=changed)
    (folder / study.STUDY_FILE).write_text(study.dump(now))
    return now


def moved(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "new place").mkdir()
    names = ("one.jsonl", "two.jsonl")
    return tuple(str((tmp_path / name).rename(tmp_path / "new place" / name)) for name in names)


def test_trials_on_an_axis_of_files_that_moved_are_named_with_the_folder_that_they_now_belong_in(
    tmp_path: Path,
) -> None:
    folder, plan = of_files(tmp_path)
    assert sweep.open_study(folder) == plan
    now = edited(folder, plan, axes={"task.data": moved(tmp_path)})
    with pytest.raises(StoreError, match=r"study.yaml: has no arm for runs .*would be done again: 4 problems") as told:
        sweep.open_study(folder)
    for line in str(told.value).splitlines()[1:]:
        _, old, new = shlex.split(line.partition("rename it: ")[2])
        Path(old).rename(new)
    assert sweep.open_study(folder) == now
    assert all((folder / trial.folder).is_dir() for trial in study.trials(now, CONFIGS) if trial.seed == 0)


def test_new_places_that_are_written_from_the_working_directory_mean_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan = of_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    edited(folder, plan, axes={"task.data": ("one.jsonl", "two.jsonl")})
    assert sweep.open_study(folder) == plan


def test_files_that_changed_while_they_moved_are_no_reason_to_rename(tmp_path: Path) -> None:
    folder, plan = of_files(tmp_path)
    now = moved(tmp_path)
    Path(now[0]).write_text("others\n")
    edited(folder, plan, axes={"task.data": now})
    with pytest.raises(StoreError) as told:
        sweep.open_study(folder)
    lines = str(told.value).splitlines()[1:]
    assert ["rename it" in line for line in lines] == ["one.jsonl" not in line for line in lines]
    assert "undo the change, or, if this arm is not wanted any more, move its folder out of runs" in str(told.value)


def test_an_arm_that_was_renamed_is_told_and_one_that_was_taken_out_can_be_moved_out(tmp_path: Path) -> None:
    folder, plan = of_files(tmp_path)
    now = edited(folder, plan, arms={"a": {}})
    with pytest.raises(StoreError, match=r"2 problems\n  runs/b,task.data=.*move its folder out of runs"):
        sweep.open_study(folder)
    for arm in (folder / "runs").glob("b,*"):
        arm.rename(tmp_path / arm.name)
    assert sweep.open_study(folder) == now


def test_more_arms_points_and_seeds_and_fewer_seeds_are_no_reason_to_refuse(tmp_path: Path) -> None:
    folder, plan = of_files(tmp_path)
    assert sweep.open_study(folder, {"seeds": 5}).seeds == 5
    for trial in study.trials(plan, CONFIGS):
        if trial.seed == 1:
            begun(folder / trial.folder, trial.experiment).close()
    (tmp_path / "three.jsonl").write_text("{}\n")
    more = (*plan.axes["task.data"], str(tmp_path / "three.jsonl"))  # type: ignore[misc]
    now = edited(folder, plan, seeds=1, arms={**TWO_ARMS, "c": {}}, axes={"task.data": more})
    assert sweep.open_study(folder) == now


def test_a_search_over_files_that_moved_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text("{}\n")
    text = "name: s\nmode: search\nsearch: {metric: quality_mean}\nset: {loop.rounds: 2}\n"
    axes = "axes: {feedback.beta: {low: 1.0, high: 2.0}, task.data: ["
    (tmp_path / "s.yaml").write_text(f"{text}{axes}{file}]}}\n")
    plan = study.load(tmp_path / "s.yaml", CONFIGS)
    sweep.create(tmp_path / "s", plan)
    base = study.trials(plan, CONFIGS)[0].experiment
    sampled = base.model_copy(update={"task": base.task.model_copy(update={"data": str(file)})})
    begun(tmp_path / "s" / study.SAMPLED / "abc", sampled).close()
    assert sweep.open_study(tmp_path / "s") == plan
    new = file.rename(tmp_path / "moved.jsonl")
    edited(tmp_path / "s", plan, axes={**plan.axes, "task.data": (str(new),)})
    with pytest.raises(StoreError, match=r"runs/sampled/abc: has task.data = .*one.jsonl.*bring what moved back"):
        sweep.open_study(tmp_path / "s")
