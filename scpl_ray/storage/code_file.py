"""``code.json``: the user's code with which the rounds of a run were made, one entry per change of it.

The text of a source stands once, in the last entry that has it, and those of older sources are left out where the file
would be larger than one that is read. Names and checksums are always kept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from scpl_ray.storage.manifests import MOST_BYTES
from scpl_ray.storage.phase import as_json

logger = logging.getLogger(__name__)


def encoded(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """The content of the file.

    Args:
        entries: from the oldest to the newest, each with ``from_round``, ``code`` and ``files``, as
            :func:`scpl_ray.own.sources.kept` returns these.
    """
    seen: set[str] = set()
    kept: list[dict[str, Any]] = []
    for entry in reversed(entries):
        files = {}
        for name, file in entry["files"].items():
            files[name] = _without_text(file) if file["sha256"] in seen else dict(file)
            if file.get("text"):
                seen.add(file["sha256"])
        kept.insert(0, {**entry, "files": files})
    data, left_out = as_json(kept), 0
    for entry in kept:
        if len(data) <= MOST_BYTES:
            break
        left_out += sum(bool(file.get("text")) for file in entry["files"].values())
        entry["files"] = {name: _without_text(file) for name, file in entry["files"].items()}
        data = as_json(kept)
    if left_out:
        logger.warning(
            "code.json would be larger than %d MiB: it keeps the SHA-256 of all sources, and not the text of %d of the "
            "oldest",
            MOST_BYTES >> 20,
            left_out,
        )
    return data


def decoded(text: str) -> list[dict[str, Any]]:
    """The entries of the file; a source whose text was kept once has it in each of them.

    Raises:
        ValueError, RecursionError, TypeError, KeyError, AttributeError: the content is another one.
    """
    found: list[dict[str, Any]] = [
        {"from_round": int(e["from_round"]), "code": dict(e["code"]), "files": dict(e["files"])}
        for e in json.loads(text)
    ]
    texts = {file["sha256"]: file["text"] for e in found for file in e["files"].values() if file.get("text")}
    for file in (file for e in found for file in e["files"].values() if file["sha256"] in texts):
        file["text"] = texts[file["sha256"]]
    return found


def _without_text(file: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in file.items() if key != "text"}
