"""The least time that work can take on a machine: operations and bytes over the machine's measured peaks.

A roofline (Williams, Waterman, Patterson 2009): work of F operations that moves B bytes takes at least
``max(F / peak operations per second, B / peak bytes per second)``. Only what any implementation must do is counted, so
that the result is a bound from below:

- A weight matrix of N numbers costs ``2 N`` operations per token that passes it. Embeddings are looked up, and the
  output head is needed only where a token is drawn or its likelihood is asked for.
- Attention costs ``4 w`` operations per layer and pair of a token and one that it sees, with heads of width ``w`` in
  all: a product with the keys, and one with the values.
- Writing completions reads all weights once per step, and of every sequence the keys and values so far. All completions
  are written side by side, so there are as many steps as the longest of them has tokens. A prompt is read once,
  however many completions it has.
- Training all weights costs three forward passes: the gradients of activations and of weights cost one each. An adapter
  of A numbers spares the second, save its own: ``4 N + 6 A`` operations per token.

Sizes of sequences are in tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """What was measured of a machine, with all its cores."""

    kind: str
    """The processor in words."""
    operations_per_s: float
    """Floating-point operations per second of a matrix product in the number format of the run."""
    bytes_per_s: float
    """Bytes per second that are read from memory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """The size of a causal language model."""

    body: int
    """Numbers in the matrices that every token passes: all but embeddings, output head and adapter."""
    head: int
    """Numbers in the output head: hidden width times vocabulary."""
    adapter: int
    """Numbers in the trained adapter; 0 if all weights are trained."""
    layers: int
    attention_width: int
    """Heads times the width of a head."""
    cached_per_token: int
    """Keys and values that are kept per token, over all layers."""
    bytes_per_number: int


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """Operations, and bytes read from memory."""

    operations: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def least_s(self, machine: Machine) -> float:
        """The least seconds that the work takes."""
        return max(self.operations / machine.operations_per_s, self.bytes / machine.bytes_per_s)


def pairs(new: int, before: int = 0) -> int:
    """Pairs of a token and one that it sees, itself included, for ``new`` tokens after ``before`` others."""
    return new * before + new * (new + 1) // 2


def forward(model: Model, sequences: Iterable[tuple[int, int]], logits: int) -> float:
    """Operations of a forward pass.

    Args:
        model: the model.
        sequences: of each, the tokens that were read before and those that are read now.
        logits: number of positions at which the output head is needed.
    """
    tokens = seen = 0
    for before, new in sequences:
        tokens += new
        seen += pairs(new, before)
    return 2.0 * model.body * tokens + 2.0 * model.head * logits + 4.0 * model.layers * model.attention_width * seen


def _read_once(model: Model) -> float:
    return float((model.body + model.head) * model.bytes_per_number)


def drawing(model: Model, prompts: Sequence[int], answers: Sequence[tuple[int, int]]) -> Work:
    """Writing completions.

    Args:
        model: the model.
        prompts: lengths of the prompts.
        answers: of each completion, the lengths of its prompt and of itself, at least 1. Its first token follows from
            the prompt, and its last one is never read.
    """
    if not answers:
        return Work()
    operations = forward(model, [(0, n) for n in prompts], len(prompts))
    later = [(prompt, length - 1) for prompt, length in answers if length > 1]
    operations += forward(model, later, sum(length for _, length in later))
    seen = sum(pairs(length, prompt) for prompt, length in later)
    steps = max(length for _, length in answers)
    return Work(operations, steps * _read_once(model) + seen * model.cached_per_token * model.bytes_per_number)


def reading(model: Model, sequences: Sequence[tuple[int, int]], logits: int = 0) -> Work:
    """Forward passes over sequences, with the output head at some positions; 0 of them for a reward model.

    Args:
        model: the model.
        sequences: of each, the tokens whose keys and values are known already, and those that are read.
        logits: number of positions at which the output head is needed.
    """
    return Work(forward(model, sequences, logits), _read_once(model) if sequences else 0.0)


def training(model: Model, lengths: Sequence[int], targets: int, *, passes: float, steps: int) -> Work:
    """Training on whole sequences.

    Args:
        model: the model; with an adapter only that is trained.
        lengths: lengths of the sequences.
        targets: tokens whose likelihood is trained, in one pass.
        passes: how often every sequence is read.
        steps: optimizer steps: weights are read for the forward and the backward pass of each.
    """
    tokens, seen = sum(lengths), sum(map(pairs, lengths))
    attention = 3 * 4.0 * model.layers * model.attention_width * seen
    if model.adapter:
        dense = (4.0 * model.body + 6.0 * model.adapter) * tokens + 4.0 * model.head * targets
    else:
        dense = 6.0 * model.body * tokens + 6.0 * model.head * targets
    return Work(passes * (dense + attention), 2.0 * steps * _read_once(model))
