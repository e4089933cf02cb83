"""The weighted SFT loss, and packing."""

import copy
import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from scpl_ray.config import Experiment, Training
from scpl_ray.records import Example
from scpl_ray.training.batches import TrainingSequence, collate, training_sequences
from scpl_ray.training.losses import packing_is_exact, weighted_nll, weighted_tokens
from scpl_ray.training.objectives import OBJECTIVES
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_is_found_exact_for_all_three_families(model, dtype):
    assert packing_is_exact(copy.deepcopy(model).to(dtype))


def test_packing_is_exact_where_kernels_round_by_the_shape_of_their_input(model):
    class Rounding(nn.Module):
        """As deep models on some processors: a row of another width differs by hundreds of units in the last place."""

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, **arguments):
            found = self.inner(**arguments)
            noise = torch.empty_like(found.logits[0, 0]).uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
            wider = found.logits.shape[1] > 4
            found.logits = found.logits + 100 * wider * torch.finfo(noise.dtype).eps * noise * found.logits.abs().max()
            return found

    assert packing_is_exact(Rounding())


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
    assert not packing_is_exact(Leaky().bfloat16())
    model.float()


def test_packing_is_found_out_where_one_layer_of_many_hears_the_other_sequence():
    settings = config("llama")
    settings.num_hidden_layers = 8
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(settings).eval()
    assert packing_is_exact(model)

    def hear(module, arguments, named):
        return arguments, named | {"attention_mask": None}

    model.model.layers[6].self_attn.register_forward_pre_hook(hear, with_kwargs=True)
    assert not packing_is_exact(model)


# shares of the loss -------------------------------------------------------------------------------------------------


def mixed(real: float, lengths: tuple[int, int], rows: int = 200) -> list[Example]:
    """Real rows of one length and synthetic ones of another, of weight 1; groups in turn."""
    count = round(real * rows)
    return [
        Example(f"e{i}", "real" if i < count else "round 1", ("a", "b")[i % 2], (7, 8, 9), (5,) * n, 1.0)
        for i in range(rows)
        for n in [lengths[0] if i < count else lengths[1]]
    ]


def shares(examples: list[Example], **settings) -> dict[str, dict[str, float]]:
    return OBJECTIVES[settings.get("objective", "sft")].loss_shares(examples, Training(**settings))


@pytest.mark.parametrize(
    ("real", "lengths", "by_tokens"),
    [(0.5, (12, 5), 0.7059), (0.5, (5, 12), 0.2941), (0.25, (12, 5), 12 / 27), (0.9, (3, 30), 27 / 57)],
)
def test_shares_of_weight_are_shares_of_the_loss_and_those_of_tokens_are_not(real, lengths, by_tokens):
    """A real share rho of rows of a tokens beside rows of b has rho a / (rho a + (1 - rho) b) of a loss by tokens."""
    examples = mixed(real, lengths)
    assert shares(examples)["origin"] == pytest.approx({"real": real, "synthetic": 1 - real})
    assert shares(examples, normalise="tokens")["origin"]["real"] == pytest.approx(by_tokens, abs=5e-5)
    pairs = shares(examples, objective="dpo")["origin"]
    assert pairs == pytest.approx({"real": real, "synthetic": 1 - real})


@pytest.mark.parametrize("loss_on", ["completion", "all"])
@pytest.mark.parametrize("normalise", ["examples", "tokens"])
def test_the_shares_are_those_of_the_loss_itself(loss_on, normalise):
    """Under a model that says the same to everything, the loss of a part over the whole is the part's share."""
    training = Training(loss_on=loss_on, normalise=normalise)
    examples = [dataclasses.replace(e, weight=1.0 + i % 3) for i, e in enumerate(mixed(0.4, (11, 4), 30))]
    loss = OBJECTIVES["sft"].loss(training)

    def total(rows: list[Example]) -> tuple[float, float]:
        sequences = loss.sequences(rows)
        # several micro-batches, packed and not, as gradients are accumulated
        cuts = [((0, 1, 2), (3,)), tuple((i,) for i in range(4, 9)), (tuple(range(9, len(sequences))),)]
        nats = sum(float(loss.total(Uniform(), collate(rows, sequences))[0].detach()) for rows in cuts)
        return nats, sum(map(loss.mass, sequences))

    real, whole = total([e for e in examples if e.origin == "real"]), total(examples)
    assert whole[0] / whole[1] == pytest.approx(math.log(50), rel=1e-5)
    for part in (0, 1):
        assert real[part] / whole[part] == pytest.approx(shares(examples, **training.model_dump())["origin"]["real"])


def test_shares_by_group_leave_out_examples_of_no_group_and_without_tokens():
    rows = [
        Example("e0", "round 1", "a", (7,), (5, 5), 1.0),
        Example("e1", "round 1", "b", (7,), (5,), 3.0),
        Example("e2", "round 1", "b", (7,), (), 9.0),
        Example("e3", "real", None, (7,), (5,), 4.0),
    ]
    assert shares(rows) == {"origin": {"real": 0.5, "synthetic": 0.5}, "group": {"a": 0.25, "b": 0.75}}


def test_dpo_weighs_pairs_and_refuses_to_count_tokens():
    e = Experiment(training=Training(objective="dpo", normalise="tokens"))
    assert any(text.startswith("training.normalise = 'tokens'") for text in OBJECTIVES["dpo"].conflicts(e))
    assert not [text for text in OBJECTIVES["sft"].conflicts(e) if "normalise" in text]
