"""The errors that a run directory can raise, whether it is local or in an object store."""

from __future__ import annotations


class StoreError(RuntimeError):
    """The run directory cannot be used; the message says why and what the user can do."""


class InUseError(StoreError):
    """Another process holds the run directory."""
