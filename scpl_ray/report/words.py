"""Verdicts and flags in words that claim no more than the seeds support."""

from __future__ import annotations

from collections.abc import Mapping

from scpl_ray.evaluation.disparity import ALL_LOST, GAIN, UNCLEAR, WORST_GAINED
from scpl_ray.evaluation.sign_flips import FEWEST
from scpl_ray.feedback.rules import RULES
from scpl_ray.report.data import FAILED, Part
from scpl_ray.report.text import MINUS, NOTHING, TIMES, base_name, interval, metric_name, number, p_value, signed
from scpl_ray.studies.bases import between_bases as spread_of_bases
from scpl_ray.studies.statistics import Verdict
from scpl_ray.studies.verdicts import ArmFlags, Family, Judged

SYMBOLS = {"supported": "●", "opposite": "✕", "cannot tell": "○", "not enough seeds": NOTHING}
"""Symbols of the verdicts, so that they are not distinguished by colour alone."""
CLOSED: Mapping[str, str] = {
    ALL_LOST: "gap closed because all lost",
    WORST_GAINED: "gap closed while the worst-served gained and the mean fell",
    GAIN: "gap closed by gain",
    UNCLEAR: "gap closed; neither gain nor loss is shown to be why",
}
"""Why a gap is smaller than in round 0, in words."""
SMALLER: Mapping[str, str] = {
    ALL_LOST: "by loss: the mean or the quality of the worst-served group is lower than there, and no group is shown "
    "to be served better",
    WORST_GAINED: "while the worst-served group is served better than there and the mean is lower",
    GAIN: "by gain",
    UNCLEAR: "and neither gain nor loss is shown to be why",
}
"""Why a gap is smaller than that of another arm, in words that follow its name."""
NOT_GIVEN = "not given"
MAX_ROUNDS = 8
"""Largest number of rounds that are listed after such a word."""


def contrast(judged: Judged) -> str:
    """The contrast as ``treatment − control``, or with all its weights."""
    terms = []
    for position, (arm, weight) in enumerate(judged.claim.contrast.items()):
        sign = MINUS if weight < 0 else "+" if position else ""
        size = "" if abs(weight) == 1 else f"{number(abs(weight))} {TIMES} "
        terms.append(f"{sign} {size}{arm}" if sign else f"{size}{arm}")
    return " ".join(terms)


def point(judged: Judged) -> str:
    """The point on the axes; empty without axes."""
    return ", ".join(f"{key}={value}" for key, value in judged.cell)


def measured(judged: Judged) -> str:
    """The metric and the round or rounds in which it was measured."""
    what = metric_name(judged.claim.metric, judged.claim.group)
    if judged.round is None:
        return what
    return f"{what}, {'round' if judged.claim.at == 'last' else 'mean of rounds 1 to'} {judged.round}"


def sentence(judged: Judged, family: Family) -> str:
    """A verdict as a few sentences."""
    verdict = judged.verdict
    if verdict is None:
        return f"{'Cannot tell' if judged.numbers.infinite else 'Not judged'}: {judged.reason}."
    parts = [_finding(judged, verdict, family), _scale(judged), _uncertain(judged, verdict)]
    if judged.smaller_gap is not None:
        smaller, other = judged.smaller_gap
        parts.append(f"The gap in {smaller} is smaller than in {other}, {SMALLER[judged.cause]}.")
    return " ".join(part for part in parts if part)


def _finding(judged: Judged, verdict: Verdict, family: Family) -> str:
    """What was found and what follows from it."""
    side, margin = judged.claim.direction, _margin(judged)
    found = (
        f"the mean difference{_unit(judged)} over {verdict.interval.n} seeds is {signed(verdict.estimate)} "
        f"(95% interval {interval(verdict.interval.low, verdict.interval.high, signed=True)})"
    )
    p = f"adjusted p {p_value(verdict.p_adjusted)}"
    other = "below 0" if side == "above 0" else "above 0"
    worse = "less" if side == "above 0" else "more"
    match verdict.verdict:
        case "supported" if margin:
            return f"Supported: {found}; {worse} by more than {margin} is excluded ({p})."
        case "supported":
            return f"Supported: {found}, {side} as claimed ({p})."
        case "opposite" if margin:
            return f"The opposite is supported: {found}; that is {worse} by more than {margin} ({p})."
        case "opposite":
            return f"The opposite is supported: {found}, {other} where {side} was claimed ({p})."
        case _:
            return f"Cannot tell: {found}{_open(judged, verdict, family)}"


def _open(judged: Judged, verdict: Verdict, family: Family) -> str:
    """Why a claim is left open, and what that leaves possible."""
    n, margin = verdict.interval.n, _margin(judged)
    if n < FEWEST:
        return f". {n} seeds give an interval and no verdict: that takes {FEWEST}."
    if margin:
        worse = "less" if judged.claim.direction == "above 0" else "more"
        text = f"; {worse} by more than {margin} is not excluded, so this is not shown to be harmless."
    else:
        text = "; this shows neither the effect nor its absence, and every difference in the interval remains possible."
    if verdict.minimum_detectable_effect == float("inf"):
        needed = family.seeds_needed
        enough = f"that takes {needed}" if needed else "no number of seeds can; claim less, or at fewer points"
        return f"{text} {n} seeds cannot support the first of {family.tested} claims, whatever comes out: {enough}."
    if verdict.minimum_detectable_effect > 0:
        size = number(verdict.minimum_detectable_effect)
        beyond = " from the margin" if margin else ""
        text += f" A difference of {size}{beyond} would have been found with {family.power:.0%} power."
    return text


def detectable(effect: float) -> str:
    """A detectable effect for tables: a number, none that so few seeds can support, or one that is not known."""
    return "none" if effect == float("inf") else NOT_GIVEN if effect != effect else number(effect)


def _unit(judged: Judged) -> str:
    return {"metric": "", "share": " in the share of the kind", "distance": " in the distance of the mean shares"}[
        judged.numbers.scale
    ]


def _margin(judged: Judged) -> str:
    """The margin of a claim in the unit in which it is tested; empty without one."""
    margin = judged.claim.margin
    return "" if margin is None else f"the margin {number(margin)}{_unit(judged)}"


def _scale(judged: Judged) -> str:
    """What the scale of the test means, where it is not the metric's own."""
    numbers = judged.numbers
    if numbers.drifts:
        return (
            "The table holds no shares of kinds: on this scale chance alone moves the mean, and may look like a bias."
        )
    if numbers.own is None:
        return ""
    low, high = numbers.own.low, numbers.own.high
    name = metric_name(judged.claim.metric, judged.claim.group)
    return f"As {name}: {signed(numbers.own.estimate)} ({interval(low, high, signed=True)}), which chance can move."


def _uncertain(judged: Judged, verdict: Verdict) -> str:
    """What the interval does not cover: undecided answers, missing seeds, a tail."""
    parts = []
    if judged.numbers.bounds is not None:
        parts.append(f"Undecided answers leave {interval(*judged.numbers.bounds, signed=True)} possible.")
    if judged.numbers.undecided:
        of_arms = ", ".join(f"{number(part)} in {arm}" for arm, part in judged.numbers.undecided.items())
        parts.append(f"Undecided are {of_arms} of the answers; what they leave possible is not bounded.")
    if judged.stands is not None:
        parts.append(
            "It stands whatever the seeds that are not compared would have shown."
            if judged.stands
            else "The seeds that are not compared could undo it: they may not be missing by chance."
        )
    if verdict.interval.low == verdict.interval.high:
        parts.append("Every seed differs by the same: the interval has no width, and says nothing of other seeds.")
    if verdict.skewed:
        parts.append(
            f"The differences are skewed ({number(verdict.skewness)}): the interval may be short on the tail's side."
        )
    return " ".join(parts)


def condition(part: Part) -> str:
    """On what every interval of a part is conditional."""
    if part.study is not None and part.study.mode == "analytic":
        return looked(part) + "Between seeds of the analytic model: its formulas and parameters are taken as true."
    tasks = {base_name(experiment.task.name) for experiment in part.experiments.values()}
    own = part.study is not None and part.study.vary == "base"
    bases = "base models trained anew per seed on the same kind of text" if own else "one base model"
    names = "" if own else f" ({', '.join(sorted({base_name(e.model.name) for e in part.experiments.values()}))})"
    judge = "one judge" + (f" of {', '.join(sorted(tasks))}" if tasks else "")
    return looked(part) + (
        f"Intervals are between seeds, on condition of {bases}{names}, one set of held-out prompts, and {judge}: other "
        "ones may differ by more."
    )


def unfinished(part: Part) -> str:
    """How many planned seeds of a study are whole; empty where all are, and where there is no plan."""
    if part.study is None or part.study.mode == "search" or not part.gaps:
        return ""
    failed = all(gap.reason.startswith(FAILED) for gap in part.gaps)
    why = "runs of the others failed" if failed else "the study is not finished"
    return f"{part.whole} of {len(part.series.seeds)} planned seeds are there in every arm; {why}."


def looked(part: Part) -> str:
    """What earlier looks at the results cost, with a blank behind it; empty where there were none."""
    if part.study is None:
        return ""
    # of a study that lacks seeds, folders of older versions hold the number that was planned
    before = [seeds for seeds in part.looks if seeds not in (part.looked_at, part.study.seeds)]
    if not before:
        return ""
    times = len(before) + 1
    return (
        f"These come after a look at the results with {', '.join(map(str, before))} seeds. Each of {times} looks "
        f"has its own chance of a false verdict, so that of all together is up to {times} {TIMES} 5%, if it was "
        "the results that made you go on. "
    )


def between_bases(part: Part) -> str:
    """How much the base models of a study that varies them differ in round 0; empty for other studies."""
    if part.study is None or part.study.vary != "base":
        return ""
    for arm in part.arms:
        found = spread_of_bases(part.series, arm) if arm in part.series.values else None
        if found is not None:
            return (
                f"Between {found.bases} base models the share of {found.group}'s kind in round 0 has standard "
                f"deviation {number(found.between)} around {number(found.mean)} (measured {number(found.sd)}, of which "
                f"counting makes {number(found.counting_sd)}): that variance is inside the intervals."
            )
    return "How much the base models differ cannot be told: fewer than 2 were measured."


def left_out(judged: Judged) -> str:
    """The seeds that are not compared; empty where all are compared."""
    lacking: dict[tuple[str, ...], list[int]] = {}
    for seed, arms in judged.left_out.items():
        lacking.setdefault(arms, []).append(seed)
    parts = [
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))} (no number in {', '.join(arms)})"
        for arms, seeds in lacking.items()
    ]
    return f"Not compared: {'; '.join(parts)}." if parts and judged.verdict is not None else ""


def levelling(flags: ArmFlags) -> str:
    """Says in which rounds the gap of an arm is smaller than in round 0, and why."""
    found = flags.levelled_down
    if found is None:
        return "cannot tell: fewer than 2 whole seeds or groups"
    if not found.seen:
        return f"cannot see: fewer than {FEWEST} whole seeds show neither a gap that closes nor why"
    told = []
    for cause, words in CLOSED.items():
        rounds = [t + 1 for t, why in enumerate(found.cause) if why == cause]
        if rounds:
            listed = ", ".join(map(str, rounds[:MAX_ROUNDS])) + (" …" if len(rounds) > MAX_ROUNDS else "")
            told.append(f"{words} (round{'s' if len(rounds) > 1 else ''} {listed})")
    return "; ".join(told) or "not shown"


def stability(flags: ArmFlags, rule: str | None) -> str:
    """Says what the paths show about the stability of shares and kinds.

    Args:
        flags: the flags of the arm.
        rule: the feedback rule of the arm, where it is known.
    """
    # a rule that the user's own code registered is not known where its run is read
    known = RULES.built_in(rule)
    if known is not None and not known.reacts:
        return f"not asked: shares are set from outside (feedback.rule={rule})"
    if known is not None and known.total_moves:
        return f"not asked: under {rule} totals matter, and the results hold shares only"
    found = flags.stability
    if found is None:
        return f"cannot tell: {flags.unknown}"
    return str(found)


def amplification(flags: ArmFlags) -> str:
    """Says whether preference bias grew or shrank since round 0, and towards whom the shares moved."""
    found = flags.amplified
    if found is None:
        return "cannot tell: fewer than 2 seeds with shares of kinds"
    change = f"distance from equal shares {number(found.before)} → {number(found.after)}"
    change += f" ({interval(found.change.low, found.change.high, signed=True)})"
    where = f"{number(found.moved)} from round 0, towards {found.towards}'s kind ({signed(found.gained)})"
    p = f"p {p_value(found.p)} over {found.seeds} seeds"
    match found.word:
        case "cannot tell":
            return f"cannot tell: {found.seeds} seeds, a verdict takes {FEWEST}; {change}; {where}"
        case "not shown":
            return f"not shown ({p}); {change}"
        case "turned":
            return f"moved, neither shown to be nearer equal shares nor further ({p}): {change}; {where}"
        case word:
            return f"{word} ({p}): {change}; {where}"
