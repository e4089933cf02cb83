"""The frozen records that flow between phases, and the Arrow schemas they are stored in."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """One prompt that a user of a group asks."""

    query_id: str
    """Unique within a run, e.g. ``r003-q00017``."""
    group: str | None
    """The asking group; ``None`` for a neutral evaluation prompt."""
    prompt: str
    """The text that is sent to the model, with the template applied."""
    reference: str | None = None
    """A real answer, where one is known."""
    topic: str | None = None
    """The task's own label for the prompt, where it has one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer."""

    completion_id: str
    """``<query_id>-s<sample_index>``."""
    query_id: str
    sample_index: int
    policy_version: int
    """The round in which the weights that generated this completion were trained."""
    seed: int
    """The completion's own sampling seed."""
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    """Sampled tokens, the end-of-sequence token included where it was sampled."""
    text: str
    finish_reason: str
    """``stop`` or ``length``."""
    log_probability: float | None = None
    """Sum of the sampled tokens' log-probabilities given what is before them, in nats, under the policy itself: before
    temperature and nucleus. They come from the pass that drew the tokens. ``None``: an older version drew them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """The reward of one completion."""

    completion_id: str
    reward: float
    """Weighted sum of the terms."""
    terms: dict[str, float]
    """The value of each term before it is weighted."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """The task's judgement of one completion."""

    completion_id: str
    kind: str | None
    """The kind of text that it is; ``None`` where the judge cannot tell."""
    quality: float
    """Quality of the completion, in [0, 1]."""
    terms: dict[str, float]
    """The named parts of the quality, each in [0, 1]."""
    log_odds: tuple[float, ...] | None = None
    """Calibrated log-odds that the text is of each kind, in the order of the kinds, at even odds beforehand: above 0
    for a text that speaks for the kind. ``None``: the judge makes no errors, or an older version judged."""


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One training sequence, or one pair of a chosen and a rejected sequence."""

    example_id: str
    origin: str
    """``real``, or the round in which it was generated, e.g. ``round 3``."""
    group: str | None
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    weight: float
    """Weight of the example's loss; the mean over a round's data is 1."""
    rejected_token_ids: tuple[int, ...] | None = None
    """The rejected answer to the same prompt where this is a pair (``training.objective: dpo``)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one policy version, on disk."""

    policy_version: int
    model: Path
    """A folder that ``AutoModelForCausalLM`` loads: the merged or fully trained policy, or the base model."""
    adapter: Path | None = None
    """The policy as a PEFT adapter on top of the *base* model, where it was trained as one."""

    def absolute(self) -> Weights:
        """The same weights with absolute paths, for processes with another working directory."""
        return dataclasses.replace(self, model=self.model.absolute(), adapter=self.adapter and self.adapter.absolute())


@dataclasses.dataclass(frozen=True, slots=True)
class Metric:
    """One measured number of one round."""

    round: int
    group: str | None
    """The group; ``None``: the value is over all groups."""
    metric: str
    value: float
    low: float | None = None
    """Lower bound of its 95% within-run interval; ``None``: the metric has none, or an older version wrote it."""
    high: float | None = None
    """Upper bound of that interval."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The record of a committed phase."""

    round: int
    phase: str
    seconds: float
    """Wall-clock seconds of the phase."""
    committed_at: float
    """Unix time; for display and for durations between phases, never for the order of phases. It is also the time of
    modification of the files, as long as nobody has changed them."""
    files: Mapping[str, Mapping[str, Any]]
    """Maps each file name, relative to the phase's folder, to ``{"bytes": int, "sha256": str}``."""
    facts: Mapping[str, Any]
    """Other facts about the phase, such as training steps, acceptance rates and process ids."""
    deleted: tuple[str, ...] = ()
    """The ``files`` that were deleted on purpose, because nothing needs them any more (``store.keep``)."""


_IDS = pa.list_(pa.int32())
SCHEMAS: dict[type, pa.Schema] = {
    Query: pa.schema(
        [
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("group", pa.string()),
            pa.field("prompt", pa.string(), nullable=False),
            pa.field("reference", pa.string()),
            pa.field("topic", pa.string()),
        ]
    ),
    Completion: pa.schema(
        [
            pa.field("completion_id", pa.string(), nullable=False),
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("sample_index", pa.int32(), nullable=False),
            pa.field("policy_version", pa.int32(), nullable=False),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("prompt_token_ids", _IDS, nullable=False),
            pa.field("token_ids", _IDS, nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("finish_reason", pa.string(), nullable=False),
            pa.field("log_probability", pa.float64()),
        ]
    ),
    Score: pa.schema(
        [
            pa.field("completion_id", pa.string(), nullable=False),
            pa.field("reward", pa.float64(), nullable=False),
            pa.field("terms", pa.map_(pa.string(), pa.float64()), nullable=False),
        ]
    ),
    Judgement: pa.schema(
        [
            pa.field("completion_id", pa.string(), nullable=False),
            pa.field("kind", pa.string()),
            pa.field("quality", pa.float64(), nullable=False),
            pa.field("terms", pa.map_(pa.string(), pa.float64()), nullable=False),
            pa.field("log_odds", pa.list_(pa.float64())),
        ]
    ),
    Example: pa.schema(
        [
            pa.field("example_id", pa.string(), nullable=False),
            pa.field("origin", pa.string(), nullable=False),
            pa.field("group", pa.string()),
            pa.field("prompt_token_ids", _IDS, nullable=False),
            pa.field("token_ids", _IDS, nullable=False),
            pa.field("weight", pa.float64(), nullable=False),
            pa.field("rejected_token_ids", _IDS),
        ]
    ),
    Metric: pa.schema(
        [
            pa.field("round", pa.int32(), nullable=False),
            pa.field("group", pa.string()),
            pa.field("metric", pa.string(), nullable=False),
            pa.field("value", pa.float64(), nullable=False),
            pa.field("low", pa.float64()),
            pa.field("high", pa.float64()),
        ]
    ),
}
ADDED: dict[type, tuple[str, ...]] = {
    Completion: ("log_probability",),
    Judgement: ("log_odds",),
    Metric: ("low", "high"),
}
"""Columns that tables of older versions do not have; there they are read as null."""

ROWS_AT_A_TIME = 1024
"""Rows of a table that are plain values at one time while they are made into records."""
MOST_AT_ONCE = 2**30
"""Bytes of texts, or elements of lists, in one chunk of a column; Arrow counts them in 31 bits."""

Record = TypeVar("Record", Query, Completion, Score, Judgement, Example, Metric)


def to_table(records: Sequence[Record], kind: type[Record]) -> pa.Table:
    """Records of one kind as an Arrow table with that kind's schema; entries of map columns are sorted by key."""
    schema = SCHEMAS[kind]
    columns: dict[str, list[Any]] = {name: [getattr(r, name) for r in records] for name in schema.names}
    if "terms" in columns:
        columns["terms"] = [sorted(terms.items()) for terms in columns["terms"]]
    return pa.table(columns, schema=schema)


def from_table(table: pa.Table, kind: type[Record]) -> list[Record]:
    """The inverse of :func:`to_table`.

    Equal token ids become one object, and few rows at a time exist as plain values: a token costs 8 bytes, not 40.

    Raises:
        ValueError: the table's schema is not the one of this kind.
    """
    if not table.schema.equals(SCHEMAS[kind]):
        raise ValueError(f"{kind.__name__} table has schema {table.schema}, expected {SCHEMAS[kind]}")
    ids: dict[int, int] = {}
    records = []
    for batch in table.to_batches(max_chunksize=ROWS_AT_A_TIME):
        rows: Iterable[dict[str, Any]] = batch.to_pylist()
        for row in rows:
            for name, value in row.items():
                if name == "terms":
                    row[name] = dict(value)
                elif isinstance(value, list):
                    row[name] = tuple([ids.setdefault(one, one) for one in value])
            records.append(kind(**row))
    return records


def in_pieces(table: pa.Table) -> Iterator[pa.Table]:
    """A table in pieces of :data:`ROWS_AT_A_TIME` rows."""
    return (table.slice(start, ROWS_AT_A_TIME) for start in range(0, len(table), ROWS_AT_A_TIME))


def places_in_order(keys: Sequence[tuple[str, int]], queries: Sequence[Query], samples: Sequence[int]) -> list[int]:
    """The places of completions, given by query id and sample index, in the order of queries and samples.

    Raises:
        RuntimeError: a completion is missing or occurs twice, or two queries have one id.
    """
    expected = [(q.query_id, i) for q, n in zip(queries, samples, strict=True) for i in range(n)]
    distinct = set(expected)
    if len(distinct) < len(expected):
        counts = Counter(q.query_id for q in queries)
        twice = [query_id for query_id, count in counts.items() if count > 1]
        raise RuntimeError(
            f"{len(twice)} query ids occur more than once, first {twice[:3]}, so that their completions cannot be told "
            "apart; the task must give every query an id of its own"
        )
    place = {key: index for index, key in enumerate(keys)}
    if len(keys) != len(expected) or place.keys() != distinct:
        missing = [key for key in expected if key not in place]
        raise RuntimeError(
            f"the pool returned {len(keys)} completions for {len(expected)} requests; "
            f"{len(missing)} are missing, first {missing[:3]}"
        )
    return [place[key] for key in expected]


def in_order(completions: Sequence[Completion], queries: Sequence[Query], samples: Sequence[int]) -> list[Completion]:
    """Completions sorted into the order of queries and samples; raises like :func:`places_in_order`."""
    keys = [(c.query_id, c.sample_index) for c in completions]
    return [completions[place] for place in places_in_order(keys, queries, samples)]


def table_in_order(pieces: list[pa.Table], queries: Sequence[Query], samples: Sequence[int]) -> pa.Table:
    """As :func:`in_order`, of tables of completions, which take a fifth of the memory of records.

    Args:
        pieces: the completions in any order. The list is emptied, and each column is given up once it is in order: of a
            large round no more than one column is in memory twice.
        queries: the queries.
        samples: number of completions of each query.
    """
    schema = SCHEMAS[Completion]
    columns = {
        field.name: pa.chunked_array([chunk for piece in pieces for chunk in piece[field.name].chunks], field.type)
        for field in schema
    }
    pieces.clear()
    keys = list(zip(columns["query_id"].to_pylist(), columns["sample_index"].to_pylist(), strict=True))
    places = pa.array(places_in_order(keys, queries, samples), pa.int64())
    ordered = [taken(whole(columns.pop(field.name)), places, field.type) for field in schema]
    return pa.table(ordered, schema=schema)


def whole(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, of a wider type where texts or lists may be too large together for their own."""
    if column.nbytes >= MOST_AT_ONCE:
        if pa.types.is_string(column.type):
            column = column.cast(pa.large_string())
        elif pa.types.is_list(column.type):
            column = column.cast(pa.large_list(column.type.value_type))
    return column.combine_chunks()


def taken(values: pa.Array, places: pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
    """Values of an array from :func:`whole` by their places.

    Args:
        values: the array.
        places: the places; one may occur several times.
        kind: the type of the column that the array was.

    Returns:
        A column of that type, in several chunks where one could be too large.
    """
    if values.type == kind:
        return pa.chunked_array([values.take(places)])
    length = pc.binary_length if pa.types.is_large_string(values.type) else pc.list_value_length
    ends = np.cumsum(pc.fill_null(length(values).take(places), 0).to_numpy())
    cuts = np.flatnonzero(np.diff(ends // MOST_AT_ONCE)) + 1
    parts = [pa.array(part) for part in np.split(places.to_numpy(), cuts)]
    return pa.chunked_array([values.take(part).cast(kind) for part in parts])
