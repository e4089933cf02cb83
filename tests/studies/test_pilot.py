"""What a pilot says of a study's claims, and the command that prints it."""

import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.driver.pilot import cost
from scpl_ray.records import Metric
from scpl_ray.studies import results
from scpl_ray.studies.pilot import CANDIDATES, LEVEL, POWER, outlook
from scpl_ray.studies.power import minimum_detectable_effect
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import Study

runner = CliRunner()
CLAIM = {"name": "c", "metric": "disparate_gap", "contrast": {"a": 1.0, "b": -1.0}}


def pilot(differences: list[float], **claim: object) -> tuple[Series, Study]:
    rows = [("a", s, [Metric(1, None, "disparate_gap", 0.5 + d)]) for s, d in enumerate(differences)]
    rows += [("b", s, [Metric(1, None, "disparate_gap", 0.5)]) for s in range(len(differences))]
    plan = Study.model_validate({"name": "s", "arms": {"a": {}, "b": {}}, "claims": ({**CLAIM, **claim},)})
    return Series.of(results.table(rows)), plan


def test_the_smallest_sufficient_number_of_seeds_is_found() -> None:
    d = np.random.default_rng(0).normal(0.1, 0.1, size=12).tolist()
    (one,) = outlook(*pilot(d), seeds=8)
    sd = float(np.std(d, ddof=1))
    assert (one.effect, one.sd, one.seeds) == (pytest.approx(np.mean(d)), pytest.approx(sd), 12)
    assert one.detectable == pytest.approx(found_with(sd, 8))
    assert one.needed in CANDIDATES
    before = CANDIDATES[CANDIDATES.index(one.needed) - 1]
    assert [found_with(sd, n) <= abs(one.effect) for n in (before, one.needed)] == [False, True]


def found_with(sd: float, seeds: int) -> float:
    """What so many seeds find, where 12 seeds of a pilot gave the standard deviation."""
    return minimum_detectable_effect(sd, seeds, level=LEVEL, power=POWER, estimated_from=12)


def test_arms_that_the_pilot_cannot_tell_apart_are_told_apart_by_no_number_of_seeds() -> None:
    (one,) = outlook(*pilot([0.0] * 12), seeds=8)
    assert (one.effect, one.sd, one.needed) == (0.0, 0.0, None)


def test_fewer_seeds_than_a_verdict_takes_find_nothing() -> None:
    d = np.random.default_rng(0).normal(0.1, 0.1, size=12).tolist()
    assert outlook(*pilot(d), seeds=5)[0].detectable == math.inf
    assert outlook(*pilot(d), seeds=6)[0].detectable < math.inf


def test_a_margin_counts_from_its_end() -> None:
    d = np.random.default_rng(1).normal(0.0, 0.05, size=12)
    d -= d.mean()
    assert outlook(*pilot(d.tolist()), seeds=8)[0].needed is None
    assert outlook(*pilot(d.tolist(), margin=0.1), seeds=8)[0].needed is not None


def test_a_claim_without_numbers_has_no_outlook() -> None:
    (one,) = outlook(*pilot([0.1]), seeds=8)
    assert math.isnan(one.sd) and one.needed is None and one.seeds == 1


def test_the_command_reads_the_analytic_mode_or_a_study_that_was_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulated = runner.invoke(app, ["sweep", "study_drift_null", "--power", "seeds=8"])
    assert simulated.exit_code == 0 and "what 8 seeds decide" in simulated.output, simulated.output
    assert not list(tmp_path.iterdir())
    assert runner.invoke(app, ["sweep", "study_drift_null", "--study-dir", "s", "seeds=6"]).exit_code == 0
    read = runner.invoke(app, ["sweep", "study_drift_null", "--power", "--pilot", "s"])
    assert read.exit_code == 0 and "what 10 seeds decide" in read.output and "from" in read.output
    alone = runner.invoke(app, ["sweep", "study_drift_null", "--pilot", "s"])
    assert alone.exit_code == 2 and "--pilot s: is read by --power; add that" in alone.output
    dpo = ["paper_news", "--power", "arms=[static-dpo, shifted-dpo]", "task.data=none.jsonl"]
    unknown = runner.invoke(app, ["sweep", *dpo])
    assert unknown.exit_code == 0 and "not simulated: static-dpo" in unknown.output


def test_terms_that_the_analytic_mode_does_not_know_are_named_beside_its_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ruled = ["study_drift_null", "seeds=6", "reward.terms={on_topic: 1.0}"]
    said = "without effect in the analytic mode: reward.terms.on_topic=1"
    for given in (["--power"], ["--study-dir", "s"]):
        found = runner.invoke(app, ["sweep", *ruled, *given])
        assert found.exit_code == 0 and said in " ".join(found.output.split()), found.output


def test_a_pilot_without_the_arms_of_any_claim_is_refused(tmp_path: Path) -> None:
    for name, arms in (("one", "{a: {}, b: {feedback.rule: static}}"), ("two", "{c: {}, d: {feedback.rule: static}}")):
        claim = f"{{name: c, metric: disparate_gap, contrast: {{{arms[1]}: 1, {'b' if name == 'one' else 'd'}: -1}}}}"
        text = f"name: {name}\nmode: analytic\nseeds: 2\nset: {{loop.rounds: 1}}\narms: {arms}\nclaims: [{claim}]\n"
        (tmp_path / f"{name}.yaml").write_text(text)
    said = runner.invoke(app, ["sweep", str(tmp_path / "one.yaml"), "--study-dir", str(tmp_path / "one")])
    assert said.exit_code == 0, said.output
    said = runner.invoke(app, ["sweep", str(tmp_path / "two.yaml"), "--power", "--pilot", str(tmp_path / "one")])
    assert said.exit_code == 2 and "has no arm of this study's claims; it has a, b" in " ".join(said.output.split())


def test_a_pilot_of_other_rounds_tells_of_its_own_last_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runner.invoke(app, ["sweep", "study_drift_null", "--study-dir", "s", "seeds=6"]).exit_code == 0
    said = "the pilot ends in round 5 and this study in round 9: what is told is of the pilot's rounds"
    longer = runner.invoke(app, ["sweep", "study_drift_null", "--power", "--pilot", "s", "loop.rounds=9"])
    assert longer.exit_code == 0 and said in " ".join(longer.output.split()), longer.output
    same = runner.invoke(app, ["sweep", "study_drift_null", "--power", "--pilot", "s"])
    assert same.exit_code == 0 and "the pilot ends in round" not in same.output


def test_the_cost_of_a_study_grows_with_its_rounds() -> None:
    assert cost([(120.0, 5), (60.0, 5), (60.0, 5)], [5] * 20) == (
        "cost: 20 runs of 60 s (median of 3 runs of the pilot on its machine), 0.3 hours one after the other"
    )
    assert cost([(60.0, 5)], [11] * 20) == (
        "cost: 20 runs of 120 s (median of 1 runs of the pilot on its machine, by the number of rounds), 0.7 hours one "
        "after the other"
    )
