"""Fitting the analytic mode to a run."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from jobs.cli import app
from scpl_ray.analytic import calibration as calibrate
from scpl_ray.analytic import model
from scpl_ray.analytic.calibration import Observed
from scpl_ray.analytic.loop import Start, simulate
from scpl_ray.config import Experiment
from scpl_ray.controller import Loop
from scpl_ray.records import Judgement, Query
from scpl_ray.storage.run_directory import Reader, Store
from scpl_ray.tasks import TASKS
from tests.support import fakes
from tests.support.configs import defaults
from tests.support.loops import Silent, loop, run, small

SIZES = (
    "generation.engine=transformers",
    "loop.rounds=8",
    "queries.prompts_per_round=2000",
    "evaluation.prompts_per_group=2000",
    "evaluation.neutral_prompts=2000",
    "groups.shares=[0.75, 0.25]",
)
TRUTH = {
    "choice_gain": 0.6,
    "reward_sd": 0.35,
    "quality_ceiling": 0.8,
    "learning_exponent": 0.3,
    "prior_rows": 1000.0,
    "spillover": 0.1,
}


def true_experiment(*overrides: str) -> Experiment:
    told = [f"analytic.{name}={value}" for name, value in TRUTH.items()]
    return defaults([*SIZES, *told, *overrides])


def observed(truth: Experiment, start: Start | None = None) -> Observed:
    """One simulated seed, seen as a run whose config knows none of the true parameters."""
    one = truth.model_copy(update={"analytic": truth.analytic.model_copy(update={"seeds": 2})})
    paths = simulate(one, start=start)
    rounds, k = truth.loop.rounds, len(truth.groups.names)
    revealing, neutral = (
        model.tempered(kinds[0], truth.generation.temperature) for kinds in (paths.revealing_law, paths.neutral_law)
    )
    law = model.asked_law(revealing, neutral, truth.task.marker_strength)
    means = np.full((rounds + 1, k), np.nan)
    spread = means.copy()
    for t in range(1, rounds + 1):
        choosing = np.full(k, 1 / k) if truth.reward.choices == "balanced" else paths.shares[0, t]
        mu = model.mean_rewards(choosing, model.choice_gain(truth), model.kind_advantage(truth))
        means[t] = law[t - 1] @ mu
        spread[t] = model.reward_sds(truth)[0] ** 2 + law[t - 1] @ mu**2 - means[t] ** 2
    unknown = defaults(list(SIZES))
    known = ("loop", "generation", "reward", "feedback", "selection", "cycle")
    return Observed(
        experiment=unknown.model_copy(update={section: getattr(truth, section) for section in known}),
        shares=paths.shares[0],
        quality=paths.quality[0],
        quality_without_own_kind=paths.quality_without_own_kind[0],
        own_kind=paths.own_kind[0],
        kind_counts=paths.kinds[0] * 2000,
        log_odds=paths.preference("balanced").log_odds[0],
        rewards=means,
        reward_variance=spread,
        data_shares=np.vstack([np.full(k, 1 / k), paths.kept_shares[0, 1:]]),
    )


def found_by(calibration: calibrate.Calibration) -> dict[str, float]:
    return {p.name: p.after for p in calibration.parameters if p.identified}


def test_true_parameters_are_found_and_predict_the_rest() -> None:
    start = Start(np.array([[0.85, 0.15], [0.3, 0.7]]), np.array([0.45, 0.55]))
    calibration = calibrate.calibrate(observed(true_experiment(), start), 4)
    found = found_by(calibration)
    assert found["choice_gain"] == pytest.approx(0.6, abs=0.06)
    assert found["reward_sd"] == pytest.approx(0.35, abs=0.01)
    assert found["quality_ceiling"] == pytest.approx(0.8, abs=0.02)
    assert found["learning_exponent"] == pytest.approx(0.3, abs=0.05)
    assert found["prior_rows"] in (300.0, 1000.0, 3000.0)
    assert found["spillover"] in (0.05, 0.1, 0.2)
    assert "kind_advantage" not in found
    ranges = {p.name: (p.low, p.high) for p in calibration.parameters if p.identified}
    assert all(low <= found[name] <= high and low < high for name, (low, high) in ranges.items())
    assert all(np.isnan([p.low, p.high]).all() for p in calibration.parameters if not p.identified)
    assert_allclose(calibration.start.revealing, start.revealing, atol=0.03)
    assert_allclose(calibration.start.neutral, start.neutral, atol=0.03)

    paths, errors = calibrate.predict(calibration)
    assert paths.shares.shape == (1000, 9, 2)
    by_name = {e.metric: e for e in errors}
    assert set(by_name) == {"share", "preference_log_odds_balanced", "quality"}
    assert [by_name[m].numbers for m in ("share", "preference_log_odds_balanced", "quality")] == [8, 4, 8]
    moved = by_name["preference_log_odds_balanced"]
    assert moved.model < 0.5 * moved.no_change
    assert by_name["quality"].model < 0.03
    assert all(e.within_band >= 0.5 for e in errors)


def test_a_start_is_what_was_decoded_at_the_runs_temperature() -> None:
    start = Start(np.array([[0.8, 0.2], [0.35, 0.65]]), np.array([0.45, 0.55]))
    seen = observed(true_experiment("generation.temperature=0.7", "analytic.spillover=0.0"), start)
    found = calibrate.calibrate(seen, 4)
    assert_allclose(found.start.revealing, start.revealing, atol=0.03)
    assert_allclose(found.start.neutral, start.neutral, atol=0.03)
    errors = {error.metric: error for error in calibrate.predict(found)[1]}
    moved = errors["preference_log_odds_balanced"]
    assert moved.model < moved.no_change


def test_greedy_answers_do_not_tell_the_kinds_of_the_base_model() -> None:
    seen = observed(true_experiment("generation.temperature=0.0"))
    with pytest.raises(ValueError, match=r"--from: the run has generation.temperature: 0, and greedy answers do not"):
        calibrate.calibrate(seen)


def test_parameters_are_those_of_the_reward_model_whatever_its_weight() -> None:
    found = found_by(calibrate.calibrate(observed(true_experiment("reward.terms={model: 2.0}", "selection.beta=1.0"))))
    assert found["choice_gain"] == pytest.approx(0.6, abs=0.06)
    assert found["reward_sd"] == pytest.approx(0.35, abs=0.01)
    given = ("reward.model=somebody/else", "analytic.kind_advantage=0.3", "reward.terms={model: 2.0}")
    advantage = found_by(calibrate.calibrate(observed(true_experiment(*given, "selection.beta=1.0"))))
    assert advantage["kind_advantage"] == pytest.approx(0.3, abs=0.03)
    assert advantage["reward_sd"] == pytest.approx(0.35, abs=0.01)


def test_an_advantage_is_found_where_rewards_are_not_learned() -> None:
    given = true_experiment("reward.model=somebody/else", "analytic.kind_advantage=0.3")
    found = found_by(calibrate.calibrate(observed(given)))
    assert found["kind_advantage"] == pytest.approx(0.3, abs=0.03)
    assert "choice_gain" not in found


def test_what_does_not_vary_cannot_be_told() -> None:
    still = true_experiment("reward.choices=balanced", "selection.strategy=importance", "feedback.rule=static")
    seen = observed(still)
    found = found_by(calibrate.calibrate(seen))
    assert {"choice_gain", "learning_exponent"}.isdisjoint(found)
    assert found["quality_ceiling"] == pytest.approx(0.8, abs=0.02)
    calibration = calibrate.calibrate(seen)
    assert calibration.fit_rounds == 4
    assert calibration.experiment.analytic.choice_gain == seen.experiment.analytic.choice_gain


def test_numbers_that_are_missing_are_left_out() -> None:
    seen = observed(true_experiment())
    seen.rewards[2, 0] = np.nan
    seen.log_odds[[2, 7]] = np.nan
    calibration = calibrate.calibrate(seen)
    assert found_by(calibration)["choice_gain"] == pytest.approx(0.6, abs=0.06)
    errors = {e.metric: e for e in calibrate.predict(calibration)[1]}
    assert errors["preference_log_odds_balanced"].numbers == 3
    assert np.isfinite(errors["preference_log_odds_balanced"].model)


def test_quality_that_tells_nothing_of_learning() -> None:
    seen = observed(true_experiment())
    curve = {"quality_ceiling", "learning_exponent"}
    unrecorded = dataclasses.replace(seen, quality_without_own_kind=np.full_like(seen.quality, np.nan))
    weight = seen.experiment.analytic.model_copy(update={"own_kind_weight": 1.0})
    by_kind = dataclasses.replace(unrecorded, experiment=seen.experiment.model_copy(update={"analytic": weight}))
    assert curve.isdisjoint(found_by(calibrate.calibrate(by_kind)))
    for useless in (unrecorded, dataclasses.replace(seen, quality_without_own_kind=np.zeros_like(seen.quality))):
        nothing = dataclasses.replace(useless, quality=seen.own_kind / 3)
        assert curve.isdisjoint(found_by(calibrate.calibrate(nothing)))
    constant = dataclasses.replace(seen, reward_variance=np.zeros_like(seen.reward_variance))
    assert "reward_sd" not in found_by(calibrate.calibrate(constant))


def test_a_quality_without_the_own_kind_that_no_run_recorded_is_what_the_weight_leaves() -> None:
    seen = observed(true_experiment())
    unrecorded = dataclasses.replace(seen, quality_without_own_kind=np.full_like(seen.quality, np.nan))
    found = found_by(calibrate.calibrate(unrecorded))
    assert "own_kind_weight" not in found
    assert found["quality_ceiling"] == pytest.approx(0.8, abs=0.02)
    assert found["learning_exponent"] == pytest.approx(found_by(calibrate.calibrate(seen))["learning_exponent"])


@pytest.mark.parametrize("weight", [0.0, 1 / 3, 0.85])
@pytest.mark.parametrize("assumed", ["auto", 1 / 3])
def test_how_much_of_the_quality_is_own_kind_is_read_from_the_run_whatever_its_config_says(
    assumed: str | float, weight: float
) -> None:
    """A task of the user's own, or a run whose config holds another weight than that of its task."""
    seen = observed(true_experiment("analytic.quality_ceiling=0.1", f"analytic.own_kind_weight={weight}"))
    analytic = seen.experiment.analytic.model_copy(update={"own_kind_weight": assumed})
    task = seen.experiment.task.model_copy(update={"name": "own.py:build"})
    config = seen.experiment.model_copy(update={"analytic": analytic, "task": task})
    calibration = calibrate.calibrate(dataclasses.replace(seen, experiment=config))
    (found,) = [p for p in calibration.parameters if p.name == "own_kind_weight"]
    assert found.before == (0.0 if assumed == "auto" else assumed)
    assert [found.after, found.low, found.high] == pytest.approx([weight] * 3, abs=1e-6) and found.identified
    assert found_by(calibration)["quality_ceiling"] == pytest.approx(0.1, abs=0.01)
    errors = {error.metric: error for error in calibrate.predict(calibration)[1]}
    assert errors["quality"].model < 0.02


PUBLISHED = Path(__file__).parents[2] / "docs/results"


@pytest.mark.parametrize(
    ("study", "task"), [("paper_tiny", "language"), ("paper_news", "news"), ("paper_maths", "maths")]
)
def test_published_runs_say_the_weight_of_their_task(study: str, task: str) -> None:
    rows = pq.read_table(PUBLISHED / study / "results.parquet").to_pandas()
    keys = ["arm", "seed", "round", "group"]
    quality, rest, own = (
        rows[rows.metric == name].set_index(keys).value.sort_index()
        for name in ("quality", "quality_without_own_kind", "own_kind_share")
    )
    weight = TASKS[task].own_kind_weight
    assert len(own) > 500
    assert_allclose(quality, (1.0 - weight) * rest + weight * own, atol=1e-9)


def test_prompts_that_never_reveal_their_group() -> None:
    hidden = observed(true_experiment("task.marker_strength=0.0"))
    task = hidden.experiment.task.model_copy(update={"marker_strength": 0.0})
    hidden = dataclasses.replace(hidden, experiment=hidden.experiment.model_copy(update={"task": task}))
    start = calibrate.calibrate(hidden).start
    assert_allclose(np.diag(start.revealing), start.neutral)


@pytest.mark.parametrize(
    ("fit_rounds", "message"), [(0, r"--fit-rounds: 0 of 8 rounds; give 1 to 7"), (8, r"--fit-rounds: 8 of 8")]
)
def test_rounds_to_fit_on(fit_rounds: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate.calibrate(observed(true_experiment()), fit_rounds)


def test_a_run_that_is_too_short() -> None:
    with pytest.raises(ValueError, match="the run has 1 evaluated rounds; fitting and predicting need 2"):
        calibrate.calibrate(observed(true_experiment("loop.rounds=1")))


def test_a_run_directory_is_read_while_it_is_locked(tmp_path: Path) -> None:
    experiment = small("loop.rounds=4", "feedback.rule=softmax", "cycle.real_share=0.25")
    rows, _ = run(tmp_path / "run", experiment)
    held, _ = Store.open(tmp_path / "run")
    reader, config = Reader.open(tmp_path / "run")
    seen = calibrate.observe(reader, config)
    result = CliRunner().invoke(app, ["simulate", "--from", str(tmp_path / "run"), "selection.strategy=quotas"])
    held.close()
    assert config == experiment and seen.rounds == 4
    share = {(r.round, r.group): r.value for r in rows if r.metric == "share"}
    assert [share[t, "north"] for t in range(5)] == seen.shares[:, 0].tolist()
    assert_allclose(seen.data_shares.sum(axis=1), 1.0)
    assert np.isnan(seen.rewards[0]).all() and np.isfinite(seen.rewards[1:]).all()
    assert np.isnan(seen.reward_variance[0]).all()
    assert result.exit_code == 0, result.output
    assert "fitted to rounds 0 to 2" in result.output and "rounds 3 to 4: root mean" in result.output
    assert "no change" in result.output and "analytic.spillover" in result.output
    assert "95% range" in result.output and " to " in result.output


class Formed(fakes.FakeTask):
    """Half of the quality is the form, which is 0.6, and half is the own kind."""

    def judge(self, work: Sequence[tuple[Query, str, str]]) -> list[Judgement]:
        judged = super().judge(work)
        own = [float(one.kind == query.group) for one, (query, _, _) in zip(judged, work, strict=True)]
        return [
            dataclasses.replace(one, quality=(0.6 + is_own) / 2, terms={"form": 0.6, "own_kind": is_own})
            for one, is_own in zip(judged, own, strict=True)
        ]


def test_what_a_run_measured_without_own_kind_is_read(tmp_path: Path) -> None:
    experiment = small("loop.rounds=4", "feedback.rule=softmax")
    store = Store.create(tmp_path / "run", experiment, {})
    base = fakes.make_base(tmp_path / "base", 2)
    task = Formed(experiment.groups.names)
    engines = dataclasses.replace(loop(store, experiment, base).engines, scorer=fakes.FakeScorer(task))
    Loop(experiment, task, store, engines, base, fakes.encode, Silent(), None).run()
    store.close()
    seen = calibrate.observe(*Reader.open(tmp_path / "run"))
    assert_allclose(seen.quality_without_own_kind, 0.6)
    found = found_by(calibrate.calibrate(seen))
    assert found["own_kind_weight"] == pytest.approx(0.5) and found["quality_ceiling"] == pytest.approx(0.6)
    result = CliRunner().invoke(app, ["simulate", "--from", str(tmp_path / "run"), "analytic.seeds=20"])
    assert re.search(r"analytic.own_kind_weight +│ +0.3333 │ +0.5 │ +0.5 to 0.5", result.output), result.output


def test_a_run_without_an_evaluation(tmp_path: Path) -> None:
    Store.create(tmp_path / "run", small(), {}).close()
    with pytest.raises(ValueError, match="round 0 was not evaluated"):
        calibrate.observe(*Reader.open(tmp_path / "run"))


def test_a_run_that_was_stopped_is_read_as_far_as_it_went(tmp_path: Path) -> None:
    experiment = small()
    store = Store.create(tmp_path / "run", experiment, {})
    going = loop(store, experiment, fakes.make_base(tmp_path / "base", 2))
    going.evaluation(0)
    going.round(1)
    store.close()
    assert calibrate.observe(*Reader.open(tmp_path / "run")).rounds == 1
