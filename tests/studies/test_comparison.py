"""The study of one loop and its control."""

import pytest

from jobs.configs import CONFIGS, QUICK_START
from jobs.driver import experiments
from scpl_ray.config import Experiment
from scpl_ray.config.errors import ConfigError
from scpl_ray.studies import study
from scpl_ray.studies.comparison import LOOP, comparison
from scpl_ray.studies.power import seeds_needed

RETENTION = ["feedback.sensitivity=[0.2, 2.0]", "loop.rounds=2"]


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
    plan = comparison(experiment, against, base=QUICK_START, overrides=RETENTION)
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
    ("keys", "against", "said"),
    [
        (["feedback.rule=static"], "static", "feedback.rule=static itself"),
        (["loop.kind=retraining"], "retraining", "loop.kind=retraining itself"),
        ([], "statc", "give static, retraining, or KEY=VALUE"),
        ([], "=3", "expected key=value"),
    ],
)
def test_what_compares_nothing_is_refused(keys: list[str], against: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        comparison(experiments.load(None, keys), against, overrides=keys)
