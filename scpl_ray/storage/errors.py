"""What can be wrong with a run directory, wherever it is."""

from __future__ import annotations


class StoreError(RuntimeError):
    """The run directory cannot be used; the message says why and what to do."""


class InUseError(StoreError):
    """Another process holds the run directory."""
