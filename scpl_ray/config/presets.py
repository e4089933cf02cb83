"""Loop set-ups based on the paper: names for combinations of keys."""

from __future__ import annotations

from scpl_ray.config.errors import nearest

Keys = dict[str, str | float]


def _keys(kind: str, *, prompts: str = "fresh", cycle: str = "replace", real_share: float = 0.0) -> Keys:
    return {"loop.kind": kind, "queries.prompts": prompts, "cycle.kind": cycle, "cycle.real_share": real_share}


PRESETS: dict[str, Keys] = {
    "retraining": _keys("retraining"),
    "retraining-reused-prompts": _keys("retraining", prompts="reused"),
    "retraining-accumulate": _keys("retraining", cycle="accumulate"),
    "retraining-real": _keys("retraining", real_share=0.5),
    "incremental": _keys("incremental"),
    "incremental-reused-prompts": _keys("incremental", prompts="reused"),
    "incremental-real": _keys("incremental", real_share=0.5),
}
"""Set-ups based on the paper (Wang et al., ACL 2026): config keys and values per name.

The two loop kinds, new ("dynamic") or repeated prompts, newest or all data, and real data come from the paper; the
combinations, the names and the share of one half are our choice.
"""


def preset_overrides(name: str) -> Keys:
    """The config keys that a preset sets, as dotted names and values.

    Raises:
        ValueError: an unknown preset.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: {name!r} is unknown; choose one of {', '.join(PRESETS)}{nearest(name, PRESETS)}")
    return dict(PRESETS[name])
