"""Reward models: sequence classifiers with one output, or one per group, fitted on users' choices.

A user who sees two completions of one prompt chooses the first with probability sigmoid(r_1 - r_2) (Bradley and Terry
1952; as a loss for language models Ouyang et al. 2022, eq. 1). With one output per group, r is the output of the
user's own group. Choices do not determine a constant that is added to all rewards of one prompt, although selection
compares rewards across prompts. Two steps determine it: the penalty ``CENTRING * (r_1 + r_2)^2`` of Eisenstein et al.
2023 (arXiv 2312.09244, section 3.1), which pulls every prompt's mean reward towards 0, and a final shift and rescaling.
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
"""Key in the model's config: the value that is subtracted from the outputs; 0 if it is absent (other models)."""
NATS = "reward_nats"
"""Key in the model's config: nats of log-odds of being chosen per unit of reward; 1 if it is absent."""
HELD_OUT = 0.1
EPOCHS = 1
"""As in Ouyang et al. 2022 (appendix C.2)."""
FEWEST_STEPS = 50
"""Where one epoch makes fewer, a second one follows. The tiny model learned no more of 2,048 choices (58 steps) by a
second pass; of 1,024 (29 steps) it did, and leaned more alike from one set of choices to the next."""
PAIRS_PER_STEP = 32
PEAK_LEARNING_RATE = 2e-3
CENTRING = 0.01
READING_THREADS = 2
"""Passes at a time over all texts at the end of a fit on a CPU, while which the round waits for it alone."""


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """A reward model in memory, ready to score."""

    sequence: SequenceModel
    offset: NDArray[np.float64]
    """The value subtracted from each output, shape (outputs,) or (1,)."""
    nats: NDArray[np.float64]
    """Nats of log-odds of being chosen per unit of reward, for each output."""

    def rewards(self, texts: Sequence[tuple[str, str]], tokens_per_batch: int) -> NDArray[np.float64]:
        """All outputs for (prompt, completion) pairs, in order, shape (texts, outputs).

        Args:
            texts: the pairs.
            tokens_per_batch: tokens per forward pass, padding included.
        """
        return self.sequence.pair_outputs(texts, tokens_per_batch) - self.offset

    def score(
        self, texts: Sequence[tuple[str, str]], tokens_per_batch: int, groups: Sequence[str | None] = ()
    ) -> list[float]:
        """Rewards of (prompt, completion) pairs, in order.

        Args:
            texts: the pairs.
            tokens_per_batch: tokens per forward pass, padding included.
            groups: the asking group of each pair; not needed by a model with one output.

        Raises:
            ValueError: the model has one output per group, and the group of a pair is not among them.
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


def load(
    source: Path, dtype: torch.dtype, device: str, groups: Sequence[str] = (), *, trust_remote_code: bool = False
) -> RewardModel:
    """Load a reward model from a folder or the Hub, safetensors only.

    One from elsewhere reads pairs as its tokenizer writes them, segments (``token_type_ids``) included.

    Args:
        source: a folder, or a Hub id as a path.
        dtype: number format of the weights in memory.
        device: device on which the weights are placed.
        groups: the groups whose rewards the model must give if it has more than one output.
        trust_remote_code: whether code that came with the model may be run.

    Raises:
        ValueError: weights are missing, or the model has neither one output nor one per group; see
            :func:`check_outputs`.
    """
    model = sequence.load(source, dtype, device, trust_remote_code=trust_remote_code)
    check_outputs(str(source), model.labels, groups)
    facts = model.model.config.to_dict()
    fitted_here = OFFSET in facts or NATS in facts  # without segments, and read as they were fitted
    model = dataclasses.replace(model, segmented=not fitted_here and model.takes_segments)
    offset, nats = (np.atleast_1d(np.float64(facts.get(key, absent))) for key, absent in ((OFFSET, 0.0), (NATS, 1.0)))
    return RewardModel(model, offset, nats)


@dataclasses.dataclass(frozen=True, slots=True)
class Effort:
    """Limits on the cost of fitting."""

    max_tokens: int | None = None
    """Longest prompt and completion together, in tokens; ``None``: as many as the base allows."""
    frozen_layers: int = 0
    """Number of lowest layers of the base that are not trained."""
    epochs: int | None = None
    """Number of epochs; ``None``: :data:`EPOCHS`, or one more where these make too few steps."""
    pairs_per_step: int | None = None
    """Number of pairs per step; ``None``: :data:`PAIRS_PER_STEP`."""
    tokens_per_pass: int | None = None
    """Most tokens, padding included, whose activations are kept at a time; ``None``: those of a step. A pair with
    more is kept whole."""


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
    trust_remote_code: bool = False,
) -> dict[str, float]:
    """Train a reward model on pairwise choices.

    The body is initialised from the base model and the head with 0; a tenth of the choices is held out. Training
    minimises

        mean over pairs of  -log sigmoid(r_c - r_r) + CENTRING (r_c + r_r)^2

    in float32 without dropout, by AdamW with linear warm-up and decay. Pairs of one prompt follow one another, and a
    text that several of them share is read once (Ouyang et al. 2022, section 3.5). Every output is then shifted and
    scaled so that its rewards over the texts of all training choices have mean 0 and standard deviation 1. A selection
    temperature therefore has the same meaning in every round, and outputs can be compared. The same arguments give the
    same model on a CPU with one thread.

    Args:
        choices: at least 2 choices.
        base: folder of the base model, a language model or an encoder, with its tokenizer.
        output: existing folder; config, safetensors and tokenizer are written into it.
        seed: seed of the split and the order.
        tokens_per_batch: tokens per forward pass of the final evaluation.
        device: device to train on.
        groups: each gets an output of its name, trained on the choices of its users; empty: one output for all users.
        effort: limits on the cost.
        trust_remote_code: whether code that came with the base may be run.

    Returns:
        ``pairs`` (number trained on), ``held_out_pairs``, ``steps``, mean ``training_loss`` of the last epoch (nats),
        ``held_out_loss`` (nats) and ``held_out_accuracy``: the fraction of held-out choices whose chosen text has the
        higher reward, with ties counted as half.

    Raises:
        ValueError: there are fewer than 2 choices, a group has none to train on, or all texts get the same reward.
    """
    if len(choices) < 2:
        raise ValueError(f"choices: {len(choices)} given; a reward model needs at least 2, one of them held out")
    column = _columns(choices, groups)
    model = sequence.untrained(
        base,
        groups or ["reward"],
        seed=seed,
        device=device,
        max_tokens=effort.max_tokens,
        trust_remote_code=trust_remote_code,
    )
    pairs = [(choice.prompt, text) for choice in choices for text in (choice.chosen, choice.rejected)]
    texts = model.encode_pairs(pairs)
    encoded = list(zip(texts[::2], texts[1::2], strict=True))
    order = generator(seed, "reward model split").permutation(len(choices)).tolist()
    cut = max(1, round(HELD_OUT * len(choices)))
    held_out, training = order[:cut], order[cut:]
    if untaught := sorted(set(column) - {column[i] for i in training}):
        raise ValueError(
            f"choices: users of {groups[untaught[0]]} made {column.count(untaught[0])} of {len(choices)}, all of which "
            "were held out; an output of their own needs more (reward.choices_per_round, or reward.choices=balanced)"
        )

    def read(members: Sequence[int]) -> list[Ids]:
        return list(dict.fromkeys([encoded[i][0] for i in members] + [encoded[i][1] for i in members]))

    def loss(batch: Sequence[int]) -> tuple[Tensor, Tensor]:
        members = [training[i] for i in batch]
        texts = read(members)
        place = {ids: row for row, ids in enumerate(texts)}
        outputs = model.forward_any(texts)
        own = [column[i] for i in members]
        chosen = outputs[[place[encoded[i][0]] for i in members], own]
        rejected = outputs[[place[encoded[i][1]] for i in members], own]
        losses = -F.logsigmoid(chosen - rejected)
        return (losses + CENTRING * (chosen + rejected) ** 2).mean(), losses

    per_step, limit = effort.pairs_per_step or PAIRS_PER_STEP, effort.tokens_per_pass
    enough = EPOCHS * len(training) >= FEWEST_STEPS * per_step
    schedule = Schedule(
        effort.epochs or (EPOCHS if enough else EPOCHS + 1), per_step, PEAK_LEARNING_RATE, effort.frozen_layers
    )
    prompts = [choices[i].prompt for i in training]
    steps, training_loss = sequence.train(
        model,
        len(training),
        loss,
        schedule,
        seed=seed,
        purpose="reward model",
        together=prompts,
        fits=lambda batch: limit is None or model.tokens_read(read([training[i] for i in batch])) <= limit,
    )
    texts = list(dict.fromkeys(ids for pair in encoded for ids in pair))
    threads = READING_THREADS if torch.device(device).type == "cpu" else 1
    reward_of = dict(zip(texts, model.outputs(texts, tokens_per_batch, threads=threads), strict=True))
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
    """Fraction of pairs whose chosen text has the higher reward (ties count half); margins are chosen - rejected."""
    return float((margins > 0).mean() + 0.5 * (margins == 0).mean())


def _columns(choices: Sequence[Choice], groups: Sequence[str]) -> list[int]:
    """Index of the output that each choice trains."""
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
