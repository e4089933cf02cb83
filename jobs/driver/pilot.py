"""What a study can decide before it is run, and what it costs: ``scpl sweep STUDY --power``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jobs.configs import CONFIGS
from scpl_ray.analytic.loop import simulate
from scpl_ray.analytic.model import ignored_line
from scpl_ray.config.errors import ConfigError
from scpl_ray.report import data, text, words
from scpl_ray.storage import run_facts
from scpl_ray.studies import results
from scpl_ray.studies.pilot import LEVEL, PILOT_SEEDS, POWER, Outlook, outlook
from scpl_ray.studies.series import Series
from scpl_ray.studies.study import Study, Trial, arm_label, points

AT_LEAST = (
    f"at least, {words.NOT_GIVEN}: a verdict about a distance of three or more kinds also needs the test that the "
    "shares moved"
)


def print_power(console: Console, plan: Study, trials: Sequence[Trial], pilot: Path | None) -> None:
    """Print how many seeds decide each claim, from the analytic mode or from a study that was run.

    Args:
        console: where it is printed.
        plan: the study that is planned.
        trials: its trials.
        pilot: folder of a study with the same arms, or some of them; ``None``: the analytic mode.

    Raises:
        StoreError: the folder holds no study with results.
        ConfigError: that study has no arm that a claim is about.
    """
    hours = other = ""
    if pilot is None:
        table, unknown = _simulated(trials)
        source = f"the analytic mode, {PILOT_SEEDS} seeds: a model of the loop, not the loop"
    else:
        (part,) = data.load([pilot], CONFIGS)
        table, unknown, source = part.table, [], str(pilot)
        asked = {arm_label(arm, cell) for claim in plan.claims for arm in claim.contrast for cell in points(plan)}
        if asked and not asked & set(part.series.arms):
            raise ConfigError(
                f"--pilot {pilot}: has no arm of this study's claims; it has {', '.join(part.series.arms)}; give a "
                f"study with some of {', '.join(sorted(asked))}"
            )
        hours = _hours(part, trials)
        other = _other_rounds(part, {trial.label: trial.experiment.loop.rounds for trial in trials}, asked)
    found = outlook(Series.of(table), plan, seeds=plan.seeds)
    console.print(_table(found, plan, source))
    if any(one.at_least for one in found):
        console.print(AT_LEAST, markup=False, highlight=False)
    if pilot is None and (ignored := ignored_line(trial.experiment for trial in trials)):
        console.print(ignored, markup=False, highlight=False)
    for reason in unknown:
        console.print(f"not simulated: {reason}", markup=False, highlight=False)
    for said in filter(None, (other, hours)):
        console.print(said, markup=False, highlight=False)


def _simulated(trials: Sequence[Trial]) -> tuple[pa.Table, list[str]]:
    parts, unknown = [], []
    for label, trial in {trial.label: trial for trial in reversed(trials)}.items():
        few = trial.experiment.analytic.model_copy(update={"seeds": PILOT_SEEDS})
        try:
            paths = simulate(trial.experiment.model_copy(update={"analytic": few, "seed": 0})).table()
        except ValueError as error:
            unknown.append(f"{label}: {error}")
            continue
        parts.append(paths.add_column(0, "arm", pa.array([label] * len(paths))).select(results.SCHEMA.names))
    return (pa.concat_tables(parts).cast(results.SCHEMA) if parts else results.SCHEMA.empty_table()), unknown


def _table(found: Sequence[Outlook], plan: Study, source: str) -> Table:
    table = Table(
        title=f"what {plan.seeds} seeds decide, at {POWER:.0%} power and {LEVEL:.0%} over all {len(found)} claims, "
        f"from {escape(source)}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("claim", "effect", "sd between seeds", f"found with {plan.seeds} seeds", "seeds that find the effect"):
        table.add_column(name, justify="left" if name == "claim" else "right")
    for one in found:
        known = one.sd == one.sd and (one.sd > 0 or one.needed is not None)
        needed = "more than 100" if one.needed is None else f"{'at least ' if one.at_least else ''}{one.needed}"
        table.add_row(
            escape(one.name),
            text.signed(one.effect),
            text.number(one.sd),
            words.detectable(one.detectable) if one.sd == one.sd else text.NOTHING,
            needed if known else text.NOTHING,
        )
    return table


def _other_rounds(part: data.Part, rounds: Mapping[str, int], asked: Set[str]) -> str:
    """That arms of the claims end in other rounds in the pilot than in the study; empty where none does.

    Args:
        part: the pilot.
        rounds: rounds of the study's arms by label.
        asked: labels of the arms of its claims.
    """
    both = sorted(rounds.keys() & asked & set(part.series.arms))
    there = {label: (part.series.last(label), rounds[label]) for label in both}
    other = [(label, *both) for label, both in there.items() if both[0] != both[1]]
    if not other:
        return ""
    label, before, now = other[0]
    more = f" and {len(other) - 1} more arms" if len(other) > 1 else ""
    return (
        f"{label}{more}: the pilot ends in round {before} and this study in round {now}: what is told is of the "
        "pilot's rounds, and effects and their spread may be others in later ones"
    )


def _hours(part: data.Part, trials: Sequence[Trial]) -> str:
    """What the study costs, from the seconds of the pilot's finished runs; empty where none is finished."""
    done = [run for run in part.runs if run_facts.is_summed_up(run.reader.root, run.experiment.loop.rounds)]
    phases = ([one.seconds for one in run.reader.committed() if one.phase != "reward_model"] for run in done)
    seconds = [(sum(of_run), run.experiment.loop.rounds) for of_run, run in zip(phases, done, strict=True)]
    return cost(seconds, [trial.experiment.loop.rounds for trial in trials]) if seconds else ""


def cost(pilot: Sequence[tuple[float, int]], rounds: Sequence[int]) -> str:
    """What runs cost, in words, by the seconds per round of those of a pilot.

    Args:
        pilot: seconds and rounds of each run of the pilot, at least one.
        rounds: rounds of each run of the study.
    """
    # round 0 is counted as a round: it has an evaluation too
    per_round = statistics.median(seconds / (of_run + 1) for seconds, of_run in pilot)
    total = per_round * sum(one + 1 for one in rounds)
    by_rounds = ", by the number of rounds" if {of_run for _, of_run in pilot} != {*rounds} else ""
    return (
        f"cost: {len(rounds)} runs of {total / len(rounds):,.0f} s (median of {len(pilot)} runs of the pilot on its "
        f"machine{by_rounds}), {total / 3600:.1f} hours one after the other"
    )
