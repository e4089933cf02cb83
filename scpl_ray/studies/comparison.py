"""One loop beside one control: the smallest study, which asks whether the loop amplifies preference bias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scpl_ray.config import Experiment, loading
from scpl_ray.config.errors import ConfigError
from scpl_ray.config.presets import preset_overrides
from scpl_ray.studies.study import DEFAULTS, Study, StudyClaim

LOOP = "loop"
"""The arm that runs the config as it was given."""
CONTROLS: dict[str, dict[str, Any]] = {
    "static": {"feedback.rule": "static"},
    "retraining": {"loop.kind": "retraining"},
}
"""Controls by name, with the key in which they differ from the loop: users who do not move, and training that starts
from the base model in every round."""
NOT_COMPARED = {"name", "seed", "preset", "placement", "store", "tracking"}
"""What makes no difference to what a loop does: its preset is there in the keys that it sets."""
METRIC = "total_variation_balanced"
"""What the claim is about: how far the shares of kinds are from equal ones on neutral prompts, on a scale that chance
alone does not move (:mod:`scpl_ray.studies.preference`)."""


def comparison(
    experiment: Experiment,
    against: str,
    *,
    base: str = DEFAULTS,
    own: Mapping[str, Any] | None = None,
    seeds: int = 6,
    simulated: bool = False,
) -> Study:
    """A study of two arms, :data:`LOOP` and its control, with one claim.

    One claim is a family of its own, so 6 seeds are enough for a verdict; the other metrics are described.

    Args:
        experiment: the config with its overrides, as it would run.
        against: a name in :data:`CONTROLS`, or ``KEY=VALUE``.
        base: built-in config or YAML file that the experiment came from.
        own: values by dotted key that were laid on top of it.
        seeds: number of seeds per arm, from the experiment's own seed on.
        simulated: in the analytic mode instead of with a language model.

    Raises:
        ConfigError: ``against`` is neither, or what it changes cannot be compared.
    """
    if against in CONTROLS:
        control, keys = against, CONTROLS[against]
    elif "=" in against:
        key, value = loading.parse_override(against)
        control, keys = "control", {key: value}
    else:
        raise ConfigError(f"--against {against}: give {', '.join(CONTROLS)}, or KEY=VALUE")
    keys = {**_without_preset(experiment, keys), **keys}
    values = loading.overlay(experiment.model_dump(mode="json"), keys)
    other = loading.build(values, f"--against {against}")
    if other.loop.rounds != experiment.loop.rounds:
        raise ConfigError(
            f"--against {against}: the config has loop.rounds={experiment.loop.rounds}, and both are compared after "
            "the same number of rounds; give loop.rounds as a key of both"
        )
    if other.model_dump(exclude=NOT_COMPARED) == experiment.model_dump(exclude=NOT_COMPARED):
        raise ConfigError(
            f"--against {against}: the control would do what the config does itself: there is nothing to compare; "
            + _way_out(experiment, against)
        )
    claim = StudyClaim(
        name=f"preference bias ends further from equal shares than under {against}",
        question="does it amplify?",
        metric=METRIC,
        contrast={LOOP: 1.0, control: -1.0},
    )
    return Study(
        name=f"compare-{experiment.name}",
        title=f"{experiment.name}: the loop beside {against}",
        mode="analytic" if simulated else "engines",
        base=base,
        set=dict(own or {}),
        seeds=seeds,
        arms={LOOP: {}, control: keys},
        claims=(claim,),
    )


def _without_preset(experiment: Experiment, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the experiment's preset in its place, where one of these keys would contradict it."""
    sets = preset_overrides(experiment.preset) if experiment.preset is not None else {}
    changed = any(sets.get(key, value) != value for key, value in keys.items())
    return {"preset": None, **sets} if changed else {}


def _way_out(experiment: Experiment, against: str) -> str:
    """What to do where the control is the loop itself."""
    if against == "static":
        return "change the config to let users react (feedback.rule=retention), or compare it with another control"
    if against == "retraining":
        change = "loop.kind=incremental" if experiment.preset is None else "preset=null loop.kind=incremental"
        return f"change the config to go on from the last policy ({change}), or compare it with another control"
    key = loading.parse_override(against)[0]
    if key != "preset" and key.split(".")[0] in NOT_COMPARED:
        return f"{key} makes no difference to a loop; give another key"
    return f"the config has {against}; give another value"
