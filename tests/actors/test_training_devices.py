"""Which GPU a training worker and DeepSpeed take: Ray's context, CUDA and the worker are stand-ins."""

import os
import sys
import types
from pathlib import Path

import pytest

from actors import training


class _ReachedWorkerError(Exception):
    pass


@pytest.mark.parametrize(("on_gpus", "taken"), [(True, "4"), (False, "2")])
def test_deepspeed_takes_the_gpu_that_ray_gave_the_worker(
    on_gpus: bool, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker with GPU 2 of twelve is third, and its GPU the fifth of ``0,1,10,11,2,...``."""
    found = []

    def worker(*_: object, **__: object) -> None:
        found.append(os.environ["LOCAL_RANK"])
        raise _ReachedWorkerError

    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr("ray.train.get_context", lambda: types.SimpleNamespace(get_world_rank=lambda: 2))
    monkeypatch.setattr("torch.cuda.is_available", lambda: on_gpus)
    monkeypatch.setattr("torch.cuda.current_device", lambda: 4)
    for changed in ("addHandler", "setLevel"):
        monkeypatch.setattr(f"logging.Logger.{changed}", lambda *_: None)
    monkeypatch.setitem(sys.modules, "scpl_ray.training.worker", types.SimpleNamespace(Worker=worker))
    with pytest.raises(_ReachedWorkerError):
        training.serve({"folder": str(tmp_path), "name": "train", "training": None, "model": None, "threads": 1})
    assert found == [taken]
