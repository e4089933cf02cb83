import pytest

from scpl_ray.analytic import loop
from scpl_ray.analytic import selection as analytic_selection
from scpl_ray.config import Experiment, loading
from scpl_ray.registries import CHOICES
from scpl_ray.selection import cycles, strategies


@pytest.mark.parametrize("key", CHOICES)
def test_init_says_what_every_name_means(key: str) -> None:
    """The names stand directly above their key; a missing registry entry or a lost comment turns this red."""
    lines = loading.commented(Experiment(), CHOICES).splitlines()
    name = key.rpartition(".")[2]
    for choice, meaning in CHOICES[key].items():
        line = next(i for i, text in enumerate(lines) if text.strip() == f"#   {choice}: {meaning}")
        following = next(text for text in lines[line:] if not text.strip().startswith("#"))
        assert following.strip().startswith(f"{name}:")


def test_the_analytic_mode_knows_every_data_cycle_and_strategy() -> None:
    assert loop.CYCLES.keys() == cycles.CYCLES.keys()
    assert analytic_selection.STRATEGIES.keys() == strategies.STRATEGIES.keys()
