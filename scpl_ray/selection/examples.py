"""Convert records to the inputs of the pure selection functions, and their results back to records."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
import pyarrow as pa

from scpl_ray.config import Experiment
from scpl_ray.records import SCHEMAS, Example, Judgement, Query, taken, whole
from scpl_ray.seeds import uniforms
from scpl_ray.selection import pairs
from scpl_ray.selection.strategies import Candidates, Selected
from scpl_ray.selection.targets import NONE
from scpl_ray.shares import FloatArray, IntArray

COLUMNS = ("completion_id", "query_id", "prompt_token_ids", "token_ids")
"""The columns of a round's completions that selection reads."""


class Tokens(Sequence[bytes]):
    """The token ids of completions, each as the bytes that it takes in a table, so that equal ones are equal."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        together = whole(column)
        self._starts = together.offsets.to_numpy()
        self._values = together.values.to_numpy()

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return bytes(self._values[self._starts[index] : self._starts[index + 1]].tobytes())


def candidates_of(
    queries: Sequence[Query],
    completions: pa.Table,
    rewards: FloatArray,
    groups: Sequence[str],
    kinds: Sequence[str] = (),
    judged: Sequence[Judgement] = (),
    *,
    round_: int,
    seed: int,
) -> Candidates:
    """The candidates for selection: one entry per completion, in order.

    Prompts are numbered by chance: of equal rewards that of the lower number goes first, and queries come in the order
    of groups.

    Args:
        queries: the round's queries.
        completions: their completions; of its columns, ``completion_id`` and ``query_id`` are read.
        rewards: the completions' rewards, in the same order, shape (completions,).
        groups: names of the groups.
        kinds: names of the kinds, in the order of the groups that prefer them.
        judged: the judge's words on the completions, in the same order; empty where their kinds are not needed.
        round_: enters the random stream.
        seed: the run's seed.
    """
    by_chance = np.argsort(uniforms(seed, "prompt order", round_, [q.query_id for q in queries]), kind="stable")
    number = {queries[i].query_id: place for place, i in enumerate(by_chance)}
    group_of = {q.query_id: groups.index(str(q.group)) for q in queries}
    answered = completions["query_id"].to_pylist()
    return Candidates(
        completion_ids=completions["completion_id"].to_pylist(),
        prompts=np.array([number[query_id] for query_id in answered], dtype=np.int64),
        groups=np.array([group_of[query_id] for query_id in answered], dtype=np.int64),
        rewards=rewards,
        n_groups=len(groups),
        kinds=np.array([NONE if j.kind is None else kinds.index(j.kind) for j in judged]) if judged else None,
        texts=completions["text"].to_pylist() if "text" in completions.column_names else (),
    )


def training_data(
    kept: Selected,
    chosen_from: Candidates,
    completions: pa.Table,
    experiment: Experiment,
    round_: int,
    *,
    in_pairs: bool,
) -> tuple[pa.Table, dict[str, object]]:
    """The kept completions as a table of weighted training examples, and statistics of the selection.

    With ``in_pairs``, for an objective that learns from pairs, they are paired by the rule ``training.dpo_pairs``.

    Args:
        kept: what selection kept.
        chosen_from: what it chose from.
        completions: the same completions with the columns :data:`COLUMNS`, in the same order.
        experiment: the config.
        round_: the round.
        in_pairs: whether to make pairs.

    Raises:
        ValueError: no pair can be made.
    """
    facts: dict[str, object] = {}
    tokens = Tokens(completions["token_ids"])
    schema = SCHEMAS[Example]
    rejected = pa.nulls(len(kept.indices), schema.field("rejected_token_ids").type)
    if in_pairs:
        made = pairs.pair(
            chosen_from,
            kept,
            tokens,
            experiment.training.dpo_pairs,
            control=experiment.selection.matched_control,
            round_=round_,
            seed=experiment.seed,
        )
        kept, rejected = made.chosen, _rows(completions["token_ids"], made.rejected)
        facts = {"pairs_left_out": made.left_out, "pairs_inverted": made.inverted}
    columns = {
        "example_id": _rows(completions["completion_id"], kept.indices),
        "origin": [f"round {round_}"] * len(kept.indices),
        "group": [experiment.groups.names[group] for group in chosen_from.groups[kept.indices]],
        "prompt_token_ids": _rows(completions["prompt_token_ids"], kept.indices),
        "token_ids": _rows(completions["token_ids"], kept.indices),
        "weight": kept.weights,
        "rejected_token_ids": rejected,
    }
    return pa.table(columns, schema=schema), _selection_facts(kept, chosen_from, tokens) | _kind_facts(
        kept, chosen_from
    ) | facts


def _rows(column: pa.ChunkedArray, places: IntArray) -> pa.ChunkedArray:
    return taken(whole(column), pa.array(places), column.type)


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


def _selection_facts(kept: Selected, chosen_from: Candidates, tokens: Tokens) -> dict[str, object]:
    """Statistics of the selection; ``duplicates`` counts completions that repeat another one of the same query."""
    different = 0
    for _, rows in itertools.groupby(np.argsort(chosen_from.prompts, kind="stable"), chosen_from.prompts.__getitem__):
        different += len({tokens[row] for row in rows})
    return {
        "candidates": chosen_from.size,
        "kept": len(kept.indices),
        "acceptance_rate": kept.acceptance_rate,
        "effective_sample_size": kept.effective_sample_size,
        "shares_before": kept.shares_before.tolist(),
        "shares_after": kept.shares_after.tolist(),
        "duplicates": chosen_from.size - different,
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
