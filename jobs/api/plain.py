"""Values of a notebook as the values of a YAML file: plain numbers, lists and texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import yaml

from scpl_ray.config.loading import Dumper


def plain(value: object) -> Any:
    """A value without NumPy numbers, arrays, paths and tuples; mappings and lists are copied."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value) if isinstance(value, PurePath) else value


def dumped(value: object, *, flow: bool = False) -> str:
    """A value as YAML without aliases; ``flow``: on one line."""
    text: str = yaml.dump(
        plain(value),
        Dumper=Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=flow,
        width=1 << 20 if flow else 80,
    )
    return text.removesuffix("...\n").strip() if flow else text
