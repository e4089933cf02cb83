"""Convert records to the inputs of the pure selection functions, and their results back to records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

from scpl_ray.config import Experiment
from scpl_ray.records import Completion, Example, Query, Score
from scpl_ray.selection import pairs
from scpl_ray.selection.strategies import Candidates, Selected


def candidates_of(
    queries: Sequence[Query], completions: Sequence[Completion], scores: Sequence[Score], groups: Sequence[str]
) -> Candidates:
    """The candidates for selection: one entry per completion, in order."""
    position = {q.query_id: i for i, q in enumerate(queries)}
    prompts = np.array([position[c.query_id] for c in completions], dtype=np.int64)
    return Candidates(
        completion_ids=[c.completion_id for c in completions],
        prompts=prompts,
        groups=np.array([groups.index(str(queries[i].group)) for i in prompts], dtype=np.int64),
        rewards=np.array([s.reward for s in scores], dtype=np.float64),
        n_groups=len(groups),
    )


def training_data(
    kept: Selected,
    chosen_from: Candidates,
    completions: Sequence[Completion],
    experiment: Experiment,
    round_: int,
    *,
    in_pairs: bool,
) -> tuple[list[Example], dict[str, object]]:
    """The kept completions as weighted training examples, and statistics of the selection.

    With ``in_pairs``, for an objective that learns from pairs, they are paired by the rule ``training.dpo_pairs``.

    Raises:
        ValueError: no pair can be made.
    """
    facts: dict[str, object] = {}
    rejected: list[tuple[int, ...] | None] = [None] * len(kept.indices)
    if in_pairs:
        made = pairs.pair(
            chosen_from,
            kept,
            [completion.token_ids for completion in completions],
            experiment.training.dpo_pairs,
            control=experiment.selection.matched_control,
            round_=round_,
            seed=experiment.seed,
        )
        kept, rejected = made.chosen, [completions[i].token_ids for i in made.rejected]
        facts = {"pairs_left_out": made.left_out, "pairs_inverted": made.inverted}
    examples = [
        Example(
            example_id=completions[i].completion_id,
            origin=f"round {round_}",
            group=experiment.groups.names[chosen_from.groups[i]],
            prompt_token_ids=completions[i].prompt_token_ids,
            token_ids=completions[i].token_ids,
            weight=float(weight),
            rejected_token_ids=worse,
        )
        for i, weight, worse in zip(kept.indices.tolist(), kept.weights, rejected, strict=True)
    ]
    return examples, _selection_facts(kept, completions) | facts


def _selection_facts(kept: Selected, completions: Sequence[Completion]) -> dict[str, object]:
    """Statistics of the selection; ``duplicates`` counts completions that repeat another one of the same query."""
    return {
        "candidates": len(completions),
        "kept": len(kept.indices),
        "acceptance_rate": kept.acceptance_rate,
        "effective_sample_size": kept.effective_sample_size,
        "shares_before": kept.shares_before.tolist(),
        "shares_after": kept.shares_after.tolist(),
        "duplicates": len(completions) - len({(c.query_id, c.token_ids) for c in completions}),
    }


class History(Sequence[Sequence[Example]]):
    """The kept examples of rounds 1..t, each read only when a data cycle asks for it."""

    def __init__(self, read: Callable[[int], list[Example]], rounds: int) -> None:
        self._read = read
        self._rounds = range(1, rounds + 1)

    def __len__(self) -> int:
        return len(self._rounds)

    @overload
    def __getitem__(self, index: int) -> list[Example]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[Example]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[Example] | Sequence[Sequence[Example]]:
        if isinstance(index, slice):
            return [self._read(round_) for round_ in self._rounds[index]]
        return self._read(self._rounds[index])
