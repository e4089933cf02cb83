"""Where a run comes from: the command line that began it, the commit of this project, and the packages it ran under."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import scpl_ray
from jobs.driver import own_code
from scpl_ray.config import Experiment
from scpl_ray.credentials import masked
from scpl_ray.storage import run_facts, upgrades
from scpl_ray.storage.run_directory import Store
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


def keep_versions(store: Store, experiment: Experiment, now: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Note the packages under which a run goes on, and say which are others than those it ran under last.

    Raises:
        StoreError: what was noted cannot be read.
    """
    before = upgrades.of(store)[-1].versions
    other = upgrades.changed(before, now)
    finished = run_facts.is_summed_up(store.root, None if store.checkpoints else experiment.loop.rounds)
    if not before or not other or finished:
        return
    from_round = own_code.unfinished_round(store, experiment)
    upgrades.note(store, from_round, now)
    say(f"package versions changed since this run last ran: {other}; from round {from_round} on they may give others")


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
