"""The least seconds of work, by closed forms on models small enough for a pencil."""

import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM

from scpl_ray.report.roofline import Machine, Model, Work, drawing, forward, pairs, reading, training
from tests.support import tiny_models

MODEL = Model(body=100, head=20, adapter=0, layers=2, attention_width=4, cached_per_token=16, bytes_per_number=2)
WITH_ADAPTER = Model(100, 20, 5, 2, 4, 16, 2)
ATTENTION = 4 * 2 * 4
"""Operations per pair of tokens over all layers."""


def test_whichever_peak_is_reached_last_sets_the_limit() -> None:
    machine = Machine("a machine", operations_per_s=10.0, bytes_per_s=5.0)
    assert Work(100.0, 5.0).least_s(machine) == 10.0
    assert Work(100.0, 500.0).least_s(machine) == 100.0
    assert (Work(1.0, 2.0) + Work(3.0, 4.0)) == Work(4.0, 6.0)


def test_a_token_sees_itself_and_all_before_it() -> None:
    assert [pairs(n) for n in (0, 1, 2, 3)] == [0, 1, 3, 6]
    for whole, cut in itertools.product(range(6), range(6)):
        if cut <= whole:
            assert pairs(cut) + pairs(whole - cut, before=cut) == pairs(whole)


def test_forward_operations_are_two_per_weight_and_token() -> None:
    assert forward(MODEL, [(0, 3)], logits=2) == 2 * 100 * 3 + 2 * 20 * 2 + ATTENTION * 6
    # in pieces or at once
    assert forward(MODEL, [(0, 2), (2, 1)], logits=2) == forward(MODEL, [(0, 3)], logits=2)


def test_a_forward_pass_costs_what_torch_counts() -> None:
    """Products of matrices only, as counted by torch while a real model runs."""
    from torch.utils.flop_counter import FlopCounterMode

    config = tiny_models.config("llama")
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    dense = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not model.get_output_embeddings()]
    ours = Model(
        body=sum(m.weight.numel() for m in dense),
        head=config.hidden_size * config.vocab_size,
        adapter=0,
        layers=config.num_hidden_layers,
        attention_width=config.hidden_size,
        cached_per_token=0,
        bytes_per_number=4,
    )
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=torch.zeros(1, 10, dtype=torch.int64))
    # torch multiplies whole squares of attention, of which the half above the diagonal is masked
    whole_squares = 4 * ours.layers * ours.attention_width * (10 * 10 - pairs(10))
    rotary = counted.get_total_flops() - forward(ours, [(0, 10)], 10) - whole_squares
    assert 0 <= rotary < 0.01 * counted.get_total_flops()


def test_completions_share_their_prompt_and_never_read_their_last_token() -> None:
    # one prompt of 3 tokens, completions of 1 and 4 tokens
    found = drawing(MODEL, [3], [(3, 1), (3, 4)])
    prompt = 2 * 100 * 3 + 2 * 20 + ATTENTION * 6
    rest = 3 * (2 * 100 + 2 * 20) + ATTENTION * (4 + 5 + 6)
    assert found.operations == prompt + rest
    # four steps read all weights; the longer completion reads 4, 5 and 6 cached tokens
    assert found.bytes == 4 * 120 * 2 + (4 + 5 + 6) * 16 * 2
    assert drawing(MODEL, [], []) == Work()


def test_more_completions_of_the_same_length_add_no_reading_of_weights() -> None:
    one, many = drawing(MODEL, [3], [(3, 4)]), drawing(MODEL, [3], [(3, 4)] * 50)
    assert many.bytes - one.bytes == 49 * (4 + 5 + 6) * 16 * 2


def test_reading_needs_the_head_only_where_likelihoods_are_asked_for() -> None:
    assert reading(MODEL, [(0, 3), (0, 2)]) == Work(2 * 100 * 5 + ATTENTION * 9, 240)
    assert reading(MODEL, [(0, 3), (0, 2)], 4).operations - reading(MODEL, [(0, 3), (0, 2)]).operations == 2 * 20 * 4
    assert reading(MODEL, [(2, 1)]) == Work(2 * 100 + ATTENTION * 3, 240)
    assert reading(MODEL, []) == Work()


def test_training_all_weights_is_three_forward_passes() -> None:
    found = training(MODEL, [3, 2], targets=2, passes=2.0, steps=7)
    assert found.operations == pytest.approx(2 * 3 * forward(MODEL, [(0, 3), (0, 2)], 2))
    assert found.bytes == 2 * 7 * 240


def test_an_adapter_spares_the_gradients_of_the_weights() -> None:
    found = training(WITH_ADAPTER, [3, 2], targets=2, passes=1.0, steps=1)
    assert found.operations == 4 * 100 * 5 + 6 * 5 * 5 + 4 * 20 * 2 + 3 * ATTENTION * 9
