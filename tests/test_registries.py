import pytest

from scpl_ray.config import Experiment, loading
from scpl_ray.registries import CHOICES


@pytest.mark.parametrize("key", CHOICES)
def test_init_says_what_every_name_means(key: str) -> None:
    """The names stand directly above their key; a missing registry entry or a lost comment turns this red."""
    lines = loading.commented(Experiment(), CHOICES).splitlines()
    name = key.rpartition(".")[2]
    for choice, meaning in CHOICES[key].items():
        line = next(i for i, text in enumerate(lines) if text.strip() == f"#   {choice}: {meaning}")
        following = next(text for text in lines[line:] if not text.strip().startswith("#"))
        assert following.strip().startswith(f"{name}:")
