"""What each remedy pulls in the analytic mode, which setting is best on some seeds, and whether other seeds agree."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jobs.configs import CONFIGS
from jobs.driver import experiments, study
from scpl_ray.analytic.loop import simulate
from scpl_ray.analytic.paths import Paths
from scpl_ray.analytic.steps import steps
from scpl_ray.config import Experiment, loading
from scpl_ray.report import text
from scpl_ray.selection.strategies import STRATEGIES
from scpl_ray.shares import FloatArray
from scpl_ray.studies import study as studies
from scpl_ray.studies import verdicts
from scpl_ray.studies.series import Series
from scpl_ray.studies.statistics import Interval, t_interval
from scpl_ray.studies.study import Study, arm_label

CHOICES = "reward.choices"
EXPLORATION, CONFIRMATION = "remedy_exploration.yaml", "remedy_confirmation.yaml"
ALIKE = 0.02
"""Differences between excesses of preference bias, in total variation, that 20 seeds do not tell apart."""
SEEDS = 200
"""Seeds of what is measured of every remedy at its default setting."""
DECIMALS = 3
USERS: dict[str, dict[str, Any]] = {
    "static": {"feedback.rule": "static"},
    "shifted": {"feedback.rule": "schedule", "feedback.step": [0.08, -0.08]},
}
"""The control, and users who are shifted to the majority, as in ``study_paper_tiny``."""
LOOP: dict[str, Any] = {"queries.prompts_per_round": 256, "loop.rounds": 5, "analytic.seeds": SEEDS}
WRITTEN = [0.548, 0.452]
"""The kinds that the base model writes to the users of round 1: 0.6 of them ask for 0.74, 0.4 for 0.26."""
KINDS = {"selection.target_of": "kinds", "selection.target": WRITTEN}
FEW = {"selection.strategy": "quotas", "selection.keep_fraction": 0.05}
"""Quotas can take from a group no more than it has, and in round 5 the minority sends 0.08 of the queries."""
REMEDIES: dict[str, dict[str, Any]] = {
    "vrs": {},
    "as many at random": {"selection.matched_control": True},
    "tpp": {"selection.strategy": "tpp"},
    "top": {"selection.strategy": "top"},
    "importance, groups": {"selection.strategy": "importance"},
    "importance, kinds": {"selection.strategy": "importance", **KINDS},
    "quotas, groups": FEW,
    "quotas, kinds": {**FEW, **KINDS},
    "calibrated, groups": {"selection.strategy": "calibrated"},
    "calibrated, kinds": {"selection.strategy": "calibrated", **KINDS},
    "penalty, groups": {"selection.strategy": "penalty"},
    "penalty, kinds": {"selection.strategy": "penalty", **KINDS},
    "reweight, groups": {"selection.strategy": "reweight"},
    "reweight, kinds": {"selection.strategy": "reweight", **KINDS},
    "vrs, balanced choices": {"reward.choices": "balanced"},
    "reweight, groups, balanced choices": {"selection.strategy": "reweight", "reward.choices": "balanced"},
}
"""Keys by the name of a remedy."""
STEPS = ("taught", "leaning", "asked", "selected", "weighted", "learned")
GAP, WORST, MEAN = (f"{name}_without_own_kind" for name in ("disparate_gap", "quality_worst", "quality_mean"))


def computed(folder: Path) -> dict[str, Any]:
    """All numbers of the page, as JSON; the study files are those of this folder."""
    return {
        "measured": {name: measured(name) for name in REMEDIES},
        "exploration": explored(folder / EXPLORATION),
        "confirmation": confirmed(folder / CONFIRMATION),
    }


def experiment(remedy: str, users: str) -> Experiment:
    """The loop of one remedy."""
    return experiments.build(loading.overlay({}, {**LOOP, **USERS[users], **REMEDIES[remedy]}), f"{remedy}, {users}")


def measured(remedy: str) -> dict[str, Any]:
    """Excess of preference, gap and quality of one remedy after the last round, and the steps of its shifted users."""
    paths = {users: simulate(experiment(remedy, users)) for users in USERS}
    vrs = {users: simulate(experiment("vrs", users)) for users in USERS}
    own, free = _excess(paths), _excess(vrs)
    shifted, ends = paths["shifted"].series(), vrs["shifted"].series()
    each = dataclasses.asdict(steps(paths["shifted"]))
    return {
        "lean": {users: _rounded(_log_odds(found).mean(axis=0)) for users, found in paths.items()},
        "excess": _interval(own),
        "excess_less_vrs": _interval(own - free),
        **{name: _interval(shifted[name, None][:, -1]) for name in (GAP, WORST, MEAN)},
        **{
            f"{name}_less_vrs": _interval(shifted[name, None][:, -1] - ends[name, None][:, -1])
            for name in (WORST, MEAN)
        },
        "kept": _rounded(paths["shifted"].kept_fraction[:, 1:].mean(axis=0)),
        "steps": {name: _rounded(each[name].mean(axis=0)) for name in STEPS},
    }


def _log_odds(paths: Paths) -> FloatArray:
    return paths.preference("balanced").log_odds


def _excess(paths: Mapping[str, Paths]) -> FloatArray:
    """Preference log-odds of shifted users above those of the control with the same seed, last round, shape (S,)."""
    return np.asarray((_log_odds(paths["shifted"]) - _log_odds(paths["static"]))[:, -1])


def _rounded(values: FloatArray) -> list[float]:
    return [round(float(value), DECIMALS) for value in values]


def _interval(values: FloatArray) -> list[float]:
    """Mean and 95% interval between seeds."""
    found = t_interval(values)
    return [round(x, DECIMALS) for x in (found.estimate, found.low, found.high)]


def explored(file: Path) -> dict[str, Any]:
    """The best setting of every strategy of the exploration, by whose choices teach the reward model.

    A setting qualifies if mean quality is at least 0.95 of that of plain VRS at the defaults and the worst-served group
    is served no worse, both without own kind. Of those that qualify and whose excess of preference bias is within
    :data:`ALIKE` of the smallest, the best serves the worst-served group best. A setting in which a seed cannot go on
    does not qualify.
    """
    plan = studies.load(file, CONFIGS)
    found, refused = {}, 0
    for strategy in (arm.removeprefix("shifted-") for arm in plan.arms if arm.startswith("shifted-")):
        found[strategy], without = _settings(plan, strategy)
        refused += without
    default = _default(plan)
    (reference,) = (setting for setting in found["vrs"] if setting["keys"] == _read(default, "vrs"))
    rows = []
    for strategy, settings in found.items():
        for choices in plan.axes[CHOICES]:
            own = [s for s in settings if s["keys"][CHOICES] == choices]
            fit = [s for s in own if s["mean"] >= 0.95 * reference["mean"] and s["worst"] >= reference["worst"]]
            row = {"strategy": strategy, "choices": choices, "settings": len(own), "qualify": len(fit)}
            if fit:
                least = min(abs(s["excess"]) for s in fit)
                row |= max((s for s in fit if abs(s["excess"]) <= least + ALIKE), key=lambda s: s["worst"])
            rows.append(row)
    return {"vrs": reference, "best": rows, "refused": refused}


def _settings(plan: Study, strategy: str) -> tuple[list[dict[str, Any]], int]:
    """What comes of every setting of a strategy, and of how many a seed cannot go on.

    Axes that the strategy does not read stay at their defaults, which changes none of its paths.
    """
    default = _default(plan)
    read = _read(default, strategy)
    small = plan.model_copy(
        update={
            "axes": {key: values if key in read else (default[key],) for key, values in plan.axes.items()},
            "arms": {arm: keys for arm, keys in plan.arms.items() if arm.endswith(f"-{strategy}")},
        }
    )
    ends: dict[str, tuple[float, float, float]] = {}
    for label, simulation in study.simulated_arms(small, studies.trials(small, CONFIGS, experiments.build)):
        with contextlib.suppress(ValueError):  # a seed of this setting cannot go on; it is counted below
            ends[label] = _end(simulation())
    found = []
    cells = studies.points(small)
    for cell in cells:
        static, shifted = (ends.get(arm_label(f"{users}-{strategy}", cell)) for users in USERS)
        if static is not None and shifted is not None:
            numbers = {
                "excess": shifted[0] - static[0],
                "distance": shifted[0],
                "mean": shifted[1],
                "worst": shifted[2],
            }
            rounded = {name: round(value, 4) for name, value in numbers.items()}
            found.append({"keys": _read(dict(cell), strategy), **rounded})
    return found, len(cells) - len(found)


def _read(keys: Mapping[str, Any], strategy: str) -> dict[str, Any]:
    """The keys among these that a strategy reads."""
    kind = STRATEGIES[strategy]
    read = {
        "selection.target": kind.reads_target,
        "selection.target_of": kind.reads_target,
        "selection.beta": kind.reads_r_max,
        "selection.penalty": kind.costs_classes,
    }
    return {key: value for key, value in keys.items() if read.get(key, True)}


def _default(plan: Study) -> dict[str, Any]:
    """The default of every key of the axes."""
    values = experiments.build({}, plan.name).model_dump(mode="json")
    return {key: functools.reduce(operator.getitem, key.split("."), values) for key in plan.axes}


def _end(paths: Paths) -> tuple[float, float, float]:
    """After the last round: distance of the mean kinds from equal shares, mean and worst quality without own kind."""
    kinds, found = paths.kinds[:, -1].mean(axis=0), paths.series()
    distance = float(np.abs(kinds - 1.0 / len(kinds)).sum() / 2.0)
    mean, worst = (float(found[name, None][:, -1].mean()) for name in (MEAN, WORST))
    return distance, mean, worst


def confirmed(file: Path) -> list[dict[str, Any]]:
    """The verdicts of the confirmation."""
    plan = studies.load(file, CONFIGS)
    series = Series.of(study.simulated(plan, studies.trials(plan, CONFIGS, experiments.build)))
    family = verdicts.judge(series, plan)
    found = []
    for judged in family.judged:
        verdict = judged.verdict
        if verdict is None:
            raise ValueError(f"{file}: {judged.name}: {judged.reason}")
        found.append(
            {
                "claim": judged.claim.name,
                "interval": _ends(verdict.interval),
                "margin": judged.claim.margin,
                "p": round(verdict.p_adjusted, 4),
                "detectable": round(verdict.minimum_detectable_effect, DECIMALS),
                "seeds": verdict.interval.n,
                "verdict": verdict.verdict,
            }
        )
    return found


def _ends(interval: Interval) -> list[float]:
    return [round(x, 4) for x in (interval.estimate, interval.low, interval.high)]


def tables(facts: Mapping[str, Any]) -> dict[str, str]:
    """The tables of the page in Markdown, by name."""
    return {
        "measured": _measured_table(facts["measured"]),
        "steps": _steps_table(facts["measured"]),
        "exploration": _exploration_table(facts["exploration"]),
        "confirmation": _confirmation_table(facts["confirmation"]),
    }


def _measured_table(found: Mapping[str, Any]) -> str:
    lines = [
        "| remedy | excess of preference, log-odds | less than with VRS | gap | worst | mean |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        less = "" if name == "vrs" else _signed(row["excess_less_vrs"])
        numbers = " | ".join(f"{row[metric][0]:.3f}" for metric in (GAP, WORST, MEAN))
        lines.append(f"| {name} | {_signed(row['excess'])} | {less} | {numbers} |")
    return "\n".join(lines)


def _signed(interval: list[float]) -> str:
    estimate, low, high = (text.signed(x) for x in interval)
    return f"{estimate} ({low} to {high})"


def _steps_table(found: Mapping[str, Any]) -> str:
    lines = [
        "| remedy | taught | leaning | asked | selected | weighted | learned |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        numbers = " | ".join(text.signed(row["steps"][step][-1]) for step in STEPS)
        lines.append(f"| {name} | {numbers} |")
    return "\n".join(lines)


def _exploration_table(found: Mapping[str, Any]) -> str:
    lines = [
        "| strategy | choices | best setting | excess | of VRS's | distance | mean | worst | qualify |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    free = found["vrs"]
    default = {"strategy": "vrs, defaults", "choices": free["keys"][CHOICES], "qualify": 1, "settings": 1, **free}
    for row in (default, *found["best"]):
        told = " |  |  |  |  | "
        if row["qualify"]:
            keys = ", ".join(f"`{key}={_shown(value)}`" for key, value in row["keys"].items() if key != CHOICES)
            part = row["excess"] / free["excess"]
            numbers = " | ".join(f"{row[name]:.3f}" for name in ("distance", "mean", "worst"))
            told = f"{keys} | {text.signed(row['excess'])} | {part:.0%} | {numbers}"
        lines.append(f"| {row['strategy']} | {row['choices']} | {told} | {row['qualify']} of {row['settings']} |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return json.dumps(value).replace('"', "") if isinstance(value, list | dict) else str(value)


def _confirmation_table(found: list[Mapping[str, Any]]) -> str:
    lines = [
        "| claim | difference | 95% interval | adjusted p | detectable | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        estimate, low, high = (text.signed(x) for x in row["interval"])
        p = text.p_value(row["p"])
        lines.append(
            f"| {row['claim']} | {estimate} | {low} to {high} | {p} | {row['detectable']:.3f} | {row['verdict']} |"
        )
    return "\n".join(lines)
