"""The stability of an arm, from a results table."""

import dataclasses

import numpy as np
import pytest

from scpl_ray.analytic.loop import simulate
from scpl_ray.studies.series import Series
from scpl_ray.studies.stability import arm_stability
from tests.theory.stability_calibration import MANY_ANSWERS, experiment, series_of

RETRAINING: dict[str, dict[str, object]] = {
    "loop": {"kind": "retraining", "rounds": 20},
    "selection": {"strategy": "none"},
    "queries": {"prompts_per_round": 100},
    "analytic": {"seeds": 20},
    **MANY_ANSWERS,
}


def test_what_a_loop_passes_on_decides_what_may_be_said() -> None:
    complete = experiment(RETRAINING)
    series = series_of(simulate(complete), range(20))
    found, unknown = arm_stability(series, "arm", complete)
    assert unknown == "" and found is not None
    assert (found.verdict, found.state, found.seeds, found.rounds) == ("stable", "shares and kinds", 20, 19)
    assert found.jacobian.shape == (4, 4) and found.fixed_point == pytest.approx([0.5, 0.5], abs=0.02)

    # the same numbers, from loops that remember more
    for changes, reason in (
        ({"loop": {"kind": "incremental"}}, "shows no growth, but with loop.kind=incremental the weights remember"),
        ({"cycle": {"kind": "accumulate"}}, "shows no growth, but cycle.kind=accumulate trains on the data of earlier"),
        ({"cycle": {"kind": "window", "window_rounds": 3}}, "cycle.kind=window"),
        ({"feedback": {"rule": "retention"}}, "shows no growth, but feedback.rule=retention passes on how many users"),
    ):
        other, _ = arm_stability(series, "arm", experiment(RETRAINING, changes))
        assert other is not None and other.verdict == "cannot tell" and reason in other.reason
        assert (other.rho, other.low, other.high) == (found.rho, found.low, found.high)
    whole = experiment(RETRAINING, {"cycle": {"kind": "window", "window_rounds": 1}})
    same, _ = arm_stability(series, "arm", whole)
    assert same is not None and same.verdict == "stable"


def test_shares_alone_never_show_that_a_loop_is_stable() -> None:
    complete = experiment(RETRAINING)
    series = series_of(simulate(complete), range(20))
    kept = {key: path for key, path in series.values["arm"].items() if key[0] == "share"}
    for results, config in ((series, None), (Series(series.arms, series.seeds, {"arm": kept}), complete)):
        found, _ = arm_stability(results, "arm", config)
        assert found is not None and found.verdict == "cannot tell"
        assert found.state == "shares" and "of the shares alone shows no growth" in found.reason


def test_counts_say_how_many_answers_had_a_kind() -> None:
    complete = experiment(RETRAINING)
    series = series_of(simulate(complete), range(20))
    found, _ = arm_stability(series, "arm", complete)
    shares = {g: series.path("arm", "kind_share", g) for g in series.groups("arm", "kind_share")}
    few = {("kind_count", g): np.round(share * 100) for g, share in shares.items()}
    own = {"arm": {**series.values["arm"], **few}}
    noisier, _ = arm_stability(dataclasses.replace(series, values=own), "arm", complete)
    assert found is not None and noisier is not None
    assert np.isnan(noisier.rho) and "noise of the measurements" in noisier.reason


def test_seeds_without_a_number_are_left_out() -> None:
    complete = experiment(RETRAINING)
    series = series_of(simulate(complete), range(20))
    broken = {key: path.copy() for key, path in series.values["arm"].items()}
    broken["own_kind_share", "north"][3, 5] = np.nan
    found, _ = arm_stability(dataclasses.replace(series, values={"arm": broken}), "arm", complete)
    assert found is not None and found.seeds == 19
    absent, reason = arm_stability(series, "nobody", complete)
    assert absent is None and "at least 2 of each are needed" in reason
