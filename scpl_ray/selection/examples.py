"""Convert records to the inputs of the pure selection functions, and their results back to records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np

from scpl_ray.config import Experiment
from scpl_ray.records import Completion, Example, Judgement, Query, Score
from scpl_ray.selection import pairs
from scpl_ray.selection.strategies import Candidates, Selected
from scpl_ray.selection.targets import NONE
from scpl_ray.shares import FloatArray, IntArray


def candidates_of(
    queries: Sequence[Query],
    completions: Sequence[Completion],
    scores: Sequence[Score],
    groups: Sequence[str],
    kinds: Sequence[str] = (),
    judged: Sequence[Judgement] = (),
) -> Candidates:
    """The candidates for selection: one entry per completion, in order.

    Args:
        queries: the round's queries.
        completions: their completions.
        scores: the completions' scores, in the same order.
        groups: names of the groups.
        kinds: names of the kinds, in the order of the groups that prefer them.
        judged: the judge's words on the completions, in the same order; empty where their kinds are not needed.
    """
    position = {q.query_id: i for i, q in enumerate(queries)}
    prompts = np.array([position[c.query_id] for c in completions], dtype=np.int64)
    return Candidates(
        completion_ids=[c.completion_id for c in completions],
        prompts=prompts,
        groups=np.array([groups.index(str(queries[i].group)) for i in prompts], dtype=np.int64),
        rewards=np.array([s.reward for s in scores], dtype=np.float64),
        n_groups=len(groups),
        kinds=np.array([NONE if j.kind is None else kinds.index(j.kind) for j in judged]) if judged else None,
        texts=[c.text for c in completions],
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
    return examples, _selection_facts(kept, completions) | _kind_facts(kept, chosen_from) | facts


def _kind_facts(kept: Selected, chosen_from: Candidates) -> dict[str, object]:
    """Where kinds have been judged: how many have none, and the judged shares of all completions and of the kept."""
    if chosen_from.kinds is None:
        return {}

    def shares(kinds: IntArray, weights: FloatArray) -> list[float]:
        decided = kinds != NONE
        masses = np.bincount(kinds[decided], weights[decided], minlength=chosen_from.n_groups)
        return [float(share) for share in masses / masses.sum()]

    return {
        "kinds_undecided": int((chosen_from.kinds == NONE).sum()),
        "kinds_before": shares(chosen_from.kinds, np.ones(chosen_from.size)),
        "kinds_after": shares(chosen_from.kinds[kept.indices], kept.weights),
    }


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
