"""The report page: ``report.html``, its figures and ``report.json``."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from scpl_ray.config import Experiment, Section
from scpl_ray.report import evidence, export, figures, headline, sessions, text, words
from scpl_ray.report.axes import Figure
from scpl_ray.report.data import Part
from scpl_ray.report.figures import MAX_ARMS
from scpl_ray.report.seconds import PhaseSeconds, phase_seconds
from scpl_ray.shares import FloatArray
from scpl_ray.storage.files import write_atomically
from scpl_ray.storage.run_facts import COMMAND
from scpl_ray.studies import verdicts
from scpl_ray.studies.series import mean_path
from scpl_ray.studies.verdicts import ArmFlags, Family

TEMPLATE = "page.html"
FORMAT = 1
MAX_CLAIMS = 60
"""Largest number of claims in the page's table."""
MAX_GAPS = 50
"""Largest number of missing runs listed on the page."""
MAX_COMMANDS = 10
"""Largest number of command lines listed on the page."""
UNSHOWN_KEYS = ("name", "seed")


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A part with everything that the page shows of it."""

    slug: str
    """Prefix of the file names of its figures."""
    part: Part
    shown: tuple[str, ...]
    """The arms with results that are drawn and listed."""
    family: Family | None
    flags: Mapping[str, ArmFlags]
    """Flags of every arm with results."""
    figures: tuple[Figure, ...]
    differing: Mapping[str, Mapping[str, Any]]
    """Per arm, its values of the config keys in which the arms differ."""


def view(part: Part, slug: str) -> View:
    """Judge the claims of a part, describe its arms and draw its figures."""
    there = [arm for arm in part.arms if arm in part.series.values]
    shown = tuple(there[:MAX_ARMS])
    family = verdicts.judge(part.series, part.study) if part.study is not None and part.study.claims else None
    described = {arm: verdicts.flags(part.series, arm, part.experiments.get(arm)) for arm in there}
    drawn = tuple(figures.draw_all(part, shown, family))
    return View(slug, part, shown, family, described, drawn, _differing(part.experiments))


def write(parts: Sequence[Part], output: Path) -> Path:
    """Write the report into a folder, which is created if needed; returns the path of the page.

    Raises:
        OSError: the folder cannot be written.
        StoreError: a judge card cannot be read.
        ValueError: the results cannot be judged, e.g. because of a quality outside [0, 1].
    """
    views = [view(part, f"part{i + 1}-" if len(parts) > 1 else "") for i, part in enumerate(parts)]
    created = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    output.mkdir(parents=True, exist_ok=True)
    for one in views:
        for figure in one.figures:
            write_atomically(output / f"{one.slug}{figure.name}.svg", figure.svg)
            write_atomically(output / f"{one.slug}{figure.name}.png", figure.png)
    facts = {"format": FORMAT, "created": created, "parts": [summary(one) for one in views]}
    encoded = json.dumps(_plain(facts), allow_nan=False)
    write_atomically(output / "report.json", f"{encoded}\n".encode())
    page = render(views, created)
    write_atomically(output / "report.html", page.encode())
    return output / "report.html"


def render(views: Sequence[View], created: str) -> str:
    """The page as one HTML file that loads nothing else and runs no scripts."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: text.visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name, function in (("number", text.number), ("signed", text.signed), ("percent", text.percent)):
        environment.filters[name] = function
    environment.filters["cut"] = text.cut
    environment.filters["copyable"] = lambda value: Markup(escape(text.copyable(value)))
    environment.filters["config_value"] = text.config_value
    title = " · ".join(one.part.title for one in views)
    return environment.get_template(TEMPLATE).render(
        title=title, created=created, parts=[_context(one) for one in views]
    )


def _context(one: View) -> dict[str, Any]:
    part = one.part
    usual = _usual(one.differing)
    changes = {metric: text.metric_name(metric) for metric in verdicts.CHANGES}
    seeds: dict[tuple[str, str], list[int]] = {}
    for gap in part.gaps:
        seeds.setdefault((gap.arm, gap.reason), []).extend([] if gap.seed is None else [gap.seed])
    gaps = [(arm, reason, missing) for (arm, reason), missing in seeds.items()]
    there = [m for m in changes if any(m in one.flags[arm].ends for arm in one.shown)]
    return {
        "part": part,
        "headline": _headline(one),
        "step": "checkpoint" if part.checkpoints else "round",
        "names": text.short_names(part.checkpoints),
        "first": text.short_names(part.checkpoints)[0] if part.checkpoints else "round 0",
        "bands": figures.described(part, one.shown),
        "shown": one.shown,
        "facts": _facts(one),
        "usual": usual,
        "arms": [_arm(one, arm, usual) for arm in part.arms if arm in one.shown or arm not in one.flags][
            : 4 * MAX_ARMS
        ],
        "gaps": gaps[:MAX_GAPS],
        "more_gaps": len(gaps[MAX_GAPS:]),
        "claims": _claims(one.family) if one.family else [],
        "family": one.family,
        "max_claims": MAX_CLAIMS,
        "figures": [(figure, Markup(base64.b64encode(figure.svg).decode())) for figure in one.figures],
        "changes": {metric: changes[metric] for metric in there},
        "flags": [_flags(one, arm) for arm in one.shown],
        "cards": evidence.cards(part, one.shown),
        "selected": [s for arm in one.shown if (s := evidence.selected(part.series, part.runs, arm)) is not None],
        "phases": [(arm, rows) for arm in one.shown if (rows := _phase_seconds(part, arm))],
        "sessions": sessions.sentences(part.sessions, [run.reader for run in part.runs]),
        "samples": [(arm, answers) for arm in one.shown if (answers := evidence.samples(part, arm))],
        "common": _common(part.experiments),
        "condition": words.condition(part),
        "bases": words.between_bases(part),
        "versions": _versions(part),
        "began": _began(part),
        "methods": export.stated(part, one.family),
        "references": export.references(part),
    }


def _headline(one: View) -> str:
    """What was found, in a few sentences, after what a study lacks; empty where no arm has a result."""
    said = ""
    if one.family is not None:
        said = headline.of_claims(one.family)
    elif one.shown:
        said = headline.of_changes(one.part, one.flags[one.shown[0]])
    return " ".join(filter(None, (words.unfinished(one.part), said)))


def _began(part: Part) -> list[tuple[str, int]]:
    """The different command lines by which the runs were begun, each with the number of runs."""
    commands = [run.began[COMMAND] for run in part.runs if COMMAND in run.began]
    return [(command, commands.count(command)) for command in dict.fromkeys(commands)][:MAX_COMMANDS]


def _phase_seconds(part: Part, arm: str) -> list[PhaseSeconds]:
    """Seconds of the self-consuming rounds of an arm."""
    return phase_seconds([(run.reader, run.experiment) for run in part.runs if run.arm == arm], first_round=1)


def _facts(one: View) -> dict[str, str]:
    part = one.part
    seeds = part.series.measured
    rounds = sorted({int(flags.last) for flags in one.flags.values()})
    planned = part.study.seeds if part.study is not None and part.study.mode != "search" else len(seeds)
    kinds = {e.task.name for e in part.experiments.values()}, {e.model.name for e in part.experiments.values()}
    analytic = part.study is not None and part.study.mode == "analytic"
    groups = {" / ".join(e.groups.names) for e in part.experiments.values()}
    return {
        "Arms": f"{len(one.flags)} of {len(part.arms)} have results",
        "Seeds": f"{len(seeds)} of {planned} have results",
        **(
            {"Checkpoints": ", ".join(part.checkpoints)}
            if part.checkpoints
            else {"Rounds": " or ".join(map(str, rounds)) + " after round 0"}
        ),
        "Groups": ", ".join(sorted(groups)) or text.NOTHING,
        "Task": ", ".join(sorted(kinds[0])) or text.NOTHING,
        "Model": "none: the analytic model of the loop" if analytic else ", ".join(sorted(kinds[1])) or text.NOTHING,
        "Read from": part.source,
    }


def _arm(one: View, arm: str, usual: Mapping[str, Any]) -> dict[str, Any]:
    reached = one.part.series.reached(arm)
    own = one.differing.get(arm, {})
    return {
        "label": arm,
        "seeds": int((reached >= 0).sum()),
        "rounds": int(reached.max(initial=-1)),
        "keys": {key: value for key, value in own.items() if repr(value) != repr(usual[key])},
        "known": arm in one.part.experiments,
    }


def _claims(family: Family) -> list[dict[str, Any]]:
    return [
        {
            "judged": judged,
            "symbol": words.SYMBOLS[judged.outcome],
            "badge": judged.outcome.replace(" ", "-"),
            "contrast": words.contrast(judged),
            "point": words.point(judged),
            "measured": words.measured(judged),
            "interval": ""
            if judged.verdict is None
            else text.interval(judged.verdict.interval.low, judged.verdict.interval.high, signed=True),
            "p": "" if judged.verdict is None else text.p_value(judged.verdict.p_adjusted),
            "detectable": "" if judged.verdict is None else words.detectable(judged.verdict.minimum_detectable_effect),
            "sentence": words.sentence(judged, family),
            "left_out": words.left_out(judged),
        }
        for judged in family.judged[:MAX_CLAIMS]
    ]


def _flags(one: View, arm: str) -> dict[str, Any]:
    flags = one.flags[arm]
    experiment = one.part.experiments.get(arm)
    return {
        "flags": flags,
        "levelled": words.levelling(flags),
        "warn": flags.levelled_down is not None and bool(flags.levelled_down.flag.any()),
        "stability": words.stability(flags, experiment.feedback.rule if experiment is not None else None),
        "amplified": words.amplification(flags),
        "intervals": {
            metric: text.interval(found.low, found.high, signed=True) for metric, found in flags.changes.items()
        },
    }


def _flat(section: Section, prefix: str = "") -> dict[str, Any]:
    """Values of a section by dotted key."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section) and name != "lora":
            found |= _flat(value, f"{prefix}{name}.")
        elif prefix or name not in UNSHOWN_KEYS:
            found[f"{prefix}{name}"] = value.model_dump() if isinstance(value, Section) else value
    return found


def _differing(experiments: Mapping[str, Experiment]) -> dict[str, dict[str, Any]]:
    """Per arm, its values of the keys in which the arms differ."""
    flat = {arm: _flat(experiment) for arm, experiment in experiments.items()}
    keys = [key for key in next(iter(flat.values()), {}) if len({repr(values[key]) for values in flat.values()}) > 1]
    return {arm: {key: values[key] for key in keys} for arm, values in flat.items()}


def _usual(differing: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The most common value of every key in which the arms differ; among equally common ones, that of the first arm."""
    keys = next(iter(differing.values()), {})
    found = {}
    for key in keys:
        values = [own[key] for own in differing.values()]
        shown = [repr(value) for value in values]
        found[key] = max(values, key=lambda value: shown.count(repr(value)))
    return found


def _common(experiments: Mapping[str, Experiment]) -> dict[str, Any]:
    """The keys on which all arms agree, with their values."""
    flat = [_flat(experiment) for experiment in experiments.values()]
    first = flat[0] if flat else {}
    return {key: value for key, value in first.items() if all(repr(other[key]) == repr(value) for other in flat)}


def _versions(part: Part) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for run in part.runs:
        for package, version in run.versions.items():
            found.setdefault(package, set()).add(version)
    return {package: " and ".join(sorted(versions)) for package, versions in sorted(found.items())}


def summary(one: View) -> dict[str, Any]:
    """All numbers that the page shows of a part, for all arms, as plain values."""
    part = one.part
    return {
        "title": part.title,
        "source": part.source,
        "headline": _headline(one),
        "checkpoints": part.checkpoints,
        "notes": part.notes,
        "condition": words.condition(part),
        "between_bases": words.between_bases(part),
        "seeds": part.series.measured,
        "missing": [dataclasses.asdict(gap) for gap in part.gaps],
        "level": one.family.level if one.family else None,
        "power": one.family.power if one.family else None,
        "claims": [_claim(judged, one.family) for judged in one.family.judged] if one.family else [],
        "arms": {
            arm: {
                "config": one.differing.get(arm),
                "rounds": flags.last,
                "changes_since_round_0": {metric: dataclasses.asdict(found) for metric, found in flags.changes.items()},
                "round_0_and_last": flags.ends,
                "amplified": None if flags.amplified is None else dataclasses.asdict(flags.amplified),
                "gap_closed": None if flags.levelled_down is None else flags.levelled_down.cause,
                "levelled_down_rounds": None
                if flags.levelled_down is None or not flags.levelled_down.seen
                else np.flatnonzero(flags.levelled_down.flag) + 1,
                "rho": None if flags.stability is None else flags.stability.rho,
                "rho_interval": None if flags.stability is None else (flags.stability.low, flags.stability.high),
                "stability": "cannot tell" if flags.stability is None else flags.stability.verdict,
                "paths": [
                    {"metric": metric, "group": group, "mean": path.mean, "low": path.low, "high": path.high}
                    | _within_run(part.series.within_run(arm, metric, group), path.mean)
                    for (metric, group), values in part.series.values[arm].items()
                    for path in [mean_path(values)]
                ],
            }
            for arm, flags in one.flags.items()
        },
    }


def _within_run(sides: FloatArray | None, mean: FloatArray) -> dict[str, FloatArray]:
    """The within-run interval of a path, by its mean distance from a run's number; nothing where there is none."""
    return {} if sides is None else {"within_run_low": mean - sides[:, 0], "within_run_high": mean + sides[:, 1]}


def _claim(judged: verdicts.Judged, family: Family) -> dict[str, Any]:
    verdict = judged.verdict
    numbers = {} if verdict is None else {
        "estimate": verdict.estimate,
        "low": verdict.interval.low,
        "high": verdict.interval.high,
        "confidence": verdict.interval.confidence,
        "p": verdict.p,
        "p_adjusted": verdict.p_adjusted,
        "minimum_detectable_effect": verdict.minimum_detectable_effect,
        "skewness": verdict.skewness,
        "beside_p": verdict.claim.beside_p,
        "differences": dict(
            zip(map(str, verdict.claim.paired.seeds), verdict.claim.paired.differences.tolist(), strict=True)
        ),
    }  # fmt: skip
    return {
        "name": judged.name,
        "question": judged.claim.question,
        "metric": judged.claim.metric,
        "group": judged.claim.group,
        "at": judged.claim.at,
        "round": judged.round,
        "direction": judged.claim.direction,
        "contrast": dict(judged.contrast),
        "outcome": judged.outcome,
        "margin": judged.claim.margin,
        "tested_on": judged.numbers.scale,
        "in_units_of_the_metric": None if judged.numbers.own is None else dataclasses.asdict(judged.numbers.own),
        "bounds_of_undecided": judged.numbers.bounds,
        "undecided": judged.numbers.undecided,
        "stands_without_missing_seeds": judged.stands,
        "gap_smaller": judged.cause,
        "gap_smaller_in": None if judged.smaller_gap is None else judged.smaller_gap[0],
        "levelled_down": judged.levelled_down,
        "not_compared": {str(seed): arms for seed, arms in judged.left_out.items()},
        "sentence": words.sentence(judged, family),
        **numbers,
    }


def _plain(value: Any) -> Any:
    """Convert to JSON values; a number that does not exist becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return [_plain(item) for item in value]
