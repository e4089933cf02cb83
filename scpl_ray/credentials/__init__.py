"""Credentials: configs that contain them are refused, and they are masked in all text written for people.

A credential belongs in the environment of the processes that need it (``HF_TOKEN``, ``WANDB_API_KEY``, ...).
"""

from scpl_ray.credentials.files import MaskedLog, MaskedPipe, copy_masked
from scpl_ray.credentials.patterns import MASK, held_by, mask, masked

__all__ = ["MASK", "MaskedLog", "MaskedPipe", "copy_masked", "held_by", "mask", "masked"]
