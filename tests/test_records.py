"""Completions as they arrive are put into order as tables, and never exist three times."""

import numpy as np
import pyarrow as pa
import pytest

from scpl_ray import records
from scpl_ray.records import SCHEMAS, Completion, Query, table_in_order, to_table

QUERIES = [Query(f"q{i:05d}", None, "w") for i in range(300)]
SAMPLES = [4] * 299 + [7]


def drawn() -> list[Completion]:
    """Completions in the order in which engines happen to finish them."""
    made = [
        Completion(f"{q.query_id}-s{s}", q.query_id, s, 1, s, (s,) * 64, (s,) * 64, "text" * 64, "stop", -float(s))
        for q, n in zip(QUERIES, SAMPLES, strict=True)
        for s in range(n)
    ]
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


def pieces(completions: list[Completion], size: int = 100) -> list[pa.Table]:
    return [to_table(completions[i : i + size], Completion) for i in range(0, len(completions), size)]


def test_tables_are_in_the_order_of_records() -> None:
    tables = pieces(drawn())
    found = table_in_order(tables, QUERIES, SAMPLES)
    assert found.equals(to_table(records.in_order(drawn(), QUERIES, SAMPLES), Completion))
    assert tables == [] and found["text"].num_chunks == 1
    assert table_in_order([], [], []).equals(SCHEMAS[Completion].empty_table())


def test_texts_and_token_ids_may_add_up_to_more_than_one_array_of_arrow_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = to_table(records.in_order(drawn(), QUERIES, SAMPLES), Completion)
    monkeypatch.setattr(records, "MOST_AT_ONCE", 10_000)
    found = table_in_order(pieces(drawn()), QUERIES, SAMPLES)
    assert found.equals(expected) and found.schema == expected.schema
    for name, each in (("text", 256), ("token_ids", 64), ("prompt_token_ids", 64)):
        parts = found[name].chunks
        assert len(parts) == -(-sum(SAMPLES) * each // 10_000) and sum(map(len, parts)) == sum(SAMPLES)
        assert max(map(len, parts)) * each <= 10_000 + each
    assert found["seed"].num_chunks == 1
    monkeypatch.setattr(records, "MOST_AT_ONCE", 1)
    few = pa.chunked_array([pa.array([[1], None, []], pa.list_(pa.int32()))])
    found = records.taken(records.whole(few), pa.array([2, 0, 1, 0]), few.type)
    assert found.type == few.type and found.to_pylist() == [[], [1], None, [1]]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"returned 1202 completions for 1203 requests; 1 are missing"):
        table_in_order(pieces(records.in_order(drawn(), QUERIES, SAMPLES)[1:]), QUERIES, SAMPLES)


def test_queries_of_one_id_are_named() -> None:
    twice = [QUERIES[0], QUERIES[1], QUERIES[0]]
    keys = [(q.query_id, 0) for q in twice]
    with pytest.raises(RuntimeError, match=r"1 query ids occur more than once, first \['q00000'\]"):
        records.places_in_order(keys, twice, [1, 1, 1])


def test_no_column_but_one_is_in_memory_twice() -> None:
    whole = pa.concat_tables(pieces(drawn()))
    largest = max(column.nbytes for column in whole.columns)
    size = whole.nbytes
    del whole
    before = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counted)
    try:
        tables = pieces(drawn())
        held = counted.bytes_allocated()
        assert held > 0.9 * size
        found = table_in_order(tables, QUERIES, SAMPLES)
        peak = counted.max_memory()
        assert len(found) == sum(SAMPLES)
        del found  # before its pool
    finally:
        pa.set_memory_pool(before)
    # arrays are allocated with room to grow
    assert peak < held + 2.2 * largest < 2 * held
