"""A study of which the results are kept and the runs are not: nothing replaces its only numbers."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.configs import CONFIGS
from jobs.driver import study as sweep
from scpl_ray.records import Metric
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies import results, study
from scpl_ray.studies.study import Study, Trial
from tests.support.finished_runs import begun

ROOT = Path(__file__).parents[3]
PLAN = Study(name="s", seeds=2, set={"loop.rounds": 2}, arms={"a": {}, "b": {"feedback.rule": "static"}})


def with_results(folder: Path, **reached: int) -> list[Trial]:
    """A study without runs whose table holds these arms up to these rounds; its trials."""
    sweep.create(folder, PLAN)
    rows = [
        (arm, seed, [Metric(t, None, "quality_mean", 0.5) for t in range(last + 1)])
        for arm, last in reached.items()
        for seed in range(2)
    ]
    results.write(results.table(rows), folder)
    return study.trials(PLAN, CONFIGS)


def test_a_study_whose_finished_runs_are_gone_is_not_done_again(tmp_path: Path) -> None:
    trials = with_results(tmp_path / "s", a=2, b=2)
    for keys in {}, {"seeds": 4}:
        with pytest.raises(StoreError, match=r"results without their runs: 4 finished .*\(runs/a/seed-000, \.\.\.\)"):
            sweep.open_study(tmp_path / "s", keys)
    for trial in trials[1:]:
        begun(tmp_path / "s" / trial.folder, trial.experiment).close()
    with pytest.raises(StoreError, match=r"1 finished .* alone \(runs/a/seed-000\) .* scpl sweep .*s/study.yaml"):
        sweep.open_study(tmp_path / "s")
    begun(tmp_path / "s" / trials[0].folder, trials[0].experiment).close()
    assert sweep.open_study(tmp_path / "s") == PLAN


def test_trials_that_failed_may_be_begun_anew(tmp_path: Path) -> None:
    trials = with_results(tmp_path / "s", a=2, b=1)
    for trial in trials:
        if trial.arm == "a":
            begun(tmp_path / "s" / trial.folder, trial.experiment).close()
    assert sweep.open_study(tmp_path / "s") == PLAN


def test_a_search_whose_finished_runs_are_gone_is_not_done_again(tmp_path: Path) -> None:
    text = "name: s\nmode: search\nsearch: {metric: quality_mean}\nset: {loop.rounds: 2}\n"
    (tmp_path / "s.yaml").write_text(f"{text}axes: {{feedback.beta: {{low: 1.0, high: 2.0}}}}\n")
    plan = study.load(tmp_path / "s.yaml", CONFIGS)
    sweep.create(tmp_path / "s", plan)
    results.write(results.table([("abc", 0, [Metric(2, None, "quality_mean", 0.5)])]), tmp_path / "s")
    with pytest.raises(StoreError, match=r"1 finished trial is in results.parquet alone \(runs/sampled/abc\)"):
        sweep.open_study(tmp_path / "s")
    begun(tmp_path / "s" / study.SAMPLED / "abc", study.trials(plan, CONFIGS)[0].experiment).close()
    assert sweep.open_study(tmp_path / "s") == plan


def test_no_command_that_is_advised_for_a_published_study_touches_its_table(tmp_path: Path) -> None:
    kept = shutil.copytree(ROOT / "docs/results/gap_engines", tmp_path / "kept")
    said = CliRunner().invoke(app, ["status", str(kept)])
    assert said.exit_code == 0 and "holds results without their runs: 60 finished trials" in said.output
    assert "--resume" not in said.output and f"scpl sweep {kept}/study.yaml" in " ".join(said.output.split())
    refused = CliRunner().invoke(app, ["sweep", "--resume", str(kept)])
    assert refused.exit_code == 2 and "holds results without their runs" in refused.output
    assert results.read(kept).equals(results.read(ROOT / "docs/results/gap_engines"))
