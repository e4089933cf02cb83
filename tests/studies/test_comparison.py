"""The study of one loop and its control."""

from pathlib import Path

import pytest

from jobs.configs import CONFIGS, QUICK_START
from jobs.driver import experiments
from scpl_ray.config import Experiment, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.studies import study
from scpl_ray.studies.comparison import LOOP, comparison
from scpl_ray.studies.power import seeds_needed

RETENTION = ["feedback.sensitivity=[0.2, 2.0]", "loop.rounds=2"]


def keys(overrides: list[str]) -> dict[str, object]:
    return dict(map(loading.parse_override, overrides))


@pytest.mark.parametrize(
    ("preset", "against", "key", "value"),
    [
        ("incremental-real", "retraining", ("loop", "kind"), "retraining"),
        ("incremental-real", "cycle.real_share=0.25", ("cycle", "real_share"), 0.25),
        ("incremental-real", "preset=incremental", ("cycle", "real_share"), 0.0),
    ],
)
def test_a_control_may_change_what_a_preset_sets(
    preset: str, against: str, key: tuple[str, str], value: object, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(f"preset: {preset}\n")
    for base, own in ((QUICK_START, [f"preset={preset}"]), (str(tmp_path / "c.yaml"), [])):
        experiment = experiments.load(CONFIGS.get(base, Path(base)), own)
        plan = comparison(experiment, against, base=base, own=keys(own))
        loop, other = (t.experiment for t in study.trials(plan, CONFIGS, experiments.build)[:2])
        both = [one.model_dump(exclude={"name", "preset"}) for one in (loop, other)]
        assert both[1][key[0]].pop(key[1]) == value != both[0][key[0]].pop(key[1]) and both[0] == both[1]


@pytest.mark.parametrize(
    ("against", "control", "changed"),
    [
        ("static", "static", ("feedback", "rule", "static")),
        ("retraining", "retraining", ("loop", "kind", "retraining")),
        ("selection.beta=2.0", "control", ("selection", "beta", 2.0)),
    ],
)
def test_the_two_arms_differ_in_one_key(against: str, control: str, changed: tuple[str, str, object]) -> None:
    experiment = experiments.load(None, RETENTION)
    plan = comparison(experiment, against, base=QUICK_START, own=keys(RETENTION))
    trials = study.trials(plan, CONFIGS)
    assert [(t.arm, t.seed) for t in trials[:4]] == [(LOOP, 0), (control, 0), (LOOP, 1), (control, 1)]
    loop, other = (t.experiment.model_dump(exclude={"name", "seed"}) for t in trials[:2])
    assert loop == experiment.model_dump(exclude={"name", "seed"})
    section, key, value = changed
    assert other[section].pop(key) == value != loop[section].pop(key) and other == loop


def test_its_seeds_are_enough_for_a_verdict_on_its_one_claim() -> None:
    plan = comparison(Experiment(), "static")
    assert len(plan.claims) == 1 and plan.seeds >= seeds_needed(1)
    assert plan.claims[0].contrast == {LOOP: 1.0, "static": -1.0}


@pytest.mark.parametrize(
    ("given", "against", "said"),
    [
        (["feedback.rule=static"], "static", r"nothing to compare; .* let users react \(feedback.rule=retention\)"),
        (["loop.kind=retraining"], "retraining", r"nothing to compare; .* last policy \(loop.kind=incremental\)"),
        (["feedback.rule=static", "loop.kind=retraining"], "retraining", r"\(loop.kind=incremental\), or compare"),
        (["feedback.rule=retention"], "feedback.rule=retention", "has feedback.rule=retention; give another value"),
        (["preset=retraining"], "preset=retraining", "has preset=retraining; give another value"),
        ([], "statc", "give static, retraining, or KEY=VALUE"),
        ([], "=3", "expected key=value"),
        ([], "name=other", "nothing to compare; name makes no difference to a loop; give another key"),
        ([], "seed=7", "nothing to compare; seed makes no difference to a loop"),
        ([], "store.keep=all", "nothing to compare; store.keep makes no difference"),
        (["feedback.function=math:sqrt"], "feedback.function=math:sqrt", "nothing to compare; the config has feedback"),
        (["preset=retraining"], "retraining", r"\(preset=null loop.kind=incremental\)"),
        ([], "loop.rounds=3", "both are compared after the same number of rounds"),
        ([], "selection.betta=3", "the nearest is selection.beta"),
    ],
)
def test_what_compares_nothing_is_refused_with_a_way_out_of_its_own(given: list[str], against: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        comparison(experiments.load(None, given), against, own=keys(given))
