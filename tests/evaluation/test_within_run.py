"""The within-run intervals of a whole evaluation: which metrics have one, whose it is, and what it is taken over."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
import pytest

from scpl_ray.config import Experiment
from scpl_ray.evaluation import bias, catalogue, measure, within_run
from scpl_ray.evaluation.catalogue import CATALOGUE
from scpl_ray.evaluation.intervals import Prompts
from scpl_ray.evaluation.within_run import Bounds
from scpl_ray.records import Completion, Judgement, Metric, Query

Rows = dict[tuple[str | None, str], Metric]


def experiment(groups: Sequence[str] = ("north", "south"), samples: int = 1, seed: int = 0) -> Experiment:
    shares = [1 / len(groups)] * len(groups)
    return Experiment.model_validate(
        {
            "groups": {"names": list(groups), "shares": shares},
            "evaluation": {"samples_per_prompt": samples},
            "seed": seed,
        }
    )


def answered(
    groups: Sequence[str], per_group: int, neutral: int, samples: int = 1, *, seed: int = 0, errs: bool = True
) -> measure.Answers:
    rng = np.random.default_rng(seed)
    prompts = [Query(f"{g}{i}", g, "p") for g in groups for i in range(per_group)]
    prompts += [Query(f"n{i}", None, "p") for i in range(neutral)]
    completions, judgements = [], []
    for query in prompts:
        for i in range(samples):
            name = f"{query.query_id}-s{i}"
            kind = None if rng.random() < 0.1 else str(rng.choice(groups))
            right = float(rng.random() < 0.6)
            terms = {"correct": right, "finished": float(rng.random())} if query.group else {"finished": 0.5}
            odds = tuple(rng.normal(size=len(groups)).tolist()) if errs else None
            completions.append(Completion(name, query.query_id, i, 1, 0, (1,), (2, 3), f"a text {i}", "stop"))
            judgements.append(Judgement(name, kind, right, terms, odds))
    nats = [(float(n), 2) for n in rng.gamma(4.0, 1.0, size=len(completions))]
    return measure.Answers(prompts, completions, judgements, nats, nats)


def rows_of(answers: measure.Answers, config: Experiment, first: measure.Answers | None = None) -> Rows:
    names = config.groups.names
    confusion = [[0.8 if i == j else 0.2 / (len(names) - 1) for j in names] for i in names]
    asked = measure.Asked(0, dict(zip(names, config.groups.shares, strict=True)), {}, {})
    before: list[Metric] = []
    if first is not None:
        before = [*rows_of(first, config).values()]
        judged = measure.by_prompt(first.completions, first.judgements)
        rewards = {g: [0.1 * i for i in range(40)] for g in names}
        asked = dataclasses.replace(
            asked,
            round=1,
            rewards=rewards,
            reward_queries={g: [f"{g}{i // 4}" for i in range(40)] for g in names},
            base_quality={q: float(np.mean([j.quality for j in of])) for q, of in judged.items()},
            base_judgements=judged,
        )
    found = measure.evaluate(
        answers,
        asked,
        config,
        kinds=names,
        confusion=confusion,
        first=before,
        steering={g: [0.2, 0.9, 0.4] for g in names},
    )
    return {(row.group, row.metric): row for row in found}


@pytest.mark.parametrize("groups", [("north", "south"), ("a", "b", "c")])
@pytest.mark.parametrize("samples", [1, 4])
def test_a_metric_has_an_interval_exactly_where_the_catalogue_says_so(groups: tuple[str, ...], samples: int) -> None:
    config = experiment(groups, samples)
    found = rows_of(answered(groups, 40, 60, samples), config, answered(groups, 40, 60, samples, seed=1))
    for row in found.values():
        kind = catalogue.kind_of(row.metric)
        assert kind is not None
        assert (row.low is not None) == (row.high is not None) == (kind.interval_over is not None), row
        if row.low is not None and row.high is not None:
            assert row.low <= row.value <= row.high and row.low < row.high, row
            assert kind.low is None or row.low >= kind.low - 1e-9, row
            assert kind.high is None or row.high <= kind.high + 1e-9, row
    shown = {catalogue.kind_of(row.metric) for row in found.values() if row.low is not None}
    assert {kind.name for kind in CATALOGUE if kind.interval_over} == {kind.name for kind in shown if kind}


def test_numbers_are_those_without_intervals() -> None:
    """The interval stands beside the number, which it does not change."""
    config = experiment()
    found = rows_of(answered(("north", "south"), 30, 50), config)
    values = {key: row.value for key, row in found.items()}
    assert values["north", "quality"] == pytest.approx(
        np.mean([j.quality for j in answered(("north", "south"), 30, 50).judgements[:30]])
    )
    other = rows_of(answered(("north", "south"), 30, 50), experiment(seed=9))
    same = ("quality", "kind_share", "preference_soft_balanced")
    assert {k: v for k, v in values.items() if k[1] in same} == {k: other[k].value for k in values if k[1] in same}
    assert any(row.low != other[key].low for key, row in found.items())


def test_the_same_evaluation_gives_the_same_bounds() -> None:
    one, other = (rows_of(answered(("north", "south"), 30, 50), experiment()) for _ in range(2))
    assert one == other


def test_a_change_since_round_0_is_paired_and_absent_in_round_0() -> None:
    config, first = experiment(), answered(("north", "south"), 30, 200)
    kept = rows_of(first, config, first)
    for metric in ("preference_log_odds_round0", "preference_soft_round0"):
        row = kept[None, metric]
        # the very same answers: nothing changed, and of that the prompts leave no doubt but the smoothing's
        assert row.value == 0.0 and row.low is not None and row.low <= 0.0
    assert kept[None, "preference_soft_round0"].high == pytest.approx(0.0, abs=1e-6)
    again = rows_of(answered(("north", "south"), 30, 200, seed=2), config, first)
    row = again[None, "preference_soft_round0"]
    assert row.low is not None and row.high is not None and row.high - row.low < 0.8
    start = rows_of(first, config)
    changes = [row for (_, metric), row in start.items() if metric.endswith("round0") and "perplexity" not in metric]
    assert changes and all(row.low is None for row in changes)


def test_a_round_0_of_an_older_version_has_no_log_odds_to_compare_with() -> None:
    config, groups = experiment(), ("north", "south")
    found = rows_of(answered(groups, 30, 60), config, answered(groups, 30, 60, seed=1, errs=False))
    assert found[None, "preference_soft_balanced"].low is not None
    assert (None, "preference_soft_round0") not in found
    assert found[None, "preference_log_odds_round0"].low is not None


def test_a_judge_that_makes_no_errors_has_no_soft_preference() -> None:
    found = rows_of(answered(("north", "south"), 10, 20, errs=False), experiment())
    assert not [metric for _, metric in found if "soft" in metric]


def test_soft_preference_by_hand() -> None:
    answers = answered(("north", "south"), 4, 3)
    odds = [(1.0, -1.0), (0.5, -0.5), (-3.0, 3.0)]
    neutral = [dataclasses.replace(j, log_odds=o) for j, o in zip(answers.judgements[8:], odds, strict=True)]
    judged = [*answers.judgements[:8], *neutral]
    found = rows_of(dataclasses.replace(answers, judgements=judged), experiment())
    assert found[None, "preference_soft_balanced"].value == pytest.approx(-0.5)
    assert found["south", "kind_soft_balanced"].value == pytest.approx(0.5)


def test_one_prompt_of_a_group_leaves_no_interval_of_groups_and_keeps_the_others() -> None:
    found = rows_of(answered(("north", "south"), 1, 50), experiment())
    assert found["north", "quality"].low is None and found[None, "disparate_gap"].low is None
    assert found[None, "preference_log_odds_balanced"].low is not None


def test_no_answer_of_any_kind_has_no_interval_of_kinds() -> None:
    answers = answered(("north", "south"), 20, 30)
    none = [dataclasses.replace(j, kind=None) for j in answers.judgements]
    found = rows_of(dataclasses.replace(answers, judgements=none), experiment())
    assert (None, "preference_log_odds_balanced") not in found
    low = found["north", "kind_share_low"]
    assert low.value == 0.0 and low.high is not None and 0.0 < low.high < 0.3


def corrected(judged: Sequence[int], confusion: Sequence[Sequence[float]]) -> dict[tuple[str | None, str], Bounds]:
    """The bounds of a round in which so many answers to one prompt each were judged to be of each kind."""
    k = len(judged)
    now = np.repeat(np.eye(k, k + 1, dtype=np.int64), judged, axis=0)
    found = within_run.kinds_now(Prompts(len(now), 0, "neutral"), "abc"[:k], 0, now, confusion)
    return {(group, metric): (low, high) for group, metric, low, high in found if "corrected" in metric}


@pytest.mark.parametrize("judged", [(170, 30), (175, 25), (186, 14), (200, 0), (14, 186), (120, 70, 10), (190, 8, 2)])
def test_corrected_shares_that_are_clipped_have_intervals_of_an_honest_width(judged: tuple[int, ...]) -> None:
    """The judge is right in .85: in fewer or more of 200 answers than it would be, a share is clipped to 0 or 1."""
    k = len(judged)
    confusion = [[0.85 if i == j else 0.15 / (k - 1) for j in range(k)] for i in range(k)]
    shares = bias.correct_shares(np.array(judged) / 200, confusion).shares
    found = corrected(judged, confusion)
    assert (None, "preference_log_odds_balanced_corrected") not in found
    for name, share in zip("abc", shares, strict=False):
        low, high = found[name, "kind_share_corrected"]
        assert 0.0 <= low <= share <= high <= 1.0 and high - low > 0.04


def test_corrected_shares_that_are_not_clipped_have_an_interval_of_their_log_odds() -> None:
    found = corrected((160, 40), [[0.85, 0.15], [0.15, 0.85]])
    low, high = found[None, "preference_log_odds_balanced_corrected"]
    assert low < bias.smoothed_logit(0.65 / 0.7, 200) < high
    ends = np.array(found["a", "kind_share_corrected"])
    assert (low, high) == pytest.approx(tuple(bias.smoothed_logit(ends, 200)))


def test_it_takes_far_less_than_a_second() -> None:
    config, groups = experiment(), ("north", "south")
    answers, first = answered(groups, 128, 256), answered(groups, 128, 256, seed=1)
    judged = measure.by_prompt(first.completions, first.judgements)
    asked = measure.Asked(1, {"north": 0.5, "south": 0.5}, {}, {}, base_judgements=judged)
    began = time.process_time()
    within_run.bounds(answers, asked, config, groups, [[0.8, 0.2], [0.2, 0.8]], {})
    assert time.process_time() - began < 1.0
