"""Whether phases of a run can be done again, or need models that ``store.keep`` has deleted."""

from __future__ import annotations

from pathlib import Path

from scpl_ray.config import Experiment, loading
from scpl_ray.storage import inside, manifests
from scpl_ray.storage.run_facts import CONFIG

FROM_LAST_POLICY = ("queries", "reward_model", "completions")
"""Phases after which the policy of the round before has yet to answer."""


def remedy(root: Path, round_: int, phase: str) -> str:
    """What to do where a phase that others were built on is damaged and cannot be restored.

    It is to be removed with all later ones, but only where they can be done again.
    """
    folder, data = manifests.phase_folder(round_, phase), inside.read_below(root, CONFIG, loading.MAX_BYTES)
    experiment = loading.build(loading.decode(data, CONFIG), CONFIG)
    if model := lost(root, round_, phase, experiment):
        return (
            f"begin a new run: {folder} cannot be done again, because the {model} was deleted when nothing needed it "
            f"any more (store.keep = {experiment.store.keep})"
        )
    return f"remove {folder} and every later phase to do them again"


def lost(root: Path, round_: int, phase: str, experiment: Experiment) -> str | None:
    """The deleted model without which a phase and all later ones cannot be done again; ``None``: there is none."""
    if phase == "feedback":
        round_, phase = round_ + 1, "queries"
    models = []
    if phase == "evaluation":
        models = [(round_, "weights")]
    elif phase != "base":
        if phase in FROM_LAST_POLICY or not experiment.loop.starts_from_base:
            models = [(round_ - 1, "weights")]
        if phase in ("completions", "scores"):  # the reward model is committed before the completions that it scores
            models.append((round_, "reward_model"))
    for of, kind in models:
        manifest = manifests.read(root, of, kind)
        if manifest is not None and manifest.deleted:
            return f"{'policy' if kind == 'weights' else 'reward model'} of round {of}"
    return None
