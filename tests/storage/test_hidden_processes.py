"""A lock whose holder is a process of another user, where /proc shows only a user's own (``hidepid``)."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from scpl_ray.storage.object_store.lease import Holder

HIDDEN = 2**22 + 1
"""No process has this id."""


@pytest.mark.parametrize("shown", [PermissionError, FileNotFoundError], ids=["hidepid=1", "hidepid=2"])
@pytest.mark.parametrize(
    ("answer", "ended"), [(PermissionError, False), (None, False), (ProcessLookupError, True)], ids=str
)
def test_a_hidden_process_has_ended_only_if_there_is_none(
    monkeypatch: pytest.MonkeyPatch, shown: type[OSError], answer: type[OSError] | None, ended: bool
) -> None:
    read = Path.read_text

    def read_text(path: Path, *arguments: Any, **options: Any) -> str:
        if path == Path(f"/proc/{HIDDEN}/stat"):
            raise shown
        return read(path, *arguments, **options)

    def kill(process: int, signal: int) -> None:
        assert (process, signal) == (HIDDEN, 0)
        if answer is not None:
            raise answer

    me = Holder.this()
    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "kill", kill)
    assert dataclasses.replace(me, process=HIDDEN, started=1.0).has_ended(me) == ended
