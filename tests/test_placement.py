import pytest

from actors.placement import PlacementError, Resources, layout
from scpl_ray import configfile


def experiment(*overrides: str):
    return configfile.load(None, ["generation.engine=transformers", *overrides])


def test_the_quick_start_fits_one_core() -> None:
    placed = layout(experiment(), Resources(1, 0))
    assert sum(role.count * role.cpus for role in placed.roles) <= 1
    assert placed.worker.threads == 1


def test_two_of_each_fit_two_cores_and_engines_keep_one_thread() -> None:
    placed = layout(experiment("generation.replicas=2", "training.workers=2"), Resources(2, 0))
    assert sum(role.count * role.cpus for role in placed.roles) <= 2
    assert (placed.engine.threads, placed.worker.threads) == (1, 1)
    assert layout(experiment(), Resources(8, 0)).worker.threads == 8


def test_too_many_processes_name_the_key_to_lower() -> None:
    with pytest.raises(PlacementError, match=r"generation.replicas=9 x 0.4.*lower generation.replicas to 3"):
        layout(experiment("generation.replicas=9"), Resources(2, 0))
    with pytest.raises(PlacementError, match=r"but there are 2; lower training.workers to 3"):
        layout(experiment("training.workers=64"), Resources(2, 0))


def test_one_gpu_is_shared_and_many_are_not() -> None:
    shared = layout(experiment(), Resources(16, 1))
    assert [role.gpus for role in shared.roles] == pytest.approx([0.3, 0.1, 0.6])
    own = layout(experiment("generation.replicas=4", "training.workers=3"), Resources(64, 8))
    assert [role.gpus for role in own.roles] == [1, 1, 1]
    with pytest.raises(PlacementError, match="GPUs are asked for"):
        layout(experiment("training.workers=2"), Resources(16, 1))
