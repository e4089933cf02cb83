"""The proof that all engines hold the same new weights: by the bytes that they read, and by what they answer.

Checksums say that every engine read the same files, on whatever node, and not those that it read before. The probe
prompt says what came of it. Where engines repeat their answers to the bit, one that differs is an error. On GPUs the
kernels for adapters differ from themselves by as much as two engines may, so there a miss is asked again and reported;
what decides is ``sampling_logp_difference``, which is measured over many texts in every evaluation
(:mod:`scpl_ray.evaluation.likelihoods`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from actors.engines.base import Probe
from scpl_ray.records import Weights
from scpl_ray.storage.files import sha256

logger = logging.getLogger(__name__)

READ = ("*.safetensors", "adapter_config.json")
"""The files of a folder that say what the weights are."""


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """What an engine says after it has loaded weights."""

    checksum: str
    """Of the files that it read; empty: none of them is known."""
    probe: Probe
    max_sequences: int
    """Most completions that it writes at the same time."""


class Checksums:
    """Checksums of the weights that an engine reads; that of a base model under adapters is kept."""

    def __init__(self) -> None:
        self._base: tuple[Path, str] | None = None

    def of(self, weights: Weights, *, adapter: bool) -> str:
        """SHA-256 over the names and contents of all files that make the weights what they are.

        Args:
            weights: their folders.
            adapter: whether adapters are served, on top of a base model that is read once.
        """
        if not adapter:
            return folder_checksum(weights.model)
        if self._base is None or self._base[0] != weights.model:
            self._base = (weights.model, folder_checksum(weights.model))
        if weights.adapter is None:
            return self._base[1]
        return f"{self._base[1]}+{folder_checksum(weights.adapter)}"


def folder_checksum(folder: Path) -> str:
    """SHA-256 over the names and contents of the weights in a folder; empty if there are none."""
    files = sorted(path for pattern in READ for path in folder.glob(pattern))
    if not files:
        return ""
    return hashlib.sha256("".join(f"{path.name} {sha256(path)}\n" for path in files).encode()).hexdigest()


def check(
    loaded: Sequence[Loaded],
    weights: Weights,
    before: tuple[Weights, Loaded] | None,
    *,
    tolerance: float,
    ask: Callable[[int], Probe],
) -> None:
    """Check what all engines say after they have loaded the same weights.

    Args:
        loaded: what each of them says.
        weights: what they were to load.
        before: what they had loaded before, and what engine 0 said then; ``None``: nothing.
        tolerance: largest difference of log-probabilities, in nats, between answers that agree; 0: answers are
            repeated to the bit.
        ask: asks an engine, by its index, for its answer to the probe prompt again.

    Raises:
        RuntimeError: they loaded different weights, or those that they had.
    """
    first = loaded[0]
    for index, one in enumerate(loaded):
        if one.checksum != first.checksum:
            raise RuntimeError(
                f"engines 0 and {index} read different weights from {weights}: their checksums are "
                f"{first.checksum[:16]} and {one.checksum[:16]}; what is at this path differs between their nodes: "
                "remove copies there, or use a disk that all nodes share"
            )
    logger.info(
        "policy version %d: %d engines read weights with checksum %s",
        weights.policy_version,
        len(loaded),
        first.checksum[:16],
    )
    for index, one in enumerate(loaded):
        if one.probe.agrees(first.probe, tolerance):
            continue
        answers = f"engines 0 and {index} disagree after loading {weights}: to the probe prompt one answers "
        if not tolerance:
            raise RuntimeError(f"{answers}{first.probe}, the other {one.probe}")
        again = ask(0), ask(index)
        if not again[1].agrees(again[0], tolerance):
            logger.warning("%s%s, the other %s, asked twice; their checksums are equal", answers, *again)
    if before is None or before[0].policy_version == weights.policy_version:
        return
    versions = f"policy versions {before[0].policy_version} and {weights.policy_version}"
    if first.checksum and first.checksum == before[1].checksum:
        raise RuntimeError(f"{versions} are the same bytes: the new weights in {weights} are the old ones")
    if first.probe == before[1].probe:
        alike = f"{versions} answer the probe prompt alike, {first.probe}"
        if not tolerance:
            raise RuntimeError(f"{alike}: the new weights in {weights} are the old ones, or were not loaded")
        if ask(0) == before[1].probe:
            logger.warning("%s, asked twice; the files of %s are new", alike, weights)
