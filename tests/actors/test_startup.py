"""How processes of our own start."""

import gc

import pytest
import ray

from actors import startup


def test_only_searches_of_all_objects_become_rarer(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(gc, "set_threshold", lambda *thresholds: asked.append(thresholds))
    startup.imports_stay()
    assert asked == [(*gc.get_threshold()[:2], startup.FULL_SEARCHES)]


def test_a_callers_process_is_left_alone() -> None:
    before = gc.get_threshold()
    import actors  # noqa: F401

    assert not startup.is_worker() and gc.get_threshold() == before


@pytest.mark.engines
def test_a_process_of_ray_that_imports_the_actors_searches_all_objects_seldom(ray_local) -> None:
    @ray.remote(num_cpus=0.1)
    def thresholds() -> tuple[bool, int]:
        import actors.startup

        return actors.startup.is_worker(), gc.get_threshold()[2]

    assert ray.get(thresholds.remote(), timeout=60) == (True, startup.FULL_SEARCHES)
