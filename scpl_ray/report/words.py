"""Verdicts and flags in words that claim no more than the seeds support."""

from __future__ import annotations

from scpl_ray.feedback.rules import RULES
from scpl_ray.report.text import MINUS, NOTHING, TIMES, interval, metric_name, number, p_value
from scpl_ray.studies.verdicts import ArmFlags, Family, Judged

SYMBOLS = {"supported": "●", "opposite": "✕", "cannot tell": "○", "not enough seeds": NOTHING}
"""Symbols of the verdicts, so that they are not distinguished by colour alone."""


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
    """A verdict as one or two sentences."""
    verdict, side = judged.verdict, judged.claim.direction
    if verdict is None:
        return f"Not judged: {judged.reason}."
    found = (
        f"the mean difference over {verdict.interval.n} seeds is {number(verdict.estimate, signed=True)} "
        f"(95% interval {interval(verdict.interval.low, verdict.interval.high, signed=True)})"
    )
    match verdict.verdict:
        case "supported":
            text = f"Supported: {found}, {side} as claimed (adjusted p {p_value(verdict.p_adjusted)})."
        case "opposite":
            other = "below 0" if side == "above 0" else "above 0"
            text = f"The opposite is supported: {found}, {other} where {side} was claimed."
        case "cannot tell":
            text = f"Cannot tell: {found}; this shows neither the effect nor its absence."
            if verdict.minimum_detectable_effect > 0:
                size = number(verdict.minimum_detectable_effect)
                text += f" A difference of {size} would have been found with {family.power:.0%} power."
    if judged.levelled_down:
        text += " Levelling down: the gap is smaller and quality is lower, so this is no gain for the group behind."
    return text


def left_out(judged: Judged) -> str:
    """The seeds that are not compared; empty where all are compared."""
    parts = [f"seed {seed} (no number in {', '.join(arms)})" for seed, arms in judged.left_out.items()]
    return f"Not compared: {'; '.join(parts)}." if parts and judged.verdict is not None else ""


def levelling(flags: ArmFlags) -> str:
    """Says whether the gap of an arm fell because quality fell."""
    if flags.levelled_down is None:
        return "cannot tell: fewer than 2 whole seeds or groups"
    if not flags.levelled_down:
        return "not shown"
    rounds = ", ".join(map(str, flags.levelled_down[:8])) + (" …" if len(flags.levelled_down) > 8 else "")
    return f"levelled down in round{'s' if len(flags.levelled_down) > 1 else ''} {rounds}"


def stability(flags: ArmFlags, rule: str | None) -> str:
    """Says what the paths show about the stability of shares and kinds.

    Args:
        flags: the flags of the arm.
        rule: the feedback rule of the arm, where it is known.
    """
    # a rule that the user's own code registered is not known where its run is read
    known = RULES.get(rule) if rule is not None else None
    if known is not None and not known.reacts:
        return f"not asked: shares are set from outside (feedback.rule={rule})"
    if known is not None and known.total_moves:
        return f"not asked: under {rule} totals matter, and the results hold shares only"
    found = flags.stability
    if found is None:
        return f"cannot tell: {flags.unknown}"
    return str(found)


def amplification(flags: ArmFlags) -> str:
    """Says whether preference bias rose since round 0."""
    if flags.amplified is None:
        return "cannot tell: fewer than 2 seeds"
    p = p_value(flags.amplified.p)
    return f"amplified (p {p})" if flags.amplified.verdict == "supported" else f"not shown (p {p})"
