"""Where a run comes from: the command line that began it, and the commit of this project."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shlex
import subprocess
import sys
from pathlib import Path

import scpl_ray
from scpl_ray.credentials import masked
from scpl_ray.storage.run_facts import COMMAND, COMMIT

ROOT = Path(scpl_ray.__file__).absolute().parents[1]
"""Folder of the packages: a checkout, or where they are installed."""
GIT_SECONDS = 10.0
"""Longest wait for git, in seconds."""


def began() -> dict[str, str]:
    """What ``run.json`` keeps of the beginning of a run: the commit, and the command where this process is one.

    A notebook or a script that calls :func:`scpl_ray.run` has arguments of its own, which say nothing of the run.
    """
    program = Path(sys.argv[0])
    ours = program.stem == "scpl" or ROOT / "jobs" in program.absolute().parents
    found = {COMMAND: masked(shlex.join([program.name, *sys.argv[1:]]))} if ours else {}
    if (at := commit()) is not None:
        found[COMMIT] = at
    return found


def commit(root: Path = ROOT) -> str | None:
    """The commit of this project, with a note where its files differ from it; ``None`` where it is not known.

    Args:
        root: folder of the packages.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is not None and Path(top) == root.resolve():
        head, changed = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
        return None if head is None else head + (" with changes" if changed else "")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        # https://packaging.python.org/en/latest/specifications/direct-url/
        text = importlib.metadata.distribution("scpl_ray").read_text("direct_url.json")
        at = json.loads(text).get("vcs_info", {}).get("commit_id") if text else None
        return str(at) if at else None
    return None


def _git(root: Path, *words: str) -> str | None:
    """What git says of a folder; ``None`` where there is no git, or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
