"""Study files, their trials, and the results table."""

from pathlib import Path

import pyarrow as pa
import pytest

from jobs.configs import CONFIGS, STUDIES
from jobs.driver import experiments
from scpl_ray.config import Experiment
from scpl_ray.config.errors import ConfigError
from scpl_ray.records import Metric
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies import results, study

TEXT = """
name: small
set: {loop.rounds: 2}
seeds: 3
arms:
  static: {feedback.rule: static}
  performative: {}
axes: {loop.kind: [retraining, incremental]}
claims:
  - {name: up, metric: disparate_gap, contrast: {performative: 1, static: -1}}
quick: {seeds: 1, arms: [static]}
"""


def load(tmp_path: Path, text: str, quick: bool = False) -> study.Study:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return study.load(path, CONFIGS, quick=quick)


def test_every_arm_at_every_point_with_every_seed(tmp_path: Path) -> None:
    plan = load(tmp_path, TEXT)
    trials = study.trials(plan, CONFIGS, experiments.build)
    assert len(trials) == len({t.folder for t in trials}) == 12
    assert [t.seed for t in trials] == [0] * 4 + [1] * 4 + [2] * 4
    for trial in trials:
        assert trial.experiment.seed == trial.seed and trial.experiment.loop.rounds == 2
        assert trial.experiment.feedback.rule == ("static" if trial.arm == "static" else "softmax")
        assert dict(trial.cell) == {"loop.kind": trial.experiment.loop.kind}
    assert trials[1].folder == "runs/performative,loop.kind=retraining/seed-000"


@pytest.mark.parametrize(
    "name",
    ["étude", "e\u0301tude", "左派", "जनता", "العربية", "می\u200cخواهم", "ภาษาไทย", "b-1.2_c"],  # noqa: RUF001
)
def test_names_are_of_any_language(tmp_path: Path, name: str) -> None:
    plan = load(
        tmp_path, TEXT.replace("small", name).replace("performative:", f"{name}:").replace("performative", name)
    )
    assert {trial.folder.split("/")[1].split(",")[0] for trial in study.trials(plan, CONFIGS)} == {"static", name}
    assert experiments.load(None, [f"name={name}"]).name == name


def test_a_study_may_train_a_base_model_per_seed(tmp_path: Path) -> None:
    trials = study.trials(load(tmp_path, TEXT + "vary: base\n"), CONFIGS, experiments.build)
    assert {(t.seed, t.experiment.model.base_seed) for t in trials} == {(0, 2026), (1, 2027), (2, 2028)}
    shared = study.trials(load(tmp_path, TEXT), CONFIGS, experiments.build)
    assert {t.experiment.model.base_seed for t in shared} == {2026}


def test_only_base_models_that_are_trained_here_can_vary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vary = 'base' trains a base model per seed, but model\.name = 'a/b'"):
        study.trials(load(tmp_path, f"{TEXT}vary: base\n".replace("loop.rounds: 2", "model.name: a/b")), CONFIGS)
    with pytest.raises(ConfigError, match="vary = 'base': mode = 'analytic' trains no base model"):
        load(tmp_path, "name: x\nmode: analytic\nvary: base\n")


def test_a_margin_belongs_to_claims_that_are_tested_as_a_mean(tmp_path: Path) -> None:
    plan = load(tmp_path, TEXT.replace("metric: disparate_gap", "metric: disparate_gap, margin: 0.02"))
    assert plan.claims[0].margin == 0.02
    with pytest.raises(ConfigError, match=r"margin = 0\.02, but kl_round0 is tested as a distance"):
        load(tmp_path, TEXT.replace("metric: disparate_gap", "metric: kl_round0, margin: 0.02"))


@pytest.mark.parametrize(
    ("asked", "largest"),
    [
        ("metric: preference_log_odds_balanced, margin: {}", 1.0),
        ("metric: preference_log_odds_round0, margin: {}", 2.0),
        ("metric: kind_log_odds_balanced, group: north, margin: {}", 1.0),
        ("metric: kind_difference_round0, group: north, margin: {}", 2.0),
        ("metric: quality_mean, margin: {}", 1.0),
    ],
)
def test_a_margin_is_smaller_than_what_no_difference_can_exceed(tmp_path: Path, asked: str, largest: float) -> None:
    plan = load(tmp_path, TEXT.replace("metric: disparate_gap", asked.format(largest - 0.01)))
    assert plan.claims[0].margin == largest - 0.01
    for margin in (largest, 2 * largest):
        with pytest.raises(ConfigError, match=rf"margin = {margin}, .*is never further from 0 than {largest:g}: it"):
            load(tmp_path, TEXT.replace("metric: disparate_gap", asked.format(margin)))
    twice = TEXT.replace("performative: 1, static: -1", "performative: 2, static: -2")
    assert load(tmp_path, twice.replace("metric: disparate_gap", asked.format(largest))).claims[0].margin == largest
    unbounded = TEXT.replace("metric: disparate_gap", "metric: perplexity_round0, margin: 5.0")
    assert load(tmp_path, unbounded).claims[0].margin == 5.0


def test_a_dumped_study_is_the_same_study(tmp_path: Path) -> None:
    plan = load(tmp_path, TEXT)
    assert load(tmp_path, study.dump(plan)) == plan


def test_quick_keeps_its_arms_and_the_claims_on_them(tmp_path: Path) -> None:
    plan = load(tmp_path, TEXT, quick=True)
    assert plan.seeds == 1 and list(plan.arms) == ["static"] and plan.claims == ()


def test_a_search_has_no_seeds_and_no_quick_look(tmp_path: Path) -> None:
    text = "name: s\nmode: search\nsearch: {metric: quality_mean, trials: 2}\naxes: {feedback.beta: [1.0, 2.0]}\n"
    plan = load(tmp_path, text)
    assert load(tmp_path, study.dump(plan)) == plan
    with pytest.raises(ConfigError, match=r"--quick: a search has no seeds.*search\.trials says how many"):
        load(tmp_path, f"{text}quick: {{seeds: 1}}\n", quick=True)
    with pytest.raises(ConfigError, match=r"seeds = 3: a search has no seeds.*search\.trials says how many"):
        load(tmp_path, f"{text}seeds: 3\n")


def test_a_section_given_whole_is_laid_key_by_key(tmp_path: Path) -> None:
    text = "name: x\nset: {loop: {rounds: 2}}\narms: {a: {loop: {kind: retraining}}}\nbase: {loop: {rounds: 9}}\n"
    path = tmp_path / "s.yaml"
    path.write_text(text)
    for keys, rounds in (({}, 2), ({"loop": {"kind": "retraining"}}, 2), ({"loop": {"rounds": 3}}, 3)):
        (trial,) = study.trials(study.load(path, CONFIGS, keys={"seeds": 1, **keys}), CONFIGS)
        assert (trial.experiment.loop.rounds, trial.experiment.loop.kind) == (rounds, "retraining")


@pytest.mark.parametrize(("value", "example"), [("retraining", "[retraining]"), ("0.5", "[0.5]"), ("'1'", "['1']")])
def test_an_axis_of_one_value_is_shown_as_a_list(value: str, example: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        load(tmp_path, f"name: x\naxes: {{loop.kind: {value}}}\n")
    said = f"axes.loop.kind = {value if '.' in value else repr(value.strip(chr(39)))}: input should be a list such as "
    assert f"{said}{example}, or a mapping with low, high, log" in str(found.value)


def test_an_arm_wins_over_axes_set_and_base(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("loop: {rounds: 7, kind: retraining}\nseed: 5\nfeedback: {beta: 9.0}\n")
    text = (
        "name: x\nbase: base.yaml\nset: {loop.rounds: 8, feedback.beta: 8.0}\naxes: {feedback.beta: [7.0]}\n"
        "arms: {a: {loop.rounds: 6}}"
    )
    (trial, *_) = study.trials(load(tmp_path, text), CONFIGS, experiments.build)
    assert (trial.experiment.loop.rounds, trial.experiment.loop.kind) == (6, "retraining")
    assert trial.experiment.feedback.beta == 7.0 and trial.seed == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: x", "nam: unknown key; the nearest is name"),
        ("seeds: 3", "1 problem\n  name: missing; give it"),
        ("name: x\nsedes: 3", "sedes: unknown key; the nearest is seeds"),
        (
            "name: x\nclaims: [{name: u, metrik: m, contrast: {}}]",
            "claims.0.metrik: unknown key; the nearest is claims.0",
        ),
        ("name: x\nclaims: up", "claims = 'up': input should be a list of sections with name, question, metric"),
        (
            "name: x\naxes: {seed: 3}",
            "axes.seed = 3: input should be a list such as [3], or a mapping with low, high, log",
        ),
        ("name: x\nsearch: 3\nmode: search", "search.sampler, or null"),
        ("name: x\nset: {preset: retraining, loop.kind: incremental}", "arm only: 1 problem\n  preset = 'retraining'"),
        ("name: x\nset: {preset: retraining}\narms: {a: {loop.kind: incremental}}", "'incremental' is given too"),
        ("name: a/b", "names a folder"),
        ("name: x\narms: {}", "at least one arm"),
        ("name: x\narms: {a b: {}}", "'a b'"),
        ("name: x\naxes: {seed: []}", "at least one value"),
        ("name: x\naxes: {feedback.beta: {low: 0.1, high: 1.0}}", "a range is sampled, with mode=search"),
        ("name: x\nmode: search", "a section `search`"),
        (
            "name: x\nmode: search\nsearch: {metric: kl_round0}\naxes: {feedback.beta: {low: 1.0, high: 1.0}}",
            "low < high",
        ),
        ("name: x\nmode: search\nsearch: {metric: pass_at_4}\narms: {a: {}, b: {}}\naxes: {seed: [1]}", "one arm"),
        (
            "name: x\nmode: search\nsearch: {metric: quality_man}\naxes: {seed: [1, 2]}",
            "search.metric = 'quality_man': no metric of a round over all groups; the nearest is quality_mean, of",
        ),
        ("name: x\nmode: search\nsearch: {metric: kind_share}\naxes: {seed: [1, 2]}", "search.metric = 'kind_share'"),
        (
            "name: x\nmode: search\nsearch: {metric: kl_round0}\naxes: {selection.bta: {low: 0.1, high: 1.0}}",
            "study x, axis selection.bta: 1 problem\n  selection.bta: unknown key; the nearest is selection.beta",
        ),
        (
            "name: x\nmode: search\nsearch: {metric: kl_round0}\naxes: {selection.beta: {low: -1.0, high: 1.0}}",
            "study x, axis selection.beta: 1 problem\n  selection.beta = -1.0",
        ),
        ("name: x\nquick: {arms: [b]}", "'b' is no arm; the arms are only"),
        ("name: x\nclaims: [{name: u, metric: m, contrast: {only: 1}}]", "sum to 0"),
        ("name: x\nclaims: [{name: u, metric: m, contrast: {only: 1, b: -1}}]", "'b', which is no arm"),
        (
            "name: x\narms: {a: {}, b: {}}\nclaims: [{name: u, metric: m, contrast: {a: 1, b: 1}}]",
            "sum to 0",
        ),
        (
            "name: x\narms: {a: {}, b: {}}\nclaims: [{name: u, metric: m, contrast: {a: 1, b: -1}}, "
            "{name: u, metric: n, contrast: {a: 1, b: -1}}]",
            "given twice",
        ),
        ("name: x\narms: {a: {loop.kind: foo}}", "study x, arm a: 1 problem\n  loop.kind = 'foo'"),
        ("name: x\narms: {a: {lop.kind: foo}}", "lop: unknown key"),
        ("name: x\naxes: {selection.beta: [0.5, 0.0]}", "arm only selection.beta=0.0"),
        ("name: x\nbase: nowhere.yaml", "nowhere.yaml"),
        (
            "name: x\nseeds: 100000\narms: {a: {}, b: {}}",
            "more than 100,000 trials; narrow the axes, or take fewer seeds",
        ),
        ("name: x\nbase: 3", "or a mapping such as {key: value}"),
        ("name: x\nbase: {lop: {}}", "study x, arm only: 1 problem\n  lop: unknown key; the nearest is loop"),
        ("name: x\nseeds: 3\nset: {seed: 9223372036854775806}", "its last seed would be 9223372036854775808"),
        (f"name: {'x' * 201}", "at most 200 bytes"),
        (f"name: x\narms: {{{'é' * 101}: {{}}}}", "at most 200 bytes"),
        (f"name: {'x' * 120}\narms: {{{'a' * 120}: {{}}}}", "name and arm together"),
        (f"name: x\naxes: {{task.data: [{'d' * 300}]}}", "folder of 315 bytes; a file system takes 255"),
    ],
)
def test_a_study_that_cannot_run_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study.trials(load(tmp_path, text), CONFIGS, experiments.build)
    assert message in str(caught.value)


def test_a_preset_of_an_arm_wins_over_set_and_base(tmp_path: Path) -> None:
    text = (
        "name: x\nbase: maths_tiny\nset: {loop.kind: incremental, task.data: d.jsonl}\n"
        "arms: {a: {preset: retraining-real}, b: {}}"
    )
    a, b = (trial.experiment for trial in study.trials(load(tmp_path, text), CONFIGS)[:2])
    assert (a.loop.kind, a.cycle.real_share, b.loop.kind, b.cycle.real_share) == ("retraining", 0.5, "incremental", 0.0)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"name": "x"}, None),
        ({"name": "x", "seeds": 3}, None),
        ({"name": "x", "seed": 3}, None),
        ({"name": "x", "arms": {}}, study.Study),
        ({"title": "x"}, study.Study),
        ({"name": "x", "loop": {}}, Experiment),
        ({"name": "x", "loop": {}, "arms": {}}, None),
        ({"name": "x", "unknown": 1}, None),
    ],
)
def test_the_kind_of_a_file_is_told_by_its_keys(values: dict[str, object], kind: object) -> None:
    assert study.kind(values) is kind


@pytest.mark.parametrize("name", STUDIES)
def test_built_in_studies_can_run(name: str) -> None:
    for quick in (False, True):
        plan = study.load(STUDIES[name], CONFIGS, quick=quick)
        assert len(study.trials(plan, CONFIGS, experiments.build)) >= 2 * plan.seeds


def test_the_results_table_reads_back(tmp_path: Path) -> None:
    rows = [Metric(0, None, "disparate_gap", 0.25), Metric(1, "north", "share", 0.5)]
    found = results.table([("a", 0, rows), ("b", 3, rows[:1])])
    results.write(found, tmp_path)
    assert results.read(tmp_path) == found
    assert list(results.records(found)) == [("a", 0, rows[0]), ("a", 0, rows[1]), ("b", 3, rows[0])]
    assert results.run_rows(tmp_path / "nothing") == []


def test_a_table_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="run the study, or resume it"):
        results.read(tmp_path)
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"arm": ["a"]}), tmp_path / results.FILE)
    with pytest.raises(StoreError, match="columns"):
        results.read(tmp_path)
