"""Reward models: sequence classification with one output, and Bradley-Terry training on users' choices.

A user who sees two completions of one prompt chooses the first with probability sigmoid(r_1 - r_2) (Bradley and Terry
1952; as a loss of language models Ouyang et al. 2022, eq. 1). Choices tell nothing about a constant that is added
to all rewards of one prompt, though selection compares rewards across prompts. Two things settle it: the penalty
``CENTRING * (r_1 + r_2)^2`` of Eisenstein et al. 2023 (arXiv 2312.09244, section 3.1), which draws every prompt's mean
reward to 0, and a final change of origin and unit.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from scpl_ray.learning.likelihood import equal_width_batches, pad_right
from scpl_ray.learning.tokens import Ids
from scpl_ray.protocols import Choice
from scpl_ray.seeds import generator

logger = logging.getLogger(__name__)

OFFSET = "reward_offset"
"""Key of the model's config: what is subtracted from the head's output. Absent in models from elsewhere: 0."""
HELD_OUT = 0.1
EPOCHS = 2
PAIRS_PER_STEP = 32
PEAK_LEARNING_RATE = 1e-3
REFERENCE_WIDTH = 128
"""Hidden size up to which the peak learning rate holds; above, it falls as 1 / hidden size."""
WARMUP = 0.1
CENTRING = 0.01


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A reward model in memory, ready to score."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    offset: float
    filler: int
    """Token id on the right of texts that are shorter than their batch."""
    max_tokens: int
    """Longest text, in tokens."""

    def encode(self, prompt: str, completion: str) -> Ids:
        """The one template of fitting and scoring: prompt and completion as the tokenizer's pair of texts.

        They are tokenised apart, so that a completion's tokens do not depend on how its prompt ends. Too long a pair
        loses the end of its prompt.
        """
        encoded = self.tokenizer(prompt, completion, truncation="only_first", max_length=self.max_tokens)
        return tuple(encoded["input_ids"])

    @torch.inference_mode()
    def score(self, texts: Sequence[tuple[str, str]], tokens_per_batch: int) -> list[float]:
        """Rewards of (prompt, completion) pairs, in order.

        Args:
            texts: the pairs.
            tokens_per_batch: tokens per forward pass, padding included.
        """
        ids = [self.encode(prompt, completion) for prompt, completion in texts]
        rewards = [math.nan] * len(ids)
        # One more than there are: with and without any padding, attention takes different kernels.
        lengths = [len(i) + 1 for i in ids]
        for width, members in equal_width_batches(lengths, tokens_per_batch, self.max_tokens + 1):
            for index, reward in zip(members, self.forward([ids[i] for i in members], width).tolist(), strict=True):
                rewards[index] = reward - self.offset
        return rewards

    def forward(self, texts: Sequence[Ids], width: int) -> Tensor:
        """Head outputs, shape (texts,), float32."""
        device = self.model.device
        mask = pad_right([(1,) * len(ids) for ids in texts], width, 0, device)
        outputs: Tensor = self.model(input_ids=pad_right(texts, width, self.filler, device), attention_mask=mask).logits
        return outputs[:, 0].float()


def load(source: Path, dtype: torch.dtype, device: str) -> RewardModel:
    """A reward model from a folder or the Hub, safetensors only.

    Args:
        source: folder, or Hub id as a path.
        dtype: of the weights in memory.
        device: where they go.

    Raises:
        ValueError: it has not exactly one output.
    """
    name = str(source)
    model = AutoModelForSequenceClassification.from_pretrained(name, dtype=dtype, use_safetensors=True)
    if model.config.num_labels != 1:
        raise ValueError(
            f"reward.model: {name} has {model.config.num_labels} outputs; a reward model has num_labels = 1"
        )
    return _wrap(model.to(device), AutoTokenizer.from_pretrained(name))


def _wrap(model: Any, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    config = model.config.get_text_config()
    known = [i for i in (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None]
    config.pad_token_id = known[0] if known else 0
    longest = min(tokenizer.model_max_length, config.max_position_embeddings) - 1
    offset = float(model.config.to_dict().get(OFFSET, 0.0))
    return RewardModel(model.eval(), tokenizer, offset, int(config.pad_token_id), longest)


def fit(
    choices: Sequence[Choice], *, base: Path, output: Path, seed: int, tokens_per_batch: int, device: str = "cpu"
) -> dict[str, float]:
    """Train a reward model on pairwise choices.

    The body starts as the base language model and the head at 0; a tenth of the choices is held out. Training minimises

        mean over pairs of  -log sigmoid(r_c - r_r) + CENTRING (r_c + r_r)^2

    in float32 without dropout, by AdamW with linear warm-up and decay. Then origin and unit are set so that the rewards
    of all texts of the training choices have mean 0 and standard deviation 1: a selection temperature means the same
    in every round. The same arguments give the same model on a CPU with one thread.

    Args:
        choices: at least 2.
        base: folder of the base model with its tokenizer.
        output: existing folder; receives config, safetensors and tokenizer.
        seed: of the split and the order.
        tokens_per_batch: tokens per forward pass of the closing evaluation.
        device: where to train.

    Returns:
        ``pairs`` trained on, ``held_out_pairs``, ``steps``, mean ``training_loss`` of the last epoch (nats),
        ``held_out_loss`` (nats) and ``held_out_accuracy``: the fraction of held-out choices whose chosen text has the
        higher reward, ties counted half.

    Raises:
        ValueError: there are fewer than 2 choices, or their texts cannot be told apart.
    """
    if len(choices) < 2:
        raise ValueError(f"choices: {len(choices)} given; a reward model needs at least 2, one of them held out")
    model = AutoModelForSequenceClassification.from_pretrained(
        str(base), num_labels=1, dtype=torch.float32, use_safetensors=True
    )
    torch.nn.init.zeros_(model.score.weight)
    reward_model = _wrap(model.to(device), AutoTokenizer.from_pretrained(str(base)))
    pairs = [(reward_model.encode(c.prompt, c.chosen), reward_model.encode(c.prompt, c.rejected)) for c in choices]
    order = generator(seed, "reward model split").permutation(len(pairs)).tolist()
    cut = max(1, round(HELD_OUT * len(pairs)))
    held_out, training = order[:cut], order[cut:]

    steps, loss = _train(reward_model, [pairs[i] for i in training], seed)
    texts = [(c.prompt, text) for c in choices for text in (c.chosen, c.rejected)]
    rewards = torch.tensor(reward_model.score(texts, tokens_per_batch), dtype=torch.float64).view(-1, 2)
    mean, sd = float(rewards[training].mean()), float(rewards[training].std(correction=0))
    if not sd > 1e-6:
        raise ValueError(
            f"choices: the rewards of all {2 * len(training)} texts came out equal (sd {sd:.1e}); chosen and rejected "
            "texts must differ"
        )
    margins = rewards[held_out, 0] - rewards[held_out, 1]
    with torch.no_grad():
        model.score.weight /= sd
    model.config.update({OFFSET: mean / sd})
    model.save_pretrained(output)
    reward_model.tokenizer.save_pretrained(output)
    return {
        "pairs": float(len(training)),
        "held_out_pairs": float(len(held_out)),
        "steps": float(steps),
        "training_loss": loss,
        "held_out_loss": float(F.softplus(-margins).mean()),
        "held_out_accuracy": float((margins > 0).double().mean() + 0.5 * (margins == 0).double().mean()),
    }


def _train(reward_model: RewardModel, pairs: Sequence[tuple[Ids, Ids]], seed: int) -> tuple[int, float]:
    """Steps done, and the mean Bradley-Terry loss of the last epoch."""
    parameters = [p for p in reward_model.model.parameters() if p.requires_grad]
    width = reward_model.model.config.get_text_config().hidden_size
    optimizer = torch.optim.AdamW(
        parameters, lr=PEAK_LEARNING_RATE * min(1.0, REFERENCE_WIDTH / width), betas=(0.9, 0.95), weight_decay=0.0
    )
    steps = EPOCHS * -(-len(pairs) // PAIRS_PER_STEP)
    warmup = max(1, round(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup + 1))
    )
    for epoch in range(EPOCHS):
        order = generator(seed, "reward model order", epoch).permutation(len(pairs)).tolist()
        total = 0.0
        for start in range(0, len(order), PAIRS_PER_STEP):
            batch = [pairs[i] for i in order[start : start + PAIRS_PER_STEP]]
            texts = [chosen for chosen, _ in batch] + [rejected for _, rejected in batch]
            chosen, rejected = reward_model.forward(texts, max(map(len, texts)) + 1).chunk(2)
            loss = -F.logsigmoid(chosen - rejected)
            objective = (loss + CENTRING * (chosen + rejected) ** 2).mean()
            optimizer.zero_grad(set_to_none=True)
            objective.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach().sum())
        logger.info("reward model: epoch %d of %d, loss %.4f nats", epoch + 1, EPOCHS, total / len(pairs))
    return steps, total / len(pairs)
