"""What trials of one study would do alike is done once: a trial takes over the phase of another one.

Arms of a study differ in few keys, and the same seed gives them the same random numbers. Until their users have reacted
for the first time, all arms that differ in the reaction do the same; the reward models of arms whose users move alike
are the same in every round. A phase is a function of the files that it reads and of the config, so two trials in which
both are equal have the same phase, and the second one copies the files of the first.

What a phase does *not* read is listed here; every other key counts, so that a new key is safe until it is listed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scpl_ray.config import Experiment
from scpl_ray.config.schema import MODEL_TERM
from scpl_ray.feedback.population import initial_shares
from scpl_ray.records import Manifest
from scpl_ray.report.seconds import TAKEN_FROM
from scpl_ray.selection.strategies import steers
from scpl_ray.storage import inside, manifests, upgrades
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.files import sha256, write_atomically
from scpl_ray.storage.retention import heavy
from scpl_ray.storage.run_directory import PHASES, Store
from scpl_ray.tasks import TASKS
from scpl_ray.training.objectives import OBJECTIVES

logger = logging.getLogger(__name__)

BY_NO_CODE = ("name", "analytic", "placement", "tracking", "generation.replicas", "reward.replicas")
"""Keys that change no bit of any phase, whatever a task of the user's own was built from, which may read the others."""
NOWHERE = (*BY_NO_CODE, "feedback", "loop.rounds")
"""Keys that change no bit of what a phase between the queries and the feedback writes."""
BEFORE_SELECTION = (*NOWHERE, "queries", "cycle", "training", "loop")
"""Keys that no phase before the first selection of a round reads. Selection is read where it steers how many
completions are drawn; what users choose, and so the reward model, it never steers."""
INDEX = "phases"
"""Folder of a study in which is noted where phases lie, until all trials are finished."""
MOST_BYTES = 2**16
"""Largest note of where a phase lies."""
KEPT_BYTES = 16 * 2**20
"""Largest reward model or policy of which a copy is kept beside the note, for trials that come when its own trial has
deleted it (``store.keep``); a larger one is made again."""


def unread(phase: str, round_: int, experiment: Experiment) -> tuple[str, ...]:
    """The keys and sections that neither a phase nor the task reads."""
    if TASKS[experiment.task.name].own:
        return BY_NO_CODE
    if phase == "reward_model":
        return (*BEFORE_SELECTION, "selection")
    if phase in ("completions", "scores") or (phase == "evaluation" and round_ == 0):
        return BEFORE_SELECTION if steers(experiment.selection) else (*BEFORE_SELECTION, "selection")
    match phase:
        case "selection" | "evaluation":
            return (*NOWHERE, "cycle", "loop")
        case "weights":
            # In round 1 both kinds of loop start from the base model, but whole weights that are trained in bfloat16
            # are kept in float32 beside it where the next round goes on from them.
            alike = experiment.model.lora is not None or experiment.model.dtype == "float32"
            return (*NOWHERE, "cycle", "loop") if round_ == 1 and alike else (*NOWHERE, "cycle")
        case _:
            return (*NOWHERE, "loop")


def followed(phase: str, experiment: Experiment) -> dict[str, Any]:
    """What a phase reads that follows from keys which are :func:`unread` otherwise, by name."""
    if phase == "evaluation":
        return {"initial shares": initial_shares(experiment).tolist()}
    if phase == "completions" and steers(experiment.selection):
        return {"fewest samples": OBJECTIVES[experiment.training.objective].fewest_samples}
    return {}


def files_read(phase: str, round_: int) -> Iterator[tuple[int, str, str]]:
    """Round, phase and name of the files that a phase reads; a name is the beginning of a file's path.

    What is read only through one of these files is left out: a phase of this round stands for all that it read.
    """
    yield 0, "base", "base.json"
    yield 0, "base", "inputs.json"
    yield 0, "base", "judge.json"
    policy = (round_ - 1, "weights", "")
    match phase:
        case "reward_model":
            yield round_, "queries", "shares"
        case "completions":
            yield round_, "queries", "queries"
            yield policy
            yield round_ - 1, "evaluation", "metrics"
        case "scores":
            yield round_, "queries", "queries"
            yield round_, "completions", ""
            yield round_, "reward_model", ""
        case "selection":
            yield round_, "queries", "queries"
            yield round_, "completions", ""
            yield round_, "scores", ""
        case "dataset":
            yield from ((t, "selection", "") for t in range(1, round_ + 1))
        case "weights":
            yield round_, "dataset", ""
            yield policy
        case "evaluation" if round_ > 0:
            yield round_, "queries", ""
            yield 0, "evaluation", ""
            yield from ((round_, before, "") for before in ("completions", "scores", "selection", "dataset", "weights"))


SHARED = ("reward_model", "completions", "scores", "selection", "dataset", "weights", "evaluation")
"""The phases that are taken over. Queries and feedback hold the state of the users and cost nothing."""


class SharingStore(Store):
    """The run directory of a trial, which takes over what other trials of its study have done."""

    _experiment: Experiment | None = None
    _study: Path
    _index: Path

    def share(self, study: Path, experiment: Experiment) -> None:
        """Take phases over from the other trials of a study from now on, and offer them this one's.

        Args:
            study: the folder of the study, below which lie its trials.
            experiment: the config of this trial.
        """
        self._study, self._index, self._experiment = study, study / INDEX, experiment
        self._begun: set[tuple[int, str]] = set()
        self._taking = threading.RLock()
        self._index.mkdir(exist_ok=True)

    def manifest(self, round_: int, phase: str) -> Manifest | None:
        """The manifest of a phase, which is taken over first if another trial has done the same.

        A phase that is not there when it is asked for will be done by this trial and is not taken over any more.
        """
        found = super().manifest(round_, phase)
        if found is not None or self._experiment is None or phase not in SHARED:
            return found
        with self._taking:
            for earlier in PHASES[: PHASES.index(phase) + 1]:
                there = super().manifest(round_, earlier) is not None or not self._has(earlier, round_)
                if not there and not self._take(round_, earlier):
                    break
            found = super().manifest(round_, phase)
            if found is None:
                self._begun.add((round_, phase))
        return found

    def publish(self, folder: Path) -> None:
        """Note where a phase lies that other trials may take over."""
        super().publish(folder)
        round_, phase = int(folder.parent.name), folder.name
        if self._experiment is None or phase not in SHARED:
            return
        manifest = super().manifest(round_, phase)
        key = self._key(round_, phase)
        if manifest is None or key is None or TAKEN_FROM in manifest.facts:
            return
        self._keep(manifest, key)
        note = {"run": str(self.root.relative_to(self._study)), "round": round_}
        write_atomically(self._index / f"{key}.json", json.dumps(note).encode())

    def _keep(self, manifest: Manifest, key: str) -> None:
        """Keep what this trial will delete before the next arms come: reward models, and policies of round 1.

        Later policies are those of one arm, as a rule.
        """
        assert self._experiment is not None
        wanted = manifest.phase == "reward_model" or manifest.round == 1
        names = sorted(heavy(manifest)) if wanted and self._experiment.store.keep != "all" else []
        if sum(manifest.files[name]["bytes"] for name in names) <= KEPT_BYTES:
            for name in names:
                (self._index / key / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder(manifest.round, manifest.phase) / name, self._index / key / name)

    def _has(self, phase: str, round_: int) -> bool:
        """Whether this run has such a phase in this round."""
        assert self._experiment is not None
        if round_ == 0:
            return phase in ("base", "evaluation")
        reward = self._experiment.reward
        return phase != "base" and (phase != "reward_model" or bool(reward.terms.get(MODEL_TERM) and not reward.model))

    def _take(self, round_: int, phase: str) -> bool:
        """Take one phase over; returns whether it is there now."""
        if phase not in SHARED or (round_, phase) in self._begun:
            return False
        key = self._key(round_, phase)
        donor = None if key is None else self._noted(key)
        if key is None or donor is None:
            return False
        source = self._study / donor["run"] / manifests.phase_folder(donor["round"], phase)
        try:
            done = manifests.read(self._study / donor["run"], donor["round"], phase)
            if done is None or donor["round"] != round_:
                return False
            with self.phase(round_, phase) as work:
                for name, expected in done.files.items():
                    (work.path / name).parent.mkdir(parents=True, exist_ok=True)
                    file = (self._index / key if name in done.deleted else source) / name
                    shutil.copyfile(file, work.path / name, follow_symlinks=False)
                    if sha256(work.path / name) != expected["sha256"]:
                        raise OSError(f"{file}: was changed after it was written (SHA-256 differs)")
                work.facts |= {**done.facts, TAKEN_FROM: donor["run"]}
        except (OSError, StoreError) as error:
            logger.warning("round %d %s of %s cannot be taken over: %s", round_, phase, donor["run"], error)
            return False
        logger.info("round %d %s: as in %s, taken over", round_, phase, donor["run"])
        return True

    def _noted(self, key: str) -> dict[str, Any] | None:
        try:
            note = json.loads(inside.read_below(self._index, f"{key}.json", MOST_BYTES))
        except (OSError, ValueError):
            return None
        own = isinstance(note, dict) and isinstance(note.get("run"), str) and isinstance(note.get("round"), int)
        return note if own and ".." not in Path(note["run"]).parts else None

    def _key(self, round_: int, phase: str) -> str | None:
        """What a phase is a function of, as a name; ``None``: it is never taken over, or cannot be yet."""
        assert self._experiment is not None
        if phase == "weights" and self._experiment.training.callback is not None:
            return None  # it is the user's wish to be told of every step, also for what it does beside the weights
        read = {}
        for t, before, name in files_read(phase, round_):
            if t < 0 or (t == 0 and before not in ("base", "evaluation")) or not self._has(before, t):
                continue
            there = super().manifest(t, before)
            if there is None:
                return None
            read[f"{t} {before}"] = {
                file: facts["sha256"]
                for file, facts in there.files.items()
                if file.startswith(name) and file != "population.json"
            }
        config = _without(self._experiment, unread(phase, round_, self._experiment))
        versions = upgrades.of(self)[-1].versions
        facts = {"phase": phase, "round": round_, "read": read, "config": config, "versions": versions}
        facts |= followed(phase, self._experiment)
        if own := self.code:
            facts["code"] = {name: file["sha256"] for name, file in own[-1]["files"].items()}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _without(experiment: Experiment, keys: Sequence[str]) -> Mapping[str, Any]:
    """The values of a config without these keys."""
    values = experiment.model_dump(mode="json")
    for key in keys:
        *above, last = key.split(".")
        inner: Any = values
        for part in above:
            inner = inner.get(part, {})
        inner.pop(last, None)
    return values
