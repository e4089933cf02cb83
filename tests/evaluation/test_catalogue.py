"""The catalogue says of every metric what the measurement yields."""

import dataclasses

import pytest

from scpl_ray.evaluation import catalogue, measure
from scpl_ray.evaluation.catalogue import CATALOGUE
from scpl_ray.evaluation.metric_kind import MetricKind
from scpl_ray.records import Judgement, Metric, Query
from scpl_ray.studies.study import Search
from tests.support.evaluation_answers import answers
from tests.support.loops import small

ROUNDING = 1e-12


def measured() -> list[Metric]:
    """Every metric that there is."""
    found = answers(["north"] * 20 + ["south"] * measure.SELF_BLEU_ANSWERS)
    # as many answers for one group as self-BLEU compares
    prompts = [*found.prompts, *(Query(f"m{i}", "north", "p") for i in range(measure.SELF_BLEU_ANSWERS))]
    more = prompts[len(found.prompts) :]
    completions = [
        *found.completions,
        *(dataclasses.replace(found.completions[0], completion_id=q.query_id, query_id=q.query_id) for q in more),
    ]
    # and as many tokens as distinct-n counts
    completions = [dataclasses.replace(one, token_ids=(2, 3) * (measure.DISTINCT_TOKENS // 2)) for one in completions]
    judged = [
        Judgement(completion.completion_id, kind, 0.5, {"correct": 1.0, "own_kind": 0.0}, (0.5, -0.5))
        for completion, kind in zip(
            completions, [*(j.kind for j in found.judgements), *["north"] * len(more)], strict=True
        )
    ]
    figures = {"shares_after": [0.5, 0.5], "kept": 1, "candidates": 4, "effective_sample_size": 1.0, "duplicates": 0}
    loss = {"origin": {"real": 0.2, "synthetic": 0.8}, "group": {"north": 1.0}}
    return measure.evaluate(
        measure.Answers(
            prompts, completions, judged, [(1.0, 2)] * len(prompts), [(0.5, 2)] * len(prompts), [0.01, 0.02]
        ),
        measure.Asked(1, {"north": 0.6, "south": 0.4}, {"north": [0.5], "south": [-0.5]}, figures, loss=loss),
        small(),
        kinds=("north", "south"),
        confusion=[[0.9, 0.1], [0.2, 0.8]],
        first=[],
        steering={"north": [0.8], "south": [0.7]},
    )


def test_every_measured_number_is_as_the_catalogue_says() -> None:
    for row in measured():
        kind = catalogue.kind_of(row.metric)
        assert kind is not None, row
        exact = [k for k in CATALOGUE if k.name == row.metric]
        assert len(exact or [k for k in CATALOGUE if k.matches(row.metric)]) == 1, row
        assert kind.overall if row.group is None else kind.per_group, row
        assert kind.low is None or row.value >= kind.low - ROUNDING, row
        assert kind.high is None or row.value <= kind.high + ROUNDING, row


def test_every_row_of_the_catalogue_is_measured() -> None:
    found = {(kind.name, row.group is None) for row in measured() if (kind := catalogue.kind_of(row.metric))}
    said = {(kind.name, False) for kind in CATALOGUE if kind.per_group}
    assert found == said | {(kind.name, True) for kind in CATALOGUE if kind.overall}


@pytest.mark.parametrize("kind", CATALOGUE, ids=lambda kind: kind.name)
def test_every_entry_is_whole(kind: MetricKind) -> None:
    assert [k.name for k in CATALOGUE].count(kind.name) == 1
    assert kind.definition.endswith(".") and kind.definition[0].isupper() and kind.unit
    assert kind.per_group or kind.overall
    assert kind.low is None or kind.high is None or kind.low < kind.high
    assert bool(kind.gauge) == bool(kind.gauge_help)
    f"{0.5:{kind.form}}"


@pytest.mark.parametrize("name", [*(n for n in catalogue.searchable() if "<" not in n), "pass_at_4"])
def test_a_search_may_optimise_what_is_measured_over_all_groups(name: str) -> None:
    assert Search(metric=name).metric == name


@pytest.mark.parametrize("name", ["quality", "pass_at_0", "kind_count"])
def test_a_search_may_optimise_nothing_else(name: str) -> None:
    with pytest.raises(ValueError, match="no metric of a round over all groups"):
        Search(metric=name)
