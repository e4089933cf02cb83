"""Every random stream of a run, derived by SHA-256 from (run seed, purpose, round, ids).

Engine seeds, Python's ``hash()`` and global generators are never used, so that a retry, a restart, another pool
size or other chunks change no result.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Part = str | int


def derive_seed(run_seed: int, purpose: str, *parts: Part) -> int:
    """A 63-bit seed for one purpose.

    The parts are length-prefixed, so ``("a", "bc")`` and ``("ab", "c")`` differ.
    """
    digest = hashlib.sha256()
    for part in (run_seed, purpose, *parts):
        data = str(part).encode()
        digest.update(f"{type(part).__name__[0]}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def generator(run_seed: int, purpose: str, *parts: Part) -> np.random.Generator:
    """A NumPy generator for one purpose."""
    return np.random.Generator(np.random.PCG64(derive_seed(run_seed, purpose, *parts)))


def uniforms(run_seed: int, purpose: str, round_: int, ids: list[str]) -> NDArray[np.float64]:
    """One uniform in [0, 1) per id, shape (len(ids),); the number of an id does not depend on the other ids."""
    scale = 2.0**-53
    return np.array([(derive_seed(run_seed, purpose, round_, i) >> 10) * scale for i in ids], dtype=np.float64)
