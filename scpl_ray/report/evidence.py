"""Details behind the numbers of a few arms: selection, judges, and sample answers."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from scpl_ray.records import Completion, Judgement, Query
from scpl_ray.report.data import Part, Run
from scpl_ray.storage import facts, redoing
from scpl_ray.storage.errors import StoreError
from scpl_ray.studies.series import Series

CARD_FILE = "card.json"
PROMPTS_PER_GROUP = 1
TABLE: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, str | int | float]])
"""The form of a judge card's table."""


@dataclasses.dataclass(frozen=True, eq=False)
class Selected:
    """Effect of selection in the last round of an arm, averaged over seeds; NaN where it was not measured."""

    arm: str
    round: int
    kept_fraction: float
    effective_sample_size: float
    shares: tuple[tuple[str, float, float | None, float], ...]
    """Per group: its share of the queries, of the completions before selection (``None`` without run directories), and
    of the kept completions by weight."""
    loss: tuple[tuple[str, float], ...]
    """Shares of the training loss, of groups and of ``real data``; empty where no run recorded them."""


def selected(series: Series, runs: Sequence[Run], arm: str) -> Selected | None:
    """Statistics of selection in an arm; ``None`` if it has no self-consuming round yet, or selects nothing."""
    last = series.last(arm)
    if last < 1 or not series.groups(arm, "kept_share"):
        return None

    def mean(metric: str, group: str | None = None) -> float:
        path = series.path(arm, metric, group)
        found = path[:, last] if path.shape[1] > last else np.empty(0)
        found = found[~np.isnan(found)]
        return float(found.mean()) if len(found) else float("nan")

    groups = series.groups(arm, "share")
    before: dict[str, list[float]] = {group: [] for group in groups}
    for run in runs:
        manifest = run.reader.manifest(last, "selection") if run.arm == arm else None
        if manifest is not None:
            names = run.experiment.groups.names
            remedy = functools.partial(redoing.remedy, run.reader.root, last, "selection")
            for group, share in facts.by_group(manifest, "shares_before", names, run.reader.name, remedy).items():
                before.setdefault(group, []).append(share)
    shares = tuple(
        (g, mean("share", g), float(np.mean(before[g])) if before[g] else None, mean("kept_share", g)) for g in groups
    )
    loss = [(g, mean("loss_share", g)) for g in groups] + [("real data", mean("loss_share_real"))]
    known = tuple((name, share) for name, share in loss if not np.isnan(share))
    return Selected(arm, last, mean("kept_fraction"), mean("effective_sample_size"), shares, known)


@dataclasses.dataclass(frozen=True)
class CardTable:
    """A judge card as plain values."""

    arms: tuple[str, ...]
    """The arms whose shares this judge produced."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]


def cards(part: Part, arms: Sequence[str]) -> list[CardTable]:
    """The different judge cards in the run directories.

    Raises:
        StoreError: a card cannot be read.
    """
    found: dict[str, tuple[list[dict[str, Any]], list[str]]] = {}
    for run in part.runs:
        text = run.reader.text(CARD_FILE) if run.arm in arms else None
        if text is None:
            continue
        try:
            table = TABLE.validate_python(json.loads(text)["table"])
            columns = [tuple(row) for row in table]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{run.reader.root / CARD_FILE}: no judge card that can be read ({error!r})") from error
        if table and len(set(columns)) == 1:
            users = found.setdefault(json.dumps(table, sort_keys=True), (table, []))[1]
            users += [run.arm] if run.arm not in users else []
    return [
        CardTable(tuple(users), tuple(table[0]), tuple(tuple(row.values()) for row in table))
        for table, users in found.values()
    ]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One answer to a held-out prompt."""

    round: int
    group: str | None
    prompt: str
    completion: str
    kind: str | None
    quality: float


def samples(part: Part, arm: str) -> list[Sample]:
    """Answers to the same held-out prompts in the first, a middle and the last round of the arm's first seed.

    Shows the first prompt of the evaluation set for each group and for no group; the choice ignores the answers.
    """
    run = next((run for run in part.runs if run.arm == arm), None)
    if run is None:
        return []
    done = [t for t in range(run.experiment.loop.rounds + 1) if _has_prompts(run, t)]
    rounds = sorted({done[0], done[len(done) // 2], done[-1]}) if done else []
    return [sample for t in rounds for sample in _answers(run, t)]


def _has_prompts(run: Run, t: int) -> bool:
    manifest = run.reader.manifest(t, "evaluation")
    return manifest is not None and "prompts.parquet" in manifest.files


def _answers(run: Run, t: int) -> list[Sample]:
    asked: dict[str | None, list[Query]] = {}
    for query in run.reader.read(t, "evaluation", "prompts", Query):
        asked.setdefault(query.group, []).append(query)
    shown = {q.query_id: q for queries in asked.values() for q in queries[:PROMPTS_PER_GROUP]}
    judged: Mapping[str, Judgement] = {
        j.completion_id: j for j in run.reader.read(t, "evaluation", "judgements", Judgement)
    }
    found = []
    for completion in run.reader.read(t, "evaluation", "completions", Completion):
        if completion.query_id in shown and completion.sample_index == 0:
            query, judgement = shown[completion.query_id], judged.get(completion.completion_id)
            if judgement is None:
                raise StoreError(
                    f"{run.reader.name}: round {t} has no judgement of {completion.completion_id!r:.80}; restore its "
                    "evaluation, or leave this run out"
                )
            found.append(Sample(t, query.group, query.prompt, completion.text, judgement.kind, judgement.quality))
    return found
