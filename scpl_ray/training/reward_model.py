"""Reward models: sequence classification with one output, or one per group, fitted to users' choices.

A user who sees two completions of one prompt chooses the first with probability sigmoid(r_1 - r_2) (Bradley and Terry
1952; as a loss of language models Ouyang et al. 2022, eq. 1). With one output per group, r is the output of the user's
own group. Choices tell nothing about a constant that is added to all rewards of one prompt, though selection compares
rewards across prompts. Two things settle it: the penalty ``CENTRING * (r_1 + r_2)^2`` of Eisenstein et al. 2023
(arXiv 2312.09244, section 3.1), which draws every prompt's mean reward to 0, and a final change of origin and unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scpl_ray.models.sources import check_outputs
from scpl_ray.models.tokens import Ids
from scpl_ray.protocols import Choice
from scpl_ray.seeds import generator
from scpl_ray.training import classifiers as sequence
from scpl_ray.training.classifiers import Schedule, SequenceModel

OFFSET = "reward_offset"
"""Key of the model's config: what is subtracted from the outputs. Absent in models from elsewhere: 0."""
NATS = "reward_nats"
"""Key of the model's config: nats of log-odds of being chosen per unit of reward. Absent elsewhere: 1."""
HELD_OUT = 0.1
EPOCHS = 2
PAIRS_PER_STEP = 32
PEAK_LEARNING_RATE = 1e-3
CENTRING = 0.01


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A reward model in memory, ready to score."""

    sequence: SequenceModel
    offset: NDArray[np.float64]
    """Per output, shape (outputs,) or (1,)."""
    nats: NDArray[np.float64]
    """Per output: nats of log-odds of being chosen per unit of reward."""

    def encode(self, prompt: str, completion: str) -> Ids:
        """The one template of fitting and scoring: :meth:`~scpl_ray.training.classifiers.SequenceModel.encode_pair`."""
        return self.sequence.encode_pair(prompt, completion)

    def rewards(self, texts: Sequence[tuple[str, str]], tokens_per_batch: int) -> NDArray[np.float64]:
        """All outputs for (prompt, completion) pairs, in order, shape (texts, outputs).

        Args:
            texts: the pairs.
            tokens_per_batch: tokens per forward pass, padding included.
        """
        return self.sequence.outputs([self.encode(*pair) for pair in texts], tokens_per_batch) - self.offset

    def score(
        self, texts: Sequence[tuple[str, str]], tokens_per_batch: int, groups: Sequence[str | None] = ()
    ) -> list[float]:
        """Rewards of (prompt, completion) pairs, in order.

        Args:
            texts: the pairs.
            tokens_per_batch: tokens per forward pass, padding included.
            groups: the asking group of each; a model with one output does without.

        Raises:
            ValueError: the model has an output per group and a pair's group is none of them.
        """
        found = self.rewards(texts, tokens_per_batch)
        if found.shape[1] == 1:
            return [float(reward) for reward in found[:, 0]]
        labels = self.sequence.labels
        if len(groups) != len(texts) or set(groups) - set(labels):
            raise ValueError(
                f"reward.model: its outputs are {', '.join(labels)}: every text needs the one of these groups that "
                f"asks; given were {len(groups)} groups ({', '.join(sorted(set(map(str, groups))))}) for {len(texts)} "
                "texts"
            )
        return [float(row[labels.index(str(group))]) for row, group in zip(found, groups, strict=True)]


def load(source: Path, dtype: torch.dtype, device: str, groups: Sequence[str] = ()) -> RewardModel:
    """A reward model from a folder or the Hub, safetensors only.

    Args:
        source: folder, or Hub id as a path.
        dtype: of the weights in memory.
        device: where they go.
        groups: whose rewards it gives, if it has more than one output.

    Raises:
        ValueError: its outputs are neither one nor one per group; see :func:`check_outputs`.
    """
    model = sequence.load(source, dtype, device)
    check_outputs(str(source), model.labels, groups)
    facts = model.model.config.to_dict()
    offset, nats = (np.atleast_1d(np.float64(facts.get(key, absent))) for key, absent in ((OFFSET, 0.0), (NATS, 1.0)))
    return RewardModel(model, offset, nats)


@dataclasses.dataclass(frozen=True, slots=True)
class Effort:
    """What fitting may cost."""

    max_tokens: int | None = None
    """Longest prompt and completion, in tokens; ``None``: as the base allows."""
    frozen_layers: int = 0
    """Lowest layers of the base that stay as they are."""
    epochs: int | None = None
    """``None``: :data:`EPOCHS`."""
    pairs_per_step: int | None = None
    """``None``: :data:`PAIRS_PER_STEP`."""


def fit(
    choices: Sequence[Choice],
    *,
    base: Path,
    output: Path,
    seed: int,
    tokens_per_batch: int,
    device: str = "cpu",
    groups: Sequence[str] = (),
    effort: Effort = Effort(),
) -> dict[str, float]:
    """Train a reward model on pairwise choices.

    The body starts as the base model and the head at 0; a tenth of the choices is held out. Training minimises

        mean over pairs of  -log sigmoid(r_c - r_r) + CENTRING (r_c + r_r)^2

    in float32 without dropout, by AdamW with linear warm-up and decay. Pairs of one prompt come one after the other and
    a text that several of them share is read once (Ouyang et al. 2022, section 3.5). Then origin and unit of every
    output are set so that its rewards of the texts of all training choices have mean 0 and standard deviation 1: a
    selection temperature means the same in every round, and outputs can be compared. The same arguments give the same
    model on a CPU with one thread.

    Args:
        choices: at least 2.
        base: folder of the base model, a language model or an encoder, with its tokenizer.
        output: existing folder; receives config, safetensors and tokenizer.
        seed: of the split and the order.
        tokens_per_batch: tokens per forward pass of the closing evaluation.
        device: where to train.
        groups: one output for each, named so, trained on the choices of its users; empty: one output for all users.
        effort: what it may cost.

    Returns:
        ``pairs`` trained on, ``held_out_pairs``, ``steps``, mean ``training_loss`` of the last epoch (nats),
        ``held_out_loss`` (nats) and ``held_out_accuracy``: the fraction of held-out choices whose chosen text has the
        higher reward, ties counted half.

    Raises:
        ValueError: there are fewer than 2 choices, a group has none, or their texts cannot be told apart.
    """
    if len(choices) < 2:
        raise ValueError(f"choices: {len(choices)} given; a reward model needs at least 2, one of them held out")
    column = _columns(choices, groups)
    model = sequence.untrained(base, groups or ["reward"], seed=seed, device=device, max_tokens=effort.max_tokens)
    encoded = [(model.encode_pair(c.prompt, c.chosen), model.encode_pair(c.prompt, c.rejected)) for c in choices]
    order = generator(seed, "reward model split").permutation(len(choices)).tolist()
    cut = max(1, round(HELD_OUT * len(choices)))
    held_out, training = order[:cut], order[cut:]

    def loss(batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        members = [training[i] for i in batch]
        texts = list(dict.fromkeys([encoded[i][0] for i in members] + [encoded[i][1] for i in members]))
        place = {ids: row for row, ids in enumerate(texts)}
        outputs = model.forward(texts, max(map(len, texts)) + 1)
        own = [column[i] for i in members]
        chosen = outputs[[place[encoded[i][0]] for i in members], own]
        rejected = outputs[[place[encoded[i][1]] for i in members], own]
        losses = -F.logsigmoid(chosen - rejected)
        return (losses + CENTRING * (chosen + rejected) ** 2).mean(), losses

    schedule = Schedule(
        effort.epochs or EPOCHS, effort.pairs_per_step or PAIRS_PER_STEP, PEAK_LEARNING_RATE, effort.frozen_layers
    )
    prompts = [choices[i].prompt for i in training]
    steps, training_loss = sequence.train(
        model, len(training), loss, schedule, seed=seed, purpose="reward model", together=prompts
    )
    texts = list(dict.fromkeys(ids for pair in encoded for ids in pair))
    reward_of = dict(zip(texts, model.outputs(texts, tokens_per_batch), strict=True))
    rewards = np.array([[reward_of[ids] for ids in pair] for pair in encoded])
    mean, sd = rewards[training].mean(axis=(0, 1)), rewards[training].std(axis=(0, 1))
    if not sd.min() > 1e-6:
        raise ValueError(
            f"choices: the rewards of all {2 * len(training)} texts came out equal (sd {sd.min():.1e}); chosen and "
            "rejected texts must differ"
        )
    _set_origin_and_unit(model, mean, sd)
    model.save(output)
    own = np.array(column)[held_out]
    margins = rewards[held_out, 0, own] - rewards[held_out, 1, own]
    return {
        "pairs": float(len(training)),
        "held_out_pairs": float(len(held_out)),
        "steps": float(steps),
        "training_loss": training_loss,
        "held_out_loss": float(np.logaddexp(0.0, -margins).mean()),
        "held_out_accuracy": accuracy(margins),
    }


def accuracy(margins: NDArray[np.float64]) -> float:
    """Fraction of pairs whose chosen text has the higher reward, ties counted half; margins are chosen - rejected."""
    return float((margins > 0).mean() + 0.5 * (margins == 0).mean())


def _columns(choices: Sequence[Choice], groups: Sequence[str]) -> list[int]:
    """The output that each choice trains."""
    if not groups:
        return [0] * len(choices)
    made = {str(choice.group) for choice in choices}
    if made != set(groups):
        raise ValueError(
            f"choices: users of {', '.join(sorted(made))} made them, but there is to be one output for each of "
            f"{', '.join(groups)}; give choices of users of exactly these groups"
        )
    return [list(groups).index(str(choice.group)) for choice in choices]


def _set_origin_and_unit(model: SequenceModel, mean: NDArray[np.float64], sd: NDArray[np.float64]) -> None:
    head = model.head()
    with torch.no_grad():
        unit = torch.as_tensor(sd, dtype=head.weight.dtype, device=head.weight.device)
        head.weight.div_(unit[:, None])
        if head.bias is not None:
            head.bias.div_(unit)
    model.model.config.update({OFFSET: np.squeeze(mean / sd).tolist(), NATS: np.squeeze(sd).tolist()})
