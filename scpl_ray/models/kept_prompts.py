"""Prompts that a language model has read, kept so that further answers to them cost their own tokens only.

A prompt's keys and values depend on nothing that follows it. The evaluation prompts are the same in every round, and
the base model says of every round's answers how likely they are: it reads a prompt once, and then answer by answer.

As in :mod:`scpl_ray.models.likelihood`, what is found for a text depends neither on the others in its batch nor on
whether its prompt had been kept: every part is padded to a width that depends on its own length only, and only texts of
the same two widths share a pass.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from scpl_ray.models.head import nll_at
from scpl_ray.models.likelihood import POSITIONS_STEP, negative_log_likelihood, pad_right, width_of
from scpl_ray.models.limits import positions
from scpl_ray.models.precision import LARGE
from scpl_ray.models.tokens import Ids

SHORTEST = 33
"""Tokens of a prompt from which it is kept: passes of shorter ones take too little."""
MOST_BYTES = 2**29
"""Largest size of the keys and values that are kept of a model."""
BATCH_BYTES = 2**26
"""Largest size of the keys and values of the prompts of one pass, of which :data:`COPIES` are held at a time; the size
of one prompt's where that is larger."""
COPIES = 3

States = list[tuple[Tensor, Tensor]]
"""Keys and values of every layer, each of shape (texts, heads, tokens, width of a head)."""


def suits(model: PreTrainedModel) -> bool:
    """Whether prompts of a model can be kept and are worth it.

    Every token must see all before it, positions count from 0, and the model be large: in small ones a pass is made of
    what does not depend on its length.
    """
    takes = inspect.signature(model.forward).parameters
    return (
        model.num_parameters() >= LARGE
        and {"attention_mask", "position_ids", "past_key_values"} <= takes.keys()
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
        # windows of GPT-Neo, whose masks count the places of what is kept, padding with it
        and "local" not in getattr(model.config, "attention_layers", ())
        and _counts_from_0(model)
    )


@torch.inference_mode()
def _counts_from_0(model: PreTrainedModel) -> bool:
    """Whether a model numbers positions as it is told here; some begin behind the padding token's."""
    ids = torch.arange(1, 9)[None]
    by_itself, told = (model(input_ids=ids, **given).logits for given in ({}, {"position_ids": torch.arange(8)[None]}))
    return torch.equal(by_itself, told)


class KeptPrompts:
    """The prompts that a language model has read.

    Args:
        model: a causal language model in evaluation mode, of which :func:`suits` is true.
        most_bytes: largest size of what is kept; what comes after is read each time.
    """

    def __init__(self, model: PreTrainedModel, most_bytes: int = MOST_BYTES) -> None:
        self._model = model
        self._left = most_bytes
        self._longest = positions(model.config) or sys.maxsize
        self._kept: dict[Ids, States] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def negative_log_likelihood(
        self, sequences: Sequence[tuple[Ids, Ids]], tokens_per_batch: int
    ) -> list[tuple[float, int]]:
        """As :func:`scpl_ray.models.likelihood.negative_log_likelihood`; where prompts are short, by that."""
        fits = [
            len(prompt) >= SHORTEST and bool(completion) and len(prompt) + len(completion) <= self._longest
            for prompt, completion in sequences
        ]
        after_kept = [both for both, kept in zip(sequences, fits, strict=True) if kept]
        others = [both for both, kept in zip(sequences, fits, strict=True) if not kept]
        of_kept = iter(self._after_kept(after_kept, tokens_per_batch))
        of_others = iter(negative_log_likelihood(self._model, others, tokens_per_batch))
        return [
            (next(of_kept), len(completion)) if kept else next(of_others)
            for (_, completion), kept in zip(sequences, fits, strict=True)
        ]

    @torch.inference_mode()
    def _after_kept(self, sequences: Sequence[tuple[Ids, Ids]], tokens_per_batch: int) -> list[float]:
        found = [0.0] * len(sequences)
        # a completion's first token is predicted from the prompt's last one, which is therefore read with it
        read = [(prompt[:-1], prompt[-1:] + completion[:-1]) for prompt, completion in sequences]
        widths = [(self._width(before), self._width(after)) for before, after in read]
        for (before_width, width), members in self._batches(widths, tokens_per_batch):
            befores, afters = [read[i][0] for i in members], [read[i][1] for i in members]
            chosen = torch.tensor([[place < len(after) for place in range(width)] for after in afters])
            seen = torch.tensor([[place < len(before) for place in range(before_width)] for before in befores])
            places = torch.tensor([len(before) for before in befores])[:, None] + torch.arange(width)
            losses = nll_at(
                self._model,
                chosen,
                torch.tensor([token for i in members for token in sequences[i][1]]),
                block=POSITIONS_STEP,
                input_ids=pad_right(afters, width, 0),
                attention_mask=torch.cat([seen, torch.ones_like(chosen)], 1).long(),
                position_ids=places.clamp(max=self._longest - 1),
                past_key_values=DynamicCache(self._states(befores, before_width)),
                use_cache=True,
            )
            for i, of_one in zip(members, torch.split(losses.double(), [len(a) for a in afters]), strict=True):
                found[i] = float(of_one.sum())
        return found

    def _width(self, ids: Ids) -> int:
        return width_of(len(ids), self._longest)

    def _states(self, prompts: Sequence[Ids], width: int) -> States:
        """Keys and values of prompts that share a width; they are read if they are not kept."""
        known = {prompt: self._kept[prompt] for prompt in prompts if prompt in self._kept}
        if missing := [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]:
            passed = self._model.get_decoder()(input_ids=pad_right(missing, width, 0), use_cache=True).past_key_values
            for row, prompt in enumerate(missing):
                known[prompt] = [(one.keys[row : row + 1], one.values[row : row + 1]) for one in passed.layers]
                self._keep(prompt, known[prompt])
        layers = zip(*(known[prompt] for prompt in prompts), strict=True)
        return [(torch.cat([k for k, _ in rows]), torch.cat([v for _, v in rows])) for rows in layers]

    def _keep(self, prompt: Ids, states: States) -> None:
        size = sum(keys.nbytes + values.nbytes for keys, values in states)
        if size <= self._left:
            self._left -= size
            self._kept[prompt] = [(keys.clone(), values.clone()) for keys, values in states]

    def _batches(self, widths: Sequence[tuple[int, int]], tokens: int) -> Iterator[tuple[tuple[int, int], list[int]]]:
        """For each pass, its two widths and the indices of its sequences."""
        by_widths: dict[tuple[int, int], list[int]] = {}
        for index, both in enumerate(widths):
            by_widths.setdefault(both, []).append(index)
        for both, members in sorted(by_widths.items()):
            rows = max(1, min(tokens // sum(both), BATCH_BYTES // (both[0] * self._bytes_per_token)))
            for start in range(0, len(members), rows):
                yield both, members[start : start + rows]

    @functools.cached_property
    def _bytes_per_token(self) -> int:
        layers = self._model.get_decoder()(input_ids=torch.tensor([[1]]), use_cache=True).past_key_values.layers
        return sum(int(layer.keys.nbytes + layer.values.nbytes) for layer in layers)
