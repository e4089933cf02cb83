"""The weighted SFT loss, and packing."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from scpl_ray.training.batches import TrainingSequence, collate, training_sequences
from scpl_ray.training.losses import packing_is_exact, weighted_nll, weighted_tokens
from tests.support.tiny_models import FAMILIES, config, examples


class Uniform(nn.Module):
    """Says ln(50) nats to everything."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(50))

    def forward(self, input_ids, position_ids, use_cache):
        return SimpleNamespace(logits=self.bias.expand(*input_ids.shape, 50))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(request.param)).eval()


def test_loss_is_the_weighted_sum_over_completion_tokens():
    sequences = [TrainingSequence((10, 11, 12, 13), 2, 0.5), TrainingSequence((20, 21), 1, 3.0)]
    total, _ = weighted_nll(Uniform(), collate(((0,), (1,)), sequences))
    assert float(total.detach()) == pytest.approx((0.5 * 2 + 3.0 * 1) * math.log(50))
    assert [weighted_tokens(s) for s in sequences] == [1.0, 3.0]


def test_an_empty_micro_batch_has_loss_zero_and_gradient_zero():
    model = Uniform()
    total, _ = weighted_nll(model, collate((), []))
    total.backward()
    assert float(total.detach()) == 0.0
    assert model.bias.grad is not None and not model.bias.grad.any()


def test_loss_agrees_with_the_model_s_own(model):
    """transformers' labels: a mean over the tokens that are not -100."""
    (sequence,) = training_sequences(examples(1), "completion")
    ids = torch.tensor([sequence.token_ids])
    labels = ids.clone()
    labels[:, : sequence.first_target] = -100
    with torch.no_grad():
        own = model(input_ids=ids, labels=labels).loss
        ours = weighted_nll(model, collate(((0,),), [sequence]))[0] / weighted_tokens(sequence)
    assert float(ours) == pytest.approx(float(own), rel=1e-5)


def test_packed_rows_give_the_losses_and_gradients_of_rows_of_their_own(model):
    sequences = training_sequences(examples(8), "completion")
    results = []
    for rows in (((0, 1, 2), (3, 4), (5, 6, 7)), tuple((i,) for i in range(8))):
        model.zero_grad()
        total, _ = weighted_nll(model, collate(rows, sequences))
        total.backward()
        results.append((float(total.detach()), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (packed, packed_gradient), (alone, gradient) = results
    assert packed == pytest.approx(alone, rel=1e-6)
    torch.testing.assert_close(packed_gradient, gradient, rtol=1e-4, atol=1e-5)


def test_packing_is_found_exact_for_all_three_families(model):
    assert packing_is_exact(model)


def test_packing_is_exact_where_kernels_round_the_rows_of_a_batch_differently(model):
    class Rounding(nn.Module):
        """As matrix products on some processors, whose last bits depend on where in the batch a row stands."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, **arguments):
            found = self.inner(**arguments)
            rows = torch.arange(len(found.logits), dtype=found.logits.dtype)[:, None, None]
            found.logits = found.logits * (1 + torch.finfo(rows.dtype).eps * rows)
            return found

    assert packing_is_exact(Rounding())


def test_packing_is_found_out_where_sequences_see_each_other(model):
    class Leaky(nn.Module):
        """Hands over a mask, so that transformers does not look for packed sequences."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, input_ids, **arguments):
            return self.inner(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **arguments)

    assert not packing_is_exact(Leaky())
