"""The analytic mode: its paths, its points of rest, and what it prints."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rich.console import Console
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from typer.testing import CliRunner

from jobs import simulate as job
from jobs.benchmark.__main__ import app as benchmark
from jobs.benchmark.plain_simulation import simulate_plainly
from jobs.cli import app
from jobs.driver import experiments
from scpl_ray.analytic import model
from scpl_ray.analytic.loop import Paths, Start, band, simulate, simulate_grid
from scpl_ray.analytic.steps import steps
from scpl_ray.config import Experiment
from scpl_ray.evaluation import measure
from scpl_ray.evaluation.catalogue import CATALOGUE
from scpl_ray.feedback import rules
from scpl_ray.records import SCHEMAS, Metric
from scpl_ray.studies import results
from scpl_ray.studies.preference import advantaged
from scpl_ray.studies.series import Series
from tests.support.configs import defaults

SMALL = ("generation.engine=transformers", "analytic.seeds=40", "loop.rounds=3", "queries.prompts_per_round=100")
THREE = ("groups.names=[a, b, c]", "groups.shares=[0.5, 0.3, 0.2]")


def small(*overrides: str) -> Experiment:
    return defaults([*SMALL, *overrides])


def same(a: Paths, b: Paths, rounds: int | None = None) -> bool:
    names = [name for name in vars(a) if name != "experiment"]
    last = None if rounds is None else rounds + 1
    return all(np.array_equal(vars(a)[n][:, :last], vars(b)[n][:, :last], equal_nan=True) for n in names)


# paths


TIED = ("groups.shares=[0.496, 0.504]", "feedback.rule=retention", "feedback.users=100", "feedback.agents=true")
"""South is larger in the config; of 100 whole users both have 50, and of equal groups north is the first."""


def test_the_log_odds_are_of_the_group_that_is_largest_in_round_1_which_is_the_one_that_claims_are_tested_for() -> None:
    paths = simulate(small(*TIED, "selection.beta=4.0"))
    table = results.table([("loop", row.pop("seed"), [Metric(**row)]) for row in paths.table().to_pylist()])
    found = Series.of(table)
    assert advantaged(found, "loop") == "north"
    assert_array_equal(np.sign(paths.preference("balanced").log_odds), np.sign(paths.kinds[..., 0] - 0.5))
    north = steps(paths).leaning
    alone = simulate(small(*TIED[1:], "groups.shares=[0.5, 0.5]", "selection.beta=4.0"))
    assert_array_equal(north, steps(alone).leaning)


def test_the_quick_start_is_simulated_unchanged() -> None:
    experiment = defaults([])
    paths = simulate(experiment)
    assert paths.shares.shape == paths.quality.shape == (1000, experiment.loop.rounds + 1, 2)
    assert_allclose(paths.shares.sum(axis=-1), 1.0)
    assert_allclose(paths.shares[:, :2], np.broadcast_to([0.6, 0.4], (1000, 2, 2)))
    assert paths.preference("round0").log_odds[:, -1].mean() > 0.3


def test_arrays_have_the_law_of_a_plain_loop() -> None:
    experiment = small(*THREE, "analytic.prior_rows=20", "analytic.kind_advantage=0.1", "loop.rounds=4")
    experiment = experiment.model_copy(
        update={"analytic": experiment.analytic.model_copy(update={"seeds": 4000, "reward_sd": (0.2, 0.3, 0.25)})}
    )
    plain = [simulate_plainly(experiment, seed) for seed in range(120)]
    fast = simulate(experiment)
    for slow, quick in (
        (np.array([path for path, _ in plain])[:, 2:], fast.shares[:, 2:]),
        (np.array([law for _, law in plain]), fast.neutral_law[:, -1]),
    ):
        error = slow.std(axis=0) / np.sqrt(len(slow)) + quick.std(axis=0) / np.sqrt(len(quick))
        assert np.all(np.abs(slow.mean(axis=0) - quick.mean(axis=0)) < 4 * error)
        assert_allclose(slow.std(axis=0), quick.std(axis=0), rtol=0.3)


def test_the_plain_loop_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="the plain loop knows that of the default keys only"):
        simulate_plainly(small("cycle.kind=accumulate"), 0)


def test_the_same_seed_gives_the_same_paths_and_more_rounds_begin_alike() -> None:
    once = simulate(small())
    assert same(once, simulate(small()))
    assert same(once, simulate(small("loop.rounds=5")), rounds=3)
    assert not same(once, simulate(small("seed=1")))


def test_a_grid_keeps_its_order_and_mixes_shapes_and_rules() -> None:
    grid = [
        small("selection.beta=0.2"),
        small(*THREE),
        small("feedback.rule=static"),
        small("selection.strategy=tpp"),
        small("feedback.rule=retention"),
        small("feedback.rule=linear", "feedback.measure=own_kind"),
        small("feedback.rule=replicator", "feedback.measure=reward"),
    ]
    found = simulate_grid(grid)
    assert [p.experiment for p in found] == grid
    assert same(found[0], simulate_grid(grid[:1] + grid[2:3] + grid[4:])[0])
    assert_allclose(found[2].shares, np.broadcast_to([0.6, 0.4], found[2].shares.shape))
    assert np.ptp(found[4].arrivals[:, -1].sum(axis=-1)) > 0
    assert_allclose(found[5].arrivals.sum(axis=-1), 1000)
    assert found[0].kept_fraction[:, 1:].mean() < found[2].kept_fraction[:, 1:].mean()
    # a setting in a batch behaves as it does alone
    alone = simulate(small("feedback.rule=linear", "feedback.measure=own_kind", "analytic.seeds=2000"))
    together = simulate_grid(
        [
            small("analytic.seeds=2000"),
            small("feedback.rule=linear", "feedback.measure=own_kind", "analytic.seeds=2000"),
        ]
    )[1]
    assert_allclose(alone.shares.mean(axis=0), together.shares.mean(axis=0), atol=0.01)


def test_series_are_a_runs_metrics_and_the_table_is_tidy(tmp_path: Path) -> None:
    paths = simulate(small(*THREE, "analytic.seeds=5"))
    assert {metric for metric, _ in paths.series()} == {kind.name for kind in CATALOGUE if kind.analytic}
    table = paths.table()
    assert table.schema.names == [*SCHEMAS[Metric].names, "seed"]
    rows = table.to_pylist()
    groups = [r for r in rows if r["metric"] == "share" and r["round"] == 0 and r["seed"] == 4]
    assert {r["group"]: r["value"] for r in groups} == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2})
    assert not any(np.isnan(r["value"]) for r in rows)
    assert {r["round"] for r in rows if r["metric"] == "kept_share"} == {1, 2, 3}
    last = [r["value"] for r in rows if (r["metric"], r["round"], r["group"]) == ("quality", 3, "b")]
    assert last == paths.quality[:, 3, 1].tolist()


def test_bands() -> None:
    found = band(np.arange(101.0)[:, None], 0.9)
    assert (found.mean[0], found.low[0], found.high[0]) == pytest.approx((50, 5, 95))
    with pytest.raises(ValueError, match=r"confidence: 1.5 must lie between 0 and 1"):
        band(np.zeros((3, 2)), 1.5)


def test_the_gap_by_chance_is_that_of_equal_groups() -> None:
    equal = simulate(small("groups.shares=[0.5, 0.5]", "feedback.rule=static", "analytic.seeds=4000", "loop.rounds=1"))
    assert equal.disparity.gap[:, 0].mean() == pytest.approx(equal.gap_null[:, 0].mean(), rel=0.05)
    assert equal.gap_null[:, 0].mean() > 0.02


def test_the_gap_by_chance_covers_groups_that_the_base_serves_unequally() -> None:
    """Nothing is learned and nothing selected: the gap is what the base model made of it, and no more."""
    unequal = Start(np.array([[0.9, 0.1], [0.5, 0.5]]), np.array([0.5, 0.5]))
    still = small("selection.strategy=none", "analytic.prior_rows=1000000.0", "analytic.learning_exponent=0.0")
    paths = simulate(still, start=unequal)
    gap = paths.disparity.gap
    assert gap[:, 1:].mean() == pytest.approx(paths.gap_null[:, 1:].mean(), rel=0.15)
    # round 0 has nothing to compare with
    assert gap[:, 0].mean() > 1.5 * paths.gap_null[:, 0].mean()


def test_win_rates_integrate_over_the_rewards_of_a_kind() -> None:
    draws = np.random.default_rng(0).normal([0.5, -1.0], [0.3, 1.0], (400_000, 2))
    found = model.win_rates(np.array([0.5, -1.0]), np.array([0.3, 1.0]))
    assert_allclose(found, expit(draws).mean(axis=0), atol=2e-3)


@pytest.mark.parametrize(("mean", "sd"), [(1.0, 1.5), (1.0, 10.0), (-3.0, 40.0), (0.3, 1e4)])
def test_win_rates_of_wide_rewards_are_exact(mean: float, sd: float) -> None:
    # of r itself, with the step of the logistic function in the middle
    parts = [(-12.0 * sd + mean, -40.0), (-40.0, 0.0), (0.0, 40.0), (40.0, 12.0 * sd + mean)]
    if 12.0 * sd < 41.0 + abs(mean):
        parts = [(mean - 12.0 * sd, mean + 12.0 * sd)]
    exact = sum(quad(lambda r: expit(r) * norm.pdf(r, mean, sd), *part, limit=500, epsabs=1e-12)[0] for part in parts)
    found = model.win_rates(np.array([mean, 0.5]), np.array([sd, 0.3]))
    assert found[0] == pytest.approx(exact, abs=1e-9)
    assert found[1] == model.win_rates(np.array([0.5, 0.5]), np.array([0.3, 0.3]))[1]


RULES = (
    ("feedback.rule=softmax", "feedback.inertia=0.5"),
    ("feedback.rule=linear", "feedback.alpha=0.5"),
    ("feedback.rule=replicator",),
)


@pytest.mark.parametrize("rule", RULES)
def test_groups_that_ask_nothing_react_as_in_a_run(rule: tuple[str, ...]) -> None:
    """The rows of a run in which the same groups asked, by the run's own function."""
    few = (*THREE[:1], "groups.shares=[0.75, 0.15, 0.1]", "queries.prompts_per_round=10", "selection.strategy=none")
    paths = simulate(small(*few, *rule, "feedback.measure=reward", "analytic.kind_advantage=1.0", "loop.rounds=2"))
    names, settings = paths.experiment.groups.names, paths.experiment.feedback
    silent = paths.kept_shares[:, 1] == 0  # what is asked is kept
    assert_array_equal(np.isnan(paths.win_rate[:, 1]), silent)
    assert 5 < silent.any(axis=1).sum() < 35
    for now, after, won, nothing in zip(
        paths.arrivals[:, 1], paths.arrivals[:, 2], paths.win_rate[:, 1], silent, strict=True
    ):
        rows = [Metric(1, name, "share", share) for name, share in zip(names, now / now.sum(), strict=True)]
        rows += [Metric(1, name, "win_rate", won[k]) for k, name in enumerate(names) if not nothing[k]]
        measured = list(measure.reaction(rows, "reward").values())
        first = paths.experiment.groups.shares
        assert_allclose(after, rules.advance(now, measured, settings, initial_shares=first, round_=1, seed=0))


# data cycles and training


CALM = ("feedback.rule=static", "selection.strategy=none", "analytic.prior_rows=0", "analytic.own_kind_weight=0.0")


def kinds_after(*overrides: str, rounds: int = 3, start: Start | None = None) -> np.ndarray:
    """Exact share of the first kind on neutral prompts, shape (seeds, rounds + 1)."""
    found = simulate(small(*CALM, "task.marker_strength=0.0", f"loop.rounds={rounds}", *overrides), start=start)
    return np.asarray(found.neutral_law[..., 0])


def test_a_window_of_one_is_the_newest_and_a_long_one_is_everything() -> None:
    assert_array_equal(kinds_after("cycle.kind=window", "cycle.window_rounds=1"), kinds_after("cycle.kind=replace"))
    assert_array_equal(kinds_after("cycle.kind=window", "cycle.window_rounds=9"), kinds_after("cycle.kind=accumulate"))
    assert not np.array_equal(kinds_after("cycle.kind=window"), kinds_after("cycle.kind=accumulate"))


def test_a_subsample_holds_what_there_is_until_there_is_more() -> None:
    rows = 100 * 4
    everything = kinds_after("cycle.kind=subsample", f"cycle.size={3 * rows}")
    assert_array_equal(everything[:, 1], kinds_after("cycle.kind=accumulate")[:, 1])
    spread = [
        kinds_after("cycle.kind=subsample", f"cycle.size={n}", "analytic.seeds=2000")[:, 1].var() for n in (50, 400)
    ]
    # sampling a subsample adds to the noise of what it is drawn from: 1/400 + 1/50 - 1/400, and 1/400
    assert spread[0] == pytest.approx(0.25 / 50, rel=0.15) and spread[1] == pytest.approx(0.25 / 400, rel=0.15)


def test_weights_of_a_cycle_keep_groups_in_their_wanted_shares() -> None:
    for cycle in ("replace", "accumulate", "subsample", "window"):
        weighted = (
            "selection.strategy=importance",
            f"cycle.kind={cycle}",
            "cycle.size=900",
            "groups.shares=[0.8, 0.2]",
        )
        exact = ("queries.prompts_per_round=5000", "evaluation.prompts_per_group=1_000_000")
        experiment = small(*CALM, *weighted, *exact, "analytic.learning_exponent=1.0", "analytic.quality_ceiling=0.5")
        quality = simulate(experiment).quality[:, 3]
        assert_allclose(quality.mean(axis=0), [0.5, 0.5], atol=0.02)


def test_anchored_rows_are_the_same_every_round_and_fresh_ones_new() -> None:
    """So many real rows that they alone decide: the same deviation every round, or another one."""
    real = ("cycle.real_rows=100_000", "queries.prompts_per_round=1", "generation.samples_per_prompt=1")
    anchored, fresh = (kinds_after(*real, f"cycle.real={kind}", "analytic.seeds=500") for kind in ("anchored", "fresh"))
    assert np.corrcoef(anchored[:, 1], anchored[:, 2])[0, 1] > 0.99
    assert abs(np.corrcoef(fresh[:, 1], fresh[:, 2])[0, 1]) < 0.15
    assert anchored[:, 1].var() == pytest.approx(0.25 / 100_000, rel=0.2)


def test_anchored_rows_by_share_grow_and_shrink_with_the_data() -> None:
    """Rejection sampling keeps a different number every round; the real rows follow it, at the same share."""
    chosen = ("selection.strategy=vrs", "cycle.real_share=0.5", "groups.shares=[1.0, 0.0]")
    curve = ("analytic.learning_exponent=1.0", "analytic.quality_ceiling=0.5", "evaluation.prompts_per_group=1_000_000")
    quality = simulate(small(*CALM, *chosen, *curve, "loop.rounds=6", "queries.prompts_per_round=400")).quality[:, 1:]
    # half of the data is real, and half of that from either group
    assert_allclose(quality.mean(axis=0), np.broadcast_to([0.75, 0.25], (6, 2)), atol=0.01)


def test_retraining_returns_to_the_base_and_incremental_goes_on() -> None:
    pulled = ("selection.strategy=vrs", "analytic.kind_advantage=0.4", "analytic.choice_gain=0.0", "selection.beta=0.2")
    heavy = (*pulled, "analytic.prior_rows=500", "analytic.seeds=300", "queries.prompts_per_round=500")
    back, on = (
        kinds_after(*heavy, f"loop.kind={kind}", rounds=8).mean(axis=0) for kind in ("retraining", "incremental")
    )
    assert back[1] == on[1] > 0.52
    assert on[8] > back[8] + 0.1
    assert kinds_after(*heavy, "loop.kind=retraining", "analytic.prior_rows=1000000000", rounds=8).max() < 0.501


def test_a_context_without_data_keeps_its_start() -> None:
    start = Start(np.array([[0.9, 0.1], [0.3, 0.7]]), np.array([0.35, 0.65]))
    paths = simulate(small(*CALM, "task.marker_strength=1.0", "groups.shares=[1.0, 0.0]"), start=start)
    assert_allclose(paths.neutral_law, np.broadcast_to([0.35, 0.65], paths.neutral_law.shape))
    assert_allclose(paths.revealing_law[:, :, 1], np.broadcast_to([0.3, 0.7], paths.neutral_law.shape))
    assert np.ptp(paths.revealing_law[:, 3, 0, 0]) > 0


def test_more_candidates_for_the_weaker_group() -> None:
    uneven = ("groups.shares=[0.9, 0.1]", "feedback.rule=static", "analytic.quality_ceiling=0.6", "loop.rounds=2")
    exact = ("queries.prompts_per_round=2000", "analytic.learning_exponent=1.0", "analytic.own_kind_weight=0.0")
    paths = simulate(small("selection.strategy=reweight", *uneven, *exact))
    assert_allclose(paths.kept_shares[:, 1:], 0.5)
    # the same number of queries, n (1 - q) / mean (1 - q) candidates each: weights need not stretch as far
    plain = simulate(small("selection.strategy=vrs", *uneven, *exact))
    assert paths.quality[:, 1].std(axis=1).mean() < plain.quality[:, 1].std(axis=1).mean()


# what is refused


def test_no_experiment() -> None:
    with pytest.raises(ValueError, match="experiments: empty"):
        simulate_grid([])


def test_a_start_of_other_groups() -> None:
    with pytest.raises(ValueError, match=r"start: 2 kinds for groups \['a', 'b', 'c'\]"):
        simulate(small(*THREE), start=model.assumed_start(small()))
    with pytest.raises(ValueError, match=r"start.neutral"):
        Start(np.eye(2), np.array([0.5, 0.6]))
    with pytest.raises(ValueError, match=r"start.revealing: 3 shares for 2 groups"):
        Start(np.eye(3), np.array([0.5, 0.5]))


def test_real_data_given_twice() -> None:
    twice = small("cycle.real_share=0.5")
    twice = twice.model_copy(update={"cycle": twice.cycle.model_copy(update={"real_rows": 5})})
    with pytest.raises(ValueError, match=r"cycle.real_share: 0.5 given together with cycle.real_rows: 5"):
        simulate(twice)


def test_preference_training_is_not_modelled():
    with pytest.raises(ValueError, match=r"training\.objective: 'dpo' is not modelled in the analytic mode"):
        simulate(small("training.objective=dpo", "selection.strategy=vrs"))


def test_what_has_no_effect_is_named() -> None:
    assert model.without_effect(small()) == []
    given = ("queries.prompts=reused", "generation.top_p=0.9", "training.loss_on=all")
    assert model.without_effect(small(*given)) == list(given)


# the command line


def printed(*overrides: str, output: Path | None = None) -> str:
    screen = io.StringIO()
    job.run(small(*overrides), Console(file=screen, width=200), output=output)
    return screen.getvalue()


def test_what_is_printed() -> None:
    text = printed("queries.prompts=reused", "loop.rounds=30")
    assert "rounds in steps of 2" in " ".join(text.split()) and " 30 " in text
    assert "without effect in the analytic mode: queries.prompts=reused" in text
    assert "fixed points with the kinds of round 0: equal groups, rho(J) = 0.678, stable; the groups come to" in text
    assert "stability of the simulated paths" in text and "1,200 rounds simulated" in text
    few = printed(*THREE)
    assert "cannot tell with fewer than 4 rounds" in few and "steps" not in few and "without effect" not in few
    assert "analytic.seeds is 1" in printed("analytic.seeds=1")
    assert "none to give (feedback.rule: static" in printed("feedback.rule=static")


def test_what_was_simulated_is_written_before_anything_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(job, "round_table", fails)
    with pytest.raises(MemoryError):
        printed(output=tmp_path / "paths.parquet")
    assert pq.read_table(tmp_path / "paths.parquet").num_rows > 0


def test_more_seeds_than_memory_holds_are_refused_before_anything_is_computed() -> None:
    experiment = small("analytic.seeds=100_000_000_000")
    with pytest.raises(ValueError, match=r"^analytic.seeds: 100,000,000,000 seeds of 3 rounds need about .* GiB"):
        job.run(experiment, Console(file=io.StringIO()), output=None)
    job.check_memory(small(), lambda: 0.001)
    with pytest.raises(ValueError, match=r"of which 0.0 are free; lower analytic.seeds or loop.rounds"):
        job.check_memory(small(), lambda: 0.00001)


def test_points_of_rest_are_printed_in_words() -> None:
    text = printed("feedback.rule=replicator", "selection.strategy=none", "analytic.own_kind_weight=0.0")
    assert "equal groups, rho(J) = 1.200, unstable" in text and "where a group has died out" in text
    curve = ("analytic.quality_ceiling=0.5", "analytic.learning_exponent=1.0", "analytic.own_kind_weight=0.0")
    swings = printed(*curve, "selection.strategy=none", "feedback.beta=-4.0", "feedback.inertia=0.0")
    assert "the groups come to rest nowhere within reach" in swings
    assert "equal groups are none" in printed("feedback.rule=retention", "feedback.arrivals=[10.0, 90.0]")


def test_levelling_down_is_said() -> None:
    """The group that was served best loses its kind to selection: the gap falls because quality does."""
    start = Start(np.array([[0.9, 0.1], [1.0, 0.0]]), np.array([0.5, 0.5]))
    lost = (
        "analytic.kind_advantage=-0.5",
        "analytic.choice_gain=0.0",
        "analytic.prior_rows=200",
        "analytic.learning_exponent=0.0",
        "task.marker_strength=1.0",
    )
    fallen = simulate(
        small(*lost, "feedback.rule=static", "groups.shares=[0.5, 0.5]", "analytic.seeds=300"), start=start
    )
    gap = fallen.disparity.gap.mean(axis=0)
    assert gap[1] < gap[0]
    (line,) = job.levelled_lines(fallen)
    assert line.startswith("gap closed because all lost, in rounds 1")
    assert job.levelled_lines(simulate(small("feedback.rule=static", "selection.strategy=none"))) == []
    assert job.levelled_lines(simulate(small("analytic.seeds=1"))) == []


def test_the_command_simulates_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "paths.parquet"
    result = CliRunner().invoke(app, ["simulate", *SMALL, "--output", str(out)])
    assert result.exit_code == 0, result.output
    assert "120 rounds simulated" in result.output and "written" in result.output
    assert pq.read_table(out).equals(simulate(experiments.load(None, SMALL)).table())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "/no/such/folder/x.parquet"], "No such file or directory; give a file"),
        (["--fit-rounds", "2"], "needs a run to fit to, --from RUN_DIR"),
        (["selection.strategy=threshold", "selection.threshold=99"], "nothing was kept"),
        (["--from", "/no/such/run"], "not a run directory"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["simulate", *SMALL, *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_a_config_beside_a_run_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("seed: 1\n")
    result = CliRunner().invoke(app, ["simulate", str(config), "--from", str(tmp_path)])
    assert result.exit_code == 2 and "brings its own config" in result.output


def test_the_benchmark_prints_a_ratio() -> None:
    result = CliRunner().invoke(benchmark, ["simulate", *SMALL])
    assert result.exit_code == 0, result.output
    assert "times as fast" in result.output and "plain Python loop" in result.output
    refused = CliRunner().invoke(benchmark, ["simulate", *SMALL, "selection.strategy=tpp"])
    assert refused.exit_code == 2 and "the plain loop knows" in refused.output
