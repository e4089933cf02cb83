"""Which files of a run are deleted when nothing needs them any more (``store.keep``).

Merged weights, the float32 weights beside them and fitted reward models are nearly all bytes of a run. Once a round is
complete, its reward model is never read again, and the policy before it neither: the next round is drawn from, starts
from and is compared with this round's policy and the base model alone, and reports read records. Adapters are small and
stay, and so do the manifests with the sizes and the SHA-256 of what was deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from scpl_ray.config import Experiment
from scpl_ray.records import Manifest, Weights
from scpl_ray.storage import manifests, redoing
from scpl_ray.storage.errors import StoreError
from scpl_ray.storage.run_directory import PHASES, Reader, Store

logger = logging.getLogger(__name__)

WHOLE_MODELS = ("model", "master")
"""Folders of the phase ``weights`` that hold all weights of a policy: the merged or trained model, and float32 ones."""


def tidy(store: Store, experiment: Experiment, round_: int) -> None:
    """Delete what nothing needs any more now that a round is complete; nothing happens where that was done before.

    Raises:
        StoreError: a file cannot be deleted.
    """
    if experiment.store.keep == "all":
        return
    ended = experiment.store.keep == "none" and round_ >= experiment.loop.rounds
    for version in range(max(1, round_ - 1), round_ + ended):
        _delete(store, version, "weights")
    if round_:
        _delete(store, round_, "reward_model")


def check_start(reader: Reader, before: Experiment, after: Experiment) -> None:
    """Check that no model that the next phase needs was deleted.

    Args:
        reader: the run.
        before: the config with which it ran.
        after: the config with which it is to go on.

    Raises:
        StoreError: one was.
    """
    committed = [(manifest.round, manifest.phase) for manifest in reader.committed()]
    if not committed:
        return
    round_, phase = committed[-1]
    # round 0 has two phases only, and the users' reaction needs no model
    rest = [later for later in PHASES[PHASES.index(phase) + 1 : -1] if round_ or later == "evaluation"]
    round_, phase = (round_, rest[0]) if rest else (round_ + 1, "queries")
    if round_ > after.loop.rounds or (model := redoing.lost(reader.root, round_, phase, after)) is None:
        return
    if round_ > before.loop.rounds:
        raise StoreError(
            f"{reader.name}: loop.rounds = {after.loop.rounds}: round {round_} starts from the {model}, whose weights "
            f"were deleted when the run was finished (store.keep = {before.store.keep}); start a new run with as many "
            "rounds, or with store.keep=last to be able to extend it"
        )
    raise StoreError(
        f"{reader.name}: {manifests.phase_folder(round_, phase)} and what followed are missing and cannot be done "
        f"again, because the {model} was deleted when nothing needed it any more (store.keep = {before.store.keep}); "
        "restore them, or begin a new run"
    )


def policy_left(reader: Reader, experiment: Experiment, base: Path, version: int) -> Weights:
    """A policy version in the form that stays: its adapter and the base model, or the whole model where it is trained.

    Raises:
        StoreError: its weights are not there any more.
    """
    weights = reader.policy(experiment, base, version)
    if weights.adapter is not None:
        # merged weights are deleted first; all versions are read in one form, so that only policies differ
        weights = Weights(version, base, weights.adapter)
    folder = weights.adapter or weights.model
    if version and not any(folder.glob("*.safetensors")):
        manifest = reader.manifest(version, "weights")
        if manifest is not None and manifest.deleted:
            raise StoreError(
                f"{reader.name}: the weights of round {version} were deleted when nothing needed them any more "
                f"(store.keep = {experiment.store.keep}); runs whose earlier policies are to be used keep theirs with "
                "store.keep=all"
            )
        raise StoreError(f"{folder}: is not there; a run that was fetched from an object store has no weights")
    return weights


def keeping_all(experiment: Experiment) -> Experiment:
    """The same experiment, with ``store.keep = all``: for those who look at the weights of earlier rounds."""
    return experiment.model_copy(update={"store": experiment.store.model_copy(update={"keep": "all"})})


def _delete(store: Store, round_: int, phase: str) -> None:
    manifest = store.manifest(round_, phase)
    if manifest is None or not (names := set(heavy(manifest))):
        return
    if not names <= set(manifest.deleted):
        size = sum(manifest.files[name]["bytes"] for name in names)
        logger.info("round %d %s: %d files, %.3f GB are deleted", round_, phase, len(names), size / 1e9)
    store.delete(manifest, names)


def heavy(manifest: Manifest) -> Iterator[str]:
    """The files of a phase that need not stay."""
    for name in manifest.files:
        if manifest.phase == "reward_model" or name.split("/")[0] in WHOLE_MODELS:
            yield name
