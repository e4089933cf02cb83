"""The output layer is applied to the positions that count, and nowhere else."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Llama4TextConfig,
    MiniCPM3Config,
    ModernBertDecoderConfig,
    RobertaConfig,
)

from scpl_ray.config import Lora
from scpl_ray.models import head
from scpl_ray.models.adapters import add_adapter
from scpl_ray.models.head import nll_at
from scpl_ray.training.batches import collate, training_pairs, training_sequences
from scpl_ray.training.losses import preference_loss, sequence_log_probabilities, weighted_nll
from tests.support.model_shapes import SHAPE, VOCABULARY
from tests.support.tiny_models import FAMILIES, config, examples, pairs


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(request.param)).eval()


@pytest.fixture
def rows_seen(model) -> list[int]:
    """For how many positions the output layer was asked, call by call."""
    seen: list[int] = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda _, arguments, out: seen.append(out[..., 0].numel())
    )
    yield seen
    hook.remove()


@torch.no_grad()
def test_the_chosen_positions_have_the_likelihoods_of_the_whole(model, monkeypatch):
    ids = torch.randint(2, 200, (3, 11), generator=torch.Generator().manual_seed(0))
    chosen = torch.rand(3, 11, generator=torch.Generator().manual_seed(1)) < 0.4
    targets = ids[chosen]
    for network in (model, add_adapter(copy.deepcopy(model), Lora(rank=2, alpha=4.0))):
        whole = network(input_ids=ids).logits
        expected = torch.nn.functional.cross_entropy(whole[chosen], targets, reduction="none")
        for at_once, block in ((2**26, 1), (2**26, 8), (200 * 5, 1), (200 * 5, 4)):
            monkeypatch.setattr(head, "LOGITS_PER_PASS", at_once)
            found = nll_at(network, chosen, targets, block=block, input_ids=ids)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(network(input_ids=ids).logits, whole)  # nothing is left of the choice


@pytest.mark.parametrize("objective", ["sft", "dpo", "reference"])
def test_only_positions_with_a_loss_reach_the_output_layer(objective, model, rows_seen):
    sequences = training_pairs(pairs(6)) if objective != "sft" else training_sequences(examples(6), "completion")
    batch = collate(tuple((i,) for i in range(len(sequences))), sequences)
    if objective == "reference":
        sequence_log_probabilities(model, batch)
    else:
        total, _ = weighted_nll(model, batch) if objective == "sft" else preference_loss(model, batch, beta=0.3)
        total.backward()
    assert rows_seen == [sum(s.target_tokens for s in sequences)]
    assert rows_seen[0] < 0.7 * batch.token_ids.size


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_parts_have_the_loss_and_the_gradient_of_the_whole(objective, model, rows_seen, monkeypatch):
    sequences = training_pairs(pairs(6)) if objective == "dpo" else training_sequences(examples(6), "completion")
    batch = collate(tuple((i,) for i in range(len(sequences))), sequences)
    found = []
    for at_once in (2**26, 200 * 7):
        monkeypatch.setattr(head, "LOGITS_PER_PASS", at_once)
        model.zero_grad()
        rows_seen.clear()
        total, _ = weighted_nll(model, batch) if objective == "sft" else preference_loss(model, batch, beta=0.3)
        total.backward()
        found.append((float(total.detach()), torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert max(rows_seen) == 7
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-6)


def test_a_model_that_caps_its_logits_caps_those_of_every_part(monkeypatch):
    monkeypatch.setattr(head, "LOGITS_PER_PASS", 200 * 7)
    settings = Gemma2Config(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        final_logit_softcapping=0.05,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    capped = AutoModelForCausalLM.from_config(settings).eval()
    seen: list[int] = []
    capped.get_output_embeddings().register_forward_hook(lambda _, arguments, out: seen.append(out[..., 0].numel()))
    ids = torch.randint(2, 200, (3, 11), generator=torch.Generator().manual_seed(0))
    chosen = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        found = nll_at(capped, chosen, ids.flatten(), input_ids=ids)
        assert max(seen) == 7, "and never all of them at once"
        wanted = torch.nn.functional.cross_entropy(
            capped(input_ids=ids).logits[chosen], ids.flatten(), reduction="none"
        )
    torch.testing.assert_close(found, wanted)


OTHER_ENDS = {
    # divides what its output layer gets
    "minicpm3": lambda: MiniCPM3Config(
        **SHAPE | {"num_key_value_heads": 2},
        dim_model_base=16,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
    ),
    # has layers between the decoder and the output layer
    "roberta": lambda: RobertaConfig(**SHAPE, is_decoder=True),
    # names its output layer as its decoder
    "modernbert": lambda: ModernBertDecoderConfig(**SHAPE, pad_token_id=0),
    # names itself as its decoder
    "llama4": lambda: Llama4TextConfig(**SHAPE, head_dim=32, num_local_experts=2, intermediate_size_mlp=96),
}


@pytest.mark.parametrize("kind", OTHER_ENDS)
def test_what_a_model_does_before_its_output_layer_is_done_once(kind, monkeypatch):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(OTHER_ENDS[kind]()).eval()
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _, arguments, out: seen.append(out[..., 0].numel()))
    ids = torch.randint(3, 200, (3, 11), generator=torch.Generator().manual_seed(0))
    chosen = torch.ones_like(ids, dtype=torch.bool)
    found = []
    for at_once in (2**26, VOCABULARY * 7):
        monkeypatch.setattr(head, "LOGITS_PER_PASS", at_once)
        model.zero_grad()
        seen.clear()
        losses = nll_at(model, chosen, ids.flatten(), input_ids=ids, use_cache=False)
        losses.mean().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((losses.detach(), torch.cat(gradients)))
    assert max(seen) == 7, "and never all of them at once"
    torch.testing.assert_close(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-4, atol=1e-6)


def test_where_no_hidden_states_are_seen_all_logits_are_made_at_once(model, rows_seen, monkeypatch):
    monkeypatch.setattr(head, "LOGITS_PER_PASS", 200 * 7)
    ids = torch.randint(2, 200, (3, 11), generator=torch.Generator().manual_seed(0))
    chosen = torch.ones_like(ids, dtype=torch.bool)
    monkeypatch.setattr(model, "get_decoder", model.get_input_embeddings)
    with torch.no_grad():
        found = nll_at(model, chosen, ids.flatten(), block=8, input_ids=ids)
        assert rows_seen == [40]
        wanted = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[chosen], ids.flatten(), reduction="none")
    torch.testing.assert_close(found, wanted)


def test_an_empty_micro_batch_asks_for_one_position(model, rows_seen):
    model.zero_grad()
    total, _ = weighted_nll(model, collate((), []))
    total.backward()
    assert rows_seen == [1] and float(total.detach()) == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
