"""What speaks against the claims of a study before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobs.driver.alike import ROUNDS
from scpl_ray.config.errors import nearest
from scpl_ray.evaluation import bias
from scpl_ray.evaluation.catalogue import CATALOGUE, kind_of
from scpl_ray.evaluation.metric_kind import MetricKind
from scpl_ray.feedback.population import initial_shares
from scpl_ray.studies.study import Study, StudyClaim, Trial


def faults(claim: StudyClaim, plan: Study, trials: Sequence[Trial]) -> Iterator[str]:
    """What speaks against a claim: the metric and the group that it names, and how its arms differ."""
    kind, said = kind_of(claim.metric), f"claims: {claim.name!r}: metric = {claim.metric!r}"
    if kind is None:
        known = [kind.name for kind in CATALOGUE]
        yield f"{said}: no metric of this name" + (nearest(claim.metric, known) or f"; there are {', '.join(known)}")
        return
    by_shares = kind.drift_neutral is not None and not kind.drift_neutral.corrected
    if plan.mode == "analytic" and not (kind.analytic or by_shares):
        yield f"{said}: the analytic mode does not have it; choose another metric, or set mode=engines"
    yield from _different_ends(claim, trials)
    yield from _different_groups(claim, trials, kind)
    if claim.group is None:
        if not kind.overall:
            yield f"{said}: is measured per group only; give the claim a group"
        return
    if not kind.per_group:
        yield f"{said}: is measured over all groups only; leave group = {claim.group!r} out"
    for trial in trials:
        names = trial.experiment.groups.names
        if trial.arm in claim.contrast and claim.group not in names:
            yield f"claims: {claim.name!r}: group = {claim.group!r}: arm {trial.arm} has {', '.join(names)}"
            return


def _different_ends(claim: StudyClaim, trials: Sequence[Trial]) -> Iterator[str]:
    """That the arms of a claim end in different rounds, at the first point where they do."""
    ends: dict[str, dict[str, int]] = {}
    for trial in trials:
        if trial.arm in claim.contrast:
            ends.setdefault(repr(trial.cell), {})[trial.arm] = trial.experiment.loop.rounds
    for arms in ends.values():
        if len(set(arms.values())) > 1:
            told = "; ".join(f"arm {arm} has {ROUNDS} = {rounds}" for arm, rounds in arms.items())
            how = "arms are compared after the same number of rounds; give all of them the same"
            yield f"claims: {claim.name!r}: {told}: {how}"
            return


def _different_groups(claim: StudyClaim, trials: Sequence[Trial], kind: MetricKind) -> Iterator[str]:
    """That the arms of a claim on kinds differ in their groups, or in the group whose kind the metric is of, at the
    first point where they do."""
    if kind.drift_neutral is None and not kind.of_named_group:
        return
    named: dict[str, dict[tuple[str, ...], str]] = {}
    largest: dict[str, dict[str, str]] = {}
    for trial in trials:
        if trial.arm in claim.contrast:
            names = trial.experiment.groups.names
            named.setdefault(repr(trial.cell), {}).setdefault(names, trial.arm)
            first = bias.advantaged_kind(names, initial_shares(trial.experiment))
            largest.setdefault(repr(trial.cell), {}).setdefault(first, trial.arm)
    for cell, found in named.items():
        if len(found) > 1:
            told = "; ".join(f"arm {arm} has {', '.join(names)}" for names, arm in found.items())
            yield f"claims: {claim.name!r}: {told}: shares of kinds are compared between equal groups only"
            return
        if kind.of_named_group and len(largest[cell]) > 1:
            told = ", ".join(f"in arm {arm} {group}" for group, arm in largest[cell].items())
            yield (
                f"claims: {claim.name!r}: metric = {claim.metric!r} is of the kind of the group that is largest in "
                f"round 1, {told}: different kinds are not compared; name one kind: metric = {kind.of_named_group!r} "
                "with a group"
            )
            return
