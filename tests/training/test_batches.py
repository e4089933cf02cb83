"""Planning of steps, shards and micro-batches."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scpl_ray.records import Example
from scpl_ray.training.batches import (
    Step,
    TrainingSequence,
    check_positions,
    collate,
    plan_steps,
    sequence_rows,
    training_pairs,
    training_sequences,
    unit_lengths,
    weighted_by_example,
)
from tests.support.tiny_models import pairs as tiny_pairs

EXAMPLE = Example("e", "real", None, (5, 6, 7), (8, 9), 2.0)
LENGTHS = [int(n) for n in np.random.default_rng(0).integers(2, 31, 157)]


def plan(lengths=LENGTHS, **changes) -> list[Step]:
    settings = {
        "epochs": 2,
        "tokens_per_step": 300,
        "tokens_per_micro_batch": 96,
        "workers": 1,
        "packed": True,
        "seed": 7,
    }
    return plan_steps(lengths, **(settings | changes))


def test_prompt_is_masked_unless_asked_for():
    (completion,) = training_sequences([EXAMPLE], "completion")
    (everything,) = training_sequences([EXAMPLE], "all")
    assert completion == TrainingSequence((5, 6, 7, 8, 9), 3, 2.0)
    assert completion.target_tokens == 2
    assert everything == TrainingSequence((5, 6, 7, 8, 9), 1, 2.0)
    assert everything.target_tokens == 4


def test_first_token_of_a_sequence_without_prompt_has_no_loss():
    (sequence,) = training_sequences([dataclasses.replace(EXAMPLE, prompt_token_ids=())], "completion")
    assert sequence.first_target == 1 and sequence.target_tokens == 1


def test_examples_with_nothing_to_learn_are_left_out():
    silent = dataclasses.replace(EXAMPLE, token_ids=())
    weightless = dataclasses.replace(EXAMPLE, weight=0.0)
    assert len(training_sequences([silent, EXAMPLE, weightless], "completion")) == 1
    with pytest.raises(ValueError, match="none of the 2 training examples"):
        training_sequences([silent, weightless], "completion")


def test_a_pair_is_its_chosen_and_then_its_rejected_sequence():
    pair = dataclasses.replace(EXAMPLE, rejected_token_ids=(4,))
    silent = dataclasses.replace(pair, rejected_token_ids=())
    weightless = dataclasses.replace(pair, weight=0.0)
    assert training_pairs([silent, pair, weightless]) == [
        TrainingSequence((5, 6, 7, 8, 9), 3, 2.0),
        TrainingSequence((5, 6, 7, 4), 3, 2.0),
    ]
    with pytest.raises(ValueError, match=r"example e: no rejected answer, which training\.objective = 'dpo' needs"):
        training_pairs([pair, EXAMPLE])
    with pytest.raises(ValueError, match="none of the 1 training examples"):
        training_pairs([silent])


@pytest.mark.parametrize("packed", [True, False])
def test_both_sequences_of_a_pair_are_in_one_micro_batch_within_the_budget(packed):
    pairs = training_pairs(tiny_pairs(40))
    lengths = unit_lengths(pairs, 2, packed)
    for step in plan(lengths=lengths, packed=packed, workers=2):
        for units in (rows for shard in step.shards for rows in shard):
            rows = sequence_rows(units, 2, packed)
            batch = collate(rows, pairs)
            members = [index for row in rows for index in row]
            assert members == [2 * unit + k for row in units for unit in row for k in (0, 1)]
            assert batch.sequences == tuple(pairs[i] for i in members)
            assert batch.token_ids.size <= 96
            assert packed or len(rows) == len(members)


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf")])
def test_bad_weights_are_refused(weight):
    with pytest.raises(ValueError, match="example e: weight"):
        training_sequences([dataclasses.replace(EXAMPLE, weight=weight)], "completion")


def test_an_example_that_a_model_has_no_positions_for_is_named():
    pair = dataclasses.replace(EXAMPLE, rejected_token_ids=(4, 5, 6))
    for example, tokens in ((EXAMPLE, 5), (pair, 6)):
        check_positions([example], tokens)
        check_positions([example], None)
        with pytest.raises(ValueError, match=rf"example e \(real\): .* {tokens} tokens, the model has {tokens - 1} "):
            check_positions([example], tokens - 1)


def test_every_epoch_visits_every_sequence_once_in_its_own_order():
    visited = [i for step in plan() for i in step.members]
    first, second = visited[: len(LENGTHS)], visited[len(LENGTHS) :]
    assert sorted(first) == sorted(second) == list(range(len(LENGTHS)))
    assert first != second
    assert visited != [i for step in plan(seed=8) for i in step.members]


def test_steps_hold_about_the_tokens_asked_for():
    tokens = [sum(LENGTHS[i] for i in step.members) for step in plan()]
    assert len(tokens) == 2 * round(sum(LENGTHS) / 300)
    assert max(tokens) - min(tokens) <= 2 * max(LENGTHS)


def test_one_small_step_where_there_is_little_data():
    (step,) = plan(lengths=[3, 4], epochs=1, tokens_per_step=10_000)
    assert sorted(step.members) == [0, 1]


@pytest.mark.parametrize("workers", [2, 3])
def test_steps_do_not_depend_on_the_number_of_workers(workers):
    for alone, shared in zip(plan(), plan(workers=workers), strict=True):
        assert alone.members == shared.members


def test_workers_get_equal_tokens_and_equally_many_micro_batches():
    for step in plan(workers=3):
        tokens = [sum(LENGTHS[i] for i in itertools.chain(*itertools.chain(*shard))) for shard in step.shards]
        assert max(tokens) - min(tokens) <= max(LENGTHS)
        assert len({len(shard) for shard in step.shards}) == 1


def test_workers_without_a_sequence_get_empty_micro_batches():
    (step,) = plan(lengths=[5], epochs=1, workers=2)
    assert step.shards == ((((0,),),), ((),))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=60),
    workers=st.integers(1, 4),
    packed=st.booleans(),
    budget=st.integers(40, 120),
)
def test_micro_batches_hold_each_sequence_once_within_the_budget(lengths, workers, packed, budget):
    for step in plan(lengths=lengths, epochs=1, workers=workers, packed=packed, tokens_per_micro_batch=budget):
        micro_batches = list(itertools.chain(*step.shards))
        assert sorted(itertools.chain(*itertools.chain(*micro_batches))) == sorted(step.members)
        for rows in filter(None, micro_batches):
            widths = [sum(lengths[i] for i in row) for row in rows]
            assert len(rows) * max(widths) <= budget
            assert max(widths) == max(lengths[i] for row in rows for i in row)
            assert packed or all(len(row) == 1 for row in rows)


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(2, 40), min_size=1, max_size=60), workers=st.integers(1, 4))
def test_one_row_holds_each_sequence_once_within_the_budget_and_without_padding(lengths, workers):
    whole = {"lengths": lengths, "epochs": 1, "workers": workers, "tokens_per_micro_batch": 64}
    for step, other in zip(plan(**whole, one_row=True), plan(**whole), strict=True):
        assert step.members == other.members
        micro_batches = list(itertools.chain(*step.shards))
        assert sorted(itertools.chain(*itertools.chain(*micro_batches))) == sorted(step.members)
        for (row,) in filter(None, micro_batches):
            assert sum(lengths[i] for i in row) <= 64
    assert plan(**whole, packed=False, one_row=True) == plan(**whole, packed=False)


def test_packing_needs_less_padding():
    def padded(packed: bool) -> int:
        rows = [rows for step in plan(packed=packed) for shard in step.shards for rows in shard]
        return sum(len(r) * max(sum(LENGTHS[i] for i in row) for row in r) for r in rows)

    real = 2 * sum(LENGTHS)
    assert real <= padded(True) < 1.1 * real
    assert padded(True) - real < 0.8 * (padded(False) - real)


def test_too_long_sequences_name_the_setting():
    with pytest.raises(ValueError, match=r"training\.tokens_per_micro_batch: 20 .* 30 tokens; raise it to at least 30"):
        plan(tokens_per_micro_batch=20)


def test_collate_packs_masks_and_pads():
    sequences = [
        TrainingSequence((10, 11, 12, 13), 2, 0.5),
        TrainingSequence((20, 21), 1, 2.0),
        TrainingSequence((30, 31, 32, 33, 34, 35, 36), 6, 1.0),
    ]
    batch = collate(((0, 1), (2,)), sequences)
    assert batch.token_ids.tolist() == [[10, 11, 12, 13, 20, 21, 0], [30, 31, 32, 33, 34, 35, 36]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6]]
    assert batch.targets.tolist() == [[11, 12, 13, 0, 21, 0, 0], [31, 32, 33, 34, 35, 36, 0]]
    assert batch.weights.tolist() == [[0, 0.5, 0.5, 0, 2, 0, 0], [0, 0, 0, 0, 0, 1, 0]]


def test_padding_has_no_position_beyond_those_of_the_longest_sequence():
    sequences = [TrainingSequence(tuple(range(n)), 1, 1.0) for n in (4, 4, 2, 1)]
    batch = collate(((0, 1), (2, 3)), sequences)
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3, 0, 1]]


def test_an_empty_micro_batch_has_tokens_but_no_loss():
    batch = collate((), [])
    assert batch.token_ids.shape == (1, 2) and not batch.weights.any()


def test_a_number_of_steps_is_filled_whatever_the_amount_of_data() -> None:
    lengths = [5, 9, 12, 7, 3, 20, 8, 11]
    whole = sum(lengths)
    for steps, per_step in ((1, 30), (4, 30), (9, 30), (12, 25), (3, 200)):
        made = plan(lengths, steps=steps, tokens_per_step=per_step, tokens_per_micro_batch=64)
        assert len(made) == steps and all(step.members for step in made)
        done = sum(lengths[i] for step in made for i in step.members)
        assert abs(done - steps * per_step) <= max(lengths)
        times = np.bincount([i for step in made for i in step.members], minlength=len(lengths))
        # one epoch follows the other: no unit is a whole pass ahead
        assert times.max() - times.min() <= 1 and abs(times.mean() - done / whole) < 1
        assert made == plan(lengths, steps=steps, tokens_per_step=per_step, tokens_per_micro_batch=64, epochs=7)


def test_a_unit_that_is_longer_than_a_step_has_a_step_to_itself() -> None:
    made = plan([9, 9, 9], steps=5, tokens_per_step=2, tokens_per_micro_batch=64)
    assert [len(step.members) for step in made] == [1] * 5


def test_weights_of_examples_are_divided_among_their_tokens() -> None:
    sequences = [TrainingSequence((1, 2, 3, 4, 5), 1, 2.0), TrainingSequence((1, 2), 1, 2.0)]
    assert [s.weight for s in weighted_by_example(sequences)] == [0.5, 2.0]
