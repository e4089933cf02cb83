"""Planning of batches: optimizer steps, shards of workers, and micro-batches.

The plan consists of units. A unit is one sequence, or a pair of sequences that stay together.

Everything is planned in advance from lengths and a seed. Every worker can therefore compute the same plan by itself, an
optimizer step holds the same sequences for any number of workers, and all workers run equally many forward passes.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scpl_ray.records import Example
from scpl_ray.seeds import generator

Rows = tuple[tuple[int, ...], ...]
"""One micro-batch: for each row, the indices of its units or sequences from left to right."""


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingSequence:
    """The tokens of prompt and completion of one example, as the loss uses them."""

    token_ids: tuple[int, ...]
    first_target: int
    """Index of the first token with a loss; at least 1, because nothing predicts the first token."""
    weight: float
    """Weight of each of its tokens with a loss; for a pair, the weight of the pair."""
    reference: float = 0.0
    """Log-probability (nats) of the tokens with a loss under the reference policy, if the objective uses one."""

    @property
    def target_tokens(self) -> int:
        """Number of tokens with a loss."""
        return len(self.token_ids) - self.first_target


@dataclasses.dataclass(frozen=True, slots=True)
class MicroBatch:
    """The input of one forward pass; all arrays have shape (rows, width)."""

    token_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    """Positions, which restart at 0 with every sequence. In the padding at the end of a row they continue to count, but
    never beyond those of the longest sequence, because a model may have no others."""
    targets: NDArray[np.int64]
    """The token that each position predicts."""
    weights: NDArray[np.float32]
    """Weight of the prediction; 0 where a position has no target."""
    sequences: tuple[TrainingSequence, ...]
    """The sequences in it, by row and from left to right."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step."""

    members: tuple[int, ...]
    """Indices of all its units."""
    shards: tuple[tuple[Rows, ...], ...]
    """The micro-batches of each worker; workers with fewer get empty ones at the end."""


def training_sequences(examples: Sequence[Example], loss_on: Literal["completion", "all"]) -> list[TrainingSequence]:
    """The sequences that can be learned from: their weight is above 0 and at least one token has a loss.

    Raises:
        ValueError: a weight is negative or not finite, or nothing is left.
    """
    made = [_sequence(example, example.token_ids, loss_on) for example in examples]
    return _learnable([(sequence,) for sequence in made])


def weighted_by_example(sequences: Iterable[TrainingSequence]) -> list[TrainingSequence]:
    """The same sequences with each one's weight divided among its tokens, so that long and short ones count equally."""
    return [dataclasses.replace(s, weight=s.weight / s.target_tokens) for s in sequences]


def training_pairs(examples: Sequence[Example]) -> list[TrainingSequence]:
    """The pairs that can be learned from, as a list of sequences: chosen, rejected, chosen, rejected, and so on.

    Raises:
        ValueError: an example has no rejected answer, a weight is negative or not finite, or nothing is left.
    """
    made = []
    for example in examples:
        if example.rejected_token_ids is None:
            raise ValueError(
                f"example {example.example_id}: no rejected answer, which training.objective = 'dpo' needs; start a "
                "new run with this objective"
            )
        answers = example.token_ids, example.rejected_token_ids
        made.append([_sequence(example, answer, "completion") for answer in answers])
    return _learnable(made)


def check_positions(examples: Iterable[Example], positions: int | None) -> None:
    """Check that every example fits a model: what a model wrote does, but real answers are never cut.

    Args:
        examples: the training data.
        positions: the longest sequence of the model, in tokens; ``None``: not known.

    Raises:
        ValueError: an example is longer; the message names it.
    """
    for example in examples:
        tokens = len(example.prompt_token_ids) + max(len(example.token_ids), len(example.rejected_token_ids or ()))
        if positions is not None and tokens > positions:
            raise ValueError(
                f"example {example.example_id} ({example.origin}): its prompt and answer have {tokens} tokens, the "
                f"model has {positions} positions, and no answer is cut; give the task shorter real answers, or start "
                "a new run without any (cycle.real_share and cycle.real_rows 0), or of a model with more positions"
            )


def _sequence(example: Example, answer: tuple[int, ...], loss_on: str) -> TrainingSequence:
    if not math.isfinite(example.weight) or example.weight < 0:
        raise ValueError(f"example {example.example_id}: weight {example.weight} must be finite and at least 0")
    first = len(example.prompt_token_ids) if loss_on == "completion" else 0
    return TrainingSequence(example.prompt_token_ids + answer, max(first, 1), example.weight)


def _learnable(units: Sequence[Sequence[TrainingSequence]]) -> list[TrainingSequence]:
    """The sequences of those units in which every sequence has a weight above 0 and a token with a loss."""
    kept = [s for unit in units if all(s.weight > 0 and s.target_tokens > 0 for s in unit) for s in unit]
    if not kept:
        raise ValueError(
            f"none of the {len(units)} training examples has a weight above 0 and a token to learn; "
            "keep more completions (selection), or generate longer ones (generation.max_new_tokens)"
        )
    return kept


def unit_lengths(sequences: Sequence[TrainingSequence], per_unit: int, packed: bool) -> list[int]:
    """Tokens of each unit of ``per_unit`` successive sequences; unpacked, each row is as wide as the unit's longest."""
    lengths = [len(sequence.token_ids) for sequence in sequences]
    units = [lengths[i : i + per_unit] for i in range(0, len(lengths), per_unit)]
    return [sum(unit) if packed else per_unit * max(unit) for unit in units]


def sequence_rows(rows: Rows, per_unit: int, packed: bool) -> Rows:
    """Convert rows of units to rows of sequences; a unit's sequences share a row or, unpacked, have successive rows."""
    whole = tuple(tuple(per_unit * unit + k for unit in row for k in range(per_unit)) for row in rows)
    return whole if packed else tuple((index,) for row in whole for index in row)


def plan_steps(
    lengths: Sequence[int],
    *,
    epochs: int,
    tokens_per_step: int,
    tokens_per_micro_batch: int,
    workers: int,
    packed: bool,
    seed: int,
    steps: int | None = None,
    one_row: bool = False,
) -> list[Step]:
    """Plan all optimizer steps of a training job.

    Each epoch visits every unit once, in an order of its own. Without ``steps``, every epoch is cut into steps of
    about ``tokens_per_step`` tokens, as equal in size as whole units allow. With ``steps``, one epoch follows the other
    until so many steps are full, whatever the amount of data: where no unit is longer than ``tokens_per_step``, their
    tokens differ from ``steps * tokens_per_step`` by at most one unit; a longer one has a step to itself, which is then
    longer too. A step is the same set of units for any number of workers.

    Args:
        lengths: number of tokens of each unit.
        epochs: number of passes over the units, unless ``steps`` is given.
        tokens_per_step: tokens of a step over all workers, without padding.
        tokens_per_micro_batch: largest rows times width of a forward pass, padding included.
        workers: number of data-parallel workers.
        packed: let several units share a row; only for models whose attention separates the sequences of a row.
        seed: seed of the order.
        steps: number of optimizer steps; ``None``: as many as the epochs give.
        one_row: put all units of a micro-batch into one row, if they may share rows, instead of into rows that are as
            wide as the longest unit; only for attention that needs no mask.

    Raises:
        ValueError: a unit does not fit into a micro-batch.
    """
    longest = max(lengths)
    if longest > tokens_per_micro_batch:
        raise ValueError(
            f"training.tokens_per_micro_batch: {tokens_per_micro_batch} is less than the longest sequence or pair of "
            f"the training data, {longest} tokens; raise it to at least {longest}"
        )
    orders = (
        [int(i) for i in generator(seed, "training order", e).permutation(len(lengths))] for e in itertools.count()
    )
    if steps is None:
        runs = [run for order in itertools.islice(orders, epochs) for run in _cut(order, lengths, tokens_per_step)]
    else:
        runs = _fill(itertools.chain.from_iterable(orders), lengths, tokens_per_step, steps)
    planned = []
    for members in runs:
        shards = [
            _one_row_each(shard, lengths, tokens_per_micro_batch)
            if packed and one_row
            else _micro_batches(shard, lengths, tokens_per_micro_batch, packed)
            for shard in _shard(members, lengths, workers)
        ]
        most = max(len(shard) for shard in shards)
        planned.append(Step(tuple(members), tuple(tuple(s) + ((),) * (most - len(s)) for s in shards)))
    return planned


def _cut(order: Sequence[int], lengths: Sequence[int], tokens_per_step: int) -> list[list[int]]:
    """Cut the order into consecutive parts of nearly equal token counts, each about ``tokens_per_step``."""
    total = sum(lengths)
    count = max(1, round(total / tokens_per_step))
    runs: list[list[int]] = [[] for _ in range(count)]
    before = 0
    for index in order:
        middle = before + lengths[index] / 2
        runs[min(count - 1, int(middle * count / total))].append(index)
        before += lengths[index]
    return [run for run in runs if run]


def _fill(order: Iterator[int], lengths: Sequence[int], tokens_per_step: int, steps: int) -> list[list[int]]:
    """The first ``steps`` parts of an endless order, each ending where ``tokens_per_step`` more tokens are reached.

    A unit belongs to the part in which its middle lies; one that is longer than a part has a part to itself.
    """
    runs: list[list[int]] = [[]]
    before = 0
    for index in order:
        if runs[-1] and before + lengths[index] / 2 > len(runs) * tokens_per_step:
            if len(runs) == steps:
                break
            runs.append([])
        runs[-1].append(index)
        before += lengths[index]
    return runs


def _longest_first(members: Iterable[int], lengths: Sequence[int]) -> list[int]:
    return sorted(members, key=lambda i: (-lengths[i], i))


def _shard(members: Sequence[int], lengths: Sequence[int], workers: int) -> list[list[int]]:
    """Assign units, longest first, to the worker with the fewest tokens; the imbalance is at most one unit."""
    shards: list[list[int]] = [[] for _ in range(workers)]
    tokens = [0] * workers
    for index in _longest_first(members, lengths):
        rank = tokens.index(min(tokens))
        shards[rank].append(index)
        tokens[rank] += lengths[index]
    return shards


def _micro_batches(members: Sequence[int], lengths: Sequence[int], budget: int, packed: bool) -> list[Rows]:
    """Fill micro-batches first-fit, longest unit first; rows are as wide as the longest, and the budget limits them."""
    waiting = _longest_first(members, lengths)
    micro_batches: list[Rows] = []
    while waiting:
        width = lengths[waiting[0]]
        rows: list[list[int]] = []
        free: list[int] = []
        left = []
        for index in waiting:
            row = next((r for r, space in enumerate(free) if space >= lengths[index]), None) if packed else None
            if row is not None:
                rows[row].append(index)
                free[row] -= lengths[index]
            elif (len(rows) + 1) * width <= budget:
                rows.append([index])
                free.append(width - lengths[index])
            else:
                left.append(index)
        micro_batches.append(tuple(tuple(row) for row in rows))
        waiting = left
    return micro_batches


def _one_row_each(members: Sequence[int], lengths: Sequence[int], budget: int) -> list[Rows]:
    """Fill micro-batches of one row first-fit, longest unit first; the budget limits their tokens."""
    rows: list[list[int]] = []
    free: list[int] = []
    for index in _longest_first(members, lengths):
        row = next((r for r, space in enumerate(free) if space >= lengths[index]), None)
        if row is None:
            row = len(rows)
            rows.append([])
            free.append(budget)
        rows[row].append(index)
        free[row] -= lengths[index]
    return [(tuple(row),) for row in rows]


def collate(rows: Rows, sequences: Sequence[TrainingSequence]) -> MicroBatch:
    """Build the arrays of one micro-batch; an empty one becomes two tokens without a loss.

    Rows are padded on the right. In a causal model no token attends to later ones, so no attention mask is needed.
    """
    width = max((sum(len(sequences[i].token_ids) for i in row) for row in rows), default=2)
    longest = max((len(sequences[i].token_ids) for row in rows for i in row), default=2)
    shape = (max(len(rows), 1), width)
    token_ids, targets = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    position_ids = np.tile(np.arange(width, dtype=np.int64), (shape[0], 1))
    weights = np.zeros(shape, dtype=np.float32)
    for r, row in enumerate(rows):
        start = 0
        for index in row:
            sequence = sequences[index]
            end = start + len(sequence.token_ids)
            token_ids[r, start:end] = sequence.token_ids
            position_ids[r, start:] = np.arange(width - start) % longest
            targets[r, start : end - 1] = sequence.token_ids[1:]
            weights[r, start + sequence.first_target - 1 : end - 1] = sequence.weight
            start = end
    return MicroBatch(
        token_ids, position_ids, targets, weights, tuple(sequences[i] for i in itertools.chain.from_iterable(rows))
    )
