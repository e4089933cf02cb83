"""The DPO loss: closed forms, and TRL's own trainer on the same batch."""

import copy
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from scpl_ray.config import Lora, Training
from scpl_ray.models.adapters import add_adapter
from scpl_ray.records import Example
from scpl_ray.training.batches import (
    MicroBatch,
    TrainingSequence,
    collate,
    plan_steps,
    sequence_rows,
    training_pairs,
    unit_lengths,
)
from scpl_ray.training.losses import preference_loss, sequence_log_probabilities
from scpl_ray.training.objectives import OBJECTIVES
from tests.support.tiny_models import FAMILIES, VOCABULARY, config, pairs, save_model

BETA = 0.3


class Unigram(nn.Module):
    """Has the same logits for every next token."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, input_ids, position_ids, use_cache):
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def batch_of(sequences: list[TrainingSequence], packed: bool = True) -> MicroBatch:
    units = (tuple(range(len(sequences) // 2)),) if packed else tuple((i,) for i in range(len(sequences) // 2))
    return collate(sequence_rows(units, 2, packed), sequences)


def referenced(model: nn.Module, sequences: list[TrainingSequence]) -> list[TrainingSequence]:
    with torch.no_grad():
        log_p, _ = sequence_log_probabilities(model, batch_of(sequences))
    return [dataclasses.replace(s, reference=r) for s, r in zip(sequences, log_p.tolist(), strict=True)]


def gradient(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.fixture(scope="module")
def sequences() -> list[TrainingSequence]:
    return training_pairs(pairs(6))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(request.param)).eval()


def test_log_probabilities_are_sums_over_the_answer(model, sequences) -> None:
    with torch.no_grad():
        found, _ = sequence_log_probabilities(model, batch_of(sequences))
        for sequence, log_p in zip(sequences, found.tolist(), strict=True):
            ids = torch.tensor([sequence.token_ids])
            each = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            assert log_p == pytest.approx(float(each[sequence.first_target - 1 :].sum()), abs=1e-4)


def test_at_the_reference_the_loss_is_ln_2_and_every_margin_0(model, sequences) -> None:
    total, figures = preference_loss(model, batch_of(referenced(model, sequences)), beta=BETA)
    mass = sum(s.weight for s in sequences[::2])
    assert float(total.detach()) / mass == pytest.approx(math.log(2), abs=1e-6)
    assert float(figures[0]) == pytest.approx(0.0, abs=1e-6)


def test_loss_and_gradient_by_hand() -> None:
    """One word answers of a policy without context: log pi(c) - log pi(r) = logit(c) - logit(r)."""
    policy = Unigram([0.0, 1.0, -0.5])
    chosen, rejected = TrainingSequence((0, 1), 1, 2.0, -1.0), TrainingSequence((0, 2), 1, 2.0, -3.0)
    total, figures = preference_loss(policy, batch_of([chosen, rejected]), beta=BETA)
    total.backward()
    margin = BETA * ((1.0 - -0.5) - (-1.0 - -3.0))
    wrong = 1 / (1 + math.exp(margin))
    assert float(total.detach()) == pytest.approx(-2.0 * math.log(1 - wrong))
    assert figures.tolist() == pytest.approx([2.0 * margin, 0.0])
    assert policy.logits.grad.tolist() == pytest.approx([0.0, -2.0 * BETA * wrong, 2.0 * BETA * wrong], abs=1e-7)


def test_a_weight_of_two_is_the_pair_twice(model, sequences) -> None:
    def loss(pairs: list[TrainingSequence]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        total, _ = preference_loss(model, batch_of(pairs), beta=BETA)
        (total / sum(s.weight for s in pairs[::2])).backward()
        return float(total.detach()) / sum(s.weight for s in pairs[::2]), gradient(model)

    ones = [dataclasses.replace(s, weight=1.0) for s in sequences]
    doubled = [dataclasses.replace(s, weight=2.0) if i < 2 else s for i, s in enumerate(ones)]
    weighted, repeated = loss(doubled), loss([*ones[:2], *ones])
    assert weighted[0] == pytest.approx(repeated[0], rel=1e-6)
    torch.testing.assert_close(weighted[1], repeated[1], rtol=1e-4, atol=1e-6)


def test_rows_of_their_own_give_the_loss_and_gradient_of_shared_ones(model, sequences) -> None:
    results = []
    for packed in (True, False):
        model.zero_grad()
        total, figures = preference_loss(model, batch_of(sequences, packed), beta=BETA)
        total.backward()
        results.append((float(total.detach()), figures.tolist(), gradient(model)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4, abs=1e-4)
    torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-4, atol=1e-5)


def test_an_empty_micro_batch_has_loss_zero_and_gradient_zero() -> None:
    policy = Unigram([0.0, 1.0])
    total, figures = preference_loss(policy, collate((), []), beta=BETA)
    total.backward()
    assert float(total.detach()) == 0.0 and figures.tolist() == [0.0, 0.0]
    assert policy.logits.grad is not None and not policy.logits.grad.any()


def test_pairs_of_any_lengths_fit_a_model_with_learned_positions() -> None:
    """Padding behind a short pair, which shares a batch with a long one, needs positions too."""
    torch.manual_seed(0)
    learned = AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=1, n_positions=64)
    ).eval()
    long, short = ((5,) * 20, (6,) * 40, (7,) * 40), ((5,) * 4, (6,) * 6, (7,) * 6)
    data = training_pairs(
        [Example(f"e{i}", "real", None, *one[:2], 1.0, one[2]) for i, one in enumerate((long, short))]
    )
    sizes = {"epochs": 1, "tokens_per_step": 512, "tokens_per_micro_batch": 512, "workers": 1, "seed": 0}
    (step,) = plan_steps(unit_lengths(data, 2, True), packed=True, **sizes)
    (units,) = step.shards[0]
    batch = collate(sequence_rows(units, 2, True), data)
    alone = [collate(((0,),), [sequence]) for sequence in batch.sequences]
    with torch.no_grad():
        found, _ = sequence_log_probabilities(learned, batch)
        wanted = torch.cat([sequence_log_probabilities(learned, one)[0] for one in alone])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)


def test_a_step_makes_the_chosen_more_likely_than_the_rejected(model, sequences) -> None:
    policy = copy.deepcopy(model)
    data = referenced(policy, sequences)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    preference_loss(policy, batch_of(data), beta=BETA)[0].backward()
    optimizer.step()
    _, (margin, accuracy) = preference_loss(policy, batch_of(data), beta=BETA)
    assert margin > 0 and accuracy > 0.8 * sum(s.weight for s in data[::2])


def test_the_objective_is_found_by_name() -> None:
    dpo = OBJECTIVES["dpo"].loss(Training(objective="dpo", dpo_beta=0.7, dpo_reference="base"))
    assert (dpo.per_unit, dpo.reference, dpo.figures) == (2, "base", ("reward_margin", "reward_accuracy"))
    assert dpo.mass(TrainingSequence((1, 2, 3), 1, 0.4)) == 0.4
    assert dpo.total.keywords == {"beta": 0.7}  # type: ignore[attr-defined]


# --- TRL


ROWS = {
    "prompt": ["w5 w6 w7", "w8", "w9 w10", "w11 w12 w13 w14"],
    "chosen": [" w20 w21", " w22 w23 w24 w25", " w26", " w27 w28"],
    "rejected": [" w30", " w31 w32", " w33 w34 w35", " w36 w37 w38 w39"],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora", [None, Lora(rank=4, alpha=8.0)], ids=["full", "lora"])
def test_loss_and_gradients_equal_those_of_trl(family: str, lora: Lora | None, tmp_path: Path) -> None:
    """The same policy, reference and tokens; the reference differs from the policy, so that margins are not 0."""
    from trl import DPOConfig, DPOTrainer

    folder = save_model(tmp_path / "model", family)
    policy = AutoModelForCausalLM.from_pretrained(folder)
    reference = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    if lora is not None:
        policy = add_adapter(policy, lora)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(0.0, 0.02)
    ours, our_reference = copy.deepcopy(policy), copy.deepcopy(reference)
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"),
            beta=BETA,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            disable_dropout=True,
            report_to=[],
        ),
        train_dataset=Dataset.from_dict(ROWS),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    rows = [trainer.train_dataset[i] for i in range(len(ROWS["prompt"]))]
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()

    parts = [[tuple(row[f"{part}_ids"]) for part in ("prompt", "chosen", "rejected")] for row in rows]
    examples = [
        Example(f"e{i}", "real", None, prompt, chosen, 1.0, rejected)
        for i, (prompt, chosen, rejected) in enumerate(parts)
    ]
    objective = OBJECTIVES["dpo"].loss(Training(objective="dpo", dpo_beta=BETA))
    sequences = referenced(our_reference.eval(), objective.sequences(examples))
    total, figures = objective.total(ours.eval(), batch_of(sequences))
    our_loss = total / sum(objective.mass(s) for s in sequences[::2])
    our_loss.backward()

    assert float(loss.detach()) == pytest.approx(float(our_loss.detach()), abs=1e-5)
    assert abs(float(our_loss.detach()) - math.log(2)) > 1e-3
    measured = trainer._metrics["eval"]
    assert measured["rewards/margins"][-1] == pytest.approx(float(figures[0]) / len(rows), abs=1e-5)
    assert measured["rewards/accuracies"][-1] == pytest.approx(float(figures[1]) / len(rows))
    theirs = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    mine = {n: p.grad for n, p in ours.named_parameters() if p.grad is not None}
    assert mine.keys() == theirs.keys() and max(float(g.abs().max()) for g in mine.values()) > 1e-3
    for name, gradient_ in mine.items():
        torch.testing.assert_close(gradient_, theirs[name], rtol=0.0, atol=1e-5)
