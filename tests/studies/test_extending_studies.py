"""Studies that extend others, in several sizes, with keys for this time, and with seeds added later."""

from pathlib import Path
from typing import Any

import pytest

from jobs import report
from jobs.configs import CONFIGS, STUDIES
from jobs.driver import study as job
from scpl_ray.config.errors import ConfigError
from scpl_ray.report import data, words
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies import results, study
from scpl_ray.studies.power import seeds_needed

PAPER = ("paper_news", "paper_preference", "paper_maths")
BELOW = """
name: below
base: defaults
set: {loop.rounds: 2, queries.prompts_per_round: 64}
arms: {a: {}, b: {feedback.rule: static}, c: {loop.kind: retraining}}
claims:
  - {name: one, metric: disparate_gap, contrast: {a: 1, b: -1}}
  - {name: two, metric: disparate_gap, contrast: {a: 1, c: -1}}
quick: {arms: [a, c]}
"""


def load(tmp_path: Path, above: str, **keys: Any) -> study.Study:
    (tmp_path / "below.yaml").write_text(BELOW)
    (tmp_path / "above.yaml").write_text(above)
    return study.load(tmp_path / "above.yaml", CONFIGS, **keys)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_questions_are_the_same_for_every_task(name: str) -> None:
    news, plan = (study.load(STUDIES[one], CONFIGS) for one in ("paper_news", name))
    assert list(plan.sizes) == [] and plan.seeds >= seeds_needed(len(plan.claims))
    assert [claim for claim in news.claims if set(claim.contrast) <= set(plan.arms)] == list(plan.claims)
    assert set(news.arms) - set(plan.arms) == ({"static-dpo", "shifted-dpo"} if name == "paper_preference" else set())
    sizes = {size: study.load(STUDIES[name], CONFIGS, keys={"size": size}) for size in ("tiny", "smollm2", "qwen_7b")}
    for size, sized in sizes.items():
        assert sized.base == f"{name.removeprefix('paper_')}_{size}" in CONFIGS
        assert (sized.arms, sized.claims) == (plan.arms, plan.claims)
        for trial in study.trials(sized.model_copy(update={"seeds": 1}), CONFIGS):
            shifted = trial.experiment.feedback.rule == "schedule"
            assert shifted == trial.arm.startswith("shifted") and trial.experiment.loop.rounds == 5
            last = [
                s + 4 * d
                for s, d in zip(trial.experiment.groups.shares, trial.experiment.feedback.step or (), strict=True)
            ]
            assert min(last) > 0 and sum(last) == pytest.approx(1.0)
    assert study.load(STUDIES[name], CONFIGS, quick=True).seeds == 3


def test_what_is_different_wins_and_claims_go_with_their_arms(tmp_path: Path) -> None:
    plan = load(tmp_path, "extends: below.yaml\nname: above\nset: {loop.rounds: 3}\narms: {c: null, d: {}}\n")
    assert plan.name == "above" and plan.set == {"loop.rounds": 3, "queries.prompts_per_round": 64}
    assert list(plan.arms) == ["a", "b", "d"] and [claim.name for claim in plan.claims] == ["one"]
    assert plan.quick.arms == ("a",)
    again = tmp_path / "again.yaml"
    again.write_text(study.dump(plan))
    assert study.load(again, CONFIGS) == plan


def test_keys_for_this_time(tmp_path: Path) -> None:
    above = "extends: below.yaml\nsizes: {big: {base: news_tiny, set: {loop.rounds: 7}}}\n"
    keys = {"name": "mine", "seeds": 4, "arms": ["a", "b"], "size": "big", "selection.beta": 2.0}
    plan = load(tmp_path, above, keys=keys)
    assert (plan.name, plan.seeds, list(plan.arms), plan.base) == ("mine", 4, ["a", "b"], "news_tiny")
    assert plan.set == {"loop.rounds": 7, "queries.prompts_per_round": 64, "selection.beta": 2.0}
    assert [claim.name for claim in plan.claims] == ["one"]


def test_arms_whose_names_look_like_numbers_are_kept_with_their_claims(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "name: s\narms: {'1': {}, '2': {feedback.rule: static}, '3': {}, '2024': {}}\nquick: {arms: ['1', '2024']}\n"
        "claims: [{name: c, metric: disparate_gap, contrast: {'1': 1, '2': -1}}]\n"
    )
    plan = study.load(path, CONFIGS, keys={"arms": [1, 2, 2024]})
    assert list(plan.arms) == ["1", "2", "2024"] and [claim.name for claim in plan.claims] == ["c"]
    assert plan.quick.arms == ("1", "2024")


OWN = """
name: own
mode: analytic
set: {loop.rounds: 2, selection.strategy: vrs}
arms:
  a: {feedback.rule: static, reward.terms.model: 0.5}
  b: {feedback: {rule: softmax}, selection.strategy: reweight}
  c: {feedback.rule: linear, preset: retraining}
axes: {queries.prompts_per_round: [64, 128]}
"""


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"feedback.rule": "retention"},
            r"feedback.rule = 'retention': would change nothing: every arm sets it itself \(a, b, c\); edit `arms` in "
            "the study file",
        ),
        ({"feedback": {"rule": "retention"}}, "feedback.rule = 'retention': would change nothing: every arm"),
        (
            {"feedback.rule": "retention", "arms": ["b"]},
            r"feedback.rule = 'retention': would change nothing: every arm sets it itself \(b\)",
        ),
        ({"loop.kind": "incremental", "arms": ["c"]}, "loop.kind = 'incremental': would change nothing: every arm"),
        (
            {"reward.terms": {"model": 1.0}, "arms": ["a"]},
            "reward.terms = {'model': 1.0}: would change nothing: every arm",
        ),
        (
            {"queries.prompts_per_round": 32},
            "queries.prompts_per_round = 32: would change nothing: the axis queries.prompts_per_round of study own "
            "sets it; edit `axes` in the study file",
        ),
    ],
)
def test_a_key_that_all_arms_or_an_axis_set_is_refused(keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    with pytest.raises(ConfigError, match=said):
        study.load(tmp_path / "own.yaml", CONFIGS, keys=keys)


def test_a_key_that_the_axis_of_a_search_or_its_arm_sets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "name: s\nmode: search\nsearch: {metric: disparate_gap}\narms: {a: {feedback.rule: static}}\n"
        "axes: {selection.beta: {low: 0.5, high: 2.0}}\n"
    )
    with pytest.raises(ConfigError, match=r"selection\.beta = 1\.0: would change nothing: the axis selection\.beta of"):
        study.load(tmp_path / "s.yaml", CONFIGS, keys={"selection.beta": 1.0})
    with pytest.raises(ConfigError, match=r"feedback\.rule = 'linear': would change nothing"):
        study.load(tmp_path / "s.yaml", CONFIGS, keys={"feedback.rule": "linear"})


def test_arms_that_keep_their_own_value_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "own.yaml").write_text(OWN)
    plan = study.load(tmp_path / "own.yaml", CONFIGS, keys={"selection.strategy": "tpp", "loop.rounds": 3})
    assert {t.arm: t.experiment.selection.strategy for t in study.trials(plan, CONFIGS)} == {
        "a": "tpp",
        "b": "reweight",
        "c": "tpp",
    }
    assert caplog.messages == [
        "selection.strategy = 'tpp': is not for b, which set it in the study file; leave such arms out with "
        "'arms=[a, c]', or edit the file"
    ]
    caplog.clear()
    for keys in ({"selection.strategy": "tpp", "arms": ["a", "c"]}, {"feedback.rule": "linear", "arms": ["c"]}):
        study.load(tmp_path / "own.yaml", CONFIGS, keys=keys)
    assert not caplog.messages


@pytest.mark.parametrize(
    ("above", "keys", "said"),
    [
        ("extends: 3\n", {}, "give the path of another study file"),
        ("extends: nothing.yaml\n", {}, "nothing.yaml"),
        ("extends: above.yaml\n", {}, "extends = 'above.yaml' is this file itself; give another study file"),
        ("extends: ./above.yaml\n", {}, "is this file itself"),
        ("extends: below.yaml\narms: {c: null}\nclaims:\n", {}, "claims"),
        ("extends: below.yaml\narms: {c: null}\nclaims: [3, {contrast: 4}]\n", {}, "claims"),
        ("extends: below.yaml\narms: {c: null}\nquick:\n", {}, "quick"),
        ("extends: below.yaml\narms: {c: null}\nquick: {arms: [[a]]}\n", {}, "quick"),
        ("extends: below.yaml\n", {"size": "big"}, "it has one size only"),
        ("extends: below.yaml\nsizes: {big: {base: news_tiny}}\n", {"size": "huge"}, "it has big"),
        ("extends: below.yaml\n", {"arms": ["a", "z"]}, "give a list of arms of study below: a, b, c"),
        ("extends: below.yaml\n", {"seeds": 0}, "seeds"),
        ("extends: below.yaml\n", {"seed": 3, "rounds": 2}, "rounds: no key of a study that can be given here"),
    ],
)
def test_what_cannot_be_is_said(above: str, keys: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        load(tmp_path, above, keys=keys)


def test_a_base_lies_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for folder in (lower, upper):
        folder.mkdir()
        for name in ("base.yaml", "big.yaml"):
            (folder / name).write_text("loop: {rounds: 3}\n")
    (lower / "below.yaml").write_text(
        BELOW.replace("base: defaults", "base: base.yaml\nsizes: {big: {base: big.yaml}}")
    )
    (upper / "above.yaml").write_text(
        "extends: ../lower/below.yaml\nname: above\nsizes: {own: {base: big.yaml}, news: {base: news_tiny}}\n"
    )
    monkeypatch.chdir(tmp_path)
    plan = study.load(upper / "above.yaml", CONFIGS)
    assert plan.base == str(lower / "base.yaml")
    sizes = ("big", "own", "news")
    bases = {size: study.load(upper / "above.yaml", CONFIGS, keys={"size": size}).base for size in sizes}
    assert bases == {"big": str(lower / "big.yaml"), "own": str(upper / "big.yaml"), "news": "news_tiny"}


@pytest.mark.parametrize("values", ["[2, 2]", "[a/b, a_b]"])
def test_two_points_with_one_folder_are_refused(values: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"{BELOW}axes: {{loop.rounds: {values}}}\n")
    with pytest.raises(ConfigError, match="two arms or points of the axes have the folder runs/a,loop"):
        study.trials(study.load(path, CONFIGS), CONFIGS)


def test_a_grid_of_too_many_points_is_refused_before_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    values = list(range(1, 1001))
    path.write_text(f"{BELOW}axes: {{loop.rounds: {values}, seed: {values}, selection.best_of: {values}}}\n")
    with pytest.raises(
        ConfigError, match="3 arms x 1000000000 points x 10 seeds are more than 100,000 trials; narrow the axes"
    ):
        study.trials(study.load(path, CONFIGS), CONFIGS)


def test_seeds_added_after_a_look_are_said_aloud(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(BELOW + "mode: analytic\nseeds: 6\n")
    folder = tmp_path / "studies"
    plan, trials, _ = job.checked(study.load(path, CONFIGS), dry_run=False)
    job.create(folder, plan)
    assert job.run(folder, plan, trials) == 0
    for wrong in ({"seeds": 6}, {"seeds": 4}, {"seeds": 8, "loop.rounds": 3}, {"seeds": True}):
        with pytest.raises(ConfigError, match="may only get more seeds than its 6"):
            job.open_study(folder, wrong)
    more = job.open_study(folder, {"seeds": 8})
    assert (more.seeds, more.interim) == (8, (6,))
    plan, trials, _ = job.checked(more, dry_run=False)
    job.extend(folder, plan)
    assert job.run(folder, plan, trials) == 0
    assert set(results.read(folder)["seed"].to_pylist()) == set(range(8))
    (part,) = data.load([folder], CONFIGS)
    assert "after a look at the results with 6 seeds" in words.looked(part) and words.looked(part) in words.condition(
        part
    )


def test_seeds_added_by_hand_or_after_failures_are_added_after_a_look_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(BELOW + "mode: analytic\nseeds: 8\n")
    folder = tmp_path / "studies"
    plan, trials, _ = job.checked(study.load(path, CONFIGS), dry_run=False)
    job.create(folder, plan)
    with monkeypatch.context() as patch:
        simulated = job.simulated

        def some(*given: Any) -> Any:
            return (found := simulated(*given)).filter([seed < 7 for seed in found["seed"].to_pylist()])

        patch.setattr(job, "simulated", some)
        assert job.run(folder, plan, trials) == 0
    (part,) = data.load([folder], CONFIGS)
    assert results.looks(folder) == (7,) and words.looked(part) == ""
    assert job.run(folder, plan, trials) == 0
    (part,) = data.load([folder], CONFIGS)
    assert "after a look at the results with 7 seeds. Each of 2 looks" in words.looked(part)
    (folder / study.STUDY_FILE).write_text(study.dump(plan.model_copy(update={"seeds": 9})))
    plan = job.open_study(folder)
    assert job.run(folder, plan, study.trials(plan, CONFIGS)) == 0
    (part,) = data.load([folder], CONFIGS)
    assert "after a look at the results with 7, 8 seeds. Each of 3 looks" in words.looked(part)


def test_a_report_of_an_unfinished_study_is_a_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(BELOW + "mode: analytic\nseeds: 10\n")
    folder = tmp_path / "studies"
    plan, trials, _ = job.checked(study.load(path, CONFIGS), dry_run=False)
    job.create(folder, plan)
    whole = job.simulated(plan, trials)

    def stopped_after(seeds: int) -> None:
        results.write(whole.filter([seed < seeds for seed in whole["seed"].to_pylist()]), folder)

    stopped_after(5)  # intervals alone, which nobody can take for a verdict
    report.write([folder], tmp_path / "out")
    assert results.looks(folder) == ()
    for seeds in (7, 8):
        stopped_after(seeds)
        report.write([folder], tmp_path / "out")
    assert results.looks(folder) == (7, 8)
    assert job.run(folder, plan, trials) == 0
    (part,) = data.load([folder], CONFIGS)
    assert "after a look at the results with 7, 8 seeds. Each of 3 looks" in words.looked(part)

    def read_only(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    stopped_after(9)
    monkeypatch.setattr(results, "write_atomically", read_only)
    assert report.write([folder], tmp_path / "out").exists() and results.looks(folder) == (7, 8, 10)


def test_a_look_is_not_forgotten_where_the_study_went_on_and_was_stopped_since(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(BELOW + "mode: analytic\nseeds: 6\n")
    folder = tmp_path / "studies"
    plan, trials, _ = job.checked(study.load(path, CONFIGS), dry_run=False)
    job.create(folder, plan)
    assert job.run(folder, plan, trials) == 0 and results.looks(folder) == (6,)
    (folder / results.FILE).unlink()  # as a study does that goes on after runs that failed
    more = job.open_study(folder, {"seeds": 8})
    assert more.interim == (6,)
    job.extend(folder, more)
    # it was stopped before its next table: that is no look
    assert job.open_study(folder, {"seeds": 12}).interim == (6,)
    for damage in ("6", "[0]", "[true]", "not JSON", "[1.5]"):
        (folder / results.LOOKS_FILE).write_text(damage)
        with pytest.raises(StoreError, match="write the numbers of seeds with which it was finished there"):
            job.open_study(folder, {"seeds": 12})
