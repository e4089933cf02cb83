"""Where the time of runs went: seconds per phase, what others waited for, and the least that each could have taken.

Nothing is loaded for this: the driver notes the machine's peaks and the model's size in the facts of round 0's base
model, and the lengths of all texts are in the records.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scpl_ray.config import Experiment
from scpl_ray.records import Completion, Example, Manifest
from scpl_ray.report.roofline import Machine, Model, Work, drawing, reading, training
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import PHASES, Reader

PEAKS, SIZE = "machine", "model_size"
"""The facts of round 0's base model that hold a :class:`Machine` and a :class:`Model`."""
TAKEN_FROM = "taken_from"
"""The fact of a phase that was not done here: the run of the same study from which its files were copied."""


@dataclasses.dataclass(frozen=True)
class PhaseSeconds:
    """Durations of one phase, over rounds and runs."""

    phase: str
    times: int
    median: float
    """Median seconds."""
    total: float
    """Seconds in all."""
    critical: float
    """Seconds in all during which nothing else was waited for; see :func:`critical_seconds`."""
    share: float
    """Part of the critical seconds of all phases."""
    least: float | None
    """Least seconds that the phase of a run's last round could have taken, the median over runs; ``None`` where no
    model works, or where the machine was not measured."""
    measured: float | None
    """What that phase took, the median over the same runs."""

    @property
    def limit_over_measured(self) -> float | None:
        """Least over measured seconds; 1 means as fast as the machine can."""
        return self.least / self.measured if self.least is not None and self.measured else None


def phase_seconds(runs: Iterable[tuple[Reader, Experiment]], first_round: int = 0) -> list[PhaseSeconds]:
    """Seconds per phase, in the order of the phases; phases that were taken over from another run are left out.

    Args:
        runs: run directories with their configs.
        first_round: earlier rounds are left out.
    """
    seconds: dict[str, list[float]] = {}
    critical: dict[str, float] = {}
    least: dict[str, list[tuple[float, float]]] = {}
    for reader, experiment in runs:
        done = [m for m in reader.committed() if TAKEN_FROM not in m.facts]
        manifests = [m for m in done if first_round <= m.round <= experiment.loop.rounds]
        for manifest in manifests:
            seconds.setdefault(manifest.phase, []).append(manifest.seconds)
        for phase, spent in critical_seconds(manifests).items():
            critical[phase] = critical.get(phase, 0.0) + spent
        last = max((m.round for m in manifests if m.phase == "evaluation"), default=0)
        took = {m.phase: m.seconds for m in manifests if m.round == last}
        for phase, work_s in least_seconds(reader, experiment, last).items():
            if phase in took:
                least.setdefault(phase, []).append((work_s, took[phase]))
    whole = sum(critical.values())
    return [
        PhaseSeconds(
            phase=phase,
            times=len(seconds[phase]),
            median=statistics.median(seconds[phase]),
            total=sum(seconds[phase]),
            critical=critical[phase],
            share=critical[phase] / whole if whole > 0 else 0.0,
            least=statistics.median(limit for limit, _ in least[phase]) if phase in least else None,
            measured=statistics.median(spent for _, spent in least[phase]) if phase in least else None,
        )
        for phase in PHASES
        if phase in seconds
    ]


def critical_seconds(manifests: Sequence[Manifest]) -> dict[str, float]:
    """Seconds per phase during which the run waited for it.

    Phases may overlap. A moment counts for the phase under way that ended last, because what followed waited for that
    one. Completions end only when the reward model that is fitted beside them is there: what they waited for it counts
    for the reward model.
    """
    found = dict.fromkeys((m.phase for m in manifests), 0.0)
    spans = [(m.committed_at - m.seconds, m.committed_at, m.phase) for m in manifests]
    edges = sorted({edge for begin, end, _ in spans for edge in (begin, end)})
    for begin, end in itertools.pairwise(edges):
        under_way = [(span[1], span[2]) for span in spans if span[0] <= begin and end <= span[1]]
        if under_way:
            found[max(under_way)[1]] += end - begin
    fitted = {m.round: m.committed_at for m in manifests if m.phase == "reward_model"}
    for manifest in manifests:
        drawn_s = _number(manifest.facts, "generation_seconds")
        if manifest.phase == "completions" and drawn_s is not None and manifest.round in fitted:
            after = manifest.committed_at - fitted[manifest.round]
            waited = max(0.0, manifest.seconds - drawn_s - max(0.0, after))
            found["completions"] -= waited
            found["reward_model"] += waited
    return found


def least_seconds(reader: Reader, experiment: Experiment, t: int) -> dict[str, float]:
    """The least seconds that the phases of a round could have taken, by phase.

    Empty where the machine was not measured. A phase in which no model works, or one of unknown size, is left out.

    Raises:
        StoreError: what the run notes of its machine or model is damaged, or records cannot be read.
    """
    base = reader.manifest(0, "base")
    if base is None or PEAKS not in base.facts or SIZE not in base.facts:
        return {}
    try:
        machine, model = Machine(**base.facts[PEAKS]), Model(**base.facts[SIZE])
        works = _works(reader, experiment, t, model)
        return {phase: work.least_s(machine) for phase, work in works.items()}
    except (TypeError, ArithmeticError) as error:
        raise StoreError(
            f"{reader.name}: {PEAKS} or {SIZE} of round 0's base model is not what a run notes ({error}); restore it"
        ) from error


def _works(reader: Reader, experiment: Experiment, t: int, model: Model) -> Mapping[str, Work]:
    found: dict[str, Work] = {}
    if reader.manifest(t, "completions") is not None:
        drawn = _texts(reader, t, "completions", "completions")
        found["completions"] = _drawing(model, drawn)
        if reader.manifest(t, "reward_model") is not None:
            # the task's own reward model is the base model with another head
            found["scores"] = reading(model, _each_prompt_once(drawn, 0))
    weights = reader.manifest(t, "weights")
    trained = None if weights is None else _number(weights.facts, "tokens")
    steps = None if weights is None else _number(weights.facts, "steps")
    if trained is not None and steps is not None:
        found["weights"] = _training(reader, experiment, t, model, trained, steps)
    evaluation = reader.manifest(t, "evaluation")
    if evaluation is not None:
        answers = _texts(reader, t, "evaluation", "completions")
        aside = "steering_completions.parquet" in evaluation.files
        steering = _texts(reader, t, "evaluation", "steering_completions") if aside else []
        found["evaluation"] = _drawing(model, answers + steering)
        if t > 0:
            # under the policy, likelihoods come with the drawing; under the base model they take a pass of its own, in
            # which the prompts, the same in every round, are read in the first one only; no token follows the last
            read = _each_prompt_once(answers, 1) if t == 1 else [(prompt - 1, answer) for _, prompt, answer in answers]
            found["evaluation"] += reading(model, read, sum(answer for *_, answer in answers))
    return found


def _each_prompt_once(drawn: Sequence[tuple[str, int, int]], unread: int) -> list[tuple[int, int]]:
    """What :func:`reading` needs of texts whose prompt is read with the first answer to it, and kept for the others.

    Args:
        drawn: of each text, its query and the lengths of prompt and answer.
        unread: tokens at the end of a text that need not be read; as many of the prompt are read with each answer.
    """
    found, seen = [], set[str]()
    for query, prompt, answer in drawn:
        known = prompt - unread if query in seen else 0
        seen.add(query)
        found.append((known, prompt + answer - unread - known))
    return found


def _drawing(model: Model, drawn: Sequence[tuple[str, int, int]]) -> Work:
    prompts = {query: prompt for query, prompt, _ in drawn}
    return drawing(model, list(prompts.values()), [(prompt, max(1, answer)) for _, prompt, answer in drawn])


def _training(reader: Reader, experiment: Experiment, t: int, model: Model, trained: float, steps: float) -> Work:
    columns = ["prompt_token_ids", "token_ids", "rejected_token_ids"]
    table = reader.table(t, "dataset", "dataset", Example, columns)
    prompts, answers, rejected = (_lengths(table[name]) for name in columns)
    lengths, targets = [], 0
    for prompt, answer, other in zip(prompts, answers, rejected, strict=True):
        for length in (answer, other):
            if length is not None:
                lengths.append((prompt or 0) + length)
                targets += lengths[-1] if experiment.training.loss_on == "all" else length
    passes = trained / targets if targets else 0.0
    return training(model, lengths, targets, passes=passes, steps=int(steps))


def _number(facts: Mapping[str, Any], name: str) -> float | None:
    """A fact that is a number; ``None`` where there is none, as in runs of older versions."""
    value = facts.get(name)
    return float(value) if isinstance(value, int | float) else None


def _texts(reader: Reader, t: int, phase: str, name: str) -> list[tuple[str, int, int]]:
    """The query of each completion, and the lengths of its prompt and of itself."""
    table = reader.table(t, phase, name, Completion, ["query_id", "prompt_token_ids", "token_ids"])
    lengths = zip(_lengths(table["prompt_token_ids"]), _lengths(table["token_ids"]), strict=True)
    queries = table["query_id"].to_pylist()
    return [(query, prompt or 0, answer or 0) for query, (prompt, answer) in zip(queries, lengths, strict=True)]


def _lengths(column: pa.ChunkedArray) -> list[int | None]:
    found: list[int | None] = pc.list_value_length(column).to_pylist()
    return found
