"""From the results table to verdicts: closed forms, symmetries, and whatever may be missing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jobs.configs import CONFIGS, STUDIES
from jobs.driver import experiments
from scpl_ray.analytic.loop import simulate_grid
from scpl_ray.evaluation import catalogue
from scpl_ray.records import Metric
from scpl_ray.report import words
from scpl_ray.studies import results, study, verdicts
from scpl_ray.studies.series import Series, mean_path
from scpl_ray.studies.study import Study, StudyClaim
from scpl_ray.studies.verdicts import Family, Judged

BIAS = "preference_log_odds_round0"
Paths = Mapping[str, Mapping[int, Sequence[float]]]
"""Arm -> seed -> value per round."""


def rows(paths: Paths, metric: str = BIAS, group: str | None = None) -> list[tuple[str, int, list[Metric]]]:
    return [
        (arm, seed, [Metric(t, group, metric, value) for t, value in enumerate(path) if value is not None])
        for arm, seeds in paths.items()
        for seed, path in seeds.items()
    ]


def series(paths: Paths, metric: str = BIAS, group: str | None = None) -> Series:
    return Series.of(results.table(rows(paths, metric, group)))


def claim(name: str = "rises", **keys: Any) -> StudyClaim:
    return StudyClaim.model_validate({"name": name, "metric": BIAS, "contrast": {"loop": 1.0, "control": -1.0}} | keys)


def a_study(*claims: StudyClaim, **keys: Any) -> Study:
    arms = {arm: {} for one in claims for arm in one.contrast}
    return Study.model_validate({"name": "s", "arms": arms, "claims": tuple(claims)} | keys)


def one(paths: Paths, *claims: StudyClaim) -> Judged:
    return verdicts.judge(series(paths), a_study(*(claims or (claim(),)))).judged[0]


LOOP = {0: [0.0, 0.5], 1: [0.0, 0.7], 2: [0.0, 0.4], 3: [0.0, 0.8]}
CONTROL = {0: [0.0, 0.1], 1: [0.0, 0.2], 2: [0.0, 0.1], 3: [0.0, 0.2]}


def test_a_claim_is_the_paired_sign_flip_test_of_the_last_round() -> None:
    differences = [0.4, 0.5, 0.3, 0.6, 0.35, 0.55]
    judged = one(as_paths([(d + 0.1, 0.1) for d in differences]))
    verdict = judged.verdict
    assert verdict is not None and judged.round == 1 and judged.outcome == "supported"
    np.testing.assert_allclose(verdict.claim.paired.differences, differences)
    assert verdict.p == verdict.p_adjusted == 2 / 2**6
    assert 0 < verdict.interval.low < 0.45 < verdict.interval.high
    assert verdict.minimum_detectable_effect > 0
    against = one(as_paths([(-d, 0.0) for d in differences]))
    assert against.verdict is not None and against.outcome == "opposite" and against.verdict.p_adjusted == 2 / 2**6


def test_fewer_than_six_seeds_give_an_interval_and_no_verdict() -> None:
    judged = one({"loop": LOOP, "control": CONTROL})
    verdict = judged.verdict
    assert verdict is not None and judged.outcome == "cannot tell" and math.isnan(verdict.p)
    bounds = stats.ttest_1samp([0.4, 0.5, 0.3, 0.6], 0.0).confidence_interval(0.95)
    assert (verdict.interval.low, verdict.interval.high) == pytest.approx((bounds.low, bounds.high))
    said = words.sentence(judged, verdicts.judge(series({"loop": LOOP, "control": CONTROL}), a_study(claim())))
    assert "4 seeds give an interval and no verdict: that takes 6." in said


def test_a_margin_that_was_named_beforehand_decides_whether_a_cost_is_excluded() -> None:
    small = as_paths([(d, 0.0) for d in (-0.01, 0.0, 0.01, -0.02, 0.02, 0.005, -0.005, 0.0)])
    wide = as_paths([(d, 0.0) for d in (-0.1, 0.1, 0.02, -0.2, 0.2, 0.05, -0.05, 0.0)])
    large = as_paths([(d, 0.0) for d in (-0.3, -0.31, -0.29, -0.3, -0.32, -0.28, -0.3, -0.3)])
    asked = claim(margin=0.05)
    assert [one(paths, asked).outcome for paths in (small, wide, large)] == ["supported", "cannot tell", "opposite"]
    assert one(large, claim(direction="below 0", margin=0.05)).outcome == "supported"
    said = words.sentence(one(wide, asked), verdicts.judge(series(wide), a_study(asked)))
    assert "not shown to be harmless" in said and "Cannot tell" in said
    said = words.sentence(one(small, asked), verdicts.judge(series(small), a_study(asked)))
    assert "; less by more than the margin 0.050 is excluded" in said


def test_a_difference_of_differences_weighs_every_arm() -> None:
    paths = {"loop": LOOP, "control": CONTROL, "other": CONTROL, "other-control": LOOP}
    contrast = {"loop": 1.0, "control": -1.0, "other": -1.0, "other-control": 1.0}
    verdict = one(paths, claim(contrast=contrast)).verdict
    assert verdict is not None and verdict.estimate == pytest.approx(0.9)


def test_the_mean_is_over_rounds_one_to_last() -> None:
    paths = {"loop": {s: [9.0, 1.0 + s, 3.0 + s] for s in range(3)}, "control": {s: [0.0, 0.0, 1.0] for s in range(3)}}
    verdict = one(paths, claim(at="mean")).verdict
    assert verdict is not None
    np.testing.assert_allclose(verdict.claim.paired.differences, [1.5, 2.5, 3.5])


def test_p_values_are_adjusted_over_the_whole_family_and_all_cells() -> None:
    cells = [[0.3, 0.4, 0.2, 0.3, 0.35, 0.31], [0.1, -0.1, 0.05, 0.2, 0.0, -0.03]]
    paths = {f"loop k={k}": {s: [0.0, d] for s, d in enumerate(cells[k])} for k in (0, 1)} | {
        f"control k={k}": {s: [0.0, 0.0] for s in range(6)} for k in (0, 1)
    }
    family = verdicts.judge(series(paths), a_study(claim(), axes={"k": [0, 1]}))
    first, second = (one.verdict for one in family.judged)
    assert first is not None and second is not None and family.size == 2
    assert [one.name for one in family.judged] == ["rises k=0", "rises k=1"]
    assert first.p_adjusted == pytest.approx(2 * first.p)
    assert second.p_adjusted == pytest.approx(max(second.p, 2 * first.p))


numbers = st.floats(-5, 5).map(lambda x: round(x, 3))
values = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=6)


def as_paths(pairs: Sequence[tuple[float, float]]) -> Paths:
    return {
        "loop": {s: [0.0, a] for s, (a, _) in enumerate(pairs)},
        "control": {s: [0.0, b] for s, (_, b) in enumerate(pairs)},
    }


def facts(family: Family) -> list[tuple[float, ...]]:
    return [
        (v.estimate, v.interval.low, v.interval.high, np.nan_to_num(v.p), np.nan_to_num(v.p_adjusted))
        for v in (one.verdict for one in family.judged)
        if v is not None
    ]


@settings(max_examples=30, deadline=None)
@given(pairs=values, seed=st.integers(0, 999))
def test_the_order_of_the_rows_does_not_matter(pairs: list[tuple[float, float]], seed: int) -> None:
    table = results.table(rows(as_paths(pairs)))
    shuffled = table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))
    asked = a_study(claim(), claim("falls", direction="below 0"))
    assert facts(verdicts.judge(Series.of(table), asked)) == facts(verdicts.judge(Series.of(shuffled), asked))


@settings(max_examples=30, deadline=None)
@given(pairs=values, shift=numbers)
def test_mirrored_claims_have_mirrored_verdicts_and_shifts_cancel(
    pairs: list[tuple[float, float]], shift: float
) -> None:
    mirrored = claim(contrast={"loop": -1.0, "control": 1.0}, direction="below 0")
    first, second = one(as_paths(pairs)), one(as_paths(pairs), mirrored)
    moved = one(as_paths([(a + shift, b + shift) for a, b in pairs]))
    assert first.verdict is not None and second.verdict is not None and moved.verdict is not None
    assert second.verdict.estimate == pytest.approx(-first.verdict.estimate, abs=1e-12)
    assert second.verdict.p == pytest.approx(first.verdict.p, nan_ok=True)
    assert moved.verdict.estimate == pytest.approx(first.verdict.estimate, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(pairs=values, gone=st.sets(st.integers(0, 5)), arm=st.sampled_from(["loop", "control"]))
def test_missing_seeds_are_listed_and_left_out_of_both_arms(
    pairs: list[tuple[float, float]], gone: set[int], arm: str
) -> None:
    paths = {a: dict(seeds) for a, seeds in as_paths(pairs).items()}
    for seed in gone & paths[arm].keys():
        del paths[arm][seed]
    judged = one(paths)
    present = set(range(len(pairs))) - gone
    assert judged.left_out == dict.fromkeys(set(range(len(pairs))) - present, (arm,))
    assert (judged.verdict is None) == (len(present) < 2) == (judged.outcome == "not enough seeds")
    if judged.verdict is not None:
        assert set(judged.verdict.claim.paired.seeds) == present


def test_a_claim_without_seeds_is_reported_and_not_dropped() -> None:
    family = verdicts.judge(series({"loop": LOOP, "control": {0: [0.0, 0.1]}}), a_study(claim(), claim("again")))
    assert [one.outcome for one in family.judged] == ["not enough seeds"] * 2 and family.size == 0
    assert "1 seed with preference_log_odds_round0 in every arm" in family.judged[0].reason
    empty = verdicts.judge(series({"loop": LOOP}), a_study(claim())).judged[0]
    assert "control: no seed has it" in empty.reason and empty.left_out[2] == ("control",)
    unknown = verdicts.judge(series({"loop": LOOP, "control": CONTROL}), a_study(claim(metric="nonsense"))).judged[0]
    assert unknown.verdict is None and "nonsense" in unknown.reason


def test_a_number_that_does_not_exist_is_left_out_by_name() -> None:
    judged = one({"loop": LOOP | {1: [0.0, math.nan]}, "control": CONTROL})
    assert judged.left_out == {1: ("loop",)} and judged.verdict is not None and judged.verdict.interval.n == 3


@pytest.mark.parametrize("broken", [math.inf, -math.inf])
@pytest.mark.parametrize("both", [False, True])
def test_an_infinite_number_is_a_failure_and_not_an_absence(broken: float, both: bool) -> None:
    paths = {"loop": LOOP | {1: [0.0, broken]}, "control": CONTROL | ({1: [0.0, broken]} if both else {})}
    judged = one(paths)
    assert judged.verdict is None and judged.outcome == "cannot tell" and 1 in judged.numbers.infinite
    said = words.sentence(judged, verdicts.judge(series(paths), a_study(claim())))
    assert "infinite in seed 1 (loop" in said and "not left out" in said


def test_a_verdict_says_whether_missing_seeds_could_undo_it() -> None:
    shares = {s: 0.4 + 0.01 * s for s in range(12)}
    table = [
        (arm, s, [Metric(t, None, "quality_mean", 0.1 if arm == "control" else v) for t in (0, 1)])
        for arm in ("loop", "control")
        for s, v in shares.items()
        if (arm, s) != ("loop", 11)
    ]
    found = verdicts.judge(Series.of(results.table(table)), a_study(claim(metric="quality_mean"))).judged[0]
    assert found.outcome == "supported" and found.left_out == {11: ("loop",)} and found.stands is False


def test_a_run_that_stopped_early_is_not_compared_at_its_own_last_round() -> None:
    judged = one({"loop": LOOP | {1: [0.7]}, "control": CONTROL})
    assert judged.round == 1 and judged.left_out == {1: ("loop",)}


def arm_rows(
    arm: str, seed: int, shares: Sequence[float], quality: Sequence[tuple[float, float]]
) -> tuple[str, int, list[Metric]]:
    found = []
    for t, (share, (low, high)) in enumerate(zip(shares, quality, strict=True)):
        found += [Metric(t, "a", "share", share), Metric(t, "b", "share", 1 - share)]
        found += [Metric(t, "a", "quality", high), Metric(t, "b", "quality", low)]
        found.append(Metric(t, None, catalogue.PREFERENCE, t + 0.01 * seed * t))
    return arm, seed, found


def test_flags_of_an_arm() -> None:
    served = [(0.6, 0.9), (0.58, 0.88), (0.5, 0.6)]
    table = [arm_rows("x", s, [0.5, 0.5, 0.52 + s / 100], [(q - s / 200, r) for q, r in served]) for s in range(6)]
    found = verdicts.flags(Series.of(results.table(table)), "x")
    assert found.levelled_down is not None and found.levelled_down.flag.tolist() == [False, True] and found.last == 2
    assert found.changes[catalogue.PREFERENCE].estimate == pytest.approx(2.05)
    assert found.ends[catalogue.PREFERENCE] == pytest.approx((0.0, 2.05))
    assert found.amplified is not None and found.amplified.word == "amplified" and found.amplified.towards == "a"
    assert found.stability is not None and found.unknown == ""


def test_flags_of_arms_that_cannot_be_described() -> None:
    died = [arm_rows("x", s, [0.5, 0.5, 1.0], [(0.5, 0.5)] * 3) for s in range(3)]
    found = verdicts.flags(Series.of(results.table(died)), "x")
    assert found.stability is None and "died out" in found.unknown and found.levelled_down is not None
    assert not found.levelled_down.seen and "cannot see: fewer than 6" in words.levelling(found)
    alone = verdicts.flags(Series.of(results.table(died[:1])), "x")
    assert alone.amplified is None and alone.levelled_down is None and alone.changes == {} and alone.stability is None
    assert alone.ends[catalogue.PREFERENCE] == (0.0, 2.0)
    absent = verdicts.flags(Series.of(results.table(died)), "y")
    assert absent.last == -1 and absent.stability is None and absent.amplified is None
    lonely = [(arm, seed, [Metric(r.round, "a", "share", 0.5) for r in own[::5]]) for arm, seed, own in died]
    assert "do not sum to 1" in verdicts.flags(Series.of(results.table(lonely)), "x").unknown


def test_series_refuse_a_damaged_table() -> None:
    with pytest.raises(ValueError, match="two numbers"):
        Series.of(results.table([("x", 0, [Metric(1, None, "m", 1.0), Metric(1, None, "m", 2.0)])]))
    with pytest.raises(ValueError, match="below 0"):
        Series.of(results.table([("x", 0, [Metric(-1, None, "m", 1.0)])]))
    empty = Series.of(results.table([]))
    assert empty.arms == () and empty.seeds == () and empty.path("x", "m").shape == (0, 1)


def test_mean_paths_have_t_intervals_where_seeds_allow() -> None:
    nan = math.nan
    found = mean_path(np.array([[1.0, 1.0, nan, nan], [3.0, nan, nan, nan], [2.0, nan, nan, nan]]))
    assert found.seeds.tolist() == [3, 1, 0, 0]
    half = stats.t.ppf(0.975, 2) / np.sqrt(3)
    np.testing.assert_allclose(found.mean, [2.0, 1.0, nan, nan])
    np.testing.assert_allclose(found.high, [2.0 + half, nan, nan, nan])
    np.testing.assert_allclose(found.low, [2.0 - half, nan, nan, nan])
    with pytest.raises(ValueError, match="confidence"):
        mean_path(np.zeros((2, 2)), confidence=1.0)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("quick", [False, True])
def test_every_built_in_study_is_valid_and_claims_only_what_is_measured(name: str, quick: bool) -> None:
    found = study.load(STUDIES[name], CONFIGS, quick=quick)
    assert study.trials(found, CONFIGS, experiments.build) and found.claims and len(found.arms) <= 16
    # quality that asks for the own kind moves with preference bias by construction, so no claim is about it
    metrics = {
        BIAS,
        "total_variation_balanced",
        "distinct_2",
        *(f"{name}_without_own_kind" for name in ("disparate_gap", "quality_worst")),
    }
    assert {one.metric for one in found.claims} <= metrics | {"quality_mean_without_own_kind"}
    # an arm is named for what its users do: only those who react are feedback
    for arm, keys in found.arms.items():
        rule = {**found.set, **keys}["feedback.rule"]
        assert arm.split("-")[0] == {"schedule": "shifted"}.get(rule, rule)


def shares_study(ends: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]) -> Series:
    """Shares of kinds in rounds 0 and 1 by arm and seed; group g0 is the largest in round 1."""
    table = []
    for arm, seeds in ends.items():
        for seed, pair in enumerate(seeds):
            own = [Metric(t, f"g{k}", "kind_share", v) for t, shares in enumerate(pair) for k, v in enumerate(shares)]
            own += [Metric(t, f"g{k}", "share", 0.5 - 0.1 * k) for t in (0, 1) for k in range(len(pair[0]))]
            table.append((arm, seed, own))
    return Series.of(results.table(table))


def around(*shares: float, n: int = 8) -> list[tuple[float, ...]]:
    rng = np.random.default_rng(len(shares))
    found = np.array(shares) + 0.005 * rng.normal(size=(n, len(shares)))
    return [tuple(row / row.sum()) for row in found]


@pytest.mark.parametrize(
    ("first", "last", "word", "towards"),
    [
        ((0.27, 0.73), (0.475, 0.525), "reduced", "g0"),  # from log-odds -1.0 to -0.1
        ((0.475, 0.525), (0.27, 0.73), "amplified", "g1"),
        ((0.4, 0.6), (0.6, 0.4), "turned", "g0"),
        ((0.6, 0.4), (0.6, 0.4), "not shown", ""),
        ((0.4, 0.35, 0.25), (0.2, 0.2, 0.6), "amplified", "g2"),  # another group's kind takes over
    ],
)
def test_amplification_is_distance_and_towards_whom_stands_beside_it(
    first: Sequence[float], last: Sequence[float], word: str, towards: str
) -> None:
    rng = np.random.default_rng(5)
    pairs = list(zip(around(*first), [around(*last)[i] for i in rng.permutation(8)], strict=True))
    found = verdicts.amplified(shares_study({"x": pairs}), "x")
    assert found is not None and found.word == word
    assert not towards or found.towards == towards
    assert "g0" not in words.amplification(verdicts.flags(shares_study({"x": pairs[:1]}), "x"))
    assert f"over {len(pairs)} seeds" in words.amplification(verdicts.flags(shares_study({"x": pairs}), "x"))


def test_a_lean_to_the_other_side_counts_as_much_as_one_to_the_largest_group() -> None:
    even = around(0.5, 0.5)
    away = {
        "loop": list(zip(even, around(0.3, 0.7), strict=True)),
        "control": list(zip(even, around(0.52, 0.48), strict=True)),
    }
    asked = a_study(claim("distance", metric="total_variation_balanced"), claim("towards the largest", metric=BIAS))
    distance, signed = verdicts.judge(shares_study(away), asked).judged
    assert (distance.outcome, signed.outcome) == ("supported", "opposite")
    assert (distance.numbers.scale, signed.numbers.scale) == ("distance", "share")
    assert distance.verdict is not None and distance.verdict.estimate == pytest.approx(0.18, abs=0.01)
    assert signed.verdict is not None and signed.verdict.estimate == pytest.approx(-0.22, abs=0.01)


def test_a_margin_on_log_odds_is_said_to_be_one_in_shares() -> None:
    even = around(0.5, 0.5)
    ends = {"loop": list(zip(even, around(0.52, 0.48), strict=True)), "control": list(zip(even, even, strict=True))}
    for margin, side, said in (
        (0.1, "above 0", "; less by more than the margin 0.100 in the share of the kind is excluded ("),
        (0.01, "below 0", "; that is more by more than the margin 0.010 in the share of the kind ("),
        (0.02, "below 0", "; more by more than the margin 0.020 in the share of the kind is not excluded, so this is"),
    ):
        family = verdicts.judge(shares_study(ends), a_study(claim(margin=margin, direction=side)))
        assert said in words.sentence(family.judged[0], family)


def test_undecided_answers_bound_what_is_said() -> None:
    table = []
    for arm, kept in (("loop", 0.7), ("control", 0.5)):
        for seed in range(6):
            ends = {"kind_share": kept + seed / 1000, "kind_share_low": kept * 0.8, "kind_share_high": kept * 0.8 + 0.2}
            own = [Metric(t, "a", m, v) for t in (0, 1) for m, v in ends.items()]
            own += [Metric(t, "b", "kind_share", 1 - ends["kind_share"]) for t in (0, 1)]
            table.append((arm, seed, [*own, Metric(0, "a", "share", 0.6), Metric(0, "b", "share", 0.4)]))
    family = verdicts.judge(Series.of(results.table(table)), a_study(claim(metric=catalogue.PREFERENCE)))
    (judged,) = family.judged
    assert judged.numbers.bounds == pytest.approx((0.16 - 0.2, 0.16 + 0.2))
    assert "Undecided answers leave \N{MINUS SIGN}0.040 to +0.360 possible" in words.sentence(judged, family)


@pytest.mark.parametrize(
    ("metric", "reference", "bounds"),
    [
        ("kind_share", 0.0, (0.16 - 0.2, 0.16 + 0.2)),
        ("kind_difference_balanced", 0.5, (0.16 - 0.2, 0.16 + 0.2)),
        # without a difference in round 0, whose answers may be undecided too
        ("kind_difference_round0", 0.4, (0.16 - 0.4, 0.16 + 0.4)),
    ],
)
def test_undecided_answers_bound_shares_and_their_differences_too(
    metric: str, reference: float, bounds: tuple[float, float]
) -> None:
    table = []
    for arm, kept in (("loop", 0.7), ("control", 0.5)):
        for seed in range(6):
            own = []
            for t, share in ((0, 0.5), (1, kept)):
                ends = {"kind_share_low": share * 0.8, "kind_share_high": share * 0.8 + 0.2}
                own += [Metric(t, "a", m, v) for m, v in ends.items()]
                own += [Metric(t, "a", metric, share + seed / 1000 - reference)]
            table.append((arm, seed, own))
    family = verdicts.judge(Series.of(results.table(table)), a_study(claim(metric=metric, group="a")))
    (judged,) = family.judged
    assert judged.numbers.scale == "metric" and judged.numbers.bounds == pytest.approx(bounds)
    assert "Undecided answers leave" in (said := words.sentence(judged, family)) and "not bounded" not in said


def test_undecided_answers_do_not_bound_shares_that_are_corrected_for_the_judges_error() -> None:
    table = []
    for arm, kept in (("loop", 0.9), ("control", 0.4)):
        for seed in range(6):
            ends = {"kind_share_corrected": kept + seed / 1000, "kind_share_low": 0.5, "kind_share_high": 0.6}
            own = [Metric(t, "a", m, v) for t in (0, 1) for m, v in ends.items()]
            own += [Metric(t, "b", "kind_share_corrected", 1 - ends["kind_share_corrected"]) for t in (0, 1)]
            table.append((arm, seed, [*own, Metric(0, "a", "share", 0.6), Metric(0, "b", "share", 0.4)]))
    asked = a_study(claim(metric=f"{catalogue.PREFERENCE}_corrected"))
    (judged,) = verdicts.judge(Series.of(results.table(table)), asked).judged
    assert judged.verdict is not None and judged.verdict.estimate == pytest.approx(0.5)
    assert judged.numbers.scale == "share" and judged.numbers.bounds is None


def test_a_family_too_large_for_its_seeds_says_so() -> None:
    paths = as_paths([(1.0 + d, 0.0) for d in (0.1, 0.2, -0.1, 0.0, 0.15, -0.05)])
    family = verdicts.judge(series(paths), a_study(claim("a"), claim("b"), claim("c")))
    assert family.seeds_needed == 7 and [found.outcome for found in family.judged] == ["cannot tell"] * 3
    assert "6 seeds cannot support the first of 3 claims, whatever comes out: that takes 7." in words.sentence(
        family.judged[0], family
    )


def test_where_nothing_is_to_be_found_verdicts_are_as_rare_as_their_level() -> None:
    """200 repetitions of the drift null through the whole pipeline: study, results table, verdicts."""
    repetitions, asked = 200, study.load(STUDIES["study_drift_null"], CONFIGS)
    experiments = {
        trial.arm: trial.experiment.model_copy(
            update={"analytic": trial.experiment.analytic.model_copy(update={"seeds": repetitions * asked.seeds})}
        )
        for trial in study.trials(asked.model_copy(update={"seeds": 1}), CONFIGS)
    }
    paths = dict(zip(experiments, simulate_grid(list(experiments.values())), strict=True))
    metrics = {arm: {m: found.series()[m, None] for m in (BIAS, catalogue.PREFERENCE)} for arm, found in paths.items()}
    claimed = grown = 0
    for r in range(repetitions):
        runs = [
            (arm, s, [Metric(t, None, m, float(v[r * asked.seeds + s, t])) for m, v in own.items() for t in (0, 5)])
            for arm, own in metrics.items()
            for s in range(asked.seeds)
        ]
        found = Series.of(results.table(runs))
        claimed += any(one.outcome != "cannot tell" for one in verdicts.judge(found, asked).judged)
        risen = verdicts.amplified(found, "static")
        grown += risen is not None and risen.word in ("amplified", "reduced")
    assert claimed <= 0.07 * repetitions
    assert grown <= 0.07 * repetitions
    assert claimed + grown > 0, "a test that never rejects anything tests nothing"
