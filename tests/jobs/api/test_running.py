"""Runs and studies from Python that cannot begin leave nothing behind."""

from pathlib import Path

import pytest
import ray

import scpl_ray as scpl
from jobs.driver import run
from tests.support.loops import small

BEGUN = "connected to a Ray already.* call ray\\.shutdown\\(\\) first"


def test_a_process_that_is_connected_to_a_ray_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match=BEGUN):
        scpl.run(small("loop.rounds=1"), run_dir="r")
    with pytest.raises(ValueError, match=BEGUN):
        scpl.sweep({"name": "s", "seeds": 2, "arms": {"a": {}, "b": {}}}, study_dir="s")
    with pytest.raises(ValueError, match=BEGUN), run.connected(tmp_path / "logs"):
        pass
    assert list(tmp_path.iterdir()) == []
    content = {"name": "s", "mode": "analytic", "seeds": 2, "set": {"loop.rounds": 1}, "arms": {"a": {}}}
    assert scpl.sweep(content, study_dir="s").arms == ["a"], "without a language model no Ray is needed"
