"""Keys that are given for one time, beside those that the arms and axes of a study set themselves."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from scpl_ray.config import loading
from scpl_ray.config.errors import ConfigError, shown

logger = logging.getLogger(__name__)


def check(
    study: str,
    keys: Mapping[str, Any],
    common: Mapping[str, Any],
    arms: Mapping[str, Mapping[str, Any]],
    axes: Mapping[str, Sequence[Any]],
) -> None:
    """Warn of given keys that some arms set too: these keep their own value.

    Args:
        study: what the study is called in messages.
        keys: the given keys.
        common: all keys that arms have in common, these among them, by dotted name.
        arms: each arm's own keys.
        axes: values by key.

    Raises:
        ConfigError: an axis or every arm sets a given key, which would change nothing.
    """
    tree = loading.overlay({}, common)

    def kept(key: str, own: Mapping[str, Any]) -> bool:
        return _at(loading.overlay(tree, own), key) != _at(tree, key)

    for key, value in loading.dotted(keys.items()):
        told = f"{key} = {shown(value)}"
        if by := [axis for axis, values in axes.items() if any(kept(key, {axis: one}) for one in values)]:
            raise ConfigError(
                f"{told}: would change nothing: the axis {by[0]} of study {study} sets it; edit `axes` in the study "
                "file"
            )
        own = [arm for arm, above in arms.items() if kept(key, above)]
        others = [arm for arm in arms if arm not in own]
        if own and not others:
            raise ConfigError(
                f"{told}: would change nothing: every arm sets it itself ({', '.join(own)}); edit `arms` in the study "
                "file"
            )
        if own:
            logger.warning(
                "%s: is not for %s, which set it in the study file; leave such arms out with 'arms=[%s]', or edit the "
                "file",
                *(told, ", ".join(own), ", ".join(others)),
            )


def _at(tree: Any, key: str) -> tuple[Any, ...]:
    """The value of a dotted key in a tuple, which is empty where the tree has no such key."""
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return ()
        tree = tree[part]
    return (tree,)
