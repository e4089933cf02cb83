"""Loop set-ups based on the paper: names for combinations of keys."""

from __future__ import annotations

from scpl_ray.config.errors import nearest

PRESETS: dict[str, dict[str, str | float]] = {
    "retraining": {
        "loop.kind": "retraining",
        "queries.prompts": "fresh",
        "cycle.kind": "replace",
        "cycle.real_share": 0.0,
    },
    "retraining-reused-prompts": {
        "loop.kind": "retraining",
        "queries.prompts": "reused",
        "cycle.kind": "replace",
        "cycle.real_share": 0.0,
    },
    "retraining-accumulate": {
        "loop.kind": "retraining",
        "queries.prompts": "fresh",
        "cycle.kind": "accumulate",
        "cycle.real_share": 0.0,
    },
    "retraining-real": {
        "loop.kind": "retraining",
        "queries.prompts": "fresh",
        "cycle.kind": "replace",
        "cycle.real_share": 0.5,
    },
    "incremental": {
        "loop.kind": "incremental",
        "queries.prompts": "fresh",
        "cycle.kind": "replace",
        "cycle.real_share": 0.0,
    },
    "incremental-reused-prompts": {
        "loop.kind": "incremental",
        "queries.prompts": "reused",
        "cycle.kind": "replace",
        "cycle.real_share": 0.0,
    },
    "incremental-real": {
        "loop.kind": "incremental",
        "queries.prompts": "fresh",
        "cycle.kind": "replace",
        "cycle.real_share": 0.5,
    },
}
"""Set-ups based on the paper (Wang et al., ACL 2026): config keys and values per name.

The two loop kinds, new ("dynamic") or repeated prompts, newest or all data, and real data come from the paper; the
combinations, the names and the share of one half are our choice.
"""


def preset_overrides(name: str) -> dict[str, str | float]:
    """The config keys that a preset sets, as dotted names and values.

    Raises:
        ValueError: an unknown preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: {name!r} is unknown; choose one of {', '.join(PRESETS)}{nearest(name, PRESETS)}")
    return dict(PRESETS[name])
